//! Server-sent events: the ends of events in a byte stream, and the facts that a chat
//! stream carries.
//!
//! [`Splitter`] hands on whole events only, so that a stream which breaks off can be
//! ended with an error event, and a late reader of a shared stream starts at an event.

use bytes::{Bytes, BytesMut};
use paceline_core::{Endpoint, Usage};

use crate::wire;

/// Longest single event, in bytes; longer ones end the stream with an error.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

/// An event exceeds [`EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event exceeds 4 MiB")]
pub struct EventTooLong;

/// Cuts a byte stream at the ends of its events, and notes what a chat stream says of
/// itself. What it hands on, joined, is what went in, up to the last whole event.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The beginning of an event whose end has not come.
    tail: BytesMut,
    lines: Lines,
    endpoint: Endpoint,
    facts: Facts,
}

/// What the events of a chat stream told so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Events with data so far, `[DONE]` not among them.
    pub events: u64,
    /// `[DONE]` has come.
    pub done: bool,
    /// A choice has given its finish reason.
    pub finished: bool,
    /// An event carried an error.
    pub failed: bool,
    /// The last usage that came.
    pub usage: Option<Usage>,
}

impl Facts {
    /// Whether the stream came to its proper end. Some servers send no `[DONE]`.
    pub const fn complete(&self) -> bool {
        self.done || self.finished || self.failed
    }
}

impl Splitter {
    /// For the stream of an operation; the default is that of chat.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, ..Self::default() }
    }

    /// Takes the next bytes and returns the whole events that they complete, if any.
    ///
    /// # Errors
    /// [`EventTooLong`] when an event's end does not come within the bound.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, EventTooLong> {
        let end = self.lines.scan(&chunk);
        let Some(end) = end else {
            if self.tail.len() + chunk.len() > EVENT_BYTES_MAX {
                return Err(EventTooLong);
            }
            self.tail.extend_from_slice(&chunk);
            return Ok(None);
        };
        let rest = chunk.split_off(end);
        let whole = if self.tail.is_empty() {
            chunk
        } else {
            self.tail.extend_from_slice(&chunk);
            self.tail.split().freeze()
        };
        self.tail.extend_from_slice(&rest);
        wire::read_events(self.endpoint, &whole, &mut self.facts);
        Ok(Some(whole))
    }

    /// What the events told so far.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Bytes of an event whose end has not come.
    pub fn pending(&self) -> usize {
        self.tail.len()
    }

    /// Ends the stream: an event whose empty line is missing but whose last line is whole is
    /// still an event when it says `[DONE]`; it is returned with the empty line added.
    pub fn finish(&mut self) -> Option<Bytes> {
        let done = self.tail.trim_ascii_end() == b"data: [DONE]";
        if !done {
            return None;
        }
        self.facts.done = true;
        Some(Bytes::from_static(b"data: [DONE]\n\n"))
    }
}

/// Where lines and events end; lines end with LF, CR LF or CR.
#[derive(Clone, Copy, Debug)]
struct Lines {
    /// No byte of the present line has come.
    empty: bool,
    /// The last byte was a CR, so an LF belongs to it.
    after_cr: bool,
    /// The last byte ended an event.
    at_end: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { empty: true, after_cr: false, at_end: false }
    }
}

impl Lines {
    /// The end of the last whole event in `chunk`.
    fn scan(&mut self, chunk: &[u8]) -> Option<usize> {
        let (mut end, mut start) = (None, 0);
        for at in memchr::memchr2_iter(b'\n', b'\r', chunk) {
            if at > start {
                self.inside_line();
            }
            start = at + 1;
            let pair = self.after_cr && chunk[at] == b'\n';
            self.after_cr = chunk[at] == b'\r';
            if pair {
                // The second half of a line end that was counted already.
                if self.at_end {
                    end = Some(at + 1);
                }
                continue;
            }
            self.at_end = self.empty;
            if self.empty {
                end = Some(at + 1);
            }
            self.empty = true;
        }
        if chunk.len() > start {
            self.inside_line();
        }
        end
    }

    fn inside_line(&mut self) {
        *self = Self { empty: false, after_cr: false, at_end: false };
    }
}

/// The `data` of each event in whole events, joined as the standard says; comments and
/// other fields are left out.
pub fn data(events: &[u8]) -> impl Iterator<Item = std::borrow::Cow<'_, [u8]>> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut data: Option<std::borrow::Cow<'_, [u8]>> = None;
        while !rest.is_empty() {
            let (line, next) = split_line(rest);
            rest = next;
            if line.is_empty() {
                if data.is_some() {
                    return data;
                }
                continue;
            }
            let Some(value) = line.strip_prefix(b"data:") else { continue };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut data {
                None => data = Some(value.into()),
                Some(before) => {
                    let before = before.to_mut();
                    before.push(b'\n');
                    before.extend_from_slice(value);
                }
            }
        }
        data
    })
}

fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr2(b'\n', b'\r', bytes) {
        None => (bytes, &[]),
        Some(at) => {
            let end = if bytes[at..].starts_with(b"\r\n") { at + 2 } else { at + 1 };
            (&bytes[..at], &bytes[end..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"A\\n\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,",
        "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\r\r",
        "event: x\ndata: [DONE]\n\n",
    );

    #[test]
    fn every_split_gives_the_same_events_and_facts() {
        let bytes = STREAM.as_bytes();
        let expected = Facts {
            events: 3,
            done: true,
            finished: true,
            failed: false,
            usage: Some(Usage { input: 9, cached: 4, output: 2 }),
        };
        for a in 0..=bytes.len() {
            for b in a..=bytes.len() {
                let mut splitter = Splitter::default();
                let mut out = Vec::new();
                for part in [&bytes[..a], &bytes[a..b], &bytes[b..]] {
                    if let Some(events) = splitter.push(Bytes::copy_from_slice(part)).unwrap() {
                        out.extend_from_slice(&events);
                        let text = std::str::from_utf8(&out).unwrap();
                        let last = text.trim_end_matches(['\r', '\n']).len();
                        assert!(text.len() > last + 1 || text.is_empty(), "{text:?} is cut");
                    }
                }
                assert_eq!(out, bytes, "split at {a} and {b}");
                assert_eq!(splitter.facts(), &expected, "split at {a} and {b}");
                assert_eq!(splitter.pending(), 0);
            }
        }
    }

    #[test]
    fn a_broken_event_is_held_back() {
        let mut splitter = Splitter::default();
        let out = splitter.push(Bytes::from_static(b"data: {\"a\":1}\n\ndata: {\"b")).unwrap();
        assert_eq!(out.unwrap(), "data: {\"a\":1}\n\n");
        assert_eq!(splitter.pending(), 9);
        assert!(splitter.finish().is_none());
        assert!(!splitter.facts().complete());
    }

    #[test]
    fn a_last_line_without_its_empty_line_still_ends_the_stream() {
        for tail in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\n"] {
            let mut splitter = Splitter::default();
            assert!(splitter.push(Bytes::from_static(tail.as_bytes())).unwrap().is_none());
            assert_eq!(splitter.finish().unwrap(), "data: [DONE]\n\n");
            assert!(splitter.facts().complete());
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut splitter = Splitter::default();
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let refused = (0..8).position(|_| splitter.push(chunk.clone()).is_err());
        assert_eq!(refused, Some(4));
    }

    #[test]
    fn an_event_of_many_lines_costs_no_more_than_its_length() {
        let event = b"data:\n".repeat(EVENT_BYTES_MAX / 6);
        let start = std::time::Instant::now();
        let lengths: Vec<_> = data(&event).map(|data| data.len()).collect();
        assert_eq!(lengths, [EVENT_BYTES_MAX / 6 - 1]);
        // Copying what came before with each line took minutes.
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }

    #[test]
    fn data_is_joined() {
        let found: Vec<_> = data(b"id: 1\ndata: a\ndata:b\n\n: c\n\ndata: [DONE]\r\n\r\n")
            .map(|d| String::from_utf8(d.into_owned()).unwrap())
            .collect();
        assert_eq!(found, ["a\nb", "[DONE]"]);
    }
}
