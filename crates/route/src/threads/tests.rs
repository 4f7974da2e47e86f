use super::*;
use crate::target::tests::targets;

fn at(slot: u64) -> Instant {
    Instant::from_nanos(slot * 1_000_000_000)
}

fn table(threads_max: usize) -> Threads {
    Threads::new(Duration::from_secs(1), threads_max)
}

/// Threads all over the shards.
fn thread(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn entries(threads: &Threads) -> usize {
    threads.shards.iter().map(lock).map(|s| s.young.len() + s.old.len()).sum()
}

fn claimed(targets: &[Arc<Target>]) -> u64 {
    targets.iter().map(|t| t.claimed_bytes()).sum()
}

#[test]
fn the_table_is_bounded_and_keeps_who_calls() {
    let (threads, targets) = (table(640), targets(&[0, 0]));
    for n in 0..100_000 {
        threads.settle(thread(n), 1, at(0), &targets, |_, _| Some(1));
        // One thread calls again and again.
        threads.settle(thread(0), 1, at(0), &targets, |home, _| {
            assert_eq!(home.is_some(), n > 0 || home.is_some());
            assert!(home.is_none_or(|home| home.at == 1));
            Some(1)
        });
        assert!(entries(&threads) <= 640 || n % 1000 != 0);
    }
    threads.settle(thread(0), 1, at(0), &targets, |home, _| home.map(|home| home.at)).unwrap();
    // What was forgotten for lack of space is claimed until its slot expires.
    threads.settle(thread(0), 1, at(9), &targets, |_, _| Some(0));
    assert_eq!(claimed(&targets), 1);
}

#[test]
fn homes_are_forgotten_after_two_generations() {
    let (threads, targets) = (table(1000), targets(&[0; 3]));
    let known = |now| {
        let mut known = None;
        threads.settle(thread(3), 7, now, &targets, |home, _| {
            known = home;
            None
        });
        known
    };
    threads.settle(thread(3), 7, at(1), &targets, |_, _| Some(2));
    assert_eq!(known(at(2)), Some(Home { at: 2, bytes: 7, claimed: 7 }));
    assert_eq!(known(at(6)), Some(Home { at: 2, bytes: 7, claimed: 7 }));
    assert_eq!(known(at(7)), Some(Home { at: 2, bytes: 7, claimed: 0 }));
    assert_eq!(claimed(&targets), 0);
    assert_eq!(known(at(40)).map(|home| home.at), Some(2));
    assert_eq!(known(at(64)), None);
    assert_eq!(entries(&threads), 0);
    // The clock of another core may be a little behind.
    threads.settle(thread(3), 7, at(63), &targets, |_, _| Some(2));
    assert_eq!(claimed(&targets), 7);
}

#[test]
fn nothing_drifts_under_concurrent_use() {
    let (threads, targets) = (table(200), targets(&[0; 4]));
    std::thread::scope(|scope| {
        for core in 0..4u64 {
            let (threads, targets) = (&threads, &targets);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(core);
                for step in 0..20_000 {
                    let to = random.usize(..4);
                    let (n, bytes) = (random.u64(..300), random.u64(..1000));
                    let now = at(step / 50);
                    threads.settle(thread(n), bytes, now, targets, |home, _| {
                        Some(home.filter(|_| to < 3).map_or(to, |home| home.at))
                    });
                }
            });
        }
    });
    threads.settle(thread(0), 9, at(1000), &targets, |_, _| Some(0));
    let claims: Vec<_> = targets.iter().map(|t| t.claimed_bytes()).collect();
    assert_eq!(claims, [9, 0, 0, 0]);
}
