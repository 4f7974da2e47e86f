//! What the end of a run of refusals teaches, and what its absence does.

use super::Ticket;
use super::amount::Dimension;
use super::cap::Sign;
use super::learner::Learner;
use super::rate::Anchor;
use super::run::Run;
use super::window::{self, Bracket};

/// Refusals among the last 20 outcomes from which on an early one is no noise
/// (limit-learning.md: 3 of 20).
const NOISE_MAX: u32 = 3;
pub(super) const NOISE_MASK: u32 = (1 << 20) - 1;

/// Calls between anchors from which on a rate is known well enough to call refusals noise.
const KNOWN_CALLS: f64 = 16.0;

/// A proven silence of so many seconds and calls ends at an edge (limit-learning.md: 1.5 s,
/// 6 calls), one of so many seconds is that of a window.
const SILENCE_S: f64 = 1.5;
const SILENCE_CALLS: f64 = 6.0;
const SILENCE_LONG_S: f64 = 10.0;

/// A silence that is longer leaves too few calls in the minute before its end, in seconds.
const SILENCE_MINUTE_S: f64 = 40.0;

/// A canary that passed after a longer gap, in seconds, says little about the rate, and
/// a share of the speed so far is guessed.
const GUESS_GAP_S: f64 = 1.0;
const GUESS_SHARE: f64 = 0.5;

/// How exactly a trusted hint tells an edge, in seconds: they are whole seconds.
const HINT_EXACT_S: f64 = 1.2;

/// Calls that pass so long before the end of a full window end its clock, in seconds
/// (limit-learning.md: 0.7 s).
const CLOCK_OFF_S: f64 = 0.7;

/// Refusals so soon after an edge belong to the window before, in seconds.
const EDGE_CALM_S: f64 = 0.5;

/// Refusals so long after an edge show that it is none, in seconds.
const LATE_S: f64 = 3.0;

/// What remains of the depth of bursts after an early refusal.
const DEPTH_SHRINK: f64 = 0.7;

/// A window that is full so many seconds before its end is tried once more half-way.
const TRY_CLOCK_S: f64 = 5.0;

impl Learner {
    /// A canary passed: the run is over.
    pub(super) fn resume(&mut self, now: f64, ticket: &Ticket) {
        let Some(run) = self.run.take() else { return };
        run.passed(&mut self.trust);
        self.settled_at = ticket.at;
        self.quiet_since = now;
        self.quiet_minutes = 0;
        let refused = (self.outcomes & NOISE_MASK).count_ones();
        let is_first = run.canaries_refused == 0;
        let is_known = match self.rate.per_s {
            Some(_) => self.rate.base_calls >= KNOWN_CALLS && !self.pace.guessing,
            None => self.cap.is_confirmed,
        };
        if self.rules.noise && is_known && run.is_early && is_first && refused < NOISE_MAX {
            return;
        }
        let calls_s = self.speed_s();
        if self.rules.cap {
            let passed = self.cap.level(ticket.at, ticket.before);
            let was_slow = run.needed_departure || run.canaries_refused >= 2;
            if was_slow && self.cap.has_moved(run.level, passed, run.departed) {
                self.cap.moved(now, passed);
                return;
            }
            let sign = match (run.departed_before_canary, run.needed_departure) {
                (0, _) => Sign::Rate,
                (_, true) if self.cap.is_top(run.level_min + 1) => Sign::Cap,
                _ => Sign::None,
            };
            self.cap.run_ended(now, sign, run.level, passed, calls_s);
            if sign == Sign::Cap && self.cap.is_confirmed {
                self.rate.per_s = None;
                self.rate.forget_anchors();
                return;
            }
            if sign == Sign::None && self.cap.is_confirmed && self.rate.per_s.is_none() {
                return;
            }
        }
        if self.burst.is_none() {
            let (from, counters) = self.cycle.unwrap_or((run.first_sent, run.counters));
            let calls = run.counters[Dimension::Requests] - counters[Dimension::Requests];
            self.burst = Some((calls, (run.first_sent - from).max(0.0)));
        }
        if run.is_early {
            self.depth *= DEPTH_SHRINK;
        }
        let anchor =
            Anchor { at: ticket.at, counters: run.counters, gap: ticket.at - run.last_sent };
        let before = self.rate.per_s;
        let silence = run.silence_s();
        let is_amid = |clock: &window::Clock| {
            let begun = clock.ends - clock.period_s;
            run.first_sent > begun + EDGE_CALM_S && ticket.at < clock.ends - CLOCK_OFF_S
        };
        if run.canaries_refused >= 1 && self.windows.clock().is_some_and(is_amid) {
            // Calls pass again in the middle of a window: it is none.
            self.windows.drop_clock(now);
            self.is_gentle = self.rules.gentle;
            self.pace.is_gentle = self.is_gentle;
        }
        let dimension = self.rate.dimension;
        if silence >= SILENCE_LONG_S {
            self.long_silence(now, &run, &anchor);
        } else {
            let from = self.rate.newest().map(|anchor| anchor.at);
            let is_guess = self.pace.guessing;
            let depth = self.burst.map_or(f64::INFINITY, |(calls, _)| calls.max(1.0));
            self.rate.depth_calls = depth;
            self.rate.anchor(anchor, &self.mean, self.rules.dimension, is_guess);
            self.at_least(from, run.first_sent, &anchor);
        }
        if self.rate.dimension != dimension {
            let (rate, count) = (self.rate.per_s, anchor.counters[self.rate.dimension]);
            if let (Some(clock), Some(rate)) = (self.windows.clock_mut(), rate) {
                clock.rebase(rate * clock.period_s, count);
            }
        }
        let dimension = self.rate.dimension;
        if self.rules.clock && silence > SILENCE_S && silence * calls_s >= SILENCE_CALLS {
            let count = anchor.counters[dimension];
            let mut edge = Bracket { low: run.last_sent, high: ticket.at };
            if run.hinted && self.trust.is_full() {
                edge.low = edge.low.max(edge.high - HINT_EXACT_S);
            }
            let most = self.rate.per_s.unwrap_or(0.0) * 60.0;
            self.windows.resumed(edge, count, most);
        }
        self.guess(ticket, &run);
        self.learn_depth();
        if let Some(after) = self.rate.per_s {
            self.pace.restart(ticket.at, before, after);
            self.pace.credit = -ticket.amounts[self.rate.dimension];
            self.fill(now);
        }
    }

    /// Raises the rate to what a bucket as shallow as the first burst must have had.
    /// Where calls cannot be saved up, what is not used is lost, and the anchors alone
    /// would take our own slowness for the limit.
    pub(super) fn at_least(&mut self, from: Option<f64>, until: f64, anchor: &Anchor) {
        let (Some(from), Some(rate)) = (from, self.rate.per_s) else { return };
        let (Some(depth), Some(calls_s)) = (self.depth_max(), self.calls_s()) else { return };
        if !self.rules.depth || calls_s <= 0.0 {
            return;
        }
        let dimension = self.rate.dimension;
        let unit = self.mean[dimension];
        let depth = depth * unit;
        let at = (self.history.last_before(until), anchor.counters[dimension]);
        let least = self.history.rate_min(from, at, depth, unit, dimension);
        if least > rate {
            self.rate.set(least);
        }
    }

    pub(super) fn long_silence(&mut self, now: f64, run: &Run, anchor: &Anchor) {
        let dimension = self.rate.dimension;
        let (from, counters) = self.cycle.unwrap_or((run.first_sent, anchor.counters));
        let amount = anchor.counters[dimension] - counters[dimension];
        let time = anchor.at - anchor.gap / 2.0 - from;
        let silence = run.silence_s();
        let minute = self.history.counter_at(run.last_sent - 60.0, dimension);
        let (amount, time) = match minute.map(|count| anchor.counters[dimension] - count) {
            Some(last) if silence < SILENCE_MINUTE_S => (last, 60.0),
            Some(last) if last / 60.0 > amount / time => (last, 60.0),
            _ => (amount, time),
        };
        self.cycle = Some((anchor.at, anchor.counters));
        self.is_gentle = self.rules.gentle;
        self.pace.is_gentle = self.is_gentle;
        self.quiet_since = now;
        if amount > 0.0 && time > 0.0 {
            self.rate.set(amount / time);
            self.pace.guessing = false;
        }
        self.rate.forget_anchors();
        self.rate.anchor(*anchor, &self.mean, false, false);
    }

    /// The first guess of a rate: from how long one call took to fit again.
    pub(super) fn guess(&mut self, ticket: &Ticket, run: &Run) {
        if self.rate.per_s.is_some() {
            if self.pace.guessing && self.rate.anchors() >= 2 {
                self.pace.guessing = false;
            }
            return;
        }
        let gap = (ticket.at - run.last_sent).max(0.05);
        let unit = self.mean[self.rate.dimension];
        let mut rate = unit / gap;
        if let Some((from, counters)) = self.cycle.filter(|_| gap > GUESS_GAP_S) {
            // Such a gap says little: a part of the speed so far, silence included.
            let dimension = self.rate.dimension;
            let count = run.counters[dimension] - counters[dimension];
            rate = rate.max(GUESS_SHARE * count / (ticket.at - from).max(1.0));
        }
        self.rate.set(rate);
        self.pace.guessing = true;
    }

    /// The depth of a bucket, from the burst before the first refusal.
    pub(super) fn learn_depth(&mut self) {
        let Some(rate) = self.rate.per_s.filter(|_| !self.pace.guessing) else { return };
        if self.first_burst.take().is_none() {
            return;
        }
        let unit = self.mean[self.rate.dimension];
        self.depth = (self.depth_max().unwrap_or(1.0) - 1.0) * unit;
        debug_assert!(rate > 0.0);
    }

    /// The most calls that a bucket can hold: the first burst, less what came in
    /// meanwhile. A rate that is too low makes this too high, which does no harm.
    pub(super) fn depth_max(&self) -> Option<f64> {
        let ((calls, time), calls_s) = (self.burst?, self.calls_s()?);
        Some((calls - calls_s * time).max(1.0))
    }

    /// A refusal that had to come, because the window was full or tested: it needs no
    /// canary before the edge.
    pub(super) fn expect_full(&mut self, now: f64, run: &mut Run) {
        let dimension = self.rate.dimension;
        let (unit, count) = (self.mean[dimension], self.counters[dimension]);
        let Some(clock) = self.windows.clock_mut() else { return };
        if run.first_sent > clock.ends - clock.period_s + EDGE_CALM_S && clock.is_full(count, unit)
        {
            clock.full(count, unit);
            let rest = clock.ends - now;
            if rest <= TRY_CLOCK_S {
                run.next_at = clock.ends;
            }
        }
    }

    /// A canary was refused: the window is full until its edge.
    pub(super) fn window_full(&mut self, now: f64) {
        let dimension = self.rate.dimension;
        let (unit, count) = (self.mean[dimension], self.counters[dimension]);
        let Some(run) = &mut self.run else { return };
        let Some(clock) = self.windows.clock_mut() else { return };
        let begun = clock.ends - clock.period_s;
        let is_in_window = run.first_sent > begun + EDGE_CALM_S;
        if is_in_window && run.canaries_refused == 1 {
            clock.full(count, unit);
            let rest = clock.ends - now;
            run.next_at = if rest > TRY_CLOCK_S { now + rest / 2.0 } else { clock.ends };
        } else if is_in_window {
            run.next_at = clock.ends;
        } else if now - begun > LATE_S {
            self.windows.drop_clock(now);
        }
    }
}
