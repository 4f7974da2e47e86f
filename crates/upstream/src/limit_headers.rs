//! The rate limits that providers show in the headers of their answers, as numbers.

use std::time::SystemTime;

use ::http::HeaderMap;

use crate::limits::{Bucket, Headers};
use crate::provider::Provider;

/// Whether an answer shows any limits. One look at the names, since most show none.
pub fn shows_limits(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-")
    })
}

/// Reads the limits that an answer shows at a time of day.
pub fn read_limits(provider: &Provider, headers: &HeaderMap, now: SystemTime) -> Headers {
    let text = |name: String| headers.get(name)?.to_str().ok();
    let openai = |kind: &str| {
        let reset = text(format!("x-ratelimit-reset-{kind}")).and_then(duration_s);
        bucket(
            text(format!("x-ratelimit-limit-{kind}")),
            text(format!("x-ratelimit-remaining-{kind}")),
            reset,
        )
    };
    let anthropic = |kind: &str| {
        let reset = text(format!("anthropic-ratelimit-{kind}-reset"));
        let reset = reset.and_then(|reset| Some((rfc3339_s(reset)? - unix_s(now)).max(0.0)));
        bucket(
            text(format!("anthropic-ratelimit-{kind}-limit")),
            text(format!("anthropic-ratelimit-{kind}-remaining")),
            reset,
        )
    };
    let mistral = |kind: &str| {
        bucket(
            text(format!("x-ratelimit-limit-{kind}-minute")),
            text(format!("x-ratelimit-remaining-{kind}-minute")),
            None,
        )
    };
    let mut requests =
        anthropic("requests").or_else(|| openai("requests")).or_else(|| mistral("req"));
    if provider.name == "groq" {
        // Groq counts requests by the day.
        requests = requests.map(|bucket| Bucket { period_s: Some(86_400.0), ..bucket });
    }
    Headers {
        requests,
        tokens: anthropic("tokens").or_else(|| openai("tokens")).or_else(|| mistral("tokens")),
        input_tokens: anthropic("input-tokens"),
        output_tokens: anthropic("output-tokens"),
    }
}

fn bucket(limit: Option<&str>, remaining: Option<&str>, reset_s: Option<f64>) -> Option<Bucket> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    // Azure shows -1 and 0 where it has nothing to show.
    let limit = limit.and_then(number).filter(|limit| *limit > 0.0)?;
    let remaining = remaining.and_then(number).filter(|remaining| *remaining >= 0.0);
    Some(Bucket { limit: Some(limit), remaining, reset_s, period_s: None })
}

/// A duration as Go writes it (`12ms`, `6m0s`, `1h2m`, `2m59.56s`), or plain seconds.
fn duration_s(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return (seconds >= 0.0).then_some(seconds);
    }
    let (mut rest, mut sum) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        sum += number
            * match &unit[..end] {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &unit[end..];
    }
    Some(sum)
}

fn unix_s(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Seconds since 1970 of a time in UTC, as RFC 3339 writes it.
fn rfc3339_s(text: &str) -> Option<f64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute) = (number(11..13)?, number(14..16)?);
    let seconds = text.get(17..)?.trim_end_matches('Z').trim_end_matches("+00:00");
    let seconds: f64 = seconds.parse().ok()?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
    let y = year - i64::from(month <= 2);
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60) as f64 + seconds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_of_every_spelling() {
        let check = |text: &str, expected: Option<f64>| {
            let found = duration_s(text);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            assert!(
                matches!((found, expected), (None, None))
                    || found.zip(expected).is_some_and(|(a, b)| near(a, b)),
                "{text}: {found:?}"
            );
        };
        check("12ms", Some(0.012));
        check("6m0s", Some(360.0));
        check("1h2m", Some(3720.0));
        check("2m59.56s", Some(179.56));
        check("42", Some(42.0));
        check("0.5", Some(0.5));
        check("-1", None);
        check("soon", None);
        check("5", Some(5.0));
        check("5x", None);
        check("", Some(0.0));
    }

    #[test]
    fn every_provider_shows_them_in_its_own_way() {
        // 2026-11-24 12:00:00 UTC.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_521_600);
        let read = |provider: &str, pairs: &[(&str, &str)]| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(k, v)| (k.parse::<::http::HeaderName>().unwrap(), v.parse().unwrap()))
                .collect();
            assert_eq!(shows_limits(&headers), !pairs.is_empty());
            read_limits(Provider::find(provider).unwrap(), &headers, now)
        };
        let bucket = |limit, remaining, reset_s| Bucket {
            limit: Some(limit),
            remaining: Some(remaining),
            reset_s,
            period_s: None,
        };
        let openai = [
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", "4999"),
            ("x-ratelimit-reset-requests", "12ms"),
            ("x-ratelimit-limit-tokens", "800000"),
            ("x-ratelimit-remaining-tokens", "799912"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        let found = read("openai", &openai);
        assert_eq!(found.requests, Some(bucket(5000.0, 4999.0, Some(0.012))));
        assert_eq!(found.tokens, Some(bucket(800_000.0, 799_912.0, Some(360.0))));
        let day = read("groq", &openai).requests.unwrap();
        assert_eq!(day.period_s, Some(86_400.0));
        let found = read(
            "anthropic",
            &[
                ("anthropic-ratelimit-requests-limit", "4000"),
                ("anthropic-ratelimit-requests-remaining", "3999"),
                ("anthropic-ratelimit-requests-reset", "2026-11-24T12:00:01Z"),
                ("anthropic-ratelimit-input-tokens-limit", "400000"),
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-11-24T12:00:12Z"),
            ],
        );
        assert_eq!(found.requests, Some(bucket(4000.0, 3999.0, Some(1.0))));
        assert_eq!(found.input_tokens, Some(bucket(400_000.0, 0.0, Some(12.0))));
        let nothing =
            [("x-ratelimit-limit-requests", "0"), ("x-ratelimit-remaining-requests", "-1")];
        assert_eq!(read("azure", &nothing), Headers::default());
        let found = read("mistral", &[("x-ratelimit-limit-req-minute", "60")]);
        assert_eq!(found.requests.and_then(|bucket| bucket.limit), Some(60.0));
    }
}
