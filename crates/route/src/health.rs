//! Passive health: a target that keeps failing is left out for a while, then tried again.
//!
//! | State | Leaves it when |
//! |---|---|
//! | closed | `failures_max` calls in a row failed → open |
//! | open | its time is over and a call asks → half open, that call is the trial |
//! | half open | the trial succeeds → closed; it fails → open, for twice as long |
//!
//! A trial that ends without a verdict (its client left) gives its place to the next call.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use paceline_core::Instant;

/// When a target is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Failures in a row that open the circuit. Default: 5.
    pub failures_max: u32,
    /// How long it stays open at first; doubled with each failed trial. Default: 1 s.
    pub open_min: Duration,
    /// The longest time that it stays open. Default: 60 s.
    pub open_max: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            failures_max: 5,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
        }
    }
}

/// The health of one target, shared by all cores.
#[derive(Debug, Default)]
pub struct Health {
    config: HealthConfig,
    /// Failures in a row.
    failures: AtomicU32,
    /// When the open time ends, in ns of the clock; 0 while closed, `TRIAL` while a trial
    /// is under way.
    open_until: AtomicU64,
    /// How often in a row the circuit has opened.
    openings: AtomicU32,
}

const TRIAL: u64 = u64::MAX;

/// How long a target is left out that refuses its key.
const BARRED: Duration = Duration::from_secs(300);

impl Health {
    /// A healthy target.
    pub fn new(config: HealthConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Whether a call may be sent at `now`.
    pub fn usable(&self, now: Instant) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        until == 0 || (until != TRIAL && until <= now.as_nanos())
    }

    /// Takes the right to send a call: `Some(true)` when it is the trial, `None` when
    /// another call took the trial in the meantime.
    pub fn enter(&self, now: Instant) -> Option<bool> {
        let until = self.open_until.load(Ordering::Relaxed);
        if until == 0 {
            return Some(false);
        }
        if until == TRIAL || until > now.as_nanos() {
            return None;
        }
        let taken =
            self.open_until.compare_exchange(until, TRIAL, Ordering::Relaxed, Ordering::Relaxed);
        taken.ok().map(|_| true)
    }

    /// Notes that a call was answered; closes the circuit.
    pub fn succeeded(&self) {
        // Mostly nothing changes, and a read keeps the cache line shared.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.open_until.load(Ordering::Relaxed) != 0 {
            self.openings.store(0, Ordering::Relaxed);
            self.open_until.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a call failed; whether that opened the circuit.
    pub fn failed(&self, now: Instant, trial: bool) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let open = self.open_until.load(Ordering::Relaxed) != 0;
        if !trial && (open || failures < self.config.failures_max) {
            return false;
        }
        let doublings = self.openings.fetch_add(1, Ordering::Relaxed).min(16);
        let time = self.config.open_min.saturating_mul(1 << doublings).min(self.config.open_max);
        self.open_until.store(now.after(time).as_nanos(), Ordering::Relaxed);
        true
    }

    /// Notes that the target refuses its key; whether that is news. It is tried again after
    /// a while, since keys get mended.
    pub fn barred(&self, now: Instant) -> bool {
        let before = self.open_until.swap(now.after(BARRED).as_nanos(), Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        before == 0
    }

    /// A trial ended without a verdict: the next call is one.
    pub fn undecided(&self, now: Instant) {
        self.open_until.store(now.as_nanos().max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn opens_tries_and_closes() {
        let health = Health::new(HealthConfig { failures_max: 3, ..HealthConfig::default() });
        assert!(!health.failed(at(1), false));
        health.succeeded();
        assert!(!health.failed(at(2), false), "a success starts the count again");
        assert!(!health.failed(at(3), false));
        assert!(health.failed(at(4), false), "the third in a row opens");
        assert!(!health.usable(at(1003)));
        assert_eq!(health.enter(at(1003)), None);
        assert_eq!(health.enter(at(1004)), Some(true), "after 1 s one call is the trial");
        assert_eq!(health.enter(at(1004)), None, "only one");
        assert!(!health.usable(at(9999)));
        assert!(health.failed(at(1100), true), "a failed trial opens again");
        assert!(!health.usable(at(3099)));
        assert_eq!(health.enter(at(3100)), Some(true), "after twice the time");
        health.undecided(at(3200));
        assert_eq!(health.enter(at(3200)), Some(true), "a lost trial is replaced");
        health.succeeded();
        assert_eq!(health.enter(at(3300)), Some(false));
        assert!(health.usable(at(3300)));
    }

    #[test]
    fn a_refused_key_is_tried_again_after_a_while() {
        let health = Health::default();
        assert!(health.barred(at(1)), "the first time it is news");
        assert!(!health.barred(at(2)));
        assert!(!health.usable(at(299_999)));
        assert_eq!(health.enter(at(300_002)), Some(true));
        health.succeeded();
        assert!(health.usable(at(300_003)));
    }

    #[test]
    fn the_open_time_is_bounded() {
        let health = Health::new(HealthConfig { failures_max: 1, ..HealthConfig::default() });
        let mut now = at(0);
        health.failed(now, false);
        for _ in 0..40 {
            now = now.after(Duration::from_secs(60));
            assert_eq!(health.enter(now), Some(true));
            health.failed(now, true);
        }
    }
}
