//! The cost of a lease under run affinity:
//! `cargo run --release -p paceline-route --example pick_cost`.

use std::sync::Arc;
use std::time::Instant;

use paceline_core::Clock;
use paceline_route::{Affinity, Ask, HealthConfig, Pool, Target};

const CALLS: usize = 1_000_000;

fn main() {
    println!("targets  runs     cores  ns a lease");
    for (targets, runs, cores) in
        [(4, 100, 1), (4, 100_000, 1), (64, 100, 1), (64, 100_000, 1), (4, 100, 2), (64, 100, 2)]
    {
        let target = |at| Arc::new(Target::new(format!("engine-{at}"), HealthConfig::default()));
        let targets_all = (0..targets).map(target).collect();
        let pool = Pool::new(targets_all, Box::<Affinity>::default(), Clock::real());
        let names: Vec<String> = (0..runs).map(|n| format!("job-2026-{n:08}.worker")).collect();
        let started = Instant::now();
        std::thread::scope(|scope| {
            for core in 0..cores {
                let (pool, names) = (&pool, &names);
                scope.spawn(move || {
                    for call in 0..CALLS {
                        let run = Some(names[(call * 7919 + core) % names.len()].as_str());
                        let ask = Ask { tenant: None, run, agent: None, bytes: 400_000 };
                        drop(pool.lease(&ask, 0));
                    }
                });
            }
        });
        let ns = started.elapsed().as_nanos() / CALLS as u128;
        println!("{targets:7}  {runs:7}  {cores:5}  {ns:6}");
    }
}
