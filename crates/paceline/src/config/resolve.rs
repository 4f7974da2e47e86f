//! From the fields as written to the typed settings of each crate, checked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paceline_cache::{FlightsConfig, MemoryConfig};
use paceline_gateway::http::{Compress, EdgeConfig, ServerTls, TlsFault, TlsFiles};
use paceline_gateway::{
    Chain, HedgeConfig, KeepAlive, KeepAliveConfig, LineConfig, Overflow, RetryConfig, StaticKey,
    StoredConfig,
};
use paceline_route::{HealthConfig, Order, QueueConfig};
use paceline_upstream::{Config as UpstreamConfig, DnsConfig, Provider, Trust};
use toml::Spanned;

use crate::config::deployments::deployments;
use crate::config::raw::{self, Kind, Raw};
use crate::config::{Environment, Fault};

/// Everything that `serve` needs, checked.
#[derive(Clone)]
pub(crate) struct Resolved {
    pub(crate) listen: SocketAddr,
    pub(crate) threads: usize,
    pub(crate) edge: EdgeConfig,
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) keep_alive: KeepAliveConfig,
    pub(crate) drain: Duration,
    pub(crate) log_level: String,
    pub(crate) keys: Vec<StaticKey>,
    pub(crate) deployments: Vec<ResolvedDeployment>,
    /// Names that stand for several models.
    pub(crate) chains: HashMap<Bytes, Chain>,
    /// When and how often calls are sent again.
    pub(crate) retry: RetryConfig,
    pub(crate) hedge: HedgeConfig,
    /// How calls wait for the limits of providers.
    pub(crate) lines: LineConfig,
    /// When a failing deployment is left out.
    pub(crate) health: HealthConfig,
    pub(crate) stored: StoredConfig,
    pub(crate) dns: DnsConfig,
    pub(crate) memory: MemoryConfig,
    pub(crate) flights: FlightsConfig,
    pub(crate) sim: paceline_sim::Config,
}

/// One deployment.
#[derive(Clone)]
pub(crate) struct ResolvedDeployment {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What it speaks.
    pub(crate) provider: &'static Provider,
    pub(crate) models: Option<Vec<String>>,
    /// The upstream's names of models, by those that callers use.
    pub(crate) rename: HashMap<String, String>,
    pub(crate) source: Source,
}

impl ResolvedDeployment {
    /// A replica of an engine that serves any model.
    pub(crate) fn engine(name: String, source: Source) -> Self {
        Self {
            name,
            kind: Kind::Engine,
            provider: match &source {
                Source::Embedded => Provider::simulated(),
                Source::Http(config, _) => config.provider,
            },
            models: None,
            rename: HashMap::new(),
            source,
        }
    }
}

/// Where a deployment's answers come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// A server.
    Http(Box<UpstreamConfig>, Trust),
    /// The engine in this process.
    Embedded,
}

/// Checks all fields.
///
/// # Errors
/// All faults that were found, not only the first.
pub(crate) fn resolve(raw: &Raw, environment: &Environment) -> Result<Resolved, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut note = |fault: Fault| faults.push(fault);
    let listen = raw.server.listen.get_ref().parse::<SocketAddr>();
    let listen = listen.unwrap_or_else(|_| {
        let message = format!("`listen` is no address: {}", raw.server.listen.get_ref());
        note(Fault::at(
            raw.server.listen.span(),
            message,
            "give IP and port, as in 127.0.0.1:8000",
        ));
        SocketAddr::from(([127, 0, 0, 1], 8000))
    });
    let threads = raw.server.threads.map(|n| n as usize).unwrap_or_else(cores);
    if !(1..=256).contains(&threads) {
        note(Fault::plain("`threads` in [server] must be 1 to 256", "leave it out for one a core"));
    }
    let (keys, found) = static_keys(&raw.keys, environment);
    found.into_iter().for_each(&mut note);
    let (deployments, found) = deployments(&raw.deployments, environment, threads);
    found.into_iter().for_each(&mut note);
    let (chains, found) = chains(&raw.routes, &deployments);
    faults.extend(found);
    faults.extend(bounds(raw));
    let tls = raw.server.tls.as_ref().map(server_tls).transpose();
    let tls = tls.unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    let ms = Duration::from_millis;
    Ok(Resolved {
        listen,
        threads,
        edge: EdgeConfig {
            body_bytes_max: raw.server.body_bytes_max,
            body_timeout: ms(raw.server.body_timeout_ms),
            head_timeout: ms(raw.server.head_timeout_ms),
            head_bytes_max: raw.server.head_bytes_max,
            connections_max: raw.server.connections_max.div_ceil(threads),
            compress: match raw.server.compress_responses {
                raw::Compress::Never => Compress::Never,
                raw::Compress::Whole => Compress::Whole,
                raw::Compress::Always => Compress::Always,
            },
        },
        tls,
        keep_alive: keep_alive(&raw.server),
        drain: ms(raw.server.drain_ms),
        log_level: raw.log.level.clone(),
        keys,
        deployments,
        chains,
        retry: RetryConfig {
            attempts_max: raw.retry.attempts_max,
            backoff: ms(raw.retry.backoff_ms),
            wait_max: ms(raw.retry.wait_ms_max),
            continue_streams: raw.retry.continue_streams,
        },
        hedge: HedgeConfig {
            enabled: raw.hedge.enabled,
            quantile: raw.hedge.quantile,
            spend_share_max: raw.hedge.spend_share_max,
        },
        lines: lines(&raw.queue),
        health: health(&raw.health),
        dns: DnsConfig {
            ttl: ms(raw.dns.ttl_ms),
            negative_ttl: ms(raw.dns.negative_ttl_ms),
            stale: ms(raw.dns.stale_ms),
        },
        stored: StoredConfig {
            bytes_max: raw.responses.bytes_max,
            entry_bytes_max: raw.responses.entry_bytes_max,
            ttl: Duration::from_secs(raw.responses.ttl_s),
        },
        memory: MemoryConfig {
            bytes_max: raw.cache.memory_bytes_max,
            entry_bytes_max: raw.cache.entry_bytes_max,
            ttl: Duration::from_secs(raw.cache.ttl_s),
        },
        flights: FlightsConfig { bytes_max: raw.flights.bytes_max },
        sim: raw.sim.clone(),
    })
}

fn server_tls(raw: &raw::ServerTls) -> Result<Arc<ServerTls>, Fault> {
    let files = TlsFiles {
        certificate: raw.certificate.get_ref().into(),
        key: raw.key.get_ref().into(),
        client_ca: raw.client_ca.as_ref().map(Into::into),
        client_required: raw.client_required,
    };
    let is_key = |fault: &TlsFault| fault.path == files.key;
    ServerTls::load(files.clone()).map_err(|fault| {
        let span = if is_key(&fault) { raw.key.span() } else { raw.certificate.span() };
        Fault::at(span, fault.to_string(), "give the paths of PEM files that belong together")
    })
}

fn keep_alive(raw: &raw::Server) -> KeepAliveConfig {
    let to = match raw.keep_alive {
        raw::KeepAlive::Accepting => KeepAlive::Accepting,
        raw::KeepAlive::All => KeepAlive::All,
        raw::KeepAlive::Nobody => KeepAlive::Nobody,
    };
    KeepAliveConfig { to, every: Duration::from_millis(raw.keep_alive_ms.max(1)) }
}

fn health(raw: &raw::Health) -> HealthConfig {
    HealthConfig {
        failures_max: raw.failures_max,
        failed_share_max: raw.failed_share_max,
        outliers_share_max: raw.outliers_share_max,
        open_min: Duration::from_millis(raw.open_ms),
        open_max: Duration::from_millis(raw.open_ms_max),
        slow_start: Duration::from_millis(raw.slow_start_ms),
    }
}

/// The keys of clients.
fn static_keys(raw: &[raw::Key], environment: &Environment) -> (Vec<StaticKey>, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut note = |fault: Fault| faults.push(fault);
    let mut keys = Vec::new();
    for key in raw {
        match secret(&key.key, environment) {
            Ok(text) if text.len() >= KEY_LEN_MIN => {
                keys.push(StaticKey::new(key.tenant.get_ref().as_str(), &text));
            }
            Ok(_) => note(Fault::at(
                key.key.span(),
                format!(
                    "the key of `{}` is shorter than {KEY_LEN_MIN} characters",
                    key.tenant.get_ref()
                ),
                "make a longer one, for instance with `openssl rand -hex 24`",
            )),
            Err(fault) => note(fault),
        }
        if key.tenant.get_ref().is_empty() {
            note(Fault::at(key.tenant.span(), "`tenant` is empty", "name who holds the key"));
        }
    }
    (keys, faults)
}

/// Numbers that are out of their bounds.
fn bounds(raw: &Raw) -> Vec<Fault> {
    let mut faults = Vec::new();
    if raw.health.failures_max == 0 {
        faults.push(Fault::plain(
            "`failures_max` in [health] must be at least 1",
            "give how many failures in a row take a deployment out",
        ));
    }
    if raw.retry.attempts_max == 0 {
        faults.push(Fault::plain(
            "`attempts_max` in [retry] must be at least 1",
            "1 sends each call once",
        ));
    }
    let (health, hedge) = (&raw.health, &raw.hedge);
    let shares = [
        ("`failed_share_max` in [health]", health.failed_share_max, health.failed_share_max > 0.0),
        ("`outliers_share_max` in [health]", health.outliers_share_max, true),
        ("`quantile` in [hedge]", hedge.quantile, hedge.quantile > 0.0 && hedge.quantile < 1.0),
        ("`spend_share_max` in [hedge]", hedge.spend_share_max, true),
    ];
    let wrong = shares.iter().filter(|(_, share, fits)| !fits || !(0.0..=1.0).contains(share));
    faults.extend(wrong.map(|(name, share, _)| {
        let help = "give a share between 0 and 1, such as 0.5";
        Fault::plain(format!("{name} cannot be {share}"), help)
    }));
    faults
}

/// Shorter keys can be guessed.
const KEY_LEN_MIN: usize = 16;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn lines(raw: &raw::Queue) -> LineConfig {
    LineConfig {
        learn: raw.learn,
        queue: QueueConfig {
            len_max: raw.len_max,
            ageing: Duration::from_millis(raw.ageing_ms),
            order: match raw.order {
                raw::Order::Fair => Order::Fair,
                raw::Order::OldestRun => Order::OldestRun,
            },
        },
        wait_max: Duration::from_millis(raw.wait_ms_max),
        overflow: match raw.overflow {
            raw::Overflow::Refuse => Overflow::Refuse,
            raw::Overflow::Drop => Overflow::Drop,
            raw::Overflow::Spill => Overflow::Spill,
        },
    }
}

/// The names that stand for several models.
fn chains(
    routes: &[raw::Route],
    deployments: &[ResolvedDeployment],
) -> (HashMap<Bytes, Chain>, Vec<Fault>) {
    let (mut chains, mut faults) = (HashMap::new(), Vec::new());
    let served = |model: &str| {
        deployments.iter().any(|deployment| {
            deployment.models.as_ref().is_none_or(|names| names.iter().any(|name| name == model))
        })
    };
    for route in routes {
        let name = route.model.get_ref();
        if route.models.get_ref().is_empty() {
            let message = format!("the route `{name}` names no models");
            faults.push(Fault::at(route.models.span(), message, "as in models = [\"a\", \"b\"]"));
        }
        let named = route.models.get_ref().iter().map(|model| (model, route.models.span()));
        let longer = route.longer.iter().map(|model| (model.get_ref(), model.span()));
        for (model, span) in named.chain(longer) {
            if model == name {
                let message = format!("the route `{name}` names itself");
                faults.push(Fault::at(span, message, "give the route a name of its own"));
            } else if !served(model) {
                let message = format!("the route `{name}` names `{model}`, which nobody serves");
                faults.push(Fault::at(span, message, "add it to the `models` of a deployment"));
            }
        }
        let bytes = |model: &String| Bytes::from(model.clone());
        let chain = Chain {
            models: route.models.get_ref().iter().map(bytes).collect(),
            longer: route.longer.as_ref().map(|model| bytes(model.get_ref())),
        };
        if chains.insert(bytes(name), chain).is_some() {
            let message = format!("two routes are named `{name}`");
            faults.push(Fault::at(route.model.span(), message, "give each a name of its own"));
        }
    }
    (chains, faults)
}

pub(super) fn secret(text: &Spanned<String>, environment: &Environment) -> Result<String, Fault> {
    expand(text, environment).map(|text| text.trim().to_owned())
}

/// Replaces each `${NAME}` by the environment variable.
pub(super) fn expand(text: &Spanned<String>, environment: &Environment) -> Result<String, Fault> {
    let mut rest = text.get_ref().as_str();
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(Fault::at(text.span(), "`${` without its `}`", "write ${NAME}"));
        };
        match environment.get(name) {
            Some(value) => out.push_str(value),
            None => return Err(not_set(text.span(), name)),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn not_set(span: Range<usize>, name: &str) -> Fault {
    Fault::at(
        span,
        format!("environment variable {name} is not set"),
        format!("set it, as in `export {name}=…`, before you start paceline"),
    )
}
