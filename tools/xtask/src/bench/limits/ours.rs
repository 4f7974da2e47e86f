//! Paceline's learner as a contender.

use std::time::Duration;

use paceline_core::Instant;
use paceline_upstream::limits::{
    Bucket, Class, Cost, Decision, Headers, Learner, Refusal, Rules, Ticket, Used,
};

use super::gate::{Gate, Refused, Sent, Verdict};
use super::provider::{Provider, Shown, Size, Unit};

/// The learner and the tickets of the calls under way.
#[derive(Debug)]
pub(crate) struct Ours {
    learner: Learner,
    tickets: Vec<Option<Ticket>>,
}

impl Ours {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { learner: Learner::new(rules), tickets: Vec::new() }
    }
}

impl Gate for Ours {
    fn decide(&mut self, now: f64, size: Size, _: &mut Provider) -> Verdict {
        match self.learner.decide(instant(now), cost(size)) {
            Decision::Send => Verdict::Send,
            Decision::Wait { until, .. } => Verdict::Wait(until.map(Instant::as_secs_f64)),
        }
    }

    fn sent(&mut self, now: f64, sent: Sent) {
        if self.tickets.len() <= sent.call {
            self.tickets.resize(sent.call + 1, None);
        }
        self.tickets[sent.call] = Some(self.learner.sent(instant(now), cost(sent.size)));
    }

    fn accepted(&mut self, now: f64, sent: Sent) {
        if let Some(ticket) = &mut self.tickets[sent.call] {
            self.learner.accepted(instant(now), ticket);
        }
    }

    fn completed(&mut self, now: f64, sent: Sent) {
        if let Some(ticket) = self.tickets[sent.call].take() {
            let used = Used { prompt: sent.size.prompt as u32, output: sent.size.output as u32 };
            self.learner.completed(instant(now), ticket, used);
        }
    }

    fn refused(&mut self, now: f64, sent: Sent, refused: Refused) {
        if let Some(ticket) = self.tickets[sent.call].take() {
            let refusal = Refusal {
                class: if refused.overloaded { Class::Overloaded } else { Class::RateLimit },
                retry_after: refused.retry_after_s.map(Duration::from_secs_f64),
                dimension: None,
            };
            self.learner.refused(instant(now), ticket, &refusal);
        }
    }

    fn headers(&mut self, now: f64, sent: Sent, shown: &[Shown]) {
        let mut headers = Headers::default();
        for (unit, limit, remaining, reset) in shown {
            let bucket = Some(Bucket {
                limit: Some(*limit),
                remaining: Some(*remaining),
                reset_s: Some(*reset),
                period_s: None,
            });
            match unit {
                Unit::Requests => headers.requests = bucket,
                Unit::Admitted => headers.tokens = bucket,
                Unit::Used => {}
            }
        }
        if let Some(ticket) = &self.tickets[sent.call] {
            self.learner.headers(instant(now), ticket, &headers);
        }
    }

    fn belief(&self, now: f64) -> String {
        let believed = self.learner.explain(instant(now));
        format!(
            "{:?} rate {:.1} {:?} cap {:?} window {:?} in flight {} hold {:.1} gain {:.2} {:?} conf {:.2} gentle {}",
            believed.kind,
            believed.rate.map_or(0.0, |rate| rate.per_min),
            believed.rate.map(|rate| rate.dimension),
            believed.cap,
            believed.window_s,
            believed.in_flight,
            believed.hold_s.unwrap_or_default(),
            believed.gain,
            believed.waits_for,
            believed.confidence,
            believed.gentle,
        )
    }
}

fn instant(now: f64) -> Instant {
    Instant::from_nanos((now * 1e9) as u64)
}

fn cost(size: Size) -> Cost {
    Cost { prompt: size.prompt as u32, output_max: size.output_max as u32 }
}
