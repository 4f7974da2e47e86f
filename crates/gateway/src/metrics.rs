//! What this crate measures.

use std::sync::Arc;

use ::http::HeaderValue;
use paceline_core::CacheStatus;
use paceline_telemetry::metrics::{Counter, Family, Gauge, Histogram, Labels, Metric, Registry};

use crate::http::Refused;

const MS: u64 = 1_000_000;

/// From 1 ms to 10 min: whole calls, and the time to the first token.
const CALL_BOUNDS_NS: [u64; 18] = [
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1000 * MS,
    2500 * MS,
    5000 * MS,
    10_000 * MS,
    20_000 * MS,
    40_000 * MS,
    80_000 * MS,
    160_000 * MS,
    600_000 * MS,
];

/// From 1 ms to 10 s: between the events of a stream.
const EVENT_BOUNDS_NS: [u64; 14] = [
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    15 * MS,
    20 * MS,
    30 * MS,
    50 * MS,
    75 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1000 * MS,
    10_000 * MS,
];

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With an answer.
    Answered,
    /// Refused for the caller's fault.
    Rejected,
    /// With an error status of the upstream's.
    UpstreamError,
    /// With an error of ours, or because the upstream gave no answer.
    Failed,
    /// In the middle of its stream.
    Broken,
    /// The caller went away.
    Cancelled,
}

impl Outcome {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Answered, "answered"),
        (Self::Rejected, "rejected"),
        (Self::UpstreamError, "upstream_error"),
        (Self::Failed, "failed"),
        (Self::Broken, "broken"),
        (Self::Cancelled, "cancelled"),
    ];
}

/// The metrics of the gateway, shared by all cores.
#[derive(Clone)]
pub struct Metrics {
    outcomes: [Counter; 6],
    cache: [Counter; 4],
    refused: [Counter; 5],
    pub(crate) in_flight: Gauge,
    connections: Gauge,
    /// Calls that wait for a provider's limits, and how long they did.
    pub(crate) waiting: Gauge,
    pub(crate) waited: Histogram,
    /// Attempts beyond the first at a model.
    pub(crate) retries: Counter,
    /// Calls that were sent twice, since they were late, and those of them whose second
    /// attempt answered first.
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
    /// Streams that broke off and went on elsewhere.
    pub(crate) continued: Counter,
    /// Calls that went on to another model.
    pub(crate) fallbacks: Counter,
    pub(crate) saved: UpstreamMetrics,
    upstreams: Arc<[UpstreamMetrics]>,
}

/// The metrics of the answers of one deployment.
#[derive(Clone)]
pub(crate) struct UpstreamMetrics {
    pub(crate) name: Arc<str>,
    /// The name as a response header.
    pub(crate) header: HeaderValue,
    pub(crate) simulated: bool,
    pub(crate) duration: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) between_events: Histogram,
    pub(crate) input: Counter,
    pub(crate) cached: Counter,
    pub(crate) output: Counter,
}

/// Registers a metric, and gives it back.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    register(registry, name, help, Counter::default())
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    register(registry, name, help, Gauge::default())
}

/// Registers what is measured of the answers of deployments; gives it for each by its name.
fn of_upstreams(registry: &mut Registry) -> impl Fn(&str, bool) -> UpstreamMetrics {
    let calls = || Histogram::new(&CALL_BOUNDS_NS);
    let duration = register(
        registry,
        "paceline_request_duration_seconds",
        "From a call's arrival to the last byte of its answer, by what answered it",
        Family::new_with_constructor(calls as fn() -> Histogram),
    );
    let first = register(
        registry,
        "paceline_time_to_first_token_seconds",
        "From a streamed call's arrival to the first events of its answer",
        Family::new_with_constructor(calls as fn() -> Histogram),
    );
    let events = || Histogram::new(&EVENT_BOUNDS_NS);
    let between = register(
        registry,
        "paceline_inter_token_latency_seconds",
        "Between the events of a stream; events that come together share their time",
        Family::new_with_constructor(events as fn() -> Histogram),
    );
    let tokens = register(
        registry,
        "paceline_tokens",
        "Tokens as upstreams report them; `input` includes `input_cached`, and upstream `kept` are those of kept answers",
        Family::<Labels, Counter>::default(),
    );
    move |name, simulated| {
        let label: Labels = vec![("upstream", name.to_owned())];
        let tokens_of = |kind: &str| {
            let labels = [&label[..], &[("kind", kind.to_owned())]].concat();
            tokens.get_or_create(&labels).clone()
        };
        UpstreamMetrics {
            name: Arc::from(name),
            header: HeaderValue::try_from(name).unwrap_or_else(|_| HeaderValue::from_static("?")),
            simulated,
            duration: duration.get_or_create(&label).clone(),
            first_token: first.get_or_create(&label).clone(),
            between_events: between.get_or_create(&label).clone(),
            input: tokens_of("input"),
            cached: tokens_of("input_cached"),
            output: tokens_of("output"),
        }
    }
}

impl Metrics {
    /// Registers the metrics; `upstreams` are the deployments' names, and whether each is
    /// simulated.
    pub fn register(registry: &mut Registry, upstreams: &[(&str, bool)]) -> Self {
        let requests = register(
            registry,
            "paceline_requests",
            "Calls, by how they ended",
            Family::<Labels, Counter>::default(),
        );
        let cache = register(
            registry,
            "paceline_cache_requests",
            "Answered calls, by where the answer came from",
            Family::<Labels, Counter>::default(),
        );
        let refused = register(
            registry,
            "paceline_refused",
            "Connections and requests turned away before they were calls",
            Family::<Labels, Counter>::default(),
        );
        let in_flight = gauge(registry, "paceline_requests_in_flight", "Calls under way");
        let connections = gauge(registry, "paceline_client_connections", "Open client connections");
        let waiting =
            gauge(registry, "paceline_queue_calls", "Calls that wait for a provider's limits");
        let waited = register(
            registry,
            "paceline_queue_wait_seconds",
            "How long calls waited for a provider's limits",
            Histogram::new(&CALL_BOUNDS_NS),
        );
        let retries = counter(registry, "paceline_retries", "Attempts beyond a call's first");
        let fallbacks = counter(
            registry,
            "paceline_fallbacks",
            "Times that a call went on to the next model of its route",
        );
        let hedges = counter(registry, "paceline_hedges", "Calls sent twice, as they were late");
        let hedges_won = counter(
            registry,
            "paceline_hedges_won",
            "Calls sent twice whose second attempt answered first",
        );
        let continued = counter(
            registry,
            "paceline_streams_continued",
            "Streams that broke off and went on at another deployment",
        );
        let upstream = of_upstreams(registry);
        Self {
            outcomes: Outcome::ALL.map(|(_, name)| {
                requests.get_or_create(&vec![("outcome", name.to_owned())]).clone()
            }),
            cache: CACHE.map(|status| {
                cache.get_or_create(&vec![("result", status.as_str().to_owned())]).clone()
            }),
            refused: Refused::ALL
                .map(|(_, name)| refused.get_or_create(&vec![("reason", name.to_owned())]).clone()),
            in_flight,
            connections,
            waiting,
            waited,
            retries,
            hedges,
            continued,
            hedges_won,
            fallbacks,
            saved: upstream("kept", false),
            upstreams: upstreams
                .iter()
                .map(|(name, simulated)| upstream(name, *simulated))
                .collect(),
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }

    pub(crate) fn refused(&self, why: Refused) {
        self.refused[why as usize].inc();
    }

    pub(crate) fn count_cache(&self, status: CacheStatus) {
        if let Some(at) = CACHE.iter().position(|known| *known == status) {
            self.cache[at].inc();
        }
    }

    /// The metrics of a deployment, or of the kept answers.
    pub(crate) fn upstream(&self, name: Option<&Arc<str>>) -> &UpstreamMetrics {
        let find =
            |name: &Arc<str>| self.upstreams.iter().find(|upstream| *upstream.name == **name);
        name.and_then(find).unwrap_or(&self.saved)
    }

    /// Open client connections.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Calls that are under way now.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }
}

const CACHE: [CacheStatus; 4] =
    [CacheStatus::Hit, CacheStatus::Joined, CacheStatus::Miss, CacheStatus::Bypass];
