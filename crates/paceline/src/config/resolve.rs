//! From the fields as written to the typed settings of each crate, checked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paceline_cache::{FlightsConfig, MemoryConfig};
use paceline_gateway::http::{EdgeConfig, ServerTls, TlsFault, TlsFiles};
use paceline_gateway::{
    Chain, HedgeConfig, KeepAlive, KeepAliveConfig, LineConfig, Overflow, RetryConfig, StaticKey,
    StoredConfig,
};
use paceline_route::{HealthConfig, Order, QueueConfig};
use paceline_upstream::{
    AwsKey, Config as UpstreamConfig, Http2, PROVIDERS, Provider, Secret, Timeouts, Url,
};
use toml::Spanned;

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
    Http(Box<UpstreamConfig>, Vec<Vec<u8>>),
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
    let (deployments, found) = deployments(&raw.deployments, environment);
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

fn deployment(
    raw: &raw::Deployment,
    environment: &Environment,
) -> Result<Vec<ResolvedDeployment>, Vec<Fault>> {
    let mut faults = Vec::new();
    let name = raw.name.get_ref();
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "1 to 64 printable ASCII characters without spaces";
        faults.push(Fault::at(raw.name.span(), "`name` is no valid name", help));
    }
    let provider = provider(&raw.provider, name);
    let url = provider.as_ref().map_err(Clone::clone).and_then(|p| url(raw, p, environment));
    let keys = keys(raw, environment);
    let ca = raw.ca_file.as_ref().map(certificates).transpose();
    if raw.models.as_ref().is_some_and(Vec::is_empty) {
        faults.push(Fault::at(
            raw.name.span(),
            format!("`models` of `{name}` is empty, so it would serve nothing"),
            "name its models, or leave the field out to serve any",
        ));
    }
    let timeouts = &raw.timeouts;
    let ms = Duration::from_millis;
    let aws = raw.aws.as_ref().map(|aws| self::aws(aws, environment)).transpose();
    match (provider, url, keys, ca, aws) {
        (Ok(provider), Ok(url), Ok(keys), Ok(ca), Ok(aws)) if faults.is_empty() => {
            let config = UpstreamConfig {
                provider,
                aws,
                http2: match raw.http2 {
                    raw::Http2::Auto => Http2::Auto,
                    raw::Http2::Never => Http2::Never,
                    raw::Http2::Always => Http2::Always,
                },
                timeouts: Timeouts {
                    connect: ms(timeouts.connect_ms),
                    first_byte: ms(timeouts.first_byte_ms),
                    idle: ms(timeouts.idle_ms),
                    total: ms(timeouts.total_ms),
                    slot: ms(timeouts.slot_ms),
                },
                idle_connections_max: raw.idle_connections_max,
                idle_expiry: ms(raw.idle_expiry_ms),
                calls_max: raw.calls_max,
                whole_bytes_max: raw.whole_bytes_max,
                ..UpstreamConfig::new(name.as_str(), url)
            };
            let kind = if provider.engine { Kind::Engine } else { Kind::Provider };
            let ca = ca.unwrap_or_default();
            let resolved = |(name, api_key): (String, Option<Secret>)| {
                let config =
                    UpstreamConfig { name: name.as_str().into(), api_key, ..config.clone() };
                ResolvedDeployment {
                    name,
                    kind: raw.kind.unwrap_or(kind),
                    provider,
                    models: raw.models.clone(),
                    rename: raw.rename.clone().into_iter().collect(),
                    source: Source::Http(Box::new(config), ca.clone()),
                }
            };
            Ok(keys.into_iter().map(resolved).collect())
        }
        (provider, url, keys, ca, aws) => {
            // A URL that is missing for want of a provider is no fault of its own.
            let url = if provider.is_err() { None } else { url.err() };
            faults.extend([provider.err(), url, ca.err(), aws.err()].into_iter().flatten());
            faults.extend(keys.err().unwrap_or_default());
            Err(faults)
        }
    }
}

/// The deployments with their names and keys; an embedded engine where there are none.
fn deployments(
    raw: &[raw::Deployment],
    environment: &Environment,
) -> (Vec<ResolvedDeployment>, Vec<Fault>) {
    let (mut deployments, mut faults) = (Vec::<ResolvedDeployment>::new(), Vec::new());
    for deployment in raw {
        match self::deployment(deployment, environment) {
            Ok(resolved) => {
                for resolved in resolved {
                    if deployments.iter().any(|known| known.name == resolved.name) {
                        let message = format!("two deployments are named `{}`", resolved.name);
                        let help = "give each a name of its own";
                        faults.push(Fault::at(deployment.name.span(), message, help));
                    } else {
                        deployments.push(resolved);
                    }
                }
            }
            Err(found) => faults.extend(found),
        }
    }
    if deployments.is_empty() {
        deployments.push(ResolvedDeployment::engine("simulated".to_owned(), Source::Embedded));
    }
    (deployments, faults)
}

/// The names and keys of a deployment: one, or one for each of its keys.
fn keys(
    raw: &raw::Deployment,
    environment: &Environment,
) -> Result<Vec<(String, Option<Secret>)>, Vec<Fault>> {
    let name = raw.name.get_ref();
    let read = |key: &Spanned<String>| {
        let text = secret(key, environment)?;
        Secret::new(&text).ok_or_else(|| {
            let message = format!("a key of `{name}` has characters that no header may carry");
            Fault::at(key.span(), message, "look for a line break at its end")
        })
    };
    match (&raw.api_key, &raw.api_keys[..]) {
        (Some(key), []) => Ok(vec![(name.clone(), Some(read(key).map_err(|fault| vec![fault])?))]),
        (None, []) => Ok(vec![(name.clone(), None)]),
        (None, keys) => {
            let (mut read_keys, mut faults) = (Vec::new(), Vec::new());
            for (at, key) in (1..).zip(keys) {
                match read(key) {
                    Ok(key) => read_keys.push((format!("{name}/{at}"), Some(key))),
                    Err(fault) => faults.push(fault),
                }
            }
            if faults.is_empty() { Ok(read_keys) } else { Err(faults) }
        }
        (Some(key), _) => {
            let message = format!("`{name}` has both `api_key` and `api_keys`");
            Err(vec![Fault::at(key.span(), message, "move it to `api_keys`")])
        }
    }
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

fn aws(raw: &raw::Aws, environment: &Environment) -> Result<AwsKey, Fault> {
    let read = |text: &Spanned<String>| secret(text, environment);
    Ok(AwsKey {
        region: read(&raw.region)?,
        access_key_id: read(&raw.access_key_id)?,
        secret_access_key: read(&raw.secret_access_key)?,
        session_token: raw.session_token.as_ref().map(read).transpose()?,
    })
}

/// The provider that a deployment names.
fn provider(named: &Spanned<String>, deployment: &str) -> Result<&'static Provider, Fault> {
    Provider::find(named.get_ref()).ok_or_else(|| {
        let message = format!("`provider` of `{deployment}` is unknown: {}", named.get_ref());
        let names: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
        Fault::at(named.span(), message, format!("one of {}", names.join(", ")))
    })
}

/// The base URL of a deployment: its own, or its provider's.
fn url(
    raw: &raw::Deployment,
    provider: &Provider,
    environment: &Environment,
) -> Result<Url, Fault> {
    let name = raw.name.get_ref();
    let (text, span) = match (&raw.url, provider.url, &raw.aws) {
        (Some(url), ..) => (expand(url, environment)?, url.span()),
        (None, Some(url), _) => (url.to_owned(), raw.name.span()),
        (None, None, Some(aws)) => {
            let region = expand(&aws.region, environment)?;
            (format!("https://bedrock-runtime.{region}.amazonaws.com"), aws.region.span())
        }
        (None, None, None) => {
            let message =
                format!("`{name}` has no `url`, and `{}` has no usual one", provider.name);
            return Err(Fault::at(raw.name.span(), message, "add url = \"https://…\""));
        }
    };
    text.parse::<Url>().map_err(|error| {
        Fault::at(
            span,
            format!("`url` of `{name}` is no base URL: {error}"),
            "as in https://api.openai.com/v1",
        )
    })
}

fn certificates(path: &Spanned<String>) -> Result<Vec<Vec<u8>>, Fault> {
    let fail = |what: String| {
        Fault::at(
            path.span(),
            format!("`ca_file`: {what}"),
            "give the path of a PEM file with certificates",
        )
    };
    let pem = std::fs::read(path.get_ref())
        .map_err(|error| fail(format!("cannot read {}: {error}", path.get_ref())))?;
    let found = paceline_upstream::certificates(&pem);
    if found.is_empty() {
        return Err(fail(format!("{} holds no certificate", path.get_ref())));
    }
    Ok(found)
}

fn secret(text: &Spanned<String>, environment: &Environment) -> Result<String, Fault> {
    expand(text, environment).map(|text| text.trim().to_owned())
}

/// Replaces each `${NAME}` by the environment variable.
fn expand(text: &Spanned<String>, environment: &Environment) -> Result<String, Fault> {
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
