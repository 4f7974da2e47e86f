//! Quantiles over exact samples.

/// The smallest sample that at least a share `q` of the samples do not exceed (nearest
/// rank, which never invents a value that was not measured). `None` without samples.
///
/// `sorted` is in ascending order; `q` is clamped to 0..=1.
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    debug_assert!(sorted.is_sorted(), "quantiles need sorted samples");
    // The factor keeps 0.95 · 20 = 19.000000000000004 at rank 19.
    let rank = (q.clamp(0.0, 1.0) * sorted.len() as f64 * (1.0 - 1e-12)).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Several quantiles of samples in any order, which are sorted in place. `None` without
/// samples.
pub fn quantiles<const N: usize>(samples: &mut [f64], qs: [f64; N]) -> Option<[f64; N]> {
    samples.sort_by(f64::total_cmp);
    if samples.is_empty() {
        return None;
    }
    Some(qs.map(|q| quantile_sorted(samples, q).unwrap_or_default()))
}

/// The arithmetic mean; `None` without samples.
pub fn mean(samples: &[f64]) -> Option<f64> {
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / samples.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        for (samples, q, expected) in [
            (&hundred, 0.0, 1.0),
            (&hundred, 0.5, 50.0),
            (&hundred, 0.95, 95.0),
            (&hundred, 0.99, 99.0),
            (&hundred, 0.991, 100.0),
            (&hundred, 1.0, 100.0),
            (&twenty, 0.95, 19.0),
            (&twenty, 0.99, 20.0),
            (&twenty, 0.05, 1.0),
        ] {
            assert_eq!(quantile_sorted(samples, q), Some(expected), "q {q}");
        }
        assert_eq!(quantile_sorted(&[], 0.5), None);
        assert_eq!(quantiles(&mut [3.0, 1.0, 2.0], [0.5, 1.0]), Some([2.0, 3.0]));
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(mean(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn a_quantile_is_a_sample_with_enough_below(
            mut samples in proptest::collection::vec(-1e6f64..1e6, 1..200), q in 0.0f64..=1.0,
        ) {
            let [value] = quantiles(&mut samples, [q]).unwrap();
            let below = samples.iter().filter(|s| **s <= value).count() as f64;
            let under = samples.iter().filter(|s| **s < value).count() as f64;
            proptest::prop_assert!(below >= q * samples.len() as f64 - 1e-6);
            proptest::prop_assert!(under <= q * samples.len() as f64);
        }
    }
}
