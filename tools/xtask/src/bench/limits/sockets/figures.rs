//! What the agents of a fleet saw, as figures.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::super::super::measure::at;
use super::super::measure::{jain, rounded};

/// A call, as `fleet.py` tells it. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Call {
    agent: usize,
    begin: f64,
    end: f64,
    /// 0 where there was no answer.
    status: u16,
    #[serde(default)]
    output_tokens: u32,
    #[serde(default)]
    charged_tokens: u32,
}

/// What is known of a scenario beside its calls.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// Calls count that end in this span.
    pub(super) span: Range<f64>,
    pub(super) agents: usize,
    /// Whether the limit counts tokens, and what it lets through in a second.
    pub(super) tokens: bool,
    pub(super) rate: f64,
    /// An answer takes so long to its first token, and for each.
    pub(super) first_token_s: f64,
    pub(super) token_s: f64,
}

/// The figures of one contender's agents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) answered: usize,
    /// Calls that failed after all retries.
    pub(super) failed: usize,
    /// Those by their status; 0 where there was no answer.
    pub(super) failed_by_status: BTreeMap<u16, usize>,
    /// What answered calls took of the limit, by what it lets through in that time.
    pub(super) throughput: f64,
    /// From the call to its answer, less what the provider takes for the answer; of the
    /// calls that were answered.
    pub(super) wait_p50_s: f64,
    pub(super) wait_p99_s: f64,
    /// Jain's index of the agents' answered calls.
    pub(super) jain: f64,
}

/// All calls in a fleet's output. Other lines are passed over.
pub(super) fn calls(text: &str) -> Vec<Call> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Figures {
    pub(super) fn of(calls: &[Call], counted: &Counted) -> Self {
        let calls: Vec<&Call> =
            calls.iter().filter(|call| counted.span.contains(&call.end)).collect();
        let (answered, failed): (Vec<&Call>, Vec<&Call>) =
            calls.into_iter().partition(|call| call.status == 200);
        let mut failed_by_status = BTreeMap::new();
        for call in &failed {
            *failed_by_status.entry(call.status).or_default() += 1;
        }
        let mut by_agent = vec![0.0; counted.agents];
        for call in &answered {
            by_agent[call.agent] += 1.0;
        }
        let mut waits: Vec<f64> = answered.iter().map(|call| call.wait_s(counted)).collect();
        waits.sort_by(f64::total_cmp);
        let took = |call: &&Call| if counted.tokens { f64::from(call.charged_tokens) } else { 1.0 };
        let ideal = counted.rate * (counted.span.end - counted.span.start);
        let quantile = |share| if waits.is_empty() { 0.0 } else { rounded(at(&waits, share)) };
        Self {
            answered: answered.len(),
            failed: failed.len(),
            failed_by_status,
            throughput: rounded(
                answered.iter().map(took).fold(0.0, |sum, part| sum + part) / ideal,
            ),
            wait_p50_s: quantile(0.5),
            wait_p99_s: quantile(0.99),
            jain: rounded(jain(&by_agent)),
        }
    }
}

impl Call {
    fn wait_s(&self, counted: &Counted) -> f64 {
        let answer = counted.first_token_s + counted.token_s * f64::from(self.output_tokens);
        (self.end - self.begin - answer).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: Counted = Counted {
        span: 100.0..110.0,
        agents: 2,
        tokens: false,
        rate: 0.5,
        first_token_s: 0.2,
        token_s: 0.01,
    };

    fn told(agent: usize, begin: f64, end: f64, status: u16) -> String {
        format!(
            "{{\"agent\": {agent}, \"begin\": {begin}, \"status\": {status}, \
             \"output_tokens\": 30, \"charged_tokens\": 400, \"end\": {end}}}\n"
        )
    }

    #[test]
    fn calls_that_end_in_the_span_count() {
        let text = [
            "a warning\n".to_owned(),
            told(0, 90.0, 99.9, 200),
            told(0, 99.0, 101.0, 200),
            told(1, 101.0, 102.0, 200),
            told(1, 103.0, 104.0, 429),
            "{\"agent\": 1, \"begin\": 105.0, \"status\": 0, \"end\": 106.0}\n".to_owned(),
            told(1, 109.0, 110.0, 200),
            "done\n".to_owned(),
        ];
        let calls = calls(&text.concat());
        assert_eq!(calls.len(), 6);
        let figures = Figures::of(&calls, &COUNTED);
        let expected = Figures {
            answered: 2,
            failed: 2,
            failed_by_status: BTreeMap::from([(0, 1), (429, 1)]),
            throughput: 0.4,
            wait_p50_s: 1.0,
            wait_p99_s: 1.49,
            jain: 1.0,
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn a_limit_on_tokens_counts_what_calls_charge() {
        let calls = calls(&(told(0, 100.0, 101.0, 200) + &told(0, 101.0, 103.0, 200)));
        let counted = Counted { tokens: true, rate: 100.0, ..COUNTED };
        let figures = Figures::of(&calls, &counted);
        assert_eq!((figures.throughput, figures.jain), (0.8, 0.5));
    }

    #[test]
    fn no_answered_call_gives_no_wait() {
        let figures = Figures::of(&[], &COUNTED);
        assert_eq!((figures.answered, figures.throughput, figures.wait_p99_s), (0, 0.0, 0.0));
    }
}
