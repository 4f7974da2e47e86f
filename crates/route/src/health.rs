//! Passive health: a target that keeps failing is left out for a while, then tried again.
//!
//! | State | Leaves it when |
//! |---|---|
//! | closed | `failures_max` calls in a row failed, or too many of the last ones → open |
//! | open | its time is over and a call asks → half open, that call is the trial |
//! | half open | the trial succeeds → slow start; it fails → open, for twice as long |
//! | slow start | its time is over → closed; as from closed → open |
//!
//! A trial that ends without a verdict (its client left) gives its place to the next call.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use paceline_core::Instant;

/// When a target is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthConfig {
    /// Failures in a row that open the circuit. Default: 5.
    pub failures_max: u32,
    /// The share of failures among its last calls, at least 20 of them, from which a target
    /// counts as an outlier and is left out too. Default: 0.5.
    pub failed_share_max: f64,
    /// The share of a pool that may be left out as outliers. A target that fails each time
    /// is none, and is always left out. Default: 0.5.
    pub outliers_share_max: f64,
    /// How long it stays open at first; doubled with each failed trial. Default: 1 s.
    pub open_min: Duration,
    /// The longest time that it stays open. Default: 60 s.
    pub open_max: Duration,
    /// How long a target that is back takes to get its full share of calls, which begins at
    /// a tenth. Default: 10 s.
    pub slow_start: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            failures_max: 5,
            failed_share_max: 0.5,
            outliers_share_max: 0.5,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// The health of one target, shared by all cores.
#[derive(Debug, Default)]
pub struct Health {
    config: HealthConfig,
    /// Failures in a row.
    failures: AtomicU32,
    /// 0 while closed, `TRIAL` while a trial is under way, when the slow start began (in ns
    /// of the clock) with the bit `SLOW`, else when the open time ends.
    state: AtomicU64,
    /// How often in a row the circuit has opened.
    openings: AtomicU32,
    /// Failures of the last calls, halved now and then.
    failed: AtomicU32,
    /// Answers since the first of those failures, halved with them: while all is well
    /// nothing is counted.
    answered: AtomicU32,
}

const TRIAL: u64 = u64::MAX;
const SLOW: u64 = 1 << 63;

/// How long a target is left out that refuses its key.
const BARRED: Duration = Duration::from_secs(300);

/// Calls of which a share says something.
const CALLS_MIN: u32 = 20;
/// Calls after which older ones count half.
const CALLS_MAX: u32 = 128;

/// What a target that is back gets at first, of its full share.
const SLOW_SHARE_FIRST: f64 = 0.1;

impl Health {
    /// A healthy target.
    pub fn new(config: HealthConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Whether a call may be sent at `now`.
    pub fn usable(&self, now: Instant) -> bool {
        match self.state.load(Ordering::Relaxed) {
            TRIAL => false,
            state => state & SLOW != 0 || state <= now.as_nanos(),
        }
    }

    /// Whether the target should get this call: as [`Self::usable`], but in a slow start
    /// only for a share of all `draw`s that grows. `draw` is uniform.
    pub fn takes(&self, now: Instant, draw: u64) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == 0 {
            return true;
        }
        if state == TRIAL || state & SLOW == 0 {
            return self.usable(now);
        }
        let since = now.as_nanos().saturating_sub(state & !SLOW);
        let share = since as f64 / (self.config.slow_start.as_nanos() as f64).max(1.0);
        if share >= 1.0 {
            // Over, unless something has happened meanwhile.
            let _ = self.swap(state, 0);
            return true;
        }
        (draw as f64 / u64::MAX as f64) < share.max(SLOW_SHARE_FIRST)
    }

    /// Takes the right to send a call: `Some(true)` when it is the trial, `None` when
    /// another call took the trial in the meantime.
    pub fn enter(&self, now: Instant) -> Option<bool> {
        let state = self.state.load(Ordering::Relaxed);
        if state == 0 || (state != TRIAL && state & SLOW != 0) {
            return Some(false);
        }
        if state == TRIAL || state > now.as_nanos() {
            return None;
        }
        self.swap(state, TRIAL).then_some(true)
    }

    /// Whether the circuit is closed.
    pub fn is_closed(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state == 0 || (state != TRIAL && state & SLOW != 0)
    }

    /// Notes that a stream came to its end; one from before the opening closes no circuit.
    pub fn ended(&self) {
        if self.is_closed() {
            self.answered();
        }
    }

    /// Notes that a call was answered; `trial` closes the circuit.
    pub fn succeeded(&self, now: impl FnOnce() -> Instant, trial: bool) {
        self.answered();
        let state = self.state.load(Ordering::Relaxed);
        // A call from before the opening, or one that was sent for want of others, shows as
        // well that the target is back.
        if trial || state == TRIAL || (state != 0 && state & SLOW == 0) {
            self.openings.store(0, Ordering::Relaxed);
            self.failed.store(0, Ordering::Relaxed);
            self.answered.store(0, Ordering::Relaxed);
            let slow = if self.config.slow_start.is_zero() { 0 } else { SLOW | now().as_nanos() };
            self.state.store(slow, Ordering::Relaxed);
        }
    }

    fn answered(&self) {
        // Mostly nothing changes, and a read keeps the cache line shared.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.failed.load(Ordering::Relaxed) != 0 {
            self.answered.fetch_add(1, Ordering::Relaxed);
            self.forget();
        }
    }

    /// Notes that a call failed; whether that opened the circuit. `may_eject` tells whether
    /// the pool has room for one more outlier.
    pub fn failed(&self, now: Instant, trial: bool, may_eject: impl FnOnce() -> bool) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.forget();
        let state = self.state.load(Ordering::Relaxed);
        let open = state == TRIAL || (state != 0 && state & SLOW == 0);
        let broken = failures >= self.config.failures_max;
        if !trial && (open || !(broken || (self.is_outlier() && may_eject()))) {
            return false;
        }
        let doublings = self.openings.fetch_add(1, Ordering::Relaxed).min(16);
        let time = self.config.open_min.saturating_mul(1 << doublings).min(self.config.open_max);
        self.state.store(now.after(time).as_nanos(), Ordering::Relaxed);
        true
    }

    /// Notes that the target refuses its key; whether that is news. It is tried again after
    /// a while, since keys get mended.
    pub fn barred(&self, now: Instant) -> bool {
        let before = self.state.swap(now.after(BARRED).as_nanos(), Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        before == 0 || (before != TRIAL && before & SLOW != 0)
    }

    /// A trial ended without a verdict: the next call is one.
    pub fn undecided(&self, now: Instant) {
        self.state.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    /// The share of a pool that may be left out as outliers.
    pub(crate) fn outliers_share_max(&self) -> f64 {
        self.config.outliers_share_max
    }

    fn is_outlier(&self) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        let calls = failed.saturating_add(self.answered.load(Ordering::Relaxed));
        calls >= CALLS_MIN && f64::from(failed) >= self.config.failed_share_max * f64::from(calls)
    }

    fn forget(&self) {
        let (failed, answered) =
            (self.failed.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed));
        if failed.saturating_add(answered) >= CALLS_MAX {
            // What another core counts in this moment is lost, which does not matter.
            self.failed.store(failed / 2, Ordering::Relaxed);
            self.answered.store(answered / 2, Ordering::Relaxed);
        }
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn fails(health: &Health, ms: u64, trial: bool) -> bool {
        health.failed(at(ms), trial, || true)
    }

    #[test]
    fn opens_tries_and_closes() {
        let health = Health::new(HealthConfig { failures_max: 3, ..HealthConfig::default() });
        assert!(!fails(&health, 1, false));
        health.succeeded(|| at(1), false);
        assert!(!fails(&health, 2, false), "a success starts the count again");
        assert!(!fails(&health, 3, false));
        assert!(fails(&health, 4, false), "the third in a row opens");
        assert!(!health.usable(at(1003)));
        assert_eq!(health.enter(at(1003)), None);
        assert_eq!(health.enter(at(1004)), Some(true), "after 1 s one call is the trial");
        assert_eq!(health.enter(at(1004)), None, "only one");
        assert!(!health.usable(at(9999)));
        assert!(fails(&health, 1100, true), "a failed trial opens again");
        assert!(!health.usable(at(3099)));
        assert_eq!(health.enter(at(3100)), Some(true), "after twice the time");
        health.undecided(at(3200));
        assert_eq!(health.enter(at(3200)), Some(true), "a lost trial is replaced");
        health.succeeded(|| at(3300), true);
        assert_eq!(health.enter(at(3300)), Some(false));
        assert!(health.usable(at(3300)));
    }

    #[test]
    fn one_that_is_back_gets_its_share_by_and_by() {
        let health = Health::new(HealthConfig { failures_max: 1, ..HealthConfig::default() });
        let share = |ms| {
            let takes = (0..1000u64).filter(|n| health.takes(at(ms), n * (u64::MAX / 1000)));
            takes.count()
        };
        assert_eq!(share(1), 1000);
        assert!(fails(&health, 2, false));
        assert_eq!(share(3), 0);
        assert_eq!(health.enter(at(2000)), Some(true));
        health.succeeded(|| at(2000), true);
        assert!(share(2000).abs_diff(100) < 3, "a tenth at first: {}", share(2000));
        assert!(share(7000).abs_diff(500) < 3, "half at half time: {}", share(7000));
        assert!(health.usable(at(7000)), "and it takes calls that nobody else takes");
        assert_eq!(health.enter(at(7000)), Some(false), "which are no trials");
        assert_eq!(share(12_000), 1000);
        assert!(fails(&health, 13_000, false), "and all begins anew");
        assert!(!health.usable(at(13_999)));
        assert!(health.usable(at(14_000)), "with the first open time");
    }

    #[test]
    fn one_that_fails_half_its_calls_is_left_out_where_the_pool_allows_it() {
        let health = Health::default();
        let (mut asked, mut opened) = (0, None);
        for n in 0..60 {
            health.succeeded(|| at(n), false);
            let may = || {
                asked += 1;
                asked > 3
            };
            if health.failed(at(n), false, may) {
                opened = Some(n);
                break;
            }
        }
        // The first answer came before any failure, and is not counted.
        assert_eq!(opened, Some(13), "from 20 calls on, the fourth time that it asks");
    }

    #[test]
    fn one_that_fails_now_and_then_is_not() {
        let health = Health::default();
        for n in 0..2000 {
            (0..2).for_each(|_| health.succeeded(|| at(n), false));
            assert!(!fails(&health, n, false), "{n}");
        }
    }

    #[test]
    fn a_refused_key_is_tried_again_after_a_while() {
        let health = Health::default();
        assert!(health.barred(at(1)), "the first time it is news");
        assert!(!health.barred(at(2)));
        assert!(!health.usable(at(299_999)));
        assert_eq!(health.enter(at(300_002)), Some(true));
        health.succeeded(|| at(300_002), true);
        assert!(health.usable(at(300_003)));
    }

    #[test]
    fn the_open_time_is_bounded() {
        let health = Health::new(HealthConfig { failures_max: 1, ..HealthConfig::default() });
        let mut now = at(0);
        health.failed(now, false, || true);
        for _ in 0..40 {
            now = now.after(Duration::from_secs(60));
            assert_eq!(health.enter(now), Some(true));
            health.failed(now, true, || true);
        }
    }
}
