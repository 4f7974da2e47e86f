//! `paceline serve`: the gateway, one runtime a core.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use paceline_core::Clock;
use paceline_gateway::http::{self, Edge, EdgeConfig, Listener, Stop, Stopper};
use paceline_telemetry::task;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::assemble::{self, Gateway};
use crate::cli::ServeArgs;
use crate::commands::{Failure, Result, load};
use crate::config::{Kind, Resolved, Source, resolve};

pub(crate) fn run(args: ServeArgs) -> Result {
    let mut loaded = load(args.source.config.as_deref())?;
    let raw = &mut loaded.raw;
    if let Some(listen) = args.listen {
        *raw.server.listen.as_mut() = listen.to_string();
    }
    raw.server.threads = args.threads.or(raw.server.threads);
    if let Some(level) = args.log {
        raw.log.level = level;
    }
    if !args.upstream.is_empty() {
        raw.deployments = upstreams(&args.upstream)?;
    }
    let resolved = resolve(raw, &loaded.environment)
        .map_err(|faults| Failure::config(&loaded.text, &faults))?;
    paceline_telemetry::log::init(&resolved.log_level);
    raise_file_limit();
    let listeners = http::bind(resolved.listen, resolved.threads)?;
    core_runtime()?.block_on(serve(&resolved, listeners))?;
    Ok(ExitCode::SUCCESS)
}

/// Deployments from `--upstream`; several are replicas, so that runs stay with theirs.
fn upstreams(urls: &[String]) -> Result<Vec<crate::config::RawDeployment>> {
    let kind = if urls.len() > 1 { Kind::Engine } else { Kind::Provider };
    (0..)
        .zip(urls)
        .map(|(at, url)| {
            let name =
                if urls.len() > 1 { format!("upstream-{at}") } else { "upstream".to_owned() };
            url.parse::<paceline_upstream::Url>()
                .map_err(|error| Failure::Usage(format!("error: --upstream {url}: {error}")))?;
            Ok(crate::config::RawDeployment::new(name, url.clone(), kind))
        })
        .collect()
}

/// The runtime of one core. Each core owns its connections, so tasks never move.
pub(crate) fn core_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn serve(resolved: &Resolved, listeners: Vec<Listener>) -> anyhow::Result<()> {
    let clock = Clock::real();
    let embedded =
        resolved.deployments.iter().filter(|d| matches!(d.source, Source::Embedded)).count();
    let engines = assemble::engines(&resolved.sim, &clock, u32::try_from(embedded)?)?;
    if embedded > 0 {
        warn!(
            "no deployment is configured: an embedded SIMULATED engine answers; its texts are made up"
        );
    }
    let gateway = Arc::new(Gateway::new(resolved, &clock, engines)?);
    let stopper = Stopper::default();
    let address = listeners.first().context("at least one thread serves")?.local_addr()?;
    let mut listeners = listeners.into_iter();
    let own = listeners.next().context("at least one thread serves")?;
    let mut others = Vec::new();
    for (listener, number) in listeners.zip(1..) {
        others.push(core_thread(number, listener, &gateway, resolved, stopper.stop())?);
    }
    // Who reads that it listens may already send a signal.
    let signals = Signals::catch();
    let mut out = std::io::stdout().lock();
    let scheme = if resolved.tls.is_some() { "https" } else { "http" };
    writeln!(out, "listening on {scheme}://{address}")?;
    out.flush()?;
    drop(out);
    info!(%address, threads = resolved.threads, deployments = resolved.deployments.len(), "ready");
    if let Some(tls) = &resolved.tls {
        task::spawn("serve.certificates", watch(Arc::clone(tls), signal(SignalKind::hangup())?));
    }
    task::spawn("serve.signals", stop_on_signal(signals, stopper.clone()));
    core(own, &gateway, resolved.edge, stopper.stop(), resolved.drain).await?;
    for other in others {
        // A core that panicked has logged why.
        if let Ok(result) = other.await {
            result?;
        }
    }
    info!("stopped");
    Ok(())
}

/// Serves one listener on the calling thread's runtime.
async fn core(
    listener: Listener,
    gateway: &Gateway,
    edge: EdgeConfig,
    stop: Stop,
    drain: Duration,
) -> std::io::Result<()> {
    let edge = Edge::new(gateway.pipeline(), Arc::clone(&gateway.registry), edge, stop.clone());
    let tls = gateway.tls.clone();
    http::serve(listener, edge, tls, gateway.connections.clone(), stop, drain).await
}

/// Serves a listener on a thread of its own; the receiver gives its end.
fn core_thread(
    number: usize,
    listener: Listener,
    gateway: &Arc<Gateway>,
    resolved: &Resolved,
    stop: Stop,
) -> std::io::Result<oneshot::Receiver<std::io::Result<()>>> {
    let (send, receive) = oneshot::channel();
    let (gateway, edge, drain) = (Arc::clone(gateway), resolved.edge, resolved.drain);
    std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
        let result = core_runtime()
            .and_then(|runtime| runtime.block_on(core(listener, &gateway, edge, stop, drain)));
        // Nobody listens when the first core failed.
        let _ = send.send(result);
    })?;
    Ok(receive)
}

/// How often the files of the listener's certificate are looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);

/// Reads the listener's certificate again when its files change, and on SIGHUP.
async fn watch(tls: Arc<http::ServerTls>, mut hangup: Signal) {
    loop {
        let force = tokio::select! {
            hung_up = hangup.recv() => hung_up.is_some(),
            () = tokio::time::sleep(CERTIFICATE_CHECK) => false,
        };
        let files = Arc::clone(&tls);
        let read = task::spawn_blocking("serve.certificate", move || files.refresh(force)).await;
        match read {
            Ok(Ok(true)) => info!("the listener's certificate was read again"),
            Ok(Err(error)) => warn!(%error, "the listener keeps its old certificate"),
            Ok(Ok(false)) | Err(_) => {}
        }
    }
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on they are received, and no longer end the process by themselves.
    fn catch() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn stop_on_signal(signals: std::io::Result<Signals>, stopper: Stopper) {
    let Ok(mut signals) = signals else {
        warn!("signals cannot be received; only SIGKILL ends this process");
        return;
    };
    signals.next().await;
    info!("stopping: open answers may end, new connections are refused");
    stopper.begin();
    signals.next().await;
    warn!("stopping at once");
    std::process::exit(1);
}

/// Each connection needs a descriptor, and the usual soft limit of 1,024 is a bound for
/// programs that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if setrlimit(Resource::Nofile, raised).is_err() {
        warn!(limit = limit.current, "the limit of open files cannot be raised");
    }
}
