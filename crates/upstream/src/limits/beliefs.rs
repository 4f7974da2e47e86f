//! What the learner believes, in plain values.

use serde::Serialize;

use super::{Class, Dimension, Learner, Refusal, Why};

/// Refusals that are shown.
const SHOWN: usize = 8;

/// How calls are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing is known: calls go as they come.
    Unknown,
    /// At an even pace.
    Rate,
    /// Windows with a known clock.
    Window,
    /// So many calls at a time.
    Concurrency,
    /// As the provider's headers tell.
    Headers,
}

/// A rate that is believed in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// What is counted.
    pub dimension: Dimension,
    /// Units a minute.
    pub per_min: f64,
}

/// A refusal that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// How long ago, in seconds.
    pub ago_s: f64,
    /// Its kind.
    pub class: Class,
    /// What it asked to wait, in seconds.
    pub retry_after_s: Option<f64>,
}

/// What the learner believes of one key and model, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Beliefs {
    /// How calls are let through.
    pub kind: Kind,
    /// The learned rate.
    pub rate: Option<Speed>,
    /// What headers say, a minute.
    pub stated: Vec<Speed>,
    /// Most calls at a time, and whether several refusals agreed on it.
    pub cap: Option<u32>,
    /// Period of the windows, in seconds, where their clock is known.
    pub window_s: Option<f64>,
    /// Calls in flight.
    pub in_flight: u32,
    /// From 0 to 1: how much the rate, or the cap, rests on.
    pub confidence: f64,
    /// The last refusals, newest first.
    pub refusals: Vec<Seen>,
    /// Share of the last 20 outcomes that were refusals.
    pub refused_share: f64,
    /// How much longer nothing is sent, in seconds.
    pub hold_s: Option<f64>,
    /// The factor on the rate at present: the wave that tests it.
    pub gain: f64,
    /// Whether a long silence made it careful.
    pub gentle: bool,
    /// Why the next call would wait.
    pub waits_for: Option<Why>,
    /// The same in words.
    pub reason: String,
}

/// The last refusals.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refusals {
    seen: [Option<(f64, Class, Option<f64>)>; SHOWN],
    next: usize,
}

impl Refusals {
    pub(super) fn push(&mut self, now: f64, refusal: &Refusal) {
        let hint = refusal.retry_after.map(|hint| hint.as_secs_f64());
        self.seen[self.next] = Some((now, refusal.class, hint));
        self.next = (self.next + 1) % SHOWN;
    }
}

impl Learner {
    /// What is believed at `now`, for people.
    pub fn explain(&self, now: paceline_core::Instant) -> Beliefs {
        let now = now.as_secs_f64();
        let mut refusals: Vec<Seen> = (self.refusals.seen.iter().flatten())
            .map(|(at, class, hint)| Seen { ago_s: now - at, class: *class, retry_after_s: *hint })
            .collect();
        refusals.sort_by(|a, b| a.ago_s.total_cmp(&b.ago_s));
        let stated: Vec<Speed> = (Dimension::ALL.into_iter())
            .filter_map(|dimension| {
                let budget =
                    self.budgets[dimension as usize].filter(|budget| budget.is_fresh(now))?;
                Some(Speed { dimension, per_min: budget.per_s() * 60.0 })
            })
            .collect();
        let window_s = self.windows.clock().map(|clock| clock.period_s);
        let per_s = match self.windows.clock() {
            Some(clock) => Some(clock.most / clock.period_s),
            None => self.rate.per_s,
        };
        let rate =
            per_s.map(|per_s| Speed { dimension: self.rate.dimension, per_min: per_s * 60.0 });
        let cap = self.cap.most;
        let kind = if self.cap.is_confirmed {
            Kind::Concurrency
        } else if window_s.is_some() {
            Kind::Window
        } else if rate.is_some() {
            Kind::Rate
        } else if !stated.is_empty() {
            Kind::Headers
        } else {
            Kind::Unknown
        };
        let hold_s = self.run.filter(|run| run.next_at > now).map(|run| run.next_at - now);
        let base = self.rate.base_calls;
        let confidence = match kind {
            Kind::Unknown => 0.0,
            Kind::Headers | Kind::Window | Kind::Concurrency => 1.0,
            Kind::Rate if self.pace.guessing => 0.0,
            Kind::Rate => base / (base + 8.0),
        };
        let reason = reason(kind, rate, cap, window_s, refusals.first());
        let refused_share =
            f64::from((self.outcomes & super::learn::NOISE_MASK).count_ones()) / 20.0;
        let waits_for =
            self.run.map(|run| if run.canary.is_some() { Why::Canary } else { Why::Refused });
        Beliefs {
            kind,
            rate,
            stated,
            cap,
            window_s,
            in_flight: self.in_flight,
            confidence,
            refusals,
            refused_share,
            hold_s,
            gain: self.calls_s().map_or(1.0, |calls_s| self.pace.gain(calls_s)),
            gentle: self.is_gentle,
            waits_for,
            reason,
        }
    }
}

fn reason(
    kind: Kind,
    rate: Option<Speed>,
    cap: Option<u32>,
    window_s: Option<f64>,
    last: Option<&Seen>,
) -> String {
    let unit = |dimension| match dimension {
        Dimension::Requests => "requests",
        Dimension::TokensAdmitted => "tokens (prompt and max_tokens)",
        Dimension::TokensUsed => "tokens (prompt and answer)",
    };
    let speed = rate.map_or(String::new(), |rate| {
        format!("{:.0} {} a minute", rate.per_min, unit(rate.dimension))
    });
    let mut text = match kind {
        Kind::Unknown => "no limit has shown itself".to_owned(),
        Kind::Headers => "the provider's headers tell what is left".to_owned(),
        Kind::Rate => format!("{speed}, from how much passed between refusals"),
        Kind::Window => {
            format!("{speed}, in windows of {:.0} s", window_s.unwrap_or_default())
        }
        Kind::Concurrency => format!(
            "{} calls at a time: refusals came at that number, and ended when a call ended",
            cap.unwrap_or_default()
        ),
    };
    if let Some(last) = last {
        text += &format!("; last refused {:.0} s ago", last.ago_s);
    }
    text
}
