//! Is B really better than A? Paired ratios over seeds, and intervals of single runs.
//!
//! The unit is a pair of runs, never a request: requests of one run share its queues and
//! caches, so tests over requests call most equal pairs different.

use crate::quantile::{mean, quantiles};
use crate::student::t_quantile;

/// A two-sided confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How many times as large a metric is under B as under A, over pairs of runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The geometric mean of B/A.
    pub ratio: f64,
    /// Its confidence interval; `None` with fewer than two pairs.
    pub interval: Option<Interval>,
    /// Pairs.
    pub pairs: usize,
}

/// The geometric mean ratio of `(a, b)` pairs with a two-sided t interval at `level`
/// (for example 0.95).
///
/// With d = ln(b/a) per pair, mean m and sample deviation s, the interval is
/// exp(m ± t(1 − (1 − level)/2, n − 1) · s/√n).
/// `None` without pairs, or when a value is not positive and finite, since it then has no
/// logarithm.
pub fn paired_ratio(pairs: &[(f64, f64)], level: f64) -> Option<Ratio> {
    if pairs.iter().any(|(a, b)| !(*a > 0.0 && *b > 0.0 && a.is_finite() && b.is_finite())) {
        return None;
    }
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (b / a).ln()).collect();
    let ratio = mean(&logs)?.exp();
    let interval = mean_interval(&logs, level)
        .map(|logs| Interval { low: logs.low.exp(), high: logs.high.exp() });
    Some(Ratio { ratio, interval, pairs: pairs.len() })
}

/// The two-sided t interval of the mean at `level`; `None` with fewer than two samples.
pub fn mean_interval(samples: &[f64], level: f64) -> Option<Interval> {
    if samples.len() < 2 {
        return None;
    }
    let n = samples.len() as f64;
    let mean = mean(samples)?;
    let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = t_quantile(0.5 + 0.5 * level, n - 1.0) * (variance / n).sqrt();
    Some(Interval { low: mean - half, high: mean + half })
}

/// The percentile bootstrap interval of a statistic at `level`: `resamples` draws with
/// replacement, from `seed`. `None` without samples or draws.
///
/// For single runs, where no pairs exist. It takes the samples as independent; samples
/// that share a queue are not, so give it one value per run or session, not per call.
pub fn bootstrap(
    samples: &[f64],
    statistic: impl Fn(&[f64]) -> f64,
    resamples: usize,
    level: f64,
    seed: u64,
) -> Option<Interval> {
    if samples.is_empty() {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut drawn = vec![0.0; samples.len()];
    let mut values: Vec<f64> = (0..resamples)
        .map(|_| {
            drawn.fill_with(|| samples[random.usize(..samples.len())]);
            statistic(&drawn)
        })
        .collect();
    let [low, high] = quantiles(&mut values, [0.5 - 0.5 * level, 0.5 + 0.5 * level])?;
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paired_ratio_by_hand() {
        // Logs ln 2 ± 0.1: mean ln 2, deviation 0.1, t(0.975, 2) = 4.302653.
        let pairs = [(1.0, 2.0 * 0.1f64.exp()), (2.0, 4.0), (5.0, 10.0 * (-0.1f64).exp())];
        let found = paired_ratio(&pairs, 0.95).unwrap();
        let half = 4.302_652_7 * 0.1 / 3f64.sqrt();
        assert!((found.ratio - 2.0).abs() < 1e-12);
        let interval = found.interval.unwrap();
        assert!((interval.low - 2.0 * (-half).exp()).abs() < 1e-6);
        assert!((interval.high - 2.0 * half.exp()).abs() < 1e-6);
        assert_eq!(found.pairs, 3);
    }

    #[test]
    fn what_has_no_ratio() {
        assert_eq!(paired_ratio(&[], 0.95), None);
        for bad in [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            assert_eq!(paired_ratio(&[(1.0, 1.0), bad], 0.95), None, "{bad:?}");
        }
        assert_eq!(
            paired_ratio(&[(2.0, 1.0)], 0.95),
            Some(Ratio { ratio: 0.5, interval: None, pairs: 1 })
        );
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut normal = move || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        let (mut t_holds, mut boot_holds) = (0, 0);
        for seed in 0..1000 {
            let samples: Vec<f64> = (0..8).map(|_| 3.0 + normal()).collect();
            let interval = mean_interval(&samples, 0.9).unwrap();
            t_holds += i32::from(interval.low <= 3.0 && 3.0 <= interval.high);
            let more: Vec<f64> = (0..40).map(|_| 3.0 + normal()).collect();
            let interval = bootstrap(&more, |s| mean(s).unwrap(), 100, 0.9, seed).unwrap();
            boot_holds += i32::from(interval.low <= 3.0 && 3.0 <= interval.high);
        }
        assert!((870..=930).contains(&t_holds), "{t_holds} of 1000");
        assert!((850..=930).contains(&boot_holds), "{boot_holds} of 1000");
    }

    proptest::proptest! {
        #[test]
        fn swapping_the_sides_inverts_the_ratio(
            pairs in proptest::collection::vec((0.01f64..1e3, 0.01f64..1e3), 2..12),
        ) {
            let there = paired_ratio(&pairs, 0.95).unwrap();
            let swapped: Vec<_> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
            let back = paired_ratio(&swapped, 0.95).unwrap();
            let (there_i, back_i) = (there.interval.unwrap(), back.interval.unwrap());
            proptest::prop_assert!((there.ratio * back.ratio - 1.0).abs() < 1e-9);
            proptest::prop_assert!((there_i.low * back_i.high).ln().abs() < 1e-6);
            proptest::prop_assert!(there_i.low <= there.ratio && there.ratio <= there_i.high);
        }
    }
}
