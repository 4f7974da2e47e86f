//! `cargo xtask bench limits`: the learner of hidden limits against simulated providers.
//!
//! Without `--sockets`, everything runs in virtual time and from a seed, on one thread. Each contender faces
//! the same agents with the same calls; its figures are set against an oracle that knows
//! the provider's state.

mod contenders;
mod gate;
mod measure;
mod ours;
mod provider;
mod report;
mod scenario;
mod sockets;
#[cfg(test)]
mod tests;
mod world;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use paceline_upstream::limits::Rules;

use contenders::{AimdInFlight, AimdRate, Backoff, Open, Oracle};
use gate::Gate;
use measure::Figures;
use ours::Ours;
use report::{Ablated, Report, Row, Share};
use scenario::Scenario;
use world::Mode;

/// The contenders, ours first, as the report names them.
const CONTENDERS: [&str; 5] =
    ["paceline", "SDK, 2 retries", "AIMD in flight", "AIMD on rate", "headers, else backoff"];

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only scenarios whose group and name contain this.
    #[arg(long)]
    only: Option<String>,
    /// Seeds of each named scenario.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Random scenarios.
    #[arg(long, default_value_t = 120)]
    random: u64,
    /// The first random scenario.
    #[arg(long, default_value_t = 5000)]
    random_from: u64,
    /// Also without this rule of the learner; "all" for each in turn.
    #[arg(long, value_name = "RULE")]
    ablate: Option<String>,
    /// Only Paceline and the oracle.
    #[arg(long)]
    alone: bool,
    /// Writes the figures there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What the learner believes, second by second, in one scenario of one seed.
    #[arg(long, requires = "only")]
    trace: bool,
    #[command(flatten)]
    sockets: sockets::Options,
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    if options.sockets.is_asked_for() {
        return sockets::bench(&options.sockets, options.only.as_deref(), options.json.as_deref());
    }
    let selected = |scenario: &Scenario| {
        let name = format!("{}: {}", scenario.group, scenario.name);
        options.only.as_deref().is_none_or(|only| name.contains(only))
    };
    let named: Vec<Scenario> = scenario::named().into_iter().filter(selected).collect();
    let random = options.random_from..options.random_from + options.random;
    let random: Vec<Scenario> = random.map(scenario::random).filter(selected).collect();
    if options.trace {
        return trace(named.first().or(random.first()).context("no such scenario")?);
    }
    if let Some(rule) = &options.ablate {
        return ablate(rule, &named, &random, options);
    }
    let contenders = if options.alone { 1 } else { CONTENDERS.len() };
    let progress = Progress::new(named.len() + random.len());
    let mut report = Report::new(options.seeds, options.random_from);
    for scenario in &named {
        progress.show(report.named.len(), &scenario.name);
        report.named.push(row(scenario, options.seeds, contenders, Rules::default()));
    }
    for scenario in &random {
        progress.show(named.len() + report.random.len(), &scenario.name);
        report.random.push(row(scenario, 1, contenders, Rules::default()));
    }
    progress.clear();
    report.print();
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    Ok(())
}

/// The figures of all contenders in one scenario, means over the seeds.
fn row(scenario: &Scenario, seeds: u64, contenders: usize, rules: Rules) -> Row {
    let mut sums = vec![Vec::new(); contenders];
    for seed in 1..=seeds {
        let ideal = world::run(scenario, seed, Mode::Oracle, &mut Oracle, false);
        for (at, sum) in sums.iter_mut().enumerate() {
            let (mode, mut gate) = contender(at, rules);
            let outcome = world::run(scenario, seed, mode, gate.as_mut(), false);
            sum.push(measure::figures(scenario, &outcome, &ideal));
        }
    }
    Row::new(scenario, sums.iter().map(|figures| Figures::mean(figures)).collect())
}

fn contender(at: usize, rules: Rules) -> (Mode, Box<dyn Gate>) {
    match at {
        0 => (Mode::Gate, Box::new(Ours::new(rules))),
        1 => (Mode::Sdk, Box::<Open>::default()),
        2 => (Mode::Gate, Box::<AimdInFlight>::default()),
        3 => (Mode::Gate, Box::<AimdRate>::default()),
        _ => (Mode::Gate, Box::<Backoff>::default()),
    }
}

/// The learner with all rules, and without one.
fn ablate(rule: &str, named: &[Scenario], random: &[Scenario], options: &Options) -> Result<()> {
    let names: Vec<&str> =
        if rule == "all" { Rules::NAMES.to_vec() } else { rule.split(',').collect() };
    let mut variants = vec![("(none)", Rules::default())];
    for name in names {
        let Some(rules) = Rules::without(name) else {
            bail!("no rule {name:?}; there are {}", Rules::NAMES.join(", "));
        };
        variants.push((name, rules));
    }
    let progress = Progress::new(variants.len());
    let mut found = Vec::new();
    for (name, rules) in variants {
        progress.show(found.len(), name);
        let rows = |scenarios: &[Scenario], seeds| -> Vec<Row> {
            scenarios.iter().map(|scenario| row(scenario, seeds, 1, rules)).collect()
        };
        let named = rows(named, options.seeds);
        found.push(Ablated {
            without: name.to_owned(),
            named: Share::of(&named, 0, false),
            blurred: Share::of(&named, 0, true),
            random: Share::of(&rows(random, 1), 0, false),
        });
    }
    progress.clear();
    report::print_ablation(&found);
    if let Some(path) = &options.json {
        report::write_json(path, &found)?;
    }
    Ok(())
}

fn trace(scenario: &Scenario) -> Result<()> {
    let mut gate = Ours::new(Rules::default());
    for line in world::run(scenario, 1, Mode::Gate, &mut gate, true).trace {
        println!("{line}");
    }
    Ok(())
}

/// One line on the terminal that says how far it is.
struct Progress {
    total: usize,
    is_shown: bool,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { total, is_shown: std::io::stderr().is_terminal() }
    }

    fn show(&self, done: usize, what: &str) {
        if self.is_shown {
            eprint!("\r\x1b[K{} of {}: {what:.60}", done + 1, self.total);
        }
    }

    fn clear(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}
