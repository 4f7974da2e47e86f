//! Rate-limit headers and retry hints of the providers, as numbers.
//!
//! Sources: the providers' references as collected in 2026-11 (OpenAI, Azure, Anthropic,
//! Groq, Mistral, Gemini), and their SDKs for `retry-after-ms`.

use std::time::Duration;

use http::HeaderMap;

use super::amount::Dimension;

/// Longest time that is taken from a header, in seconds: a week.
const TIME_MAX_S: f64 = 7.0 * DAY_S;
const DAY_S: f64 = 86_400.0;

/// The part of an error body that is searched, in bytes.
const BODY_MAX: usize = 16 * 1024;

/// One limit as a provider's headers show it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Units in each period.
    pub limit: Option<f64>,
    /// Units that are left.
    pub remaining: Option<f64>,
    /// Seconds until all are back.
    pub reset_s: Option<f64>,
    /// Length of the period in seconds, where it is not a minute.
    pub period_s: Option<f64>,
}

/// All limits that an answer shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headers {
    /// Requests.
    pub requests: Option<Bucket>,
    /// Tokens of both kinds.
    pub tokens: Option<Bucket>,
    /// Tokens of prompts.
    pub input_tokens: Option<Bucket>,
    /// Tokens of answers.
    pub output_tokens: Option<Bucket>,
}

/// What the same header means at different providers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// `x-ratelimit-*-requests` counts a minute, as at OpenAI and Azure.
    #[default]
    Minute,
    /// It counts a day, as at Groq.
    RequestsPerDay,
}

impl Headers {
    /// Reads the limits of an answer that came at `unix_s`, in seconds since 1970.
    /// `None` when it shows none.
    pub fn read(headers: &HeaderMap, family: Family, unix_s: f64) -> Option<Self> {
        let named = |names: &Names| names.read(headers, unix_s);
        let mut requests = named(&OPENAI_REQUESTS);
        if let (Some(bucket), Family::RequestsPerDay) = (&mut requests, family) {
            bucket.period_s = Some(DAY_S);
        }
        let found = Self {
            requests: requests
                .or_else(|| named(&ANTHROPIC_REQUESTS))
                .or_else(|| named(&MISTRAL_REQUESTS)),
            tokens: named(&OPENAI_TOKENS)
                .or_else(|| named(&ANTHROPIC_TOKENS))
                .or_else(|| named(&MISTRAL_TOKENS)),
            input_tokens: named(&ANTHROPIC_INPUT),
            output_tokens: named(&ANTHROPIC_OUTPUT),
        };
        (found != Self::default()).then_some(found)
    }
}

/// Names of the three headers of one limit.
struct Names {
    limit: &'static str,
    remaining: &'static str,
    reset: &'static str,
}

const OPENAI_REQUESTS: Names = Names {
    limit: "x-ratelimit-limit-requests",
    remaining: "x-ratelimit-remaining-requests",
    reset: "x-ratelimit-reset-requests",
};
const OPENAI_TOKENS: Names = Names {
    limit: "x-ratelimit-limit-tokens",
    remaining: "x-ratelimit-remaining-tokens",
    reset: "x-ratelimit-reset-tokens",
};
const ANTHROPIC_REQUESTS: Names = Names {
    limit: "anthropic-ratelimit-requests-limit",
    remaining: "anthropic-ratelimit-requests-remaining",
    reset: "anthropic-ratelimit-requests-reset",
};
const ANTHROPIC_TOKENS: Names = Names {
    limit: "anthropic-ratelimit-tokens-limit",
    remaining: "anthropic-ratelimit-tokens-remaining",
    reset: "anthropic-ratelimit-tokens-reset",
};
const ANTHROPIC_INPUT: Names = Names {
    limit: "anthropic-ratelimit-input-tokens-limit",
    remaining: "anthropic-ratelimit-input-tokens-remaining",
    reset: "anthropic-ratelimit-input-tokens-reset",
};
const ANTHROPIC_OUTPUT: Names = Names {
    limit: "anthropic-ratelimit-output-tokens-limit",
    remaining: "anthropic-ratelimit-output-tokens-remaining",
    reset: "anthropic-ratelimit-output-tokens-reset",
};
const MISTRAL_REQUESTS: Names = Names {
    limit: "x-ratelimit-limit-req-minute",
    remaining: "x-ratelimit-remaining-req-minute",
    reset: "x-ratelimit-reset-req-minute",
};
const MISTRAL_TOKENS: Names = Names {
    limit: "x-ratelimit-limit-tokens-minute",
    remaining: "x-ratelimit-remaining-tokens-minute",
    reset: "x-ratelimit-reset-tokens-minute",
};

impl Names {
    fn read(&self, headers: &HeaderMap, unix_s: f64) -> Option<Bucket> {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let number = |name: &str| {
            text(name)?.parse::<f64>().ok().filter(|value| value.is_finite() && *value < 1e15)
        };
        // Azure sends -1 and 0 where it has nothing to say (openai-dotnet #838), so nothing
        // can be left of a limit that is not named.
        let limit = number(self.limit).filter(|limit| *limit > 0.0);
        let remaining = number(self.remaining).filter(|remaining| *remaining >= 0.0);
        let remaining = remaining.filter(|remaining| limit.is_some() || *remaining > 0.0);
        let reset_s = text(self.reset)
            .and_then(|reset| duration_s(reset).or_else(|| Some(rfc3339(reset)? - unix_s)))
            .filter(|reset| *reset > 0.0)
            .map(|reset| reset.min(TIME_MAX_S));
        let bucket = Bucket { limit, remaining, reset_s, period_s: None };
        (limit.is_some() || remaining.is_some()).then_some(bucket)
    }
}

/// How long a refusal asks the caller to wait: `retry-after-ms`, or `Retry-After` as
/// seconds or as a date. Nothing for a time that has passed.
pub fn retry_after(headers: &HeaderMap, unix_s: f64) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let ms = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok());
    let seconds = ms.map(|ms| ms / 1000.0).or_else(|| {
        let text = text("retry-after")?;
        duration_s(text).or_else(|| Some(http_date(text)? - unix_s))
    })?;
    duration(seconds)
}

/// The delay of Gemini's `RetryInfo` in the body of an error: `"retryDelay": "36.5s"`.
pub fn retry_info(body: &[u8]) -> Option<Duration> {
    duration(duration_s(string_of(body, "\"retryDelay\"")?)?)
}

/// Which limit a refusal of OpenAI's dialect names in the `type` of its error.
pub fn refused_dimension(body: &[u8]) -> Option<Dimension> {
    match string_of(body, "\"type\"")? {
        "requests" => Some(Dimension::Requests),
        "tokens" => Some(Dimension::TokensAdmitted),
        _ => None,
    }
}

/// The string that follows the first such key. Keys that appear inside strings are
/// escaped there, so that they do not match.
fn string_of<'a>(body: &'a [u8], key: &str) -> Option<&'a str> {
    let body = &body[..body.len().min(BODY_MAX)];
    let at = body.windows(key.len()).position(|window| window == key.as_bytes())?;
    let rest = std::str::from_utf8(&body[at + key.len()..]).ok()?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    rest.split('"').next()
}

fn duration(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(TIME_MAX_S)))
}

/// A time such as `12ms`, `6m0s`, `1h2m`, `2m59.56s`, or plain seconds.
fn duration_s(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = rest[..digits].parse::<f64>().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit_len] {
                "d" => DAY_S,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

/// Seconds since 1970 of `2026-11-26T17:00:00Z`, also with a fraction or an offset.
fn rfc3339(text: &str) -> Option<f64> {
    let (date, time) = text.split_at_checked(10)?;
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let days = days(parts.next()??, parts.next()??, parts.next()??)?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let offset = match zone.strip_prefix(['Z', 'z']) {
        Some("") => 0.0,
        Some(_) => return None,
        None => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = hours.parse::<f64>().ok()? * 3600.0 + minutes.parse::<f64>().ok()? * 60.0;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    Some(days as f64 * DAY_S + clock_s(clock)? - offset)
}

/// Seconds since 1970 of a date of HTTP (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<f64> {
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Seconds of a day of `08:49:37`, also with a fraction.
fn clock_s(text: &str) -> Option<f64> {
    let mut parts = text.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let fits = (0.0..24.0).contains(&hours)
        && (0.0..60.0).contains(&minutes)
        && (0.0..61.0).contains(&seconds)
        && parts.next().is_none();
    fits.then_some(hours * 3600.0 + minutes * 60.0 + seconds)
}

/// Days from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms",
/// `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn bucket(limit: f64, remaining: f64, reset_s: f64) -> Option<Bucket> {
        Some(Bucket {
            limit: Some(limit),
            remaining: Some(remaining),
            reset_s: (reset_s > 0.0).then_some(reset_s),
            period_s: None,
        })
    }

    /// 2026-11-26T17:00:00Z.
    const NOW: f64 = 1_795_712_400.0;

    #[test]
    fn each_provider_is_read() {
        let check = |family, pairs: &[(&str, &str)], expected: Option<Headers>| {
            assert_eq!(Headers::read(&map(pairs), family, NOW), expected, "{pairs:?}");
        };
        let none = Headers::default();
        check(
            Family::Minute,
            &[
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-limit-tokens", "150000"),
                ("x-ratelimit-remaining-tokens", "149984"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            Some(Headers {
                requests: bucket(60.0, 59.0, 1.0),
                tokens: bucket(150_000.0, 149_984.0, 360.0),
                ..none
            }),
        );
        // Azure: plain seconds, and -1 or 0 for nothing.
        check(
            Family::Minute,
            &[
                ("x-ratelimit-limit-requests", "-1"),
                ("x-ratelimit-remaining-requests", "-1"),
                ("x-ratelimit-reset-requests", "0"),
                ("x-ratelimit-limit-tokens", "1000"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "30"),
            ],
            Some(Headers { tokens: bucket(1000.0, 0.0, 30.0), ..none }),
        );
        check(
            Family::Minute,
            &[("x-ratelimit-limit-tokens", "0"), ("x-ratelimit-remaining-tokens", "0")],
            None,
        );
        check(
            Family::Minute,
            &[
                ("anthropic-ratelimit-requests-limit", "50"),
                ("anthropic-ratelimit-requests-remaining", "49"),
                ("anthropic-ratelimit-requests-reset", "2026-11-26T17:00:30Z"),
                ("anthropic-ratelimit-input-tokens-limit", "40000"),
                ("anthropic-ratelimit-input-tokens-remaining", "39000"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-11-26T18:01:00+01:00"),
                ("anthropic-ratelimit-output-tokens-limit", "8000"),
                ("anthropic-ratelimit-output-tokens-remaining", "8000"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-11-26T16:59:59Z"),
            ],
            Some(Headers {
                requests: bucket(50.0, 49.0, 30.0),
                input_tokens: bucket(40_000.0, 39_000.0, 60.0),
                output_tokens: bucket(8000.0, 8000.0, 0.0),
                ..none
            }),
        );
        let day = |bucket: Option<Bucket>| {
            bucket.map(|bucket| Bucket { period_s: Some(DAY_S), ..bucket })
        };
        check(
            Family::RequestsPerDay,
            &[
                ("x-ratelimit-limit-requests", "14400"),
                ("x-ratelimit-remaining-requests", "14370"),
                ("x-ratelimit-reset-requests", "2m59.56s"),
                ("x-ratelimit-limit-tokens", "18000"),
                ("x-ratelimit-remaining-tokens", "17997"),
                ("x-ratelimit-reset-tokens", "7.66s"),
            ],
            Some(Headers {
                requests: day(bucket(14_400.0, 14_370.0, 179.56)),
                tokens: bucket(18_000.0, 17_997.0, 7.66),
                ..none
            }),
        );
        check(
            Family::Minute,
            &[
                ("x-ratelimit-limit-tokens-minute", "500000"),
                ("x-ratelimit-remaining-tokens-minute", "499000"),
                ("x-ratelimit-limit-req-minute", "300"),
                ("x-ratelimit-remaining-req-minute", "299"),
            ],
            Some(Headers {
                requests: bucket(300.0, 299.0, 0.0),
                tokens: bucket(500_000.0, 499_000.0, 0.0),
                ..none
            }),
        );
        check(Family::Minute, &[("x-ratelimit-limit-requests", "many")], None);
        check(Family::Minute, &[("content-type", "application/json")], None);
    }

    #[test]
    fn durations_are_read() {
        let check = |text: &str, expected: Option<f64>| {
            let found = duration_s(text);
            let close = match (found, expected) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-9,
                (a, b) => a == b,
            };
            assert!(close, "{text}: {found:?}");
        };
        check("12ms", Some(0.012));
        check("6m0s", Some(360.0));
        check("1h2m", Some(3720.0));
        check("2m59.56s", Some(179.56));
        check("1d", Some(86_400.0));
        check("36.5s", Some(36.5));
        check("30", Some(30.0));
        check("-1", Some(-1.0));
        for text in ["", "s", "1x", "1m2", "NaN", "inf", "1.2.3s", "soon"] {
            check(text, None);
        }
    }

    #[test]
    fn hints_are_read() {
        let check = |pairs: &[(&str, &str)], expected: Option<f64>| {
            let found = retry_after(&map(pairs), NOW).map(|hint| hint.as_secs_f64());
            assert_eq!(found, expected, "{pairs:?}");
        };
        check(&[("retry-after", "20")], Some(20.0));
        check(&[("retry-after", "1.5")], Some(1.5));
        check(&[("retry-after", "0")], None);
        check(&[("retry-after", "-3")], None);
        check(&[("retry-after-ms", "250"), ("retry-after", "1")], Some(0.25));
        check(&[("retry-after", "Thu, 26 Nov 2026 17:00:40 GMT")], Some(40.0));
        check(&[("retry-after", "Thu, 26 Nov 2026 16:00:00 GMT")], None);
        check(&[("retry-after", "Thu, 26 Foo 2026 16:00:00 GMT")], None);
        check(&[("retry-after", "99999999999")], Some(TIME_MAX_S));
        check(&[], None);
    }

    #[test]
    fn bodies_are_searched() {
        let delay = |body: &str| retry_info(body.as_bytes()).map(|hint| hint.as_secs_f64());
        let gemini = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
            {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay": "36.5s"}]}}"#;
        assert_eq!(delay(gemini), Some(36.5));
        assert_eq!(delay(r#"{"retryDelay":36}"#), None);
        assert_eq!(delay("{}"), None);
        let dimension = |body: &str| refused_dimension(body.as_bytes());
        assert_eq!(dimension(r#"{"error":{"type":"tokens"}}"#), Some(Dimension::TokensAdmitted));
        assert_eq!(dimension(r#"{"error":{"type": "requests"}}"#), Some(Dimension::Requests));
        assert_eq!(dimension(r#"{"error":{"type":"rate_limit_error"}}"#), None);
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777.0));
        assert_eq!(rfc3339("1994-11-06T08:49:37Z"), Some(784_111_777.0));
        assert_eq!(rfc3339("1994-11-06T08:49:37.5-00:30"), Some(784_113_577.5));
        assert_eq!(rfc3339("2024-02-29T00:00:00Z"), Some(1_709_164_800.0));
        for text in ["", "1994-11-06", "1994-13-06T00:00:00Z", "1994-11-06T25:00:00Z", "äöüäöüäöü"]
        {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        /// Whatever a provider sends, numbers stay finite and nothing panics.
        #[test]
        fn any_text_is_survived(text in "[ -~µ]{0,40}", body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_str(&text) {
                let mut headers = HeaderMap::new();
                headers.insert("retry-after", value.clone());
                headers.insert("x-ratelimit-limit-requests", value.clone());
                headers.insert("x-ratelimit-reset-requests", value);
                let _ = retry_after(&headers, NOW);
                if let Some(found) = Headers::read(&headers, Family::Minute, NOW) {
                    let reset = found.requests.and_then(|bucket| bucket.reset_s);
                    prop_assert!(reset.is_none_or(|reset| reset > 0.0 && reset <= TIME_MAX_S));
                }
            }
            let _ = (retry_info(&body), refused_dimension(&body), rfc3339(&text), http_date(&text));
        }
    }
}
