//! The OpenAI chat format: the fields of a request, the usage of a reply, the error shape.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;
use paceline_core::{Error, Fields, Usage};
use serde_json::json;

use crate::scan;
use crate::sse::Facts;

/// Members that do not change the answer, only its form or its bookkeeping: they are no
/// part of a cache key.
const FORM_ONLY: [&[u8]; 3] = [b"metadata", b"stream", b"stream_options"];

/// Reads the fields of a chat completion request that the stages need.
///
/// # Errors
/// `InvalidRequest`, with the field at fault where it is one.
pub fn fields(body: &Bytes) -> Result<Fields, Error> {
    let mut members = scan::members(body)?;
    members.sort_unstable_by(|a, b| body[a.key.range()].cmp(&body[b.key.range()]));
    if let Some(pair) =
        members.windows(2).find(|pair| body[pair[0].key.range()] == body[pair[1].key.range()])
    {
        let name = String::from_utf8_lossy(&body[pair[0].key.range()]).into_owned();
        let message = format!("the field `{name}` appears twice; send it once");
        return Err(Error::invalid(message).with_param(name));
    }
    let mut fields = Fields::default();
    let (mut zero_temperature, mut stored) = (false, false);
    for member in &members {
        let value = &body[member.value.range()];
        match &body[member.key.range()] {
            b"model" => {
                fields.model = model(body, value)?;
                fields.model_span = member.value;
            }
            b"stream" => fields.stream = flag(value, "stream")?,
            b"stream_options" => fields.include_usage = includes_usage(value),
            b"temperature" => zero_temperature = is_zero(value),
            b"metadata" => fields.metadata = Some(member.value),
            b"store" => stored = value == b"true",
            _ => {}
        }
    }
    if fields.model.is_empty() {
        return Err(Error::invalid("the field `model` is missing or empty").with_param("model"));
    }
    // A call that the upstream is to store has an effect beyond its answer.
    fields.repeatable = zero_temperature && !stored;
    let changes_answer = |member: &&_| {
        let member: &paceline_core::Member = member;
        !FORM_ONLY.contains(&&body[member.key.range()])
    };
    fields.members = members.iter().filter(changes_answer).copied().collect();
    Ok(fields)
}

/// The value of a text member of a request's `metadata` object.
pub fn metadata_text<'a>(metadata: &'a [u8], name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let members = scan::members(metadata).ok()?;
    let member = members.iter().rfind(|m| &metadata[m.key.range()] == name.as_bytes())?;
    scan::string(&metadata[member.value.range()])
}

/// Notes what whole events say: how many they are, `[DONE]`, an error, and, from the last
/// few, a finish reason and usage. (Each choice's finish reason comes with its last event,
/// so that of the last choice is among the stream's last events.)
pub fn read_events(events: &[u8], facts: &mut Facts) {
    let mut last: [&[u8]; 3] = [&[]; 3];
    let mut start = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', events) {
        let line = &events[start..end];
        start = end + 1;
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if value == b"[DONE]" {
            facts.done = true;
            continue;
        }
        facts.events += 1;
        facts.failed |= value.starts_with(b"{\"error\"");
        last = [last[1], last[2], value];
    }
    for value in last {
        facts.finished |= has_finished(value);
        if let Some(usage) = usage(value) {
            facts.usage = Some(usage);
        }
    }
}

/// Whether a whole reply, or an event, gives a finish reason that is not null.
pub fn has_finished(json: &[u8]) -> bool {
    static NAME: LazyLock<memmem::Finder<'static>> =
        LazyLock::new(|| memmem::Finder::new(b"\"finish_reason\""));
    NAME.find_iter(json)
        .any(|at| member_value(&json[at + 15..]).is_some_and(|v| v.starts_with(b"\"")))
}

/// The usage that a whole reply, or a piece of a stream, reports; the last one if several.
///
/// It looks for the member's name outside of texts: within a JSON text its quotes would be
/// escaped, so `"usage"` cannot match there.
pub fn usage(body: &[u8]) -> Option<Usage> {
    static NAME: LazyLock<memmem::Finder<'static>> =
        LazyLock::new(|| memmem::Finder::new(b"\"usage\""));
    // It mostly stands at the end, and a search forward is several times faster than one
    // from the end.
    let mut end = body.len();
    while end > 0 {
        let start = end.saturating_sub(USAGE_WINDOW);
        // A name across the border is found in the window before.
        let window = &body[start..body.len().min(end + 6)];
        let found = NAME.find_iter(window).filter_map(|at| usage_value(&body[start + at + 7..]));
        if let Some(object) = found.last() {
            return read_usage(object);
        }
        end = start;
    }
    None
}

/// Bytes that are searched together for the usage.
const USAGE_WINDOW: usize = 512;

/// The object that follows the name.
fn usage_value(after_name: &[u8]) -> Option<&[u8]> {
    let value = member_value(after_name).filter(|value| value.starts_with(b"{"))?;
    Some(&value[..object_len(value)])
}

fn read_usage(object: &[u8]) -> Option<Usage> {
    // A look at each quote is cheaper than a search for each name; the first of a name counts.
    let (mut input, mut cached, mut output) = (None, None, None);
    for at in memchr::memchr_iter(b'"', object) {
        let rest = &object[at..];
        let (name, number) = match rest.get(1) {
            Some(b'p') => (b"\"prompt_tokens\"".as_slice(), &mut input),
            Some(b'c') if rest.get(2) == Some(&b'a') => {
                (b"\"cached_tokens\"".as_slice(), &mut cached)
            }
            Some(b'c') => (b"\"completion_tokens\"".as_slice(), &mut output),
            _ => continue,
        };
        if number.is_none() && rest.starts_with(name) {
            *number = number_after(&rest[name.len()..]);
        }
    }
    Some(Usage { input: input?, cached: cached.unwrap_or(0), output: output.unwrap_or(0) })
}

/// An error in the OpenAI shape. `kind` is its `type`, `code` is stable.
pub fn error_body(message: &str, kind: &str, param: Option<&str>, code: &str) -> String {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}}).to_string()
}

fn model(body: &Bytes, value: &[u8]) -> Result<Bytes, Error> {
    match scan::string(value) {
        Some(std::borrow::Cow::Borrowed(text)) => Ok(body.slice_ref(text.as_bytes())),
        Some(std::borrow::Cow::Owned(text)) => Ok(Bytes::from(text)),
        None => Err(Error::invalid("the field `model` must be a text").with_param("model")),
    }
}

fn flag(value: &[u8], name: &'static str) -> Result<bool, Error> {
    match value {
        b"true" => Ok(true),
        b"false" | b"null" => Ok(false),
        _ => {
            Err(Error::invalid(format!("the field `{name}` must be true or false"))
                .with_param(name))
        }
    }
}

fn includes_usage(options: &[u8]) -> bool {
    scan::members(options).is_ok_and(|members| {
        members.iter().any(|m| {
            &options[m.key.range()] == b"include_usage" && &options[m.value.range()] == b"true"
        })
    })
}

fn is_zero(value: &[u8]) -> bool {
    std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok()) == Some(0.0)
}

/// What follows a member's name: the start of its value.
fn member_value(after_name: &[u8]) -> Option<&[u8]> {
    Some(after_name.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// The length of the object at the start of `bytes`; usage objects hold numbers only.
fn object_len(bytes: &[u8]) -> usize {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    bytes.len()
}

/// The whole number that follows a member's name.
fn number_after(name: &[u8]) -> Option<u64> {
    let value = member_value(name)?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    let (mut number, mut any) = (0u64, false);
    for digit in digits {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        any = true;
    }
    any.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_a_request() {
        let body = Bytes::from_static(
            br#"{"model":"gpt\u002d5","messages":[],"stream":true,"temperature":0.0,
                "stream_options": {"include_usage" : true},"metadata":{"paceline_run":"r1"}}"#,
        );
        let fields = fields(&body).unwrap();
        assert_eq!(fields.model, "gpt-5");
        assert!(fields.stream && fields.include_usage && fields.repeatable);
        let keys: Vec<_> = fields.members.iter().map(|m| &body[m.key.range()]).collect();
        assert_eq!(keys, [b"messages".as_slice(), b"model", b"temperature"]);
        let metadata = &body[fields.metadata.unwrap().range()];
        assert_eq!(metadata_text(metadata, "paceline_run").unwrap(), "r1");
        assert_eq!(metadata_text(metadata, "paceline_agent"), None);
    }

    #[test]
    fn says_which_field_is_at_fault() {
        let check = |body: &'static str, param: &str| {
            let error = fields(&Bytes::from_static(body.as_bytes())).unwrap_err();
            assert_eq!(error.param(), Some(param), "{body}: {error}");
        };
        check("{}", "model");
        check(r#"{"model":7}"#, "model");
        check(r#"{"model":""}"#, "model");
        check(r#"{"model":"m","stream":"yes"}"#, "stream");
        check(r#"{"model":"m","temperature":0,"temperature":1}"#, "temperature");
    }

    #[test]
    fn only_temperature_zero_may_be_repeated() {
        let check = |rest: &str, expected: bool| {
            let body = Bytes::from(format!(r#"{{"model":"m"{rest}}}"#));
            assert_eq!(fields(&body).unwrap().repeatable, expected, "{rest}");
        };
        check("", false);
        check(r#","temperature":0"#, true);
        check(r#","temperature":-0.0"#, true);
        check(r#","temperature":0e7"#, true);
        check(r#","temperature":0.01"#, false);
        check(r#","temperature":null"#, false);
        check(r#","temperature":"0""#, false);
        check(r#","temperature":0,"store":true"#, false);
    }

    #[test]
    fn usage_is_found_in_any_spelling() {
        let check = |body: &str, expected: Option<(u64, u64, u64)>| {
            let found = usage(body.as_bytes()).map(|u| (u.input, u.cached, u.output));
            assert_eq!(found, expected, "{body}");
        };
        check(r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#, Some((3, 0, 4)));
        check(
            r#"{"usage" : {"completion_tokens": 4, "prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}, "x": 1}"#,
            Some((3, 2, 4)),
        );
        check(r#"{"usage":null}"#, None);
        for len in 490..530 {
            // The name at, across and before the border of what is searched together.
            let rest = format!(r#"{{"prompt_tokens":5}},"x":"{}"}}"#, "y".repeat(len));
            check(&format!(r#"{{"a":1,"usage":{rest}"#), Some((5, 0, 0)));
        }
        check(r#"{"content":"\"usage\":{\"prompt_tokens\":3}"}"#, None);
        check(
            "data: {\"usage\":{\"prompt_tokens\":3}}\n\ndata: {\"usage\":null}\n\n",
            Some((3, 0, 0)),
        );
    }
}
