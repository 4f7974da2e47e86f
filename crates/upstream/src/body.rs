//! A reply's body under its time limits: held whole, cut into events, or passed through.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use paceline_core::clock::Sleep;
use paceline_core::{Clock, Error, ErrorKind, Instant, Origin, Result, Retry};
use paceline_dialect::sse::Splitter;
use paceline_telemetry::metrics::GaugeHold;
use tokio::sync::OwnedSemaphorePermit;

use crate::coding::Decoder;
use crate::exchange::Frames;
use crate::metrics::Metrics;

/// The frames of a reply, watched by its time limits.
pub(crate) struct Timed {
    pub(crate) frames: Frames,
    /// Unpacks what comes, where the upstream packs it although nobody asks for that.
    pub(crate) decoder: Option<Box<Decoder>>,
    pub(crate) clock: Clock,
    /// One timer for both limits; it is moved only when it fires.
    pub(crate) sleep: Sleep,
    pub(crate) idle: Duration,
    pub(crate) end: Instant,
    pub(crate) heard_at: Instant,
    /// Something came since `heard_at`. The clock is asked only when there is a wait, since
    /// most answers are there at once.
    pub(crate) heard: bool,
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) metrics: Metrics,
    /// Held for as long as the exchange lasts.
    pub(crate) _held: (OwnedSemaphorePermit, GaugeHold),
}

impl Timed {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.decoder.is_some() { self.poll_unpacked(cx) } else { self.poll_frames(cx) }
    }

    /// The next piece of what the upstream has packed.
    fn poll_unpacked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let mut ended = false;
        loop {
            let Some(decoder) = &mut self.decoder else { return Poll::Ready(None) };
            match decoder.next() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(None) if ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => {
                    self.metrics.broken.inc();
                    let what = format!("sent an answer that cannot be unpacked: {error}");
                    return Poll::Ready(Some(Err(broken(&self.name, &what).with_source(error))));
                }
            }
            let next = std::task::ready!(self.poll_frames(cx));
            let Some(decoder) = &mut self.decoder else { return Poll::Ready(next) };
            match next {
                Some(Ok(bytes)) => decoder.push(bytes),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    decoder.end();
                    ended = true;
                }
            }
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        match self.frames.poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.heard = true;
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.metrics.broken.inc();
                Poll::Ready(Some(Err(broken(&self.name, "broke off").with_source(error))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_limits(cx),
        }
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if std::mem::take(&mut self.heard) {
            self.heard_at = self.clock.now();
        }
        while Pin::new(&mut self.sleep).poll(cx).is_ready() {
            let now = self.clock.now();
            let limit = self.heard_at.after(self.idle).min(self.end);
            if now >= limit {
                self.metrics.timed_out.inc();
                let what = if limit == self.end { "took too long" } else { "fell silent" };
                let message =
                    format!("the upstream `{}` {what} in the middle of its answer", self.name);
                let kind = ErrorKind::UpstreamTimeout;
                return Poll::Ready(Some(Err(Error::new(
                    kind,
                    Origin::Upstream,
                    Retry::Never,
                    message,
                ))));
            }
            self.sleep.reset(limit);
        }
        Poll::Pending
    }

    /// Reads up to `max` bytes; whether that was all.
    ///
    /// # Cancel safety
    /// Dropping the future ends the exchange.
    pub(crate) async fn read(&mut self, max: usize) -> Result<(Bytes, bool)> {
        let mut first: Option<Bytes> = None;
        let mut more = BytesMut::new();
        loop {
            let next = std::future::poll_fn(|cx| self.poll_next(cx)).await.transpose()?;
            let Some(bytes) = next else {
                return Ok((first.unwrap_or_else(|| more.freeze()), true));
            };
            match first.take() {
                None if more.is_empty() => first = Some(bytes),
                before => {
                    more.extend_from_slice(&before.unwrap_or_default());
                    more.extend_from_slice(&bytes);
                }
            }
            if first.as_ref().map_or(more.len(), Bytes::len) > max {
                return Ok((first.unwrap_or_else(|| more.freeze()), false));
            }
        }
    }
}

/// A body that is passed on as it comes, after what was read of it already.
pub(crate) struct Passed {
    pub(crate) read: Option<Bytes>,
    pub(crate) rest: Option<Timed>,
}

impl Stream for Passed {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(read)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let next = rest.poll_next(cx);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.rest = None;
        }
        next
    }
}

/// A stream of events: whole events only, and an error when it ends before its end.
pub(crate) struct Events {
    pub(crate) rest: Option<Timed>,
    pub(crate) splitter: Splitter,
}

impl Stream for Events {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
            let next = std::task::ready!(rest.poll_next(cx));
            let result = match next {
                Some(Ok(bytes)) => match this.splitter.push(bytes) {
                    Ok(Some(events)) => return Poll::Ready(Some(Ok(events))),
                    Ok(None) => continue,
                    Err(too_long) => {
                        rest.metrics.broken.inc();
                        Some(Err(
                            broken(&rest.name, "sent an event beyond 4 MiB").with_source(too_long)
                        ))
                    }
                },
                Some(Err(error)) => Some(Err(error)),
                None => {
                    let last = this.splitter.finish();
                    if this.splitter.facts().complete() {
                        last.map(Ok)
                    } else {
                        rest.metrics.broken.inc();
                        Some(Err(broken(
                            &rest.name,
                            "ended its stream before the answer was complete",
                        )))
                    }
                }
            };
            this.rest = None;
            return Poll::Ready(result);
        }
    }
}

pub(crate) fn broken(name: &str, what: &str) -> Error {
    let message = format!("the upstream `{name}` {what}");
    Error::new(ErrorKind::UpstreamBroken, Origin::Upstream, Retry::Never, message)
}
