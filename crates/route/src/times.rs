//! How long a target takes to begin its answers: a histogram that forgets.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Times to the first byte of the last thousand answers or so, shared by all cores.
///
/// Buckets grow by a quarter of an octave (19 %) from 1 ms to 70 min, so a quantile is
/// right within 10 %. Half of what it knows is forgotten each time that 1024 came.
#[derive(Debug)]
pub struct Times {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU32,
}

/// Quarters of an octave in 22 octaves.
const BUCKETS: usize = 88;
/// The octave below which all times are one: 2^20 ns, about 1 ms.
const OCTAVE_FIRST: u32 = 20;
const COUNT_MAX: u32 = 2048;

/// Answers of which a quantile says something.
const COUNT_MIN: u32 = 50;

impl Default for Times {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU32::new(0)), count: AtomicU32::new(0) }
    }
}

impl Times {
    /// Notes an answer.
    pub fn record(&self, time: Duration) {
        self.buckets[bucket(time)].fetch_add(1, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) >= COUNT_MAX {
            let mut left = 0;
            for bucket in &self.buckets {
                // What another core counts in this moment is lost, which does not matter.
                let half = bucket.load(Ordering::Relaxed) / 2;
                bucket.store(half, Ordering::Relaxed);
                left += half;
            }
            self.count.store(left, Ordering::Relaxed);
        }
    }

    /// The time below which the share `quantile` (0 to 1) of the answers began; `None` when
    /// fewer than 50 are known.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        if self.count.load(Ordering::Relaxed) < COUNT_MIN {
            return None;
        }
        let counts: [u32; BUCKETS] =
            std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        let wanted = quantile.clamp(0.0, 1.0) * f64::from(counts.iter().sum::<u32>());
        let mut below = 0;
        let at = counts.iter().position(|count| {
            below += count;
            f64::from(below) >= wanted.max(1.0)
        });
        at.map(middle)
    }
}

fn bucket(time: Duration) -> usize {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    let octave = ns.ilog2();
    if octave < OCTAVE_FIRST {
        return 0;
    }
    let quarter = (ns >> (octave - 2)) & 0b11;
    let at = u64::from(octave - OCTAVE_FIRST) * 4 + quarter;
    usize::try_from(at).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The middle of a bucket.
fn middle(at: usize) -> Duration {
    let (octave, quarter) = (OCTAVE_FIRST as usize + at / 4, at as u64 % 4);
    Duration::from_nanos((1 << octave) + (2 * quarter + 1) * (1 << (octave - 3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_tenth_or_so() {
        let times = Times::default();
        for ms in 1..=1000u64 {
            assert_eq!(times.quantile(0.5).is_some(), ms > 50, "{ms}");
            times.record(Duration::from_millis(ms));
        }
        for (quantile, ms) in [(0.05, 50.0), (0.5, 500.0), (0.95, 950.0)] {
            let found = times.quantile(quantile).unwrap().as_secs_f64() * 1e3;
            assert!((found / ms - 1.0).abs() < 0.13, "p{quantile}: {found} instead of {ms}");
        }
        for extreme in [Duration::ZERO, Duration::MAX] {
            times.record(extreme);
        }
    }

    #[test]
    fn what_was_is_forgotten() {
        let times = Times::default();
        let median = |ms: u64, answers: u32| {
            (0..answers).for_each(|_| times.record(Duration::from_millis(ms)));
            times.quantile(0.5).unwrap().as_millis()
        };
        assert!(median(2000, 10_000) > 1700);
        assert!(median(100, 3000) < 130);
    }
}
