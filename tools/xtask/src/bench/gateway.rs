//! `cargo xtask bench gateway`: CPU, latency and memory beside nginx's, in one run.
//!
//! The gateway under test is alone on one core; the client and the mock upstream share the
//! other. Rounds are interleaved, and a figure is compared within its round, so that a
//! machine that slows down slows all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use testkit::{http, tools};

use super::load::Load;
use super::measure::{Quartiles, cpu, resident_mb};
use super::paced::{Client, Latency};
use super::report::{Bar, Comparison, NGINX, Origin, Report, Row, first_line, hardware};
use super::servers::{EVENTS, Gateway, KEY, Mock, REPLY_BYTES};
use super::{ALLOCATOR, CLIENT_CORE, DIST, GATEWAY_CORE, build_paceline};
use crate::install;
use crate::phases::{Phases, output};

/// Paceline's name in every table.
const PACELINE: &str = "paceline";

/// Time for connections to end, so that no run pays for the one before.
const SETTLE: Duration = Duration::from_millis(150);

/// How many times longer slow gateways are measured.
const SLOW_LONGER: u32 = 4;

/// The paced load: 200 requests a second over 64 connections.
const PACE: Duration = Duration::from_millis(5);
const PACED_CONNECTIONS: usize = 64;

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Interleaved rounds of each figure.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only figures whose name begins so; may be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Also builds and measures this older revision in the same run.
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// LiteLLM's proxy too, and installs it; without this where it is installed.
    #[arg(long)]
    litellm: bool,
    /// Measures a second nginx in Paceline's place: every ratio should be 1.
    #[arg(long, conflicts_with = "against")]
    self_check: bool,
    /// Where the results go; `bench/results/gateway.json` unless the run is partial.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A figure of CPU time under closed load.
struct Figure {
    name: &'static str,
    load: Load,
    way: Way,
    /// What one request counts for, for example its events.
    parts: usize,
    unit: &'static str,
    comparison: Comparison,
    bar: Option<Bar>,
    /// Of slow gateways too.
    all: bool,
}

/// Which of a gateway's three ways is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Tls,
    Hit,
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let mut phases = Phases::new();
    install::for_benches(&mut phases)?;
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores > CLIENT_CORE, "the benchmark needs two cores");
    if options.litellm {
        install::python(&mut phases, "litellm")?;
    }
    let gateways = build(&mut phases, options)?;
    let mut bench = Bench::start(options, gateways)?;
    for gateway in &bench.gateways {
        gateway.check()?;
    }
    let mut rows = Vec::new();
    bench.memory(&mut rows)?;
    for figure in figures() {
        if bench.wanted(figure.name) {
            eprintln!("==> {}", figure.name);
            rows.push(bench.cpu_row(&figure)?);
        }
    }
    bench.latency(&mut rows)?;
    let report = bench.report(rows)?;
    println!("{}", report.table());
    for line in &report.asserted {
        println!("asserted: {line}");
    }
    let partial = !options.only.is_empty() || options.self_check;
    let usual = (!partial).then(|| tools::repository().join("bench/results/gateway.json"));
    if let Some(path) = options.output.clone().or(usual) {
        report.write(&path)?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// The closed-load figures with their bars.
fn figures() -> Vec<Figure> {
    let plain = |name, kib: usize, connections, bar| Figure {
        name,
        load: Load::distinct(kib * 1024, connections),
        way: Way::Plain,
        parts: 1,
        unit: "µs CPU per request",
        comparison: Comparison::Ratio,
        bar,
        all: false,
    };
    let streamed = |name, kib, connections, bar| {
        let figure: Figure = plain(name, kib, connections, bar);
        let load = Load { streamed: true, ..figure.load };
        Figure { load, parts: EVENTS, unit: "µs CPU per event", ..figure }
    };
    // Asked in Anthropic's words and answered in OpenAI's; nginx passes the events through.
    let translated = |name, bar| {
        let figure: Figure = streamed(name, 1, 64, bar);
        let load = Load { translated: true, ..figure.load };
        Figure { load, comparison: Comparison::Difference, ..figure }
    };
    let by_way = |name, kib, way, bar| {
        let figure: Figure = plain(name, kib, 64, bar);
        let load = Load { repeated: way == Way::Hit, ..figure.load };
        Figure { load, way, ..figure }
    };
    let forwarded = |name, kib| {
        let figure: Figure = plain(name, kib, 64, None);
        Figure { load: Load { temperature: 1, ..figure.load }, ..figure }
    };
    let bar = |floor, goal| Some(Bar { floor, goal });
    vec![
        Figure { all: true, ..plain("1 KiB, c64", 1, 64, bar(1.4, 0.95)) },
        plain("1 KiB, c1", 1, 1, None),
        plain("32 KiB, c64", 32, 64, bar(1.25, 0.85)),
        plain("32 KiB, c1", 32, 1, None),
        forwarded("1 KiB, c64, temperature 1", 1),
        forwarded("32 KiB, c64, temperature 1", 32),
        Figure { all: true, ..streamed("burst stream, 1 KiB, c64", 1, 64, bar(1.3, 0.85)) },
        streamed("burst stream, 1 KiB, c1", 1, 1, None),
        streamed("burst stream, 32 KiB, c64", 32, 64, None),
        translated("translated stream, 1 KiB, c64", bar(3.0, 3.0)),
        by_way("TLS upstream, 1 KiB, c64", 1, Way::Tls, bar(1.0, 0.75)),
        by_way("TLS upstream, 32 KiB, c64", 32, Way::Tls, bar(1.0, 0.75)),
        by_way("memory hit, 1 KiB, c64", 1, Way::Hit, bar(1.5, 0.95)),
        by_way("memory hit, 32 KiB, c64", 32, Way::Hit, bar(1.5, 0.95)),
    ]
}

/// Builds what is measured, and starts nothing yet.
fn build(phases: &mut Phases, options: &Options) -> Result<Vec<(String, PathBuf)>> {
    if options.self_check {
        return Ok(Vec::new());
    }
    let mut programs = vec![(PACELINE.to_owned(), build_paceline(phases)?)];
    if let Some(revision) = &options.against {
        let folder = tools::cache().join("against");
        let (tree, target) = (folder.join("tree"), folder.join("target"));
        phases.run(&format!("build Paceline of {revision} (profile dist)"), || {
            check_out(&tree, revision)?;
            let mut build = Command::new("cargo");
            build.args(DIST).env("CARGO_TARGET_DIR", &target).current_dir(&tree);
            let manifest = std::fs::read_to_string(tree.join("crates/paceline/Cargo.toml"))?;
            if manifest.contains("\njemalloc = ") {
                build.args(ALLOCATOR);
            }
            let status = build.status().context("cannot start cargo")?;
            ensure!(status.success(), "{revision} does not build");
            Ok(())
        })?;
        programs.push((revision.clone(), target.join("dist/paceline")));
    }
    Ok(programs)
}

/// A second working tree of this repository, for a revision of it.
fn check_out(tree: &Path, revision: &str) -> Result<()> {
    let git = |folder: &Path| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder);
        git
    };
    // A tree is kept, so that the next build of a near revision is short.
    if tree.join(".git").exists() {
        output(git(tree).args(["checkout", "--quiet", "--force", "--detach", revision]))?;
    } else {
        let add = ["worktree", "add", "--quiet", "--force", "--detach"];
        output(git(&tools::repository()).args(add).arg(tree).arg(revision))?;
    }
    Ok(())
}

/// The servers of a run, and what is counted on the way.
struct Bench<'a> {
    options: &'a Options,
    mock: Mock,
    gateways: Vec<Gateway>,
    /// Questions to the mock's counter, which counts them too.
    asked: u64,
    /// The number of the next request; none comes twice.
    next: u64,
    /// Requests that clients saw answered, and calls that the mock saw for them.
    answered: u64,
    arrived: u64,
    hits: u64,
    real_time: bool,
}

impl<'a> Bench<'a> {
    fn start(options: &'a Options, programs: Vec<(String, PathBuf)>) -> Result<Self> {
        // A thousand connections to a gateway are two thousand of its files.
        let files = rustix::process::Resource::Nofile;
        let mut limit = rustix::process::getrlimit(files);
        limit.current = limit.maximum.map_or(Some(65_536), |most| Some(most.min(65_536)));
        rustix::process::setrlimit(files, limit)?;

        let mock = Mock::start()?;
        let mut gateways = vec![Gateway::nginx(NGINX, &mock)];
        if options.self_check {
            gateways.push(Gateway::nginx("nginx too", &mock));
        }
        for (name, program) in programs {
            gateways.push(Gateway::paceline(&name, &program, &mock));
        }
        if tools::find_litellm().is_some() && !options.self_check {
            gateways.push(Gateway::litellm(&mock));
        }
        Ok(Self {
            options,
            mock,
            gateways,
            asked: 0,
            next: 0,
            answered: 0,
            arrived: 0,
            hits: 0,
            real_time: false,
        })
    }

    fn wanted(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|part| name.starts_with(part))
    }

    /// Nginx meets no bar but its own figures.
    fn bar(&self, bar: Option<Bar>) -> Option<Bar> {
        bar.filter(|_| !self.options.self_check)
    }

    /// Numbers for a run of at most ten million requests.
    fn numbers(&mut self) -> u64 {
        self.next += 10_000_000;
        self.next
    }

    /// A gateway may be measured with the slow ones, or only without them.
    fn turns(&self, all: bool) -> Vec<usize> {
        (0..self.gateways.len()).filter(|turn| all || !self.gateways[*turn].is_slow()).collect()
    }

    fn empty(&self, turns: &[usize]) -> BTreeMap<String, Vec<f64>> {
        turns.iter().map(|turn| (self.gateways[*turn].name.clone(), Vec::new())).collect()
    }

    fn cpu_row(&mut self, figure: &Figure) -> Result<Row> {
        let turns = self.turns(figure.all);
        let (mut costs, mut rates) = (self.empty(&turns), self.empty(&turns));
        // Unmeasured, so that no round pays for memory that is touched for the first time.
        for turn in &turns {
            self.cpu_of(figure, *turn)?;
        }
        for round in 0..self.options.rounds {
            for turn in in_turn(&turns, round) {
                let (cost, rate) = self.cpu_of(figure, turn)?;
                let name = &self.gateways[turn].name;
                costs.entry(name.clone()).or_default().push(cost);
                rates.entry(name.clone()).or_default().push(rate);
            }
        }
        let mut row =
            Row::new(figure.name, figure.unit, &costs, figure.comparison, self.bar(figure.bar))?;
        let rates = rates.into_iter().map(|(name, values)| (name, Quartiles::of(values)));
        row.per_second = rates.collect();
        Ok(row)
    }

    /// One measurement: µs of CPU per part of a request, and requests per second.
    fn cpu_of(&mut self, figure: &Figure, turn: usize) -> Result<(f64, f64)> {
        let first = self.numbers();
        let gateway = &self.gateways[turn];
        let url = match figure.way {
            Way::Plain => &gateway.plain,
            Way::Tls => &gateway.tls,
            Way::Hit => &gateway.hit,
        };
        if figure.way == Way::Hit && gateway.caches {
            let key = format!("Bearer {KEY}");
            let headers = [("Authorization", key.as_str())];
            let message = figure.load.message(first);
            let response = http::post(&format!("{url}{CHAT}"), &headers, message);
            ensure!(response.status == 200, "the call to be kept failed: {}", response.text());
        }
        let pids = gateway.pids();
        let arrived = self.mock.requests(&mut self.asked)?;
        let before = cpu(&pids)?;
        // A slow one may not end 64 streams in the time that is enough for the others.
        let longer = if gateway.is_slow() { SLOW_LONGER } else { 1 };
        let time = Duration::from_secs((self.options.seconds * longer).into());
        let outcome = figure.load.run(url, first, time)?;
        settle(gateway, &pids)?;
        let spent = cpu(&pids)? - before;
        let arrived = self.mock.requests(&mut self.asked)? - arrived;
        if figure.way == Way::Hit {
            ensure!(arrived == 0, "{arrived} calls of {} were no hits", gateway.name);
            self.hits += outcome.requests;
        } else {
            let connections = figure.load.connections as u64;
            // What is under way when wrk ends has arrived, or not, but is not answered.
            let range = outcome.requests..=outcome.requests + connections;
            if !range.contains(&arrived) {
                let name = &gateway.name;
                bail!("{name} answered {} requests with {arrived} upstream", outcome.requests);
            }
            self.answered += outcome.requests;
            self.arrived += arrived;
        }
        // What was under way when wrk ended is much of the little that a slow one does.
        let counted = if gateway.is_slow() { arrived } else { outcome.requests };
        let parts = (counted * figure.parts as u64) as f64;
        Ok((spent.as_secs_f64() * 1e6 / parts, outcome.per_second()))
    }

    /// Resident memory, when just started and with a thousand connections open that have
    /// all had an answer.
    fn memory(&mut self, rows: &mut Vec<Row>) -> Result<()> {
        const CONNECTIONS: usize = 1000;
        let names = ["resident, idle", "resident, 1,000 connections"];
        if !names.iter().any(|name| self.wanted(name)) {
            return Ok(());
        }
        eprintln!("==> {}", names.join("; "));
        let turns = self.turns(false);
        let (mut idle, mut loaded) = (self.empty(&turns), self.empty(&turns));
        let load = Load::distinct(32 * 1024, CONNECTIONS);
        for turn in turns {
            let first = self.numbers();
            let gateway = &self.gateways[turn];
            let pids = gateway.plain_pids();
            let now = resident_mb(&pids)?;
            idle.entry(gateway.name.clone()).or_default().push(now);
            let mut client = Client::connect(http::address(&gateway.plain), CONNECTIONS)?;
            client.burst(|number| load.request(&gateway.plain, first + number as u64))?;
            let now = resident_mb(&pids)?;
            loaded.entry(gateway.name.clone()).or_default().push(now);
        }
        let bars = [Bar { floor: 16.0, goal: 6.0 }, Bar { floor: 64.0, goal: 45.0 }];
        for ((name, samples), bar) in names.into_iter().zip([idle, loaded]).zip(bars) {
            rows.push(Row::new(name, "MB", &samples, Comparison::Alone, self.bar(Some(bar)))?);
        }
        Ok(())
    }

    /// What a gateway adds to the latency of the mock itself, under a paced load.
    fn latency(&mut self, rows: &mut Vec<Row>) -> Result<()> {
        let names = ["added p50, 200/s, c64", "added p99, 200/s, c64"];
        if !names.iter().any(|name| self.wanted(name)) {
            return Ok(());
        }
        eprintln!("==> {}", names.join("; "));
        self.real_time = self.set_real_time();
        if !self.real_time {
            eprintln!("    without real-time priority: other work of the machine shows");
        }
        let turns = self.turns(false);
        let (mut median, mut tail) = (self.empty(&turns), self.empty(&turns));
        let mock = self.mock.url();
        for round in 0..self.options.rounds {
            let zero = self.latency_of(&mock)?;
            for turn in in_turn(&turns, round) {
                let (name, url) =
                    (self.gateways[turn].name.clone(), self.gateways[turn].plain.clone());
                let found = self.latency_of(&url)?;
                median.entry(name.clone()).or_default().push(found.p50_ms - zero.p50_ms);
                tail.entry(name).or_default().push(found.p99_ms - zero.p99_ms);
            }
        }
        let bars = [Bar { floor: 0.10, goal: 0.02 }, Bar { floor: 0.25, goal: 0.06 }];
        for ((name, samples), bar) in names.into_iter().zip([median, tail]).zip(bars) {
            rows.push(Row::new(name, "ms", &samples, Comparison::Difference, self.bar(Some(bar)))?);
        }
        Ok(())
    }

    fn latency_of(&mut self, url: &str) -> Result<Latency> {
        let load = Load::distinct(1024, PACED_CONNECTIONS);
        let mut client = Client::connect(http::address(url), PACED_CONNECTIONS)?;
        let (warm, first) = (self.numbers(), self.numbers());
        client.burst(|number| load.request(url, warm + number as u64))?;
        std::thread::sleep(SETTLE);
        let arrived = self.mock.requests(&mut self.asked)?;
        // Three seconds at least, so that a p99 rests on several requests.
        let count = self.options.seconds.max(3) as usize * 200;
        let latency = client.run(count, PACE, |number| load.request(url, first + number as u64))?;
        let arrived = self.mock.requests(&mut self.asked)? - arrived;
        ensure!(arrived == count as u64, "{count} paced requests were {arrived} upstream");
        self.answered += count as u64;
        self.arrived += arrived;
        Ok(latency)
    }

    /// Puts client, mock and gateways before everything else on their cores, so that no
    /// other process of the machine is part of a latency. Needs a privilege; `false`
    /// where it is missing.
    fn set_real_time(&self) -> bool {
        let mut core = rustix::thread::CpuSet::new();
        core.set(CLIENT_CORE);
        let pinned = rustix::thread::sched_setaffinity(None, &core).is_ok();
        let servers = self.gateways.iter().flat_map(Gateway::pids).chain(self.mock.pids());
        let set = |pid: u32| {
            let mut chrt = Command::new("chrt");
            chrt.args(["--all-tasks", "--fifo", "--pid", "10", &pid.to_string()]);
            output(&mut chrt).is_ok()
        };
        servers.chain([std::process::id()]).map(set).fold(pinned, |all, one| all && one)
    }

    fn report(&self, rows: Vec<Row>) -> Result<Report> {
        let priority = if self.real_time { "with" } else { "without" };
        let mut versions = vec![
            first_line(tools::debian("nginx").arg("-v"))?,
            first_line(tools::debian("wrk").arg("-v"))?,
            first_line(Command::new("rustc").arg("--version"))?,
        ];
        if self.gateways.iter().any(Gateway::is_slow) {
            versions.push(install::pinned("litellm", "litellm")?);
        }
        Ok(Report {
            origin: Origin::new()?,
            hardware: hardware()?,
            versions,
            method: vec![
                format!("gateway alone on core {GATEWAY_CORE}, client and mock upstream (nginx) on core {CLIENT_CORE}"),
                "nginx: one worker, HTTP/1.1, 128 idle connections to the upstream, no buffering, TLS sessions reused".to_owned(),
                "Paceline: one thread; every request differs; with temperature 0 (all rows but those that say 1), flights and the cache are on and each reply is kept".to_owned(),
                "LiteLLM, where it is measured: its proxy with one worker, no database, a master key, LITELLM_LOG=ERROR; its CPU is divided by the requests that reached the mock".to_owned(),
                "each row begins with a round that is not counted".to_owned(),
                format!("requests: 1 or 32 KiB of JSON; replies: {REPLY_BYTES} bytes whole, or {EVENTS} events at once in a chunk each"),
                "CPU: schedstat of all threads of the gateway, per answered request".to_owned(),
                format!("latency: 200 requests a second in even steps over 64 connections, {priority} real-time priority; the same client straight to the mock is subtracted"),
                "memory: resident set, just started, and with 1,000 connections open that each had an answer to 32 KiB".to_owned(),
            ],
            asserted: vec![
                format!("{} answered requests made {} calls at the upstream", self.answered, self.arrived),
                format!("{} hits made no call at the upstream", self.hits),
            ],
            rows,
        })
    }
}

/// The gateways of a round, in an order that turns.
fn in_turn(turns: &[usize], round: u32) -> Vec<usize> {
    let count = turns.len();
    (0..count).map(|turn| turns[(turn + round as usize) % count]).collect()
}

/// Waits until a gateway has ended what was under way when its client left.
fn settle(gateway: &Gateway, pids: &[u32]) -> Result<()> {
    std::thread::sleep(SETTLE);
    // Even an idle event loop does something.
    let idle = SETTLE / 10;
    for _ in 0..100 {
        let before = cpu(pids)?;
        if !gateway.is_slow() {
            return Ok(());
        }
        std::thread::sleep(SETTLE);
        if cpu(pids)? - before < idle {
            return Ok(());
        }
    }
    bail!("{} is still busy with what its client has left", gateway.name)
}

/// The path of every call.
const CHAT: &str = "/v1/chat/completions";
