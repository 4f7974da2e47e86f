//! What a run was worth, beside the oracle's.

use serde::Serialize;

use super::scenario::Scenario;
use super::world::Outcome;

/// When counting refusals begins, in seconds.
const SETTLED_S: f64 = 60.0;

/// Waits shorter than this are alike, in seconds.
const WAIT_EQUAL_S: f64 = 0.5;

/// The figures of one run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Answered calls by those of the oracle.
    pub(crate) throughput: f64,
    /// Refused calls by all sent, after the first minute, in per cent.
    pub(crate) refused: f64,
    /// 99th percentile of the wait by the oracle's.
    pub(crate) wait: f64,
    /// Seconds until 90 % of the oracle's speed after the limit halved, and doubled.
    pub(crate) halved_s: Option<f64>,
    pub(crate) doubled_s: Option<f64>,
    /// Share of calls that failed, in per cent.
    pub(crate) failed: f64,
    /// Jain's index of the agents' answered calls.
    pub(crate) jain: f64,
}

impl Figures {
    /// The mean over several seeds.
    pub(crate) fn mean(all: &[Self]) -> Self {
        let count = all.len().max(1) as f64;
        let of = |value: fn(&Self) -> f64| rounded(all.iter().map(value).sum::<f64>() / count);
        let times = |value: fn(&Self) -> Option<f64>| {
            let known: Vec<f64> = all.iter().filter_map(value).collect();
            (!known.is_empty()).then(|| rounded(known.iter().sum::<f64>() / known.len() as f64))
        };
        Self {
            throughput: of(|figures| figures.throughput),
            refused: of(|figures| figures.refused),
            wait: of(|figures| figures.wait),
            halved_s: times(|figures| figures.halved_s),
            doubled_s: times(|figures| figures.doubled_s),
            failed: of(|figures| figures.failed),
            jain: of(|figures| figures.jain),
        }
    }
}

/// Four decimals, as many as mean something.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The figures of one run beside the oracle's.
pub(crate) fn figures(scenario: &Scenario, outcome: &Outcome, ideal: &Outcome) -> Figures {
    let sends = outcome.sends.iter().filter(|at| **at >= SETTLED_S).count();
    let refused = outcome.refusals.iter().filter(|at| **at >= SETTLED_S).count();
    let back = |by: fn(f64) -> bool| {
        let (at, _) = *scenario.changes.iter().find(|(_, factor)| by(*factor))?;
        let end = scenario.changes.iter().map(|(at, _)| *at).filter(|next| *next > at);
        let end = end.fold(scenario.seconds, f64::min);
        Some(back_s(scenario, outcome, ideal, at, end))
    };
    let calls = outcome.waits.len().max(1);
    Figures {
        throughput: outcome.admitted.len() as f64 / ideal.admitted.len().max(1) as f64,
        refused: 100.0 * refused as f64 / sends.max(1) as f64,
        wait: (p99(&outcome.waits) / p99(&ideal.waits)).max(0.0),
        halved_s: back(|factor| factor < 1.0),
        doubled_s: back(|factor| factor > 1.0),
        failed: 100.0 * outcome.failed as f64 / calls as f64,
        jain: jain(&outcome.by_agent),
    }
}

/// Seconds after `at` from which on a span passes 90 % of what the oracle passes in it.
/// The span holds about 60 calls, at least 15 s, and whole windows.
fn back_s(scenario: &Scenario, outcome: &Outcome, ideal: &Outcome, at: f64, end: f64) -> f64 {
    let speed = count(&ideal.admitted, at, end) / (end - at);
    let mut span = (60.0 / speed.max(1e-9)).clamp(15.0, 100.0);
    if let Some(period) = scenario.window_s() {
        span = (span / period).ceil() * period;
    }
    let mut from = at;
    while from + span <= end {
        let ours = count(&outcome.admitted, from, from + span);
        if ours >= 0.9 * count(&ideal.admitted, from, from + span) {
            return from - at;
        }
        from += 1.0;
    }
    end - at
}

fn count(times: &[f64], from: f64, to: f64) -> f64 {
    let below = |limit: f64| times.partition_point(|time| *time < limit);
    (below(to) - below(from)) as f64
}

fn p99(waits: &[f64]) -> f64 {
    let mut sorted = waits.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * 0.99) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0).max(WAIT_EQUAL_S)
}

/// Jain's index of fairness: 1 where all are equal, 1 / n where one has all.
pub(crate) fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 { sum * sum / (values.len() as f64 * squares) } else { 1.0 }
}
