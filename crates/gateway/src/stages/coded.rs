//! Answers packed for clients that take that.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::StatusCode;
use ::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY,
};
use bytes::Bytes;
use futures_core::Stream;
use paceline_core::{Error, ErrorKind, Origin, Result, Retry};
use paceline_telemetry::task;
use paceline_upstream::coding::{CODED_BYTES_MIN, Coding, Encoder, INLINE_BYTES_MAX};
use tracing::warn;

use crate::stages::record::{Answer, AnswerBody};

/// Which answers are packed, for clients whose `Accept-Encoding` takes that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// None: SDKs on the same host offer gzip too, and would have it unpacked for nothing.
    #[default]
    Never,
    /// Those that are there whole.
    Whole,
    /// Streams too. Each holds memory for its coding, and each piece of them costs more.
    Always,
}

/// Packs an answer, where the client and the answer are such that it may be.
pub(crate) async fn compress(
    mut answer: Answer,
    which: Compress,
    wanted: Option<Coding>,
) -> Answer {
    if !may_be_packed(answer.status, &answer.headers) {
        return answer;
    }
    let packed = match answer.body.into_whole() {
        Ok(bytes) if bytes.len() < CODED_BYTES_MIN => {
            answer.body = AnswerBody::whole(bytes);
            return answer;
        }
        Ok(bytes) => match wanted {
            Some(coding) => whole(bytes, coding).await,
            None => Err(AnswerBody::whole(bytes)),
        },
        Err(stream) if which != Compress::Always => {
            answer.body = stream;
            return answer;
        }
        Err(stream) => match wanted.and_then(|coding| coding.encoder().ok()) {
            Some(encoder) => Ok(AnswerBody::coded(Coded::new(stream, encoder))),
            None => Err(stream),
        },
    };
    // Another client would get it in another form (RFC 9110, 12.5.5).
    answer.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    match (packed, wanted) {
        (Ok(body), Some(coding)) => {
            answer.body = body;
            answer.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            // It names the bytes of another form.
            answer.headers.remove(ETAG);
        }
        (Ok(body) | Err(body), _) => answer.body = body,
    }
    answer
}

/// Whether packing changes nothing of the answer but its length. Who says `no-transform` means
/// that (RFC 9111, 5.2.2.6).
fn may_be_packed(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_text = |kind: &HeaderValue| {
        let kind = kind.as_bytes();
        let begins =
            |with: &[u8]| kind.get(..with.len()).is_some_and(|k| k.eq_ignore_ascii_case(with));
        begins(b"text/") || begins(b"application/json") || begins(b"application/openmetrics-text")
    };
    let fixed = |value: &HeaderValue| {
        memchr::memmem::find(&value.as_bytes().to_ascii_lowercase(), b"no-transform").is_some()
    };
    status != StatusCode::PARTIAL_CONTENT
        && headers.get(CONTENT_TYPE).is_some_and(is_text)
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.get_all(CACHE_CONTROL).iter().any(fixed)
}

/// A whole body, packed; as it was where it would not be shorter.
async fn whole(bytes: Bytes, coding: Coding) -> Result<AnswerBody, AnswerBody> {
    let (plain, given) = (bytes.clone(), bytes.len());
    let pack = move || coding.encode(&bytes);
    let packed = if given <= INLINE_BYTES_MAX {
        pack()
    } else {
        let packing = task::spawn_blocking("gateway.pack", pack).await;
        packing.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    };
    match packed {
        Ok(packed) if packed.len() < given => Ok(AnswerBody::whole(packed)),
        Ok(_) => Err(AnswerBody::whole(plain)),
        Err(error) => {
            warn!(%error, "an answer could not be packed; it goes as it is");
            Err(AnswerBody::whole(plain))
        }
    }
}

/// A stream that is packed piece by piece, so that each piece can be read when it comes.
pub(crate) struct Coded {
    body: AnswerBody,
    /// `None` after the end.
    encoder: Option<Encoder>,
}

impl Coded {
    const fn new(body: AnswerBody, encoder: Encoder) -> Self {
        Self { body, encoder: Some(encoder) }
    }

    /// Whether all has been given.
    pub(crate) const fn ended(&self) -> bool {
        self.encoder.is_none()
    }

    /// The next packed bytes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
            let packed = match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(bytes)) => encoder.push(&bytes),
                Some(Err(error)) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => match self.encoder.take() {
                    Some(encoder) => encoder.finish(),
                    None => return Poll::Ready(None),
                },
            };
            match packed {
                Ok(packed) if packed.is_empty() => {}
                Ok(packed) => return Poll::Ready(Some(Ok(packed.into()))),
                Err(error) => {
                    self.encoder = None;
                    let message = "a stream could not be packed";
                    let kind = ErrorKind::Internal;
                    let error = Error::new(kind, Origin::Paceline, Retry::Never, message)
                        .with_source(error);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
