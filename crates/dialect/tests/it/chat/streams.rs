//! Streams of servers, with their slips.

use paceline_dialect::neutral::{Event, FailureClass, Part, Stop, Usage};
use paceline_dialect::{Chat, Codec};
use serde_json::json;

use super::{calls, delta, end, gathered, read, read_wire};

#[test]
fn a_stream_is_whole_by_its_reason_alone() {
    let hi = delta(r#"{"content":"Hi"}"#);
    let stop = end("stop");
    // Azure and Ollama may leave out the last line; the reason says that it ended.
    for whole in [&[&*hi, &*stop, "[DONE]"][..], &[&*hi, &*stop]] {
        let events = read(whole).unwrap();
        assert_eq!(events.last(), Some(&Event::End));
        let stop = Event::Stop { stop: Stop::End, sequence: None };
        assert_eq!(events.iter().filter(|event| **event == stop).count(), 1);
    }
    // A server whose engine died may close the stream in good order.
    for cut in [&[&*hi, "[DONE]"][..], &[&*hi], &["[DONE]"], &[]] {
        let broken = read(cut);
        assert!(broken.is_err(), "{cut:?}: {broken:?}");
    }
}

#[test]
fn an_empty_reason_is_none() {
    let chunk = |text: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":""}}]}}"#
        )
    };
    let (a, b, stop) = (chunk("a"), chunk("b"), end("length"));
    let (answer, _) = crate::golden::gather(&read(&[&a, &b, &stop]).unwrap());
    assert_eq!(answer.parts, [Part::Text { text: "ab".to_owned(), cache: None }]);
    assert_eq!(answer.stop, Stop::Length);
    assert!(read(&[&a, &b, "[DONE]"]).is_err());
}

#[test]
fn a_reason_that_tells_a_failure_is_one() {
    for (reason, class) in [
        ("error", FailureClass::Server),
        ("abort", FailureClass::Server),
        ("insufficient_system_resource", FailureClass::Overloaded),
    ] {
        let events = read(&[&delta(r#"{"content":"a"}"#), &end(reason), "[DONE]"]).unwrap();
        match events.last() {
            Some(Event::Error(failure)) => assert_eq!(failure.class, class),
            other => panic!("{reason}: {other:?}"),
        }
        let whole = json!({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]});
        assert!(Chat.read_response(whole).is_err(), "{reason}");
    }
}

#[test]
fn errors_are_found_wherever_they_stand() {
    let hi = format!("data: {}\n\n", delta(r#"{"content":"Hi"}"#));
    for (error, class) in [
        ("data: {\"error\":{\"message\":\"x\",\"code\":502}}\n\n", FailureClass::Server),
        ("data: {\"error\":\"x\"}\n\n", FailureClass::Server),
        ("data: {\"x_groq\":{\"error\":\"x\"},\"choices\":[]}\n\n", FailureClass::Server),
        (
            "data: {\"object\":\"error\",\"message\":\"x\",\"type\":\"BadRequestError\",\
             \"code\":400}\n\n",
            FailureClass::Invalid,
        ),
        ("event: error\ndata: {\"message\":\"x\"}\n\n", FailureClass::Server),
        (
            "{\"error\":{\"message\":\"x\",\"type\":\"overloaded_error\"}}\n",
            FailureClass::Overloaded,
        ),
    ] {
        let events = read_wire(&format!("{hi}{error}")).unwrap();
        match events.last() {
            Some(Event::Error(failure)) => assert_eq!(failure.class, class, "{error}"),
            other => panic!("{error}: {other:?}"),
        }
    }
    let whole = json!({"object": "error", "message": "no such model", "code": 404});
    let fault = Chat.read_response(whole).unwrap_err();
    assert!(fault.problem.contains("no such model"), "{fault}");
}

#[test]
fn lines_may_come_in_any_form() {
    let (hi, stop) = (delta(r#"{"content":"Hi"}"#), end("stop"));
    for wire in [
        format!("\u{feff}data: {hi}\n\ndata: {stop}\n\ndata: [DONE]\n\n"),
        format!("data:{hi}\r\n\r\ndata:{stop}\r\n\r\ndata:[DONE]\r\n\r\n"),
        format!(": OPENROUTER PROCESSING\n\ndata: {hi}\n\n:\n\ndata: {stop}\n\ndata: [DONE]"),
        format!("id: 1\nevent: message\nretry: 5\ndata: {hi}\n\ndata: {stop}\n\n"),
        format!("data: {{\"choices\":[]}}\n\ndata: {hi}\n\ndata: {stop}\n\n"),
        format!("data: {{\"choices\":null,\"usage\":null}}\n\ndata: {hi}\n\ndata: {stop}\n\n"),
    ] {
        let (answer, failed) = crate::golden::gather(&read_wire(&wire).unwrap());
        assert_eq!(answer.parts, [Part::Text { text: "Hi".to_owned(), cache: None }], "{wire}");
        assert_eq!(failed, None);
    }
}

#[test]
fn the_last_usage_counts_wherever_it_stands() {
    let usage = |n: u64| format!(r#""usage":{{"prompt_tokens":9,"completion_tokens":{n}}}"#);
    let chunk = |n, rest: &str| {
        let (usage, delta) = (usage(n), r#"{"content":"a"}"#);
        format!(r#"{{{usage},"choices":[{{"index":0,"delta":{delta}{rest}}}]}}"#)
    };
    let last = format!(r#"{{"choices":[],{}}}"#, usage(3));
    for (events, output) in [
        (vec![chunk(1, ""), chunk(2, r#","finish_reason":"stop""#)], 2),
        (vec![chunk(1, ""), end("stop"), last], 3),
    ] {
        let events: Vec<_> = events.iter().map(String::as_str).collect();
        let (answer, _) = crate::golden::gather(&read(&events).unwrap());
        assert_eq!(answer.usage, Usage { input_uncached: 9, output, ..Usage::default() });
    }
    // What is counted in the total alone was thought.
    let beside =
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":18}}"#;
    let (answer, _) = crate::golden::gather(
        &read(&[&delta(r#"{"content":"a"}"#), &end("stop"), beside]).unwrap(),
    );
    assert_eq!((answer.usage.output, answer.usage.reasoning), (9, 7));
}

#[test]
fn members_of_another_kind_are_passed_over() {
    let chunk = r#"{"id":7,"created":"now","model":null,"choices":[{"index":0.0,"delta":{"content":"a","reasoning":{"x":1},"refusal":[],"tool_calls":null,"audio":{"id":"x"}},"logprobs":{"content":[]}}],"usage":{"prompt_tokens":-1,"completion_tokens":2.0}}"#;
    let (answer, _) = crate::golden::gather(&read(&[chunk, &end("stop")]).unwrap());
    assert_eq!(answer.parts, [Part::Text { text: "a".to_owned(), cache: None }]);
    assert_eq!(answer.usage, Usage { output: 2, ..Usage::default() });
}

#[test]
fn a_message_beside_the_delta_is_the_whole_so_far() {
    let chunk = |delta: &str, message: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{delta}"}},"message":{{"content":"{message}"}}}}]}}"#
        )
    };
    let events = [chunk("a", "a"), chunk("b", "ab"), end("stop")];
    let events: Vec<_> = events.iter().map(String::as_str).collect();
    let (answer, _) = crate::golden::gather(&read(&events).unwrap());
    assert_eq!(answer.parts, [Part::Text { text: "ab".to_owned(), cache: None }]);
}

#[test]
fn thinking_is_read_by_each_of_its_names() {
    let thought = [Part::Thinking { text: "ab".to_owned(), seal: None }];
    for deltas in [
        [r#"{"reasoning_content":"a"}"#, r#"{"reasoning_content":"b","content":null}"#],
        [r#"{"reasoning":"a","reasoning_content":""}"#, r#"{"reasoning":"b"}"#],
        [
            r#"{"reasoning":"a","reasoning_content":"a"}"#,
            r#"{"reasoning":"b","reasoning_content":"b"}"#,
        ],
        [
            r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"}]}]}"#,
            r#"{"content":[{"type":"thinking","thinking":"b"}]}"#,
        ],
        [
            r#"{"reasoning":"a","reasoning_details":[{"type":"reasoning.text","text":"a"}]}"#,
            r#"{"reasoning_details":[{"type":"reasoning.text","text":"b"}]}"#,
        ],
    ] {
        assert_eq!(gathered(&deltas).parts, thought, "{deltas:?}");
    }
}

#[test]
fn calls_are_told_apart_however_they_are_numbered() {
    let two = [("x", "f", r#"{"a":1}"#), ("y", "f", r#"{"a":2}"#)];
    for deltas in [
        // As OpenAI does.
        vec![
            r#"{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"y","type":"function","function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"index":1,"function":{"arguments":"{\"a\":2}"}}]}"#,
        ],
        // Interleaved.
        vec![
            r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":""}},{"index":1,"id":"y","function":{"name":"f"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}},{"index":1,"function":{"arguments":"{\"a\""}}]}"#,
            r#"{"tool_calls":[{"index":1,"function":{"arguments":":2}"}},{"index":0,"function":{"arguments":":1}"}}]}"#,
        ],
        // All of them number 0.
        vec![
            r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\":1}"}}]}"#,
            r#"{"tool_calls":[{"index":0,"id":"y","function":{"name":"f","arguments":"{\"a\":2}"}}]}"#,
        ],
        // Whole, without numbers.
        vec![
            r#"{"tool_calls":[{"id":"x","function":{"name":"f","arguments":{"a":1}}},{"id":"y","function":{"name":"f","arguments":{"a":2}}}]}"#,
        ],
        // The identifier and name in each piece.
        vec![
            r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"1}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"y","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"y","function":{"name":"f","arguments":"2}"}}]}"#,
        ],
        // Another identifier in each piece, and the name once.
        vec![
            r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":0,"id":"z","function":{"arguments":"1}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"y","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"z","function":{"name":"","arguments":"2}"}}]}"#,
        ],
        // The name late, an empty call, and line breaks among the pieces.
        vec![
            r#"{"tool_calls":[]}"#,
            r#"{"tool_calls":[{"index":0,"id":"x"}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\""}}],"content":"\n"}"#,
            r#"{"content":"\n","tool_calls":null}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"y","function":{"name":"f","arguments":"{\"a\":2}"}},{"index":2}]}"#,
        ],
    ] {
        let answer = gathered(&deltas);
        assert_eq!(calls(&answer), two, "{deltas:?}");
        assert_eq!(answer.stop, Stop::Tool);
    }
}

#[test]
fn calls_without_identifiers_get_one_each() {
    for deltas in [
        // Google's server of this dialect: each number 0, without an identifier.
        vec![
            r#"{"tool_calls":[{"index":0,"id":"","function":{"name":"f","arguments":"{\"a\":1}"}}]}"#,
            r#"{"tool_calls":[{"index":0,"id":"","function":{"name":"f","arguments":"{\"a\":2}"}}]}"#,
        ],
        vec![
            r#"{"tool_calls":[{"function":{"name":"f","arguments":"{\"a\":1}"}},{"function":{"name":"f","arguments":"{\"a\":2}"}}]}"#,
        ],
        // The name in each piece.
        vec![
            r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\""}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":":1}"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"index":1,"function":{"name":"f","arguments":"{\"a\":2}"}}]}"#,
        ],
    ] {
        let answer = gathered(&deltas);
        let found = calls(&answer);
        assert_eq!(found, [("call_c_0", "f", r#"{"a":1}"#), ("call_c_1", "f", r#"{"a":2}"#)]);
    }
    let old = gathered(&[
        r#"{"function_call":{"name":"f","arguments":""}}"#,
        r#"{"function_call":{"arguments":"{}"}}"#,
    ]);
    assert_eq!(calls(&old), [("call_c_0", "f", "{}")]);
    let whole = json!({"id": "c", "choices": [{"message": {"content": null, "tool_calls": [
        {"id": "", "function": {"name": "f", "arguments": "{}"}},
        {"id": null, "function": {"name": "g", "arguments": {}}},
    ]}, "finish_reason": "stop"}]});
    let whole = Chat.read_response(whole).unwrap();
    assert_eq!(calls(&whole), [("call_c_0", "f", "{}"), ("call_c_1", "g", "{}")]);
    assert_eq!(whole.stop, Stop::Tool);
}

#[test]
fn what_cannot_be_put_together_is_broken() {
    let piece = |index: u8, json: &str| {
        let json = json!(json);
        delta(&format!(
            r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":{json}}}}}]}}"#
        ))
    };
    let begin = |index: u8| {
        delta(&format!(
            r#"{{"tool_calls":[{{"index":{index},"id":"{index}","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#
        ))
    };
    // A call goes on after it was whole and another one had begun, or has no name at all.
    for events in [vec![begin(0), begin(1), piece(0, "{}")], vec![piece(0, "{}")]] {
        let events: Vec<_> = events.into_iter().chain([end("tool_calls")]).collect();
        let events: Vec<_> = events.iter().map(String::as_str).collect();
        assert!(read(&events).is_err(), "{events:?}");
    }
    // An answer with no choice at all is none.
    assert!(Chat.read_response(json!({"id": "c", "choices": []})).is_err());
}

#[test]
fn what_is_held_back_is_bounded() {
    // The first call never ends, and seals wait for calls that never come.
    let first =
        delta(r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}]}"#);
    let json = json!("a".repeat(64 << 10));
    let second = delta(&format!(
        r#"{{"tool_calls":[{{"index":1,"id":"y","function":{{"name":"g","arguments":{json}}}}}]}}"#
    ));
    let seal = |at: usize| {
        delta(&format!(
            r#"{{"reasoning_details":[{{"type":"reasoning.encrypted","data":"x","id":"{at}","format":"google-gemini-v1"}}]}}"#
        ))
    };
    let held = std::iter::once(first).chain(std::iter::repeat_n(second, 100));
    for events in [held.collect::<Vec<_>>(), (0..2000).map(seal).collect()] {
        let (mut reader, mut out) = (Chat.event_reader(), Vec::new());
        let broken = events
            .iter()
            .any(|event| reader.push(format!("data: {event}\n\n").as_bytes(), &mut out).is_err());
        assert!(broken);
    }
}

#[test]
fn a_call_is_told_as_soon_as_the_one_before_is_whole() {
    let (mut reader, mut events) = (Chat.event_reader(), Vec::new());
    for piece in [
        r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}]}"#,
        r#"{"tool_calls":[{"index":1,"id":"y","function":{"name":"g","arguments":"{"}}]}"#,
    ] {
        reader.push(format!("data: {}\n\n", delta(piece)).as_bytes(), &mut events).unwrap();
    }
    let second = |event: &Event| matches!(event, Event::PartStart { index: 1, part: Part::ToolCall { name, .. } } if name == "g");
    assert!(events.iter().any(second), "{events:?}");
}
