//! Requests are written as the strictest server takes them.

use super::{asks, call, result, seal, text, turn};
use paceline_dialect::codec::{Quirks, Target};
use paceline_dialect::neutral::{
    CacheMark, CacheTtl, Effort, Field, Format, Message, Part, Reasoning, Request, Role, Seal,
    Source, Tool, ToolChoice, Vendor, What,
};
use paceline_dialect::{Codec, Responses};
use serde_json::{Value, json};

fn written(request: &Request) -> (Value, Vec<String>) {
    let target = Target { model: "gpt-5.6".to_owned(), ..Target::default() };
    let written = Responses.write_request(request, &target).unwrap();
    (written.body, written.warnings)
}

fn bytes(media_type: &str) -> Source {
    Source::Base64 { media_type: media_type.to_owned(), data: "AA==".to_owned() }
}

/// A request with everything that the dialect has a word for.
fn full() -> Request {
    let mark = |ttl| Some(CacheMark { ttl });
    Request {
        model: "alias".to_owned(),
        system: vec![
            Part::Text { text: "Rules.".to_owned(), cache: mark(CacheTtl::Hour) },
            text("Today."),
        ],
        messages: vec![
            turn(
                Role::User,
                vec![
                    text("Look."),
                    Part::Image {
                        source: bytes("image/png"),
                        detail: Some("low".to_owned()),
                        cache: None,
                    },
                    Part::File {
                        source: bytes("application/pdf"),
                        name: None,
                        cache: mark(CacheTtl::Usual),
                    },
                ],
            ),
            turn(
                Role::Assistant,
                vec![
                    Part::Thinking {
                        text: "Hm.".to_owned(),
                        seal: Some(Seal { item: Some("rs_1".to_owned()), ..seal(Vendor::OpenAi) }),
                    },
                    Part::Thinking {
                        text: "Other.".to_owned(),
                        seal: Some(seal(Vendor::Anthropic)),
                    },
                    Part::Hidden { seal: seal(Vendor::OpenAi) },
                    text("One moment."),
                    call("c1", "{\"port\": \"A\"}"),
                ],
            ),
            turn(
                Role::User,
                vec![
                    result(
                        vec![
                            text("high"),
                            Part::Image { source: bytes("image/png"), detail: None, cache: None },
                        ],
                        false,
                    ),
                    text("And now?"),
                ],
            ),
            turn(Role::System, vec![text("Be quick.")]),
            turn(Role::Assistant, vec![Part::Refusal { text: "No.".to_owned() }]),
            turn(Role::User, vec![text("Please.")]),
        ],
        tools: vec![
            Tool {
                name: "get_tide".to_owned(),
                description: Some("tide".to_owned()),
                schema: Some(json!({"type": "object", "properties": {"b": {}, "a": {}}})),
                strict: Some(true),
                cache: None,
            },
            Tool {
                name: "now".to_owned(),
                description: None,
                schema: None,
                strict: None,
                cache: None,
            },
        ],
        tool_choice: Some(ToolChoice::Among { names: vec!["now".to_owned()], required: true }),
        parallel_tools: Some(false),
        format: Some(Format::Schema {
            name: Some("my answer".to_owned()),
            description: Some("It.".to_owned()),
            schema: json!({"type": "object"}),
            strict: Some(true),
        }),
        reasoning: Reasoning {
            effort: Some(Effort::High),
            shown: Some(true),
            sealed: true,
            ..Reasoning::default()
        },
        max_tokens: Some(100),
        temperature: Some(0.5),
        top_p: Some(0.9),
        user: Some("u1".to_owned()),
        labels: vec![("run".to_owned(), "r1".to_owned()), ("long".to_owned(), "x".repeat(513))],
        cache_key: Some("desk".to_owned()),
        stream: true,
        include_usage: true,
        presence_penalty: Some(0.0),
        ..Request::default()
    }
}

#[test]
fn a_full_request_is_written_so() {
    let (body, warnings) = written(&full());
    let expected = json!({
        "model": "gpt-5.6",
        "input": [
            {"role": "developer", "content": [
                {"type": "input_text", "text": "Rules.",
                 "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}},
                {"type": "input_text", "text": "Today."},
            ]},
            {"role": "user", "content": [
                {"type": "input_text", "text": "Look."},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                {"type": "input_file", "filename": "document.pdf",
                 "file_data": "data:application/pdf;base64,AA==",
                 "prompt_cache_breakpoint": {"mode": "explicit"}},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}],
             "encrypted_content": "sealed"},
            {"type": "reasoning", "summary": [], "encrypted_content": "sealed"},
            {"role": "assistant", "content": "One moment."},
            {"type": "function_call", "call_id": "c1", "name": "get_tide", "arguments": "{\"port\": \"A\"}"},
            {"type": "function_call_output", "call_id": "c1", "output": [
                {"type": "input_text", "text": "high"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
            ]},
            {"role": "user", "content": "And now?"},
            {"role": "developer", "content": "Be quick."},
            {"type": "message", "id": "msg_9", "role": "assistant", "status": "completed",
             "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "user", "content": "Please."},
        ],
        "tools": [
            {"type": "function", "name": "get_tide", "description": "tide",
             "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}, "strict": true},
            {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}},
             "strict": false},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "required",
                        "tools": [{"type": "function", "name": "now"}]},
        "parallel_tool_calls": false,
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "text": {"format": {"type": "json_schema", "name": "my_answer", "description": "It.",
                            "schema": {"type": "object"}, "strict": true}},
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "metadata": {"run": "r1"},
        "safety_identifier": "u1",
        "prompt_cache_key": "desk",
        "stream": true,
        "store": false,
    });
    // As text, since the order of members counts for caches.
    assert_eq!(body.to_string(), expected.to_string());
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn what_can_only_be_approximated_is_said() {
    let check = |request: Request, expected: &[&str]| {
        let (body, warnings) = written(&request);
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, word) in warnings.iter().zip(expected) {
            assert!(warning.contains(word), "{warning}");
        }
        body
    };
    let hi = || turn(Role::User, vec![text("Hi")]);
    let failed = |content| {
        let call = turn(Role::Assistant, vec![call("c1", "")]);
        asks(vec![call, turn(Role::User, vec![result(content, true)])])
    };
    let body = check(failed(vec![text("timed out")]), &["error flag"]);
    assert_eq!(body["input"][0]["arguments"], "{}");
    assert_eq!(body["input"][1]["output"], "ERROR: timed out");
    assert_eq!(body["input"][1]["status"], "incomplete");
    assert_eq!(check(failed(vec![]), &["error flag"])["input"][1]["output"], "ERROR");
    check(failed(vec![text("Error: no")]), &[]);
    let body = check(Request { max_tokens: Some(1), ..asks(vec![hi()]) }, &["at least 16"]);
    assert_eq!(body["max_output_tokens"], 16);
    check(asks(vec![hi(), turn(Role::Assistant, vec![text("It")])]), &["last turn"]);
    check(asks(vec![Message { name: Some("Ann".to_owned()), ..hi() }]), &["names"]);
    let document = Part::File {
        source: Source::Text { text: "Notice.".to_owned() },
        name: Some("a.txt".to_owned()),
        cache: None,
    };
    let body = check(asks(vec![turn(Role::User, vec![document])]), &["plain text"]);
    assert_eq!(body["input"][0]["content"][0]["text"], "a.txt\n\nNotice.");
    for (budget, effort) in [(1024, "low"), (10_000, "medium"), (32_000, "high")] {
        let reasoning = Reasoning { budget: Some(budget), ..Reasoning::default() };
        let body = check(Request { reasoning, ..asks(vec![hi()]) }, &["budget"]);
        assert_eq!(body["reasoning"], json!({"effort": effort}));
        assert_eq!(body["include"], json!(["reasoning.encrypted_content"]));
    }
    let reasoning = Reasoning { budget: Some(0), ..Reasoning::default() };
    let body = check(Request { reasoning, ..asks(vec![hi()]) }, &[]);
    assert_eq!((&body["reasoning"]["effort"], body.get("include")), (&json!("none"), None));
}

#[test]
fn what_has_no_word_here_is_refused() {
    let check = |request: Request, what: What| {
        let target = Target { model: "gpt-5.6".to_owned(), ..Target::default() };
        let unsupported = Responses.write_request(&request, &target).unwrap_err();
        assert_eq!(unsupported.what, what);
        assert!(!unsupported.why.is_empty());
    };
    let hi = asks(vec![turn(Role::User, vec![text("Hi")])]);
    check(Request { top_k: Some(1), ..hi.clone() }, What::Field(Field::TopK));
    check(Request { seed: Some(1), ..hi.clone() }, What::Field(Field::Seed));
    check(Request { stop: vec!["x".to_owned()], ..hi.clone() }, What::Field(Field::Stop));
    check(
        Request { presence_penalty: Some(1.0), ..hi.clone() },
        What::Field(Field::PresencePenalty),
    );
    check(
        Request { frequency_penalty: Some(1.0), ..hi.clone() },
        What::Field(Field::FrequencyPenalty),
    );
    let extra = vec![("logit_bias".to_owned(), json!({}))];
    check(Request { extra, ..hi }, What::Extra("logit_bias".to_owned()));
    let url = || Source::Url { url: "https://x.test/a".to_owned(), media_type: None };
    let second = |role, part| asks(vec![turn(role, vec![text("a"), part])]);
    let part = What::Part { message: 0, part: 1 };
    check(second(Role::User, Part::Audio { source: url() }), part.clone());
    let image = |source| Part::Image { source, detail: None, cache: None };
    check(second(Role::Assistant, image(url())), part.clone());
    let uploaded = Source::Uploaded { id: "file_011".to_owned(), media_type: None };
    check(second(Role::User, image(uploaded.clone())), part.clone());
    check(second(Role::User, result(vec![image(uploaded)], false)), part.clone());
    check(second(Role::User, result(vec![Part::Audio { source: url() }], false)), part);
}

/// OpenAI refuses a schema that is no object with members, as tools without arguments have.
#[test]
fn schemas_are_objects() {
    let check = |schema: Value, expected: Value| {
        let tool = json!({"type": "function", "name": "f", "parameters": schema});
        let request = super::read(json!({"model": "m", "input": "Hi", "tools": [tool]}));
        assert_eq!(written(&request).0["tools"][0]["parameters"], expected);
    };
    let empty = json!({"type": "object", "properties": {}});
    check(Value::Null, empty.clone());
    check(json!({}), empty.clone());
    check(json!({"type": "object"}), empty);
    check(json!({"anyOf": [{}]}), json!({"anyOf": [{}]}));
}

/// Cache marks go only to models that take them; the role `developer` only where it is known.
#[test]
fn models_and_servers_differ() {
    let check = |model: &str, marks: bool| {
        let target = Target { model: model.to_owned(), ..Target::default() };
        let body = Responses.write_request(&full(), &target).unwrap().body;
        assert_eq!(body.to_string().contains("prompt_cache_breakpoint"), marks, "{model}");
        assert_eq!(body["instructions"] == "Rules.\n\nToday.", !marks, "{model}");
    };
    for model in ["gpt-5.6", "gpt-5.6-2026-09-01", "gpt-5.10-mini", "gpt-6", "openai/gpt-5.6"] {
        check(model, true);
    }
    for model in ["gpt-5", "gpt-5-2025-08-07", "gpt-5.4", "gpt-4.1", "gpt-oss-120b", "o3", "desk"] {
        check(model, false);
    }
    let quirks = Quirks { no_developer_role: true, ..Quirks::default() };
    let target = Target { model: "gpt-5.6".to_owned(), quirks };
    let body = Responses.write_request(&full(), &target).unwrap().body;
    assert!(!body.to_string().contains("developer"));
}
