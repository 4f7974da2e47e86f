//! The events of a stream of server-sent events, one by one.
//!
//! [`sse`](crate::sse) finds where events end and leaves their bytes alone, which is all
//! that a forwarded stream needs; this reads them, for a stream that is translated.

use crate::codec::Broken;
use crate::sse::EVENT_BYTES_MAX;

/// Reads events from bytes that are cut anywhere. Lines end with LF, CR LF or CR.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The last line ended with a CR, so that an LF belongs to it.
    after_cr: bool,
    event: SseEvent,
    stray: Vec<u8>,
    /// A line has come: only the first may begin with a byte order mark.
    begun: bool,
}

/// The byte order mark with which some servers begin; the standard says to pass it over.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// An event: its data lines joined with LF, and its name where it has one.
#[derive(Debug, Default)]
pub(crate) struct SseEvent {
    pub(crate) name: Vec<u8>,
    pub(crate) data: Vec<u8>,
    any: bool,
}

impl SseReader {
    /// Takes the next bytes and calls `each` with every event that they complete. Events
    /// without data, and comments, are passed over.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&SseEvent) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        loop {
            if self.after_cr && !bytes.is_empty() {
                self.after_cr = false;
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else { break };
            self.after_cr = bytes[end] == b'\r';
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            let over = if self.line.is_empty() {
                let line = first(line, &mut self.begun);
                self.event.line(line, &mut self.stray)
            } else {
                self.line.extend_from_slice(line);
                let line = first(&self.line, &mut self.begun);
                let over = self.event.line(line, &mut self.stray);
                self.line.clear();
                over
            };
            self.check_bound()?;
            if over {
                if self.event.any {
                    each(&self.event)?;
                }
                self.event.clear();
            }
        }
        self.line.extend_from_slice(bytes);
        self.check_bound()
    }

    /// Takes the end of the bytes: an event whose empty line is missing is one all the same.
    pub(crate) fn finish(
        &mut self,
        mut each: impl FnMut(&SseEvent) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let line = std::mem::take(&mut self.line);
        self.event.line(first(&line, &mut self.begun), &mut self.stray);
        if self.event.any {
            each(&self.event)?;
        }
        self.event.clear();
        Ok(())
    }

    /// Lines that are no field of an event, joined with LF: some servers break into a stream
    /// with bare JSON.
    pub(crate) fn stray(&self) -> &[u8] {
        &self.stray
    }

    fn check_bound(&self) -> Result<(), Broken> {
        let held = self.line.len() + self.event.data.len() + self.stray.len();
        if held > EVENT_BYTES_MAX {
            return Err(Broken("has an event beyond 4 MiB".to_owned()));
        }
        Ok(())
    }
}

/// The line without the byte order mark that the first one may begin with.
fn first<'a>(line: &'a [u8], begun: &mut bool) -> &'a [u8] {
    if std::mem::replace(begun, true) { line } else { line.strip_prefix(MARK).unwrap_or(line) }
}

impl SseEvent {
    /// Takes a line; whether it ends the event.
    fn line(&mut self, line: &[u8], stray: &mut Vec<u8>) -> bool {
        if line.is_empty() {
            return true;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.any {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.any = true;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            b"" | b"id" | b"retry" => {}
            _ => {
                stray.extend_from_slice(line);
                stray.push(b'\n');
            }
        }
        false
    }

    fn clear(&mut self) {
        self.name.clear();
        self.data.clear();
        self.any = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &[u8], piece: usize) -> (Vec<(String, String)>, String) {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut each = |event: &SseEvent| {
            events.push((text(&event.name), text(&event.data)));
            Ok(())
        };
        for bytes in wire.chunks(piece) {
            reader.push(bytes, &mut each).unwrap();
        }
        reader.finish(&mut each).unwrap();
        let stray = text(reader.stray());
        (events, stray)
    }

    #[test]
    fn reads_events_however_they_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let wire = ": hello\nevent: a\ndata: 1\ndata:2\n\nid: 7\ndata\n\nevent: none\n\n\
                        {\"error\":1}\n\ndata:  x:y\n\ndata: last"
                .replace('\n', end);
            for (piece, mark) in (1..wire.len()).flat_map(|at| [(at, ""), (at, "\u{feff}")]) {
                let wire = format!("{mark}{wire}");
                let (events, stray) = read(wire.as_bytes(), piece);
                let expected = [("a", "1\n2"), ("", ""), ("", " x:y"), ("", "last")];
                let expected = expected.map(|(name, data)| (name.to_owned(), data.to_owned()));
                assert_eq!(events, expected, "{end:?} {piece}");
                assert_eq!(stray, "{\"error\":1}\n", "{end:?} {piece}");
            }
        }
    }

    #[test]
    fn what_never_ends_is_refused() {
        let mut reader = SseReader::default();
        let piece = vec![b'x'; 1 << 20];
        let pushed: Vec<_> = (0..6).map(|_| reader.push(&piece, |_| Ok(())).is_ok()).collect();
        assert_eq!(pushed, [true, true, true, true, false, false]);
    }
}
