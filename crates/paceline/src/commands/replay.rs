//! `paceline replay`: a trace against simulated replicas, or against any server.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use paceline_core::Clock;
use paceline_load::replay::OnProgress;
use paceline_load::report::compare::{Arm as ArmReports, Comparison};
use paceline_load::report::html::{self, Page};
use paceline_load::report::table::{Look, table};
use paceline_load::text::Style;
use paceline_load::{
    Config as ReplayConfig, Cost, Fit, Meta, Outcome, Progress, Replay, Report, Trace, client,
};
use paceline_sim::Shape;

use crate::cli::ReplayArgs;
use crate::commands::{Failure, Result, load, say};
use crate::config::{Environment, resolve};
use crate::fleet::{Arm, Fleet};

/// What calls are replayed against.
enum Against {
    Fleet(Arm),
    Url(String),
}

impl Against {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "paceline" => Ok(Self::Fleet(Arm::Paceline)),
            "fixed" => Ok(Self::Fleet(Arm::Fixed)),
            "round-robin" => Ok(Self::Fleet(Arm::RoundRobin)),
            url if url.starts_with("http://") || url.starts_with("https://") => {
                Ok(Self::Url(url.to_owned()))
            }
            other => Err(Failure::Usage(format!(
                "error: --against {other}: give paceline, fixed, round-robin, or a URL"
            ))),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Fleet(arm) => arm.to_string(),
            Self::Url(url) => url.clone(),
        }
    }
}

pub(crate) fn run(args: &ReplayArgs) -> Result {
    let arms = args.against.iter().map(|text| Against::parse(text)).collect::<Result<Vec<_>>>()?;
    let positive = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        Err(Failure::Usage(format!("error: --{name} {value}: give a number above 0")))
    };
    let rate = positive("rate", args.rate)?;
    let fleet = fleet(args)?;
    let mut trace = Trace::read(&args.trace)?;
    let simulated = arms.iter().any(|arm| matches!(arm, Against::Fleet(_)));
    let replica_tokens = match args.replica_tokens {
        Some(tokens) => Some(tokens),
        None if simulated => Some(kv_tokens(&fleet.sim)?),
        None => None,
    };
    let left_out = trace.fit(&Fit { replica_tokens, ..Fit::default() });
    if trace.sessions.is_empty() {
        return Err(Failure::Usage(format!(
            "error: no session of {} fits a replica of {} tokens; raise --replica-tokens",
            args.trace.display(),
            replica_tokens.unwrap_or(0)
        )));
    }
    let trace = Arc::new(trace);
    let base = ReplayConfig {
        active: args.active.unwrap_or(ReplayConfig::default().active),
        sessions_max: args.sessions,
        calls_max: args.calls,
        rate,
        think_max: Duration::try_from_secs_f64(args.think_max)
            .map_err(|_| Failure::Usage("error: --think-max: give seconds, 0 or more".into()))?,
        time_max: args
            .time_max
            .map(|s| positive("time-max", s))
            .transpose()?
            .map(Duration::from_secs_f64),
        style: Style { model: args.model.clone(), ..Style::default() },
        ..ReplayConfig::default()
    };
    let mut reports = Vec::new();
    for against in &arms {
        let mut of_arm = Vec::new();
        for seed in args.seed..args.seed.saturating_add(args.seeds.max(1)) {
            let meta = Meta {
                arm: against.name(),
                command: command(args, against, seed),
                facts: facts(&fleet, against),
                simulated: matches!(against, Against::Fleet(_)),
                left_out,
            };
            let config = ReplayConfig { seed, ..base.clone() };
            let bar = bar(&format!("{} · seed {seed}", against.name()));
            let outcome = match against {
                Against::Fleet(arm) => {
                    fleet.replay(*arm, Arc::clone(&trace), config, meta, Some(progress(&bar)))?
                }
                Against::Url(url) => {
                    real(args, url, Arc::clone(&trace), config, meta, progress(&bar))?
                }
            };
            bar.finish_and_clear();
            say_cost(&outcome.cost);
            of_arm.push(outcome.report);
        }
        reports.push(of_arm);
    }
    finish(args, &arms, reports)
}

fn finish(args: &ReplayArgs, arms: &[Against], reports: Vec<Vec<Report>>) -> Result {
    let several = arms.len() > 1;
    let single = !several && args.seeds <= 1;
    let last = arms.len() - 1;
    // The last one is what the others are the baselines of.
    let arms = arms.iter().zip(reports).enumerate().map(|(at, (arm, reports))| ArmReports {
        name: arm.name(),
        baseline: several && at < last,
        reports,
    });
    let arms: Vec<ArmReports> = arms.collect();
    let trace_name =
        args.trace.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
    let comparison = Comparison::new(trace_name, arms)?;
    if args.json {
        let only = comparison.arms.first().and_then(|arm| arm.reports.first()).filter(|_| single);
        say(&(only.map_or_else(|| comparison.to_json(), Report::to_json) + "\n"))?;
    } else {
        say(&table(std::slice::from_ref(&comparison), look()))?;
    }
    let valid = comparison.valid();
    if let Some(path) = &args.report {
        let lead = "A replay of recorded calls; the footer has the commands.";
        write_page(path, "Replay", lead, &[comparison])?;
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn fleet(args: &ReplayArgs) -> Result<Fleet> {
    let mut loaded = load(args.source.config.as_deref())?;
    if let Some(shape) = &args.shape {
        loaded.raw.sim.shape.clone_from(shape);
    }
    let resolved = resolve(&loaded.raw, &loaded.environment)
        .map_err(|faults| Failure::config(&loaded.text, &faults))?;
    if !(1..=64).contains(&args.replicas) {
        return Err(Failure::Usage("error: --replicas: give 1 to 64".into()));
    }
    Ok(Fleet { replicas: args.replicas, sim: resolved.sim.clone(), gateway: Arc::new(resolved) })
}

/// KV-cache tokens of one simulated replica.
pub(crate) fn kv_tokens(sim: &paceline_sim::Config) -> anyhow::Result<u64> {
    let shape = Shape::load(&sim.shape)?;
    Ok(sim.replica_tokens(&shape)?)
}

fn real(
    args: &ReplayArgs,
    url: &str,
    trace: Arc<Trace>,
    config: ReplayConfig,
    meta: Meta,
    on_progress: OnProgress,
) -> anyhow::Result<Outcome> {
    let environment = Environment::process();
    let api_key = args.api_key_env.as_deref().map(|name| {
        let key = environment.get(name).map(str::to_owned);
        key.with_context(|| format!("environment variable {name} is not set"))
    });
    let client = client::Config { api_key: api_key.transpose()?, ..client::Config::new(url) };
    let target = Arc::new(client::Client::new(&client)?);
    let on_progress = Some(on_progress);
    let clock = Clock::real();
    let replay = Replay { trace, config, target, probe: None, clock, on_progress, meta };
    Ok(super::serve::core_runtime()?.block_on(replay.run()))
}

fn facts(fleet: &Fleet, against: &Against) -> Vec<(String, String)> {
    match against {
        Against::Url(_) => Vec::new(),
        Against::Fleet(_) => vec![
            ("Engine".to_owned(), format!("simulated, {}", fleet.sim.shape)),
            ("Replicas".to_owned(), fleet.replicas.to_string()),
        ],
    }
}

/// The command that gives one of the reports again.
fn command(args: &ReplayArgs, against: &Against, seed: u64) -> String {
    use std::fmt::Write as _;
    let what = match against {
        Against::Fleet(Arm::Paceline) => "paceline",
        Against::Fleet(Arm::Fixed) => "fixed",
        Against::Fleet(Arm::RoundRobin) => "round-robin",
        Against::Url(url) => url,
    };
    let trace = args.trace.display();
    let mut text = format!("paceline replay {trace} --against {what} --seed {seed}");
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(text, " --{name} {value}");
        }
    };
    option("replicas", (args.replicas != 4).then(|| args.replicas.to_string()));
    option("shape", args.shape.clone());
    option("active", args.active.map(|n| n.to_string()));
    option("sessions", args.sessions.map(|n| n.to_string()));
    option("calls", args.calls.map(|n| n.to_string()));
    option("rate", (args.rate != 1.0).then(|| args.rate.to_string()));
    option("think-max", (args.think_max != 60.0).then(|| args.think_max.to_string()));
    option("time-max", args.time_max.map(|s| s.to_string()));
    option("replica-tokens", args.replica_tokens.map(|n| n.to_string()));
    option("model", (args.model != "sim").then(|| args.model.clone()));
    text
}

/// A bar on a terminal, and nothing elsewhere.
pub(crate) fn bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{prefix:30} {bar:30} {pos}/{len} calls · {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what.to_owned());
    bar
}

/// Moves the bar with the replay.
pub(crate) fn progress(bar: &ProgressBar) -> OnProgress {
    let bar = bar.clone();
    Arc::new(move |progress: Progress| {
        // The bar locks and formats; a look at each hundredth call is enough.
        let step = (progress.calls_total / 200).max(1);
        if progress.calls_done.is_multiple_of(step) {
            bar.set_length(progress.calls_total as u64);
            bar.set_position(progress.calls_done as u64);
            let failed = progress.calls_failed;
            bar.set_message(format!("{:.0} s, {failed} failed", progress.elapsed.as_secs_f64()));
        }
    })
}

/// Colours on a terminal only.
pub(crate) fn look() -> Look {
    Look { colour: std::io::stdout().is_terminal() }
}

/// Writes the page of some comparisons.
pub(crate) fn write_page(
    path: &Path,
    title: &str,
    lead: &str,
    comparisons: &[Comparison],
) -> anyhow::Result<()> {
    let page = Page {
        title: title.to_owned(),
        lead: lead.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    std::fs::write(path, html::page(&page, comparisons))
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("report: {}", path.display());
    Ok(())
}

fn say_cost(cost: &Cost) {
    let wall = cost.wall.as_secs_f64();
    let share = |part: Duration| 100.0 * part.as_secs_f64() / wall.max(1e-9);
    eprintln!(
        "{} calls in {wall:.1} s, {:.0} a minute; {:.0} % of it writing prompts, {:.0} % reading streams, the rest engines and gateway",
        cost.calls,
        60.0 * cost.calls as f64 / wall.max(1e-9),
        share(cost.text),
        share(cost.scan),
    );
}
