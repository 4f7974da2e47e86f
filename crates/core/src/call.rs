//! An admitted request: the bytes that came in, and the few facts that the stages need.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use smallvec::SmallVec;

use crate::{CallId, Endpoint, Instant, Name, RunId};

/// One admitted request. It is immutable and shared.
#[derive(Clone, Debug)]
pub struct Call {
    /// How urgent it is, 0 to 9. Default: 5.
    pub priority: u8,
    /// This call.
    pub id: CallId,
    /// The agent run (tree of calls) that it belongs to.
    pub run: RunId,
    /// Whether the client named the run, or it was made for this call alone.
    pub run_named: bool,
    /// The call that caused this one, where the client names it.
    pub parent: Option<Name>,
    /// The agent within the run, where the client names it.
    pub agent: Option<Name>,
    /// Who calls.
    pub caller: Caller,
    /// Until when the answer is of use.
    pub deadline: Deadline,
    /// What the client wants of the cache.
    pub cache: CacheMode,
    /// When the request's head arrived.
    pub arrived: Instant,
    /// The request.
    pub request: RawRequest,
}

/// Who calls: nothing is shared between callers of different tenants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The tenant of the key, as configured; `None` where keys are not configured.
    pub tenant: Option<Arc<str>>,
    /// SHA-256 of the credential that came with the request and goes on to the upstream;
    /// zeros where it brought none, or where Paceline's own keys replace it. It parts
    /// callers whom no configured key tells apart.
    pub credential: [u8; 32],
}

/// Until when the answer to a call is of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(pub Option<Instant>);

impl Deadline {
    /// The earlier of this deadline and `at`.
    pub fn or_at(self, at: Instant) -> Instant {
        self.0.map_or(at, |deadline| deadline.min(at))
    }
}

/// What a client wants of the reply cache (`x-paceline-cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheMode {
    /// Nothing said: calls with `temperature` 0 are kept and joined.
    #[default]
    Auto,
    /// The answer may be kept and shared, whatever the temperature.
    Yes,
    /// Neither looked up, nor kept, nor joined.
    No,
    /// Not looked up nor joined, but the fresh answer is kept.
    Refresh,
    /// Only a kept answer will do; nothing is sent upstream.
    Only,
}

/// A request as it came in: bytes, and spans of the few fields that the stages read.
/// A dialect gives the spans their meaning.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// What is asked, and in whose words.
    pub endpoint: Endpoint,
    /// The method.
    pub method: Method,
    /// Path and query as the caller's dialect has them, from `/v1` on: `/v1/chat/completions`.
    pub path: Bytes,
    /// The client's headers that may go upstream, and its `Host`, which an upstream replaces.
    pub headers: HeaderMap,
    /// The body, unchanged.
    pub body: Bytes,
    /// The fields that the stages read.
    pub fields: Fields,
}

/// A range of bytes in a request body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// As an index into the body.
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One member of the body's top-level object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The key, without its quotes.
    pub key: Span,
    /// The value, without white space around it.
    pub value: Span,
}

/// What a dialect's scanner found in a request body.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The model, decoded.
    pub model: Bytes,
    /// Where the model's value stands, quotes included.
    pub model_span: Span,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream is to end with a usage event.
    pub include_usage: bool,
    /// Whether the caller wants the likeliest answer (`temperature` 0), so that an earlier
    /// one serves as well.
    pub repeatable: bool,
    /// The `metadata` value, where there is one.
    pub metadata: Option<Span>,
    /// All members of the top-level object that can change the answer, sorted by key.
    pub members: SmallVec<[Member; 12]>,
}

impl RawRequest {
    /// The bytes of a span.
    pub fn get(&self, span: Span) -> &[u8] {
        &self.body[span.range()]
    }
}
