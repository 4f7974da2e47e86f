//! `paceline demo`: the same fleet with and without Paceline, on real traces.

mod overhead;
mod synthetic;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use paceline_load::report::compare::{Arm as ArmReports, Comparison};
use paceline_load::report::table::table;
use paceline_load::text::Style;
use paceline_load::{Config as ReplayConfig, Fit, Meta, Trace};

use crate::cli::DemoArgs;
use crate::commands::replay::{bar, kv_tokens, look, progress, write_page};
use crate::commands::{Failure, Result, load, say};
use crate::config::resolve;
use crate::fleet::{Arm, Fleet};

/// The traces travel in the binary, so that the demo runs anywhere.
const AGENT_SESSIONS: (&str, &[u8]) = (
    "claude_code_slice.jsonl.gz",
    include_bytes!("../../../../bench/traces/claude_code_slice.jsonl.gz"),
);
const CHAT_SERVICE: (&str, &[u8]) =
    ("mooncake_slice.jsonl.gz", include_bytes!("../../../../bench/traces/mooncake_slice.jsonl.gz"));

/// The demo starts no further seed after this much time, so that it ends within two
/// minutes on two cores whatever the configuration makes of it.
const TIME_MAX: Duration = Duration::from_secs(80);

/// One workload of the demo.
struct Workload {
    title: &'static str,
    trace: Trace,
    config: ReplayConfig,
}

pub(crate) fn run(args: &DemoArgs) -> Result {
    let start = Instant::now();
    let loaded = load(args.source.config.as_deref())?;
    let resolved = resolve(&loaded.raw, &loaded.environment)
        .map_err(|faults| Failure::config(&loaded.text, &faults))?;
    paceline_telemetry::log::init("warn");
    if !(1..=64).contains(&args.replicas) {
        return Err(Failure::Usage("error: --replicas: give 1 to 64".into()));
    }
    let gateway = Arc::new(resolved);
    let fleet = Fleet { replicas: args.replicas, sim: gateway.sim.clone(), gateway };
    let mut err = std::io::stderr().lock();
    writeln!(
        err,
        "The same calls three ways to {} SIMULATED replicas ({}): each agent at a fixed replica, \
         round robin,\nand through Paceline. The traces are real, the engines are simulated, the \
         clock is virtual.\n",
        fleet.replicas, fleet.sim.shape
    )?;
    drop(err);
    let tokens = kv_tokens(&fleet.sim)?;
    let mut comparisons = Vec::new();
    for workload in workloads(fleet.replicas)? {
        comparisons.push(compare(&fleet, workload, tokens, args, start)?);
    }
    let overhead = overhead::measure(&fleet.gateway)?;
    if args.json {
        let comparisons = comparisons.iter().map(|c| serde_json::from_str(&c.to_json()));
        let comparisons = comparisons.collect::<serde_json::Result<Vec<serde_json::Value>>>()?;
        let all = serde_json::json!({"comparisons": comparisons, "overhead": overhead});
        say(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    } else {
        say(&format!("{}\n{overhead}\n", table(&comparisons, look())))?;
    }
    let lead = "The same fleet of agents on the same simulated engines: each agent at a fixed \
                replica, round robin as a Kubernetes Service does it, and through Paceline.";
    write_page(&args.report, "What Paceline brings", lead, &comparisons)?;
    eprintln!("done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Loads grow with the replicas: four of them are well used, not swamped.
fn workloads(replicas: u32) -> anyhow::Result<Vec<Workload>> {
    let share = f64::from(replicas) / 4.0;
    let read =
        |(name, bytes): (&str, &[u8])| Trace::parse(name, bytes).map_err(anyhow::Error::from);
    Ok(vec![
        Workload {
            title: "Coding agents (Claude Code sessions, closed loop)",
            trace: read(AGENT_SESSIONS)?,
            config: ReplayConfig {
                active: ((24.0 * share).round() as usize).max(1),
                ..ReplayConfig::default()
            },
        },
        Workload {
            title: "Chat service (Mooncake, open arrivals)",
            trace: read(CHAT_SERVICE)?,
            config: ReplayConfig { rate: share, calls_max: Some(1500), ..ReplayConfig::default() },
        },
        Workload {
            title: "Repeated sub-calls (SYNTHETIC: made to show the answer cache and single flight)",
            trace: synthetic::repeated_calls(),
            config: ReplayConfig {
                rate: share,
                style: Style { temperature: Some(0.0), ..Style::default() },
                ..ReplayConfig::default()
            },
        },
    ])
}

fn compare(
    fleet: &Fleet,
    workload: Workload,
    replica_tokens: u64,
    args: &DemoArgs,
    start: Instant,
) -> anyhow::Result<Comparison> {
    let Workload { title, mut trace, config } = workload;
    let left_out = trace.fit(&Fit { replica_tokens: Some(replica_tokens), ..Fit::default() });
    let trace = Arc::new(trace);
    let arms = [Arm::Fixed, Arm::RoundRobin, Arm::Paceline];
    let mut reports = arms.map(|_| Vec::new());
    let bar = bar(title.split(" (").next().unwrap_or(title));
    for seed in 1..=args.seeds.max(1) {
        // All arms of a seed or none, since they are compared in pairs.
        if seed > 1 && start.elapsed() > TIME_MAX {
            eprintln!("{title}: stopped after {} seeds to stay within two minutes", seed - 1);
            break;
        }
        for (arm, reports) in arms.into_iter().zip(&mut reports) {
            let meta = Meta {
                arm: arm.to_string(),
                command: format!(
                    "paceline demo --seeds {} --replicas {}",
                    args.seeds, args.replicas
                ),
                facts: vec![
                    ("Engine".to_owned(), format!("simulated, {}", fleet.sim.shape)),
                    ("Replicas".to_owned(), fleet.replicas.to_string()),
                ],
                simulated: true,
                left_out,
            };
            let config = ReplayConfig { seed, ..config.clone() };
            let outcome =
                fleet.replay(arm, Arc::clone(&trace), config, meta, Some(progress(&bar)))?;
            reports.push(outcome.report);
        }
    }
    bar.finish_and_clear();
    let arms = arms.into_iter().zip(reports).map(|(arm, reports)| ArmReports {
        name: arm.to_string(),
        baseline: arm != Arm::Paceline,
        reports,
    });
    Comparison::new(title, arms.collect()).context("the arms did not do the same work")
}
