//! The baselines: what others do, and the oracle.

use super::gate::{Gate, Refused, Sent, Verdict};
use super::provider::{Provider, Shown, Size, Unit};

/// Knows the provider's state.
#[derive(Debug, Default)]
pub(crate) struct Oracle;

impl Gate for Oracle {
    fn decide(&mut self, now: f64, size: Size, provider: &mut Provider) -> Verdict {
        match provider.earliest(now, size) {
            Some(at) if at <= now => Verdict::Send,
            until => Verdict::Wait(until),
        }
    }

    fn sent(&mut self, _: f64, _: Sent) {}

    fn refused(&mut self, _: f64, _: Sent, _: Refused) {}
}

/// No gateway: nothing is held back.
#[derive(Debug, Default)]
pub(crate) struct Open;

impl Gate for Open {
    fn decide(&mut self, _: f64, _: Size, _: &mut Provider) -> Verdict {
        Verdict::Send
    }

    fn sent(&mut self, _: f64, _: Sent) {}

    fn refused(&mut self, _: f64, _: Sent, _: Refused) {}
}

/// Additive increase, multiplicative decrease of the calls in flight, as TCP's congestion
/// avoidance does: + 1 / limit for each answer, × 0.9 for a refusal, once a second.
#[derive(Debug)]
pub(crate) struct AimdInFlight {
    limit: f64,
    in_flight: f64,
    cut_at: f64,
}

impl Default for AimdInFlight {
    fn default() -> Self {
        Self { limit: 4.0, in_flight: 0.0, cut_at: f64::NEG_INFINITY }
    }
}

impl Gate for AimdInFlight {
    fn decide(&mut self, now: f64, _: Size, _: &mut Provider) -> Verdict {
        if self.in_flight < self.limit.max(1.0) && now >= self.cut_at + 0.1 {
            return Verdict::Send;
        }
        Verdict::Wait((now < self.cut_at + 0.1).then_some(self.cut_at + 0.1))
    }

    fn sent(&mut self, _: f64, _: Sent) {
        self.in_flight += 1.0;
    }

    fn completed(&mut self, _: f64, _: Sent) {
        self.in_flight -= 1.0;
        self.limit += 1.0 / self.limit;
    }

    fn refused(&mut self, now: f64, _: Sent, _: Refused) {
        self.in_flight -= 1.0;
        if now > self.cut_at + 1.0 {
            self.limit = (self.limit * 0.9).max(1.0);
        }
        self.cut_at = now;
    }
}

/// The same on the rate: + 2 % of the first known rate a second, × 0.8 for a refusal,
/// once a second.
#[derive(Debug)]
pub(crate) struct AimdRate {
    rate: f64,
    step: f64,
    credit: f64,
    at: f64,
    cut_at: f64,
}

impl Default for AimdRate {
    fn default() -> Self {
        Self { rate: 10.0, step: 0.2, credit: 1.0, at: 0.0, cut_at: f64::NEG_INFINITY }
    }
}

impl Gate for AimdRate {
    fn decide(&mut self, now: f64, _: Size, _: &mut Provider) -> Verdict {
        let passed = now - self.at;
        self.rate += self.step * passed;
        self.credit = (self.credit + self.rate * passed).min(1.0);
        self.at = now;
        if self.credit >= 1.0 - 1e-9 {
            return Verdict::Send;
        }
        Verdict::Wait(Some(now + (1.0 - self.credit) / self.rate + 1e-6))
    }

    fn sent(&mut self, _: f64, _: Sent) {
        self.credit -= 1.0;
    }

    fn refused(&mut self, now: f64, _: Sent, _: Refused) {
        if now > self.cut_at + 1.0 {
            self.rate = (self.rate * 0.8).max(0.02);
            self.step = self.rate * 0.02;
            self.cut_at = now;
        }
    }
}

/// Obeys headers and hints, else backs off: 0.5 s doubling to 60 s while refused.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    hold: f64,
    wait: f64,
    left: Vec<(Unit, f64, f64)>,
}

impl Gate for Backoff {
    fn decide(&mut self, now: f64, size: Size, _: &mut Provider) -> Verdict {
        if now < self.hold {
            return Verdict::Wait(Some(self.hold));
        }
        for (unit, left, until) in &self.left {
            if now < *until && *left < amount(*unit, size) {
                return Verdict::Wait(Some(*until));
            }
        }
        Verdict::Send
    }

    fn sent(&mut self, _: f64, sent: Sent) {
        for (unit, left, _) in &mut self.left {
            *left -= amount(*unit, sent.size);
        }
    }

    fn accepted(&mut self, now: f64, _: Sent) {
        if now >= self.hold {
            self.wait = 0.0;
        }
    }

    fn refused(&mut self, now: f64, sent: Sent, refused: Refused) {
        if sent.at < self.hold - self.wait {
            return;
        }
        self.wait = (self.wait * 2.0).clamp(0.5, 60.0);
        self.hold = now + refused.retry_after_s.unwrap_or(self.wait);
    }

    fn headers(&mut self, now: f64, _: Sent, shown: &[Shown]) {
        self.left = shown
            .iter()
            .map(|(unit, _, remaining, reset)| (*unit, *remaining, now + reset.min(60.0)))
            .collect();
    }
}

fn amount(unit: Unit, size: Size) -> f64 {
    match unit {
        Unit::Requests => 1.0,
        Unit::Admitted => size.prompt + size.output_max,
        Unit::Used => size.prompt + size.output,
    }
}
