//! Errors: of a status, and within a stream.

use http::HeaderMap;
use serde_json::{Value, json};

use crate::neutral::{Failure, FailureClass};

/// Reads an answer with an error status: its kind stands in `x-amzn-errortype`, or in the
/// body's `__type`.
pub(super) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let header = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    let kind = header.or(body["__type"].as_str()).unwrap_or_default();
    // `ThrottlingException:http://internal.amazon.com/…`, `com.amazon.coral#Throttling…`.
    let kind = kind.split(':').next().unwrap_or_default();
    let kind = kind.rsplit('#').next().unwrap_or_default();
    of_kind(status, kind, &body)
}

/// Reads an exception within a stream, or an error of the service itself, which says why in
/// `message` and has no payload.
pub(super) fn in_stream(kind: &str, message: &str, payload: &[u8]) -> Failure {
    let mut body = serde_json::from_slice::<Value>(payload).unwrap_or_default();
    if !message.is_empty() {
        body = json!({"message": message});
    }
    let status = body["originalStatusCode"].as_u64().and_then(|status| u16::try_from(status).ok());
    of_kind(status.unwrap_or(500), kind, &body)
}

fn of_kind(status: u16, kind: &str, body: &Value) -> Failure {
    let message = body["message"].as_str().or(body["Message"].as_str());
    let message = message.map_or_else(
        || format!("the upstream answered with status {status} and no message"),
        str::to_owned,
    );
    let code = (!kind.is_empty()).then(|| kind.to_owned());
    Failure { class: class(status, kind, &message), message, code, param: None }
}

/// What models behind Bedrock say of a prompt beyond their context.
const TOO_LONG: [&str; 5] =
    ["too long", "maximum tokens", "input length", "context", "Too many input tokens"];

fn class(status: u16, kind: &str, message: &str) -> FailureClass {
    use FailureClass as C;
    let kind = kind.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match kind.trim_end_matches("exception") {
        "validation" if says(&TOO_LONG) => C::ContextTooLong,
        "validation" => C::Invalid,
        "throttling" | "toomanyrequests" => C::RateLimited,
        "servicequotaexceeded" => C::Quota,
        "unrecognizedclient"
        | "expiredtoken"
        | "invalidsignature"
        | "incompletesignature"
        | "missingauthenticationtoken" => C::Unauthorized,
        "accessdenied" => C::Forbidden,
        "resourcenotfound" => C::NotFound,
        "serviceunavailable" | "modelnotready" => C::Overloaded,
        "modeltimeout" => C::Timeout,
        "internalserver" | "modelerror" | "modelstreamerror" => C::Server,
        _ => match status {
            401 => C::Unauthorized,
            403 => C::Forbidden,
            404 => C::NotFound,
            408 | 504 => C::Timeout,
            424 => C::Server,
            429 => C::RateLimited,
            503 => C::Overloaded,
            500..=599 => C::Server,
            _ => C::Invalid,
        },
    }
}

/// The kind of exception, and the status that goes with it.
pub(super) const fn kind(failure: &Failure) -> (u16, &'static str) {
    use FailureClass as C;
    match failure.class {
        C::Invalid | C::ContextTooLong | C::Filtered => (400, "validationException"),
        C::Quota => (400, "serviceQuotaExceededException"),
        C::Unauthorized | C::Forbidden => (403, "accessDeniedException"),
        C::NotFound => (404, "resourceNotFoundException"),
        C::RateLimited => (429, "throttlingException"),
        C::Overloaded => (503, "serviceUnavailableException"),
        C::Timeout => (408, "modelTimeoutException"),
        C::Server => (500, "internalServerException"),
    }
}

/// Writes an error as Bedrock would, its kind in the body.
pub(super) fn write(failure: &Failure) -> (u16, Value) {
    let (status, kind) = kind(failure);
    (status, json!({"__type": kind, "message": failure.message}))
}
