//! What passed lately: the counters at the last sends, and second by second.

use super::amount::{Amounts, Dimension};

/// Sends that are remembered.
const SENDS: usize = 64;

/// Seconds that are remembered: a minute, the longest window that providers use.
const SECONDS: usize = 61;

/// Fewest units of the mean call in a stretch that bounds the rate.
const STRETCH_CALLS: f64 = 4.0;

/// Counters of the last sends, and of the last minute.
#[derive(Debug)]
pub(super) struct History {
    sends: [(f64, Amounts); SENDS],
    next: usize,
    seconds: [(i64, Amounts); SECONDS],
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            sends: [(f64::NEG_INFINITY, Amounts::default()); SENDS],
            next: 0,
            seconds: [(i64::MIN, Amounts::default()); SECONDS],
        }
    }

    /// A call is sent at `now`, with these counters before it.
    pub(super) fn sent(&mut self, now: f64, counters: &Amounts) {
        self.sends[self.next] = (now, *counters);
        self.next = (self.next + 1) % SENDS;
        let second = now.floor() as i64;
        let slot = &mut self.seconds[second.rem_euclid(SECONDS as i64) as usize];
        if slot.0 != second {
            *slot = (second, *counters);
        }
    }

    /// A call that had been sent at `sent_at` did not count.
    pub(super) fn take_back(&mut self, sent_at: f64, amounts: &Amounts) {
        for (_, counters) in self.sends.iter_mut().filter(|(at, _)| *at > sent_at) {
            counters.subtract(amounts);
        }
        let second = sent_at.floor() as i64;
        for (_, counters) in self.seconds.iter_mut().filter(|(at, _)| *at > second) {
            counters.subtract(amounts);
        }
    }

    /// When the last call before `at` was sent.
    pub(super) fn last_before(&self, at: f64) -> f64 {
        let before = self.sends.iter().map(|(sent, _)| *sent).filter(|sent| *sent < at);
        before.fold(f64::NEG_INFINITY, f64::max)
    }

    /// The counter at `at`, or the first one known after it.
    pub(super) fn counter_at(&self, at: f64, dimension: Dimension) -> Option<f64> {
        let second = at.floor() as i64;
        let later = self.seconds.iter().filter(|(known, _)| *known >= second);
        later.min_by_key(|(known, _)| *known).map(|(_, counters)| counters[dimension])
    }

    /// The least rate that a bucket of this depth must have had to let through what it
    /// did in any stretch from one send after `from` to the last, at `at`: after the first
    /// of them it held no more than depth - 1 calls.
    pub(super) fn rate_min(
        &self,
        from: f64,
        at: (f64, f64),
        depth: f64,
        unit: f64,
        dimension: Dimension,
    ) -> f64 {
        let (at, count) = at;
        let since = self.sends.iter().filter(|(sent, _)| *sent >= from && *sent < at);
        since
            .map(|(sent, counters)| (count - counters[dimension] - depth, at - sent))
            .filter(|(amount, time)| *amount >= STRETCH_CALLS * unit && *time > 0.0)
            .map(|(amount, time)| amount / time)
            .fold(0.0, f64::max)
    }
}
