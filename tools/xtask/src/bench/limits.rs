//! `cargo xtask bench limits`: the learner of hidden limits against simulated providers.
//!
//! Everything runs in virtual time and from a seed, on one thread. Each contender faces
//! the same agents with the same calls; its figures are set against an oracle that knows
//! the provider's state.

mod contenders;
mod gate;
mod measure;
mod ours;
mod provider;
mod scenario;
mod world;

use anyhow::Result;
use clap::Args;
use paceline_upstream::limits::Rules;

use contenders::{AimdInFlight, AimdRate, Backoff, Open, Oracle};
use gate::Gate;
use world::Mode;

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only scenarios whose group or name contains this.
    #[arg(long)]
    only: Option<String>,
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    #[arg(long, default_value_t = 0)]
    random: u64,
    #[arg(long, default_value_t = 0)]
    random_from: u64,
    #[arg(long)]
    ablate: Option<String>,
    #[arg(long)]
    trace: bool,
    #[arg(long)]
    all: bool,
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let rules = options.ablate.as_deref().map_or(Some(Rules::default()), Rules::without);
    let rules = rules.ok_or_else(|| anyhow::anyhow!("no such rule"))?;
    let mut scenarios = scenario::named();
    if options.random > 0 {
        scenarios = (options.random_from..options.random_from + options.random)
            .map(scenario::random)
            .collect();
    }
    let mut met = 0;
    let mut total = 0;
    for scenario in &scenarios {
        if let Some(only) = &options.only {
            if !format!("{} {}", scenario.group, scenario.name).contains(only.as_str()) {
                continue;
            }
        }
        for seed in 1..=options.seeds {
            let ideal = world::run(scenario, seed, Mode::Oracle, &mut Oracle, false);
            let mut ours = ours::Ours::new(rules);
            let outcome = world::run(scenario, seed, Mode::Gate, &mut ours, options.trace);
            for line in &outcome.trace {
                println!("{line}");
            }
            let f = measure::figures(scenario, &outcome, &ideal);
            let floor = if scenario.window_s().is_some() { 0.8 } else { 0.9 };
            let ok = f.throughput >= floor
                && f.refused <= 3.0
                && f.wait <= 1.5
                && f.failed == 0.0
                && f.halved_s.is_none_or(|s| {
                    s <= scenario.window_s().map_or(30.0, |w| f64::max(30.0, 2.0 * w))
                })
                && f.doubled_s.is_none_or(|s| {
                    s <= scenario.window_s().map_or(60.0, |w| f64::max(60.0, 2.0 * w))
                });
            total += 1;
            met += u64::from(ok);
            println!(
                "{}{:20.20} {:70.70} n {:5} thr {:.3} ref {:6.2} wait {:5.2} half {:4} dbl {:4} fail {:.1} jain {:.3} p99 {:.1} {:.1}",
                if ok { ' ' } else { '!' },
                scenario.group,
                scenario.name,
                ideal.admitted.len(),
                f.throughput,
                f.refused,
                f.wait,
                f.halved_s.map_or("-".into(), |s| format!("{s:.0}")),
                f.doubled_s.map_or("-".into(), |s| format!("{s:.0}")),
                f.failed,
                f.jain,
                measure::p99(&outcome.waits),
                measure::p99(&ideal.waits)
            );
            if options.all {
                let mut others: Vec<(&str, Mode, Box<dyn Gate>)> = vec![
                    ("sdk", Mode::Sdk, Box::new(Open)),
                    ("aimd in flight", Mode::Gate, Box::<AimdInFlight>::default()),
                    ("aimd rate", Mode::Gate, Box::<AimdRate>::default()),
                    ("backoff", Mode::Gate, Box::<Backoff>::default()),
                ];
                for (name, mode, gate) in &mut others {
                    let outcome = world::run(scenario, seed, *mode, gate.as_mut(), false);
                    let f = measure::figures(scenario, &outcome, &ideal);
                    println!(
                        "    {name:60} thr {:.3} ref {:6.2} wait {:5.2} fail {:.1}",
                        f.throughput, f.refused, f.wait, f.failed
                    );
                }
            }
        }
    }
    println!("met {met} of {total}");
    Ok(())
}
