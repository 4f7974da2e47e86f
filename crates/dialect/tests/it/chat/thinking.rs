//! Thinking and its seals go out to a client of chat and come back with its next turn.

use paceline_dialect::codec::{PathFacts, Target};
use paceline_dialect::neutral::{Event, Part, Request, Seal, Stop, Vendor};
use paceline_dialect::{Anthropic, Chat, Codec, Gemini};
use serde_json::{Map, Value, json};

/// What a client of chat asks first: its tools, and thinking on.
fn question() -> Value {
    json!({
        "model": "m", "stream": true,
        "messages": [{"role": "user", "content": "Is the ferry on time?"}],
        "tools": [{"type": "function", "function": {"name": "ferry", "parameters": {"type": "object"}}}],
        "reasoning": {"max_tokens": 2048},
    })
}

/// The client's next turn: the model's as it kept it, and a result.
fn next_turn(answer: Value) -> Request {
    let mut body = question();
    let id = answer["tool_calls"][0]["id"].clone();
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(answer);
    messages.push(json!({"role": "tool", "tool_call_id": id, "content": "yes"}));
    Chat.read_request(body, &PathFacts::default()).unwrap()
}

/// The chunks of a stream of `from`, told to a client of chat.
fn told(from: &dyn Codec, wire: &str) -> Vec<Value> {
    let request = Chat.read_request(question(), &PathFacts::default()).unwrap();
    let (mut reader, mut events) = (from.event_reader(), Vec::new());
    reader.push(wire.as_bytes(), &mut events).unwrap();
    reader.finish(&mut events).unwrap();
    let (mut writer, mut out) = (Chat.event_writer(&request), Vec::new());
    events.iter().for_each(|event| writer.write(event, &mut out));
    let out = String::from_utf8(out).unwrap();
    let chunks = out.lines().filter_map(|line| line.strip_prefix("data: {"));
    chunks.map(|chunk| serde_json::from_str(&format!("{{{chunk}")).unwrap()).collect()
}

/// The answer as clients put it together: texts are joined, lists by their items' `index` or
/// one behind the other.
fn kept(chunks: &[Value], by_index: bool) -> Value {
    let (mut answer, mut calls, mut details) =
        (Map::new(), Vec::<Value>::new(), Vec::<Value>::new());
    for delta in chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta")) {
        for (name, value) in delta.as_object().unwrap() {
            match (&**name, value) {
                ("tool_calls", calls_now) => {
                    for call in calls_now.as_array().unwrap() {
                        join(&mut calls, call.clone(), true);
                    }
                }
                ("reasoning_details", now) => {
                    for detail in now.as_array().unwrap() {
                        join(&mut details, detail.clone(), by_index);
                    }
                }
                (_, Value::String(text)) => {
                    let all = answer.entry(name.clone()).or_insert(json!(""));
                    *all = json!(format!("{}{text}", all.as_str().unwrap()));
                }
                _ => {}
            }
        }
    }
    answer.insert("role".to_owned(), json!("assistant"));
    answer.insert("tool_calls".to_owned(), json!(calls));
    answer.insert("reasoning_details".to_owned(), json!(details));
    Value::Object(answer)
}

fn join(list: &mut Vec<Value>, item: Value, by_index: bool) {
    let same = list.iter_mut().find(|known| by_index && known["index"] == item["index"]);
    let Some(known) = same else { return list.push(item) };
    for (name, value) in item.as_object().unwrap() {
        match (known.get_mut(name), value) {
            (Some(Value::Object(into)), Value::Object(more)) => {
                for (name, value) in more {
                    let all = into.get(name).and_then(Value::as_str).unwrap_or_default();
                    into[name] = json!(format!("{all}{}", value.as_str().unwrap()));
                }
            }
            (Some(_), Value::Number(_)) => {}
            (None, value) => known[name] = value.clone(),
            (Some(_), _) => panic!("{name} comes twice: {item}"),
        }
    }
}

const CLAUDE: &str = concat!(
    r#"data: {"type":"message_start","message":{"id":"m","model":"c","usage":{}}}"#,
    "\n\n",
    r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
    "\n\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"I should "}}"#,
    "\n\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"look."}}"#,
    "\n\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"SIG="}}"#,
    "\n\n",
    r#"data: {"type":"content_block_stop","index":0}"#,
    "\n\n",
    r#"data: {"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"RED="}}"#,
    "\n\n",
    r#"data: {"type":"content_block_stop","index":1}"#,
    "\n\n",
    r#"data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"ferry","input":{}}}"#,
    "\n\n",
    r#"data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}"#,
    "\n\n",
    r#"data: {"type":"content_block_stop","index":2}"#,
    "\n\n",
    r#"data: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9}}"#,
    "\n\n",
    r#"data: {"type":"message_stop"}"#,
    "\n\n",
);

fn claude_turn() -> Value {
    json!([
        {"type": "thinking", "thinking": "I should look.", "signature": "SIG="},
        {"type": "redacted_thinking", "data": "RED="},
        {"type": "tool_use", "id": "toolu_1", "name": "ferry", "input": {"a": 1}},
    ])
}

#[test]
fn a_turn_of_claudes_comes_back_with_its_signatures() {
    for by_index in [true, false] {
        let answer = kept(&told(&Anthropic, CLAUDE), by_index);
        assert_eq!(answer["reasoning_content"], "I should look.");
        let written = Anthropic.write_request(&next_turn(answer), &Target::default()).unwrap();
        assert_eq!(written.body["messages"][1]["content"], claude_turn(), "{by_index}");
        assert_eq!(written.body["thinking"]["budget_tokens"], 2048);
        assert_eq!(written.warnings, Vec::<String>::new());
    }
}

#[test]
fn a_whole_answer_of_claudes_comes_back_with_its_signatures() {
    let body =
        json!({"id": "m", "model": "c", "content": claude_turn(), "stop_reason": "tool_use"});
    let response = Anthropic.read_response(body).unwrap();
    let answer = Chat.write_response(&response, &Request::default());
    let message = answer["choices"][0]["message"].clone();
    // As a server of chat it is read with its seals, too.
    assert_eq!(Chat.read_response(answer).unwrap().parts, response.parts);
    let written = Anthropic.write_request(&next_turn(message), &Target::default()).unwrap();
    assert_eq!(written.body["messages"][1]["content"], claude_turn());
}

#[test]
fn a_client_that_keeps_no_signatures_is_served_without_thinking_in_that_turn() {
    let answer = json!({
        "role": "assistant", "content": null, "reasoning_content": "I should look.",
        "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "ferry", "arguments": "{}"}}],
    });
    let written = Anthropic.write_request(&next_turn(answer), &Target::default()).unwrap();
    let content = &written.body["messages"][1]["content"];
    assert_eq!(content.as_array().unwrap().len(), 1, "{content}");
    assert_eq!(content[0]["type"], "tool_use");
    assert_eq!(written.body.get("thinking"), None);
    assert!(written.warnings[0].contains("thinking"), "{:?}", written.warnings);
}

const GEMINI: &str = concat!(
    r#"data: {"responseId":"r","candidates":[{"content":{"parts":[{"text":"Hm.","thought":true},{"functionCall":{"name":"ferry","args":{}},"thoughtSignature":"GS="},{"functionCall":{"name":"ferry","args":{"a":1}}}]},"finishReason":"STOP"}]}"#,
    "\n\n",
);

#[test]
fn a_turn_of_geminis_comes_back_with_its_signatures() {
    let answer = kept(&told(&Gemini, GEMINI), true);
    let extra = json!({"google": {"thought_signature": "GS="}});
    assert_eq!(answer["tool_calls"][0]["extra_content"], extra);
    assert_eq!(answer["tool_calls"][1].get("extra_content"), None);
    let written = Gemini.write_request(&next_turn(answer), &Target::default()).unwrap();
    let parts = &written.body["contents"][1]["parts"];
    assert_eq!(parts[0]["thoughtSignature"], "GS=", "{parts}");
    assert_eq!(parts[1].get("thoughtSignature"), None);
}

#[test]
fn a_server_of_googles_gives_its_seal_with_the_call_or_after() {
    let call = r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"GS="}}}]}"#;
    let early = r#"{"reasoning_details":[{"type":"reasoning.encrypted","data":"GS=","id":"x","format":"google-gemini-v1"}],"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}]}"#;
    let plain = r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}]}"#;
    let late =
        r#"{"tool_calls":[{"index":0,"extra_content":{"google":{"thought_signature":"GS="}}}]}"#;
    let expected = Seal { vendor: Vendor::Google, data: "GS=".to_owned(), item: None };
    for deltas in [vec![call], vec![early], vec![plain, late]] {
        match &*super::gathered(&deltas).parts {
            [Part::ToolCall { seal, .. }] => assert_eq!(seal.as_ref(), Some(&expected)),
            other => panic!("{deltas:?}: {other:?}"),
        }
    }
    // A seal that comes late is told late.
    let request = Chat.read_request(question(), &PathFacts::default()).unwrap();
    let (mut writer, mut out) = (Chat.event_writer(&request), Vec::new());
    let call = Part::ToolCall {
        id: "x".to_owned(),
        name: "f".to_owned(),
        arguments: String::new(),
        seal: None,
        cache: None,
    };
    for event in [
        Event::Start { id: "c".to_owned(), model: "m".to_owned(), usage: None },
        Event::PartStart { index: 0, part: call },
        Event::Seal { index: 0, seal: expected.clone() },
        Event::PartEnd { index: 0 },
        Event::Stop { stop: Stop::Tool, sequence: None },
        Event::End,
    ] {
        writer.write(&event, &mut out);
    }
    let events = super::read_wire(&String::from_utf8(out).unwrap()).unwrap();
    assert!(events.contains(&Event::Seal { index: 0, seal: expected }), "{events:?}");
}

#[test]
fn newer_geminis_take_calls_whose_signatures_were_lost() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "ferry", "arguments": "{}"}});
    let answer = json!({"role": "assistant", "tool_calls": [call("a"), call("b")]});
    for (model, wants) in [
        ("gemini-3-pro-preview", true),
        ("models/gemini-3.5-flash", true),
        ("gemini-2.5-pro", false),
        ("gemma-3", false),
    ] {
        let target = Target { model: model.to_owned(), ..Target::default() };
        let written = Gemini.write_request(&next_turn(answer.clone()), &target).unwrap();
        let parts = &written.body["contents"][1]["parts"];
        assert_eq!(parts[0].get("thoughtSignature").is_some(), wants, "{model}: {parts}");
        assert_eq!(parts[1].get("thoughtSignature"), None);
        assert_eq!(written.warnings.len(), usize::from(wants), "{model}");
    }
    // One that came back stays, and no other is made up.
    let answer = kept(&told(&Gemini, GEMINI), true);
    let target = Target { model: "gemini-3-pro".to_owned(), ..Target::default() };
    let written = Gemini.write_request(&next_turn(answer), &target).unwrap();
    assert_eq!(written.body["contents"][1]["parts"][0]["thoughtSignature"], "GS=");
    assert_eq!(written.warnings, Vec::<String>::new());
}
