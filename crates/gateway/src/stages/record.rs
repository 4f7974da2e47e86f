//! What is noted of each call, and the answer in the form that goes out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::StatusCode;
use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use bytes::Bytes;
use futures_core::Stream;
use http_body::{Frame, SizeHint};
use paceline_core::{
    Body, CacheStatus, Call, Chunks, Clock, Dialect, Endpoint, Error, Instant, Origin, Reply,
    Result,
};
use paceline_dialect::{sse, wire};
use paceline_telemetry::metrics::GaugeHold;
use smallvec::SmallVec;
use tracing::{debug, warn};

use crate::metrics::{Metrics, Outcome, UpstreamMetrics};
use crate::pipeline::Shared;
use crate::stages::coded::Coded;
use crate::stages::keep_alive::{Next, Waiting};
use crate::status;

const RUN: HeaderName = HeaderName::from_static("x-paceline-run");
const CALL: HeaderName = HeaderName::from_static("x-paceline-call");
const CACHE: HeaderName = HeaderName::from_static("x-paceline-cache");
const DEPLOYMENT: HeaderName = HeaderName::from_static("x-paceline-deployment");
const WARNING: HeaderName = HeaderName::from_static("x-paceline-warning");
const PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time-ms");

/// How many headers an answer gets, so that their table grows once.
const HEADERS_ADDED: usize = 6;

/// An answer as it goes out.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The upstream's headers and ours.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
}

/// The body of an answer. It implements both `Stream` (a replay reads it) and
/// `http_body::Body` (a listener sends it). Dropping it before its end cancels the call.
pub struct AnswerBody(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Stream(Box<Streamed>),
    Waiting(Box<Waiting>),
    Coded(Box<Coded>),
}

struct Streamed {
    chunks: Chunks,
    events: bool,
    length: Option<u64>,
    record: Option<StreamRecord>,
}

/// The stage: makes a record for each call.
pub(crate) struct Recorder {
    metrics: Metrics,
    clock: Clock,
}

impl Recorder {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { metrics: shared.metrics.clone(), clock: shared.clock.clone() }
    }

    /// Begins a record. Dropped unclosed, it means that the caller went away.
    pub(crate) fn open(&self, arrived: Instant) -> Record<'_> {
        Record { recorder: self, arrived, open: true, _in_flight: self.metrics.in_flight.hold() }
    }
}

/// The record of a call whose answer has not begun.
pub(crate) struct Record<'a> {
    recorder: &'a Recorder,
    arrived: Instant,
    open: bool,
    _in_flight: GaugeHold,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if self.open {
            self.recorder.metrics.count(Outcome::Cancelled);
        }
    }
}

impl Record<'_> {
    /// Ends this record for one of the same call that is opened in its place.
    pub(crate) fn pass_on(mut self) {
        self.open = false;
    }

    /// Ends the record of a request that was not admitted.
    pub(crate) fn refuse(mut self, error: &Error, dialect: Dialect) -> Answer {
        self.open = false;
        self.recorder.metrics.count(outcome_of(error));
        error_answer(error, dialect)
    }

    /// Turns the result into the answer; a stream is recorded when its last event leaves.
    pub(crate) fn close(mut self, call: &Call, result: Result<Reply>) -> Answer {
        self.open = false;
        let now = self.recorder.clock.now();
        let metrics = &self.recorder.metrics;
        let (mut answer, cache, upstream) = match result {
            Ok(reply) => {
                let upstream = metrics.upstream(reply.deployment.as_ref());
                let cache = reply.cache;
                (self.answer(call, now, reply, upstream), Some(cache), Some(upstream))
            }
            Err(error) => {
                metrics.count(outcome_of(&error));
                debug!(call = %call.id.0, run = %call.run.0, ?error, "call failed");
                (error_answer(&error, call.request.endpoint.dialect()), None, None)
            }
        };
        let headers = &mut answer.headers;
        headers.reserve(HEADERS_ADDED);
        name(headers, call);
        if let Some(cache) = cache {
            metrics.count_cache(cache);
            headers.insert(CACHE, HeaderValue::from_static(cache.as_str()));
        }
        if let Some(upstream) = upstream.filter(|_| cache != Some(CacheStatus::Hit)) {
            headers.insert(DEPLOYMENT, upstream.header.clone());
            if upstream.simulated {
                let warning = "the answer comes from a simulated engine, not from a model";
                headers.insert(WARNING, HeaderValue::from_static(warning));
            }
        }
        headers.insert(PROCESS_TIME, milliseconds(now.since(self.arrived).as_nanos()));
        answer
    }

    fn answer(
        &self,
        call: &Call,
        now: Instant,
        reply: Reply,
        upstream: &UpstreamMetrics,
    ) -> Answer {
        let endpoint = call.request.endpoint;
        let Reply { status, headers, body, .. } = reply;
        let metrics = &self.recorder.metrics;
        let outcome =
            if status.as_u16() < 400 { Outcome::Answered } else { Outcome::UpstreamError };
        let (chunks, events, length) = match body {
            Body::Whole(bytes) => {
                metrics.count(outcome);
                upstream.duration.record(now.since(self.arrived));
                if outcome == Outcome::Answered {
                    upstream.count_tokens(wire::usage(endpoint, &bytes));
                }
                return Answer { status, headers, body: AnswerBody(Inner::Whole(Some(bytes))) };
            }
            Body::Events(chunks) => (chunks, true, None),
            Body::Bytes(chunks, length) => (chunks, false, length),
        };
        let record = StreamRecord {
            metrics: metrics.clone(),
            upstream: upstream.clone(),
            clock: self.recorder.clock.clone(),
            endpoint,
            arrived: self.arrived,
            last: None,
            facts: sse::Facts::default(),
            outcome,
            _in_flight: metrics.in_flight.hold(),
        };
        let streamed = Streamed { chunks, events, length, record: Some(record) };
        Answer { status, headers, body: AnswerBody(Inner::Stream(Box::new(streamed))) }
    }
}

impl UpstreamMetrics {
    fn count_tokens(&self, usage: Option<paceline_core::Usage>) {
        if let Some(usage) = usage {
            self.input.add(usage.input);
            self.cached.add(usage.cached);
            self.output.add(usage.output);
        }
    }
}

/// The record of a stream under way.
struct StreamRecord {
    metrics: Metrics,
    upstream: UpstreamMetrics,
    clock: Clock,
    endpoint: Endpoint,
    arrived: Instant,
    last: Option<Instant>,
    facts: sse::Facts,
    outcome: Outcome,
    _in_flight: GaugeHold,
}

impl StreamRecord {
    fn note(&mut self, chunk: &[u8]) {
        let now = self.clock.now();
        let before = self.facts.events;
        wire::read_events(self.endpoint, chunk, &mut self.facts);
        let events = (self.facts.events - before).max(1);
        match self.last.replace(now) {
            None => self.upstream.first_token.record(now.since(self.arrived)),
            Some(last) => {
                let each = now.since(last) / u32::try_from(events).unwrap_or(u32::MAX);
                self.upstream.between_events.record_many(each, events);
            }
        }
    }

    fn close(self, outcome: Outcome) {
        self.metrics.count(outcome);
        self.upstream.count_tokens(self.facts.usage);
        self.upstream.duration.record(self.clock.now().since(self.arrived));
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            // The last event of a stream may have been read without its end being asked for.
            let outcome = if record.facts.done { record.outcome } else { Outcome::Cancelled };
            record.close(outcome);
        }
    }
}

impl Streamed {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.record.is_none() {
            return Poll::Ready(None);
        }
        let next = ready!(self.chunks.as_mut().poll_next(cx));
        if let Some(Ok(chunk)) = &next {
            if let Some(record) = self.record.as_mut().filter(|_| self.events) {
                record.note(chunk);
            }
            return Poll::Ready(next);
        }
        let Some(record) = self.record.take() else { return Poll::Ready(None) };
        let Some(Err(error)) = next else {
            // The upstream itself may have told of an error.
            let failed = record.facts.failed;
            let outcome = if failed { Outcome::UpstreamError } else { record.outcome };
            record.close(outcome);
            return Poll::Ready(None);
        };
        warn!(upstream = &*record.upstream.name, ?error, "stream broke off");
        // A stream of events can say so; any other body is cut, which the client notices.
        let last = if self.events {
            Ok(Bytes::from(status::event(&error, record.endpoint, record.facts.events)))
        } else {
            Err(error)
        };
        record.close(Outcome::Broken);
        Poll::Ready(Some(last))
    }
}

impl AnswerBody {
    /// A whole body.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Whole(Some(bytes.into())))
    }

    /// The body of an answer that is still waited for.
    pub(crate) fn waiting(waiting: Waiting) -> Self {
        Self(Inner::Waiting(Box::new(waiting)))
    }

    /// A stream that is packed on its way out.
    pub(crate) fn coded(coded: Coded) -> Self {
        Self(Inner::Coded(Box::new(coded)))
    }

    /// The bytes of a whole body.
    ///
    /// # Errors
    /// The body itself, when it is none.
    pub(crate) fn into_whole(self) -> std::result::Result<Bytes, Self> {
        match self.0 {
            Inner::Whole(bytes) => Ok(bytes.unwrap_or_default()),
            other => Err(Self(other)),
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let waiting = match &mut self.0 {
            Inner::Whole(bytes) => return Poll::Ready(bytes.take().map(Ok)),
            Inner::Stream(stream) => return stream.poll_chunk(cx),
            Inner::Coded(coded) => return coded.poll(cx),
            Inner::Waiting(waiting) => waiting,
        };
        match ready!(waiting.poll(cx)) {
            Next::Sign(sign) => Poll::Ready(Some(Ok(sign))),
            Next::Body(body) => {
                *self = body;
                self.poll_bytes(cx)
            }
        }
    }
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Inner::Whole(bytes) => write!(f, "Whole({:?})", bytes.as_ref().map(Bytes::len)),
            Inner::Stream(_) => f.write_str("Stream"),
            Inner::Waiting(_) => f.write_str("Waiting"),
            Inner::Coded(_) => f.write_str("Coded"),
        }
    }
}

impl Stream for AnswerBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_bytes(cx)
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Error>>> {
        self.poll_bytes(cx).map(|next| next.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Stream(stream) => stream.record.is_none(),
            Inner::Waiting(_) => false,
            Inner::Coded(coded) => coded.ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Stream(stream) => {
                stream.length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Inner::Waiting(_) | Inner::Coded(_) => SizeHint::default(),
        }
    }
}

/// Names a call and its run in the headers of its answer.
pub(crate) fn name(headers: &mut HeaderMap, call: &Call) {
    headers.insert(RUN, call.run.0.to_header());
    headers.insert(CALL, call.id.0.to_header());
}

/// An error as an answer in the caller's dialect.
pub(crate) fn error_answer(error: &Error, dialect: Dialect) -> Answer {
    let (status, ..) = status::of(error.kind());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = status::retry_after_s(error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    Answer { status, headers, body: AnswerBody::whole(status::body(error, dialect)) }
}

fn outcome_of(error: &Error) -> Outcome {
    match error.origin() {
        Origin::Client => Outcome::Rejected,
        Origin::Paceline | Origin::Upstream => Outcome::Failed,
    }
}

/// Nanoseconds as milliseconds with three digits.
fn milliseconds(ns: u128) -> HeaderValue {
    let us = u64::try_from(ns / 1000).unwrap_or(u64::MAX);
    let mut digits = itoa::Buffer::new();
    let mut text: SmallVec<[u8; 24]> = SmallVec::from_slice(digits.format(us / 1000).as_bytes());
    let part = (us % 1000) as u16;
    text.push(b'.');
    text.extend([part / 100, part / 10 % 10, part % 10].map(|digit| b'0' + digit as u8));
    HeaderValue::from_bytes(&text).expect("digits and a point are a header value")
}
