//! What truthful headers leave to spend.

use super::headers::Bucket;

/// Headers older than this say nothing, in seconds.
const STALE_S: f64 = 120.0;

/// How exactly two resets agree, in seconds, and how often they must for a window.
const SAME_RESET_S: f64 = 1.2;
const SAME_RESETS: u32 = 3;

/// Share of the rate at which a bucket is trusted to fill between two answers.
const REFILL: f64 = 0.985;

/// After so long without an answer the refill is believed in, in seconds.
const SILENT_S: f64 = 2.0;

/// One limit as its headers show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) limit: f64,
    pub(super) period_s: f64,
    remaining: f64,
    /// The counter up to the call whose answer told.
    count: f64,
    /// When that call was sent.
    at: f64,
    /// When the answer came.
    seen_at: f64,
    reset_at: Option<f64>,
    same_resets: u32,
    /// Answers in a row whose reset had moved with the calls.
    moved_resets: u32,
    /// The most that was ever left: a bucket holds no more.
    remaining_max: f64,
}

impl Budget {
    /// Takes the headers of an answer to a call that was sent at `sent_at` and raised the
    /// counter to `count`. An answer older than the one known is ignored.
    pub(super) fn update(
        before: Option<Self>,
        bucket: &Bucket,
        sent_at: f64,
        count: f64,
        now: f64,
    ) -> Option<Self> {
        if before.is_some_and(|before| before.at > sent_at) {
            return before;
        }
        let remaining = bucket.remaining?;
        let reset_at = bucket.reset_s.map(|seconds| sent_at + seconds);
        let same = match (before.and_then(|before| before.reset_at), reset_at) {
            (Some(before), Some(after)) => (before - after).abs() < SAME_RESET_S,
            _ => false,
        };
        let moved = before.is_some_and(|before| before.remaining != remaining);
        let same_resets = before.map_or(0, |before| before.same_resets);
        let moved_resets = before.map_or(0, |before| before.moved_resets);
        Some(Self {
            limit: bucket.limit.or_else(|| before.map(|before| before.limit)).unwrap_or(remaining),
            period_s: bucket.period_s.unwrap_or(60.0),
            remaining,
            count,
            at: sent_at,
            seen_at: now,
            reset_at,
            same_resets: match (same, moved) {
                (true, true) => (same_resets + 1).min(SAME_RESETS),
                (true, false) => same_resets,
                (false, _) => 0,
            },
            moved_resets: match (same, moved) {
                (true, _) => 0,
                (false, true) => (moved_resets + 1).min(SAME_RESETS),
                (false, false) => moved_resets,
            },
            remaining_max: before.map_or(remaining, |before| before.remaining_max.max(remaining)),
        })
    }

    /// A call that the counter had held was refused and no longer counts.
    pub(super) fn take_back(&mut self, sent_at: f64, amount: f64) {
        if sent_at <= self.at {
            self.count -= amount;
        }
    }

    /// Whether it still says something.
    pub(super) fn is_fresh(&self, now: f64) -> bool {
        let until = self.reset_at.unwrap_or(self.seen_at);
        now < until.max(self.seen_at) + STALE_S
    }

    fn is_window(&self) -> bool {
        self.same_resets >= SAME_RESETS
    }

    /// A bucket's reset moves with each call, since it tells when the bucket is full.
    fn is_bucket(&self) -> bool {
        self.moved_resets >= SAME_RESETS
    }

    /// Units that may be spent now, where the counter stands at `count`.
    pub(super) fn left(&self, now: f64, count: f64) -> f64 {
        let spent = count - self.count;
        if self.reset_at.is_some_and(|reset_at| now >= reset_at + 0.2) {
            return self.limit - spent;
        }
        let per_s = REFILL * self.limit / self.period_s;
        if self.is_bucket() {
            return (self.remaining + (now - self.at) * per_s - spent).min(self.remaining_max);
        }
        let silent = now - self.seen_at;
        let refill = if self.is_window() || silent < SILENT_S { 0.0 } else { silent * per_s };
        self.remaining + refill - spent
    }

    /// When more may be there, if no answer tells sooner.
    pub(super) fn next_at(&self, now: f64, missing: f64) -> f64 {
        if self.is_bucket() {
            let wait = missing * self.period_s / (REFILL * self.limit).max(f64::MIN_POSITIVE);
            return now + wait.clamp(1e-3, 1.0);
        }
        let silent = (self.seen_at + SILENT_S).max(now + 0.25);
        match self.reset_at {
            Some(reset_at) if self.is_window() => (reset_at + 0.25).max(now + 0.05),
            Some(reset_at) if reset_at + 0.25 > now => silent.min(reset_at + 0.25),
            _ => silent,
        }
    }
}
