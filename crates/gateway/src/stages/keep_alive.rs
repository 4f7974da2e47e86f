//! Signs of life for the caller of a stream whose answer has not begun: while a call waits for
//! a provider's limits, or for its first token, proxies and clients would give it up.
//!
//! Once a sign has gone out, the answer is a stream with status 200, and what goes wrong
//! after that is told by the dialect's error event.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::StatusCode;
use ::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use paceline_core::clock::Sleep;
use paceline_core::{Call, Clock, Endpoint};
use paceline_dialect::codec;
use paceline_dialect::wire::ErrorText;

use crate::stages::record::{Answer, AnswerBody};

/// When signs of life are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAliveConfig {
    /// To whom. Default: to those who ask for it.
    pub to: KeepAlive,
    /// After how much silence, again and again. Default: 15 s.
    pub every: Duration,
}

impl Default for KeepAliveConfig {
    fn default() -> Self {
        Self { to: KeepAlive::Accepting, every: Duration::from_secs(15) }
    }
}

/// Who gets signs of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAlive {
    /// Nobody.
    Nobody,
    /// Callers whose `Accept` names `text/event-stream`. Clients that read such streams skip
    /// comments, as their standard says.
    #[default]
    Accepting,
    /// The caller of each stream of server-sent events.
    All,
}

impl KeepAliveConfig {
    /// Whether the caller of a stream gets signs of life.
    pub(crate) fn is_for(&self, call: &Call) -> bool {
        let request = &call.request;
        if !request.fields.stream || self.to == KeepAlive::Nobody {
            return false;
        }
        // Without `alt=sse` Gemini's stream is one JSON list, where nothing can be slipped in.
        let is_list = request.endpoint == Endpoint::Generate
            && memchr::memmem::find(&request.path, b"alt=sse").is_none();
        let accepts = |value: &HeaderValue| {
            memchr::memmem::find(value.as_bytes(), b"text/event-stream").is_some()
        };
        let accepting = || request.headers.get_all(ACCEPT).iter().any(accepts);
        !is_list && (self.to == KeepAlive::All || accepting())
    }
}

/// A comment of server-sent events, which no client takes for one.
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// An answer that may still be waited for.
pub(crate) struct Waiting {
    answering: Answering,
    endpoint: Endpoint,
    silence: Sleep,
    every: Duration,
    clock: Clock,
}

/// Waits for an answer, and begins one with signs of life when it takes long. `named` are the
/// headers that are known already.
///
/// # Cancel safety
/// Dropping the future, or the body of the answer, drops `answering`.
pub(crate) async fn answer(
    endpoint: Endpoint,
    mut answering: Answering,
    every: Duration,
    clock: &Clock,
    named: impl FnOnce(&mut HeaderMap),
) -> Answer {
    let until = clock.now().after(every);
    if let Some(answer) = clock.timeout_at(until, &mut answering).await {
        return answer;
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    named(&mut headers);
    let waiting = Waiting {
        answering,
        endpoint,
        // The first sign is due now.
        silence: clock.sleep(Duration::ZERO),
        every,
        clock: clock.clone(),
    };
    Answer { status: StatusCode::OK, headers, body: AnswerBody::waiting(waiting) }
}

/// What comes next of an answer that is waited for.
pub(crate) enum Next {
    /// A sign of life.
    Sign(Bytes),
    /// The answer's own body.
    Body(AnswerBody),
}

impl Waiting {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Poll::Ready(answer) = self.answering.as_mut().poll(cx) {
            return Poll::Ready(Next::Body(self.as_events(answer)));
        }
        ready!(Pin::new(&mut self.silence).poll(cx));
        self.silence.reset(self.clock.now().after(self.every));
        Poll::Ready(Next::Sign(COMMENT))
    }

    /// The body of an answer behind signs of life: an error becomes an event.
    fn as_events(&self, answer: Answer) -> AnswerBody {
        let Answer { status, headers, body } = answer;
        let text = match body.into_whole() {
            Err(body) => return body,
            Ok(whole) if status.as_u16() < 400 => return AnswerBody::whole(whole),
            Ok(whole) => self.error_event(status.as_u16(), &headers, &whole),
        };
        AnswerBody::whole(text)
    }

    fn error_event(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> String {
        let failure =
            codec::of(self.endpoint).map(|codec| codec.read_failure(status, headers, body));
        let (message, code, param) = match &failure {
            Some(failure) => {
                (failure.message.as_str(), failure.code.as_deref(), failure.param.as_deref())
            }
            None => ("the call failed", None, None),
        };
        let (kind, code) = ("upstream_error", code.unwrap_or("upstream_error"));
        ErrorText { status, kind, code, message, param }.event(self.endpoint, 0)
    }
}
