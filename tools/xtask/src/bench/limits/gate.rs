//! What decides when a waiting call is sent, as the simulated world sees it.

use super::provider::{Provider, Shown, Size};

/// A call under way, as its gate knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) call: usize,
    pub(crate) size: Size,
    pub(crate) at: f64,
}

/// A refusal, as it reaches the gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) overloaded: bool,
    pub(crate) retry_after_s: Option<f64>,
}

/// Whether the call at the head of the queue is sent now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Send,
    /// Ask again at this time, or when something has happened.
    Wait(Option<f64>),
}

/// A contender. Times are virtual seconds.
pub(crate) trait Gate {
    fn decide(&mut self, now: f64, size: Size, provider: &mut Provider) -> Verdict;
    fn sent(&mut self, now: f64, sent: Sent);
    fn accepted(&mut self, _now: f64, _sent: Sent) {}
    fn completed(&mut self, _now: f64, _sent: Sent) {}
    fn refused(&mut self, now: f64, sent: Sent, refused: Refused);
    fn headers(&mut self, _now: f64, _sent: Sent, _shown: &[Shown]) {}
    /// A line for `--trace`.
    fn belief(&self, _now: f64) -> String {
        String::new()
    }
}
