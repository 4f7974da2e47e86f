//! The one table from a kind of error to an HTTP status, a type and a stable code.

use ::http::StatusCode;
use paceline_core::{Dialect, Endpoint, Error, ErrorKind, Retry};
use paceline_dialect::wire::ErrorText;

/// HTTP status, OpenAI error `type`, stable `code`.
pub(crate) const fn of(kind: ErrorKind) -> (StatusCode, &'static str, &'static str) {
    use ErrorKind as K;
    use StatusCode as S;
    const CLIENT: &str = "invalid_request_error";
    const OURS: &str = "server_error";
    const THEIRS: &str = "upstream_error";
    match kind {
        K::InvalidRequest => (S::BAD_REQUEST, CLIENT, "invalid_request"),
        K::Unauthorized => (S::UNAUTHORIZED, CLIENT, "invalid_api_key"),
        K::NotFound => (S::NOT_FOUND, CLIENT, "unknown_url"),
        K::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, CLIENT, "method_not_allowed"),
        K::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, CLIENT, "body_too_large"),
        K::HeadTooLarge => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, CLIENT, "head_too_large"),
        K::RequestTimeout => (S::REQUEST_TIMEOUT, CLIENT, "request_timeout"),
        K::ModelNotFound => (S::NOT_FOUND, CLIENT, "model_not_found"),
        // As RFC 9111 has it for `only-if-cached`.
        K::NotCached => (S::GATEWAY_TIMEOUT, CLIENT, "not_cached"),
        K::NoHealthyTarget => (S::SERVICE_UNAVAILABLE, THEIRS, "no_healthy_upstream"),
        K::Overloaded => (S::SERVICE_UNAVAILABLE, OURS, "overloaded"),
        K::QueueFull => (S::TOO_MANY_REQUESTS, OURS, "queue_full"),
        K::QueueTimeout => (S::TOO_MANY_REQUESTS, OURS, "queue_timeout"),
        K::ShuttingDown => (S::SERVICE_UNAVAILABLE, OURS, "shutting_down"),
        K::UpstreamConnect => (S::BAD_GATEWAY, THEIRS, "upstream_unreachable"),
        K::UpstreamTimeout => (S::GATEWAY_TIMEOUT, THEIRS, "upstream_timeout"),
        K::UpstreamBroken => (S::BAD_GATEWAY, THEIRS, "upstream_broken"),
        K::DeadlineExceeded => (S::GATEWAY_TIMEOUT, CLIENT, "deadline_exceeded"),
        K::ReaderTooSlow => (S::SERVICE_UNAVAILABLE, OURS, "reader_too_slow"),
        K::Internal => (S::INTERNAL_SERVER_ERROR, OURS, "internal_error"),
    }
}

/// After how many seconds to come back.
pub(crate) fn retry_after_s(error: &Error) -> Option<u64> {
    match (error.retry(), error.kind()) {
        (Retry::After(wait), _) => Some(wait.as_secs_f64().ceil() as u64),
        (
            _,
            ErrorKind::Overloaded
            | ErrorKind::ShuttingDown
            | ErrorKind::NoHealthyTarget
            | ErrorKind::QueueFull
            | ErrorKind::QueueTimeout,
        ) => Some(1),
        _ => None,
    }
}

/// The body of an error's answer.
pub(crate) fn body(error: &Error, dialect: Dialect) -> String {
    text(error).body(dialect)
}

/// The event that ends a stream which broke off after so many events.
pub(crate) fn event(error: &Error, endpoint: Endpoint, events: u64) -> String {
    text(error).event(endpoint, events)
}

fn text(error: &Error) -> ErrorText<'_> {
    let (status, kind, code) = of(error.kind());
    let (message, param) = (error.message(), error.param());
    ErrorText { status: status.as_u16(), kind, code, message, param }
}
