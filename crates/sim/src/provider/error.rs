//! Errors, and what is told of limits, in each vendor's words. (Their API references, "Errors"
//! and "Rate limits", November 2026.)

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body as HttpBody;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::check::{What, Wrong};
use super::limit::{Counts, Left, Refused};
use super::{Vendor, anthropic, bedrock, gemini};

/// An answer with an error status.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: u16,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    wait: Option<Duration>,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, wait: None }
    }

    pub(crate) fn invalid(message: String) -> Self {
        Self::new(400, message)
    }

    pub(crate) fn not_found(message: String) -> Self {
        Self::new(404, message)
    }

    /// "Previous response with id '…' not found." (an error of the API itself).
    pub(crate) fn not_stored(id: &str) -> Self {
        Self {
            param: Some("previous_response_id".to_owned()),
            code: Some("previous_response_not_found"),
            ..Self::invalid(format!("Previous response with id '{id}' not found."))
        }
    }

    pub(crate) fn not_allowed(method: &Method) -> Self {
        Self::new(405, format!("{method} is not allowed here"))
    }

    pub(crate) fn no_key() -> Self {
        Self::new(401, "no key was given, or not where this provider looks for it")
    }

    pub(crate) fn wrong_key() -> Self {
        Self { code: Some("invalid_api_key"), ..Self::new(401, "the key is not valid") }
    }

    /// A fault on demand.
    pub(crate) fn status(status: u16) -> Self {
        let wait = (status == 429).then_some(Duration::from_secs(1));
        Self { wait, ..Self::new(status, "a fault on demand") }
    }

    pub(crate) fn limited(refused: Refused<'_>) -> Self {
        let overloaded = refused.limit.overloaded;
        let what = match refused.limit.counts {
            Counts::Requests => "requests",
            Counts::Tokens => "tokens",
            Counts::Calls => "concurrent requests",
        };
        let message = if overloaded {
            "Overloaded".to_owned()
        } else {
            format!("Rate limit reached for {what}")
        };
        Self {
            code: Some("rate_limit_exceeded"),
            wait: (!refused.limit.silent).then_some(refused.wait),
            ..Self::new(if overloaded { 529 } else { 429 }, message)
        }
    }

    /// What is wrong with a request, as the vendor says it.
    pub(crate) fn wrong(vendor: Vendor, wrong: &Wrong) -> Self {
        let message = match vendor {
            Vendor::OpenAi => match &wrong.what {
                What::Missing => format!("Missing required parameter: '{}'.", wrong.path),
                What::Unknown => format!("Unknown parameter: '{}'.", wrong.path),
                What::Must(what) => format!("Invalid value for '{}': expected {what}.", wrong.path),
            },
            Vendor::Anthropic => anthropic::wrong(wrong),
            Vendor::Gemini => gemini::wrong(wrong),
            Vendor::Bedrock => bedrock::wrong(wrong),
        };
        let code = match &wrong.what {
            What::Missing => "missing_required_parameter",
            What::Unknown => "unknown_parameter",
            What::Must(_) => "invalid_value",
        };
        Self { param: Some(wrong.path.clone()), code: Some(code), ..Self::invalid(message) }
    }

    pub(crate) fn response(&self, vendor: Vendor) -> Response {
        // Only Anthropic has this status.
        let status =
            if self.status == 529 && vendor != Vendor::Anthropic { 503 } else { self.status };
        let mut response = Response::new(HttpBody::from(self.body(vendor, status).to_string()));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) =
            self.wait.filter(|_| matches!(vendor, Vendor::OpenAi | Vendor::Anthropic))
        {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
            if vendor == Vendor::OpenAi {
                let ms = HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                headers.insert(HeaderName::from_static("retry-after-ms"), ms);
            }
        }
        if vendor == Vendor::Bedrock {
            let kind = HeaderValue::from_static(exception(status));
            headers.insert(HeaderName::from_static("x-amzn-errortype"), kind);
        }
        response
    }

    fn body(&self, vendor: Vendor, status: u16) -> Value {
        let message = &self.message;
        match vendor {
            Vendor::OpenAi => {
                let kind = match status {
                    429 if message.contains("tokens") => "tokens",
                    429 => "requests",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                json!({"error": {
                    "message": message, "type": kind, "param": self.param, "code": self.code,
                }})
            }
            Vendor::Anthropic => {
                let kind = match status {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    529 => "overloaded_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Vendor::Gemini => {
                let (code, name) = match status {
                    401 | 403 => (status, "PERMISSION_DENIED"),
                    404 => (404, "NOT_FOUND"),
                    429 => (429, "RESOURCE_EXHAUSTED"),
                    503 => (503, "UNAVAILABLE"),
                    500.. => (status, "INTERNAL"),
                    _ => (status, "INVALID_ARGUMENT"),
                };
                let mut error = json!({"code": code, "message": message, "status": name});
                if let Some(wait) = self.wait {
                    error["details"] = json!([{
                        "@type": "type.googleapis.com/google.rpc.RetryInfo",
                        "retryDelay": format!("{:.3}s", wait.as_secs_f64()),
                    }]);
                }
                json!({"error": error})
            }
            Vendor::Bedrock => json!({"message": message}),
        }
    }
}

fn exception(status: u16) -> &'static str {
    match status {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        424 => "ModelErrorException",
        429 => "ThrottlingException",
        503 => "ServiceUnavailableException",
        500.. => "InternalServerException",
        _ => "ValidationException",
    }
}

/// Tells what is left of limits.
pub(crate) fn show(vendor: Vendor, left: &[Left], headers: &mut HeaderMap) {
    for left in left {
        let what = match left.counts {
            Counts::Requests => "requests",
            Counts::Tokens => "tokens",
            Counts::Calls => continue,
        };
        let (before, values) = match vendor {
            Vendor::OpenAi => (
                "x-ratelimit",
                [format!("limit-{what}"), format!("remaining-{what}"), format!("reset-{what}")],
            ),
            Vendor::Anthropic => (
                "anthropic-ratelimit",
                [format!("{what}-limit"), format!("{what}-remaining"), format!("{what}-reset")],
            ),
            // They tell nothing.
            Vendor::Gemini | Vendor::Bedrock => continue,
        };
        let reset = match vendor {
            Vendor::Anthropic => rfc3339(SystemTime::now() + left.reset),
            _ => format!("{:.3}s", left.reset.as_secs_f64()),
        };
        let said = [left.limit.to_string(), left.remaining.to_string(), reset];
        for (name, value) in values.iter().zip(said) {
            let name = HeaderName::try_from(format!("{before}-{name}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }
}

/// A time as `2026-11-27T07:30:00Z` (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written() {
        let check = |seconds, expected: &str| {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_827_696, "2000-02-29T12:34:56Z");
        check(1_795_712_400, "2026-11-26T17:00:00Z");
    }
}
