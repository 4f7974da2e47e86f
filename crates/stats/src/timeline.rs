//! A quantity over time in bounded memory.

/// Weighted values by bucket of time. Once time runs past the last bucket, neighbours are
/// merged and buckets become twice as wide, so memory and detail stay within a factor of
/// two whatever the length of a run.
#[derive(Clone, Debug)]
pub struct Timeline {
    buckets: Vec<Bucket>,
    width_ns: u64,
    count_max: usize,
}

/// What fell into one bucket of a [`Timeline`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Sum of the values.
    pub sum: f64,
    /// Sum of the weights.
    pub weight: f64,
    /// The largest value over its weight.
    pub max: f64,
}

impl Timeline {
    /// At most `count_max` buckets (at least 2), at first `width_ns` wide (at least 1).
    pub fn new(width_ns: u64, count_max: usize) -> Self {
        Self { buckets: Vec::new(), width_ns: width_ns.max(1), count_max: count_max.max(2) }
    }

    /// Adds `value` with `weight` at `at_ns`: for a ratio, its two sides; for a level that
    /// is sampled, the level and 1.
    pub fn add(&mut self, at_ns: u64, value: f64, weight: f64) {
        while at_ns / self.width_ns >= self.count_max as u64 {
            self.widen();
        }
        let index = (at_ns / self.width_ns) as usize;
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, Bucket::default());
        }
        let bucket = &mut self.buckets[index];
        bucket.sum += value;
        bucket.weight += weight;
        if weight > 0.0 {
            bucket.max = bucket.max.max(value / weight);
        }
    }

    /// Width of a bucket, in nanoseconds.
    pub const fn width_ns(&self) -> u64 {
        self.width_ns
    }

    /// The buckets from time zero on; the last one is the last that holds something.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    fn widen(&mut self) {
        self.width_ns = self.width_ns.saturating_mul(2);
        self.buckets = self
            .buckets
            .chunks(2)
            .map(|pair| {
                pair.iter().fold(Bucket::default(), |all, bucket| Bucket {
                    sum: all.sum + bucket.sum,
                    weight: all.weight + bucket.weight,
                    max: all.max.max(bucket.max),
                })
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_widen_and_lose_nothing() {
        let mut line = Timeline::new(10, 4);
        for at in [0, 9, 10, 35, 39, 40, 155] {
            line.add(at, at as f64, 1.0);
        }
        assert_eq!(line.width_ns(), 40);
        let sums: Vec<_> = line.buckets().iter().map(|b| (b.sum, b.weight, b.max)).collect();
        assert_eq!(
            sums,
            [(93.0, 5.0, 39.0), (40.0, 1.0, 40.0), (0.0, 0.0, 0.0), (155.0, 1.0, 155.0)]
        );
    }

    #[test]
    fn the_end_of_time_is_a_bucket() {
        let mut line = Timeline::new(1, 2);
        line.add(u64::MAX, 1.0, 1.0);
        assert!(line.buckets().len() <= 2);
    }
}
