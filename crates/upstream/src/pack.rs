//! Bodies of requests, packed for servers that take that.

use ::http::HeaderValue;
use ::http::header::CONTENT_ENCODING;
use bytes::Bytes;
use paceline_core::{Error, ErrorKind, Origin, RawRequest, Result, Retry};
use paceline_telemetry::task;

use crate::coding::{CODED_BYTES_MIN, Coding, INLINE_BYTES_MAX};

/// A request with its body packed; `None` where that would not make it shorter, or the caller
/// has packed it. The spans of its fields are those of the body as it was.
///
/// # Errors
/// `Internal` when there is no memory for it.
pub(crate) async fn packed(raw: &RawRequest, coding: Coding) -> Result<Option<RawRequest>> {
    if raw.body.len() < CODED_BYTES_MIN || raw.headers.contains_key(CONTENT_ENCODING) {
        return Ok(None);
    }
    let body = raw.body.clone();
    let pack = move || coding.encode(&body);
    let packed = if raw.body.len() <= INLINE_BYTES_MAX {
        pack()
    } else {
        let packing = task::spawn_blocking("upstream.pack", pack).await;
        packing.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    };
    let packed = packed.map_err(|error| {
        let message = "the body of a request could not be packed";
        let kind = ErrorKind::Internal;
        Error::new(kind, Origin::Paceline, Retry::Never, message).with_source(error)
    })?;
    if packed.len() >= raw.body.len() {
        return Ok(None);
    }
    let mut packed = RawRequest { body: Bytes::from(packed), ..raw.clone() };
    packed.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    Ok(Some(packed))
}
