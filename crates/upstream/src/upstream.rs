//! The seam between the pipeline and whatever answers a call.

use paceline_core::{BoxFuture, Call, Reply, Result};

/// A provider or an engine.
pub trait Upstream: Send + Sync {
    /// Sends the call's request and returns the answer's head with a body that is read as
    /// it arrives. Answers with an error status are replies, not errors.
    ///
    /// # Errors
    /// When no answer came: connection refused or broken, a time limit, the call's deadline.
    ///
    /// # Cancel safety
    /// Dropping the future, or the reply's body, ends the exchange.
    fn send<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Reply>>;
}
