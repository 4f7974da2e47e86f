//! What Bedrock answers, in streams.

use paceline_dialect::neutral::{Event, FailureClass, Part, Response, Stop};
use paceline_dialect::{Codec, Converse};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::golden::gather;
use crate::properties::frames;

fn wire(events: &[Value]) -> Vec<u8> {
    events.iter().flat_map(frames::of_case).collect()
}

/// What is told of bytes that come in pieces, and why they are no stream where they are none.
fn told(wire: &[u8], piece: usize) -> (Vec<Event>, Option<String>) {
    let (mut reader, mut events) = (Converse.event_reader(), Vec::new());
    for bytes in wire.chunks(piece.max(1)) {
        if let Err(broken) = reader.push(bytes, &mut events) {
            return (events, Some(broken.0));
        }
    }
    let ended = reader.finish(&mut events);
    (events, ended.err().map(|broken| broken.0))
}

fn read(events: &[Value]) -> (Response, Option<FailureClass>) {
    let (events, broken) = told(&wire(events), 9);
    assert_eq!(broken, None);
    gather(&events)
}

fn broken(events: &[Value]) -> bool {
    let (events, broken) = told(&wire(events), 9);
    assert!(!events.contains(&Event::End) || broken.is_none());
    broken.is_some()
}

fn start() -> Value {
    json!({"messageStart": {"role": "assistant"}})
}

fn delta(index: u64, delta: Value) -> Value {
    json!({"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}})
}

fn text(index: u64, text: &str) -> Value {
    delta(index, json!({"text": text}))
}

fn thought(index: u64, thought: Value) -> Value {
    delta(index, json!({"reasoningContent": thought}))
}

fn input(index: u64, input: &str) -> Value {
    delta(index, json!({"toolUse": {"input": input}}))
}

fn call(index: u64, id: &str) -> Value {
    let start = json!({"toolUse": {"toolUseId": id, "name": "look"}});
    json!({"contentBlockStart": {"contentBlockIndex": index, "start": start}})
}

fn close(index: u64) -> Value {
    json!({"contentBlockStop": {"contentBlockIndex": index}})
}

fn stop(reason: &str) -> Value {
    json!({"messageStop": {"stopReason": reason}})
}

fn metadata() -> Value {
    let usage = json!({"inputTokens": 7, "outputTokens": 2, "totalTokens": 9});
    json!({"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}})
}

#[test]
fn a_stream_without_its_usage_is_cut() {
    let whole = [start(), text(0, "It is."), close(0), stop("end_turn"), metadata()];
    assert!(!broken(&whole));
    (0..whole.len()).for_each(|end| assert!(broken(&whole[..end]), "{end}"));
}

#[test]
fn usage_before_the_end_is_kept() {
    let (response, failed) =
        read(&[metadata(), start(), text(0, "It is."), close(0), stop("end_turn")]);
    assert_eq!((failed, response.usage.input_uncached), (None, 7));
}

#[test]
fn what_is_not_known_is_passed_over() {
    let (response, failed) = read(&[
        start(),
        json!({"somethingNew": {"contentBlockIndex": "none"}}),
        json!({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "It is."}, "p": "abcd"}}),
        delta(0, json!({"citation": {"title": "Tides"}})),
        close(0),
        stop("end_turn"),
        metadata(),
    ]);
    assert_eq!(failed, None);
    assert_eq!(response.parts, [Part::Text { text: "It is.".to_owned(), cache: None }]);
}

#[test]
fn thinking_and_text_of_one_block_stay_apart() {
    let (response, _) = read(&[
        start(),
        thought(0, json!({"text": "Hm."})),
        text(0, "It is."),
        stop("end_turn"),
        metadata(),
    ]);
    let thinking = Part::Thinking { text: "Hm.".to_owned(), seal: None };
    let said = Part::Text { text: "It is.".to_owned(), cache: None };
    assert_eq!(response.parts, [thinking, said]);
}

#[test]
fn arguments_of_no_open_call_break_the_stream() {
    let end = || vec![stop("tool_use"), metadata()];
    let whole = [vec![start(), call(0, "t1"), input(0, "{}"), close(0)], end()].concat();
    assert!(!broken(&whole));
    let late = [vec![start(), call(0, "t1"), call(1, "t2"), input(0, "{}")], end()].concat();
    assert!(broken(&late));
    let none = [vec![start(), input(0, "{}")], end()].concat();
    assert!(broken(&none));
    let of_text = [vec![start(), text(0, "It"), input(0, "{}")], end()].concat();
    assert!(broken(&of_text));
    let start_of = json!({"toolUse": {"toolUseId": "t1"}});
    let nameless = json!({"contentBlockStart": {"contentBlockIndex": 0, "start": start_of}});
    assert!(broken(&[vec![start(), nameless], end()].concat()));
}

#[test]
fn nothing_is_said_after_the_reason_of_the_end() {
    let (first, more) = (vec![start(), text(0, "It is."), close(0), stop("end_turn")], metadata());
    assert!(broken(&[first.clone(), vec![text(1, "And"), more.clone()]].concat()));
    assert!(broken(&[first, vec![stop("tool_use"), more]].concat()));
}

#[test]
fn the_stop_text_is_told() {
    let reason = json!({"messageStop": {
        "stopReason": "stop_sequence",
        "additionalModelResponseFields": {"stop_sequence": "END"},
    }});
    let (response, _) = read(&[start(), text(0, "It is."), close(0), reason, metadata()]);
    assert_eq!((response.stop, response.stop_sequence.as_deref()), (Stop::Sequence, Some("END")));
}

#[test]
fn an_output_that_cannot_be_used_is_an_error() {
    let (_, failed) = read(&[start(), text(0, "It"), stop("malformed_tool_use"), metadata()]);
    assert_eq!(failed, Some(FailureClass::Server));
}

#[test]
fn errors_of_the_service_itself_tell_why() {
    let names = [
        (":message-type", "error"),
        (":error-code", "throttlingException"),
        (":error-message", "Slow down."),
    ];
    let wire = [wire(&[start(), text(0, "It")]), frames::sealed(&names, b"")].concat();
    let (events, broken) = told(&wire, 5);
    assert_eq!(broken, None);
    let Some(Event::Error(failure)) = events.last() else { panic!("{events:?}") };
    assert_eq!((failure.class, &*failure.message), (FailureClass::RateLimited, "Slow down."));
}

/// Any event that Bedrock or somebody worse might send.
fn any_event() -> impl Strategy<Value = Value> {
    let index = 0..3u64;
    prop_oneof![
        Just(start()),
        index.clone().prop_map(|at| text(at, "It")),
        index.clone().prop_map(|at| thought(at, json!({"text": "Hm"}))),
        index.clone().prop_map(|at| thought(at, json!({"signature": "seal"}))),
        index.clone().prop_map(|at| thought(at, json!({"redactedContent": "AAAA"}))),
        index.clone().prop_map(|at| input(at, "{}")),
        index.clone().prop_map(|at| call(at, "t1")),
        index.clone().prop_map(close),
        index.prop_map(|at| json!({"contentBlockStart": {"contentBlockIndex": at, "start": {}}})),
        Just(stop("end_turn")),
        Just(stop("malformed_tool_use")),
        Just(metadata()),
        Just(json!({":exception": "throttlingException", "payload": {"message": "Slow down."}})),
        Just(json!({"contentBlockDelta": {"contentBlockIndex": -1}})),
        Just(json!({"contentBlockDelta": []})),
        Just(json!({"somethingNew": null})),
    ]
}

proptest! {
    /// `gather` checks that parts begin, go on and end in order.
    #[test]
    fn any_order_of_events_is_told_in_order_or_broken(
        events in proptest::collection::vec(any_event(), 0..12),
        piece in 1..40usize,
    ) {
        let wire = wire(&events);
        let whole = told(&wire, wire.len());
        prop_assert_eq!(&told(&wire, piece), &whole);
        gather_begun(&whole.0);
    }
}

/// Checks the grammar of events, ended or not.
fn gather_begun(events: &[Event]) {
    let mut events = events.to_vec();
    if !matches!(events.last(), Some(Event::End | Event::Error(_))) {
        let class = FailureClass::Server;
        let failure = paceline_dialect::neutral::Failure {
            class,
            message: String::new(),
            code: None,
            param: None,
        };
        events.push(Event::Error(failure));
    }
    gather(&events);
}
