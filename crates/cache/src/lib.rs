//! Replies in memory, and one flight for equal calls.
//!
//! Two calls are equal when everything agrees that can change the answer: the caller's
//! tenant and credential, the path, the headers that select an account or a feature, and
//! every member of the body but those that only shape the stream or label the call. A
//! fast hash finds candidates; the canonical bytes decide.

mod flight;
mod key;
mod memory;
mod metrics;

pub use flight::{Flights, FlightsConfig};
pub use key::{Form, Key, Use};
pub use memory::{Memory, MemoryConfig};
pub use metrics::Metrics;
