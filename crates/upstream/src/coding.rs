//! Content codings (RFC 9110, 8.4): gzip, Zstandard and Brotli, whole or in pieces.
//!
//! What comes from outside is unpacked within bounds: a few bytes may stand for gigabytes.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use ::http::HeaderMap;
use ::http::header::ACCEPT_ENCODING;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

/// Bodies below this many bytes are sent as they are: packed they would hardly be shorter.
pub const CODED_BYTES_MIN: usize = 1024;

/// Bodies above this many bytes are packed on another thread: about 0.5 ms.
pub const INLINE_BYTES_MAX: usize = 32 << 10;

/// A content coding. The first ones are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
}

/// How much is packed at once in Brotli's and zstd's streams, as a power of two: 256 KiB. Each
/// stream holds a few times as much memory.
const STREAM_WINDOW_LOG: u32 = 18;

/// Effort, of 22. The library's default.
const ZSTD_LEVEL: i32 = 3;

/// Effort, of 11. Higher ones take longer than the network that they relieve.
const BROTLI_LEVEL: u32 = 4;

/// Effort, of 9.
const GZIP_LEVEL: u32 = 4;

impl Coding {
    const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name in headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The coding that a `Content-Encoding` names, where that is one alone and known.
    pub fn named(name: &[u8]) -> Option<Self> {
        let name = name.trim_ascii();
        let is_named = |coding: &Self| name.eq_ignore_ascii_case(coding.name().as_bytes());
        let found = Self::ALL.into_iter().find(is_named);
        found.or_else(|| name.eq_ignore_ascii_case(b"x-gzip").then_some(Self::Gzip))
    }

    /// The coding that a client likes best by its `Accept-Encoding`, and of those that it likes
    /// as well the one that packs best (RFC 9110, 12.5.3).
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        // In thousandths, which is what a quality has digits for.
        let mut liked: [Option<u16>; 3] = [None; 3];
        let (mut others, mut plain) = (None, None);
        for value in headers.get_all(ACCEPT_ENCODING) {
            for item in value.as_bytes().split(|byte| *byte == b',') {
                let (name, quality) = with_quality(item);
                if name == b"*" {
                    others = Some(quality);
                } else if name.eq_ignore_ascii_case(b"identity") {
                    plain = Some(quality);
                } else if let Some(coding) = Self::named(name) {
                    liked[coding as usize] = Some(quality);
                }
            }
        }
        let quality = |coding: Self| liked[coding as usize].or(others).unwrap_or(0);
        let mut best: Option<Self> = None;
        for coding in Self::ALL {
            if quality(coding) > best.map_or(0, quality) {
                best = Some(coding);
            }
        }
        best.filter(|best| plain.is_none_or(|plain| quality(*best) >= plain))
    }

    /// Packs all of a body.
    ///
    /// # Errors
    /// The library's, where it has no memory.
    pub fn encode(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL),
            Self::Brotli | Self::Gzip => {
                let mut encoder = self.encoder()?;
                encoder.write(bytes)?;
                encoder.finish()
            }
        }
    }

    /// Packs a body in pieces.
    ///
    /// # Errors
    /// The library's, where it has no memory.
    pub fn encoder(self) -> io::Result<Encoder> {
        let out = Vec::new();
        Ok(Encoder(match self {
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.window_log(STREAM_WINDOW_LOG)?;
                Packer::Zstd(encoder)
            }
            Self::Brotli => Packer::Brotli(Box::new(brotli::CompressorWriter::new(
                out,
                4096,
                BROTLI_LEVEL,
                STREAM_WINDOW_LOG,
            ))),
            Self::Gzip => Packer::Gzip(GzEncoder::new(out, Compression::new(GZIP_LEVEL))),
        }))
    }
}

/// Unpacks a whole body.
///
/// # Errors
/// `FileTooLarge` when it unpacks to more than `max` bytes, or beyond 4 MiB to more than a
/// hundred times its length; else when it is not what it says it is, or breaks off.
pub fn decode(coding: Coding, bytes: Bytes, max: usize) -> io::Result<Bytes> {
    let mut decoder = Decoder::new(coding)?;
    decoder.push(bytes);
    decoder.end();
    let mut out = BytesMut::new();
    while let Some(piece) = decoder.next()? {
        if out.len() + piece.len() > max {
            let message = format!("it unpacks to more than {max} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        out.extend_from_slice(&piece);
    }
    Ok(out.freeze())
}

/// An item of `Accept-Encoding`, and how much it is liked in thousandths; what cannot be read
/// is not liked.
fn with_quality(item: &[u8]) -> (&[u8], u16) {
    let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().unwrap_or_default();
    let weight =
        parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
    let Some(weight) = weight else { return (name, 1000) };
    let weight = std::str::from_utf8(weight).ok().and_then(|text| text.parse::<f32>().ok());
    let weight = weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
    (name, (weight * 1000.0).round() as u16)
}

/// Packs a body in pieces.
pub struct Encoder(Packer);

enum Packer {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    /// Packs a piece; gives what there is then, from which all up to here can be unpacked.
    ///
    /// # Errors
    /// The library's, where it has no memory.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.write(bytes)?;
        let out = match &mut self.0 {
            Packer::Zstd(encoder) => {
                encoder.flush()?;
                encoder.get_mut()
            }
            Packer::Brotli(encoder) => {
                encoder.flush()?;
                encoder.get_mut()
            }
            Packer::Gzip(encoder) => {
                encoder.flush()?;
                encoder.get_mut()
            }
        };
        Ok(std::mem::take(out))
    }

    /// The end of the body.
    ///
    /// # Errors
    /// The library's, where it has no memory.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Packer::Zstd(encoder) => encoder.finish(),
            Packer::Brotli(encoder) => Ok(encoder.into_inner()),
            Packer::Gzip(encoder) => encoder.finish(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Packer::Zstd(encoder) => encoder.write_all(bytes),
            Packer::Brotli(encoder) => encoder.write_all(bytes),
            Packer::Gzip(encoder) => encoder.write_all(bytes),
        }
    }
}

/// What an answer may unpack to, whatever came of it.
const UNPACKED_BYTES_FREE: u64 = 4 << 20;

/// How many times as long as what came it may be beyond that. JSON and events pack to a tenth
/// or so; what packs to less than this was made to.
const UNPACKED_RATIO_MAX: u64 = 100;

/// How much an unpacker takes at a time of what came. Small, since what it has taken counts as
/// unpacked.
const FED_BYTES: usize = 4096;

/// How much is unpacked at a time.
const PIECE_BYTES: usize = 32 << 10;

/// The largest window of zstd that a receiver must have, as a power of two: 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Unpacks a body in pieces. It holds one piece and the coding's window, whatever comes.
pub(crate) struct Decoder {
    fed: Arc<Mutex<Fed>>,
    unpacker: Box<dyn Read + Send>,
    taken: u64,
    given: u64,
    piece: Vec<u8>,
}

/// What has come and is not unpacked yet.
#[derive(Default)]
struct Fed {
    bytes: Bytes,
    ended: bool,
}

/// Reads what has come; it would block where nothing is left before the end.
struct Feed(Arc<Mutex<Fed>>);

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut fed = self.0.lock();
        if fed.bytes.is_empty() && !fed.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = fed.bytes.len().min(buf.len());
        let part = fed.bytes.split_to(bytes);
        buf[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

impl Decoder {
    /// Begins a body.
    ///
    /// # Errors
    /// The library's, where it has no memory.
    pub(crate) fn new(coding: Coding) -> io::Result<Self> {
        let fed = Arc::<Mutex<Fed>>::default();
        let feed = Feed(Arc::clone(&fed));
        let unpacker: Box<dyn Read + Send> = match coding {
            Coding::Zstd => {
                let feed = BufReader::with_capacity(FED_BYTES, feed);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(feed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            Coding::Brotli => Box::new(brotli::Decompressor::new(feed, FED_BYTES)),
            Coding::Gzip => Box::new(MultiGzDecoder::new(feed)),
        };
        Ok(Self { fed, unpacker, taken: 0, given: 0, piece: vec![0; PIECE_BYTES] })
    }

    /// Takes what came, after [`Self::next`] had no more to give.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.taken += bytes.len() as u64;
        let mut fed = self.fed.lock();
        debug_assert!(fed.bytes.is_empty(), "what came before is unpacked first");
        fed.bytes = bytes;
    }

    /// No more will come.
    pub(crate) fn end(&mut self) {
        self.fed.lock().ended = true;
    }

    /// The next piece; `None` where more must come, or the body has ended.
    ///
    /// # Errors
    /// When it is not what it says it is, breaks off, or unpacks to too much.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.taken == 0 {
            // An answer without a body may be marked as packed.
            return Ok(None);
        }
        let read = match self.unpacker.read(&mut self.piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            read => read?,
        };
        if read == 0 {
            return match self.fed.lock().bytes.is_empty() {
                true => Ok(None),
                false => Err(io::Error::other("there is more behind its end")),
            };
        }
        self.given += read as u64;
        let used = self.taken - self.fed.lock().bytes.len() as u64;
        if self.given > UNPACKED_BYTES_FREE.max(used.saturating_mul(UNPACKED_RATIO_MAX)) {
            let message = format!("{used} bytes unpack to more than {}", self.given);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(Some(Bytes::copy_from_slice(&self.piece[..read])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some JSON that does not repeat itself too much.
    fn text(bytes: usize) -> Vec<u8> {
        (0..).flat_map(|n: u64| format!("{{\"n\":{}}},", n * n).into_bytes()).take(bytes).collect()
    }

    /// Unpacks pieces, or tells why that cannot be.
    fn unpack(coding: Coding, pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let mut decoder = Decoder::new(coding)?;
        let mut out = Vec::new();
        for piece in pieces {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(bytes) = decoder.next()? {
                out.extend_from_slice(&bytes);
            }
        }
        decoder.end();
        while let Some(bytes) = decoder.next()? {
            out.extend_from_slice(&bytes);
        }
        Ok(out)
    }

    #[test]
    fn what_is_packed_is_unpacked_however_it_is_cut() {
        for coding in Coding::ALL {
            let text = text(5000);
            let packed = coding.encode(&text).unwrap();
            assert!(packed.len() < text.len() / 2, "{coding:?}");
            assert_eq!(unpack(coding, &[&packed]).unwrap(), text);
            let bytes: Vec<&[u8]> = packed.chunks(1).collect();
            assert_eq!(unpack(coding, &bytes).unwrap(), text);
            for at in 0..packed.len() {
                let (head, tail) = packed.split_at(at);
                assert_eq!(unpack(coding, &[head, tail]).unwrap(), text, "{coding:?} {at}");
                assert!(at == 0 || unpack(coding, &[head]).is_err(), "{coding:?} cut at {at}");
            }
            assert_eq!(unpack(coding, &[]).unwrap(), b"", "an answer without a body");
            assert!(unpack(coding, &[b"{\"id\":1, it is no such coding}"]).is_err());
        }
    }

    #[test]
    fn each_piece_of_a_stream_can_be_read_at_once() {
        for coding in Coding::ALL {
            let mut encoder = coding.encoder().unwrap();
            let mut decoder = Decoder::new(coding).unwrap();
            for n in 0..50 {
                let event = format!("data: {{\"n\":{n}}}\n\n");
                decoder.push(encoder.push(event.as_bytes()).unwrap().into());
                let mut found = Vec::new();
                while let Some(bytes) = decoder.next().unwrap() {
                    found.extend_from_slice(&bytes);
                }
                assert_eq!(found, event.as_bytes(), "{coding:?} {n}");
            }
            decoder.push(encoder.finish().unwrap().into());
            assert_eq!(decoder.next().unwrap(), None);
            decoder.end();
            assert_eq!(decoder.next().unwrap(), None);
        }
    }

    #[test]
    fn bombs_are_not_unpacked() {
        for coding in Coding::ALL {
            let zeros = vec![0; 64 << 20];
            let bomb = coding.encode(&zeros).unwrap();
            let why = unpack(coding, &[&bomb]).unwrap_err().to_string();
            assert!(why.contains("unpack to more than"), "{coding:?}: {why}");
            // What is long in itself is none.
            let long = text(8 << 20);
            let packed = coding.encode(&long).unwrap();
            assert!(unpack(coding, &[&packed]).unwrap() == long, "{coding:?}");
        }
    }

    #[test]
    fn clients_say_what_they_take() {
        let check = |values: &[&str], expected: Option<Coding>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, value.parse().unwrap());
            }
            assert_eq!(Coding::accepted(&headers), expected, "{values:?}");
        };
        check(&[], None);
        check(&[""], None);
        check(&["identity"], None);
        check(&["deflate"], None);
        check(&["gzip, deflate"], Some(Coding::Gzip));
        check(&["gzip, deflate, br"], Some(Coding::Brotli));
        check(&["gzip, deflate, br, ZSTD"], Some(Coding::Zstd));
        check(&["gzip", "br"], Some(Coding::Brotli));
        check(&["x-gzip"], Some(Coding::Gzip));
        check(&["gzip;q=1.0, zstd;q=0.5"], Some(Coding::Gzip));
        check(&["gzip; q=0.001, zstd;q=0"], Some(Coding::Gzip));
        check(&["*"], Some(Coding::Zstd));
        check(&["*;q=0.1, zstd;q=0"], Some(Coding::Brotli));
        check(&["*;q=0"], None);
        check(&["identity, gzip;q=0.5"], None);
        check(&["identity;q=0.5, gzip"], Some(Coding::Gzip));
        check(&["gzip;q=2, br;q=x, zstd;q=NaN"], None);
    }

    #[test]
    fn codings_are_named() {
        for coding in Coding::ALL {
            assert_eq!(Coding::named(coding.name().as_bytes()), Some(coding));
        }
        assert_eq!(Coding::named(b" GZip "), Some(Coding::Gzip));
        assert_eq!(Coding::named(b"gzip, br"), None);
        assert_eq!(Coding::named(b"identity"), None);
    }
}
