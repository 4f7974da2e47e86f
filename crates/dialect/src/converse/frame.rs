//! Frames of an AWS event stream (`application/vnd.amazon.eventstream`; Amazon Transcribe's
//! developer guide, "Event stream encoding").
//!
//! | Bytes | Hold |
//! |---|---|
//! | 4 | length of the frame |
//! | 4 | length of its headers |
//! | 4 | CRC-32 of these eight |
//! | … | headers: 1 byte length, name, 1 byte type, value |
//! | … | payload |
//! | 4 | CRC-32 of all before |

use std::ops::ControlFlow;

use crate::codec::Broken;

/// The longest frame: the format's own bounds of 16 MiB of payload and 128 KiB of headers.
const FRAME_BYTES_MAX: usize = (16 << 20) + (128 << 10) + 16;

/// The prelude and the two checksums.
const FRAME_BYTES_MIN: usize = 16;

/// One frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// `event`, `exception` or `error`.
    pub(super) kind: &'a str,
    /// Which of them.
    pub(super) name: &'a str,
    /// What an `error` says; it has no payload. Not written.
    pub(super) message: &'a str,
    /// What it holds, mostly JSON.
    pub(super) payload: &'a [u8],
}

/// Puts frames together from bytes that come cut anywhere.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    held: Vec<u8>,
}

impl FrameReader {
    /// Takes the next bytes, and hands over each frame that is complete, until `take` says
    /// that it was the last; what is behind that is none of the reader's.
    ///
    /// # Errors
    /// When a checksum or a length is wrong, or `take` fails.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Frame<'_>) -> Result<ControlFlow<()>, Broken>,
    ) -> Result<(), Broken> {
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(len) = frame_len(&self.held[at..])? {
            let Some(frame) = self.held.get(at..at + len) else { break };
            if take(parse(frame)?)?.is_break() {
                self.held.clear();
                return Ok(());
            }
            at += len;
        }
        self.held.drain(..at);
        Ok(())
    }

    /// Whether the bytes ended within a frame.
    pub(super) fn is_cut(&self) -> bool {
        !self.held.is_empty()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The length of the frame that begins here, once its prelude is there.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let (Some(len), Some(sum)) = (u32_at(bytes, 0), u32_at(bytes, 8)) else { return Ok(None) };
    if crc32fast::hash(&bytes[..8]) != sum {
        return Err(Broken("has a frame whose prelude is damaged".to_owned()));
    }
    let len = len as usize;
    if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len) {
        return Err(Broken(format!("has a frame of {len} bytes")));
    }
    Ok(Some(len))
}

fn parse(frame: &[u8]) -> Result<Frame<'_>, Broken> {
    let damaged = || Broken("has a damaged frame".to_owned());
    let end = frame.len() - 4;
    if u32_at(frame, end) != Some(crc32fast::hash(&frame[..end])) {
        return Err(damaged());
    }
    let headers_len = u32_at(frame, 4).ok_or_else(damaged)? as usize;
    let mut headers = frame.get(12..12 + headers_len).ok_or_else(damaged)?;
    let payload = frame.get(12 + headers_len..end).ok_or_else(damaged)?;
    let mut parsed = Frame { kind: "event", payload, ..Frame::default() };
    while !headers.is_empty() {
        let (key, value, rest) = header(headers).ok_or_else(damaged)?;
        headers = rest;
        match (key, value) {
            (b":message-type", Some(value)) => parsed.kind = value,
            (b":event-type" | b":exception-type" | b":error-code", Some(value)) => {
                parsed.name = value;
            }
            (b":error-message", Some(value)) => parsed.message = value,
            _ => {}
        }
    }
    Ok(parsed)
}

/// A header's name, its value where that is a text, and what comes behind it.
fn header(bytes: &[u8]) -> Option<(&[u8], Option<&str>, &[u8])> {
    let name_len = usize::from(*bytes.first()?);
    let (name, rest) = bytes.get(1..)?.split_at_checked(name_len)?;
    let (kind, rest) = rest.split_first()?;
    let (skip, len) = match kind {
        0 | 1 => (0, 0),
        2 => (0, 1),
        3 => (0, 2),
        4 => (0, 4),
        5 | 8 => (0, 8),
        9 => (0, 16),
        6 | 7 => (2, usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?))),
        _ => return None,
    };
    let (value, rest) = rest.get(skip..)?.split_at_checked(len)?;
    let text = if *kind == 7 { Some(std::str::from_utf8(value).ok()?) } else { None };
    Some((name, text, rest))
}

/// Appends a frame.
pub(super) fn write(frame: Frame<'_>, out: &mut Vec<u8>) {
    let name = if frame.kind == "exception" { ":exception-type" } else { ":event-type" };
    let headers: Vec<u8> =
        [(name, frame.name), (":content-type", "application/json"), (":message-type", frame.kind)]
            .iter()
            .flat_map(|(name, value)| {
                let len = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
                let name_len = u8::try_from(name.len()).unwrap_or(u8::MAX);
                [&[name_len], name.as_bytes(), &[7], &len, value.as_bytes()].concat()
            })
            .collect();
    let begun = out.len();
    let len = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&len(FRAME_BYTES_MIN + headers.len() + frame.payload.len()));
    out.extend_from_slice(&len(headers.len()));
    out.extend_from_slice(&crc32fast::hash(&out[begun..]).to_be_bytes());
    out.extend_from_slice(&headers);
    out.extend_from_slice(frame.payload);
    out.extend_from_slice(&crc32fast::hash(&out[begun..]).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame<'a>(kind: &'a str, name: &'a str, payload: &'a [u8]) -> Frame<'a> {
        Frame { kind, name, payload, ..Frame::default() }
    }

    fn written(frames: &[Frame<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        frames.iter().for_each(|frame| write(*frame, &mut out));
        out
    }

    fn read(wire: &[u8], piece: usize) -> Result<Vec<(String, String, Vec<u8>)>, Broken> {
        let (mut reader, mut found) = (FrameReader::default(), Vec::new());
        for bytes in wire.chunks(piece.max(1)) {
            reader.push(bytes, |frame| {
                found.push((frame.kind.to_owned(), frame.name.to_owned(), frame.payload.to_vec()));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        if reader.is_cut() { Err(Broken("cut".to_owned())) } else { Ok(found) }
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let frames = [
            frame("event", "messageStart", b"{\"role\":\"assistant\"}"),
            frame("exception", "throttlingException", b""),
        ];
        let wire = written(&frames);
        let told = |frame: &Frame<'_>| {
            (frame.kind.to_owned(), frame.name.to_owned(), frame.payload.to_vec())
        };
        let expected: Vec<_> = frames.iter().map(told).collect();
        for piece in 1..=wire.len() {
            assert_eq!(read(&wire, piece).unwrap(), expected, "{piece}");
        }
        for end in 1..wire.len() {
            let whole = read(&wire[..end], 7);
            assert!(whole.is_err() || whole.unwrap() == expected[..1], "{end}");
        }
    }

    #[test]
    fn each_damaged_byte_is_noticed() {
        let wire = written(&[frame("event", "x", b"{\"text\":\"It is\"}")]);
        for at in 0..wire.len() {
            let mut damaged = wire.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged, 5).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, 3);
            // With true checksums the rest is reached.
            let mut frame = bytes;
            if frame.len() >= 16 {
                let (len, end) = (frame.len() as u32, frame.len() - 4);
                frame[..4].copy_from_slice(&len.to_be_bytes());
                let sum = crc32fast::hash(&frame[..8]).to_be_bytes();
                frame[8..12].copy_from_slice(&sum);
                let sum = crc32fast::hash(&frame[..end]).to_be_bytes();
                frame[end..].copy_from_slice(&sum);
                let _ = read(&frame, 3);
            }
        }
    }
}
