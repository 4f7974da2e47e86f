//! AWS Signature Version 4: a signature over each request, which Bedrock wants in place of a
//! key. (AWS General Reference, "Create a signed AWS API request".)

use std::fmt;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use ::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use ring::{digest, hmac};

/// An AWS access key.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKey {
    /// Its name, which is no secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// The token of a temporary key.
    pub session_token: Option<String>,
    /// Such as `us-east-1`.
    pub region: String,
}

impl fmt::Debug for AwsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKey").field("region", &self.region).finish_non_exhaustive()
    }
}

/// What of a request is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// As it goes out, without a query: each segment is escaped once.
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

impl AwsKey {
    /// The headers that sign a request to a service at a time.
    pub(crate) fn sign(
        &self,
        service: &str,
        request: &Signed<'_>,
        now: SystemTime,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let time = stamp(now);
        let date = &time[..8];
        let scope = format!("{date}/{}/{service}/aws4_request", self.region);
        let mut headers = vec![("host", request.host), ("x-amz-date", &time)];
        headers.extend(request.content_type.map(|kind| ("content-type", kind)));
        headers.extend(self.session_token.as_deref().map(|t| ("x-amz-security-token", t)));
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut canonical = format!("{}\n{}\n\n", request.method, escaped(request.path));
        for (name, value) in headers {
            let _ = writeln!(canonical, "{name}:{}", value.trim());
        }
        let _ = write!(canonical, "\n{names}\n{}", sha256(request.body));
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = hex(self.signing_key(date, service, text.as_bytes()).as_ref());
        let credential = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key_id
        );
        let secret = |text: &str| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let token = self.session_token.as_deref();
        [(AUTHORIZATION, Some(&*credential)), (DATE, Some(&*time)), (TOKEN, token)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, secret(value?)?)))
            .collect()
    }

    fn signing_key(&self, date: &str, service: &str, text: &[u8]) -> hmac::Tag {
        let start = format!("AWS4{}", self.secret_access_key);
        let steps =
            [date.as_bytes(), self.region.as_bytes(), service.as_bytes(), b"aws4_request", text];
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, start.as_bytes());
        let mut tag = hmac::sign(&key, steps[0]);
        for step in &steps[1..] {
            key = hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref());
            tag = hmac::sign(&key, step);
        }
        tag
    }
}

/// A path with each byte escaped that is not unreserved; a path that was escaped before is
/// escaped again, as every service but S3 wants it.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A time as `20150830T123600Z`.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day of a number of days since 1970 (Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`, for days that are not negative).
const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + (month <= 2) as u64, month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AwsKey {
        AwsKey {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            region: "us-east-1".to_owned(),
        }
    }

    /// 2015-08-30 12:36:00 UTC.
    fn time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160)
    }

    #[test]
    fn signs_as_the_published_examples() {
        let check = |method, path, expected: &str| {
            let host = "example.amazonaws.com";
            let request = Signed { method, path, host, content_type: None, body: b"" };
            let headers = key().sign("service", &request, time());
            let value = headers[0].1.to_str().unwrap().to_owned();
            assert!(value.ends_with(&format!("Signature={expected}")), "{value}");
            assert!(
                value.contains("Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request")
            );
            assert_eq!(headers[1].1, "20150830T123600Z");
        };
        // `get-vanilla` and `post-vanilla` of AWS's test suite for Signature Version 4.
        check("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        check("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    }

    #[test]
    fn paths_are_escaped_twice_and_dates_are_right() {
        assert_eq!(escaped("/model/a%3A0/converse"), "/model/a%253A0/converse");
        assert_eq!(stamp(SystemTime::UNIX_EPOCH), "19700101T000000Z");
        assert_eq!(stamp(time()), "20150830T123600Z");
        let leap = SystemTime::UNIX_EPOCH + Duration::from_secs(951_868_799);
        assert_eq!(stamp(leap), "20000229T235959Z");
    }

    #[test]
    fn the_secret_is_never_shown() {
        let shown = format!("{:?}", key());
        assert!(!shown.contains("wJalr") && !shown.contains("AKID"), "{shown}");
    }
}
