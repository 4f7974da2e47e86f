//! One request and its reply over a connection, polled in place.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Request;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2;

use crate::pool::{Connection, Pool};

/// Frames that are already there are joined up to this many bytes.
const JOIN_BYTES: usize = 32 << 10;

/// A request did not get the head of its reply.
pub(crate) struct Failure {
    pub(crate) error: hyper::Error,
    /// The request, where it was not sent or certainly not answered: it may be sent again
    /// on a fresh connection.
    pub(crate) again: bool,
}

/// Sends a request over HTTP/1.1 and waits for the reply's head.
///
/// # Cancel safety
/// Dropping the future closes the connection, which ends the exchange.
pub(crate) async fn http1(
    mut connection: Box<Connection>,
    request: Request<Full<Bytes>>,
    pool: &Arc<Pool>,
) -> Result<Response<Frames>, Failure> {
    let result = {
        let mut response = pin!(connection.sender.try_send_request(request));
        let driver = &mut connection.driver;
        poll_fn(|cx| {
            // Its end shows in the response, which is polled after it for that reason.
            let _ = Pin::new(&mut *driver).poll(cx);
            response.as_mut().poll(cx)
        })
        .await
    };
    match result {
        Ok(response) => {
            let source = Source::Http1 { connection: Some(connection), pool: Arc::clone(pool) };
            Ok(response.map(|body| Frames { body, source, ended: false, failure: None }))
        }
        Err(mut failure) => {
            let unsent = failure.take_message().is_some();
            let again = connection.reused && (unsent || !connection.heard());
            Err(Failure { error: failure.into_error(), again })
        }
    }
}

/// Sends a request over HTTP/2 and waits for the reply's head. `stream` is held until the
/// exchange has ended.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub(crate) async fn http2(
    mut sender: http2::SendRequest<Full<Bytes>>,
    stream: Arc<()>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Frames>, Failure> {
    match sender.try_send_request(request).await {
        Ok(response) => {
            let source = Source::Http2 { _stream: Some(stream) };
            Ok(response.map(|body| Frames { body, source, ended: false, failure: None }))
        }
        Err(mut failure) => {
            let again = failure.take_message().is_some();
            Err(Failure { error: failure.into_error(), again })
        }
    }
}

/// The body of a reply, in pieces of the frames that are already there. Dropping it
/// before its end ends the exchange.
pub(crate) struct Frames {
    body: Incoming,
    source: Source,
    ended: bool,
    /// Why it broke off, until those who read it have what came before.
    failure: Option<hyper::Error>,
}

enum Source {
    Http1 {
        connection: Option<Box<Connection>>,
        pool: Arc<Pool>,
    },
    /// Held for as long as it lasts.
    Http2 {
        _stream: Option<Arc<()>>,
    },
}

impl Frames {
    /// The next bytes; `None` at the proper end, when the connection is back in its pool.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
        if self.ended {
            return Poll::Ready(self.failure.take().map(Err));
        }
        let mut joined = Joined::default();
        let mut driven = false;
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    driven = false;
                    if let Ok(data) = frame.into_data() {
                        joined.push(data);
                    }
                    if joined.len() >= JOIN_BYTES {
                        return Poll::Ready(joined.take().map(Ok));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    self.source = Source::Http2 { _stream: None };
                    let Some(bytes) = joined.take() else { return Poll::Ready(Some(Err(error))) };
                    self.failure = Some(error);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Ready(None) => {
                    self.finish();
                    return Poll::Ready(joined.take().map(Ok));
                }
                Poll::Pending if driven || !self.drive(cx) => {
                    return match joined.take() {
                        Some(bytes) => Poll::Ready(Some(Ok(bytes))),
                        None => Poll::Pending,
                    };
                }
                Poll::Pending => driven = true,
            }
        }
    }

    /// Whether the body may have more to give after its connection was polled.
    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let Source::Http1 { connection, .. } = &mut self.source else { return false };
        let Some(open) = connection else { return false };
        if open.poll(cx).is_ready() {
            // The connection has ended; what it read is in the body's channel.
            *connection = None;
        }
        true
    }

    /// The server keeps the connection so long when it is idle.
    pub(crate) fn kept_for(&mut self, time: Duration) {
        if let Source::Http1 { connection: Some(connection), .. } = &mut self.source {
            connection.kept_for(time);
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        if let Source::Http1 { connection, pool } = &mut self.source
            && let Some(connection) = connection.take()
        {
            pool.put(connection);
        }
    }
}

/// Bytes joined without a copy while there is only one piece.
#[derive(Default)]
struct Joined {
    first: Option<Bytes>,
    more: BytesMut,
}

impl Joined {
    fn push(&mut self, data: Bytes) {
        if let Some(first) = self.first.take() {
            self.more.reserve(JOIN_BYTES.max(first.len() + data.len()));
            self.more.extend_from_slice(&first);
            self.more.extend_from_slice(&data);
        } else if self.more.is_empty() {
            self.first = Some(data).filter(|data| !data.is_empty());
        } else {
            self.more.extend_from_slice(&data);
        }
    }

    fn len(&self) -> usize {
        self.first.as_ref().map_or(self.more.len(), Bytes::len)
    }

    fn take(&mut self) -> Option<Bytes> {
        let joined = self.first.take().unwrap_or_else(|| self.more.split().freeze());
        Some(joined).filter(|bytes| !bytes.is_empty())
    }
}
