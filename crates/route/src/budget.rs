//! How often a target may be tried again: retries must help, and never amplify an outage.

use std::sync::atomic::{AtomicI64, Ordering};

/// The retries that a target has earned.
///
/// Each first attempt on it earns a tenth of a retry, and each answer a whole one, up to a
/// bound. So a target that answers takes all retries that others need, while one that only
/// fails sees at most 1.1 times the calls that were meant for it. (The ratio is that of
/// Finagle's and tower's retry budgets; what an answer earns is ours.)
#[derive(Debug)]
pub struct RetryBudget {
    /// Tenths of a retry.
    tenths: AtomicI64,
}

/// What a target can save up.
const TENTHS_MAX: i64 = 200;

/// What a target begins with.
const TENTHS_FIRST: i64 = 50;

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tenths: AtomicI64::new(TENTHS_FIRST) }
    }
}

impl RetryBudget {
    /// A first attempt goes to the target.
    pub fn attempted(&self) {
        self.earn(1);
    }

    /// The target answered.
    pub fn answered(&self) {
        self.earn(10);
    }

    /// Takes a retry; `false` when none is left.
    pub fn take(&self) -> bool {
        let left = |tenths: i64| (tenths >= 10).then_some(tenths - 10);
        self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    fn earn(&self, tenths: i64) {
        // Mostly it is full, and a read keeps the cache line shared.
        if self.tenths.load(Ordering::Relaxed) < TENTHS_MAX {
            let more = |have: i64| Some((have + tenths).min(TENTHS_MAX));
            let _ = self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_amplified_by_a_tenth_at_most() {
        let budget = RetryBudget::default();
        (0..100).for_each(|_| budget.answered());
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.attempted();
            retries += u32::from(budget.take());
        }
        // A tenth, and what was saved up before.
        assert!((1000..=1020).contains(&retries), "{retries}");
    }

    #[test]
    fn a_target_that_answers_takes_all_retries() {
        let budget = RetryBudget::default();
        for _ in 0..10_000 {
            assert!(budget.take());
            budget.answered();
        }
    }
}
