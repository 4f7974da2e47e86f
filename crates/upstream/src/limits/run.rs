//! A run of refusals: from the first refusal until a call passes again.
//!
//! While it lasts nothing is sent but one canary at a time, ever more rarely.

use super::Ticket;
use super::amount::Amounts;

/// First wait of a canary where no rate is known, in seconds.
const FIRST_S: f64 = 0.25;

/// Waits in calls at the learned rate: after a refusal that came too early to be expected,
/// and after an expected one (limit-learning.md: 0.3 / r, 1 / r).
const EARLY_CALLS: f64 = 0.3;
const EXPECTED_CALLS: f64 = 1.0;

/// Longest wait between canaries, in seconds, at first and once a run is long
/// (limit-learning.md: 4 s; 15 s after 90 s).
const WAIT_MAX_S: f64 = 4.0;
const LONG_S: f64 = 90.0;
const WAIT_LONG_MAX_S: f64 = 15.0;

/// Hints up to this are obeyed, in seconds (limit-learning.md: 5).
const OBEYED_S: f64 = 5.0;

/// Longest hint that is looked at, in seconds: a day.
const HINT_MAX_S: f64 = 86_400.0;

/// A run of refusals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) opened: f64,
    /// When the first refused call had been sent.
    pub(super) first_sent: f64,
    /// When the last refused call had been sent.
    pub(super) last_sent: f64,
    /// When the next canary may go.
    pub(super) next_at: f64,
    wait: f64,
    /// The canary under way.
    pub(super) canary: Option<Ticket>,
    /// Counters before the canary.
    pub(super) counters: Amounts,
    pub(super) canaries_refused: u32,
    /// The refusal came before it was expected.
    pub(super) is_early: bool,
    /// Calls in flight at the first refusal.
    pub(super) level: u32,
    /// The fewest in flight at any refusal of the run.
    pub(super) level_min: u32,
    /// Calls that have left since.
    pub(super) departed: u32,
    /// The same when the present canary went.
    pub(super) departed_before_canary: u32,
    /// A canary was refused before any call had left.
    pub(super) needed_departure: bool,
    /// A hint decided when the present canary went, and how much of it was waited.
    pub(super) hinted: bool,
}

/// How far hints are trusted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust(f64);

impl Default for Trust {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Trust {
    /// The share of a hint after which a canary goes (limit-learning.md: ρ / 4).
    fn share(self) -> f64 {
        self.0 / 4.0
    }

    /// Whether the whole hint is waited for, or nearly.
    pub(super) fn is_full(self) -> bool {
        self.0 >= 2.0
    }

    fn kept(&mut self) {
        self.0 = (self.0 / 2.0).max(1.0 / 64.0);
    }

    fn broken(&mut self) {
        self.0 = (self.0 * 2.0).min(4.0);
    }
}

impl Run {
    pub(super) fn open(now: f64, sent_at: f64, is_early: bool, calls_s: Option<f64>) -> Self {
        let calls = if is_early { EARLY_CALLS } else { EXPECTED_CALLS };
        let wait = calls_s.map_or(FIRST_S, |rate| (calls / rate).min(WAIT_MAX_S));
        Self {
            opened: now,
            first_sent: sent_at,
            last_sent: sent_at,
            next_at: now + wait,
            wait,
            canary: None,
            counters: Amounts::default(),
            canaries_refused: 0,
            is_early,
            level: 0,
            level_min: 0,
            departed: 0,
            departed_before_canary: 0,
            needed_departure: false,
            hinted: false,
        }
    }

    /// Whether this call is the canary.
    pub(super) fn is_canary(&self, ticket: &Ticket) -> bool {
        self.canary.is_some_and(|canary| canary.number == ticket.number)
    }

    /// The canary was refused too.
    pub(super) fn failed(&mut self, now: f64, trust: &mut Trust) {
        self.canary = None;
        self.canaries_refused += 1;
        self.needed_departure |= self.departed == 0;
        let most = if now - self.opened > LONG_S { WAIT_LONG_MAX_S } else { WAIT_MAX_S };
        self.wait = (self.wait * 2.0).min(most);
        self.next_at = now + self.wait;
        if self.hinted {
            trust.broken();
        }
        self.hinted = false;
    }

    /// Applies the hint of a refusal.
    pub(super) fn hint(&mut self, now: f64, seconds: f64, trust: Trust) {
        let seconds = seconds.min(HINT_MAX_S);
        if seconds <= OBEYED_S {
            self.next_at = self.next_at.max(now + seconds);
            return;
        }
        let at = now + seconds * trust.share();
        if at > self.next_at {
            self.next_at = at;
            self.hinted = true;
        }
    }

    /// The canary passed: what that says about hints.
    pub(super) fn passed(&self, trust: &mut Trust) {
        if self.hinted {
            trust.kept();
        }
    }

    /// For how long calls were proven to be refused, in seconds.
    pub(super) fn silence_s(&self) -> f64 {
        self.last_sent - self.first_sent
    }
}
