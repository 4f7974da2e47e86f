//! Every pair of dialects: what one says is told in the other, and means the same.

use paceline_dialect::Codec;
use paceline_dialect::codec::Target;
use paceline_dialect::neutral::{Event, Part, Request, Response, Role};
use serde_json::{Value, json};

use crate::CODECS;
use crate::golden::{Case, cases, codec, gather, told};

/// The writers, by the first of their names.
fn writers() -> impl Iterator<Item = (&'static str, &'static dyn Codec)> {
    CODECS.iter().map(|(names, codec)| (names[0], *codec))
}

/// The golden cases that are read, with their codec.
fn known() -> Vec<(Case, &'static dyn Codec)> {
    cases()
        .into_iter()
        .filter_map(|case| Some((codec(&case.dialect)?, case)))
        .map(|(c, x)| (x, c))
        .collect()
}

fn request(case: &Case, codec: &dyn Codec) -> Request {
    let read = codec.read_request(case.request["body"].clone(), &case.path_facts());
    let mut request = read.unwrap_or_else(|fault| panic!("{}: {fault}", case.name));
    request.extra.clear();
    request
}

/// What a request says, without what dialects cannot all say: identifiers, seals, marks.
fn said(request: &Request) -> Value {
    let text = |parts: &[Part]| -> String {
        let text = |part: &Part| match part {
            Part::Text { text, .. } => text.clone(),
            _ => String::new(),
        };
        parts.iter().map(text).collect()
    };
    let part = |part: &Part| match part {
        Part::Text { text, .. } => Some(json!({"text": text})),
        Part::Image { source, .. } => Some(json!({"image": format!("{source:?}")})),
        Part::File { source, .. } => Some(json!({"file": format!("{source:?}")})),
        Part::ToolCall { name, arguments, .. } => {
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            Some(json!({"call": name, "arguments": arguments}))
        }
        Part::ToolResult { name, content, .. } => {
            // An error flag may stand in the text, and pictures behind the results.
            let said = text(content).replace("ERROR: ", "");
            Some(json!({"result": name, "content": said}))
        }
        _ => None,
    };
    let mut turns: Vec<(Role, Vec<Value>)> = Vec::new();
    for message in &request.messages {
        if turns.last().is_none_or(|(role, _)| *role != message.role) {
            turns.push((message.role, Vec::new()));
        }
        turns.last_mut().unwrap().1.extend(message.parts.iter().filter_map(part));
    }
    let images = |value: &Value| value.get("image").is_some() || value.get("file").is_some();
    for (_, parts) in &mut turns {
        parts.sort_by_key(|part| images(part));
    }
    let turns: Vec<_> =
        turns.into_iter().map(|(role, parts)| json!([format!("{role:?}"), parts])).collect();
    let tools: Vec<_> = request
        .tools
        .iter()
        .map(|tool| json!([tool.name, tool.description, tool.schema]))
        .collect();
    // Where a dialect has one text, a blank line stands between the blocks.
    let blocks: Vec<_> =
        request.system.iter().map(|part| text(std::slice::from_ref(part))).collect();
    json!({
        "system": blocks.join("\n\n"), "turns": turns, "tools": tools,
        "choice": format!("{:?}", request.tool_choice), "stream": request.stream,
    })
}

/// Pictures in the results of tools become the user's where a dialect has no place for them.
fn without_result_images(mut value: Value) -> Value {
    for turn in value["turns"].as_array_mut().unwrap() {
        turn[1].as_array_mut().unwrap().retain(|part| part.get("image").is_none());
    }
    value
}

#[test]
fn requests_mean_the_same_in_every_dialect() {
    let mut pairs = 0;
    for (case, reader) in known() {
        let request = request(&case, reader);
        for (name, writer) in writers() {
            let target = Target { model: "the-model".to_owned(), ..Target::default() };
            let written = match writer.write_request(&request, &target) {
                Ok(written) => written,
                // What a dialect has no word for is named in the caller's.
                Err(unsupported) => {
                    assert!(!unsupported.why.is_empty(), "{} to {name}", case.name);
                    continue;
                }
            };
            let path = crate::golden::facts_of(&writer.path("the-model", request.stream));
            let again = writer.read_request(written.body.clone(), &path).unwrap_or_else(|fault| {
                panic!("{} to {name}: {fault}: {:#}", case.name, written.body)
            });
            assert_eq!(again.model, "the-model");
            let (told, expected) = (said(&again), said(&request));
            let (told, expected) = if case.name.ends_with("tool_results") {
                (without_result_images(told), without_result_images(expected))
            } else {
                (told, expected)
            };
            assert_eq!(told, expected, "{} to {name}: {:#}", case.name, written.body);
            pairs += 1;
        }
    }
    assert!(pairs >= 100, "{pairs}");
}

/// What an answer tells beside what some dialects cannot.
fn told_alike(response: &Response) -> Value {
    let mut told = told(response);
    // Seals are their vendors' own; what was thought is not shown by all.
    for name in ["sealed", "thinking"] {
        told.as_object_mut().unwrap().remove(name);
    }
    for tool in told.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        tool.as_object_mut().unwrap().remove("id");
    }
    // Not every dialect counts thinking apart, or tells a stop text from an end.
    told["usage"].as_object_mut().unwrap().remove("reasoning");
    let stop = match told["stop"].as_str().unwrap() {
        "stop_sequence" | "pause" => "end",
        "filter" => "refusal",
        other => other,
    };
    told["stop"] = json!(stop);
    told
}

#[test]
fn answers_mean_the_same_in_every_dialect() {
    let mut pairs = 0;
    for (case, reader) in known() {
        if case.status() != 200 {
            continue;
        }
        let request = request(&case, reader);
        for (name, writer) in writers() {
            let (response, events) = match case.wire() {
                None => (reader.read_response(case.response["body"].clone()).unwrap(), None),
                Some(wire) => {
                    let (mut stream, mut events) = (reader.event_reader(), Vec::new());
                    stream.push(&wire, &mut events).unwrap();
                    stream.finish(&mut events).unwrap();
                    (gather(&events).0, Some(events))
                }
            };
            let mut expected = told_alike(&response);
            let told = match events {
                None => {
                    let body = writer.write_response(&response, &request);
                    let read = writer.read_response(body.clone());
                    told_alike(
                        &read.unwrap_or_else(|f| panic!("{} to {name}: {f}: {body:#}", case.name)),
                    )
                }
                Some(events) => {
                    let asked = Request { include_usage: true, stream: true, ..request.clone() };
                    let (again, failed) = through(writer, &events, &asked);
                    if let Some(class) = case.expect.get("error") {
                        assert!(failed, "{} to {name}: {class}", case.name);
                        continue;
                    }
                    assert!(!failed, "{} to {name}", case.name);
                    told_alike(&again)
                }
            };
            if case.expect["usage"]["cache_write"].as_u64().unwrap_or(0) > 0 && name == "gemini" {
                // Gemini counts no writes.
                expected["usage"] = told["usage"].clone();
            }
            assert_eq!(told, expected, "{} to {name}", case.name);
            pairs += 1;
        }
    }
    assert!(pairs >= 80, "{pairs}");
}

/// Writes events in a dialect and reads them back, cut in pieces; whether they failed.
fn through(codec: &dyn Codec, events: &[Event], request: &Request) -> (Response, bool) {
    let mut writer = codec.event_writer(request);
    let mut wire = Vec::new();
    events.iter().for_each(|event| writer.write(event, &mut wire));
    let (mut reader, mut again) = (codec.event_reader(), Vec::new());
    for piece in wire.chunks(11) {
        let read = reader.push(piece, &mut again);
        assert!(read.is_ok(), "{read:?}: {}", String::from_utf8_lossy(&wire));
    }
    let ended = reader.finish(&mut again);
    assert!(ended.is_ok(), "{ended:?}: {}", String::from_utf8_lossy(&wire));
    let (response, failed) = gather(&again);
    (response, failed.is_some())
}
