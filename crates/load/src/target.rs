//! The seam between a replay and whatever answers its calls.

use std::sync::Arc;

use bytes::Bytes;
use paceline_core::{BoxFuture, CacheStatus, Chunks, ErrorKind, Instant};
use serde::{Deserialize, Serialize};

/// Where calls go: the gateway's pipeline, an engine, or a URL.
pub trait Target: Send + Sync {
    /// Sends a call and returns the head of the answer, with the body as it arrives.
    ///
    /// # Errors
    /// [`Failure`] when no answer came. Answers with an error status are responses.
    ///
    /// # Cancel safety
    /// Dropping the future, or the body, ends the exchange; a replay does so at its time
    /// limit.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Failure>>;
}

/// One call of a replay.
#[derive(Clone, Debug)]
pub struct Request {
    /// The run that the call belongs to; fits `x-paceline-run`.
    pub run: String,
    /// The sub-agent, `None` for the run's main agent; fits `x-paceline-agent`.
    pub agent: Option<String>,
    /// The run's number in the replay's plan, from 0: what a fixed assignment of agents to
    /// replicas counts by.
    pub session: usize,
    /// When the call was to be sent; latencies count from here.
    pub intended: Instant,
    /// The body of an OpenAI chat completion.
    pub body: Bytes,
}

/// The head of an answer, and its body.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The replica that answered, where it is known.
    pub replica: Option<Arc<str>>,
    /// What the reply cache did, where there is one.
    pub cache: Option<CacheStatus>,
    /// Server-sent events; pieces may end anywhere.
    pub body: Chunks,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened.
    pub message: String,
}

/// The kinds of failure that reports count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nobody could be reached.
    Connect,
    /// The answer had an error status, or Paceline refused the call.
    Rejected,
    /// The answer did not end in time.
    Timeout,
    /// The answer broke off, or was no event stream that ends with `[DONE]`.
    Broken,
    /// The stream carried an error event.
    Error,
    /// Never sent: the client had as many calls in flight as it may.
    Dropped,
}

impl Failure {
    /// A failure with its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<paceline_core::Error> for Failure {
    fn from(error: paceline_core::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::UpstreamConnect | ErrorKind::NoHealthyTarget => FailureKind::Connect,
            ErrorKind::UpstreamTimeout
            | ErrorKind::DeadlineExceeded
            | ErrorKind::RequestTimeout => FailureKind::Timeout,
            ErrorKind::UpstreamBroken | ErrorKind::ReaderTooSlow => FailureKind::Broken,
            _ => FailureKind::Rejected,
        };
        Self::new(kind, error.message())
    }
}

/// Looks into the replicas, where that is possible.
pub trait Probe: Send + Sync {
    /// The present state of each replica, always in the same order. Called once per
    /// [`crate::Config::sample_every`]; must be cheap and must not wait.
    fn sample(&self) -> Vec<ReplicaStats>;
}

/// The state of a replica at one time.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStats {
    /// Its name.
    pub name: Arc<str>,
    /// Calls that it works on.
    pub running: usize,
    /// Calls that wait for it: in its own queue and, where a gateway holds calls back, there.
    pub waiting: usize,
    /// The share of its KV cache in use, 0 to 1.
    pub kv_usage: f64,
}
