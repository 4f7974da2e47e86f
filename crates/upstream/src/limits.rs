//! The learner of a provider's hidden limits: a pure state machine for one key and model.
//!
//! Outcomes and times go in, decisions come out; it performs no I/O, has no clock and draws
//! no random numbers. What it does and why is in `docs/design/limits.md`.
//!
//! Even pacing at the true rate satisfies a bucket, a window and a rolling window alike.
//! So the rate is learned, and the kind of limit only decides how to wait.

mod amount;
mod beliefs;
mod budget;
mod cap;
pub mod headers;
mod history;
mod pace;
mod rate;
mod rules;
mod run;
mod window;

#[cfg(test)]
mod tests;

use paceline_core::Instant;

pub use amount::{Cost, Dimension, Used};
pub use beliefs::{Beliefs, Kind, Speed};
pub use headers::{Bucket, Headers};
pub use rules::Rules;

use amount::Amounts;
use budget::Budget;
use cap::{Cap, Sign};
use history::History;
use pace::Pace;
use rate::{Anchor, Rate};
use run::{Run, Trust};
use window::{Bracket, Windows};

/// Calls whose outcome is unknown: how many at first (limit-learning.md: 4).
const UNKNOWN_FIRST: f64 = 4.0;

/// A refusal before this share of the wave is early (limit-learning.md: 0.8).
const EARLY_PHASE: f64 = 0.8;

/// Refusals among the last 20 outcomes from which on an early one is no noise
/// (limit-learning.md: 3 of 20).
const NOISE_MAX: u32 = 3;
const NOISE_MASK: u32 = (1 << 20) - 1;

/// Calls between anchors from which on a rate is known well enough to call refusals noise.
const KNOWN_CALLS: f64 = 16.0;

/// Calls, or seconds' worth of them, above what the rate allows before it must have risen
/// (limit-learning.md: 6 calls, 0.3 s).
const ROSE_CALLS: f64 = 3.0;
const ROSE_S: f64 = 0.3;

/// How much of the speed that went well is taken as the new rate (limit-learning.md: 0.9).
const ROSE_SHARE: f64 = 0.9;

/// Idle time that fills buckets, so that old anchors say nothing, in seconds.
const IDLE_S: f64 = 2.0;

/// A proven silence of so many seconds and calls ends at an edge (limit-learning.md: 1.5 s,
/// 6 calls), one of so many seconds is that of a window.
const SILENCE_S: f64 = 1.5;
const SILENCE_CALLS: f64 = 6.0;
const SILENCE_LONG_S: f64 = 10.0;

/// A canary that passed after a longer gap, in seconds, says little about the rate, and
/// a share of the speed so far is guessed.
const GUESS_GAP_S: f64 = 1.0;
const GUESS_SHARE: f64 = 0.5;

/// How exactly a trusted hint tells an edge, in seconds: they are whole seconds.
const HINT_EXACT_S: f64 = 1.2;

/// After how long without a refusal a careful pace grows, in seconds and in calls at 2 %
/// above the rate, and by what factors (limit-learning.md: × 1.25, then 1.6 a minute).
const QUIET_S: f64 = 60.0;
const QUIET_CALLS: f64 = 75.0;
const QUIET_GROWTH: (f64, f64) = (1.25, 1.6);

/// Calls, or seconds' worth of them, above an old rate from which on it is surely history.
const SURE_CALLS: f64 = 10.0;
const SURE_S: f64 = 2.0;

/// Calls that pass so long before the end of a full window end its clock, in seconds
/// (limit-learning.md: 0.7 s).
const CLOCK_OFF_S: f64 = 0.7;

/// Refusals so soon after an edge belong to the window before, in seconds.
const EDGE_CALM_S: f64 = 0.5;

/// Refusals so long after an edge show that it is none, in seconds.
const LATE_S: f64 = 3.0;

/// While the pace grows, a wait is computed anew after so many seconds.
const GROWTH_S: f64 = 0.5;

/// Weight of one gap in the mean gap between sends, and the longest that counts, in seconds.
const GAP_WEIGHT: f64 = 0.05;
const GAP_MAX_S: f64 = 30.0;

/// What remains of the depth of bursts after an early refusal.
const DEPTH_SHRINK: f64 = 0.7;

/// A window that is full so many seconds before its end is tried once more half-way.
const TRY_CLOCK_S: f64 = 5.0;

/// Weight of one call in the mean size.
const MEAN_WEIGHT: f64 = 0.02;

/// Why a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A refusal asks for silence.
    Refused,
    /// A single call tries whether calls pass again.
    Canary,
    /// Too many calls whose outcome is not known yet.
    Unknown,
    /// As many calls are in flight as the provider takes.
    InFlight,
    /// The rate is used up.
    Pace,
    /// The window is full.
    Window,
    /// The provider's headers say that nothing is left.
    Headers,
}

/// Whether the call at the head of the queue may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be sent now.
    Send,
    /// It waits until the time, or until the next event where there is none.
    Wait {
        /// When to ask again. Any event is a reason to ask sooner.
        until: Option<Instant>,
        /// Why.
        why: Why,
    },
}

/// A call under way; goes back to the learner with what happened to it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    number: u64,
    at: f64,
    cost: Cost,
    amounts: Amounts,
    /// Counters with this call.
    counters: Amounts,
    before: u32,
    is_known: bool,
}

/// What kind of refusal it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 429.
    RateLimit,
    /// 529, and 503 where it means overload.
    Overloaded,
}

/// A refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Its kind.
    pub class: Class,
    /// What the answer says about when to come back.
    pub retry_after: Option<std::time::Duration>,
    /// Which limit was reached, where the answer says so.
    pub dimension: Option<Dimension>,
}

/// The learner. One for each key and model.
#[derive(Debug)]
pub struct Learner {
    rules: Rules,
    counters: Amounts,
    /// The mean call.
    mean: Amounts,
    /// Mean share of `output_max` that is used.
    output_share: f64,
    calls: u64,
    in_flight: u32,
    unknown: u32,
    unknown_max: f64,
    /// The last outcomes, newest in the lowest bit; 1 is a refusal.
    outcomes: u32,
    pace: Pace,
    rate: Rate,
    trust: Trust,
    history: History,
    run: Option<Run>,
    /// When the last canary that passed had been sent, or the last noise.
    settled_at: f64,
    cap: Cap,
    windows: Windows,
    /// Time and counters of the last resumption after a long silence, or of the start.
    cycle: Option<(f64, Amounts)>,
    /// A long silence was seen, but no clock: the wave is not to run into another.
    is_gentle: bool,
    quiet_since: f64,
    quiet_minutes: u32,
    budgets: [Option<Budget>; 3],
    /// Units that a burst may have, as first seen.
    depth: f64,
    first_burst: Option<(f64, f64)>,
    /// The rate before it seemed to rise.
    rose_from: Option<f64>,
    /// Calls that passed before the first refusal, and in how many seconds.
    burst: Option<(f64, f64)>,
    /// Size of the call that asked last.
    asked: Amounts,
    /// Mean time between sends, in seconds.
    gap_s: f64,
    /// A call was told to wait since the last send.
    has_waited: bool,
    last_sent_at: f64,
    refusals: beliefs::Refusals,
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
            rose_from: None,
            burst: None,
            asked: Amounts::default(),
            gap_s: 1.0,
            has_waited: false,
            last_sent_at: f64::NEG_INFINITY,
            refusals: beliefs::Refusals::default(),
        }
    }

    /// Whether a call of this cost, the oldest that waits, may be sent now.
    pub fn decide(&mut self, now: Instant, cost: Cost) -> Decision {
        let decision = self.decide_at(now, cost);
        let waits = decision != Decision::Send;
        self.has_waited |= waits;
        decision
    }

    fn decide_at(&mut self, now: Instant, cost: Cost) -> Decision {
        let now = now.as_secs_f64();
        self.asked = self.amounts(cost);
        self.advance(now);
        self.pace.set_blocking(false);
        if let Some(run) = &self.run {
            return match run.canary {
                Some(_) => wait(None, Why::Canary),
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
        if let Some(clock) = self.windows.clock_mut() {
            if clock.left(now, count, unit, settled) < need.min(clock.most) {
                let test = clock.ends - 0.08 * clock.period_s;
                let until = if now < test { test } else { clock.ends.min(now + 0.5) };
                return wait(Some(until), Why::Window);
            }
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
        if let Some(run) = self.run.as_mut().filter(|run| run.canary.is_none()) {
            run.canary = Some(self.calls);
            run.counters = self.counters;
            run.departed_before_canary = run.departed;
        }
        self.cycle.get_or_insert((now, self.counters));
        self.history.sent(now, &self.counters);
        self.count(&amounts, 1.0);
        self.pace.credit -= amounts[self.rate.dimension];
        let before = self.in_flight;
        self.in_flight += 1;
        self.unknown += 1;
        self.last_sent_at = now;
        Ticket {
            number: self.calls,
            at: now,
            cost,
            amounts,
            counters: self.counters,
            before,
            is_known: false,
        }
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
        if self.run.is_some_and(|run| run.canary == Some(ticket.number)) {
            self.resume(now, ticket);
        } else if self.rules.rose {
            self.check_rise(now);
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
        self.advance(now);
        self.refusals.push(now, refusal);
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
            if run.canary == Some(ticket.number) {
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
            self.rate.dimension = dimension;
        }
        self.unknown_max = (self.unknown_max / 2.0).max(1.0);
        let phase = calls_s.map_or(1.0, |calls_s| self.pace.phase(calls_s));
        let is_capped = self.cap.is_confirmed && calls_s.is_none();
        let is_early = is_capped || (phase < EARLY_PHASE && self.windows.clock().is_none());
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

    /// The call ended without an answer for another reason: cancelled, timed out, or
    /// failed. Its credit comes back unless the provider had taken it.
    pub fn lost(&mut self, now: Instant, ticket: Ticket) {
        let now = now.as_secs_f64();
        if ticket.is_known {
            self.left(now);
            return;
        }
        self.give_back(now, &ticket);
        if let Some(run) = self.run.as_mut().filter(|run| run.canary == Some(ticket.number)) {
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

    fn amounts(&self, cost: Cost) -> Amounts {
        let (prompt, output) = (f64::from(cost.prompt), f64::from(cost.output_max));
        Amounts::new(1.0, prompt + output, prompt + output * self.output_share)
    }

    /// Counts a call that is sent or, with -1, refused. Tokens used are counted at the end.
    fn count(&mut self, amounts: &Amounts, by: f64) {
        self.counters[Dimension::Requests] += by;
        self.counters[Dimension::TokensAdmitted] += by * amounts[Dimension::TokensAdmitted];
    }

    fn left(&mut self, now: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.cap.departed(now);
        if let Some(run) = &mut self.run {
            run.departed += 1;
        }
    }

    /// Takes back what a call had taken that the provider did not.
    fn give_back(&mut self, now: f64, ticket: &Ticket) {
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
        if let Some(run) = self.run.as_mut().filter(|run| run.canary.is_some()) {
            if run.canary != Some(ticket.number) {
                run.counters.subtract(&amounts);
            }
        }
    }

    /// The rate, or without one the speed, in calls a second.
    fn speed_s(&self) -> f64 {
        self.calls_s().unwrap_or(1.0 / self.gap_s.max(1e-3))
    }

    /// The rate in calls a second.
    fn calls_s(&self) -> Option<f64> {
        let per_s = match self.windows.clock() {
            Some(clock) => clock.most / clock.period_s,
            None => self.rate.per_s?,
        };
        Some((per_s / self.mean[self.rate.dimension].max(f64::MIN_POSITIVE)).clamp(1e-4, 1e6))
    }

    /// Units a second, calls a second, and whether the wave rests.
    fn speed(&self, now: f64) -> Option<(f64, f64, bool)> {
        let calls_s = self.calls_s()?;
        if let Some(clock) = self.windows.clock() {
            let fill = clock.fill_per_s(now, self.counters[self.rate.dimension]);
            return Some((fill, calls_s, true));
        }
        let rate = self.rate.per_s?;
        Some((rate, calls_s, !self.rules.wave))
    }

    fn advance(&mut self, now: f64) {
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
    fn grow_gently(&mut self, now: f64) {
        let (Some(rate), Some(calls_s)) = (self.rate.per_s, self.calls_s()) else { return };
        if now - self.quiet_since > QUIET_S.max(QUIET_CALLS / calls_s) {
            let (first, later) = QUIET_GROWTH;
            self.rate.set(rate * if self.quiet_minutes == 0 { first } else { later });
            self.rate.forget_anchors();
            self.rate.base_calls = 0.0;
            self.quiet_since = now;
            self.quiet_minutes += 1;
        }
    }

    /// The most credit that may be saved for a burst.
    fn credit_max(&self, rate: f64, unit: f64) -> f64 {
        let burst = if self.rules.depth { self.depth } else { 0.0 };
        let one = unit.max(self.asked[self.rate.dimension]);
        one.max(burst.min(rate * 5.0))
    }

    /// When to ask again, if the headers leave too little.
    fn short_of_budget(&self, now: f64, amounts: &Amounts) -> Option<f64> {
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

    /// A canary passed: the run is over.
    fn resume(&mut self, now: f64, ticket: &Ticket) {
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
            self.confirm_rise(&anchor);
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
            self.advance(now);
        }
    }

    /// After a rise: if far more passed than the old rate allowed, it is history, and so
    /// are its anchors. Otherwise a bucket had saved it up.
    fn confirm_rise(&mut self, anchor: &Anchor) {
        let (Some(old), Some(newest)) = (self.rose_from.take(), self.rate.newest()) else { return };
        let dimension = self.rate.dimension;
        let amount = anchor.counters[dimension] - newest.counters[dimension];
        let excess = amount - old * (anchor.at - newest.at);
        if excess > (SURE_CALLS * self.mean[dimension]).max(SURE_S * old) {
            self.rate.forget_anchors();
        }
    }

    /// Raises the rate to what a bucket as shallow as the first burst must have had.
    /// Where calls cannot be saved up, what is not used is lost, and the anchors alone
    /// would take our own slowness for the limit.
    fn at_least(&mut self, from: Option<f64>, until: f64, anchor: &Anchor) {
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

    fn long_silence(&mut self, now: f64, run: &Run, anchor: &Anchor) {
        let dimension = self.rate.dimension;
        let (from, counters) = self.cycle.unwrap_or((run.first_sent, anchor.counters));
        let amount = anchor.counters[dimension] - counters[dimension];
        let time = anchor.at - anchor.gap / 2.0 - from;
        let minute = self.history.counter_at(run.last_sent - 60.0, dimension);
        let (amount, time) = match minute {
            Some(count) if run.silence_s() > 10.0 => (anchor.counters[dimension] - count, 60.0),
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
    fn guess(&mut self, ticket: &Ticket, run: &Run) {
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
    fn learn_depth(&mut self) {
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
    fn depth_max(&self) -> Option<f64> {
        let ((calls, time), calls_s) = (self.burst?, self.calls_s()?);
        Some((calls - calls_s * time).max(1.0))
    }

    /// Whether so much passed since the last anchor that the rate must have risen.
    fn check_rise(&mut self, now: f64) {
        if self.is_gentle
            || self.windows.clock().is_some()
            || self.run.is_some()
            || self.pace.guessing
        {
            return;
        }
        let (Some(rate), Some(anchor)) = (self.rate.per_s, self.rate.newest()) else { return };
        let dimension = self.rate.dimension;
        let unit = self.mean[dimension];
        let excess =
            self.counters[dimension] - anchor.counters[dimension] - rate * (now - anchor.at);
        let Some(calls_s) = self.calls_s() else { return };
        if excess > (ROSE_CALLS * unit).max(ROSE_S * rate) + rate * anchor.gap {
            let new = rate * self.pace.gain(calls_s) * ROSE_SHARE;
            if new > rate {
                self.rose_from.get_or_insert(rate);
                self.rate.set(new);
                self.rate.base_calls = 0.0;
                self.pace.restart(now, Some(rate), new);
            }
        }
    }

    /// A refusal that had to come, because the window was full or tested: it needs no
    /// canary before the edge.
    fn expect_full(&mut self, now: f64, run: &mut Run) {
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
    fn window_full(&mut self, now: f64) {
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

fn wait(until: Option<f64>, why: Why) -> Decision {
    let until = until.map(|until| Instant::from_nanos((until * 1e9).ceil() as u64));
    Decision::Wait { until, why }
}
