//! The fields of `paceline.toml`, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Raw {
    /// The gateway's listener.
    pub(crate) server: Server,
    /// Logs.
    pub(crate) log: Log,
    /// Keys that clients must show. Without any, everybody who reaches the listener may
    /// call, and the caller's own credential goes on to the upstream.
    pub(crate) keys: Vec<Key>,
    /// Where models can be called. Without any, an embedded simulated engine answers.
    pub(crate) deployments: Vec<Deployment>,
    /// Names that stand for several models, tried in order.
    pub(crate) routes: Vec<Route>,
    /// Passive health of the deployments.
    pub(crate) health: Health,
    /// When and how often a call is sent again.
    pub(crate) retry: Retry,
    /// Calls that are sent a second time when their answer is late.
    pub(crate) hedge: Hedge,
    /// How calls wait for the limits of providers.
    pub(crate) queue: Queue,
    /// Kept replies.
    pub(crate) cache: Cache,
    /// How long the addresses of hosts are remembered.
    pub(crate) dns: Dns,
    /// Answers that may be asked for again.
    pub(crate) responses: KeptResponses,
    /// Equal calls under way.
    pub(crate) flights: Flights,
    /// The simulated engine: that of `paceline sim`, and the embedded one.
    pub(crate) sim: paceline_sim::Config,
}

/// The gateway's listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    /// Address and port. Default: `127.0.0.1:8000`. Port 0 takes any free one.
    #[schemars(with = "String")]
    pub(crate) listen: Spanned<String>,
    /// Threads, each with its own listener and connections. Default: one a core.
    pub(crate) threads: Option<u32>,
    /// Longest request body, in bytes. Default: 67108864 (64 MiB).
    pub(crate) body_bytes_max: usize,
    /// Time for a request body to arrive, in milliseconds. Default: 60000.
    pub(crate) body_timeout_ms: u64,
    /// Time for a request's head to arrive, and for an idle connection to be used again, in
    /// milliseconds. Default: 75000.
    pub(crate) head_timeout_ms: u64,
    /// Longest head of a request, its line and its headers, in bytes; at least 8192.
    /// Default: 65536 (64 KiB).
    pub(crate) head_bytes_max: usize,
    /// Most connections at a time; further ones are closed at once. Default: 16384.
    pub(crate) connections_max: usize,
    /// Which answers from 1 KiB on are packed (zstd, br, gzip) for clients whose
    /// `Accept-Encoding` takes that: `never`, `whole` (those that are no streams) or `always`
    /// (streams too, which costs memory and time for each of them). Default: `never`.
    pub(crate) compress_responses: Compress,
    /// TLS. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<ServerTls>,
    /// Who gets comments as signs of life while a stream waits for a provider's limits or its
    /// first token: `accepting` (callers whose `Accept` names `text/event-stream`), `all`, or
    /// `nobody`. Once one has gone out, errors come as events. Default: `accepting`.
    pub(crate) keep_alive: KeepAlive,
    /// After how much silence, in milliseconds. Default: 15000.
    pub(crate) keep_alive_ms: u64,
    /// Time that open answers get after SIGTERM, in milliseconds. Default: 30000.
    pub(crate) drain_ms: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Spanned::new(0..0, "127.0.0.1:8000".to_owned()),
            threads: None,
            body_bytes_max: 64 << 20,
            body_timeout_ms: 60_000,
            head_timeout_ms: 75_000,
            head_bytes_max: 64 << 10,
            connections_max: 16_384,
            compress_responses: Compress::Never,
            tls: None,
            keep_alive: KeepAlive::Accepting,
            keep_alive_ms: 15_000,
            drain_ms: 30_000,
        }
    }
}

/// TLS of the listener. The files are read again when they change, and on SIGHUP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerTls {
    /// Path of a PEM file with the certificate, and those between it and its authority.
    /// Needed.
    #[schemars(with = "String")]
    pub(crate) certificate: Spanned<String>,
    /// Path of a PEM file with its private key. Needed.
    #[schemars(with = "String")]
    pub(crate) key: Spanned<String>,
    /// Path of a PEM file with the authorities of clients; clients then show certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_ca: Option<String>,
    /// Whether a client without a certificate is refused, where `client_ca` is given.
    /// Default: true.
    #[serde(default = "yes")]
    pub(crate) client_required: bool,
}

fn yes() -> bool {
    true
}

/// Which answers are packed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compress {
    /// None.
    Never,
    /// Those that are no streams.
    Whole,
    /// Streams too.
    Always,
}

/// Who gets signs of life.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeepAlive {
    /// Who says that they take streams of events.
    Accepting,
    /// Everybody.
    All,
    /// Nobody.
    Nobody,
}

/// Logs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or a list such as
    /// `info,paceline_upstream=debug`. Default: `info`.
    pub(crate) level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

/// A key that clients show as `Authorization: Bearer …`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Who pays, and who shares kept replies.
    #[schemars(with = "String")]
    pub(crate) tenant: Spanned<String>,
    /// The key, mostly as `${NAME}` of an environment variable.
    #[schemars(with = "String")]
    pub(crate) key: Spanned<String>,
}

/// One place where models can be called.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deployment {
    /// Its name in headers, metrics and logs.
    #[schemars(with = "String")]
    pub(crate) name: Spanned<String>,
    /// What it speaks: `openai-compatible`, `openai`, `azure`, `anthropic`, `gemini`,
    /// `bedrock`, `mistral`, `groq`, `deepseek`, `together`, `fireworks`, `openrouter`, `vllm`,
    /// `sglang`, `llama.cpp`, `ollama` or `paceline-sim`. Default: `openai-compatible`.
    #[schemars(with = "String")]
    #[serde(default = "provider")]
    pub(crate) provider: Spanned<String>,
    /// Base URL, with or without `/v1`. Default: the provider's own, where it has one.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<Spanned<String>>,
    /// Sent instead of the caller's key, mostly as `${NAME}` of an environment variable.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<Spanned<String>>,
    /// Several keys instead of one. Each has a load, limits and a health of its own, so that
    /// calls go on with the others when one is refused; the deployments are then named
    /// `NAME/1`, `NAME/2` and so on.
    #[schemars(with = "Vec<String>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_keys: Vec<Spanned<String>>,
    /// An AWS key that signs each request, for `bedrock`; its region gives the URL too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aws: Option<Aws>,
    /// For `azure`: the date of its API, such as `2024-10-21`, where the resource does not
    /// serve `/openai/v1` yet. The model's name is then that of Azure's deployment. Default:
    /// none.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_version: Option<Spanned<String>>,
    /// The models that it serves, by the names that callers use. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) models: Option<Vec<String>>,
    /// The upstream's own names of models, by the names that callers use: `{ fast = "gpt-x" }`.
    /// A model that is not here has the same name for both. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) rename: BTreeMap<String, String>,
    /// `engine` for a replica with a prefix cache, where runs stay with their replica;
    /// `provider` otherwise. Default: what the provider is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Kind>,
    /// `auto` (HTTP/2 where the server offers it in the TLS handshake), `never`, `always`.
    /// Default: `auto`.
    #[serde(default)]
    pub(crate) http2: Http2,
    /// Path of a PEM file with further certificate authorities to trust.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<Spanned<String>>,
    /// Path of a PEM file with a certificate that is shown to the server.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_certificate: Option<Spanned<String>>,
    /// Path of a PEM file with its private key.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_key: Option<Spanned<String>>,
    /// The proxy on the way to it, as `http://USER:PASSWORD@HOST:PORT`, or `none`. Default:
    /// what `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment say.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<Spanned<String>>,
    /// Packs the bodies of requests from 1 KiB on, as `zstd` or `gzip`, for a server that takes
    /// that (most do not). Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) compress_requests: Option<Coding>,
    /// Time limits.
    #[serde(default)]
    pub(crate) timeouts: Timeouts,
    /// Connections that are opened at the start and kept open; with HTTP/2 one a thread is.
    /// Default: 50 for `openai`, 25 for `anthropic`, 10 for other providers with a service of
    /// their own, 0 for all other servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle_connections_min: Option<usize>,
    /// Most idle connections kept; a burst opens more, and closes them after. Default: 100
    /// (50 for `anthropic`) for providers with a service of their own, 512 for other servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle_connections_max: Option<usize>,
    /// How long an idle connection is kept, in milliseconds; less where the server says so.
    /// Default: 30000.
    #[serde(default = "idle_expiry_ms")]
    pub(crate) idle_expiry_ms: u64,
    /// Most calls under way, per thread. Default: 4096.
    #[serde(default = "calls_max")]
    pub(crate) calls_max: usize,
    /// Replies up to this many bytes are held and checked whole. Default: 4194304.
    #[serde(default = "whole_bytes_max")]
    pub(crate) whole_bytes_max: usize,
}

impl Deployment {
    /// A deployment of any models with the defaults.
    pub(crate) fn new(name: String, url: String, kind: Kind) -> Self {
        Self {
            name: Spanned::new(0..0, name),
            provider: provider(),
            url: Some(Spanned::new(0..0, url)),
            api_key: None,
            api_keys: Vec::new(),
            aws: None,
            api_version: None,
            models: None,
            rename: BTreeMap::new(),
            kind: Some(kind),
            http2: Http2::Auto,
            ca_file: None,
            client_certificate: None,
            client_key: None,
            proxy: None,
            compress_requests: None,
            idle_connections_min: None,
            timeouts: Timeouts::default(),
            idle_connections_max: None,
            idle_expiry_ms: idle_expiry_ms(),
            calls_max: calls_max(),
            whole_bytes_max: whole_bytes_max(),
        }
    }
}

fn provider() -> Spanned<String> {
    Spanned::new(0..0, "openai-compatible".to_owned())
}

const fn idle_expiry_ms() -> u64 {
    30_000
}

const fn calls_max() -> usize {
    4096
}

const fn whole_bytes_max() -> usize {
    4 << 20
}

/// An AWS access key.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Aws {
    /// Such as `us-east-1`.
    #[schemars(with = "String")]
    pub(crate) region: Spanned<String>,
    /// The key's name, mostly as `${AWS_ACCESS_KEY_ID}`.
    #[schemars(with = "String")]
    pub(crate) access_key_id: Spanned<String>,
    /// The secret, mostly as `${AWS_SECRET_ACCESS_KEY}`.
    #[schemars(with = "String")]
    pub(crate) secret_access_key: Spanned<String>,
    /// The token of a temporary key, mostly as `${AWS_SESSION_TOKEN}`.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_token: Option<Spanned<String>>,
}

/// What kind of server a deployment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// One replica of an inference engine.
    Engine,
    /// A provider's service.
    #[default]
    Provider,
}

/// How bodies of requests are packed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Coding {
    /// Zstandard.
    Zstd,
    /// gzip.
    Gzip,
}

/// Which HTTP version to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Http2 {
    /// Where the server offers it.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Never,
    /// HTTP/2 only.
    Always,
}

/// Time limits of an exchange, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// For a connection, TLS included. Default: 5000.
    pub(crate) connect_ms: u64,
    /// From the request to the head of the reply. Default: 600000.
    pub(crate) first_byte_ms: u64,
    /// Between two pieces of the body. Default: 120000.
    pub(crate) idle_ms: u64,
    /// For the whole exchange. Default: 3600000.
    pub(crate) total_ms: u64,
    /// For a slot below `calls_max`. Default: 2000.
    pub(crate) slot_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_ms: 5000,
            first_byte_ms: 600_000,
            idle_ms: 120_000,
            total_ms: 3_600_000,
            slot_ms: 2000,
        }
    }
}

/// When a failing deployment is left out while others are healthy.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Health {
    /// Failures in a row that take it out. Default: 5.
    pub(crate) failures_max: u32,
    /// The share of failures among its last calls, at least 20 of them, from which a
    /// deployment is left out as an outlier; above 0, and 1 for never. Default: 0.5.
    pub(crate) failed_share_max: f64,
    /// The share of a model's deployments that may be left out as outliers; those that fail
    /// each time are left out in any case. Default: 0.5.
    pub(crate) outliers_share_max: f64,
    /// How long it is left out at first, in milliseconds; doubled each time. Default: 1000.
    pub(crate) open_ms: u64,
    /// The longest time that it is left out, in milliseconds. Default: 60000.
    pub(crate) open_ms_max: u64,
    /// How long a deployment that is back takes to get its full share of calls, in
    /// milliseconds. Default: 10000.
    pub(crate) slow_start_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            failures_max: 5,
            failed_share_max: 0.5,
            outliers_share_max: 0.5,
            open_ms: 1000,
            open_ms_max: 60_000,
            slow_start_ms: 10_000,
        }
    }
}

/// When and how often a call is sent again. Nothing is sent again once a part of the answer
/// has gone to the caller.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retry {
    /// Most attempts of one call at one model, the first included. Default: 3.
    pub(crate) attempts_max: u32,
    /// The longest wait before the second attempt, in milliseconds; doubled with each further
    /// one, and the wait is drawn between nothing and that. Default: 500.
    pub(crate) backoff_ms: u64,
    /// The longest wait that the backoff, or an upstream's `Retry-After`, may ask for, in
    /// milliseconds; a call that would wait longer gets the upstream's error. Default: 30000.
    pub(crate) wait_ms_max: u64,
    /// Whether a stream of text that breaks off after its first content goes on at another
    /// deployment, which is given what has come as the beginning of its answer (where the
    /// provider can: `anthropic`, `mistral`, `openrouter`, `vllm`, `sglang`, `llama.cpp`,
    /// `ollama`). Where it went on is told in the stream. Default: false.
    pub(crate) continue_streams: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts_max: 3, backoff_ms: 500, wait_ms_max: 30_000, continue_streams: false }
    }
}

/// Calls that are sent a second time, to another deployment, when their answer is late. The
/// first answer counts, and the other attempt is cancelled.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hedge {
    /// Whether calls are. Default: false.
    pub(crate) enabled: bool,
    /// The share of a deployment's answers that begin sooner than one that is late, as
    /// learned from the last thousand; above 0 and below 1. Default: 0.95.
    pub(crate) quantile: f64,
    /// What second attempts may take, as a share of the tokens of all calls; at most 1.
    /// Default: 0.02.
    pub(crate) spend_share_max: f64,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { enabled: false, quantile: 0.95, spend_share_max: 0.02 }
    }
}

/// How long the addresses of hosts are remembered. The machine's resolver is asked, which
/// tells no times of its own.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dns {
    /// An answer, in milliseconds. Default: 30000.
    pub(crate) ttl_ms: u64,
    /// That a name has no address, in milliseconds. Default: 1000.
    pub(crate) negative_ttl_ms: u64,
    /// The last answer while the resolver fails, in milliseconds. Default: 3600000.
    pub(crate) stale_ms: u64,
}

impl Default for Dns {
    fn default() -> Self {
        Self { ttl_ms: 30_000, negative_ttl_ms: 1000, stale_ms: 3_600_000 }
    }
}

/// Answers of OpenAI's Responses that may be asked for again, or continued by
/// `previous_response_id`: those that were translated are kept here, of the others only which
/// deployment keeps them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeptResponses {
    /// Bytes of all that is kept; the oldest that nobody asks for go first. 0 keeps nothing.
    /// Default: 67108864 (64 MiB).
    pub(crate) bytes_max: u64,
    /// Bytes of one answer and the conversation before it; longer ones are not kept.
    /// Default: 4194304 (4 MiB).
    pub(crate) entry_bytes_max: usize,
    /// How long they are kept, in seconds. Default: 86400.
    pub(crate) ttl_s: u64,
}

impl Default for KeptResponses {
    fn default() -> Self {
        Self { bytes_max: 64 << 20, entry_bytes_max: 4 << 20, ttl_s: 86_400 }
    }
}

/// How calls wait where a provider's limits hold them back. Limits (requests or tokens a
/// minute, calls at a time) are learned from refusals and headers; until the first of these
/// all calls pass.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Queue {
    /// Whether limits are learned and calls wait; else a refusal is only tried again as
    /// `[retry]` says. Default: true.
    pub(crate) learn: bool,
    /// Most calls that wait for one model. Default: 10000.
    pub(crate) len_max: usize,
    /// Longest wait of one call, in milliseconds; a deadline of its own may be sooner.
    /// Default: 600000.
    pub(crate) wait_ms_max: u64,
    /// A call gains a level of priority each time that it has waited so long, in
    /// milliseconds, so that nothing starves. Default: 30000.
    pub(crate) ageing_ms: u64,
    /// Which call of one priority goes first: `fair` (tenants and runs by tokens served) or
    /// `oldest-run`. Default: `fair`.
    pub(crate) order: Order,
    /// What happens to a call that finds the queue full: `refuse` it (429), `drop` the oldest
    /// of the lowest priority in its place, or `spill` it to the next model of its route.
    /// Default: `refuse`.
    pub(crate) overflow: Overflow,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            learn: true,
            len_max: 10_000,
            wait_ms_max: 600_000,
            ageing_ms: 30_000,
            order: Order::Fair,
            overflow: Overflow::Refuse,
        }
    }
}

/// Which call of one priority goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Tenants and runs by tokens served.
    Fair,
    /// The run that began first.
    OldestRun,
}

/// What happens to a call that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Overflow {
    /// It is refused.
    Refuse,
    /// The oldest of the lowest priority is.
    Drop,
    /// It goes to the next model.
    Spill,
}

/// A name that stands for several models.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// The name that callers use.
    #[schemars(with = "String")]
    pub(crate) model: Spanned<String>,
    /// The models that answer for it; each is tried when those before it have failed in a way
    /// that another one may mend (rate, overload, outage, a refused key; never a refused
    /// request or a content filter).
    #[schemars(with = "Vec<String>")]
    pub(crate) models: Spanned<Vec<String>>,
    /// The model for prompts that do not fit the others. Default: none.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) longer: Option<Spanned<String>>,
}

/// Replies kept in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cache {
    /// Bytes of all kept replies and their keys; 0 keeps none. Default: 268435456 (256 MiB).
    pub(crate) memory_bytes_max: u64,
    /// Bytes of one kept reply and its key. Default: 1048576 (1 MiB).
    pub(crate) entry_bytes_max: usize,
    /// How long a reply is served, in seconds. Default: 3600.
    pub(crate) ttl_s: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { memory_bytes_max: 256 << 20, entry_bytes_max: 1 << 20, ttl_s: 3600 }
    }
}

/// Equal calls under way.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Flights {
    /// Bytes of an answer held for those who join late. Default: 4194304 (4 MiB).
    pub(crate) bytes_max: usize,
}

impl Default for Flights {
    fn default() -> Self {
        Self { bytes_max: 4 << 20 }
    }
}
