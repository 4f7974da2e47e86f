//! A run stays with its home while that bears no more than its share of load.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::policy::{Policy, RouteKey, bits};
use crate::target::Target;

/// How far a target's load may exceed the mean before its runs go elsewhere.
const LOAD_FACTOR: f64 = 1.25;

/// Run affinity with bounded load, for pools of engines with a prefix cache.
///
/// A run's home is the target with the highest hash of run and target name (rendezvous
/// hashing: a target that joins or leaves moves only the runs that it wins or held). When
/// home has more than `LOAD_FACTOR` times the mean of calls under way, the call goes to
/// the less loaded of the run's second and third choice, which stay the same for a run, so
/// that its prefix is found there again. The bound is rounded up, as in consistent hashing
/// with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).
#[derive(Clone, Copy, Debug, Default)]
pub struct Affinity;

impl Policy for Affinity {
    fn pick(&self, key: RouteKey<'_>, targets: &[Arc<Target>], usable: u64) -> Option<usize> {
        let mut best: [Option<(u64, usize)>; 3] = [None; 3];
        let (mut total, mut count) = (0u64, 0u64);
        for at in bits(usable) {
            let target = &targets[at];
            total += u64::from(target.outstanding());
            count += 1;
            let mut candidate = Some((xxh3_64_with_seed(key.run.as_bytes(), target.seed()), at));
            for slot in &mut best {
                if candidate > *slot {
                    std::mem::swap(slot, &mut candidate);
                }
            }
        }
        let [home, second, third] = best.map(|slot| slot.map(|(_, at)| at));
        let home = home?;
        let load = |at: usize| u64::from(targets[at].outstanding());
        let bound = (LOAD_FACTOR * (total + 1) as f64 / count as f64).ceil();
        if (load(home) + 1) as f64 <= bound {
            return Some(home);
        }
        let other = match (second, third) {
            (Some(second), Some(third)) if load(third) < load(second) => third,
            (Some(second), _) => second,
            _ => home,
        };
        Some(if load(other) < load(home) { other } else { home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::targets;

    fn pick(run: &str, loads: &[u32], usable: u64) -> Option<usize> {
        Affinity.pick(RouteKey { run, random: 0 }, &targets(loads), usable)
    }

    #[test]
    fn a_run_keeps_its_home_until_it_is_overloaded() {
        let home = pick("run-1", &[0, 0, 0, 0], 0b1111).unwrap();
        let mut loads = [2; 4];
        assert_eq!(pick("run-1", &loads, 0b1111), Some(home));
        // Bound at mean 3: ceil(1.25 · 13 / 4) = 5.
        loads[home] = 6;
        let other = pick("run-1", &loads, 0b1111).unwrap();
        assert_ne!(other, home);
        loads[home] = 2;
        assert_eq!(pick("run-1", &loads, 0b1111), Some(home), "it comes back");
        assert_eq!(pick("run-1", &[0; 4], 0), None);
    }

    proptest::proptest! {
        /// Nobody is given more than the bound while someone is below it, and a target that
        /// leaves moves only its own runs.
        #[test]
        fn load_is_bounded_and_moves_are_few(
            run in "[a-z]{1,12}",
            loads in proptest::collection::vec(0u32..40, 1..8),
            gone in 0usize..8,
        ) {
            let all = (1u64 << loads.len()) - 1;
            let chosen = pick(&run, &loads, all).unwrap();
            let total: u32 = loads.iter().sum();
            let bound = (LOAD_FACTOR * f64::from(total + 1) / loads.len() as f64).ceil();
            let home = pick(&run, &vec![0; loads.len()], all).unwrap();
            if chosen != home {
                proptest::prop_assert!(f64::from(loads[home] + 1) > bound);
                proptest::prop_assert!(loads[chosen] < loads[home]);
            } else if loads.len() == 2 {
                let other = 1 - home;
                proptest::prop_assert!(f64::from(loads[home] + 1) <= bound || loads[other] >= loads[home]);
            }
            if gone < loads.len() && gone != home && loads.len() > 1 {
                let idle = vec![0; loads.len()];
                proptest::prop_assert_eq!(pick(&run, &idle, all & !(1 << gone)), Some(home));
            }
        }
    }
}
