//! What an upstream answers, on its way to the caller: held back until it says something, and
//! counted as load of its deployment until it has ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use paceline_core::{Body, Call, Chunks, Endpoint, Origin, Reply, Result, Usage};
use paceline_dialect::neutral::{Event, FailureClass};
use paceline_dialect::{codec, sse, wire};
use paceline_route::{Lease, Outcome};
use paceline_upstream::limits::Used;
use smallvec::SmallVec;

use crate::stages::attempt::report;
use crate::stages::line::Pass;
use crate::stages::verdict::Verdict;

/// A stream that has begun to answer: what came of it until then, and the rest.
pub(crate) struct Begun {
    held: SmallVec<[Bytes; 2]>,
    chunks: Chunks,
}

/// What is held back at most while a stream has not begun to answer.
const PREAMBLE_BYTES_MAX: usize = 64 << 10;

impl Begun {
    /// Waits for the first events that say something. Until then nothing has gone to the
    /// caller, so that another deployment may begin anew.
    pub(crate) async fn wait(mut chunks: Chunks, endpoint: Endpoint) -> Result<Self> {
        let mut held: SmallVec<[Bytes; 2]> = SmallVec::new();
        let mut bytes = 0;
        while let Some(chunk) = std::future::poll_fn(|cx| chunks.as_mut().poll_next(cx)).await {
            let chunk = chunk?;
            bytes += chunk.len();
            let says_something = !wire::is_preamble(endpoint, &chunk);
            held.push(chunk);
            if says_something || bytes > PREAMBLE_BYTES_MAX {
                break;
            }
        }
        held.reverse();
        Ok(Self { held, chunks })
    }

    /// The kind of error with which the stream begins, where it does.
    pub(crate) fn failure(&self, endpoint: Endpoint) -> Option<FailureClass> {
        let mut facts = sse::Facts::default();
        let last = self.held.first()?;
        wire::read_events(endpoint, last, &mut facts);
        if !facts.failed {
            return None;
        }
        let events = read(endpoint, self.held.iter().rev().map(|chunk| &chunk[..]))?;
        // Where something was said before, it is too late to begin anew.
        let said = events.iter().any(|event| matches!(event, Event::PartStart { .. }));
        if said { None } else { class_of(events) }
    }
}

/// The events of some chunks; `None` where the operation has no streams.
fn read<'a>(endpoint: Endpoint, mut chunks: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Event>> {
    let mut events = Vec::new();
    let mut reader = codec::of(endpoint)?.event_reader();
    // What cannot be read is an error too.
    let _ = chunks.try_for_each(|chunk| reader.push(chunk, &mut events));
    Some(events)
}

/// The kind of the first error that some events tell.
fn class_of(events: Vec<Event>) -> Option<FailureClass> {
    events.into_iter().find_map(|event| match event {
        Event::Error(failure) => Some(failure.class),
        _ => None,
    })
}

impl Stream for Begun {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.held.pop() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None => self.chunks.as_mut().poll_next(cx),
        }
    }
}

/// Counts the call as load of its deployment, and as under way past its gate, until its body
/// has ended.
pub(crate) fn hold(
    call: &Call,
    mut reply: Reply,
    (lease, keyed): (Lease, bool),
    mut pass: Option<Pass>,
) -> Reply {
    let endpoint = call.request.endpoint;
    if let Some(pass) = &mut pass {
        pass.accepted();
    }
    let leased = |chunks, pass| {
        let facts = sse::Facts::default();
        Box::pin(Leased { chunks, endpoint, facts, keyed, lease: Some(lease), pass })
    };
    reply.body = match reply.body {
        Body::Whole(bytes) => {
            if let Some(pass) = pass {
                pass.completed(used(wire::usage(endpoint, &bytes)));
            }
            Body::Whole(bytes)
        }
        Body::Events(chunks) => Body::Events(leased(chunks, pass)),
        Body::Bytes(chunks, length) => Body::Bytes(leased(chunks, pass), length),
    };
    reply
}

fn used(usage: Option<Usage>) -> Used {
    let tokens = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let usage = usage.unwrap_or_default();
    Used { prompt: tokens(usage.input), output: tokens(usage.output) }
}

struct Leased {
    chunks: Chunks,
    endpoint: Endpoint,
    facts: sse::Facts,
    /// The key is the deployment's own, and not the caller's.
    keyed: bool,
    lease: Option<Lease>,
    pass: Option<Pass>,
}

impl Leased {
    /// The upstream tells an error in a stream that had begun: the answer counts as failed
    /// where the same error in place of an answer would.
    fn failed_within(&mut self, chunk: &[u8]) {
        self.pass = None;
        // An error of which no more can be read is the upstream's own.
        let class = read(self.endpoint, std::iter::once(chunk)).and_then(class_of);
        let class = class.unwrap_or(FailureClass::Server);
        let outcome = Verdict::of_class(class, self.keyed).outcome;
        if let Some(outcome) = outcome.filter(|outcome| *outcome != Outcome::Answered)
            && let Some(mut lease) = self.lease.take()
        {
            report(&mut lease, outcome, "an error within a stream");
        }
    }
}

impl Stream for Leased {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let next = std::task::ready!(this.chunks.as_mut().poll_next(cx));
        match &next {
            Some(Ok(chunk)) => {
                if let Some(lease) = &mut this.lease {
                    lease.began();
                }
                if !this.facts.failed {
                    wire::read_events(this.endpoint, chunk, &mut this.facts);
                    if this.facts.failed {
                        this.failed_within(chunk);
                    }
                }
            }
            Some(Err(error)) => {
                this.pass = None;
                if let Some(mut lease) = this.lease.take()
                    && error.origin() == Origin::Upstream
                {
                    report(&mut lease, Outcome::Failed, error.message());
                }
            }
            None => {
                if let Some(mut lease) = this.lease.take() {
                    lease.report(Outcome::Ended);
                }
                if let Some(pass) = this.pass.take() {
                    pass.completed(used(this.facts.usage));
                }
            }
        }
        Poll::Ready(next)
    }
}
