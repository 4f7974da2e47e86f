//! Errors, written as Anthropic would (docs.anthropic.com, "Errors").

use serde_json::{Value, json};

use crate::neutral::{Failure, FailureClass};

/// The words by which clients tell that a prompt does not fit.
const TOO_LONG: &str = "prompt is too long";

/// The status and the body.
pub(super) fn write(failure: &Failure) -> (u16, Value) {
    let (status, kind) = match failure.class {
        FailureClass::Invalid | FailureClass::ContextTooLong | FailureClass::Filtered => {
            (400, "invalid_request_error")
        }
        FailureClass::Unauthorized => (401, "authentication_error"),
        FailureClass::Quota => (402, "billing_error"),
        FailureClass::Forbidden => (403, "permission_error"),
        FailureClass::NotFound => (404, "not_found_error"),
        FailureClass::RateLimited => (429, "rate_limit_error"),
        FailureClass::Overloaded => (529, "overloaded_error"),
        FailureClass::Timeout => (504, "timeout_error"),
        FailureClass::Server => (500, "api_error"),
    };
    let message = match failure.class {
        FailureClass::ContextTooLong if !failure.message.contains(TOO_LONG) => {
            format!("{TOO_LONG}: {}", failure.message)
        }
        _ => failure.message.clone(),
    };
    (status, json!({"type": "error", "error": {"type": kind, "message": message}}))
}
