//! What must hold for any bytes. The fuzz targets run it, and so does a test of
//! `crates/dialect` on the stable compiler.

pub(crate) mod codecs;
pub(crate) mod frames;

use bytes::Bytes;
use http::HeaderMap;
use paceline_core::Endpoint;
use paceline_dialect::codec::{self, Codec, PathFacts, Target};
use paceline_dialect::neutral::{Event, Request};
use paceline_dialect::sse::{EVENT_BYTES_MAX, Facts, Splitter};
use paceline_dialect::wire::{fields, usage};
use paceline_dialect::{openai, scan};
use serde_json::{Map, Value};

/// Numbers that look random and follow from the seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// Starts with a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ z >> 31) % bound.max(1) as u64).unwrap_or_default()
    }
}

/// What came of a stream.
struct Outcome {
    /// Everything that was handed on.
    out: Vec<u8>,
    /// Bytes held back for the end of their event.
    pending: usize,
    /// What the end of the stream added.
    last: Option<Bytes>,
    facts: Facts,
}

fn split<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut splitter = Splitter::default();
    let mut out = Vec::new();
    for part in parts {
        let events = splitter.push(Bytes::copy_from_slice(part));
        out.extend(events.expect("the input is within the bound").into_iter().flatten());
    }
    let pending = splitter.pending();
    let last = splitter.finish();
    Outcome { out, pending, last, facts: *splitter.facts() }
}

/// Every split of a stream gives the same bytes and the same facts.
pub(crate) fn sse_splitter(stream: &[u8]) {
    if stream.len() > EVENT_BYTES_MAX {
        return;
    }
    let whole = split([stream].into_iter());
    assert_eq!(whole.out, stream[..whole.out.len()], "what goes out is what came in");
    assert_eq!(whole.out.len() + whole.pending, stream.len(), "nothing is lost");
    check_same(&whole, split(stream.chunks(1)));
    check_same(&whole, split(stream.chunks(7)));
    let mut random =
        Random::new(stream.iter().fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(*byte)));
    let mut rest = stream;
    check_same(
        &whole,
        split(std::iter::from_fn(|| {
            let (part, tail) = rest.split_at(rest.len().min(1 + random.below(40)));
            rest = tail;
            (!part.is_empty()).then_some(part)
        })),
    );
    // The data of events is the same, however they are cut.
    let _ = paceline_dialect::sse::data(stream).count();
}

fn check_same(whole: &Outcome, cut: Outcome) {
    // Of events that come together only the last few are searched for their usage and
    // finish, so that a finer cut may tell more, and never less.
    assert!(cut.facts.finished || !whole.facts.finished, "a finish was overlooked");
    assert!(whole.facts.usage.is_none() || cut.facts.usage == whole.facts.usage);
    assert_eq!(cut.pending, whole.pending, "another part is held back");
    assert_eq!(cut.last, whole.last, "it ends in another way");
    assert!(cut.out == whole.out, "other bytes went out");
    let facts = Facts { finished: whole.facts.finished, usage: whole.facts.usage, ..cut.facts };
    assert_eq!(facts, whole.facts);
}

/// Whatever a full parser takes, the scanner reads in the same way.
pub(crate) fn request_scanner(body: &[u8]) {
    let scanned = scan::members(body);
    let parsed = serde_json::from_slice::<Map<String, Value>>(body);
    if let (Ok(members), Ok(map)) = (&scanned, &parsed) {
        let mut names: Vec<&[u8]> = members.iter().map(|m| &body[m.key.range()]).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), map.len(), "the names differ");
        for (name, value) in map {
            // Of repeated members a full parser keeps the last.
            let member = members.iter().rfind(|m| &body[m.key.range()] == name.as_bytes());
            let text = &body[member.expect("it has the same names").value.range()];
            let read: Value = serde_json::from_slice(text).expect("a part of what was parsed");
            assert_eq!(&read, value, "the member {name} differs");
            assert_eq!(scan::string(text).as_deref(), value.as_str());
        }
    }
    if let (Err(error), Ok(_)) = (&scanned, &parsed) {
        // The one thing that the scanner takes amiss.
        assert!(error.message().contains("escape sequence"), "{error}");
    }
    let body = Bytes::copy_from_slice(body);
    if let (Ok(fields), Ok(map)) = (fields(Endpoint::Chat, &Bytes::new(), &body), &parsed) {
        assert_eq!(std::str::from_utf8(&fields.model).ok(), map["model"].as_str());
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        assert_eq!(fields.stream, flag("stream"));
        let zero = map.get("temperature").and_then(Value::as_f64) == Some(0.0);
        assert_eq!(fields.repeatable, zero && !flag("store"));
        if let Some(span) = fields.metadata {
            let found = openai::metadata_text(&body[span.range()], "paceline_run");
            let expected = map["metadata"].get("paceline_run").and_then(Value::as_str);
            assert!(found.is_none() || found.as_deref() == expected);
        }
    }
    let _ = (usage(Endpoint::Chat, &body), openai::has_finished(&body));
    let _ = paceline_dialect::convert::to_stream(&body, true);
}

/// The operations that have codecs.
pub(crate) const CONVERSATIONS: [Endpoint; 6] = [
    Endpoint::Chat,
    Endpoint::Completions,
    Endpoint::Responses,
    Endpoint::Messages,
    Endpoint::Generate,
    Endpoint::Converse,
];

fn codecs() -> impl Iterator<Item = &'static dyn Codec> {
    CONVERSATIONS.iter().filter_map(|endpoint| codec::of(*endpoint))
}

/// The codec that the first byte chooses, and what is for it.
fn chosen(bytes: &[u8]) -> Option<(&'static dyn Codec, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let endpoint = CONVERSATIONS[usize::from(*first) % CONVERSATIONS.len()];
    Some((codec::of(endpoint)?, rest))
}

/// What a stream tells, and why it is none where it is none.
fn told<'a>(
    codec: &dyn Codec,
    parts: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Event>, Option<String>) {
    let (mut reader, mut events) = (codec.event_reader(), Vec::new());
    for part in parts {
        if let Err(broken) = reader.push(part, &mut events) {
            return (events, Some(broken.0));
        }
    }
    let ended = reader.finish(&mut events);
    (events, ended.err().map(|broken| broken.0))
}

/// A stream of any dialect tells the same however it is cut, and every dialect can tell what
/// it tells.
pub(crate) fn codec_streams(bytes: &[u8]) {
    let Some((codec, stream)) = chosen(bytes) else { return };
    let whole = told(codec, [stream].into_iter());
    for size in [1, 7] {
        let cut = told(codec, stream.chunks(size));
        assert_eq!(cut, whole, "cut in pieces of {size}");
    }
    for other in codecs() {
        let mut writer = other.event_writer(&Request::default());
        let mut out = Vec::new();
        whole.0.iter().for_each(|event| writer.write(event, &mut out));
    }
}

/// A body of any dialect, taken for a request, an answer and an error, is read or refused;
/// what was read every dialect writes or refuses, and reads its own writing again.
pub(crate) fn codec_bodies(bytes: &[u8]) {
    let Some((reader, body)) = chosen(bytes) else { return };
    for status in [400, 429, 500] {
        let failure = reader.read_failure(status, &HeaderMap::new(), body);
        codecs().for_each(|writer| drop(writer.write_failure(&failure)));
    }
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    let facts = PathFacts { model: Some("m".to_owned()), stream: false };
    let target = Target { model: "m".to_owned(), ..Target::default() };
    if let Ok(request) = reader.read_request(body.clone(), &facts) {
        for writer in codecs() {
            let Ok(written) = writer.write_request(&request, &target) else { continue };
            let again = writer.read_request(written.body.clone(), &facts);
            assert!(again.is_ok(), "{:?}: {}", again.err(), written.body);
        }
    }
    if let Ok(response) = reader.read_response(body) {
        // Text completions are told to callers only.
        let told = CONVERSATIONS.iter().filter(|endpoint| **endpoint != Endpoint::Completions);
        for writer in told.filter_map(|endpoint| codec::of(*endpoint)) {
            let written = writer.write_response(&response, &Request::default());
            let again = writer.read_response(written.clone());
            assert!(again.is_ok(), "{:?}: {written}", again.err());
        }
    }
}
