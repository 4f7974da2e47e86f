//! The golden cases: what a server of each dialect sends is read as what it says, and what
//! is written is read again as the same.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use paceline_dialect::Codec;
use paceline_dialect::codec::{PathFacts, Quirks, Target};
use paceline_dialect::neutral::{Event, FailureClass, Part, Response, Stop};
use serde_json::{Map, Value, json};

use crate::properties::frames;

/// A case of the folder `testdata/cases`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dialect: String,
    pub(crate) request: Value,
    pub(crate) response: Value,
    pub(crate) expect: Value,
    /// The bytes of the stream as AWS's own encoder wrote them, where the case has them.
    exact: Option<Vec<u8>>,
}

/// All cases of dialects that are conversations.
pub(crate) fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: std::path::PathBuf| {
        let mut case: Map<String, Value> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut take = |name: &str| case.remove(name).unwrap_or_default();
        Case {
            name: take("name").as_str().unwrap().to_owned(),
            dialect: take("dialect").as_str().unwrap().to_owned(),
            request: take("request"),
            response: take("response"),
            expect: take("expect"),
            exact: take("wire_base64").as_str().map(|text| STANDARD.decode(text).unwrap()),
        }
    };
    let cases: Vec<_> =
        paths.into_iter().map(read).filter(|case| !case.response.is_null()).collect();
    assert!(cases.len() > 50, "{} cases", cases.len());
    cases
}

/// The codec of a case's dialect; vendors that speak OpenAI's chat are read by its codec.
pub(crate) fn codec(dialect: &str) -> Option<&'static dyn Codec> {
    crate::CODECS.iter().find(|(names, _)| names.contains(&dialect)).map(|(_, codec)| *codec)
}

impl Case {
    pub(crate) fn path_facts(&self) -> PathFacts {
        facts_of(self.request["path"].as_str().unwrap())
    }

    pub(crate) fn status(&self) -> u16 {
        u16::try_from(self.response["status"].as_u64().unwrap()).unwrap()
    }

    /// The bytes of the stream, where the case has one.
    pub(crate) fn wire(&self) -> Option<Vec<u8>> {
        if self.exact.is_some() {
            return self.exact.clone();
        }
        let events = self.response.get("stream")?.as_array().unwrap();
        let end = self.response["eol"].as_str().unwrap_or("\n");
        let mut wire = Vec::new();
        for event in events {
            if let Some(raw) = event.get("raw").filter(|_| event.as_object().unwrap().len() == 1) {
                wire.extend_from_slice(raw.as_str().unwrap().as_bytes());
                continue;
            }
            if self.dialect == "bedrock-converse" {
                wire.extend(frames::of_case(event));
                continue;
            }
            if let ("anthropic" | "openai-responses", Some(kind)) =
                (&*self.dialect, event["type"].as_str())
            {
                wire.extend(format!("event: {kind}{end}").bytes());
            }
            wire.extend(format!("data: {event}{end}{end}").bytes());
        }
        let done = self.response["done"].as_bool().unwrap_or(true);
        if done
            && !["anthropic", "openai-responses", "gemini", "bedrock-converse"]
                .contains(&&*self.dialect)
        {
            wire.extend(format!("data: [DONE]{end}{end}").bytes());
        }
        Some(wire)
    }
}

/// What a path says beside the body.
pub(crate) fn facts_of(path: &str) -> PathFacts {
    let model = path.split_once("/models/").or_else(|| path.split_once("/model/"));
    let model = model.map(|(_, rest)| {
        let end = rest.find(":generate").or_else(|| rest.find(":stream"));
        let end = end.or_else(|| rest.find('/')).unwrap_or(rest.len());
        rest[..end].replace("%3A", ":")
    });
    PathFacts { model, stream: path.contains(":stream") || path.contains("-stream") }
}

/// What a stream's events add up to; the error's class where it failed. Checks the grammar
/// of the events on the way.
pub(crate) fn gather(events: &[Event]) -> (Response, Option<FailureClass>) {
    let mut response = Response::default();
    let (mut open, mut failed, mut ended, mut stopped) = (None, None, false, false);
    for event in events {
        assert!(!ended, "{event:?} comes after the end");
        match event {
            Event::Start { id, model, usage } => {
                assert!(response.parts.is_empty() && open.is_none(), "a late start");
                (response.id, response.model) = (id.clone(), model.clone());
                response.usage = usage.unwrap_or_default();
            }
            Event::PartStart { index, part } => {
                assert_eq!(open, None, "a part begins in another");
                assert_eq!(*index, response.parts.len(), "parts are numbered in order");
                open = Some(*index);
                response.parts.push(part.clone());
            }
            Event::Text { index, text } => {
                assert_eq!(open, Some(*index));
                match &mut response.parts[*index] {
                    Part::Text { text: all, .. }
                    | Part::Thinking { text: all, .. }
                    | Part::Refusal { text: all } => all.push_str(text),
                    other => panic!("text of {other:?}"),
                }
            }
            Event::Arguments { index, json } => {
                assert_eq!(open, Some(*index));
                match &mut response.parts[*index] {
                    Part::ToolCall { arguments, .. } => arguments.push_str(json),
                    other => panic!("arguments of {other:?}"),
                }
            }
            Event::Seal { index, seal: new } => {
                assert_eq!(open, Some(*index));
                match &mut response.parts[*index] {
                    Part::Thinking { seal, .. } | Part::ToolCall { seal, .. } => {
                        *seal = Some(new.clone());
                    }
                    other => panic!("seal of {other:?}"),
                }
            }
            Event::PartEnd { index } => assert_eq!(open.take(), Some(*index)),
            Event::Usage(usage) => response.usage = *usage,
            Event::Stop { stop, sequence } => {
                assert_eq!(open, None, "it stops within a part");
                stopped = true;
                (response.stop, response.stop_sequence) = (*stop, sequence.clone());
            }
            Event::End => {
                assert!(stopped, "it ends without a reason");
                ended = true;
            }
            Event::Error(failure) => {
                failed = Some(failure.class);
                ended = true;
            }
        }
    }
    assert!(ended, "no end: {events:?}");
    (response, failed)
}

/// What a response says, in the words of `expect`.
pub(crate) fn told(response: &Response) -> Value {
    let mut told = Map::new();
    let mut add = |name: &str, text: &str| {
        let entry = told.entry(name).or_insert_with(|| json!(""));
        *entry = json!(format!("{}{text}", entry.as_str().unwrap()));
    };
    let (mut tools, mut sealed) = (Vec::new(), None);
    for part in &response.parts {
        match part {
            Part::Text { text, .. } if !text.is_empty() => add("text", text),
            Part::Thinking { text, seal } => {
                if !text.is_empty() {
                    add("thinking", text);
                }
                sealed = sealed.or(seal.clone());
            }
            Part::Refusal { text } => add("refusal", text),
            Part::ToolCall { id, name, arguments, seal, .. } => {
                sealed = sealed.or(seal.clone());
                let args: Value = serde_json::from_str(arguments).unwrap();
                tools.push(json!({"id": id, "name": name, "args": args}));
            }
            _ => {}
        }
    }
    if !tools.is_empty() {
        told.insert("tools".to_owned(), json!(tools));
    }
    if let Some(seal) = sealed {
        told.insert("sealed".to_owned(), json!(seal.data));
    }
    let stop = match response.stop {
        Stop::End => "end",
        Stop::Tool => "tool",
        Stop::Length => "length",
        Stop::Sequence => "stop_sequence",
        Stop::Refusal => "refusal",
        Stop::Filter => "filter",
        Stop::Pause => "pause",
    };
    told.insert("stop".to_owned(), json!(stop));
    let usage = response.usage;
    let usage = json!({
        "input_uncached": usage.input_uncached, "cache_read": usage.cache_read,
        "cache_write": usage.cache_write, "output": usage.output, "reasoning": usage.reasoning,
    });
    told.insert("usage".to_owned(), usage);
    Value::Object(told)
}

fn class(name: &str) -> FailureClass {
    match name {
        "rate_limit" => FailureClass::RateLimited,
        "overloaded" => FailureClass::Overloaded,
        "server" => FailureClass::Server,
        "filter" => FailureClass::Filtered,
        other => panic!("no class {other}"),
    }
}

/// Checks what was read against `expect`; identifiers only where the dialect has them.
pub(crate) fn check_told(name: &str, response: &Response, expect: &Value) {
    let told = told(response);
    for (field, value) in expect.as_object().unwrap() {
        if ["error", "sdk_exception"].contains(&&**field) {
            continue;
        }
        let mut expected = value.clone();
        if field == "tools" {
            for (at, tool) in expected.as_array_mut().unwrap().iter_mut().enumerate() {
                // A reader mints an identifier where the dialect has none.
                if tool.get("id").is_none_or(Value::is_null) {
                    tool["id"] = told["tools"][at]["id"].clone();
                }
            }
        }
        assert_eq!(told.get(field), Some(&expected), "{name}: {field}");
    }
}

#[test]
fn answers_are_read_as_what_they_say() {
    for case in cases() {
        let Some(codec) = codec(&case.dialect) else { continue };
        let name = &case.name;
        if case.status() != 200 {
            let headers = &case.response["headers"];
            let headers: HeaderMap = headers
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), v.as_str().unwrap().parse().unwrap()))
                .collect::<HeaderMap>();
            let body = case.response["body"].to_string();
            let failure = codec.read_failure(case.status(), &headers, body.as_bytes());
            let expected = class(case.expect["error"]["class"].as_str().unwrap());
            assert_eq!(failure.class, expected, "{name}: {failure:?}");
            continue;
        }
        let Some(wire) = case.wire() else {
            let response = codec.read_response(case.response["body"].clone()).unwrap();
            check_told(name, &response, &case.expect);
            continue;
        };
        for piece in [1, 2, 7, 64, wire.len()] {
            let mut reader = codec.event_reader();
            let mut events = Vec::new();
            for bytes in wire.chunks(piece) {
                reader.push(bytes, &mut events).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            reader.finish(&mut events).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (response, failed) = gather(&events);
            assert_eq!(
                failed,
                case.expect.get("error").map(|e| class(e["class"].as_str().unwrap())),
                "{name}"
            );
            if failed.is_none() {
                check_told(name, &response, &case.expect);
            } else {
                assert_eq!(told(&response)["text"], case.expect["text"], "{name}");
            }
        }
    }
}

/// Every prefix of a stream is either still open or told to be cut, never complete.
#[test]
fn cut_streams_are_never_complete() {
    for case in cases() {
        let (Some(codec), Some(wire)) = (codec(&case.dialect), case.wire()) else { continue };
        if case.expect.get("error").is_some() {
            continue;
        }
        let complete = |end: usize| {
            let mut reader = codec.event_reader();
            let mut events = Vec::new();
            reader.push(&wire[..end], &mut events).is_ok() && reader.finish(&mut events).is_ok()
        };
        assert!(complete(wire.len()), "{}", case.name);
        // Some servers of chat send nothing behind the reason of the end.
        let reason = wire.windows(17).position(|bytes| bytes == b"\"finish_reason\":\"");
        for end in 0..reason.unwrap_or(wire.len() * 2 / 3) {
            assert!(!complete(end), "{}: complete after {end} of {} bytes", case.name, wire.len());
        }
    }
}

#[test]
fn requests_are_read_and_written_as_the_same() {
    for case in cases() {
        let Some(codec) = codec(&case.dialect) else { continue };
        let name = &case.name;
        let facts = case.path_facts();
        let request = codec
            .read_request(case.request["body"].clone(), &facts)
            .unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert!(!request.model.is_empty() && !request.messages.is_empty(), "{name}");
        let quirks = Quirks { reasoning_content: case.dialect == "deepseek", ..Quirks::default() };
        let target = Target { model: request.model.clone(), quirks };
        // What is beyond the neutral form is never forwarded by way of it.
        let plain = paceline_dialect::neutral::Request { extra: Vec::new(), ..request.clone() };
        let written = codec
            .write_request(&plain, &target)
            .unwrap_or_else(|unsupported| panic!("{name}: {unsupported:?}"));
        let mut again = codec.read_request(written.body.clone(), &facts).unwrap();
        // Upstreams are always asked for usage.
        again.include_usage = plain.include_usage;
        assert_eq!(again, plain, "{name}: {:#}", written.body);
        assert_eq!(written.warnings, Vec::<String>::new(), "{name}");
    }
}
