//! The clock of a windowed limit: when its windows begin, and how much fits into one.
//!
//! Even pacing satisfies a window without knowing it. The clock serves the rest: after a
//! refusal it says when to come back, and at the end of a window it is safe to test.

use std::collections::VecDeque;

/// Periods that providers use, in seconds, and how many resumptions must agree on each
/// (limit-learning.md: 2 modulo 60 s, 4 modulo 30, 20, 10).
const PERIODS: [(f64, usize); 4] = [(60.0, 2), (30.0, 4), (20.0, 4), (10.0, 4)];

/// Resumptions that are remembered.
const EDGES_MAX: usize = 8;

/// An edge known less exactly than this share of a period says nothing about it.
const VAGUE: f64 = 0.15;

/// How far edges that agree may lie apart, in seconds: the way of a call is not always as
/// long.
const EDGE_EXACT_S: f64 = 0.05;

/// An edge off the clock contradicts it when it is younger than so many periods.
const CONTRADICTED: f64 = 2.2;

/// The part of a window at its end that is left free of planned calls.
const RESERVE: f64 = 0.1;

/// How much faster than evenly a window is filled (limit-learning.md: 1.12).
const FILL: f64 = 1.12;

/// When testing begins and ends in a window, as a share of it and in seconds before its
/// end (limit-learning.md: the last 8 %).
const TEST_FROM: f64 = 0.92;
const TEST_END_S: f64 = 0.3;

/// Calls, or windows, between tests that failed (as for the wave of the pace).
const TEST_CALLS: f64 = 100.0;
const TEST_WINDOWS: u32 = 2;

/// How far beside its clock an edge may lie, in seconds (limit-learning.md: 0.7).
const OFF_S: f64 = 0.7;

/// How long a clock that was wrong is not believed in again, in seconds.
const DISBELIEF_S: f64 = 600.0;

/// The time in which an edge must lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bracket {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A clock that is believed in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) period_s: f64,
    /// One edge.
    edge: Bracket,
    /// When the present window ends at the latest.
    pub(super) ends: f64,
    /// Units that fit into one window.
    pub(super) most: f64,
    /// The counter when the present window began.
    from: f64,
    /// Units beyond `most` that may be tested in this window.
    extra: f64,
    tested: f64,
    /// Calls and windows since a test failed.
    calls: f64,
    windows: u32,
    was_refused: bool,
    misses: u32,
}

/// What is known of windows.
#[derive(Debug)]
pub(super) struct Windows {
    edges: VecDeque<Bracket>,
    clock: Option<Clock>,
    disbelief_until: f64,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self { edges: VecDeque::with_capacity(EDGES_MAX), clock: None, disbelief_until: 0.0 }
    }

    pub(super) fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Calls passed again, after a proven silence, at a time in `edge`. `count` is the
    /// counter before the first of them, and `most` what the window before let through.
    pub(super) fn resumed(&mut self, edge: Bracket, count: f64, most: f64) {
        if let Some(clock) = &mut self.clock {
            if !clock.resumed(edge, count) {
                self.drop_clock(edge.high);
            }
            return;
        }
        if self.edges.len() == EDGES_MAX {
            self.edges.pop_front();
        }
        self.edges.push_back(edge);
        if edge.high < self.disbelief_until || most <= 0.0 {
            return;
        }
        for (period_s, needed) in PERIODS {
            if let Some(edge) = self.agreed(edge, period_s, needed) {
                self.clock = Some(Clock {
                    period_s,
                    edge,
                    ends: edge.high + period_s,
                    most,
                    from: count,
                    extra: 0.0,
                    tested: 0.0,
                    calls: 0.0,
                    windows: 0,
                    was_refused: false,
                    misses: 0,
                });
                return;
            }
        }
    }

    /// The edge narrowed by all recent ones, if enough agree on this period and none of
    /// the last two periods contradicts it.
    fn agreed(&self, newest: Bracket, period_s: f64, needed: usize) -> Option<Bracket> {
        if newest.high - newest.low > VAGUE * period_s {
            return None;
        }
        let (mut edge, mut agree) = (newest, 1);
        for other in self.edges.iter().rev().skip(1) {
            if other.high - other.low > VAGUE * period_s {
                continue;
            }
            let periods = ((newest.low - other.low) / period_s).round();
            let moved = Bracket {
                low: other.low + periods * period_s,
                high: other.high + periods * period_s,
            };
            let overlap = Bracket { low: edge.low.max(moved.low), high: edge.high.min(moved.high) };
            if overlap.low <= overlap.high + EDGE_EXACT_S && periods >= 1.0 {
                edge = Bracket { low: overlap.low.min(overlap.high), high: overlap.high };
                agree += 1;
            } else if newest.high - other.high < CONTRADICTED * period_s {
                return None;
            }
        }
        (agree >= needed).then_some(edge)
    }

    /// Brings the clock to `now`; `count` is the counter, `unit` the mean call.
    pub(super) fn advance(&mut self, now: f64, count: f64, unit: f64) {
        if let Some(clock) = self.clock.as_mut().filter(|clock| now >= clock.ends) {
            clock.turn(now, count, unit);
        }
    }

    pub(super) fn clock_mut(&mut self) -> Option<&mut Clock> {
        self.clock.as_mut()
    }

    pub(super) fn drop_clock(&mut self, now: f64) {
        self.clock = None;
        self.edges.clear();
        self.disbelief_until = now + DISBELIEF_S;
    }
}

impl Clock {
    /// A new window has begun.
    fn turn(&mut self, now: f64, count: f64, unit: f64) {
        let used = count - self.from;
        self.calls += used / unit;
        self.windows += 1;
        if self.was_refused {
            self.calls = 0.0;
            self.windows = 0;
        } else if self.tested > 0.0 && used >= self.most + unit {
            // More fits than was known, and how much more only a window can tell.
            self.most *= 2.0;
        }
        self.from = count;
        self.extra = 0.0;
        self.tested = 0.0;
        self.was_refused = false;
        let periods = ((now - self.ends) / self.period_s).floor() + 1.0;
        self.ends += periods * self.period_s;
    }

    /// Whether the resumption fits the clock, which it narrows.
    fn resumed(&mut self, edge: Bracket, count: f64) -> bool {
        let periods = ((edge.high - self.edge.high) / self.period_s).round();
        let by = periods * self.period_s;
        let (low, high) = (self.edge.low + by, self.edge.high + by);
        if edge.low > high + OFF_S || edge.high < low - OFF_S {
            self.misses += 1;
            return self.misses < 2;
        }
        self.misses = 0;
        let narrow = Bracket { low: low.max(edge.low), high: high.min(edge.high) };
        self.edge = if narrow.low <= narrow.high { narrow } else { edge };
        self.ends = self.edge.high + self.period_s;
        self.from = count;
        self.was_refused = false;
        self.extra = 0.0;
        self.tested = 0.0;
        true
    }

    /// When this window may be tested.
    pub(super) fn test_at(&self) -> f64 {
        self.ends - (1.0 - TEST_FROM) * self.period_s
    }

    /// Units that may still be sent in this window.
    pub(super) fn left(&mut self, now: f64, count: f64, unit: f64, is_settled: bool) -> f64 {
        let used = count - self.from;
        let from = self.test_at();
        let is_due = self.calls + used / unit >= TEST_CALLS || self.windows >= TEST_WINDOWS;
        let is_due = is_due && !self.was_refused;
        let is_time = now >= from && now < self.ends - TEST_END_S;
        if is_due && is_time && is_settled && used + unit > self.most + self.extra {
            self.tested = (self.tested * 2.0).max(unit);
            self.extra += self.tested;
        }
        self.most + self.extra - used
    }

    /// The rate that fills the window early enough, in units a second.
    pub(super) fn fill_per_s(&self, now: f64, count: f64) -> f64 {
        let left = (self.most + self.extra - (count - self.from)).max(0.0);
        let time = (self.ends - RESERVE * self.period_s - now).max(1.0);
        (FILL * self.most / self.period_s).max(left / time)
    }

    /// Counts another dimension from now on.
    pub(super) fn rebase(&mut self, most: f64, count: f64) {
        self.most = most;
        self.from = count;
        self.extra = 0.0;
    }

    /// Whether as much has passed in this window as is known to fit.
    pub(super) fn is_full(&self, count: f64, unit: f64) -> bool {
        count - self.from > self.most - 0.5 * unit
    }

    /// A refusal that its canary confirmed: the window is full at this count.
    pub(super) fn full(&mut self, count: f64, unit: f64) {
        self.was_refused = true;
        self.calls = 0.0;
        self.windows = 0;
        self.most = (count - self.from).max(unit);
        self.extra = 0.0;
    }
}
