//! The gateway's own overhead, on real sockets: paced calls straight to an engine's server
//! and through the gateway, in turns.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use paceline_core::Clock;
use paceline_gateway::http::{self, Edge, Stopper};
use paceline_load::trace::{Agent, Kind, Run, Session, Trace, TraceCall};
use paceline_load::{Config as ReplayConfig, Meta, Replay, client};
use paceline_upstream::{Config as UpstreamConfig, Trust};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use crate::assemble::Gateway;
use crate::commands::serve::core_runtime;
use crate::config::{Resolved, ResolvedDeployment, Source};

const CALLS: usize = 600;
const CALLS_PER_S: u32 = 200;

/// What the gateway added, in milliseconds, to the time to the first token.
#[derive(Debug, Serialize)]
pub(super) struct Overhead {
    calls_per_s: u32,
    calls: usize,
    direct_p50_ms: f64,
    direct_p99_ms: f64,
    through_p50_ms: f64,
    through_p99_ms: f64,
    added_p50_ms: f64,
    added_p99_ms: f64,
    valid: bool,
}

impl fmt::Display for Overhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Gateway's own overhead (real sockets, {} streamed calls at {}/s each way, this machine)",
            self.calls, self.calls_per_s
        )?;
        writeln!(f, "  time to first token   straight    through      added")?;
        writeln!(
            f,
            "  p50 (ms)            {:>10.3} {:>10.3} {:>10.3}",
            self.direct_p50_ms, self.through_p50_ms, self.added_p50_ms
        )?;
        write!(
            f,
            "  p99 (ms)            {:>10.3} {:>10.3} {:>10.3}",
            self.direct_p99_ms, self.through_p99_ms, self.added_p99_ms
        )?;
        if !self.valid {
            write!(
                f,
                "\n  The client could not keep its pace on this machine, so these do not count."
            )?;
        }
        Ok(())
    }
}

/// Serves an engine and the gateway on loopback ports, calls both in turns, and stops them.
pub(super) fn measure(settings: &Resolved) -> anyhow::Result<Overhead> {
    // A fast engine, so that its own time does not hide the gateway's.
    let sim = paceline_sim::Config {
        speed: 1000.0,
        listen: "127.0.0.1:0".to_owned(),
        replicas: 1,
        faults: Vec::new(),
        ..settings.sim.clone()
    };
    let engine = Server::engine(sim)?;
    let gateway = Server::gateway(settings, engine.address)?;
    let trace = Arc::new(paced());
    let mut direct = Vec::new();
    let mut through = Vec::new();
    // Each way first and last once, so that a drift of the machine's speed cancels out. The
    // first pair warms up.
    for round in 0..3 {
        let mut ways = [(engine.address, &mut direct), (gateway.address, &mut through)];
        if round == 2 {
            ways.reverse();
        }
        for (address, reports) in ways {
            let report = calls(address, &trace)?;
            if round > 0 {
                reports.push(report);
            }
        }
    }
    gateway.stop()?;
    engine.stop()?;
    let mean = |reports: &[paceline_load::Report], figure: fn(&paceline_load::Report) -> f64| {
        reports.iter().map(figure).sum::<f64>() / reports.len().max(1) as f64
    };
    let p50 = |report: &paceline_load::Report| report.ttft_ms.p50;
    let p99 = |report: &paceline_load::Report| report.ttft_ms.p99;
    let [direct_p50_ms, direct_p99_ms] = [mean(&direct, p50), mean(&direct, p99)];
    let [through_p50_ms, through_p99_ms] = [mean(&through, p50), mean(&through, p99)];
    Ok(Overhead {
        calls_per_s: CALLS_PER_S,
        calls: CALLS * direct.len(),
        direct_p50_ms,
        direct_p99_ms,
        through_p50_ms,
        through_p99_ms,
        added_p50_ms: through_p50_ms - direct_p50_ms,
        added_p99_ms: through_p99_ms - direct_p99_ms,
        valid: direct.iter().chain(&through).all(|report| report.valid && report.calls.failed == 0),
    })
}

fn calls(address: SocketAddr, trace: &Arc<Trace>) -> anyhow::Result<paceline_load::Report> {
    let target = client::Client::new(&client::Config::new(format!("http://{address}")))?;
    let replay = Replay {
        trace: Arc::clone(trace),
        config: ReplayConfig { spread_ticks: false, ..ReplayConfig::default() },
        target: Arc::new(target),
        probe: None,
        clock: Clock::real(),
        on_progress: None,
        meta: Meta::default(),
    };
    Ok(core_runtime()?.block_on(replay.run()).report)
}

/// Short prompts, each different, at an even pace.
fn paced() -> Trace {
    let session = |number: usize| {
        let call = TraceCall {
            at: Duration::from_secs(1) * number as u32 / CALLS_PER_S,
            think: Duration::ZERO,
            joins: Vec::new(),
            input_tokens: 256,
            output_tokens: 8,
            blocks: vec![Run { start: number as u64 * 8, blocks: 4 }],
        };
        let agent = Agent { name: None, after: None, delay: Duration::ZERO, calls: vec![call] };
        Session { id: number.to_string(), space: 0, system_tokens: 0, agents: vec![agent] }
    };
    Trace {
        name: "paced".to_owned(),
        sha256: "synthetic, made by the demo".to_owned(),
        kind: Kind::Open { tick: Duration::ZERO },
        block_tokens: 64,
        sessions: (0..CALLS).map(session).collect(),
    }
}

/// A server on a thread of its own.
struct Server {
    address: SocketAddr,
    stop: Box<dyn FnOnce()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    fn engine(config: paceline_sim::Config) -> anyhow::Result<Self> {
        let (started, address) = oneshot::channel();
        let ending = Arc::new(Notify::new());
        let ended = Arc::clone(&ending);
        let thread = std::thread::Builder::new().name("demo-engine".into()).spawn(move || {
            core_runtime()?.block_on(async move {
                let server = paceline_sim::Server::bind(&config).await?;
                // Nobody waits for the address when the demo has failed.
                let _ = started.send(server.addresses()[0]);
                server.run(async move { ended.notified().await }).await;
                Ok(())
            })
        })?;
        let address = address.blocking_recv().context("the simulated engine did not start")?;
        Ok(Self { address, stop: Box::new(move || ending.notify_one()), thread })
    }

    fn gateway(settings: &Resolved, engine: SocketAddr) -> anyhow::Result<Self> {
        let url = format!("http://{engine}").parse().context("an address makes a URL")?;
        let source = Source::Http(Box::new(UpstreamConfig::new("engine", url)), Trust::default());
        let deployment = ResolvedDeployment::engine("engine".to_owned(), source);
        let resolved =
            Resolved { deployments: vec![deployment], keys: Vec::new(), ..settings.clone() };
        let listener = http::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1)?
            .pop()
            .context("one core has one listener")?;
        let address = listener.local_addr()?;
        let stopper = Stopper::default();
        let stop = stopper.stop();
        let thread = std::thread::Builder::new().name("demo-gateway".into()).spawn(move || {
            core_runtime()?.block_on(async move {
                let gateway = Gateway::new(&resolved, &Clock::real(), Vec::new())?;
                let registry = Arc::clone(&gateway.registry);
                let edge = Edge::new(gateway.pipeline(), registry, resolved.edge, stop.clone());
                let drain = Duration::from_secs(2);
                http::serve(listener, edge, None, gateway.connections.clone(), stop, drain).await?;
                Ok(())
            })
        })?;
        Ok(Self { address, stop: Box::new(move || stopper.begin()), thread })
    }

    fn stop(self) -> anyhow::Result<()> {
        (self.stop)();
        self.thread.join().map_err(|_| anyhow::anyhow!("a server of the demo panicked"))?
    }
}
