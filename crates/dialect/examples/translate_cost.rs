//! What a translated event costs between OpenAI's chat and Anthropic's messages, in both
//! directions, beside what a passed-through one costs.
//!
//! `cargo run --release -p paceline-dialect --example translate_cost`

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use paceline_core::Endpoint;
use paceline_dialect::codec::Codec;
use paceline_dialect::neutral::{Event, Part, Request, Stop, Usage};
use paceline_dialect::sse::Splitter;
use paceline_dialect::{Anthropic, Chat};

/// Pieces of a stream, and rounds of which the quickest counts.
const PIECES: usize = 300;
const ROUNDS: usize = 200;

fn main() {
    let request = Request { stream: true, include_usage: true, ..Request::default() };
    for (kind, events) in [("text", texts()), ("arguments", arguments())] {
        for (from, from_name, endpoint, to, to_name) in [
            (
                &Anthropic as &dyn Codec,
                "anthropic",
                Endpoint::Messages,
                &Chat as &dyn Codec,
                "chat",
            ),
            (&Chat, "chat", Endpoint::Chat, &Anthropic, "anthropic"),
        ] {
            let wire = write(from, &request, &events);
            let reading = quickest(|| drop(black_box(read(from, &wire))));
            let writing = quickest(|| drop(black_box(write(to, &request, &events))));
            let both = quickest(|| drop(black_box(translate(from, to, &request, &wire))));
            let passing = quickest(|| _ = black_box(pass(endpoint, &wire)));
            println!(
                "{kind}, {from_name} to {to_name}: read {reading}, write {writing}, both {both}, \
                 passed through {passing} ns an event"
            );
        }
    }
}

/// The time of the quickest round, in nanoseconds for each piece.
fn quickest(mut round: impl FnMut()) -> u128 {
    let time = |_| {
        let start = Instant::now();
        round();
        start.elapsed().as_nanos()
    };
    (0..ROUNDS).map(time).min().unwrap_or_default() / PIECES as u128
}

fn texts() -> Vec<Event> {
    let part = Part::Text { text: String::new(), cache: None };
    stream(part, Event::Text { index: 0, text: " light\"house".to_owned() })
}

fn arguments() -> Vec<Event> {
    let part = Part::ToolCall {
        id: "toolu_01".to_owned(),
        name: "get_tide".to_owned(),
        arguments: String::new(),
        seal: None,
        cache: None,
    };
    stream(part, Event::Arguments { index: 0, json: "\"port\": ".to_owned() })
}

fn stream(part: Part, piece: Event) -> Vec<Event> {
    let start =
        Event::Start { id: "msg_01".to_owned(), model: "claude-sonnet-5".to_owned(), usage: None };
    let mut events = vec![start, Event::PartStart { index: 0, part }];
    events.extend(std::iter::repeat_n(piece, PIECES));
    events.extend([
        Event::PartEnd { index: 0 },
        Event::Usage(Usage::default()),
        Event::Stop { stop: Stop::End, sequence: None },
        Event::End,
    ]);
    events
}

fn write(codec: &dyn Codec, request: &Request, events: &[Event]) -> Vec<Vec<u8>> {
    let mut writer = codec.event_writer(request);
    let told = events.iter().map(|event| {
        let mut out = Vec::new();
        writer.write(event, &mut out);
        out
    });
    told.collect()
}

fn read(codec: &dyn Codec, wire: &[Vec<u8>]) -> Vec<Event> {
    let (mut reader, mut events) = (codec.event_reader(), Vec::new());
    for bytes in wire {
        if reader.push(bytes, &mut events).is_err() {
            break;
        }
    }
    events
}

fn translate(
    from: &dyn Codec,
    to: &dyn Codec,
    request: &Request,
    wire: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    let (mut reader, mut writer) = (from.event_reader(), to.event_writer(request));
    let (mut told, mut events) = (Vec::with_capacity(wire.len()), Vec::new());
    for bytes in wire {
        if reader.push(bytes, &mut events).is_err() {
            break;
        }
        let mut out = Vec::new();
        events.drain(..).for_each(|event| writer.write(&event, &mut out));
        told.push(out);
    }
    told
}

/// What the splitter does with a stream that is forwarded.
fn pass(endpoint: Endpoint, wire: &[Vec<u8>]) -> u64 {
    let mut splitter = Splitter::new(endpoint);
    for bytes in wire {
        let _ = splitter.push(Bytes::copy_from_slice(bytes));
    }
    splitter.facts().events
}
