//! Errors: of a status, and within a stream.

use serde_json::{Value, json};

use crate::neutral::{Failure, FailureClass};

/// Reads an error object, or a list of one; `status` is that of the answer, where it has one.
pub(super) fn read(status: Option<u16>, body: &[u8]) -> Failure {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let error = body.get("error").or_else(|| body.get(0)?.get("error")).unwrap_or(&Value::Null);
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
    let code = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let status = status.or(code).unwrap_or(500);
    let message =
        text("message").unwrap_or_else(|| format!("the upstream answered with status {status}"));
    let details = error.get("details").map(Value::to_string).unwrap_or_default();
    let name = text("status");
    let class = class(status, name.as_deref().unwrap_or_default(), &message, &details);
    Failure { class, message, code: name, param: None }
}

fn class(status: u16, name: &str, message: &str, details: &str) -> FailureClass {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match (name, status) {
        // A limit of 0, or of a day, is not waited for.
        ("RESOURCE_EXHAUSTED", _) | (_, 429) => {
            let gone = details.contains("PerDay") || details.contains("\"quotaValue\":\"0\"");
            if gone { FailureClass::Quota } else { FailureClass::RateLimited }
        }
        _ if says(&["API key not valid", "API Key not found", "API key expired"]) => {
            FailureClass::Unauthorized
        }
        ("INVALID_ARGUMENT", _) if says(&["token count", "maximum number of tokens"]) => {
            FailureClass::ContextTooLong
        }
        ("FAILED_PRECONDITION", _) if says(&["billing", "Billing"]) => FailureClass::Quota,
        ("UNAUTHENTICATED", _) | (_, 401) => FailureClass::Unauthorized,
        ("PERMISSION_DENIED", _) | (_, 403) => FailureClass::Forbidden,
        ("NOT_FOUND", _) | (_, 404) => FailureClass::NotFound,
        ("UNAVAILABLE", _) | (_, 503) => FailureClass::Overloaded,
        ("DEADLINE_EXCEEDED", _) | (_, 408 | 504) => FailureClass::Timeout,
        (_, 501) => FailureClass::Invalid,
        (_, 500..=599) => FailureClass::Server,
        _ => FailureClass::Invalid,
    }
}

/// Writes an error as Google would.
pub(super) fn write(failure: &Failure) -> (u16, Value) {
    let (status, name) = match failure.class {
        FailureClass::Invalid | FailureClass::ContextTooLong | FailureClass::Filtered => {
            (400, "INVALID_ARGUMENT")
        }
        FailureClass::Unauthorized => (401, "UNAUTHENTICATED"),
        FailureClass::Forbidden => (403, "PERMISSION_DENIED"),
        FailureClass::NotFound => (404, "NOT_FOUND"),
        FailureClass::Quota | FailureClass::RateLimited => (429, "RESOURCE_EXHAUSTED"),
        FailureClass::Overloaded => (503, "UNAVAILABLE"),
        FailureClass::Timeout => (504, "DEADLINE_EXCEEDED"),
        FailureClass::Server => (500, "INTERNAL"),
    };
    (status, json!({"error": {"code": status, "message": failure.message, "status": name}}))
}
