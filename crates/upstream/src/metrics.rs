//! What this crate measures, per deployment.

use paceline_telemetry::metrics::{Counter, Family, Gauge, Labels, Registry};

/// The metrics of one deployment, shared by all cores.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) answered: Counter,
    pub(crate) refused: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) broken: Counter,
    pub(crate) retried: Counter,
    pub(crate) opened: Counter,
    pub(crate) reused: Counter,
    pub(crate) open: Gauge,
    pub(crate) idle: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) slot_waits: Counter,
}

impl Metrics {
    /// Registers the metrics of the named deployments; the result is in their order.
    pub fn register(registry: &mut Registry, names: &[&str]) -> Vec<Self> {
        let attempts = Family::<Labels, Counter>::default();
        let connections = Family::<Labels, Counter>::default();
        let waits = Family::<Labels, Counter>::default();
        let [open, idle, in_flight] = [(); 3].map(|()| Family::<Labels, Gauge>::default());
        registry.register(
            "paceline_upstream_attempts",
            "Requests sent to an upstream, by how they ended; retried ones were sent again on a fresh connection",
            attempts.clone(),
        );
        registry.register(
            "paceline_upstream_connections",
            "Connections used, by whether they were opened for the request or reused",
            connections.clone(),
        );
        registry.register(
            "paceline_upstream_slot_waits",
            "Requests that waited because the upstream's bound of calls was reached",
            waits.clone(),
        );
        registry.register("paceline_upstream_connections_open", "Open connections", open.clone());
        registry.register(
            "paceline_upstream_connections_idle",
            "Idle pooled connections",
            idle.clone(),
        );
        registry.register("paceline_upstream_in_flight", "Requests under way", in_flight.clone());
        let of = |name: &&str| {
            let labels = |key: Option<&'static str>, value: &str| {
                let mut labels: Labels = vec![("upstream", (*name).to_owned())];
                labels.extend(key.map(|key| (key, value.to_owned())));
                labels
            };
            let attempt =
                |outcome| attempts.get_or_create(&labels(Some("outcome"), outcome)).clone();
            let connection =
                |source| connections.get_or_create(&labels(Some("source"), source)).clone();
            let label = labels(None, "");
            Self {
                answered: attempt("answered"),
                refused: attempt("refused"),
                timed_out: attempt("timed_out"),
                broken: attempt("broken"),
                retried: attempt("retried"),
                opened: connection("opened"),
                reused: connection("reused"),
                open: open.get_or_create(&label).clone(),
                idle: idle.get_or_create(&label).clone(),
                in_flight: in_flight.get_or_create(&label).clone(),
                slot_waits: waits.get_or_create(&label).clone(),
            }
        };
        names.iter().map(of).collect()
    }

    /// Connections that are open now.
    pub fn connections_open(&self) -> i64 {
        self.open.get()
    }

    /// Requests that are under way now.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }
}
