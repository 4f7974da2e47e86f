//! The Responses dialect: what its clients send, what its writers give, and the traps.

mod answers;
mod read_requests;
mod streams;
mod write_requests;

use paceline_dialect::codec::PathFacts;
use paceline_dialect::neutral::{
    Event, Message, Part, Request, Response, Role, Seal, Stop, Usage, Vendor,
};
use paceline_dialect::{Codec, Responses};
use serde_json::Value;

pub(crate) fn read(body: Value) -> Request {
    Responses.read_request(body, &PathFacts::default()).unwrap()
}

pub(crate) fn text(text: &str) -> Part {
    Part::Text { text: text.to_owned(), cache: None }
}

pub(crate) fn call(id: &str, arguments: &str) -> Part {
    Part::ToolCall {
        id: id.to_owned(),
        name: "get_tide".to_owned(),
        arguments: arguments.to_owned(),
        seal: None,
        cache: None,
    }
}

pub(crate) fn result(content: Vec<Part>, error: bool) -> Part {
    Part::ToolResult {
        id: "c1".to_owned(),
        name: "get_tide".to_owned(),
        content,
        error,
        cache: None,
    }
}

pub(crate) fn seal(vendor: Vendor) -> Seal {
    Seal { vendor, data: "sealed".to_owned(), item: None }
}

pub(crate) fn turn(role: Role, parts: Vec<Part>) -> Message {
    Message { role, parts, name: None }
}

pub(crate) fn asks(messages: Vec<Message>) -> Request {
    Request { model: "m".to_owned(), messages, ..Request::default() }
}

pub(crate) fn answer(parts: Vec<Part>, stop: Stop) -> Response {
    let usage =
        Usage { input_uncached: 10, cache_read: 20, cache_write: 5, output: 7, reasoning: 3 };
    Response {
        id: "msg_01".to_owned(),
        model: "claude".to_owned(),
        created: 1_795_500_000,
        parts,
        stop,
        stop_sequence: None,
        usage,
    }
}

/// The bytes of a stream of a response, each part in pieces.
pub(crate) fn stream(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Responses.event_writer(&Request::default());
    for event in events(response) {
        writer.write(&event, &mut out);
    }
    out
}

pub(crate) fn events(response: &Response) -> Vec<Event> {
    let mut events =
        vec![Event::Start { id: response.id.clone(), model: response.model.clone(), usage: None }];
    for (index, part) in response.parts.iter().enumerate() {
        let mut start = part.clone();
        let body = match &mut start {
            Part::Text { text, .. } | Part::Refusal { text } | Part::Thinking { text, .. } => {
                std::mem::take(text)
            }
            Part::ToolCall { arguments, .. } => std::mem::take(arguments),
            _ => String::new(),
        };
        let sealed = match &mut start {
            Part::Thinking { seal, .. } => seal.take(),
            _ => None,
        };
        let is_call = matches!(start, Part::ToolCall { .. });
        events.push(Event::PartStart { index, part: start });
        for letter in body.chars().map(String::from) {
            events.push(if is_call {
                Event::Arguments { index, json: letter }
            } else {
                Event::Text { index, text: letter }
            });
        }
        events.extend(sealed.map(|seal| Event::Seal { index, seal }));
        events.push(Event::PartEnd { index });
    }
    events.push(Event::Usage(response.usage));
    let sequence = response.stop_sequence.clone();
    events.extend([Event::Stop { stop: response.stop, sequence }, Event::End]);
    events
}

pub(crate) fn read_stream(wire: &[u8], piece: usize) -> Vec<Event> {
    let (mut reader, mut events) = (Responses.event_reader(), Vec::new());
    for bytes in wire.chunks(piece) {
        reader.push(bytes, &mut events).unwrap();
    }
    reader.finish(&mut events).unwrap();
    events
}

/// The events of a stream's bytes, whose names must be those of their data.
pub(crate) fn wire_events(wire: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(wire).unwrap();
    let event = |event: &str| {
        let (name, data) = event.split_once('\n')?;
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        Some(data)
    };
    text.split_terminator("\n\n").filter_map(event).collect()
}
