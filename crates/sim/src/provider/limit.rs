//! Limits that a provider does not tell of, or tells in its headers.
//!
//! A limit is written `kind=amount[:options]`:
//!
//! | Limit | Meaning |
//! |---|---|
//! | `requests=60/m` (`/s`, `/h`) | a token bucket; `:burst=10` sets what it holds |
//! | `requests=60/m:window` | fixed windows by the clock |
//! | `requests=60/m:rolling` | any span of that length |
//! | `tokens=90000/m` | a bucket of prompt tokens and allowed answer tokens |
//! | `concurrency=8` | calls at a time |
//!
//! Further options: `headers` (what is left is told with each answer), `overloaded` (529 in
//! place of 429, as Anthropic does), `silent` (no `retry-after`), and `then=60s*0.5`: after so
//! long the amount is multiplied. Limits hold for each key and model.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use paceline_core::Instant;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Requests,
    Tokens,
    Calls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Bucket,
    Window,
    Rolling,
}

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limit {
    pub(crate) counts: Counts,
    shape: Shape,
    amount: f64,
    per: Duration,
    burst: Option<f64>,
    /// What is left is told with each answer.
    pub(crate) shown: bool,
    /// Refused as an overload.
    pub(crate) overloaded: bool,
    /// No time to come back is told.
    pub(crate) silent: bool,
    then: Option<(Duration, f64)>,
}

impl Limit {
    /// Reads a limit.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut options = text.split(':');
        let first = options.next().unwrap_or_default();
        let (kind, amount) = first.split_once('=').ok_or("it has no `=`")?;
        let counts = match kind.trim() {
            "requests" => Counts::Requests,
            "tokens" => Counts::Tokens,
            "concurrency" => Counts::Calls,
            other => return Err(format!("`{other}` is none of requests, tokens, concurrency")),
        };
        let (amount, per) = match (amount.split_once('/'), counts) {
            (None, Counts::Calls) => (amount, Duration::from_secs(1)),
            (Some((amount, unit)), _) => (amount, unit_of(unit)?),
            (None, _) => return Err("it has no time, as in 60/m".to_owned()),
        };
        let number = amount.trim().parse::<f64>().ok().filter(|n| *n >= 1.0 && n.is_finite());
        let amount = number.ok_or("the amount is a number of at least 1")?;
        let mut limit = Self {
            counts,
            shape: Shape::Bucket,
            amount,
            per,
            burst: None,
            shown: false,
            overloaded: false,
            silent: false,
            then: None,
        };
        for option in options {
            match option.split_once('=').unwrap_or((option, "")) {
                ("window", "") => limit.shape = Shape::Window,
                ("rolling", "") => limit.shape = Shape::Rolling,
                ("headers", "") => limit.shown = true,
                ("overloaded", "") => limit.overloaded = true,
                ("silent", "") => limit.silent = true,
                ("burst", burst) => {
                    let burst = burst.parse().ok().filter(|burst: &f64| *burst >= 1.0);
                    limit.burst = Some(burst.ok_or("`burst` is a number of at least 1")?);
                }
                ("then", then) => limit.then = Some(then_of(then)?),
                (other, _) => return Err(format!("`{other}` is no option of a limit")),
            }
        }
        Ok(limit)
    }

    fn amount_at(&self, age: Duration) -> f64 {
        match self.then {
            Some((after, factor)) if age >= after => self.amount * factor,
            _ => self.amount,
        }
    }

    fn rate(&self, age: Duration) -> f64 {
        self.amount_at(age) / self.per.as_secs_f64()
    }

    fn burst_at(&self, age: Duration) -> f64 {
        self.burst.unwrap_or_else(|| self.amount_at(age))
    }
}

fn unit_of(unit: &str) -> Result<Duration, String> {
    match unit.trim() {
        "s" => Ok(Duration::from_secs(1)),
        "m" => Ok(Duration::from_secs(60)),
        "h" => Ok(Duration::from_secs(3600)),
        other => Err(format!("`{other}` is none of s, m, h")),
    }
}

fn then_of(text: &str) -> Result<(Duration, f64), String> {
    let wrong = || "`then` is a time and a factor, as in then=60s*0.5".to_owned();
    let (after, factor) = text.split_once('*').ok_or_else(wrong)?;
    let after = after.trim_end_matches('s').parse::<f64>().ok().filter(|s| *s >= 0.0);
    let factor = factor.parse::<f64>().ok().filter(|factor| *factor > 0.0);
    match (after, factor) {
        (Some(after), Some(factor)) if after < 1e9 => Ok((Duration::from_secs_f64(after), factor)),
        _ => Err(wrong()),
    }
}

/// What is left of one limit for one key and model.
#[derive(Debug)]
struct State {
    left: f64,
    at: Instant,
    /// Rolling: when each amount was taken.
    taken: VecDeque<(Instant, f64)>,
    calls: usize,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Refused<'a> {
    pub(crate) limit: &'a Limit,
    /// After what time the call would pass.
    pub(crate) wait: Duration,
}

/// What an answer tells of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Left {
    pub(crate) counts: Counts,
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    pub(crate) reset: Duration,
}

/// All limits, for each key and model.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    limits: Vec<Limit>,
    states: HashMap<(String, String), Vec<State>>,
    began: Instant,
}

/// So many keys and models are told apart.
const STATES_MAX: usize = 10_000;

impl Limits {
    pub(crate) fn new(limits: Vec<Limit>, now: Instant) -> Self {
        Self { limits, states: HashMap::new(), began: now }
    }

    /// Lets a call pass all limits, or none: it is refused by the one that lasts longest.
    pub(crate) fn enter(
        &mut self,
        who: (&str, &str),
        tokens: f64,
        now: Instant,
    ) -> Result<Vec<Left>, Refused<'_>> {
        let age = now.since(self.began);
        if self.states.len() >= STATES_MAX {
            self.states.clear();
        }
        let limits = &self.limits;
        let fresh = || {
            let state = |limit: &Limit| State {
                left: limit.burst_at(age),
                at: now,
                taken: VecDeque::new(),
                calls: 0,
            };
            limits.iter().map(state).collect()
        };
        let who = (who.0.to_owned(), who.1.to_owned());
        let states = self.states.entry(who).or_insert_with(fresh);
        let mut refused: Option<Refused<'_>> = None;
        for (limit, state) in limits.iter().zip(states.iter_mut()) {
            state.refill(limit, age, self.began, now);
            let wait = state.wait(limit, needs(limit, tokens), age, self.began, now);
            if let Some(wait) = wait.filter(|wait| refused.is_none_or(|r| *wait > r.wait)) {
                refused = Some(Refused { limit, wait });
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let mut left = Vec::new();
        for (limit, state) in limits.iter().zip(states.iter_mut()) {
            state.take(limit, needs(limit, tokens), now);
            if limit.shown {
                left.push(state.shown(limit, age, self.began, now));
            }
        }
        Ok(left)
    }

    /// A call has ended.
    pub(crate) fn leave(&mut self, who: (&str, &str)) {
        let who = (who.0.to_owned(), who.1.to_owned());
        for state in self.states.get_mut(&who).into_iter().flatten() {
            state.calls = state.calls.saturating_sub(1);
        }
    }
}

fn needs(limit: &Limit, tokens: f64) -> f64 {
    if limit.counts == Counts::Tokens { tokens } else { 1.0 }
}

impl State {
    fn refill(&mut self, limit: &Limit, age: Duration, began: Instant, now: Instant) {
        match limit.shape {
            Shape::Bucket => {
                let more = now.since(self.at).as_secs_f64() * limit.rate(age);
                self.left = (self.left + more).min(limit.burst_at(age));
            }
            Shape::Window => {
                let window = |at: Instant| at.since(began).as_nanos() / limit.per.as_nanos();
                if window(now) != window(self.at) {
                    self.left = limit.amount_at(age);
                }
                self.left = self.left.min(limit.amount_at(age));
            }
            Shape::Rolling => {
                while self.taken.front().is_some_and(|(at, _)| now.since(*at) >= limit.per) {
                    self.taken.pop_front();
                }
                let taken: f64 = self.taken.iter().map(|(_, amount)| amount).sum();
                self.left = limit.amount_at(age) - taken;
            }
        }
        self.at = now;
    }

    /// How long a call must wait; `None` where it need not.
    fn wait(
        &self,
        limit: &Limit,
        needs: f64,
        age: Duration,
        began: Instant,
        now: Instant,
    ) -> Option<Duration> {
        if limit.counts == Counts::Calls {
            let full = self.calls as f64 >= limit.amount_at(age);
            return full.then_some(Duration::from_secs(1));
        }
        if self.left >= needs {
            return None;
        }
        Some(match limit.shape {
            Shape::Bucket => Duration::from_secs_f64((needs - self.left) / limit.rate(age)),
            Shape::Window => rest_of_window(limit, began, now),
            Shape::Rolling => match self.taken.front() {
                Some((first, _)) => limit.per.saturating_sub(now.since(*first)),
                None => limit.per,
            },
        })
    }

    fn take(&mut self, limit: &Limit, needs: f64, now: Instant) {
        self.calls += 1;
        self.left -= needs;
        if limit.shape == Shape::Rolling {
            self.taken.push_back((now, needs));
        }
    }

    fn shown(&self, limit: &Limit, age: Duration, began: Instant, now: Instant) -> Left {
        let (whole, remaining) = match limit.counts {
            Counts::Calls => (limit.amount_at(age), limit.amount_at(age) - self.calls as f64),
            _ => (limit.amount_at(age), self.left),
        };
        let reset = match limit.shape {
            Shape::Window => rest_of_window(limit, began, now),
            _ => {
                let gone = (limit.burst_at(age) - self.left).max(0.0);
                Duration::from_secs_f64(gone / limit.rate(age))
            }
        };
        let counts = limit.counts;
        Left { counts, limit: whole as u64, remaining: remaining.max(0.0) as u64, reset }
    }
}

fn rest_of_window(limit: &Limit, began: Instant, now: Instant) -> Duration {
    let gone = now.since(began).as_nanos() % limit.per.as_nanos();
    limit.per.saturating_sub(Duration::from_nanos(u64::try_from(gone).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// At which of these times a call passes.
    fn passed(text: &str, times: &[u64]) -> Vec<u64> {
        let mut limits = Limits::new(vec![Limit::parse(text).unwrap()], at(0));
        let passes = |ms: &&u64| limits.enter(("k", "m"), 10.0, at(**ms)).is_ok();
        times.iter().filter(passes).copied().collect()
    }

    #[test]
    fn each_kind_lets_pass_what_it_says() {
        let check = |text: &str, times: &[u64], expected: &[u64]| {
            assert_eq!(passed(text, times), expected, "{text}");
        };
        check("requests=2/s", &[0, 0, 0, 499, 501, 502], &[0, 0, 501]);
        check("requests=60/m:burst=1", &[0, 0, 999, 1001], &[0, 1001]);
        check("requests=2/s:window", &[900, 900, 950, 1001, 1002, 1003], &[900, 900, 1001, 1002]);
        check("requests=2/s:rolling", &[900, 900, 1001, 1899, 1901], &[900, 900, 1901]);
        check("tokens=20/s", &[0, 0, 0, 501], &[0, 0, 501]);
        check(
            "requests=4/s:then=1s*0.5:window",
            &[0, 0, 0, 0, 1001, 1002, 1003],
            &[0, 0, 0, 0, 1001, 1002],
        );
    }

    #[test]
    fn refusals_say_when_and_answers_what_is_left() {
        let limit = Limit::parse("requests=2/s:window:headers").unwrap();
        let mut limits = Limits::new(vec![limit], at(0));
        let left = limits.enter(("k", "m"), 1.0, at(250)).unwrap()[0];
        assert_eq!((left.limit, left.remaining), (2, 1));
        assert_eq!(left.reset, Duration::from_millis(750));
        limits.enter(("k", "m"), 1.0, at(250)).unwrap();
        let refused = limits.enter(("k", "m"), 1.0, at(500)).unwrap_err();
        assert_eq!(refused.wait, Duration::from_millis(500));
        assert!(limits.enter(("other", "m"), 1.0, at(500)).is_ok(), "keys have their own");
        let mut limits = Limits::new(vec![Limit::parse("concurrency=1").unwrap()], at(0));
        assert!(limits.enter(("k", "m"), 1.0, at(0)).is_ok());
        assert!(limits.enter(("k", "m"), 1.0, at(0)).is_err());
        limits.leave(("k", "m"));
        assert!(limits.enter(("k", "m"), 1.0, at(0)).is_ok());
    }

    #[test]
    fn what_is_no_limit_is_named() {
        for (text, part) in [
            ("requests", "no `=`"),
            ("requests=60", "60/m"),
            ("calls=1/s", "none of requests"),
            ("requests=0/s", "at least 1"),
            ("requests=1/d", "s, m, h"),
            ("requests=1/s:fixed", "`fixed`"),
            ("requests=1/s:then=5", "then=60s*0.5"),
        ] {
            assert!(Limit::parse(text).unwrap_err().contains(part), "{text}");
        }
    }
}
