//! The usage that an answer reports, in any dialect.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use paceline_core::{Endpoint, Usage};

/// The usage that a whole answer, or a piece of a stream, reports; the last one if several.
///
/// It looks for the member's name outside of texts: within a JSON text its quotes would be
/// escaped, so the name in quotes cannot match there.
pub fn usage(endpoint: Endpoint, answer: &[u8]) -> Option<Usage> {
    static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
    static GEMINI: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usageMetadata\""));
    match endpoint {
        Endpoint::Generate => read(last_object(answer, &GEMINI)?),
        Endpoint::CountTokens | Endpoint::Other => None,
        _ => read(last_object(answer, &USAGE)?),
    }
}

/// Bytes that are searched together: usage mostly stands at the end, and a search forward
/// is several times faster than one from the end.
const WINDOW: usize = 512;

/// The last object that is the value of the name.
fn last_object<'a>(answer: &'a [u8], name: &Finder<'_>) -> Option<&'a [u8]> {
    let len = name.needle().len();
    let mut end = answer.len();
    while end > 0 {
        let start = end.saturating_sub(WINDOW);
        // A name across the border is found in the window before.
        let window = &answer[start..answer.len().min(end + len - 1)];
        let found = name.find_iter(window).filter_map(|at| object(&answer[start + at + len..]));
        if let Some(object) = found.last() {
            return Some(object);
        }
        end = start;
    }
    None
}

/// The object that follows a member's name.
fn object(after_name: &[u8]) -> Option<&[u8]> {
    let value = member_value(after_name).filter(|value| value.starts_with(b"{"))?;
    Some(&value[..object_len(value)])
}

/// The counts that dialects name, each with the place that it has here. Those of the caches
/// at Anthropic are no part of `input_tokens`; elsewhere they are.
const NAMES: [(&[u8], Count); 11] = [
    (b"\"prompt_tokens\"", Count::Input),
    (b"\"completion_tokens\"", Count::Output),
    (b"\"cached_tokens\"", Count::Cached),
    (b"\"input_tokens\"", Count::Input),
    (b"\"output_tokens\"", Count::Output),
    (b"\"cache_read_input_tokens\"", Count::CachedBeside),
    (b"\"cache_creation_input_tokens\"", Count::Written),
    (b"\"promptTokenCount\"", Count::Input),
    (b"\"candidatesTokenCount\"", Count::Output),
    (b"\"thoughtsTokenCount\"", Count::Thoughts),
    (b"\"cachedContentTokenCount\"", Count::Cached),
];

/// Beyond any answer's tokens, and low enough that sums of it do not overflow.
const COUNT_MAX: u64 = 1 << 40;

#[derive(Clone, Copy)]
enum Count {
    Input,
    Output,
    /// Within the input.
    Cached,
    /// Beside the input.
    CachedBeside,
    /// Written to a cache, beside the input.
    Written,
    /// Beside the output.
    Thoughts,
}

fn read(object: &[u8]) -> Option<Usage> {
    let (mut input, mut usage) = (None, Usage::default());
    // A look at each quote is cheaper than a search for each name.
    for at in memchr::memchr_iter(b'"', object) {
        let rest = &object[at..];
        let known = NAMES.iter().find(|(name, _)| rest.starts_with(name));
        let Some((name, count)) = known else { continue };
        let Some(number) = number(&rest[name.len()..]) else { continue };
        match count {
            Count::Input => {
                input.get_or_insert(number);
            }
            Count::Output | Count::Thoughts => usage.output += number,
            Count::Cached => usage.cached = number,
            Count::CachedBeside => {
                usage.cached = number;
                usage.input += number;
            }
            Count::Written => usage.input += number,
        }
    }
    usage.input += input.or_else(|| (usage.output > 0).then_some(0))?;
    Some(usage)
}

/// What follows a member's name: the start of its value.
pub(crate) fn member_value(after_name: &[u8]) -> Option<&[u8]> {
    Some(after_name.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// The length of the object at the start of `bytes`; usage objects hold short names only.
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
fn number(after_name: &[u8]) -> Option<u64> {
    let value = member_value(after_name)?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    let (mut number, mut any) = (0u64, false);
    for digit in digits {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        any = true;
    }
    any.then_some(number.min(COUNT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_usage_outside_of_texts() {
        let check = |endpoint, body: &str, expected: Option<(u64, u64, u64)>| {
            let found = usage(endpoint, body.as_bytes()).map(|u| (u.input, u.cached, u.output));
            assert_eq!(found, expected, "{body}");
        };
        use Endpoint::{Chat, Embeddings, Generate, Messages, Responses};
        check(Chat, r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#, Some((3, 0, 4)));
        check(
            Chat,
            r#"{"usage" : {"completion_tokens": 4, "prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}, "x": 1}"#,
            Some((3, 2, 4)),
        );
        check(Chat, r#"{"usage":null}"#, None);
        check(Chat, r#"{"content":"\"usage\":{\"prompt_tokens\":3}"}"#, None);
        check(
            Chat,
            "data: {\"usage\":{\"prompt_tokens\":3}}\n\ndata: {\"usage\":null}\n\n",
            Some((3, 0, 0)),
        );
        for len in 490..530 {
            // The name at, across and before the border of what is searched together.
            let rest = format!(r#"{{"prompt_tokens":5}},"x":"{}"}}"#, "y".repeat(len));
            check(Chat, &format!(r#"{{"a":1,"usage":{rest}"#), Some((5, 0, 0)));
        }
        check(Embeddings, r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#, Some((8, 0, 0)));
        check(
            Responses,
            r#"{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":2,"output_tokens_details":{"reasoning_tokens":1}}}"#,
            Some((9, 4, 2)),
        );
        check(
            Messages,
            r#"{"usage":{"input_tokens":80,"cache_creation_input_tokens":1024,"cache_read_input_tokens":4096,"cache_creation":{"ephemeral_5m_input_tokens":512},"output_tokens":3}}"#,
            Some((5200, 4096, 3)),
        );
        check(Messages, r#"{"usage":{"output_tokens":3}}"#, Some((0, 0, 3)));
        check(
            Generate,
            r#"{"usageMetadata":{"promptTokenCount":9,"cachedContentTokenCount":4,"candidatesTokenCount":2,"thoughtsTokenCount":5,"totalTokenCount":16}}"#,
            Some((9, 4, 7)),
        );
    }
}
