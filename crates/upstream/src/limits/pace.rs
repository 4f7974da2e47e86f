//! Even pacing at the learned rate, with a slow wave that tests it.
//!
//! The wave goes from a little below the rate to a little above, and then ever further
//! above until something is refused. The refusal ends it, and starts the next.

/// Where the wave begins and where it ends its first part, as factors of the rate
/// (limit-learning.md: 0.98 to 1.02).
const WAVE: (f64, f64) = (0.98, 1.02);

/// Length of the wave in calls, and its bounds in seconds (limit-learning.md).
const WAVE_CALLS: f64 = 100.0;
const WAVE_S: (f64, f64) = (20.0, 45.0);

/// No wave is shorter than so many calls, unless they take longer than so many seconds:
/// each wave costs a refusal.
const WAVE_CALLS_MIN: f64 = 60.0;
const WAVE_LONG_S: f64 = 120.0;

/// The wave is a quarter as long after the rate has moved by more than this, and then
/// doubles (limit-learning.md: T / 4 after 8 %).
const MOVED: f64 = 0.08;
const SHORT: f64 = 0.25;

/// Doubling time of the excess after the wave: so many seconds, or calls if that is longer.
const DOUBLING: (f64, f64) = (1.0, 2.0);

/// Longest doubling time while the rate is guessed, in seconds.
const GUESS_DOUBLING_S: f64 = 3.0;

/// Doublings of the excess after which it no longer grows: 1 + 0.02 · 2^9 is 11 times.
const DOUBLINGS_MAX: f64 = 9.0;

/// Credit and the wave's phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Units that may be sent now; negative after a call that cost more.
    pub(super) credit: f64,
    at: f64,
    /// How long the pace alone has held calls back since the last refusal, in seconds.
    blocked_s: f64,
    is_blocking: bool,
    /// Length of the next wave as a share of the full one.
    scale: f64,
    /// Explores without the wave: the rate is only a first guess.
    pub(super) guessing: bool,
    /// The wave ends at its top: running into a refusal would cost a long silence.
    pub(super) is_gentle: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            credit: 0.0,
            at: 0.0,
            blocked_s: 0.0,
            is_blocking: false,
            scale: SHORT,
            guessing: false,
            is_gentle: false,
        }
    }

    /// Adds what has come in since the last time. `rate` is in units a second, `calls_s`
    /// the same in calls, `most` the most credit that may be saved.
    pub(super) fn advance(&mut self, now: f64, rate: f64, calls_s: f64, most: f64, steady: bool) {
        let passed = (now - self.at).max(0.0);
        self.at = now;
        if self.is_blocking {
            self.blocked_s += passed;
        }
        let gain = if steady { 1.0 } else { self.gain(calls_s) };
        self.credit = (self.credit + rate * gain * passed).min(most.max(self.credit.min(0.0)));
    }

    pub(super) fn set_blocking(&mut self, is_blocking: bool) {
        self.is_blocking = is_blocking;
    }

    /// When the credit suffices, at the present speed.
    pub(super) fn ready_at(&self, need: f64, rate: f64, calls_s: f64, steady: bool) -> f64 {
        let gain = if steady { 1.0 } else { self.gain(calls_s) };
        self.at + (need - self.credit).max(0.0) / (rate * gain)
    }

    /// The factor on the rate.
    pub(super) fn gain(&self, calls_s: f64) -> f64 {
        let doubling = DOUBLING.0.max(DOUBLING.1 / calls_s);
        if self.guessing {
            return (self.blocked_s / doubling.min(GUESS_DOUBLING_S)).min(DOUBLINGS_MAX).exp2();
        }
        let wave = self.wave_s(calls_s);
        if self.blocked_s < wave {
            return WAVE.0 + (WAVE.1 - WAVE.0) * self.blocked_s / wave;
        }
        if self.is_gentle {
            return WAVE.1;
        }
        1.0 + (WAVE.1 - 1.0) * ((self.blocked_s - wave) / doubling).min(DOUBLINGS_MAX).exp2()
    }

    /// Whether the factor grows so fast that a wait computed with it is too long.
    pub(super) fn is_growing(&self, calls_s: f64) -> bool {
        self.guessing || (!self.is_gentle && self.blocked_s >= self.wave_s(calls_s))
    }

    fn wave_s(&self, calls_s: f64) -> f64 {
        let wave = (WAVE_CALLS / calls_s).clamp(WAVE_S.0, WAVE_S.1);
        wave.max((WAVE_CALLS_MIN / calls_s).min(WAVE_LONG_S)) * self.scale
    }

    /// How far the wave has come, 1 at its end.
    pub(super) fn phase(&self, calls_s: f64) -> f64 {
        if self.guessing { 1.0 } else { self.blocked_s / self.wave_s(calls_s) }
    }

    /// Begins the next wave after the rate has gone from `before` to `after`.
    pub(super) fn restart(&mut self, now: f64, before: Option<f64>, after: f64) {
        self.at = now;
        self.blocked_s = 0.0;
        let moved = before.is_none_or(|before| (after / before - 1.0).abs() > MOVED);
        self.scale = if moved { SHORT } else { (self.scale * 2.0).min(1.0) };
    }
}
