//! Errors of our own in the words of each dialect.

use paceline_core::{Dialect, Endpoint};
use serde_json::json;

/// What an error answer says.
#[derive(Clone, Copy, Debug)]
pub struct ErrorText<'a> {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: &'a str,
    /// A stable code.
    pub code: &'a str,
    /// What is wrong, and how to mend it.
    pub message: &'a str,
    /// The field at fault.
    pub param: Option<&'a str>,
}

impl ErrorText<'_> {
    /// The body of an answer.
    pub fn body(&self, dialect: Dialect) -> String {
        let Self { status, kind, code, message, param } = *self;
        let body = match dialect {
            Dialect::OpenAi | Dialect::Bedrock => json!({
                "error": {"message": message, "type": kind, "param": param, "code": code},
            }),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {
                    "type": anthropic_type(status),
                    "message": message,
                    "details": {"error_code": code},
                },
            }),
            Dialect::Gemini => json!({
                "error": {
                    "code": status,
                    "message": message,
                    "status": google_status(status),
                    "details": [{
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": code,
                        "domain": "paceline",
                    }],
                },
            }),
        };
        body.to_string()
    }

    /// The last event of a stream that failed. `events` have gone before.
    pub fn event(&self, endpoint: Endpoint, events: u64) -> String {
        let body = self.body(endpoint.dialect());
        match endpoint {
            Endpoint::Messages => format!("event: error\ndata: {body}\n\n"),
            Endpoint::Responses => {
                let Self { code, message, param, .. } = *self;
                let data = json!({
                    "type": "error", "code": code, "message": message, "param": param,
                    "sequence_number": events,
                });
                format!("event: error\ndata: {data}\n\n")
            }
            // Google's own servers break into the stream with the bare object, and its SDKs
            // look for that.
            Endpoint::Generate => format!("{body}\r\n\r\n"),
            _ => format!("data: {body}\n\n"),
        }
    }
}

/// Anthropic's error types by status (docs.anthropic.com, "Errors").
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        408 | 504 => "timeout_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// Google's canonical codes by status (`google.rpc.Code`).
fn google_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        402 | 429 => "RESOURCE_EXHAUSTED",
        408 | 504 => "DEADLINE_EXCEEDED",
        502 | 503 | 529 => "UNAVAILABLE",
        501 => "UNIMPLEMENTED",
        400..=499 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: ErrorText<'_> = ErrorText {
        status: 400,
        kind: "invalid_request_error",
        code: "invalid_request",
        message: "no \"model\"",
        param: Some("model"),
    };

    #[test]
    fn each_dialect_has_its_shape() {
        let check = |dialect, expected: &str| assert_eq!(TEXT.body(dialect), expected);
        check(
            Dialect::OpenAi,
            r#"{"error":{"message":"no \"model\"","type":"invalid_request_error","param":"model","code":"invalid_request"}}"#,
        );
        check(
            Dialect::Anthropic,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no \"model\"","details":{"error_code":"invalid_request"}}}"#,
        );
        check(
            Dialect::Gemini,
            r#"{"error":{"code":400,"message":"no \"model\"","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"invalid_request","domain":"paceline"}]}}"#,
        );
    }

    #[test]
    fn a_failed_stream_ends_in_its_own_way() {
        let starts = |endpoint, start: &str| {
            let event = TEXT.event(endpoint, 7);
            assert!(event.starts_with(start) && event.trim_end().len() + 2 <= event.len());
        };
        starts(Endpoint::Chat, "data: {\"error\"");
        starts(Endpoint::Messages, "event: error\ndata: {\"type\":\"error\"");
        starts(Endpoint::Responses, "event: error\ndata: {\"type\":\"error\"");
        starts(Endpoint::Generate, "{\"error\"");
    }
}
