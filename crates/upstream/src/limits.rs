//! The learner of a provider's hidden limits: a pure state machine for one key and model.
//!
//! Outcomes and times go in, decisions come out; it performs no I/O, has no clock and draws
//! no random numbers. What it does and why is in `docs/design/limits.md`.
//!
//! Even pacing at the true rate satisfies a bucket, a window and a rolling window alike.
//! So the rate is learned, and the kind of limit only decides how to wait.

mod amount;
mod beliefs;
mod budget;
mod cap;
mod decide;
pub mod headers;
mod history;
mod learn;
mod learner;
mod pace;
mod rate;
mod rules;
mod run;
mod window;

#[cfg(test)]
mod tests;

use paceline_core::Instant;

pub use amount::{Cost, Dimension, Used};
pub use beliefs::{Beliefs, Kind, Seen, Speed};
pub use headers::{Bucket, Family, Headers};
pub use learner::Learner;
pub use rules::Rules;

use amount::Amounts;

/// Why a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A refusal asks for silence.
    Refused,
    /// A single call tries whether calls pass again.
    Canary,
    /// Too many calls whose outcome is not known yet.
    Unknown,
    /// As many calls are in flight as the provider takes.
    InFlight,
    /// The rate is used up.
    Pace,
    /// The window is full.
    Window,
    /// The provider's headers say that nothing is left.
    Headers,
}

/// Whether the call at the head of the queue may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be sent now.
    Send,
    /// It waits until the time, or until the next event where there is none.
    Wait {
        /// When to ask again. Any event is a reason to ask sooner.
        until: Option<Instant>,
        /// Why.
        why: Why,
    },
}

/// A call under way; goes back to the learner with what happened to it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    number: u64,
    at: f64,
    cost: Cost,
    amounts: Amounts,
    /// Counters with this call.
    counters: Amounts,
    before: u32,
    is_known: bool,
}

/// What kind of refusal it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 429.
    RateLimit,
    /// 529, and 503 where it means overload.
    Overloaded,
}

/// A refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Its kind.
    pub class: Class,
    /// What the answer says about when to come back.
    pub retry_after: Option<std::time::Duration>,
    /// Which limit was reached, where the answer says so.
    pub dimension: Option<Dimension>,
}
