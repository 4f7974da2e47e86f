//! What truthful headers leave to spend.

use super::headers::Bucket;

/// Headers older than this say nothing, in seconds.
const STALE_S: f64 = 120.0;

/// How exactly resets are told, in seconds: some providers round to whole seconds.
const RESET_EXACT_S: f64 = 1.2;

/// Fewest seconds that a bucket's reset must have moved to be told from a window's.
const RESET_MOVE_S: f64 = 2.5;

/// Observations that must agree on what a limit is.
const VOTES: u32 = 2;

/// Share of the rate at which a bucket is trusted to fill between two answers, and the
/// time that a call may take to the provider, in seconds.
const REFILL: f64 = 0.985;
const WAY_S: f64 = 0.1;

/// After so long without an answer the refill is believed in, in seconds.
const SILENT_S: f64 = 2.0;

/// How long after a reset it is surely over, in seconds.
const AFTER_S: f64 = 0.2;

/// What kind of limit the headers describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Its reset, when it is full, moves with each call.
    Bucket,
    /// Its reset stands still while calls pass.
    Window,
}

/// One limit as its headers show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) limit: f64,
    pub(super) period_s: f64,
    remaining: f64,
    /// The most that was ever left: a bucket holds no more.
    remaining_max: f64,
    /// The counter up to the call whose answer told.
    count: f64,
    /// When that call was sent.
    at: f64,
    /// When the answer came.
    seen_at: f64,
    reset_at: Option<f64>,
    /// The reset and the counter from which the reset's moves are measured.
    base: Option<(f64, f64)>,
    shape: Option<Shape>,
    votes: u32,
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
        let known = |value: fn(&Self) -> f64| before.as_ref().map(value);
        let mut after = Self {
            limit: bucket.limit.or(known(|before| before.limit)).unwrap_or(remaining).max(1.0),
            period_s: bucket.period_s.unwrap_or(60.0),
            remaining,
            remaining_max: known(|before| before.remaining_max).unwrap_or(0.0).max(remaining),
            count,
            at: sent_at,
            seen_at: now,
            reset_at: bucket.reset_s.map(|seconds| sent_at + seconds),
            base: before.and_then(|before| before.base),
            shape: before.and_then(|before| before.shape),
            votes: before.map_or(0, |before| before.votes),
        };
        after.judge();
        Some(after)
    }

    /// Judges by the reset's moves what kind of limit it is: a bucket's moves by what the
    /// calls take to fill in again.
    fn judge(&mut self) {
        let Some(reset_at) = self.reset_at else { return };
        let Some((base, count)) = self.base else {
            self.base = Some((reset_at, self.count));
            return;
        };
        let expected = (self.count - count) * self.period_s / self.limit;
        if expected < RESET_MOVE_S {
            return;
        }
        self.base = Some((reset_at, self.count));
        let moved = reset_at - base;
        let shape = if moved.abs() < RESET_EXACT_S {
            Shape::Window
        } else if (moved - expected).abs() < 0.3 * expected + RESET_EXACT_S {
            Shape::Bucket
        } else {
            return;
        };
        if self.shape == Some(shape) {
            self.votes = (self.votes + 1).min(2 * VOTES);
        } else if self.votes == 0 {
            (self.shape, self.votes) = (Some(shape), 1);
        } else {
            self.votes -= 1;
        }
    }

    fn is(&self, shape: Shape) -> bool {
        self.shape == Some(shape) && self.votes >= VOTES
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

    /// The rate in units a second.
    pub(super) fn per_s(&self) -> f64 {
        self.limit / self.period_s
    }

    /// Units that may be spent now, where the counter stands at `count`.
    pub(super) fn left(&self, now: f64, count: f64) -> f64 {
        let spent = count - self.count;
        if self.is(Shape::Bucket) {
            let filled = (now - self.at - WAY_S).max(0.0) * REFILL * self.per_s();
            return (self.remaining + filled - spent).min(self.remaining_max);
        }
        if self.reset_at.is_some_and(|reset_at| now >= reset_at + AFTER_S) {
            return self.limit - spent;
        }
        let silent = now - self.seen_at;
        let is_known = self.is(Shape::Window) || silent < SILENT_S;
        let filled = if is_known { 0.0 } else { silent * REFILL * self.per_s() };
        self.remaining + filled - spent
    }

    /// When `missing` more units may be there, if no answer tells sooner.
    pub(super) fn next_at(&self, now: f64, missing: f64) -> f64 {
        if self.is(Shape::Bucket) {
            let wait = missing / (REFILL * self.per_s()).max(f64::MIN_POSITIVE);
            return now + wait.clamp(1e-3, 1.0);
        }
        let silent = (self.seen_at + SILENT_S).max(now + 0.25);
        match self.reset_at.map(|reset_at| reset_at + AFTER_S + 0.05) {
            Some(reset) if self.is(Shape::Window) => reset.max(now + 0.05),
            Some(reset) if reset > now => silent.min(reset),
            _ => silent,
        }
    }
}
