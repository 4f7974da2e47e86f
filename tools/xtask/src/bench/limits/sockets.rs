//! `cargo xtask bench limits --sockets`: the whole gateway before a provider with a limit,
//! beside what fleets do without it, in real time and over real sockets.
//!
//! Each contender has a fleet and a simulated provider of its own, all freshly started and
//! alike: the same agents with the same calls, the same limit. The contenders of a scenario
//! run at the same time. What was refused is the provider's own count, what failed is what
//! the agents saw behind the SDK's retries.

mod figures;
mod report;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use testkit::{Litellm, Model, Paceline, Process, Running, clients, http, tools};

use super::super::build_paceline;
use super::super::measure::cpu;
use super::super::report::{Origin, first_line, hardware};
use super::measure::rounded;
use crate::install;
use crate::phases::{Phases, output};
use figures::{Counted, Figures, calls};
use report::{Contender, Cores, Report, Row};

/// Options of the benchmark.
#[derive(Debug, Args)]
#[group(id = "over_sockets")]
pub(crate) struct Options {
    /// Over sockets and in real time: fleets with the SDK's retries, with LiteLLM's proxy, and
    /// with Paceline, each before a provider of its own. About 13 minutes.
    #[arg(long, conflicts_with_all = ["seeds", "random", "random_from", "ablate", "alone", "trace"])]
    sockets: bool,
    /// Seconds that count, of each contender in each scenario; with --sockets.
    #[arg(long, default_value_t = 180, requires = "sockets")]
    seconds: u32,
    /// Seconds before those, which do not count; with --sockets.
    #[arg(long, default_value_t = 60, requires = "sockets")]
    warm_up: u32,
}

impl Options {
    pub(super) fn is_asked_for(&self) -> bool {
        self.sockets
    }
}

/// A provider's limit.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// As `paceline sim --limit` has it.
    limit: &'static str,
    /// What it lets through in a second.
    rate: f64,
    unit: Unit,
    /// The period of its windows.
    window_s: Option<f64>,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Calls,
    Tokens,
}

/// All let pass five calls a second, of which each charges 400 tokens in the mean.
const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "hidden bucket of requests",
        limit: "requests=300/m:burst=10:silent",
        rate: 5.0,
        unit: Unit::Calls,
        window_s: None,
    },
    Scenario {
        name: "bucket of tokens",
        limit: "tokens=120000/m:burst=12000",
        rate: 2000.0,
        unit: Unit::Tokens,
        window_s: None,
    },
    Scenario {
        name: "window of requests",
        limit: "requests=300/m:window",
        rate: 5.0,
        unit: Unit::Calls,
        window_s: Some(60.0),
    },
];

/// Three times what the limits let through: an answer takes 0.7 s in the mean, so that each
/// agent makes a call in 3.3 s.
const AGENTS: usize = 50;
const THINK_S: f64 = 2.6;

/// The provider's time to the first token, and for each: its defaults.
const FIRST_TOKEN_S: f64 = 0.2;
const TOKEN_S: f64 = 0.01;

/// The key of all fleets.
const KEY: &str = "sk-fleet";

/// The fleets' imports take seconds on a busy machine.
const FLEET_READY: Duration = Duration::from_secs(20);

/// A fleet tells its calls at once when its time is over.
const FLEET_ENDS: Duration = Duration::from_secs(60);

/// What is to be between a fleet and its provider.
#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    Litellm,
    Paceline,
}

/// What is between a fleet and its provider.
#[derive(Debug)]
enum Gateway {
    None,
    Litellm(Litellm),
    Paceline(Running),
}

/// A fleet, what it goes through, and its provider.
#[derive(Debug)]
struct Setup {
    name: &'static str,
    fleet: Process,
    gateway: Gateway,
    provider: Running,
}

/// Counts at one moment.
#[derive(Debug)]
struct Snapshot {
    answers: BTreeMap<u16, u64>,
    /// CPU time, in seconds.
    gateway_s: f64,
    fleet_s: f64,
    provider_s: f64,
}

pub(super) fn bench(options: &Options, only: Option<&str>, json: Option<&Path>) -> Result<()> {
    ensure!(options.seconds > 0, "--seconds is at least 1");
    let mut phases = Phases::new();
    install::python(&mut phases, "python")?;
    install::python(&mut phases, "litellm")?;
    let program = build_paceline(&mut phases)?;
    let selected = |scenario: &&Scenario| only.is_none_or(|only| scenario.name.contains(only));
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(selected).collect();
    ensure!(!scenarios.is_empty(), "no such scenario");
    let mut rows = Vec::new();
    for scenario in scenarios {
        phases.run(scenario.name, || {
            rows.push(row(options, scenario, &program)?);
            Ok(())
        })?;
    }
    let report = Report {
        origin: Origin::new()?,
        hardware: hardware()?,
        versions: versions()?,
        method: method(options),
        scenarios: rows,
    };
    println!("{}", report.table());
    let is_usual = only.is_none() && options.seconds == 180 && options.warm_up == 60;
    let usual = is_usual.then(|| tools::repository().join("bench/results/limits-sockets.json"));
    if let Some(path) = json.map(PathBuf::from).or(usual) {
        report.write(&path)?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// All contenders in one scenario, at the same time.
fn row(options: &Options, scenario: &Scenario, program: &Path) -> Result<Row> {
    let (warm_up, counted) = (f64::from(options.warm_up), f64::from(options.seconds));
    let contenders =
        [("SDK alone", Kind::None), ("LiteLLM", Kind::Litellm), ("Paceline", Kind::Paceline)];
    // All providers first, so that their windows begin at the same time.
    let providers = contenders.map(|contender| (contender, provider(program, scenario)));
    let providers_began = now_s();
    let servers = providers.map(|((name, kind), provider)| {
        let gateway = Gateway::start(kind, program, provider.url());
        (name, gateway, provider)
    });
    let soonest = now_s() + FLEET_READY.as_secs_f64();
    // Whole windows count, so that no contender has its best part of one twice.
    let begin = match scenario.window_s {
        Some(window_s) => at_edge(soonest + warm_up, providers_began, window_s) - warm_up,
        None => soonest,
    };
    let mut setups = servers.map(|(name, gateway, provider)| {
        let url = gateway.url().unwrap_or_else(|| provider.url().to_owned());
        Setup { name, fleet: fleet(&url, begin, warm_up + counted), gateway, provider }
    });
    let from = begin + warm_up;
    sleep_until(from);
    let snapshots = |setups: &[Setup]| setups.iter().map(Setup::snapshot).collect::<Result<_>>();
    let (before, ticks_before): (Vec<Snapshot>, _) = (snapshots(&setups)?, machine_ticks()?);
    sleep_until(from + counted);
    let (after, ticks): (Vec<Snapshot>, _) = (snapshots(&setups)?, machine_ticks()?);
    let machine_busy = rounded((ticks.0 - ticks_before.0) / (ticks.1 - ticks_before.1));
    let span = from..from + counted;
    let contenders = setups
        .iter_mut()
        .zip(before.iter().zip(&after))
        .map(|(setup, counts)| setup.contender(scenario, span.clone(), counts))
        .collect::<Result<_>>()?;
    Ok(Row {
        name: scenario.name.to_owned(),
        limit: scenario.limit.to_owned(),
        ideal_per_s: scenario.rate,
        unit: if scenario.unit == Unit::Calls { "calls" } else { "tokens" },
        warm_up_s: options.warm_up,
        counted_s: options.seconds,
        machine_busy,
        contenders,
    })
}

fn provider(program: &Path, scenario: &Scenario) -> Running {
    let sim = Paceline::of(program, "sim").arg("--provider").arg("openai");
    sim.arg("--key").arg(KEY).arg("--limit").arg(scenario.limit).start()
}

/// The fleet, which begins its calls at that time.
fn fleet(url: &str, begin_s: f64, run_s: f64) -> Process {
    let environment = [
        ("BASE_URL", url.to_owned()),
        ("KEY", KEY.to_owned()),
        ("AGENTS", AGENTS.to_string()),
        ("THINK_S", THINK_S.to_string()),
        ("START_AT", begin_s.to_string()),
        ("RUN_S", run_s.to_string()),
        ("SEED", "1".to_owned()),
    ];
    clients::start_python("fleet.py", &environment)
}

impl Gateway {
    fn start(kind: Kind, program: &Path, provider: &str) -> Self {
        match kind {
            Kind::None => Self::None,
            Kind::Litellm => {
                Self::Litellm(Litellm::start(&[Model { name: "sim", url: provider }], KEY, None))
            }
            Kind::Paceline => {
                Self::Paceline(Paceline::of(program, "serve").upstream(provider).start())
            }
        }
    }

    fn url(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Litellm(litellm) => Some(litellm.url()),
            Self::Paceline(paceline) => Some(paceline.url().to_owned()),
        }
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::None => Vec::new(),
            Self::Litellm(litellm) => vec![litellm.pid()],
            Self::Paceline(paceline) => vec![paceline.pid()],
        }
    }
}

impl Setup {
    fn snapshot(&self) -> Result<Snapshot> {
        let cpu_s = |pids: &[u32]| Ok::<f64, anyhow::Error>(cpu(pids)?.as_secs_f64());
        Ok(Snapshot {
            answers: answers(&http::get(&format!("{}/metrics", self.provider.url())).text()),
            gateway_s: cpu_s(&self.gateway.pids())?,
            fleet_s: cpu_s(&[self.fleet.pid()])?,
            provider_s: cpu_s(&[self.provider.pid()])?,
        })
    }

    /// The figures, once the fleet has ended.
    fn contender(
        &mut self,
        scenario: &Scenario,
        span: Range<f64>,
        (before, after): (&Snapshot, &Snapshot),
    ) -> Result<Contender> {
        let status = self.fleet.wait(FLEET_ENDS);
        let told = self.fleet.log();
        ensure!(status.success(), "the fleet of {} failed ({status}):\n{told}", self.name);
        let seconds = span.end - span.start;
        let counted = Counted {
            span,
            agents: AGENTS,
            tokens: scenario.unit == Unit::Tokens,
            rate: scenario.rate,
            first_token_s: FIRST_TOKEN_S,
            token_s: TOKEN_S,
        };
        let of = |answers: &BTreeMap<u16, u64>, status| answers.get(&status).copied().unwrap_or(0);
        let more = |status| of(&after.answers, status) - of(&before.answers, status);
        let cores = |after: f64, before: f64| rounded((after - before) / seconds);
        Ok(Contender {
            name: self.name,
            figures: Figures::of(&calls(&told), &counted),
            refused: more(429) + more(529),
            provider_answers: after.answers.keys().map(|status| more(*status)).sum(),
            cores: Cores {
                gateway: cores(after.gateway_s, before.gateway_s),
                fleet: cores(after.fleet_s, before.fleet_s),
                provider: cores(after.provider_s, before.provider_s),
            },
        })
    }
}

/// The provider's answers by status, from its metrics.
fn answers(text: &str) -> BTreeMap<u16, u64> {
    let read = |line: &str| {
        let rest = line.strip_prefix("paceline_sim_answers_total{status=\"")?;
        let (status, count) = rest.split_once("\"} ")?;
        Some((status.parse().ok()?, count.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

/// The first time from `soonest` on that is whole windows after `began`.
fn at_edge(soonest: f64, began: f64, window_s: f64) -> f64 {
    began + ((soonest - began) / window_s).ceil() * window_s
}

/// Busy and all ticks of all cores since the machine started.
fn ticks(text: &str) -> Option<(f64, f64)> {
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let fields: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // User, nice, system, idle, waiting for I/O, interrupts of two kinds, stolen.
    let fields = fields.get(..8)?;
    let all: f64 = fields.iter().sum();
    Some((all - fields[3] - fields[4], all))
}

fn machine_ticks() -> Result<(f64, f64)> {
    ticks(&std::fs::read_to_string("/proc/stat")?).context("/proc/stat looks different")
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn sleep_until(time_s: f64) {
    std::thread::sleep(Duration::from_secs_f64((time_s - now_s()).max(0.0)));
}

fn versions() -> Result<Vec<String>> {
    let python = output(Command::new(tools::python()).arg("--version"))?;
    Ok(vec![
        format!("{} (Python SDK)", install::pinned("python", "openai")?),
        install::pinned("litellm", "litellm")?,
        python.trim().to_owned(),
        first_line(Command::new("rustc").arg("--version"))?,
    ])
}

fn method(options: &Options) -> Vec<String> {
    vec![
        format!(
            "{AGENTS} agents in a closed loop, each in one task of one Python process: call, then think {THINK_S} s in the mean; three times what the limit lets through"
        ),
        "calls of 1,200 bytes in the mean and at most 100 tokens, the same for all contenders; answers are whole, and take 0.2 s and 0.01 s a token".to_owned(),
        "SDK alone: AsyncOpenAI with its defaults (two retries), straight to the provider".to_owned(),
        "LiteLLM: the same fleet through its proxy, one worker, no database, LITELLM_LOG=ERROR, num_retries 3, request_timeout 600".to_owned(),
        "Paceline: the same fleet through `paceline serve` with its defaults".to_owned(),
        "each contender has its own provider (`paceline sim --provider openai`) and its own fleet, all freshly started; the three of a scenario run at the same time".to_owned(),
        format!(
            "each contender: {} s that count after {} s that do not, whole windows where there are some; calls count that end in that time",
            options.seconds, options.warm_up
        ),
        "refused: the provider's own count; failed: what the agents saw after the SDK's retries; wait: from call to answer without what the provider takes for it, of answered calls".to_owned(),
        "throughput: what answered calls took of the limit, by rate times time".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_status() {
        let text = "# TYPE paceline_sim_answers_total counter\n\
                    paceline_sim_answers_total{status=\"200\"} 12\n\
                    paceline_sim_answers_total{status=\"429\"} 3\n";
        assert_eq!(answers(text), BTreeMap::from([(200, 12), (429, 3)]));
    }

    #[test]
    fn an_edge_is_whole_windows_away() {
        assert_eq!(at_edge(100.0, 30.0, 60.0), 150.0);
        assert_eq!(at_edge(150.0, 30.0, 60.0), 150.0);
    }

    #[test]
    fn waiting_is_not_busy() {
        let text = "cpu  10 0 20 50 15 1 2 2 9 0\ncpu0 1 1 1 1 1 1 1 1\n";
        assert_eq!(ticks(text), Some((35.0, 100.0)));
        assert_eq!(ticks("cpu 1 2 3\n"), None);
    }
}
