//! The cap: a limit of calls at a time, told apart from a rate.
//!
//! A rate refuses at any number of calls in flight, and lets calls through again as time
//! passes. A cap refuses above one number, and lets calls through again when one ends.

use std::collections::VecDeque;

/// Accepted calls whose number in flight is remembered (limit-learning.md: 100).
const ACCEPTED_MAX: usize = 100;

/// Runs of refusals that are remembered, and how many must agree (limit-learning.md:
/// 3 of 6 within 1; below 3 calls 5 that are equal).
const RUNS_MAX: usize = 6;
const RUNS_ALIKE: usize = 3;
const RUNS_ALIKE_SMALL: usize = 5;
const SMALL: u32 = 3;

/// Departures that are remembered, and for how long they blur the count, in seconds: the
/// way from the provider (limit-learning.md: 0.1 s).
const DEPARTURES_MAX: usize = 64;
const BLUR_S: f64 = 0.1;

/// First wait before one more is tried, in seconds, and the wait once a try has failed: so
/// many calls, within these bounds in seconds (limit-learning.md).
const TRY_FIRST_S: f64 = 3.0;
const TRY_CALLS: f64 = 100.0;
const TRY_S: (f64, f64) = (15.0, 100.0);

/// A cap that has grown so many times was none (limit-learning.md).
const GROWN: u32 = 3;

/// Refusals below the cap, without a sign of one, after which it is given up.
const CONTRADICTIONS_MAX: u32 = 3;

/// What a run of refusals says about the kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A canary was refused until a call had ended, at a level that no call had passed.
    Cap,
    /// A canary passed though no call had ended.
    Rate,
    /// Neither.
    None,
}

/// The cap and its evidence.
#[derive(Debug)]
pub(super) struct Cap {
    /// Calls at a time; `None` where no cap is believed in.
    pub(super) most: Option<u32>,
    /// Several runs agreed on it.
    pub(super) is_confirmed: bool,
    set_at: u32,
    accepted: VecDeque<u32>,
    /// Level of each run that looked like a cap, or `None`.
    runs: VecDeque<Option<u32>>,
    departures: VecDeque<f64>,
    try_at: f64,
    step: u32,
    trying: bool,
    has_failed: bool,
    contradictions: u32,
}

impl Cap {
    pub(super) fn new() -> Self {
        Self {
            most: None,
            is_confirmed: false,
            set_at: 0,
            accepted: VecDeque::with_capacity(ACCEPTED_MAX),
            runs: VecDeque::with_capacity(RUNS_MAX),
            departures: VecDeque::with_capacity(DEPARTURES_MAX),
            try_at: 0.0,
            step: 1,
            trying: false,
            has_failed: false,
            contradictions: 0,
        }
    }

    /// Whether one more may be in flight. Begins a try when it is time for one.
    pub(super) fn admits(&mut self, now: f64, in_flight: u32) -> bool {
        let Some(most) = self.most else { return true };
        if in_flight < most {
            return true;
        }
        if !self.trying && now >= self.try_at {
            self.trying = true;
        }
        self.trying && in_flight < most.saturating_add(self.step)
    }

    /// When a try is due that may let one more through.
    pub(super) fn next_try(&self) -> f64 {
        self.try_at
    }

    /// A call has ended, or was refused.
    pub(super) fn departed(&mut self, now: f64) {
        if self.departures.len() == DEPARTURES_MAX {
            self.departures.pop_front();
        }
        self.departures.push_back(now);
    }

    /// How many were in flight at the provider when a call came, as far as we can tell:
    /// those that left while it was on its way do not count.
    pub(super) fn level(&self, sent_at: f64, before: u32) -> u32 {
        let left = self.departures.iter().rev().take_while(|at| **at > sent_at);
        let left = left.filter(|at| **at <= sent_at + BLUR_S).count();
        before.saturating_sub(u32::try_from(left).unwrap_or(u32::MAX))
    }

    pub(super) fn accepted(&mut self, now: f64, level: u32, calls_s: f64) {
        if self.accepted.len() == ACCEPTED_MAX {
            self.accepted.pop_front();
        }
        self.accepted.push_back(level);
        let Some(most) = self.most else { return };
        if level >= most {
            // The try succeeded: one more fits, and the next try is for twice as many.
            self.most = Some(most.max(level + 1));
            self.trying = false;
            self.step = self.step.saturating_mul(2).min(most.max(1));
            self.try_at = now + TRY_FIRST_S.max(1.0 / calls_s);
            if level + 1 > self.set_at.saturating_mul(GROWN) {
                self.clear();
            }
        }
    }

    /// A refusal at this level. Whether the cap explains it, so that nothing is to be held.
    pub(super) fn explains(&mut self, now: f64, level: u32, calls_s: f64) -> bool {
        let Some(most) = self.most else { return false };
        if level < most {
            return false;
        }
        if self.is_top(level) {
            self.contradictions = 0;
            if !self.is_confirmed {
                self.push_run(Some(level));
                self.is_confirmed = self.agrees(level);
            }
        }
        self.failed(now, calls_s);
        true
    }

    fn failed(&mut self, now: f64, calls_s: f64) {
        self.trying = false;
        self.has_failed = true;
        self.step = 1;
        self.try_at = now + (TRY_CALLS / calls_s).clamp(TRY_S.0, TRY_S.1);
    }

    /// Whether no lately accepted call had as many in flight.
    pub(super) fn is_top(&self, level: u32) -> bool {
        self.accepted.iter().all(|accepted| *accepted < level)
    }

    /// A run of refusals has ended at this level, with a call that passed at `passed`.
    pub(super) fn run_ended(
        &mut self,
        now: f64,
        sign: Sign,
        level: u32,
        passed: u32,
        calls_s: f64,
    ) {
        if sign != Sign::Cap {
            self.push_run(None);
            if sign == Sign::Rate {
                self.contradictions += 1;
            }
            let enough = if self.is_confirmed { CONTRADICTIONS_MAX } else { 2 };
            let Some(most) = self.most else { return };
            if self.contradictions >= enough {
                self.clear();
            } else if sign == Sign::None {
                // It may have moved: follow, and try from there.
                self.lower(now, (passed + 1).max(level).min(most));
            }
            return;
        }
        self.contradictions = 0;
        self.push_run(Some(level));
        self.is_confirmed |= self.agrees(level);
        let most = if self.agrees(level) { level } else { passed + 1 }.max(1);
        self.most = Some(most);
        self.set_at = most;
        self.failed(now, calls_s);
        if !self.is_confirmed {
            self.try_at = now + TRY_FIRST_S;
        }
    }

    /// The cap has moved to about `most`.
    fn lower(&mut self, now: f64, most: u32) {
        self.most = Some(most.max(1));
        self.set_at = most.max(1);
        self.trying = false;
        self.step = 1;
        self.try_at = now + TRY_FIRST_S;
        self.accepted.clear();
    }

    /// Whether a run that ended at `passed` shows that a believed cap has moved down: one
    /// canary after the other was refused while calls left.
    pub(super) fn has_moved(&self, level: u32, passed: u32, departed: u32) -> bool {
        let most = self.most.filter(|_| self.is_confirmed);
        most.is_some_and(|most| level < most + 2 && passed + 2 < most && departed >= 2)
    }

    /// Follows such a move.
    pub(super) fn moved(&mut self, now: f64, passed: u32) {
        self.lower(now, passed + 1);
        self.is_confirmed = false;
        self.runs.clear();
        self.push_run(Some(passed + 1));
        self.contradictions = 0;
    }

    fn push_run(&mut self, level: Option<u32>) {
        if self.runs.len() == RUNS_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(level);
    }

    /// Whether enough runs agree on this level.
    fn agrees(&self, level: u32) -> bool {
        let alike = |by: u32| {
            self.runs.iter().flatten().filter(|other| other.abs_diff(level) <= by).count()
        };
        if level < SMALL { alike(0) >= RUNS_ALIKE_SMALL } else { alike(1) >= RUNS_ALIKE }
    }

    /// Gives the cap up.
    pub(super) fn clear(&mut self) {
        self.most = None;
        self.is_confirmed = false;
        self.trying = false;
        self.has_failed = false;
        self.step = 1;
        self.contradictions = 0;
        self.runs.clear();
        self.accepted.clear();
    }
}
