//! One pass over a JSON object that finds its top-level members and checks its structure.
//!
//! It accepts what every strict JSON parser accepts, and refuses whatever lenient parsers
//! could read in another way: comments, unquoted or repeated keys, bytes after the end.
//! It does not check the text inside strings nor the spelling of nested numbers; the
//! upstream does, and reads the same members as we do.

use paceline_core::{Error, Member, Span};
use smallvec::SmallVec;

/// Deepest nesting of arrays and objects; `serde_json` has the same bound.
const DEPTH_MAX: usize = 128;

/// Longest body, so that a span's 32 bits suffice; configured limits are far lower.
const LEN_MAX: usize = u32::MAX as usize;

/// The members of a top-level object, in the order of the text.
pub type Members = SmallVec<[Member; 16]>;

/// Finds the members of the JSON object that `body` holds.
///
/// # Errors
/// `InvalidRequest` with the byte at fault.
pub fn members(body: &[u8]) -> Result<Members, Error> {
    if body.len() > LEN_MAX {
        return Err(Error::invalid("the body exceeds 4 GiB"));
    }
    let mut at = skip_space(body, 0);
    if body.get(at) != Some(&b'{') {
        return Err(fault(body, at, "expected a JSON object"));
    }
    let mut members = Members::new();
    at = skip_space(body, at + 1);
    if body.get(at) == Some(&b'}') {
        return end(body, at + 1, members);
    }
    loop {
        if body.get(at) != Some(&b'"') {
            return Err(fault(body, at, "expected a field name in double quotes"));
        }
        let key = Span { start: span_at(at + 1), end: span_at(skip_string(body, at)? - 1) };
        if memchr::memchr(b'\\', &body[key.range()]).is_some() {
            return Err(fault(body, at, "a field name with an escape sequence; write it plainly"));
        }
        at = skip_space(body, key.range().end + 1);
        if body.get(at) != Some(&b':') {
            return Err(fault(body, at, "expected `:` after the field name"));
        }
        at = skip_space(body, at + 1);
        let value_end = skip_value(body, at)?;
        members.push(Member { key, value: Span { start: span_at(at), end: span_at(value_end) } });
        at = skip_space(body, value_end);
        match body.get(at) {
            Some(b',') => at = skip_space(body, at + 1),
            Some(b'}') => return end(body, at + 1, members),
            _ => return Err(fault(body, at, "expected `,` or `}` after the value")),
        }
    }
}

/// The text of a JSON string value, quotes included; `None` when it is no valid string.
pub fn string(value: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let plain = memchr::memchr(b'\\', inner).is_none() && !inner.iter().any(|b| *b < 0x20);
    if plain {
        return std::str::from_utf8(inner).ok().map(Into::into);
    }
    serde_json::from_slice::<String>(value).ok().map(Into::into)
}

fn end(body: &[u8], at: usize, members: Members) -> Result<Members, Error> {
    match skip_space(body, at) {
        rest if rest == body.len() => Ok(members),
        rest => Err(fault(body, rest, "unexpected bytes after the JSON object")),
    }
}

fn span_at(at: usize) -> u32 {
    debug_assert!(at <= LEN_MAX, "`members` refuses longer bodies");
    at as u32
}

#[cold]
fn fault(body: &[u8], at: usize, what: &str) -> Error {
    let found = match body.get(at) {
        None => "the body ends there".to_owned(),
        Some(byte) => format!("found `{}`", byte.escape_ascii()),
    };
    Error::invalid(format!("the body is not valid JSON: {what} at byte {at}, {found}"))
}

fn skip_space(body: &[u8], mut at: usize) -> usize {
    while matches!(body.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The end of the string that starts with the quote at `at`.
#[inline]
fn skip_string(body: &[u8], at: usize) -> Result<usize, Error> {
    let mut next = at + 1;
    // Most names and short values end within a few bytes, where a call costs more than it saves.
    let near = body.len().min(next + 12);
    while next < near {
        match body[next] {
            b'"' => return Ok(next + 1),
            b'\\' => next += 2,
            _ => next += 1,
        }
    }
    // Agents send code, where an escape comes every 20 to 40 bytes but mostly not of a quote:
    // a stop at quotes alone takes a third of the instructions.
    let long = next;
    while let Some(step) = body.get(next..).and_then(|rest| memchr::memchr(b'"', rest)) {
        next += step;
        let escapes = body[long..next].iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 0 {
            return Ok(next + 1);
        }
        next += 1;
    }
    Err(fault(body, body.len(), "a string has no end"))
}

/// The end of the value that starts at `at`.
fn skip_value(body: &[u8], at: usize) -> Result<usize, Error> {
    match body.get(at) {
        Some(b'"') => skip_string(body, at),
        Some(b'{' | b'[') => skip_nested(body, at),
        Some(_) => skip_scalar(body, at),
        None => Err(fault(body, at, "expected a value")),
    }
}

fn skip_scalar(body: &[u8], at: usize) -> Result<usize, Error> {
    let stop = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
    let len = body[at..].iter().position(stop).unwrap_or(body.len() - at);
    let text = &body[at..at + len];
    let known = matches!(text, b"true" | b"false" | b"null");
    // What `serde_json` takes for a number, so that no reader sees another value.
    if known || serde_json::from_slice::<serde_json::Number>(text).is_ok() {
        return Ok(at + len);
    }
    Err(fault(body, at, "expected a value"))
}

/// What a byte outside a string means within an array or an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Quote,
    Open,
    Close,
    Bad,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Bad; 256];
    let plain = b" \n\r\t,:+-.0123456789eEtrufalsn";
    let mut i = 0;
    while i < plain.len() {
        classes[plain[i] as usize] = Class::Plain;
        i += 1;
    }
    classes[b'"' as usize] = Class::Quote;
    classes[b'{' as usize] = Class::Open;
    classes[b'[' as usize] = Class::Open;
    classes[b'}' as usize] = Class::Close;
    classes[b']' as usize] = Class::Close;
    classes
};

fn skip_nested(body: &[u8], at: usize) -> Result<usize, Error> {
    // One bit a level: whether it is an object.
    let mut objects: u128 = 0;
    let mut depth = 0;
    let mut next = at;
    while let Some(&byte) = body.get(next) {
        match CLASSES[usize::from(byte)] {
            Class::Plain => next += 1,
            Class::Quote => next = skip_string(body, next)?,
            Class::Open => {
                if depth == DEPTH_MAX {
                    return Err(fault(body, next, "nesting deeper than 128 levels"));
                }
                objects = objects << 1 | u128::from(byte == b'{');
                depth += 1;
                next += 1;
            }
            Class::Close => {
                if (objects & 1 == 1) != (byte == b'}') {
                    return Err(fault(body, next, "a bracket closes another kind"));
                }
                objects >>= 1;
                depth -= 1;
                next += 1;
                if depth == 0 {
                    return Ok(next);
                }
            }
            Class::Bad => return Err(fault(body, next, "expected a value")),
        }
    }
    Err(fault(body, next, "an array or object has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &[(&str, &str)]) {
        let members = members(body.as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"));
        let found: Vec<_> =
            members.iter().map(|m| (&body[m.key.range()], &body[m.value.range()])).collect();
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn finds_members() {
        check("{}", &[]);
        check(" { } \n", &[]);
        check(r#"{"a":1}"#, &[("a", "1")]);
        check(
            r#"{ "model" : "m\"x" ,"n":[1,{"a":"]}"}], "t": -0.5e3 , "z":null}"#,
            &[("model", r#""m\"x""#), ("n", r#"[1,{"a":"]}"}]"#), ("t", "-0.5e3"), ("z", "null")],
        );
        for len in 0..100 {
            // Escaped backslashes and an escaped quote at every distance.
            let text = format!("\"{}\\\\{}\\\"\"", "x".repeat(len), "y".repeat(len % 7));
            check(&format!("{{\"a\":{text}}}"), &[("a", &text)]);
        }
        check(
            r#"{"a":"a long enough text \\","b":true}"#,
            &[("a", r#""a long enough text \\""#), ("b", "true")],
        );
    }

    #[test]
    fn refuses_what_another_parser_might_read_otherwise() {
        for body in [
            "",
            "[]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{a:1}",
            "{'a':1}",
            "{\"a\":1/*,\"b\":2*/}",
            "{\"a\":[1}",
            "{\"a\":{]}",
            "{\"a\":\"x}",
            "{\"a\":01}",
            "{\"a\":tru}",
            "{\"a\":NaN}",
            "{\"a\":\"x\\\"}",
            "{\"\\u0061\":1}",
            "{\"a\":[/*x*/]}",
            "{\"a\":1 \"b\":2}",
            "\u{feff}{}",
            "{\"a\":\"\\",
            "{\"a\":+1}",
            "{\"a\":.5}",
        ] {
            assert!(members(body.as_bytes()).is_err(), "{body}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(129), "]".repeat(129));
        assert!(members(deep.as_bytes()).unwrap_err().message().contains("128 levels"));
    }

    #[test]
    fn says_where() {
        let error = members(br#"{"model":"m",}"#).unwrap_err();
        assert_eq!(
            error.message(),
            "the body is not valid JSON: expected a field name in double quotes at byte 13, found `}`"
        );
    }

    proptest::proptest! {
        /// The scanner and a full parser agree on every valid object, and the scanner
        /// takes nothing for an object that is none at its top level.
        #[test]
        fn agrees_with_a_full_parser(text in r#"\{("[a-c]":("[a-z\\"]{0,20}"|[0-9.e-]{1,4}|\[[0-9,"a]*\]|\{"x":"[^"\\]*"\}|true|nul{1,2}),? ?){0,4}\}"#) {
            let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            if let Ok(map) = parsed {
                let found = members(text.as_bytes()).unwrap();
                for (key, value) in &map {
                    // Of repeated keys a full parser keeps the last.
                    let last = found.iter().rfind(|m| text[m.key.range()] == **key).unwrap();
                    let read: serde_json::Value = serde_json::from_str(&text[last.value.range()]).unwrap();
                    proptest::prop_assert_eq!(&read, value);
                }
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = members(&bytes);
        }
    }
}
