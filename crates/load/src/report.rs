//! What a replay found, as data: the same for the terminal, for JSON and for the page.

pub mod compare;
pub mod html;
mod svg;
pub mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use paceline_stats::{Summary, Timeline, quantile_sorted};
use serde::{Deserialize, Serialize};

use crate::replay::{Config, Plan};
use crate::target::FailureKind;
use crate::trace::LeftOut;

/// The figures of one replay. In virtual time they depend on the trace, the configuration
/// and the seed alone. Its JSON form is stable within a [`Report::VERSION`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// What the caller said of the circumstances.
    pub meta: Meta,
    /// What was replayed.
    pub trace: TraceInfo,
    /// How it was replayed.
    pub load: Load,
    /// Whether the figures can be trusted: the client kept up with its plan.
    pub valid: bool,
    /// Why not.
    pub invalid: Vec<String>,
    /// Calls by what became of them.
    pub calls: Calls,
    /// Tokens of completed calls.
    pub tokens: Tokens,
    /// Prompt tokens that the engines' prefix caches held over all prompt tokens, of calls
    /// that reached an engine; null where no usage was told.
    pub prefix_hit_ratio: Option<f64>,
    /// From the intended send to the first token, in ms, of completed calls.
    pub ttft_ms: Latency,
    /// Between two tokens of an answer, in ms, over all tokens; quantiles are at most 0.1 %
    /// too high.
    pub inter_token_ms: Latency,
    /// From the intended send to the last token, in ms, of completed calls.
    pub end_to_end_ms: Latency,
    /// Agent runs.
    pub runs: Runs,
    /// Work by time.
    pub throughput: Throughput,
    /// The prefix-hit ratio of calls by the time of their send.
    pub prefix_hit_over_time: Series,
    /// The replicas, where they could be looked into or named themselves.
    pub replicas: Vec<ReplicaReport>,
    /// How far the client was behind its plan.
    pub lag: Lag,
}

/// What the caller of a replay says of its circumstances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// What was replayed against, in a few words: `Paceline`, `round robin`.
    pub arm: String,
    /// The command that repeats it.
    pub command: String,
    /// Facts for the reader, such as `("Replicas", "4 × H100, 8B")`.
    pub facts: Vec<(String, String)>,
    /// Whether the engines are simulated.
    pub simulated: bool,
    /// What of the trace was left out before the replay.
    pub left_out: LeftOut,
}

/// Which trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceInfo {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Sessions that were left out or cut before the draw.
    pub left_out: LeftOut,
}

/// How a trace was replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// `closed` or `open`.
    pub kind: String,
    /// What was drawn by it: sessions, their order and offsets.
    pub seed: u64,
    /// Sessions drawn.
    pub sessions: usize,
    /// Sessions active at once; null for open arrivals.
    pub active: Option<usize>,
    /// How many times as fast as recorded; null in closed loop.
    pub rate: Option<f64>,
    /// Longest think time, in seconds.
    pub think_max_s: f64,
    /// Whether arrivals within a step of the recording's clock were spread over it.
    pub spread_ticks: bool,
}

/// Calls by what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Drawn.
    pub planned: usize,
    /// Answered to the end.
    pub completed: usize,
    /// Failed for whatever reason.
    pub failed: usize,
    /// By reason.
    pub failures: Vec<FailureCount>,
    /// Completed calls that an engine worked for.
    pub upstream: usize,
    /// Completed from a kept answer, without an engine.
    pub saved_hit: usize,
    /// Completed with the answer of an equal call under way.
    pub saved_joined: usize,
}

/// Failed calls of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// The kind.
    pub kind: FailureKind,
    /// How many.
    pub count: usize,
    /// What the first of them said.
    pub example: String,
}

/// Tokens of completed calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Prompt tokens of calls that reached an engine.
    pub input: u64,
    /// Those of them that a prefix cache held.
    pub cached: u64,
    /// Tokens of all answers.
    pub output: u64,
}

/// Runs that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runs {
    /// Ran to their end without a failed call.
    pub completed: usize,
    /// Were cut by the replay's time limit.
    pub cut: usize,
    /// Ended, but had failed calls.
    pub with_failures: usize,
    /// From the first intended send to the end of the last answer, in seconds, of completed
    /// runs.
    pub completion_s: Latency,
    /// 95 % bootstrap interval of its mean over runs; null for open arrivals.
    pub completion_mean_s_95: Option<Interval>,
}

/// An interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Work by time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// From the start to the end of the last answer, in seconds.
    pub makespan_s: f64,
    /// Completed calls a second.
    pub calls_per_s: f64,
    /// Tokens of answers a second.
    pub output_tokens_per_s: f64,
}

/// A distribution; the field's name tells the unit. All values are zero without samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95 % are at or below.
    pub p95: f64,
    /// 99 % are at or below.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// `[value, share of samples at or below]`, ascending, for plots.
    pub cdf: Vec<[f64; 2]>,
}

/// A quantity over time, as means of equal steps of time. Null where nothing was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Width of a step, in seconds; the first begins at the replay's start.
    pub step_s: f64,
    /// The mean of each step.
    pub mean: Vec<Option<f64>>,
    /// The largest of each step.
    pub max: Vec<Option<f64>>,
}

/// One replica over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Its name.
    pub name: String,
    /// Completed calls that it answered.
    pub calls: usize,
    /// Calls that it worked on.
    pub running: Series,
    /// Calls that waited for it.
    pub waiting: Series,
    /// Share of its KV cache in use.
    pub kv_usage: Series,
}

/// How far the client was behind its plan: a slow client measures itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// 99 % of calls left at most this late, in ms.
    pub p99_ms: f64,
    /// The latest, in ms.
    pub max_ms: f64,
    /// The bound of `p99_ms`: 1 ms or 1 % of the median time to the first token.
    pub limit_ms: f64,
    /// The rate at which open arrivals left over the planned one; at least 0.995 is valid.
    pub achieved_rate: f64,
}

impl Report {
    /// The version of the JSON form that this code writes.
    pub const VERSION: u32 = 1;

    /// The report as indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("its keys are strings, so it has a JSON form")
    }
}

impl Load {
    pub(crate) fn of(config: &Config, plan: &Plan, closed: bool) -> Self {
        Self {
            kind: if closed { "closed" } else { "open" }.to_owned(),
            seed: config.seed,
            sessions: plan.items.len(),
            active: closed.then_some(plan.active),
            rate: (!closed).then_some(config.rate),
            think_max_s: config.think_max.as_secs_f64(),
            spread_ticks: !closed && config.spread_ticks,
        }
    }
}

/// The shares at which distributions are kept for plots: percents, and the tail closer.
fn shares() -> impl Iterator<Item = f64> {
    (0..=98)
        .map(|percent| f64::from(percent) / 100.0)
        .chain((0..10).map(|tenth| 0.99 + f64::from(tenth) / 1000.0).chain([0.9995, 0.9999, 1.0]))
}

impl Latency {
    /// Of exact samples, which are multiplied by `scale`.
    pub fn of_samples(mut samples: Vec<f64>, scale: f64) -> Self {
        samples.iter_mut().for_each(|sample| *sample *= scale);
        samples.sort_by(f64::total_cmp);
        let Some(max) = samples.last().copied() else { return Self::default() };
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let at = |share| quantile_sorted(&samples, share).unwrap_or_default();
        Self::of(samples.len() as u64, mean, max, at)
    }

    /// Of a summary, whose seconds are multiplied by `scale`.
    pub fn of_summary(summary: &Summary, scale: f64) -> Self {
        let (Some(mean), Some(max)) = (summary.mean_s(), summary.max_s()) else {
            return Self::default();
        };
        let at = |share| summary.quantile_s(share).unwrap_or_default() * scale;
        Self::of(summary.count(), mean * scale, max * scale, at)
    }

    fn of(count: u64, mean: f64, max: f64, at: impl Fn(f64) -> f64) -> Self {
        let mut cdf: Vec<[f64; 2]> = shares().map(|share| [rounded(at(share)), share]).collect();
        // Equal values of a small sample: the last share tells all.
        cdf.dedup_by(|later, kept| {
            let equal = later[0] == kept[0];
            if equal {
                kept[1] = later[1];
            }
            equal
        });
        let [mean, max] = [mean, max].map(rounded);
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| rounded(at(share)));
        Self { count, mean, p50, p95, p99, max, cdf }
    }
}

impl Series {
    /// The values over the weights of a time line.
    pub fn ratio(line: &Timeline) -> Self {
        let seen = |value: f64, weight: f64| (weight > 0.0).then(|| rounded(value));
        Self {
            step_s: Duration::from_nanos(line.width_ns()).as_secs_f64(),
            mean: line.buckets().iter().map(|b| seen(b.sum / b.weight, b.weight)).collect(),
            max: line.buckets().iter().map(|b| seen(b.max, b.weight)).collect(),
        }
    }
}

impl Lag {
    pub(crate) fn judge(lag: &Summary, ttft_p50_ms: f64, achieved_rate: f64) -> Self {
        let ms = |s: Option<f64>| rounded(s.unwrap_or_default() * 1e3);
        Self {
            p99_ms: ms(lag.quantile_s(0.99)),
            max_ms: ms(lag.max_s()),
            limit_ms: rounded((ttft_p50_ms * 0.01).max(1.0)),
            achieved_rate,
        }
    }

    /// What makes a replay invalid; the bounds are those of our load tests in general.
    pub(crate) fn invalid(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.p99_ms > self.limit_ms {
            reasons.push(format!(
                "the client lagged: 99 % of calls left up to {} ms late, and {} ms is allowed",
                self.p99_ms, self.limit_ms
            ));
        }
        if self.achieved_rate < 0.995 {
            reasons.push(format!(
                "calls left at {:.1} % of the planned rate, and 99.5 % is needed",
                self.achieved_rate * 100.0
            ));
        }
        reasons
    }
}

/// Six significant digits: more would be noise, and would differ between machines.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 5 - value.abs().log10().floor() as i32;
    if digits >= 0 {
        let scale = 10f64.powi(digits);
        (value * scale).round() / scale
    } else {
        value.round()
    }
}
