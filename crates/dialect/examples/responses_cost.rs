//! What a translated event of the Responses dialect costs: reading and writing apart.
//!
//! `cargo run --release -p paceline-dialect --example responses_cost`

use std::hint::black_box;
use std::time::Instant;

use paceline_dialect::codec::PathFacts;
use paceline_dialect::neutral::{Event, Part, Request, Stop, Usage};
use paceline_dialect::{Codec, Responses};
use serde_json::json;

/// Pieces of text of a stream, and rounds of which the quickest counts.
const PIECES: usize = 300;
const ROUNDS: usize = 300;

fn main() {
    let tools: Vec<_> = (0..20)
        .map(|at| json!({"type": "function", "name": format!("tool_{at}"), "description": "x".repeat(200), "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}))
        .collect();
    let body = json!({"model": "m", "instructions": "y".repeat(2000), "input": "Hi", "tools": tools, "stream": true});
    let request = Responses.read_request(body, &PathFacts::default()).unwrap_or_default();
    let events = stream();
    let wire = write(&request, &events);
    let (mut writing, mut reading) = (u128::MAX, u128::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(write(black_box(&request), &events));
        writing = writing.min(start.elapsed().as_nanos());
        let start = Instant::now();
        black_box(read(black_box(&wire)));
        reading = reading.min(start.elapsed().as_nanos());
    }
    let each = |ns: u128| ns / PIECES as u128;
    println!("{} bytes, {PIECES} pieces of text, a request with 20 tools", wire.len());
    println!("write {} ns a piece, read {} ns a piece", each(writing), each(reading));
}

fn stream() -> Vec<Event> {
    let part = Part::Text { text: String::new(), cache: None };
    let mut events = vec![
        Event::Start { id: "resp_1".to_owned(), model: "m".to_owned(), usage: None },
        Event::PartStart { index: 0, part },
    ];
    let piece = Event::Text { index: 0, text: " lighthouse".to_owned() };
    events.extend(std::iter::repeat_n(piece, PIECES));
    events.extend([
        Event::PartEnd { index: 0 },
        Event::Usage(Usage::default()),
        Event::Stop { stop: Stop::End, sequence: None },
        Event::End,
    ]);
    events
}

fn write(request: &Request, events: &[Event]) -> Vec<u8> {
    let mut writer = Responses.event_writer(request);
    let mut out = Vec::new();
    events.iter().for_each(|event| writer.write(event, &mut out));
    out
}

fn read(wire: &[u8]) -> Vec<Event> {
    let mut reader = Responses.event_reader();
    let mut events = Vec::new();
    // As it comes from the network: an event or so at a time.
    for bytes in wire.chunks(200) {
        if reader.push(bytes, &mut events).is_err() {
            break;
        }
    }
    events
}
