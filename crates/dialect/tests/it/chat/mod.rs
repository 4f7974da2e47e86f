//! What servers and clients of chat completions really send, beside the golden cases.

mod requests;
mod streams;
mod thinking;

use paceline_dialect::codec::Broken;
use paceline_dialect::neutral::{Event, Part, Response};
use paceline_dialect::{Chat, Codec};

/// Reads a stream given by the data of its events.
pub(super) fn read(events: &[&str]) -> Result<Vec<Event>, Broken> {
    let wire: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    read_wire(&wire)
}

/// Reads the bytes of a stream, cut in pieces.
pub(super) fn read_wire(wire: &str) -> Result<Vec<Event>, Broken> {
    let (mut reader, mut events) = (Chat.event_reader(), Vec::new());
    for piece in wire.as_bytes().chunks(13) {
        reader.push(piece, &mut events)?;
    }
    reader.finish(&mut events)?;
    Ok(events)
}

/// A chunk with a delta.
pub(super) fn delta(delta: &str) -> String {
    format!(r#"{{"id":"c","model":"m","choices":[{{"index":0,"delta":{delta}}}]}}"#)
}

/// The chunk that tells why an answer ended.
pub(super) fn end(reason: &str) -> String {
    format!(r#"{{"id":"c","choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#)
}

/// What a whole stream of deltas adds up to.
pub(super) fn gathered(deltas: &[&str]) -> Response {
    let mut events: Vec<_> = deltas.iter().map(|text| delta(text)).collect();
    events.extend([end("stop"), "[DONE]".to_owned()]);
    let events: Vec<_> = events.iter().map(String::as_str).collect();
    let read = read(&events).unwrap_or_else(|broken| panic!("{broken}: {deltas:?}"));
    crate::golden::gather(&read).0
}

/// The calls of an answer: identifier, name, arguments.
pub(super) fn calls(response: &Response) -> Vec<(&str, &str, &str)> {
    let mut calls = Vec::new();
    for part in &response.parts {
        if let Part::ToolCall { id, name, arguments, .. } = part {
            calls.push((id.as_str(), name.as_str(), arguments.as_str()));
        }
    }
    calls
}
