//! Whether the next call may go, and at what speed.

use paceline_core::Instant;

use super::amount::{Amounts, Cost, Dimension};
use super::learner::Learner;
use super::{Decision, Why};

/// After how long without a refusal a careful pace grows, in seconds and in calls at 2 %
/// above the rate, and by what factors (limit-learning.md: × 1.25, then 1.6 a minute).
const QUIET_S: (f64, f64) = (60.0, 120.0);
const QUIET_CALLS: f64 = 75.0;
const QUIET_GROWTH: (f64, f64) = (1.25, 1.6);

/// How often a full window is looked at while it may be tested, in seconds.
const TEST_EVERY_S: f64 = 0.5;

/// While the pace grows, a wait is computed anew after so many seconds.
const GROWTH_S: f64 = 0.5;

/// How many times as long as a refusal takes a canary is waited for, at least so long in
/// seconds; the weight of one refusal in that mean, and the mean before the first.
const SILENT: f64 = 4.0;
const SILENT_MIN_S: f64 = 0.1;

impl Learner {
    /// Whether a call of this cost, the oldest that waits, may be sent now.
    pub fn decide(&mut self, now: Instant, cost: Cost) -> Decision {
        let decision = self.decide_at(now, cost);
        let waits = decision != Decision::Send;
        self.has_waited |= waits;
        decision
    }

    pub(super) fn decide_at(&mut self, now: Instant, cost: Cost) -> Decision {
        let now = now.as_secs_f64();
        self.asked = self.amounts(cost);
        self.advance(now);
        self.pace.set_blocking(false);
        if let Some(run) = &self.run {
            return match run.canary {
                Some(canary) => wait(Some(canary.at + self.silent_s()), Why::Canary),
                None if now < run.next_at => wait(Some(run.next_at), Why::Refused),
                None => Decision::Send,
            };
        }
        let is_told = self.budgets.iter().flatten().any(|budget| budget.is_fresh(now));
        if f64::from(self.unknown) >= self.unknown_max && self.rules.slow_start && !is_told {
            return wait(None, Why::Unknown);
        }
        if !self.cap.admits(now, self.in_flight) {
            let next = self.cap.next_try();
            return wait((next > now).then_some(next), Why::InFlight);
        }
        let amounts = self.asked;
        if let Some(until) = self.short_of_budget(now, &amounts) {
            return wait(Some(until), Why::Headers);
        }
        let dimension = self.rate.dimension;
        let (unit, need) = (self.mean[dimension], amounts[dimension]);
        let (count, settled) = (self.counters[dimension], self.unknown == 0);
        if let Some(clock) = self.windows.clock_mut()
            && clock.left(now, count, unit, settled) < need.min(clock.most)
        {
            let test = clock.test_at();
            let until = if now < test { test } else { clock.ends.min(now + TEST_EVERY_S) };
            return wait(Some(until), Why::Window);
        }
        let Some((rate, calls_s, steady)) = self.speed(now) else { return Decision::Send };
        let ready = self.pace.ready_at(need, rate, calls_s, steady);
        if ready > now + 1e-9 {
            self.pace.set_blocking(true);
            let is_growing = !steady && self.pace.is_growing(calls_s);
            let until = if is_growing { ready.min(now + GROWTH_S) } else { ready };
            return wait(Some(until), Why::Pace);
        }
        Decision::Send
    }

    /// The rate, or without one the speed, in calls a second.
    pub(super) fn speed_s(&self) -> f64 {
        self.calls_s().unwrap_or(1.0 / self.gap_s.max(1e-3))
    }

    /// The rate in calls a second.
    pub(super) fn calls_s(&self) -> Option<f64> {
        let per_s = match self.windows.clock() {
            Some(clock) => clock.most / clock.period_s,
            None => self.rate.per_s?,
        };
        Some((per_s / self.mean[self.rate.dimension].max(f64::MIN_POSITIVE)).clamp(1e-4, 1e6))
    }

    /// Units a second, calls a second, and whether the wave rests.
    pub(super) fn speed(&self, now: f64) -> Option<(f64, f64, bool)> {
        let calls_s = self.calls_s()?;
        if let Some(clock) = self.windows.clock() {
            let fill = clock.fill_per_s(now, self.counters[self.rate.dimension]);
            return Some((fill, calls_s, true));
        }
        let rate = self.rate.per_s?;
        // What headers tell needs no tests, and is more than the anchors know.
        let told = self.budgets[self.rate.dimension as usize];
        if let Some(told) = told.filter(|told| told.is_fresh(now)) {
            return Some((told.per_s(), calls_s, true));
        }
        Some((rate, calls_s, !self.rules.wave))
    }

    /// After how long without a refusal a canary has surely passed, in seconds: refusals
    /// come fast, and a second's wait costs calls where a bucket is shallow.
    pub(super) fn silent_s(&self) -> f64 {
        if self.rules.silence { (self.refusal_s * SILENT).clamp(SILENT_MIN_S, 1.0) } else { 1.0 }
    }

    pub(super) fn advance(&mut self, now: f64) {
        let canary = self.run.and_then(|run| run.canary);
        if let Some(canary) = canary.filter(|canary| now >= canary.at + self.silent_s()) {
            self.resume(now, &canary);
        }
        self.fill(now);
    }

    pub(super) fn fill(&mut self, now: f64) {
        let (unit, count) = (self.mean[self.rate.dimension], self.counters[self.rate.dimension]);
        self.windows.advance(now, count, unit);
        if let Some((rate, calls_s, steady)) = self.speed(now) {
            let most = self.credit_max(rate, unit);
            self.pace.advance(now, rate, calls_s, most, steady);
        }
        if self.is_gentle && self.run.is_none() && self.windows.clock().is_none() {
            self.grow_gently(now);
        }
    }

    /// Raises a rate that went well for so long that a rolling window would have shown.
    pub(super) fn grow_gently(&mut self, now: f64) {
        let (Some(rate), Some(calls_s)) = (self.rate.per_s, self.calls_s()) else { return };
        if now - self.quiet_since > (QUIET_CALLS / calls_s).clamp(QUIET_S.0, QUIET_S.1) {
            let (first, later) = QUIET_GROWTH;
            self.rate.set(rate * if self.quiet_minutes == 0 { first } else { later });
            self.rate.forget_anchors();
            self.rate.base_calls = 0.0;
            self.quiet_since = now;
            self.quiet_minutes += 1;
        }
    }

    /// The most credit that may be saved for a burst.
    pub(super) fn credit_max(&self, rate: f64, unit: f64) -> f64 {
        let burst = if self.rules.depth { self.depth } else { 0.0 };
        let one = unit.max(self.asked[self.rate.dimension]);
        one.max(burst.min(rate * 5.0))
    }

    /// When to ask again, if the headers leave too little.
    pub(super) fn short_of_budget(&self, now: f64, amounts: &Amounts) -> Option<f64> {
        for dimension in Dimension::ALL {
            let Some(budget) = &self.budgets[dimension as usize] else { continue };
            let need = amounts[dimension].min(budget.limit);
            let missing = need - budget.left(now, self.counters[dimension]);
            if missing > 0.0 && budget.is_fresh(now) {
                return Some(budget.next_at(now, missing));
            }
        }
        None
    }
}

fn wait(until: Option<f64>, why: Why) -> Decision {
    let until = until.map(|until| Instant::from_nanos((until * 1e9).ceil() as u64));
    Decision::Wait { until, why }
}
