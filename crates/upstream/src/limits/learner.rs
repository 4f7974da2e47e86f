//! The learner's state, and what happens to it.

use paceline_core::Instant;

use super::amount::{Amounts, Cost, Dimension, Used};
use super::beliefs;
use super::budget::Budget;
use super::cap::Cap;
use super::headers::Headers;
use super::history::History;
use super::pace::Pace;
use super::rate::{Rate, ratio};
use super::rules::Rules;
use super::run::{Run, Trust};
use super::window::Windows;
use super::{Refusal, Ticket};

/// Calls whose outcome is unknown: how many at first (limit-learning.md: 4).
const UNKNOWN_FIRST: f64 = 4.0;

/// A refusal before this share of the wave is early (limit-learning.md: 0.8).
const EARLY_PHASE: f64 = 0.8;

/// Idle time that fills buckets, so that old anchors say nothing, in seconds.
const IDLE_S: f64 = 2.0;

/// Weight of one gap in the mean gap between sends, and the longest that counts, in seconds.
const GAP_WEIGHT: f64 = 0.05;
const GAP_MAX_S: f64 = 30.0;

/// A bucket of so few calls refuses as soon as the pace is above its rate, which a refusal
/// after this share of the wave may show.
const SHALLOW: f64 = 3.0;
const EARLY_PHASE_SHALLOW: f64 = 0.4;

/// Weight of one call in the mean size.
const MEAN_WEIGHT: f64 = 0.02;

/// How many times as long as a refusal takes a canary is waited for, at least so long in
/// seconds; the weight of one refusal in that mean, and the mean before the first.
const REFUSAL_WEIGHT: f64 = 0.2;
const REFUSAL_FIRST_S: f64 = 0.25;

/// The learner. One for each key and model.
#[derive(Debug)]
pub struct Learner {
    pub(super) rules: Rules,
    pub(super) counters: Amounts,
    /// The mean call.
    pub(super) mean: Amounts,
    /// Mean share of `output_max` that is used.
    pub(super) output_share: f64,
    pub(super) calls: u64,
    pub(super) in_flight: u32,
    pub(super) unknown: u32,
    pub(super) unknown_max: f64,
    /// The last outcomes, newest in the lowest bit; 1 is a refusal.
    pub(super) outcomes: u32,
    pub(super) pace: Pace,
    pub(super) rate: Rate,
    pub(super) trust: Trust,
    pub(super) history: History,
    pub(super) run: Option<Run>,
    /// When the last canary that passed had been sent, or the last noise.
    pub(super) settled_at: f64,
    pub(super) cap: Cap,
    pub(super) windows: Windows,
    /// Time and counters of the last resumption after a long silence, or of the start.
    pub(super) cycle: Option<(f64, Amounts)>,
    /// A long silence was seen, but no clock: the wave is not to run into another.
    pub(super) is_gentle: bool,
    pub(super) quiet_since: f64,
    pub(super) quiet_minutes: u32,
    pub(super) budgets: [Option<Budget>; 3],
    /// Units that a burst may have, as first seen.
    pub(super) depth: f64,
    pub(super) first_burst: Option<(f64, f64)>,
    /// Calls that passed before the first refusal, and in how many seconds.
    pub(super) burst: Option<(f64, f64)>,
    /// Size of the call that asked last.
    pub(super) asked: Amounts,
    /// Mean time from a call to its refusal, in seconds.
    pub(super) refusal_s: f64,
    /// Mean time between sends, in seconds.
    pub(super) gap_s: f64,
    /// A call was told to wait since the last send.
    pub(super) has_waited: bool,
    pub(super) last_sent_at: f64,
    pub(super) refusals: beliefs::Refusals,
}

impl Default for Learner {
    fn default() -> Self {
        Self::new(Rules::default())
    }
}

impl Learner {
    /// A learner that knows nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            counters: Amounts::default(),
            mean: Amounts::new(1.0, 1.0, 1.0),
            output_share: 0.5,
            calls: 0,
            in_flight: 0,
            unknown: 0,
            unknown_max: UNKNOWN_FIRST,
            outcomes: 0,
            pace: Pace::new(),
            rate: Rate::new(),
            trust: Trust::default(),
            history: History::new(),
            run: None,
            settled_at: f64::NEG_INFINITY,
            cap: Cap::new(),
            windows: Windows::new(),
            cycle: None,
            is_gentle: false,
            quiet_since: 0.0,
            quiet_minutes: 0,
            budgets: [None; 3],
            depth: 0.0,
            first_burst: None,
            burst: None,
            asked: Amounts::default(),
            refusal_s: REFUSAL_FIRST_S,
            gap_s: 1.0,
            has_waited: false,
            last_sent_at: f64::NEG_INFINITY,
            refusals: beliefs::Refusals::default(),
        }
    }

    /// The call has been sent.
    pub fn sent(&mut self, now: Instant, cost: Cost) -> Ticket {
        let now = now.as_secs_f64();
        self.advance(now);
        let gap = (now - self.last_sent_at).clamp(0.0, GAP_MAX_S);
        self.gap_s += GAP_WEIGHT * (gap - self.gap_s);
        let has_waited = std::mem::take(&mut self.has_waited);
        if now - self.last_sent_at > IDLE_S && self.run.is_none() && !has_waited {
            self.rate.forget_anchors();
        }
        self.calls += 1;
        let amounts = self.amounts(cost);
        let weight = MEAN_WEIGHT.max(1.0 / self.calls as f64);
        self.mean.approach(&amounts, weight);
        let counters = self.counters;
        self.cycle.get_or_insert((now, self.counters));
        self.history.sent(now, &self.counters);
        self.count(&amounts, 1.0);
        self.pace.credit -= amounts[self.rate.dimension];
        let before = self.in_flight;
        self.in_flight += 1;
        self.unknown += 1;
        self.last_sent_at = now;
        let ticket = Ticket {
            number: self.calls,
            at: now,
            cost,
            amounts,
            counters: self.counters,
            before,
            is_known: false,
        };
        if let Some(run) = self.run.as_mut().filter(|run| run.canary.is_none()) {
            run.canary = Some(ticket);
            run.counters = counters;
            run.departed_before_canary = run.departed;
        }
        ticket
    }

    /// The first sign that the call was not refused: the head of its answer, or a second
    /// without a refusal. Later signs are ignored.
    pub fn accepted(&mut self, now: Instant, ticket: &mut Ticket) {
        if std::mem::replace(&mut ticket.is_known, true) {
            return;
        }
        let now = now.as_secs_f64();
        self.unknown = self.unknown.saturating_sub(1);
        self.outcomes <<= 1;
        if f64::from(self.unknown + 1) >= self.unknown_max / 2.0 {
            self.unknown_max += 1.0;
        }
        let calls_s = self.speed_s();
        let level = self.cap.level(ticket.at, ticket.before);
        self.cap.accepted(now, level, calls_s);
        if self.run.is_some_and(|run| run.is_canary(ticket)) {
            self.resume(now, ticket);
        }
    }

    /// The call has ended with an answer.
    pub fn completed(&mut self, now: Instant, mut ticket: Ticket, used: Used) {
        self.accepted(now, &mut ticket);
        let now = now.as_secs_f64();
        self.left(now);
        let real = f64::from(used.prompt) + f64::from(used.output);
        self.counters[Dimension::TokensUsed] += real;
        if self.rate.dimension == Dimension::TokensUsed {
            self.pace.credit += ticket.amounts[Dimension::TokensUsed] - real;
        }
        if ticket.cost.output_max > 0 {
            let share = f64::from(used.output) / f64::from(ticket.cost.output_max);
            self.output_share += MEAN_WEIGHT * (share.min(1.0) - self.output_share);
        }
    }

    /// The call was refused because of a limit.
    pub fn refused(&mut self, now: Instant, ticket: Ticket, refusal: &Refusal) {
        let now = now.as_secs_f64();
        self.fill(now);
        self.refusals.push(now, refusal);
        self.refusal_s += REFUSAL_WEIGHT * (now - ticket.at - self.refusal_s);
        let level = self.cap.level(ticket.at, ticket.before);
        self.give_back(now, &ticket);
        self.outcomes = (self.outcomes << 1) | 1;
        if ticket.is_known || ticket.at < self.settled_at {
            return;
        }
        let hint = refusal.retry_after.filter(|_| self.rules.hints).map(|hint| hint.as_secs_f64());
        if let Some(run) = &mut self.run {
            run.last_sent = run.last_sent.max(ticket.at);
            run.level_min = run.level_min.min(level);
            if run.is_canary(&ticket) {
                run.failed(now, &mut self.trust);
                if let Some(hint) = hint {
                    run.hint(now, hint, self.trust);
                }
                self.window_full(now);
            }
            return;
        }
        let calls_s = self.calls_s();
        let was_confirmed = self.cap.is_confirmed;
        if self.rules.cap && self.cap.explains(now, level, self.speed_s()) {
            if self.cap.is_confirmed && !was_confirmed {
                self.rate.per_s = None;
                self.rate.forget_anchors();
            }
            return;
        }
        if let Some(dimension) = refusal.dimension {
            self.told_dimension(dimension);
        }
        self.unknown_max = (self.unknown_max / 2.0).max(1.0);
        let phase = calls_s.map_or(1.0, |calls_s| self.pace.phase(calls_s));
        let is_shallow = self.depth_max().is_some_and(|depth| depth < SHALLOW);
        let early = if is_shallow { EARLY_PHASE_SHALLOW } else { EARLY_PHASE };
        let is_capped = self.cap.is_confirmed && calls_s.is_none();
        let is_early = is_capped || (phase < early && self.windows.clock().is_none());
        let mut run = Run::open(now, ticket.at, is_early, calls_s);
        run.level = level;
        run.level_min = level;
        if let Some(hint) = hint {
            run.hint(now, hint, self.trust);
        }
        self.expect_full(now, &mut run);
        if self.rate.per_s.is_none() {
            let count = self.counters[self.rate.dimension];
            let from = self.cycle.map_or(0.0, |(_, from)| from[self.rate.dimension]);
            self.first_burst.get_or_insert((ticket.at, count - from));
        }
        self.run = Some(run);
    }

    /// A refusal names what its limit counts: all that is known goes on in that unit.
    fn told_dimension(&mut self, dimension: Dimension) {
        let before = self.rate.dimension;
        if !self.rate.told(dimension, &self.mean) {
            return;
        }
        let ratio = ratio(&self.mean, before, dimension);
        self.pace.credit *= ratio;
        self.depth *= ratio;
        let count = self.counters[dimension];
        if let Some(clock) = self.windows.clock_mut() {
            clock.rebase(clock.most * ratio, count);
        }
    }

    /// The call ended without an answer for another reason: cancelled, timed out, or
    /// failed. Its credit comes back unless the provider had taken it.
    pub fn lost(&mut self, now: Instant, ticket: Ticket) {
        let now = now.as_secs_f64();
        if ticket.is_known {
            self.left(now);
            return;
        }
        self.give_back(now, &ticket);
        if let Some(run) = self.run.as_mut().filter(|run| run.is_canary(&ticket)) {
            run.canary = None;
            run.next_at = now;
        }
    }

    /// The rate-limit headers of an answer or a refusal.
    pub fn headers(&mut self, now: Instant, ticket: &Ticket, headers: &Headers) {
        if !self.rules.headers {
            return;
        }
        let now = now.as_secs_f64();
        let tokens = headers.tokens.as_ref().or(headers.input_tokens.as_ref());
        let pairs =
            [(Dimension::Requests, headers.requests.as_ref()), (Dimension::TokensAdmitted, tokens)];
        for (dimension, bucket) in pairs {
            let Some(bucket) = bucket else { continue };
            let budget = &mut self.budgets[dimension as usize];
            *budget = Budget::update(*budget, bucket, ticket.at, ticket.counters[dimension], now);
        }
    }

    pub(super) fn amounts(&self, cost: Cost) -> Amounts {
        let (prompt, output) = (f64::from(cost.prompt), f64::from(cost.output_max));
        Amounts::new(1.0, prompt + output, prompt + output * self.output_share)
    }

    /// Counts a call that is sent or, with -1, refused. Tokens used are counted at the end.
    pub(super) fn count(&mut self, amounts: &Amounts, by: f64) {
        self.counters[Dimension::Requests] += by;
        self.counters[Dimension::TokensAdmitted] += by * amounts[Dimension::TokensAdmitted];
    }

    pub(super) fn left(&mut self, now: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.cap.departed(now);
        if let Some(run) = &mut self.run {
            run.departed += 1;
        }
    }

    /// Takes back what a call had taken that the provider did not.
    pub(super) fn give_back(&mut self, now: f64, ticket: &Ticket) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.cap.departed(now);
        if !ticket.is_known {
            self.unknown = self.unknown.saturating_sub(1);
        }
        self.count(&ticket.amounts, -1.0);
        self.pace.credit += ticket.amounts[self.rate.dimension];
        let mut amounts = ticket.amounts;
        amounts[Dimension::TokensUsed] = 0.0;
        self.rate.take_back(ticket.at, &amounts);
        self.history.take_back(ticket.at, &amounts);
        for dimension in Dimension::ALL {
            if let Some(budget) = &mut self.budgets[dimension as usize] {
                budget.take_back(ticket.at, amounts[dimension]);
            }
        }
        let run = self.run.as_mut().filter(|run| run.canary.is_some());
        if let Some(run) = run.filter(|run| !run.is_canary(ticket)) {
            run.counters.subtract(&amounts);
        }
    }
}
