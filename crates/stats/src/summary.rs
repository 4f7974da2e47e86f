//! A latency distribution in bounded memory.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones: 100 hours.
const MICROS_MAX: u64 = 100 * 3600 * 1_000_000;

/// Latencies, counted in microseconds with three significant digits: every quantile is at
/// most 0.1 % (or 1 µs) too high, and the memory is below 250 KB however many are recorded.
#[derive(Clone, Debug)]
pub struct Summary {
    histogram: Histogram<u64>,
    /// Exact, for the mean.
    total_ns: u128,
    max_ns: u64,
}

impl Default for Summary {
    fn default() -> Self {
        let mut histogram = Histogram::new_with_bounds(1, 2_000_000, 3)
            .expect("bounds and digits are within the crate's limits");
        histogram.auto(true);
        Self { histogram, total_ns: 0, max_ns: 0 }
    }
}

impl Summary {
    /// Counts one latency; more than 100 hours count as 100 hours in quantiles.
    pub fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// Counts `count` equal latencies.
    pub fn record_many(&mut self, latency: Duration, count: u64) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        // Half a microsecond is rounded up, so that short gaps do not all become zero.
        let micros = (ns.saturating_add(500) / 1000).min(MICROS_MAX);
        self.count_micros(micros, count);
        self.total_ns += u128::from(ns) * u128::from(count);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for value in other.histogram.iter_recorded() {
            self.count_micros(value.value_iterated_to(), value.count_since_last_iteration());
        }
        self.total_ns += other.total_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    fn count_micros(&mut self, micros: u64, count: u64) {
        // A value beyond the present bounds widens them; the bound above keeps that small,
        // and where memory lacks even so, the value counts as the largest that fits.
        if self.histogram.record_n(micros, count).is_err() {
            self.histogram.saturating_record_n(micros, count);
        }
    }

    /// How many latencies were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The mean, in seconds, exact; `None` without samples.
    pub fn mean_s(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.total_ns as f64 / count as f64 / 1e9)
    }

    /// The longest, in seconds, exact; `None` without samples.
    pub fn max_s(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.max_ns as f64 / 1e9)
    }

    /// The latency, in seconds, that a share `q` of the samples do not exceed, with the
    /// error stated above; `None` without samples.
    pub fn quantile_s(&self, q: f64) -> Option<f64> {
        let max_s = self.max_s()?;
        Some((self.histogram.value_at_quantile(q) as f64 / 1e6).min(max_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_samples() {
        let mut summary = Summary::default();
        assert_eq!(
            (summary.mean_s(), summary.quantile_s(0.5), summary.max_s()),
            (None, None, None)
        );
        for ms in 1..=100 {
            summary.record(Duration::from_millis(ms));
        }
        assert_eq!(summary.count(), 100);
        assert_eq!(summary.mean_s(), Some(0.0505));
        assert_eq!(summary.max_s(), Some(0.1));
        for (q, expected) in [(0.5, 0.05), (0.95, 0.095), (0.99, 0.099), (1.0, 0.1)] {
            let found = summary.quantile_s(q).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-3, "q {q}: {found}");
        }
    }

    #[test]
    fn long_latencies_are_kept() {
        let mut summary = Summary::default();
        summary.record(Duration::from_secs(3600));
        summary.record_many(Duration::from_secs(u64::MAX / 2), 1);
        assert!((summary.quantile_s(0.5).unwrap() / 3600.0 - 1.0).abs() < 1e-3);
        assert!((summary.quantile_s(1.0).unwrap() / 360_000.0 - 1.0).abs() < 1e-3);
    }

    proptest::proptest! {
        #[test]
        fn near_the_exact_quantiles_also_merged(
            samples in proptest::collection::vec(1_000u64..100_000_000_000, 1..200),
            cut in 0usize..200, q in 0.0f64..=1.0,
        ) {
            let (mut one, mut two) = (Summary::default(), Summary::default());
            for (at, ns) in samples.iter().enumerate() {
                let part = if at < cut { &mut one } else { &mut two };
                part.record(Duration::from_nanos(*ns));
            }
            one.merge(&two);
            let mut exact: Vec<f64> = samples.iter().map(|ns| *ns as f64 / 1e9).collect();
            let [exact] = crate::quantiles(&mut exact, [q]).unwrap();
            let found = one.quantile_s(q).unwrap();
            proptest::prop_assert!((found - exact).abs() <= exact * 2e-3 + 2e-6, "{found} {exact}");
            proptest::prop_assert_eq!(one.count(), samples.len() as u64);
        }
    }
}
