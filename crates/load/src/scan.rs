//! Reads a chat stream without building a tree: when each token came, what was used, and
//! whether the stream came to its proper end.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use paceline_core::Usage;

/// Longest line of a stream, in bytes; a longer one is an error.
const LINE_BYTES_MAX: usize = 4 << 20;

/// How much of an error event is kept, in bytes.
const ERROR_BYTES_MAX: usize = 300;

/// The simulated engine writes its stamp last, so it is looked for in this many bytes.
const STAMP_BYTES_MAX: usize = 40;

/// What a stream told so far.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The beginning of a line whose end has not come.
    tail: Vec<u8>,
    /// When each event with content came, in nanoseconds on the clock: the engine's exact
    /// stamp where there is one, else its arrival.
    pub(crate) stamps: Vec<u64>,
    /// `[DONE]` has come.
    pub(crate) done: bool,
    /// Events with data so far.
    pub(crate) events: u64,
    /// The last usage that came.
    pub(crate) usage: Option<Usage>,
    /// The error that an event carried.
    pub(crate) error: Option<String>,
}

impl Scan {
    /// Takes the next bytes of the body, which came at `now`. Stamps before `from`, the
    /// intended time of the call, are those of an earlier call whose answer was kept; they
    /// count as now.
    pub(crate) fn push(&mut self, mut chunk: &[u8], from: u64, now: u64) {
        if !self.tail.is_empty() {
            let Some(end) = memchr::memchr(b'\n', chunk) else { return self.keep(chunk) };
            self.keep(&chunk[..end]);
            chunk = &chunk[end + 1..];
            let line = std::mem::take(&mut self.tail);
            self.line(&line, from, now);
            // The buffer serves again.
            self.tail = line;
            self.tail.clear();
        }
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            self.line(&chunk[..end], from, now);
            chunk = &chunk[end + 1..];
        }
        self.keep(chunk);
    }

    /// Ends the stream: a last line may lack its end.
    pub(crate) fn finish(&mut self, from: u64, now: u64) {
        let line = std::mem::take(&mut self.tail);
        self.line(&line, from, now);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.tail.len() + bytes.len() > LINE_BYTES_MAX {
            self.error.get_or_insert_with(|| "a line of the stream exceeds 4 MiB".to_owned());
            return;
        }
        self.tail.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], from: u64, now: u64) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii();
        self.events += 1;
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        let members = data.strip_prefix(b"{").map(<[u8]>::trim_ascii_start).unwrap_or_default();
        if members.starts_with(b"\"error\"") || members.starts_with(b"\"object\":\"error\"") {
            let text = &data[..data.len().min(ERROR_BYTES_MAX)];
            self.error.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
            return;
        }
        if has_content(data) {
            self.stamps.push(stamp(data).filter(|stamp| *stamp >= from).unwrap_or(now));
        } else if let Some(usage) = usage(data) {
            self.usage = Some(usage);
        }
    }
}

struct Keys {
    content: Finder<'static>,
    others: [Finder<'static>; 3],
    tools: Finder<'static>,
    usage: Finder<'static>,
    stamp: Finder<'static>,
}

/// A key's quotes part it from the same letters within a text, where quotes are escaped.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    content: Finder::new("\"content\""),
    others: [
        Finder::new("\"reasoning_content\""),
        Finder::new("\"reasoning\""),
        Finder::new("\"text\""),
    ],
    tools: Finder::new("\"tool_calls\""),
    usage: Finder::new("\"usage\""),
    stamp: Finder::new("\"sim_ns\""),
});

/// Whether an event carries output: text that is not empty, or a piece of a tool call.
fn has_content(data: &[u8]) -> bool {
    let text = |value: &[u8]| value.len() > 1 && value[0] == b'"' && value[1] != b'"';
    if member(data, &KEYS.content).is_some_and(text) {
        return true;
    }
    KEYS.others.iter().any(|key| member(data, key).is_some_and(text))
        || member(data, &KEYS.tools).is_some_and(|value| {
            value.strip_prefix(b"[").is_some_and(|list| list.trim_ascii_start().starts_with(b"{"))
        })
}

/// The engine's stamp, which stands just before the event's closing brace.
fn stamp(data: &[u8]) -> Option<u64> {
    let end = &data[data.len().saturating_sub(STAMP_BYTES_MAX)..];
    number(member(end, &KEYS.stamp)?)
}

fn usage(data: &[u8]) -> Option<Usage> {
    let value = member(data, &KEYS.usage)?;
    if !value.starts_with(b"{") {
        return None;
    }
    // Once a call, so a search for each field is cheap enough.
    let field = |key: &str| member(value, &Finder::new(key)).and_then(number).unwrap_or(0);
    Some(Usage {
        input: field("\"prompt_tokens\""),
        cached: field("\"cached_tokens\""),
        output: field("\"completion_tokens\""),
    })
}

/// The bytes from the value of a member on.
fn member<'a>(data: &'a [u8], key: &Finder<'_>) -> Option<&'a [u8]> {
    let at = key.find(data)? + key.needle().len();
    Some(data[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"sim_ns\":90}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null,\"sim_ns\":120}\n\n",
        "data: {\"choices\": [{\"delta\": {\"content\" : \"\\\"usage\\\":{\\\"sim_ns\\\":7\"}}]}\r\n\r\n",
        "event: x\ndata: {\"choices\":[{\"delta\":{\"content\":null,\"tool_calls\":[{\"index\":0}]}}],\"sim_ns\":140}\n\n",
        "data:{\"choices\":[{\"delta\":{\"reasoning_content\":\"b\"}}],\"sim_ns\":99}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"sim_ns\":150}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,",
        "\"prompt_tokens_details\":{\"cached_tokens\":6}},\"sim_ns\":150}\n\n",
        "data: [DONE]\n\n",
    );

    fn check(parts: &[&[u8]], case: &str) {
        let mut scan = Scan::default();
        for part in parts {
            scan.push(part, 100, 500);
        }
        scan.finish(100, 500);
        assert_eq!(scan.stamps, [120, 500, 140, 500], "{case}");
        assert_eq!(scan.usage, Some(Usage { input: 9, cached: 6, output: 4 }), "{case}");
        assert!(scan.done && scan.error.is_none() && scan.events == 8, "{case}: {scan:?}");
    }

    #[test]
    fn every_split_reads_the_same() {
        let bytes = STREAM.as_bytes();
        for a in 0..=bytes.len() {
            for b in a..=bytes.len() {
                check(&[&bytes[..a], &bytes[a..b], &bytes[b..]], &format!("split at {a} and {b}"));
            }
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        check(&single, "byte by byte");
        check(&[STREAM.trim_end().as_bytes()], "without the last line's end");
    }

    #[test]
    fn errors_are_kept() {
        for (stream, expected) in [
            ("data: {\"error\":{\"message\":\"no\"}}\n\n", "{\"error\":{\"message\":\"no\"}}"),
            ("data: { \"error\": 5}\n\ndata: [DONE]\n\n", "{ \"error\": 5}"),
            (
                "data: {\"object\":\"error\",\"message\":\"x\"}\n",
                "{\"object\":\"error\",\"message\":\"x\"}",
            ),
        ] {
            let mut scan = Scan::default();
            scan.push(stream.as_bytes(), 0, 1);
            assert_eq!(scan.error.as_deref(), Some(expected));
        }
        let mut scan = Scan::default();
        for _ in 0..6 {
            scan.push(&vec![b'x'; 1 << 20], 0, 1);
        }
        assert!(scan.error.unwrap().contains("4 MiB"));
    }
}
