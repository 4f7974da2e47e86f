//! Errors: of a status, and within a stream.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::incoming::Problem;
use crate::neutral::{Failure, FailureClass};

/// Longest message that is made of a body that is no JSON, in characters.
const MESSAGE_MAX: usize = 300;

/// Reads an answer with an error status. `_headers` tell limits, not what went wrong.
pub(crate) fn read(status: u16, _headers: &HeaderMap, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Value>(body) {
        Ok(body) => of_body(status, body),
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            of_problem(Some(status), Problem { message: plain(&text), ..Problem::default() })
        }
    }
}

/// The failure of an error object, with the status where there is one.
pub(crate) fn of_problem(status: Option<u16>, problem: Problem) -> Failure {
    let code = match problem.code {
        Some(Value::String(code)) if !code.is_empty() => Some(code),
        Some(Value::Number(code)) => Some(code.to_string()),
        _ => None,
    };
    let message = problem.message.filter(|message| !message.trim().is_empty());
    let said = message.as_deref().unwrap_or_default();
    let class = class(status, [code.as_deref(), problem.kind.as_deref()], said);
    let message = message.unwrap_or_else(|| match status {
        Some(status) => format!("the upstream answered with status {status} and no message"),
        None => "the upstream reported an error without a message".to_owned(),
    });
    Failure { class, message, code: code.or(problem.kind), param: problem.param }
}

/// The code of an error within a stream: those that Codex and the SDKs know.
pub(crate) fn stream_code(failure: &Failure) -> &'static str {
    match failure.class {
        FailureClass::RateLimited => "rate_limit_exceeded",
        FailureClass::Overloaded => "server_is_overloaded",
        FailureClass::Quota => "insufficient_quota",
        FailureClass::ContextTooLong => "context_length_exceeded",
        FailureClass::Invalid | FailureClass::NotFound | FailureClass::Filtered => "invalid_prompt",
        FailureClass::Unauthorized
        | FailureClass::Forbidden
        | FailureClass::Timeout
        | FailureClass::Server => "server_error",
    }
}

/// Writes an error as OpenAI would.
pub(crate) fn write(failure: &Failure) -> (u16, Value) {
    let (status, kind, code) = match failure.class {
        FailureClass::Invalid => (400, "invalid_request_error", failure.code.as_deref()),
        FailureClass::ContextTooLong => {
            (400, "invalid_request_error", Some("context_length_exceeded"))
        }
        FailureClass::Filtered => (400, "invalid_request_error", Some("content_filter")),
        FailureClass::Unauthorized => (401, "invalid_request_error", Some("invalid_api_key")),
        FailureClass::Forbidden => (403, "invalid_request_error", failure.code.as_deref()),
        FailureClass::NotFound => (404, "invalid_request_error", Some("model_not_found")),
        FailureClass::Quota => (429, "insufficient_quota", Some("insufficient_quota")),
        FailureClass::RateLimited => (429, "rate_limit_error", Some("rate_limit_exceeded")),
        FailureClass::Overloaded => (503, "server_error", Some("server_is_overloaded")),
        FailureClass::Timeout => (504, "server_error", Some("timeout")),
        FailureClass::Server => (500, "server_error", Some("server_error")),
    };
    let error = json!({
        "message": failure.message, "type": kind, "param": failure.param, "code": code,
    });
    (status, json!({"error": error}))
}

/// The failure of a JSON body: `error` as an object or a text, or what other servers write.
fn of_body(status: u16, mut body: Value) -> Failure {
    let filtered =
        body.pointer("/error/innererror/code").is_some_and(|c| c == "ResponsibleAIPolicyViolation");
    let error = body.get_mut("error").map(Value::take).unwrap_or_default();
    let mut problem = match error {
        Value::Object(_) => Problem::deserialize(lenient(error)).unwrap_or_default(),
        Value::String(message) => Problem { message: Some(message), ..Problem::default() },
        _ => Problem::default(),
    };
    if problem.message.is_none() {
        let said = ["message", "detail", "error_description"].into_iter().find_map(|name| {
            let value = body.get(name).filter(|value| !value.is_null())?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        problem.message = said.or_else(|| body.as_str().and_then(plain));
    }
    if problem.code.is_none() {
        problem.code = body.get("code").cloned();
    }
    if problem.kind.is_none() {
        problem.kind = body.get("type").and_then(Value::as_str).map(str::to_owned);
    }
    if filtered {
        problem.code = Some(json!("content_filter"));
    }
    of_problem(Some(status), problem)
}

/// An error object of which only the members of the expected kinds are left.
pub(crate) fn lenient(mut error: Value) -> Value {
    if let Some(map) = error.as_object_mut() {
        map.retain(|name, value| name == "code" || value.is_string());
    }
    error
}

/// A body that is no JSON as a message; `None` for pages in HTML and for nothing.
fn plain(text: &str) -> Option<String> {
    let text = text.trim();
    let page = text.starts_with('<');
    (!page && !text.is_empty()).then(|| text.chars().take(MESSAGE_MAX).collect())
}

/// What kind of error it is: by its code, then, since many servers give none, by the words
/// in which vendors tell quota and length from other errors, then by the status.
fn class(status: Option<u16>, codes: [Option<&str>; 2], message: &str) -> FailureClass {
    for code in codes.into_iter().flatten() {
        if let Some(class) = class_of_code(code, message) {
            return class;
        }
    }
    let refusal = matches!(status, None | Some(400 | 402 | 403 | 413 | 422 | 429));
    if let Some(class) = class_of_words(message).filter(|_| refusal) {
        return class;
    }
    // Within a stream there is no status; elsewhere this type stands for most of them.
    if status.is_none() && codes.contains(&Some("invalid_request_error")) {
        return FailureClass::Invalid;
    }
    match status {
        Some(401) => FailureClass::Unauthorized,
        // What is not implemented stays so.
        Some(501) => FailureClass::Invalid,
        Some(402) => FailureClass::Quota,
        Some(403) => FailureClass::Forbidden,
        Some(404) => FailureClass::NotFound,
        Some(408 | 504) => FailureClass::Timeout,
        // A conflict passes: OpenAI's own clients try again.
        Some(409) | None => FailureClass::Server,
        Some(429) => FailureClass::RateLimited,
        Some(503 | 529) => FailureClass::Overloaded,
        Some(400..=499) => FailureClass::Invalid,
        Some(_) => FailureClass::Server,
    }
}

fn class_of_code(code: &str, message: &str) -> Option<FailureClass> {
    Some(match code {
        "insufficient_quota"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "usage_limit_reached"
        | "quota_exceeded"
        | "insufficient_funds"
        | "insufficient_credits" => FailureClass::Quota,
        "context_length_exceeded" | "context_window_exceeded" => FailureClass::ContextTooLong,
        "content_filter"
        | "content_policy_violation"
        | "moderation_blocked"
        | "bio_policy"
        | "misalignment_policy_violation"
        | "image_content_policy_violation" => FailureClass::Filtered,
        // One code for what is malformed and for what is not allowed.
        "invalid_prompt" if message.contains("usage policy") || message.contains("flagged") => {
            FailureClass::Filtered
        }
        "rate_limit_exceeded" | "rate_limit_error" => FailureClass::RateLimited,
        "server_is_overloaded" | "slow_down" | "engine_overloaded" | "overloaded_error" => {
            FailureClass::Overloaded
        }
        "invalid_prompt" | "invalid_encrypted_content" => FailureClass::Invalid,
        "invalid_api_key" | "authentication_error" => FailureClass::Unauthorized,
        "model_not_found" | "DeploymentNotFound" => FailureClass::NotFound,
        _ => return None,
    })
}

fn class_of_words(message: &str) -> Option<FailureClass> {
    const QUOTA: [&str; 11] = [
        "current quota",
        "billing details",
        "billing hard limit",
        "billing limit",
        "credit balance",
        "spend limit",
        "spending limit",
        "insufficient balance",
        "insufficient credit",
        "insufficient funds",
        "out of credits",
    ];
    const LENGTH: [&str; 5] = [
        "maximum context length",
        "context window",
        "context length",
        "prompt is too long",
        "input is too long",
    ];
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&QUOTA) {
        Some(FailureClass::Quota)
    } else if says(&LENGTH) {
        Some(FailureClass::ContextTooLong)
    } else {
        None
    }
}
