//! The seam between the pipeline and whatever answers a call.

use paceline_core::{BoxFuture, Deadline, RawRequest, Reply, Result};

/// A provider or an engine.
pub trait Upstream: Send + Sync {
    /// Sends a request and returns the answer's head with a body that is read as
    /// it arrives. Answers with an error status are replies, not errors.
    ///
    /// # Errors
    /// When no answer came: connection refused or broken, a time limit, the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future, or the reply's body, ends the exchange.
    fn send<'a>(
        &'a self,
        request: &'a RawRequest,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Reply>>;
}
