use std::collections::HashMap;

use super::*;
use crate::target::tests::{key, set_unread, targets};
use paceline_core::Instant;

fn at(s: u64) -> Instant {
    Instant::from_nanos(s * 1_000_000_000)
}

fn pick(policy: &Affinity, key: RouteKey, targets: &[Arc<Target>], usable: u64) -> usize {
    policy.pick(key, targets, usable).unwrap()
}

/// A request large enough to count.
const STEP: u64 = 65536;

/// A thread's key as it would be hashed.
fn thread(number: u64) -> Option<u64> {
    Some(mix(number + 1))
}

#[test]
fn a_thread_stays_until_the_queue_at_home_costs_more_than_a_move() {
    let (policy, targets) = (Affinity::default(), targets(&[0; 3]));
    let mut key = key(thread(7), 100);
    let home = pick(&policy, key, &targets, 0b111);
    key.bytes = 110;
    assert_eq!(pick(&policy, key, &targets, 0b111), home);
    // More to read at home than elsewhere, but no more than a move would add.
    set_unread(&targets[home], 110);
    assert_eq!(pick(&policy, key, &targets, 0b111), home);
    set_unread(&targets[home], 111);
    let other = pick(&policy, key, &targets, 0b111);
    assert_ne!(other, home);
    set_unread(&targets[home], 0);
    assert_eq!(pick(&policy, key, &targets, 0b111), other, "its home has moved");
    assert_eq!(targets[home].claimed_bytes(), 0);
    assert_eq!(targets[other].claimed_bytes(), 110);
}

#[test]
fn an_unusable_home_is_left_for_good() {
    let (policy, targets) = (Affinity::default(), targets(&[0; 4]));
    let key = key(thread(1), 50);
    let home = pick(&policy, key, &targets, 0b1111);
    let other = pick(&policy, key, &targets, 0b1111 & !(1 << home));
    assert_ne!(other, home);
    assert_eq!(pick(&policy, key, &targets, 0b1111), other);
    assert_eq!(policy.pick(key, &targets, 0), None);
}

#[test]
fn when_a_target_leaves_only_its_threads_move_and_none_comes_back() {
    let (policy, targets) = (Affinity::default(), targets(&[0; 5]));
    let place = |usable: u64| -> Vec<usize> {
        (0..200).map(|n| pick(&policy, key(thread(n), STEP), &targets, usable)).collect()
    };
    let (before, without) = (place(0b11111), place(0b11101));
    for (before, after) in before.iter().zip(&without) {
        assert!(before == after || *before == 1, "{before} → {after}");
    }
    assert_eq!(place(0b11111), without, "it has not lost what it moved for");
    let shares = without.iter().fold([0; 5], |mut shares, at| {
        shares[*at] += 1;
        shares
    });
    assert!(shares[1] == 0 && shares.iter().sum::<i32>() == 200, "{shares:?}");
    assert!(shares.iter().all(|n| *n == 0 || (30..=70).contains(n)), "{shares:?}");
}

#[test]
fn on_an_idle_fleet_the_home_follows_from_the_names() {
    // Many small threads of one fleet, each time on a fresh gateway.
    let home = |number, usable| {
        let (policy, targets) = (Affinity::default(), targets(&[0; 8]));
        for other in 0..50 {
            pick(&policy, key(thread(other), 60), &targets, 0xff);
        }
        pick(&policy, key(thread(1000 + number), 10), &targets, usable)
    };
    let mut counts = HashMap::new();
    for number in 0..800u64 {
        let first = home(number, 0xff);
        assert_eq!(home(number, 0xff & !(1 << ((first + 1) % 8))), first);
        *counts.entry(first).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| (60..140).contains(count)), "{counts:?}");
}

#[test]
fn calls_without_a_run_leave_no_trace_and_go_where_less_is_to_be_read() {
    let (policy, targets) = (Affinity::default(), targets(&[3, 0]));
    set_unread(&targets[1], 5);
    assert_eq!(pick(&policy, key(None, 10), &targets, 0b11), 0);
    set_unread(&targets[0], 5);
    assert_eq!(pick(&policy, key(None, 10), &targets, 0b11), 1, "fewer calls on a tie");
    assert_eq!(targets[0].claimed_bytes() + targets[1].claimed_bytes(), 0);
    assert_eq!(policy.pick(key(None, 10), &targets, 0), None);
}

#[test]
fn claims_weigh_only_as_far_as_threads_return() {
    let (policy, targets) = (Affinity::default(), targets(&[0; 2]));
    for number in 0..3000 {
        policy.pick(key(thread(number), STEP), &targets, 0b11);
    }
    // All threads called once: what is to be read outweighs what is claimed by far.
    let claims: Vec<_> = targets.iter().map(|t| t.claimed_bytes()).collect();
    let fuller = usize::from(claims[1] > claims[0]);
    set_unread(&targets[1 - fuller], 2 * STEP);
    assert_eq!(pick(&policy, key(thread(9999), 10), &targets, 0b11), fuller);
}

#[test]
fn claims_expire_and_the_home_outlives_them() {
    let (policy, targets) = (Affinity::default(), targets(&[0; 4]));
    let all = |now: Instant| -> Vec<usize> {
        let call = |n| RouteKey { now, ..key(thread(n), 100) };
        (0..40).map(|n| pick(&policy, call(n), &targets, 0b1111)).collect()
    };
    let claimed = || targets.iter().map(|t| t.claimed_bytes()).sum::<u64>();
    let homes = all(at(0));
    assert_eq!(claimed(), 4000);
    let other = |s| RouteKey { now: at(s), ..key(thread(99), 1) };
    pick(&policy, other(99), &targets, 0b1111);
    assert_eq!(claimed(), 4001);
    pick(&policy, other(120), &targets, 0b1111);
    assert_eq!(claimed(), 1);
    assert_eq!(all(at(300)), homes, "homes are remembered");
    pick(&policy, other(300), &targets, 0b1111);
    assert_eq!(claimed(), 4001);
    pick(&policy, RouteKey { now: at(99_999), ..key(None, 1) }, &targets, 0b1111);
    pick(&policy, other(99_999), &targets, 0b1111);
    assert_eq!(claimed(), 1);
}

proptest::proptest! {
    /// Threads that return are spread so that no target claims more than the mean, one
    /// request and one step, and a move always goes from above the bound to a target with less to read.
    #[test]
    fn load_is_bounded_and_moves_pay(
        sizes in proptest::collection::vec(1u64..1_000_000, 1..60),
        unread in proptest::collection::vec(0u64..5_000_000, 2..6),
        order in proptest::collection::vec(0usize..60, 0..100),
    ) {
        let (policy, targets) = (Affinity::default(), targets(&vec![0; unread.len()]));
        let usable = (1 << targets.len()) - 1;
        let mut homes = HashMap::new();
        let mut run = |n: usize| -> (Option<usize>, usize) {
            let call = key(thread(n as u64), sizes[n % sizes.len()]);
            let to = pick(&policy, call, &targets, usable);
            (homes.insert(n, to), to)
        };
        for n in 0..sizes.len() {
            // Most calls continue a thread, so that claims count in full.
            for _ in 0..100 {
                pick(&policy, key(thread(1000), 0), &targets, usable);
            }
            run(n);
        }
        let claims: Vec<u64> = targets.iter().map(|t| t.claimed_bytes()).collect();
        let total: u64 = sizes.iter().sum();
        proptest::prop_assert_eq!(claims.iter().sum::<u64>(), total);
        let largest = sizes.iter().max().copied().unwrap_or(0);
        let mean = total as f64 / claims.len() as f64;
        for claimed in &claims {
            proptest::prop_assert!(*claimed as f64 <= mean + (largest + STEP) as f64, "{:?}", claims);
        }
        for (target, bytes) in targets.iter().zip(&unread) {
            set_unread(target, *bytes);
        }
        for n in order.into_iter().filter(|n| *n < sizes.len()) {
            let (from, to) = run(n);
            if from != Some(to) {
                proptest::prop_assert!(unread[to] + sizes[n] < unread[from.unwrap()]);
            }
        }
        proptest::prop_assert_eq!(targets.iter().map(|t| t.claimed_bytes()).sum::<u64>(), total);
    }
}
