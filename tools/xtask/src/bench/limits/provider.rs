//! A provider with hidden limits, in virtual seconds.

use std::collections::VecDeque;

use fastrand::Rng;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Requests,
    /// Prompt and the most that may be answered, charged when a call is admitted.
    Admitted,
    /// Prompt and answer, charged when a call has ended; admission asks only whether
    /// anything is left.
    Used,
}

/// The size of one call, in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) prompt: f64,
    pub(crate) output: f64,
    pub(crate) output_max: f64,
}

impl Size {
    fn at_admission(self, unit: Unit) -> f64 {
        match unit {
            Unit::Requests => 1.0,
            Unit::Admitted => self.prompt + self.output_max,
            Unit::Used => 0.0,
        }
    }
}

/// One hidden limit.
#[derive(Clone, Debug)]
pub(crate) enum Limit {
    /// A bucket of `depth` units that fills at `rate` units a second.
    Bucket { unit: Unit, rate: f64, depth: f64, level: f64, at: f64 },
    /// At most `most` units in each window of `period_s`, the first beginning at `offset_s`.
    Window { unit: Unit, period_s: f64, offset_s: f64, most: f64, used: f64, index: i64 },
    /// At most `most` units in any span of `period_s`.
    Rolling { unit: Unit, period_s: f64, most: f64, used: f64, log: VecDeque<(f64, f64)> },
    /// At most `most` calls at a time.
    Concurrency { most: f64, running: f64 },
}

/// A margin for sums of floating-point numbers.
const EPSILON: f64 = 1e-6;

impl Limit {
    pub(crate) fn bucket(unit: Unit, per_min: f64, depth: f64) -> Self {
        Self::Bucket { unit, rate: per_min / 60.0, depth, level: depth, at: 0.0 }
    }

    pub(crate) fn window(unit: Unit, period_s: f64, offset_s: f64, per_min: f64) -> Self {
        let most = per_min * period_s / 60.0;
        Self::Window { unit, period_s, offset_s, most, used: 0.0, index: i64::MIN }
    }

    pub(crate) fn rolling(unit: Unit, period_s: f64, per_min: f64) -> Self {
        let most = per_min * period_s / 60.0;
        Self::Rolling { unit, period_s, most, used: 0.0, log: VecDeque::new() }
    }

    pub(crate) fn concurrency(most: f64) -> Self {
        Self::Concurrency { most, running: 0.0 }
    }

    pub(crate) fn unit(&self) -> Option<Unit> {
        match self {
            Self::Bucket { unit, .. } | Self::Window { unit, .. } | Self::Rolling { unit, .. } => {
                Some(*unit)
            }
            Self::Concurrency { .. } => None,
        }
    }

    pub(crate) fn period_s(&self) -> Option<f64> {
        match self {
            Self::Window { period_s, .. } | Self::Rolling { period_s, .. } => Some(*period_s),
            _ => None,
        }
    }

    /// Brings the state to `now`.
    fn advance(&mut self, now: f64) {
        match self {
            Self::Bucket { rate, depth, level, at, .. } => {
                *level = (*level + *rate * (now - *at)).min(*depth);
                *at = now;
            }
            Self::Window { period_s, offset_s, used, index, .. } => {
                let current = ((now - *offset_s) / *period_s + 1e-9).floor() as i64;
                if current != *index {
                    *index = current;
                    *used = 0.0;
                }
            }
            Self::Rolling { period_s, used, log, .. } => {
                while log.front().is_some_and(|(at, _)| *at <= now - *period_s + 1e-9) {
                    *used -= log.pop_front().map_or(0.0, |(_, amount)| amount);
                }
            }
            Self::Concurrency { .. } => {}
        }
    }

    /// What must be free for a call to be admitted.
    fn need(&self, size: Size) -> f64 {
        match self.unit() {
            Some(Unit::Used) => EPSILON * 2.0,
            Some(unit) => size.at_admission(unit),
            None => 1.0,
        }
    }

    fn admits(&self, size: Size) -> bool {
        let need = self.need(size) - EPSILON;
        match self {
            Self::Bucket { level, .. } => *level >= need,
            Self::Window { most, used, .. } | Self::Rolling { most, used, .. } => {
                most - used >= need
            }
            Self::Concurrency { most, running } => most - running >= need,
        }
    }

    /// When the call would be admitted if no other came; `None` when only the end of
    /// another call can make room.
    fn earliest(&self, now: f64, size: Size) -> Option<f64> {
        if self.admits(size) {
            return Some(now);
        }
        let need = self.need(size);
        match self {
            Self::Bucket { rate, level, .. } => Some(now + (need - level) / rate + 1e-6),
            Self::Window { period_s, offset_s, index, .. } => {
                Some((*index + 1) as f64 * period_s + offset_s)
            }
            Self::Rolling { period_s, most, used, log, .. } => {
                let mut free = most - used;
                for (at, amount) in log {
                    free += amount;
                    if free >= need - EPSILON {
                        return Some(at + period_s);
                    }
                }
                None
            }
            Self::Concurrency { .. } => None,
        }
    }

    fn charge(&mut self, now: f64, amount: f64) {
        match self {
            Self::Bucket { level, .. } => *level -= amount,
            Self::Window { used, .. } => *used += amount,
            Self::Rolling { used, log, .. } => {
                *used += amount;
                log.push_back((now, amount));
            }
            Self::Concurrency { .. } => {}
        }
    }

    /// Multiplies the limit, as a provider does that changes a customer's tier.
    fn scale(&mut self, by: f64) {
        match self {
            Self::Bucket { rate, depth, level, .. } => {
                *rate *= by;
                *depth = (*depth * by).max(1.0);
                *level = level.min(*depth);
            }
            Self::Window { most, .. } | Self::Rolling { most, .. } => {
                *most = (*most * by).round().max(1.0);
            }
            Self::Concurrency { most, .. } => *most = (*most * by).round().max(1.0),
        }
    }
}

/// What a refusal says about when to come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hint {
    None,
    /// When the call would be admitted, rounded up to whole seconds.
    True,
    /// Always so many seconds.
    Always(f64),
}

/// How a provider behaves beside its limits.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    pub(crate) hint: Hint,
    /// Refuses with 529 instead of 429.
    pub(crate) overloaded: bool,
    /// Sends truthful rate-limit headers with every answer.
    pub(crate) headers: bool,
    /// Share of calls refused for no reason.
    pub(crate) noise: f64,
    /// A refused call counts against the limit too.
    pub(crate) refusals_count: bool,
}

/// A provider: its limits and manners.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) limits: Vec<Limit>,
    pub(crate) manners: Manners,
}

/// One limit as a truthful header shows it: limit a minute, remaining, seconds to reset.
pub(crate) type Shown = (Unit, f64, f64, f64);

impl Provider {
    /// Judges a call that arrives at `now`; charges it when it is admitted.
    pub(crate) fn admit(&mut self, now: f64, size: Size, rng: &mut Rng) -> bool {
        for limit in &mut self.limits {
            limit.advance(now);
        }
        let noise = self.manners.noise > 0.0 && rng.f64() < self.manners.noise;
        let admitted = !noise && self.limits.iter().all(|limit| limit.admits(size));
        for limit in &mut self.limits {
            let amount = limit.unit().map_or(0.0, |unit| size.at_admission(unit));
            if admitted {
                limit.charge(now, amount);
                if let Limit::Concurrency { running, .. } = limit {
                    *running += 1.0;
                }
            } else if self.manners.refusals_count && !noise {
                match limit {
                    Limit::Bucket { level, .. } => *level = (*level - amount).max(0.0),
                    Limit::Window { .. } => limit.charge(now, amount),
                    _ => {}
                }
            }
        }
        admitted
    }

    /// Takes a call of another client, which goes first whatever is left.
    pub(crate) fn take(&mut self, now: f64, size: Size) {
        for limit in &mut self.limits {
            limit.advance(now);
            let amount = limit.unit().map_or(0.0, |unit| size.at_admission(unit));
            limit.charge(now, amount);
            if let Limit::Concurrency { running, .. } = limit {
                *running += 1.0;
            }
        }
    }

    /// An admitted call has ended.
    pub(crate) fn finish(&mut self, now: f64, size: Size) {
        for limit in &mut self.limits {
            limit.advance(now);
            if limit.unit() == Some(Unit::Used) {
                limit.charge(now, size.prompt + size.output);
            }
            if let Limit::Concurrency { running, .. } = limit {
                *running -= 1.0;
            }
        }
    }

    /// When a call would be admitted if no other came, for the oracle.
    pub(crate) fn earliest(&mut self, now: f64, size: Size) -> Option<f64> {
        let mut at = now;
        for limit in &mut self.limits {
            limit.advance(now);
            at = at.max(limit.earliest(now, size)?);
        }
        Some(at)
    }

    pub(crate) fn scale(&mut self, now: f64, by: f64) {
        for limit in &mut self.limits {
            limit.advance(now);
            limit.scale(by);
        }
    }

    /// Seconds that a refusal asks the caller to wait.
    pub(crate) fn retry_after_s(&mut self, now: f64, size: Size) -> Option<f64> {
        match self.manners.hint {
            Hint::None => None,
            Hint::Always(s) => Some(s),
            Hint::True => self.earliest(now, size).map(|at| (at - now).ceil().max(1.0)),
        }
    }

    /// What truthful headers show now.
    pub(crate) fn shown(&mut self, now: f64) -> Vec<Shown> {
        if !self.manners.headers {
            return Vec::new();
        }
        let mut shown = Vec::new();
        for limit in &mut self.limits {
            limit.advance(now);
            match limit {
                Limit::Bucket { unit, rate, depth, level, .. } => {
                    shown.push((*unit, *rate * 60.0, level.max(0.0), (*depth - *level) / *rate));
                }
                Limit::Window { unit, period_s, offset_s, most, used, index } => {
                    let edge = (*index + 1) as f64 * *period_s + *offset_s;
                    let per_min = *most * 60.0 / *period_s;
                    shown.push((*unit, per_min, (*most - *used).max(0.0), edge - now));
                }
                _ => {}
            }
        }
        shown
    }
}
