//! What comes back: the upstream's head, and its body whole or as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, StatusCode};

use crate::Result;

/// The answer to a call.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status, as the upstream gave it.
    pub status: StatusCode,
    /// The upstream's headers that concern the caller; none of the connection's.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Where the answer came from.
    pub cache: CacheStatus,
    /// The deployment that answered, as the route names it; `None` for a kept answer.
    pub deployment: Option<Arc<str>>,
}

/// Pieces of a body in order. An error is the last item. Dropping it ends the exchange.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The body of a reply.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Server-sent events: each item holds one or more whole events.
    Events(Chunks),
    /// Bytes of any other kind that are too many to be held, with their number where the
    /// upstream tells it.
    Bytes(Chunks, Option<u64>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Self::Events(_) => f.write_str("Events"),
            Self::Bytes(_, length) => write!(f, "Bytes({length:?})"),
        }
    }
}

/// Where an answer came from (`x-paceline-cache` in the response).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheStatus {
    /// A kept answer.
    Hit,
    /// The answer of an equal call that was already under way.
    Joined,
    /// Looked up and not found; the answer is fresh.
    Miss,
    /// Not looked up: the call may not be repeated, or the client said so.
    #[default]
    Bypass,
}

impl CacheStatus {
    /// The header value and metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }

    /// The status of a header value.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Hit, Self::Joined, Self::Miss, Self::Bypass].into_iter().find(|s| s.as_str() == text)
    }
}

/// Tokens of one call, as the upstream counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens, cached ones included.
    pub input: u64,
    /// Prompt tokens that the engine's or provider's prefix cache held.
    pub cached: u64,
    /// Generated tokens.
    pub output: u64,
}
