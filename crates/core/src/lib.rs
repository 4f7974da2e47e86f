//! The vocabulary of Paceline: calls, replies, errors, identifiers, deadlines and the clock.
//!
//! This crate performs no I/O and knows no dialect, no server and no engine. A type
//! lives here only when three crates need it.

mod call;
pub mod clock;
mod endpoint;
mod error;
mod id;
mod reply;

pub use call::{CacheMode, Call, Caller, Deadline, Fields, Member, RawRequest, Span};
pub use clock::{Clock, Instant};
pub use endpoint::{Dialect, Endpoint};
pub use error::{Error, ErrorKind, Origin, Result, Retry};
pub use id::{CallId, Name, NameError, RunId};
pub use reply::{Body, CacheStatus, Chunks, Reply, Usage};

/// A boxed future that may move between threads; what the pipeline's seams return.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
