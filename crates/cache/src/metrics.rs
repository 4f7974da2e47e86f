//! What this crate measures.

use paceline_telemetry::metrics::{Counter, Gauge, Registry};

/// The metrics of the reply cache and the flights, shared by all cores.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) kept: Counter,
    pub(crate) kept_bytes: Counter,
    pub(crate) too_large: Counter,
    pub(crate) flights: Gauge,
    pub(crate) joined: Counter,
    pub(crate) lagged: Counter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("paceline_cache_kept", "Replies put into memory", metrics.kept.clone());
        registry.register(
            "paceline_cache_kept_bytes",
            "Bytes of the replies put into memory, with their keys",
            metrics.kept_bytes.clone(),
        );
        registry.register(
            "paceline_cache_too_large",
            "Replies not kept because they exceed the bound of an entry",
            metrics.too_large.clone(),
        );
        registry.register(
            "paceline_flights_open",
            "Upstream calls under way that equal calls may join",
            metrics.flights.clone(),
        );
        registry.register(
            "paceline_flights_joined",
            "Calls that joined an equal one",
            metrics.joined.clone(),
        );
        registry.register(
            "paceline_flights_lagged",
            "Readers of a shared answer that were cut off because they fell too far behind",
            metrics.lagged.clone(),
        );
        metrics
    }

    /// Flights that are open now.
    pub fn flights_open(&self) -> i64 {
        self.flights.get()
    }
}
