//! What must hold of a codec, whatever bytes it is given: as a request, an answer, a stream,
//! an error.

use bytes::Bytes;
use http::HeaderMap;
use paceline_core::Endpoint;
use paceline_dialect::codec::{self, Codec, EventReader, PathFacts, Target};
use paceline_dialect::neutral::{Event, FailureClass, Part, Request, Response};
use paceline_dialect::wire;
use serde_json::{Map, Value};

use super::{Random, frames};

/// The codecs, with a name for each. Text completions are written by no codec, and the
/// estimate of tokens is no conversation.
pub(crate) const ALL: [(&str, Endpoint); 6] = [
    ("chat", Endpoint::Chat),
    ("completions", Endpoint::Completions),
    ("responses", Endpoint::Responses),
    ("anthropic", Endpoint::Messages),
    ("gemini", Endpoint::Generate),
    ("converse", Endpoint::Converse),
];

fn of(endpoint: Endpoint) -> &'static dyn Codec {
    codec::of(endpoint).expect("each of them is a conversation")
}

fn facts(endpoint: Endpoint) -> PathFacts {
    let in_path = [Endpoint::Generate, Endpoint::Converse].contains(&endpoint);
    let model = in_path.then(|| "m".to_owned());
    PathFacts { model, stream: false }
}

/// Reads bytes as all that a codec can be given.
pub(crate) fn codec(endpoint: Endpoint, data: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<Value>(data) {
        request(endpoint, &body);
        response(endpoint, body);
    }
    stream(endpoint, data);
    if let Some(frames) = frames::of_text(data).filter(|_| endpoint == Endpoint::Converse) {
        stream(endpoint, &frames);
    }
    error(endpoint, data);
    fields(endpoint, data);
}

/// What is read of a request can be written in every dialect, or is refused by name; and what
/// is written is read again as what it says.
fn request(endpoint: Endpoint, body: &Value) {
    let facts = facts(endpoint);
    let Ok(read) = of(endpoint).read_request(body.clone(), &facts) else { return };
    if !read.messages.iter().flat_map(|message| &message.parts).any(says) {
        return;
    }
    // Where something is left over, every other dialect refuses.
    let plain = Request { extra: Vec::new(), ..read.clone() };
    for (name, other) in ALL {
        let target = Target { model: "m".to_owned(), ..Target::default() };
        let codec = of(other);
        if !read.extra.is_empty() {
            assert!(codec.write_request(&read, &target).is_err(), "{name} drops {:?}", read.extra);
        }
        let Ok(written) = codec.write_request(&plain, &target) else { continue };
        let facts = self::facts(other);
        let again = codec.read_request(written.body.clone(), &facts).unwrap_or_else(|fault| {
            panic!("{name} does not read what it writes: {fault}: {}", written.body)
        });
        assert!(again.extra.is_empty(), "{name} writes beyond its words: {:?}", again.extra);
        let twice = codec.write_request(&Request { asked_s: 0, ..again.clone() }, &target);
        let twice = twice.unwrap_or_else(|u| panic!("{name} refuses its own: {u:?}"));
        assert_eq!(twice.body, written.body, "{name} writes it in another way");
        let third = codec.read_request(twice.body, &facts).expect("it was read before");
        assert_eq!(third, again, "{name} reads it in another way");
    }
}

/// Whether a part is told in every dialect: blank texts and thinking may be left out.
fn says(part: &Part) -> bool {
    match part {
        Part::Text { text, .. } | Part::Refusal { text } => !text.trim().is_empty(),
        Part::Thinking { .. } | Part::Hidden { .. } => false,
        _ => true,
    }
}

/// What is read of an answer can be written in every dialect, and is read there as one.
fn response(endpoint: Endpoint, body: Value) {
    let Ok(read) = of(endpoint).read_response(body) else { return };
    let request = Request::default();
    for (name, other) in ALL {
        let written = of(other).write_response(&read, &request);
        let again = of(other).read_response(written.clone()).unwrap_or_else(|fault| {
            panic!("{name} does not read what it writes: {fault}: {written}")
        });
        assert_eq!(texts(&again), texts(&read), "{name}: {written}");
        // Text completions know no calls.
        let told = other == Endpoint::Completions || calls(&again).len() == calls(&read).len();
        assert!(told, "{name}: {written}");
    }
}

/// All that is said, refusals with it.
fn texts(response: &Response) -> String {
    let said = response.parts.iter().filter_map(|part| match part {
        Part::Text { text, .. } | Part::Refusal { text } => Some(&**text),
        _ => None,
    });
    said.collect()
}

fn calls(response: &Response) -> Vec<&str> {
    let names = response.parts.iter().filter_map(|part| match part {
        Part::ToolCall { name, .. } => Some(&**name),
        _ => None,
    });
    names.collect()
}

/// What came of a stream, and whether it was whole.
type Told = (Vec<Event>, bool);

fn read<'a>(endpoint: Endpoint, parts: impl Iterator<Item = &'a [u8]>) -> Told {
    let mut reader: Box<dyn EventReader> = of(endpoint).event_reader();
    let mut events = Vec::new();
    for part in parts {
        if reader.push(part, &mut events).is_err() {
            return (events, false);
        }
    }
    let whole = reader.finish(&mut events).is_ok();
    (events, whole)
}

/// A stream tells the same however it is cut, in an order that every writer can follow; and
/// what is written of a whole one is whole.
fn stream(endpoint: Endpoint, bytes: &[u8]) {
    let told = read(endpoint, std::iter::once(bytes));
    assert_eq!(read(endpoint, bytes.chunks(1)), told, "cut at each byte");
    let mut random =
        Random::new(bytes.iter().fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(*byte)));
    let mut rest = bytes;
    let cut = std::iter::from_fn(|| {
        let (part, tail) = rest.split_at(rest.len().min(1 + random.below(60)));
        rest = tail;
        (!part.is_empty()).then_some(part)
    });
    assert_eq!(read(endpoint, cut), told, "cut anywhere");
    let (events, whole) = told;
    let ended = in_order(&events);
    assert_eq!(ended, whole, "it ends, and is not whole, or the other way: {events:?}");
    let failed = matches!(events.last(), Some(Event::Error(_)));
    let asked = Request { stream: true, include_usage: true, ..Request::default() };
    for (name, other) in ALL {
        let (mut writer, mut out) = (of(other).event_writer(&asked), Vec::new());
        events.iter().for_each(|event| writer.write(event, &mut out));
        if !whole {
            continue;
        }
        let (again, whole) = read(other, out.chunks(11));
        let out = String::from_utf8_lossy(&out);
        assert!(whole, "{name} writes a stream that is cut: {out}");
        in_order(&again);
        let fails = matches!(again.last(), Some(Event::Error(_)));
        assert_eq!(fails, failed, "{name}: {out}");
    }
}

/// Checks that events come in the order that is promised; whether the last one ends them.
fn in_order(events: &[Event]) -> bool {
    let (mut open, mut parts, mut calls, mut thinks) = (None, 0, false, false);
    let (mut started, mut ended, mut stopped) = (false, false, false);
    for event in events {
        assert!(!ended, "{event:?} comes after the end");
        match event {
            Event::Start { .. } => assert!(!std::mem::replace(&mut started, true), "{event:?}"),
            Event::PartStart { index, part } => {
                assert_eq!((open, *index), (None, parts), "{event:?}");
                assert!(started, "a part comes before the start");
                let nameless = matches!(part, Part::ToolCall { name, .. } if name.is_empty());
                assert!(!nameless, "a call of nothing");
                assert!(!stopped, "{event:?} comes after the reason");
                (open, parts) = (Some(*index), parts + 1);
                (calls, thinks) = match part {
                    Part::ToolCall { .. } => (true, false),
                    Part::Thinking { .. } => (false, true),
                    Part::Text { .. } | Part::Refusal { .. } => (false, false),
                    Part::Hidden { .. } => (true, true),
                    other => panic!("{other:?} in an answer"),
                };
            }
            Event::Text { index, .. } => {
                assert_eq!((open, calls), (Some(*index), false), "{event:?}");
            }
            Event::Arguments { index, .. } => {
                assert_eq!((open, calls, thinks), (Some(*index), true, false), "{event:?}");
            }
            Event::Seal { index, .. } => {
                assert_eq!(open, Some(*index), "{event:?}");
                assert!(calls != thinks, "{event:?} of a text or what is hidden");
            }
            Event::PartEnd { index } => assert_eq!(open.take(), Some(*index)),
            Event::Usage(_) => {}
            Event::Stop { .. } => {
                assert!(open.is_none() && !stopped, "{event:?}");
                stopped = true;
            }
            Event::End => {
                assert!(stopped, "it ends without a reason");
                ended = true;
            }
            Event::Error(_) => ended = true,
        }
    }
    ended
}

/// An error is read whatever it is, and means the same in every dialect.
fn error(endpoint: Endpoint, body: &[u8]) {
    let status = 400 + body.iter().fold(0, |sum: u16, byte| (sum * 7 + u16::from(*byte)) % 130);
    let failure = of(endpoint).read_failure(status, &HeaderMap::new(), body);
    for (name, other) in ALL {
        let (status, written) = of(other).write_failure(&failure);
        assert!((400..600).contains(&status), "{name}: {status}");
        let written = written.to_string();
        let again = of(other).read_failure(status, &HeaderMap::new(), written.as_bytes());
        assert_eq!(kind(again.class), kind(failure.class), "{name}: {status} {written}");
    }
}

/// What a class asks of the caller; dialects do not tell all of them apart.
fn kind(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Invalid | FailureClass::ContextTooLong | FailureClass::Filtered => "mend it",
        FailureClass::Unauthorized | FailureClass::Forbidden => "see to your key",
        FailureClass::NotFound => "name another",
        // Gemini has one word for both.
        FailureClass::Quota | FailureClass::RateLimited => "wait or pay",
        FailureClass::Overloaded | FailureClass::Timeout | FailureClass::Server => "try again",
    }
}

/// The fields that are read without parsing are those that a full parser finds.
fn fields(endpoint: Endpoint, body: &[u8]) {
    let bytes = Bytes::copy_from_slice(body);
    let path = Bytes::from_static(b"/v1beta/models/m:streamGenerateContent");
    let _ = (wire::usage(endpoint, body), wire::is_answer(endpoint, body));
    let _ = wire::is_preamble(endpoint, body);
    let mut facts = paceline_dialect::sse::Facts::default();
    wire::read_events(endpoint, body, &mut facts);
    let Ok(fields) = wire::fields(endpoint, &path, &bytes) else { return };
    let Ok(map) = serde_json::from_slice::<Map<String, Value>>(body) else { return };
    if endpoint == Endpoint::Generate {
        assert_eq!((&*fields.model, fields.stream), (b"m".as_slice(), true));
        return;
    }
    assert_eq!(std::str::from_utf8(&fields.model).ok(), map["model"].as_str());
    assert_eq!(fields.stream, map.get("stream").and_then(Value::as_bool).unwrap_or_default());
}
