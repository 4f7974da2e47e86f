//! Streams, as OpenAI writes them and as others do.

use super::{answer, call, events, read_stream, seal, stream, text, wire_events};
use crate::golden::{cases, codec, gather};
use crate::properties::Random;
use http::HeaderMap;
use paceline_dialect::codec::{PathFacts, Target};
use paceline_dialect::neutral::{
    Event, Failure, FailureClass, Part, Request, Response, Seal, Stop, Vendor,
};
use paceline_dialect::responses::resolve_references;
use paceline_dialect::{Codec, Responses};
use serde_json::{Value, json};

#[test]
fn streams_are_written_and_read_as_the_same() {
    let mut count = 0;
    for case in cases() {
        let (Some(codec), Some(wire)) = (codec(&case.dialect), case.wire()) else { continue };
        let (mut reader, mut events) = (codec.event_reader(), Vec::new());
        reader.push(&wire, &mut events).unwrap();
        reader.finish(&mut events).unwrap();
        let mut writer = Responses.event_writer(&Request::default());
        let mut out = Vec::new();
        events.iter().for_each(|event| writer.write(event, &mut out));
        let again = read_stream(&out, 7);
        if case.dialect != "openai-responses" {
            // Identifiers and what each dialect alone has are of no concern here.
            let ((told, failed), (expected, also)) = (gather(&again), gather(&events));
            assert_eq!(failed, also, "{}", case.name);
            // A failed stream tells no usage here.
            assert!(also.is_some() || told.usage == expected.usage, "{}", case.name);
            continue;
        }
        count += 1;
        assert_eq!(again, events, "{}", case.name);

        // Each event has the name, the place and the members of the vendor's.
        let (ours, vendors) = (wire_events(&out), case.response["stream"].as_array().unwrap());
        let names = |events: &[Value]| events.iter().map(|e| e["type"].clone()).collect::<Vec<_>>();
        assert_eq!(names(&ours), names(vendors), "{}", case.name);
        for (ours, vendors) in ours.iter().zip(vendors) {
            check_members(ours, vendors, &case.name);
            assert_eq!(ours["sequence_number"], vendors["sequence_number"], "{}", case.name);
        }
    }
    assert_eq!(count, 4);
}

/// Each member of the vendor's object is in ours, of the same kind. Only `store` is left to
/// the gateway.
fn check_members(ours: &Value, vendors: &Value, case: &str) {
    match (ours, vendors) {
        (Value::Object(ours), Value::Object(vendors)) => {
            for (name, value) in vendors.iter().filter(|(name, _)| *name != "store") {
                let own = ours.get(name);
                assert!(own.is_some(), "{case}: {name} of {vendors:?}");
                check_members(own.unwrap(), value, case);
            }
        }
        (Value::Array(ours), Value::Array(vendors)) => {
            assert_eq!(ours.len(), vendors.len(), "{case}");
            ours.iter().zip(vendors).for_each(|(ours, vendors)| check_members(ours, vendors, case));
        }
        _ => assert_eq!(
            std::mem::discriminant(ours),
            std::mem::discriminant(vendors),
            "{case}: {ours}"
        ),
    }
}

#[test]
fn whole_and_streamed_answers_are_the_same() {
    let parts = vec![
        Part::Thinking { text: "Hm.".to_owned(), seal: Some(seal(Vendor::Google)) },
        Part::Hidden { seal: seal(Vendor::OpenAi) },
        Part::Thinking { text: String::new(), seal: Some(seal(Vendor::Anthropic)) },
        text("One "),
        text("moment."),
        call("c1", "{\"port\": \"Å\"}"),
        call("c2", ""),
        Part::Refusal { text: "No.".to_owned() },
    ];
    let response = answer(parts, Stop::Tool);
    let mut whole = Responses.write_response(&response, &Request::default());
    let wire = stream(&response);
    let events = wire_events(&wire);
    let last = &events.last().unwrap()["response"];
    // A stream does not say when it was made.
    whole["created_at"] = json!(0);
    assert_eq!(*last, whole);
    let read = Responses.read_response(whole).unwrap();
    for piece in [1, 3, wire.len()] {
        let (told, failed) = gather(&read_stream(&wire, piece));
        assert_eq!((told.parts, failed), (read.parts.clone(), None));
    }
    // Identifiers never change, and say what they are of.
    let mut ids = std::collections::BTreeMap::new();
    for event in &events {
        let item = event.get("item").map(|item| &item["id"]).or_else(|| event.get("item_id"));
        if let (Some(id), at) = (item, &event["output_index"]) {
            let known = ids.entry(at.to_string()).or_insert_with(|| id.clone());
            assert_eq!(known, id);
            let name = event["type"].as_str().unwrap();
            let prefix = if name.contains("reasoning") {
                "rs_"
            } else if name.contains("function_call") {
                "fc_"
            } else {
                ""
            };
            assert!(id.as_str().unwrap().starts_with(prefix), "{name}: {id}");
        }
    }
    assert_eq!(ids.len(), 7);
}

/// The events of a server that does not stream as OpenAI does.
fn told_by(events: &[Value]) -> (Response, Option<FailureClass>) {
    let wire: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    gather(&read_stream(wire.as_bytes(), 5))
}

#[test]
fn parts_that_interleave_come_one_after_another() {
    let added = |at: usize| {
        let item = json!({"type": "function_call", "id": format!("fc_{at}"), "call_id": format!("c{at}"), "name": "get_tide", "arguments": ""});
        json!({"type": "response.output_item.added", "output_index": at, "item": item})
    };
    let delta = |at: usize, delta: &str| json!({"type": "response.function_call_arguments.delta", "output_index": at, "delta": delta});
    let done = |at: usize| {
        let item = json!({"type": "function_call", "call_id": format!("c{at}"), "name": "get_tide", "arguments": ""});
        json!({"type": "response.output_item.done", "output_index": at, "item": item})
    };
    let completed =
        json!({"type": "response.completed", "response": {"id": "r", "status": "completed"}});
    let (told, _) = told_by(&[
        added(0),
        added(1),
        delta(1, "{\"b\""),
        delta(0, "{\"a\""),
        delta(1, ":1}"),
        done(1),
        added(2),
        delta(0, ":0}"),
        done(0),
        delta(2, "{}"),
        completed,
    ]);
    assert_eq!(told.parts, [call("c0", "{\"a\":0}"), call("c1", "{\"b\":1}"), call("c2", "{}")]);
    assert_eq!(told.stop, Stop::Tool);
}

#[test]
fn servers_that_stream_less_are_understood() {
    let message =
        json!({"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Hi."}]});
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]});
    let completed = |output: Value| json!({"type": "response.completed", "response": {"id": "r", "model": "m", "status": "completed", "output": output}});
    let added = |item: &Value| json!({"type": "response.output_item.added", "output_index": 0, "item": item});
    let done = |item: &Value| json!({"type": "response.output_item.done", "output_index": 0, "item": item});
    let hm = Part::Thinking { text: "Hm.".to_owned(), seal: None };
    // All at the end.
    let (told, _) = told_by(&[completed(json!([reasoning, message]))]);
    assert_eq!((told.parts, &*told.id), (vec![hm.clone(), text("Hi.")], "r"));
    // Only whole items.
    let (told, _) = told_by(&[done(&message), completed(json!([message]))]);
    assert_eq!(told.parts, [text("Hi.")]);
    let (told, _) = told_by(&[
        added(&json!({"type": "reasoning", "id": "rs_1"})),
        done(&reasoning),
        completed(json!([])),
    ]);
    assert_eq!(told.parts, [hm]);
    // No beginnings of pieces.
    let delta = json!({"type": "response.output_text.delta", "delta": "Hi."});
    let (told, _) = told_by(&[delta, done(&message), completed(json!([message]))]);
    assert_eq!(told.parts, [text("Hi.")]);
    // Only the ends of texts and arguments.
    let part =
        json!({"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}});
    let whole = json!({"type": "response.output_text.done", "text": "Hi."});
    let (told, _) = told_by(&[part, whole, done(&message), completed(json!([message]))]);
    assert_eq!(told.parts, [text("Hi.")]);
    let start =
        json!({"type": "function_call", "call_id": "c1", "name": "get_tide", "arguments": ""});
    let end =
        json!({"type": "function_call", "call_id": "c1", "name": "get_tide", "arguments": "{}"});
    let (told, _) = told_by(&[added(&start), done(&end), completed(json!([end]))]);
    assert_eq!(told.parts, [call("c1", "{}")]);
    // Open models show what they think; reasoning of which nothing is shown is none.
    let thought = |text: &str, piece: usize| json!({"type": "response.reasoning_text.delta", "content_index": piece, "delta": text});
    let (told, _) = told_by(&[
        added(&json!({"type": "reasoning", "id": "rs_1"})),
        thought("A", 0),
        thought("b", 0),
        json!({"type": "response.content_part.done", "part": {"type": "reasoning_text", "text": "Ab"}}),
        thought("C", 1),
        done(&json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "x"})),
        completed(json!([])),
    ]);
    let sealed =
        Seal { vendor: Vendor::OpenAi, data: "x".to_owned(), item: Some("rs_1".to_owned()) };
    assert_eq!(
        told.parts,
        [Part::Thinking { text: "Ab\n\nC".to_owned(), seal: Some(sealed.clone()) }]
    );
    let empty = json!({"type": "reasoning", "id": "rs_1", "summary": []});
    let (told, _) = told_by(&[added(&empty), done(&empty), completed(json!([]))]);
    assert_eq!(told.parts, []);
    let hidden =
        json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"});
    let (told, _) = told_by(&[added(&empty), done(&hidden), completed(json!([]))]);
    assert_eq!(told.parts, [Part::Hidden { seal: sealed }]);
    // Events that are not known, whatever they hold, and what ends other dialects.
    let unknown = json!({"type": "response.shell_call_output_content.delta", "delta": {"stdout": "x"}, "output_index": "a"});
    let (told, _) = told_by(&[
        unknown,
        json!({"type": "keepalive", "sequence_number": 3}),
        completed(json!([message])),
    ]);
    assert_eq!(told.parts, [text("Hi.")]);
    let wire = format!("data: {}\n\ndata: [DONE]\n\n", completed(json!([])));
    assert_eq!(gather(&read_stream(wire.as_bytes(), 9)).1, None);
}

#[test]
fn streams_that_fail_or_are_cut_say_so() {
    let check = |events: &[Value], class: FailureClass| {
        let (_, failed) = told_by(events);
        assert_eq!(failed, Some(class), "{events:?}");
    };
    let failed = |code: &str| json!({"type": "response.failed", "response": {"status": "failed", "error": {"code": code, "message": "x"}}});
    check(&[failed("server_error")], FailureClass::Server);
    check(&[failed("rate_limit_exceeded")], FailureClass::RateLimited);
    check(&[failed("context_length_exceeded")], FailureClass::ContextTooLong);
    check(&[failed("insufficient_quota")], FailureClass::Quota);
    check(&[json!({"type": "response.failed", "response": {"error": null}})], FailureClass::Server);
    check(
        &[json!({"type": "error", "code": "server_is_overloaded", "message": "x"})],
        FailureClass::Overloaded,
    );
    check(
        &[json!({"type": "error", "error": {"type": "x", "code": 400, "message": "x"}})],
        FailureClass::Server,
    );
    check(
        &[json!({"error": {"message": "your prompt is too long"}})],
        FailureClass::ContextTooLong,
    );
    let bare = "{\"error\": {\"message\": \"x\", \"code\": \"rate_limit_exceeded\"}}\n";
    assert_eq!(gather(&read_stream(bare.as_bytes(), 3)).1, Some(FailureClass::RateLimited));
    for wire in ["", "data: {\"type\":\"response.created\"}\n\n", "<html>\n", ": comment\n\n"] {
        let mut reader = Responses.event_reader();
        let mut events = Vec::new();
        reader.push(wire.as_bytes(), &mut events).unwrap();
        assert!(reader.finish(&mut events).is_err(), "{wire}");
    }
    for data in ["nonsense", "{\"type\":\"response.output_text.delta\",\"delta\":1}"] {
        let mut reader = Responses.event_reader();
        assert!(reader.push(format!("data: {data}\n\n").as_bytes(), &mut Vec::new()).is_err());
    }
}

#[test]
fn a_failed_stream_keeps_what_was_complete() {
    let failure = |class| Failure { class, message: "Gone.".to_owned(), code: None, param: None };
    let mut response = answer(vec![call("c1", "{}"), text("It is")], Stop::End);
    let mut writer = Responses.event_writer(&Request::default());
    let mut out = Vec::new();
    response.id = "resp_1".to_owned();
    let events = events(&response);
    let open = events.iter().rposition(|event| matches!(event, Event::PartEnd { .. })).unwrap();
    events[..open].iter().for_each(|event| writer.write(event, &mut out));
    writer.write(&Event::Error(failure(FailureClass::Overloaded)), &mut out);
    let len = out.len();
    writer.write(&Event::End, &mut out);
    assert_eq!(out.len(), len, "nothing comes after an error");
    let told = wire_events(&out[..len]);
    let last = told.last().unwrap();
    assert_eq!(last["type"], "response.failed");
    let answer = &last["response"];
    assert_eq!(answer["id"], "resp_1");
    assert_eq!(answer["error"], json!({"code": "server_is_overloaded", "message": "Gone."}));
    assert_eq!(answer["output"].as_array().unwrap().len(), 1);
    // Clients want `response.created` first even then.
    let mut out = Vec::new();
    Responses
        .event_writer(&Request::default())
        .write(&Event::Error(failure(FailureClass::Quota)), &mut out);
    let names: Vec<_> = wire_events(&out).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(names, ["response.created", "response.in_progress", "response.failed"]);
}

/// Whatever comes, nothing panics, and what was read can be written.
#[test]
fn changed_bytes_never_panic() {
    let mut random = Random::new(7);
    let ours: Vec<_> =
        cases().into_iter().filter(|case| case.dialect == "openai-responses").collect();
    for _ in 0..3_000 {
        let case = &ours[random.below(ours.len())];
        let mut bytes = case.request["body"].to_string().into_bytes();
        change(&mut random, &mut bytes);
        if let Ok(body) = serde_json::from_slice::<Value>(&bytes) {
            let _ = Responses.read_response(body.clone());
            let _ = resolve_references(body.clone(), |_| None);
            if let Ok(request) = Responses.read_request(body, &PathFacts::default()) {
                let _ = Responses.write_request(&request, &Target::default());
                let _ = Responses.event_writer(&request);
            }
        }
        let _ = Responses.read_failure(400, &HeaderMap::new(), &bytes);
        let Some(mut wire) = case.wire() else { continue };
        change(&mut random, &mut wire);
        let mut reader = Responses.event_reader();
        let mut events = Vec::new();
        let piece = 1 + random.below(200);
        if wire.chunks(piece).all(|bytes| reader.push(bytes, &mut events).is_ok()) {
            let _ = reader.finish(&mut events);
        }
        let mut writer = Responses.event_writer(&Request::default());
        let mut out = Vec::new();
        events.iter().for_each(|event| writer.write(event, &mut out));
    }
}

/// Takes bytes out, doubles some, and puts others in.
fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    const WORDS: [&[u8]; 12] = [
        b"null",
        b"\"",
        b"{}",
        b"[]",
        b"1",
        b"\"type\":\"error\",",
        b"\"output_index\":9,",
        b"\n\n",
        b"data: {}\n\n",
        b"\xff",
        b"\"role\":\"system\",",
        b"\"delta\":\"\xc3\xa9\",",
    ];
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        let end = bytes.len().min(at + random.below(40));
        match random.below(4) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.extend_from_within(at..end),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            _ => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
        }
    }
}
