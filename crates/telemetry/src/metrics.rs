//! Counters, gauges and histograms that many cores update without sharing cache lines.
//!
//! Each type implements `EncodeMetric`, so it registers with a [`Registry`] like the
//! types of `prometheus-client`. Updates go to the shard of the calling thread; only the
//! exporter reads all shards. Measured costs: `observability.md`, 8 ns a counter update
//! and 15 ns a histogram update, against 53 and 164 ns for shared atomics on two threads.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

pub use prometheus_client::metrics::family::{Family, MetricConstructor};
pub use prometheus_client::registry::{Metric, Registry};

/// The labels of one member of a [`Family`]. Values come only from closed enums or from
/// configured names, and handles are made once, so the texts cost nothing per update.
pub type Labels = Vec<(&'static str, String)>;

/// Shards of every metric; threads beyond this many share.
const SHARDS: usize = 8;

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        shard.get()
    })
}

/// One cache line, so that shards do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded<T>(T);

/// A count that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<[Padded<AtomicU64>; SHARDS]>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0[shard()].0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum of all shards.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Counter {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Counter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A level that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<[Padded<AtomicI64>; SHARDS]>);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0[shard()].0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one until the guard drops.
    pub fn hold(&self) -> GaugeHold {
        self.add(1);
        GaugeHold(self.clone())
    }

    /// The sum of all shards.
    pub fn get(&self) -> i64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

/// Counts one in a [`Gauge`] for as long as it lives.
#[derive(Debug)]
pub struct GaugeHold(Gauge);

impl Drop for GaugeHold {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl TypedMetric for Gauge {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for Gauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A distribution of durations in fixed buckets, in seconds.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramShards>);

#[derive(Debug)]
struct HistogramShards {
    /// Upper bounds, in nanoseconds, ascending; one more bucket is open above.
    bounds_ns: &'static [u64],
    shards: Vec<Padded<HistogramShard>>,
}

#[derive(Debug)]
struct HistogramShard {
    sum_ns: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl Histogram {
    /// A histogram with the given upper bounds, in nanoseconds, ascending.
    pub fn new(bounds_ns: &'static [u64]) -> Self {
        let shard = || {
            let buckets = (0..=bounds_ns.len()).map(|_| AtomicU64::new(0)).collect();
            Padded(HistogramShard { sum_ns: AtomicU64::new(0), buckets })
        };
        Self(Arc::new(HistogramShards {
            bounds_ns,
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }))
    }

    /// Records one duration.
    pub fn record(&self, time: Duration) {
        self.record_many(time, 1);
    }

    /// Records the same duration `n` times.
    pub fn record_many(&self, time: Duration, n: u64) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.0.bounds_ns.partition_point(|bound| *bound < ns);
        let shard = &self.0.shards[shard()].0;
        shard.buckets[bucket].fetch_add(n, Ordering::Relaxed);
        shard.sum_ns.fetch_add(ns.saturating_mul(n), Ordering::Relaxed);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.0.shards.iter().flat_map(|s| &s.0.buckets).map(|b| b.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.0.bounds_ns.iter().map(|ns| *ns as f64 / 1e9).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .enumerate()
            .map(|(i, bound)| {
                let load = |s: &Padded<HistogramShard>| s.0.buckets[i].load(Ordering::Relaxed);
                (bound, self.0.shards.iter().map(load).sum())
            })
            .collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum_ns: u64 = self.0.shards.iter().map(|s| s.0.sum_ns.load(Ordering::Relaxed)).sum();
        encoder.encode_histogram::<prometheus_client::encoding::NoLabelSet>(
            sum_ns as f64 / 1e9,
            count,
            &buckets,
            None,
        )
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Writes a registry in the Prometheus text format.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)
        .expect("a string takes whatever is written");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_in_the_text() {
        let mut registry = Registry::default();
        let (calls, open) = (Counter::default(), Gauge::default());
        let times = Histogram::new(&[1_000_000, 10_000_000]);
        registry.register("calls", "Calls", calls.clone());
        registry.register("open", "Open", open.clone());
        registry.register("time_seconds", "Time", times.clone());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (calls, open, times) = (calls.clone(), open.clone(), times.clone());
                std::thread::spawn(move || {
                    let _open = open.hold();
                    calls.add(2);
                    times.record(Duration::from_millis(1));
                    times.record(Duration::from_millis(50));
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let text = encode(&registry);
        for line in [
            "calls_total 8",
            "open 0",
            "time_seconds_sum 0.204",
            "time_seconds_count 8",
            "time_seconds_bucket{le=\"0.001\"} 4",
            "time_seconds_bucket{le=\"0.01\"} 4",
            "time_seconds_bucket{le=\"+Inf\"} 8",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
