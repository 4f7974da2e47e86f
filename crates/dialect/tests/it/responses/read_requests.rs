//! Requests are read whole, or their fault is named.

use super::{answer, call, read, result, text, turn};
use paceline_dialect::codec::PathFacts;
use paceline_dialect::neutral::{Part, Role, Seal, Source, Stop, Vendor};
use paceline_dialect::responses::{continue_from, input_items_of, resolve_references};
use paceline_dialect::{Codec, Responses};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn what_clients_send_is_read_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/clients.json");
    let clients: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ours = clients.iter().filter(|client| client["path"] == "/v1/responses");
    let mut count = 0;
    for client in ours {
        count += 1;
        let request = read(client["body"].clone());
        let name = &client["client"];
        assert_eq!(request.extra, Vec::new(), "{name}");
        assert_eq!(request.system, [text("Be brief.")], "{name}");
        assert_eq!(request.tools.len(), 1, "{name}");
        let kinds: Vec<_> = request.messages.iter().flat_map(|m| &m.parts).collect();
        assert!(
            matches!(
                kinds[..],
                [
                    Part::Text { .. },
                    Part::ToolCall { .. },
                    Part::ToolCall { .. },
                    Part::ToolResult { .. },
                    Part::ToolResult { .. }
                ]
            ),
            "{name}: {kinds:?}"
        );
        let named = kinds
            .iter()
            .all(|part| !matches!(part, Part::ToolResult { name, .. } if name != "get_tide"));
        assert!(named, "{name}");
    }
    assert_eq!(count, 5);
}

#[test]
fn what_has_no_word_elsewhere_is_left_over() {
    let check = |member: Value, expected: &[&str]| {
        let mut body = json!({"model": "m", "input": [{"role": "user", "content": "Hi"}]});
        for (name, value) in member.as_object().unwrap() {
            body[name] = value.clone();
        }
        let request = read(body);
        let paths: Vec<_> = request.extra.iter().map(|(path, _)| &**path).collect();
        assert_eq!(paths, expected, "{member}");
    };
    check(json!({"previous_response_id": "resp_1"}), &["previous_response_id"]);
    check(json!({"conversation": {"id": "conv_1"}}), &["conversation"]);
    check(json!({"background": true}), &["background"]);
    check(json!({"truncation": "auto"}), &["truncation"]);
    check(json!({"service_tier": "flex"}), &["service_tier"]);
    check(json!({"text": {"verbosity": "low", "new": 1}}), &["text.verbosity", "text.new"]);
    check(json!({"reasoning": {"mode": "pro"}}), &["reasoning.mode"]);
    check(
        json!({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}),
        &["include[1]"],
    );
    check(
        json!({"tools": [
            {"type": "function", "name": "f", "parameters": {}, "defer_loading": true},
            {"type": "web_search"},
            {"type": "custom", "name": "apply_patch", "format": {"type": "text"}},
        ]}),
        &["tools[0].defer_loading", "tools[1]", "tools[2]"],
    );
    check(json!({"tool_choice": {"type": "mcp", "server_label": "s"}}), &["tool_choice"]);
    check(
        json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}}),
        &["tool_choice.tools[0]"],
    );
    check(
        json!({"input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a", "new": 1}, {"type": "input_video"}]},
            {"type": "item_reference", "id": "msg_1"},
            {"id": "rs_1"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "namespace": "n"},
        ]}),
        &[
            "input[0].content[0].new",
            "input[0].content[1]",
            "input[1]",
            "input[2]",
            "input[3]",
            "input[4].namespace",
        ],
    );
    // What changes nothing is passed over.
    for member in [
        json!({"store": true, "background": false, "truncation": "disabled", "top_logprobs": 0}),
        json!({"service_tier": "auto", "text": {"format": {"type": "text"}, "verbosity": "medium"}}),
        json!({"prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h"}),
        json!({"stream_options": {"include_obfuscation": false}, "previous_response_id": null}),
        json!({"metadata": {"paceline_run": "r"}, "user": "u", "safety_identifier": "s"}),
        json!({"input": [
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": "commentary",
             "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "f",
             "arguments": "{}", "caller": {"type": "direct"}, "async": false},
            {"type": "function_call_output", "id": "fco_1", "call_id": "c", "output": ""},
            {"type": "reasoning", "id": "rs_1", "summary": [], "status": null},
        ]}),
    ] {
        check(member, &[]);
    }
}

#[test]
fn malformed_requests_are_faults_with_a_path() {
    let check = |member: Value, field: &str| {
        let mut body = json!({"model": "m", "input": "Hi"});
        for (name, value) in member.as_object().unwrap() {
            body[name] = value.clone();
        }
        let fault = Responses.read_request(body, &PathFacts::default()).unwrap_err();
        assert_eq!(fault.field, field, "{member}: {fault}");
    };
    check(json!({"model": ""}), "model");
    check(json!({"model": 1}), "model");
    check(json!({"input": null}), "input");
    check(json!({"input": {}}), "input");
    check(json!({"input": [1]}), "input[0]");
    check(json!({"input": [{}]}), "input[0].type");
    check(json!({"input": [{"type": 1}]}), "input[0].type");
    check(json!({"input": [{"role": "tool", "content": "x"}]}), "input[0].role");
    check(json!({"input": [{"role": "user"}]}), "input[0].content");
    check(json!({"input": [{"role": "user", "content": 1}]}), "input[0].content");
    check(json!({"input": [{"role": "user", "content": ["x"]}]}), "input[0].content[0]");
    check(json!({"input": [{"role": "user", "content": [{}]}]}), "input[0].content[0].type");
    let part = |part: Value| json!({"input": [{"role": "user", "content": [part]}]});
    check(part(json!({"type": "input_text"})), "input[0].content[0].text");
    check(part(json!({"type": "input_image"})), "input[0].content[0].image_url");
    check(
        part(json!({"type": "input_image", "image_url": {"url": "x"}})),
        "input[0].content[0].image_url",
    );
    check(part(json!({"type": "input_file", "filename": "a"})), "input[0].content[0].file_data");
    check(part(json!({"type": "input_audio"})), "input[0].content[0].input_audio");
    let item = |item: Value| json!({"input": [item]});
    check(
        item(json!({"type": "function_call", "name": "f", "arguments": "{}"})),
        "input[0].call_id",
    );
    let arguments = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}});
    check(item(arguments), "input[0].arguments");
    check(item(json!({"type": "function_call_output", "output": "x"})), "input[0].call_id");
    let orphan = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
    check(item(orphan), "input[0].call_id");
    check(item(json!({"type": "reasoning", "summary": [{}]})), "input[0].summary[0].text");
    check(json!({"tools": [{"name": "f"}]}), "tools[0].type");
    check(json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools[0].name");
    check(
        json!({"tools": [{"type": "function", "name": "f", "parameters": 1}]}),
        "tools[0].parameters",
    );
    check(json!({"tool_choice": "any"}), "tool_choice");
    check(json!({"tool_choice": {"type": "function"}}), "tool_choice.name");
    check(json!({"text": {"format": {"type": "yaml"}}}), "text.format.type");
    check(json!({"text": {"format": {"type": "json_schema", "name": "a"}}}), "text.format.schema");
    check(json!({"reasoning": {"effort": "huge"}}), "reasoning.effort");
    check(json!({"include": [1]}), "include[0]");
    check(json!({"metadata": {"a": 1}}), "metadata.a");
    check(json!({"max_output_tokens": -1}), "max_output_tokens");
    check(json!({"stream": "yes"}), "stream");
    let fault = Responses.read_request(json!([]), &PathFacts::default()).unwrap_err();
    assert_eq!(fault.field, "body");
    // With a stored answer before it, a result's call may be there.
    let stored = json!({"model": "m", "previous_response_id": "resp_1", "input": [
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ]});
    assert_eq!(read(stored).messages.len(), 1);
}

#[test]
fn every_kind_of_part_is_read() {
    let request = read(json!({
        "model": "m",
        "instructions": "A",
        "input": [
            {"role": "developer", "content": "B"},
            {"role": "user", "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
                {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
                {"type": "input_image", "file_id": "file-1"},
                {"type": "input_file", "file_url": "https://x.test/a.pdf"},
                {"type": "input_file", "file_data": "AA==", "filename": "a.csv"},
                {"type": "input_audio", "input_audio": {"format": "mp3", "data": "AA=="}},
            ]},
            {"role": "system", "content": "C"},
            {"type": "reasoning", "id": "rs_1", "summary": [
                {"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."},
            ], "encrypted_content": "gAAA"},
            {"type": "reasoning", "id": "rs_2", "content": [{"type": "reasoning_text", "text": "Three."}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{ }"},
            {"type": "function_call_output", "call_id": "c1", "status": "incomplete", "output": [
                {"type": "input_text", "text": "x"},
                {"type": "input_image", "image_url": "https://x.test/b.png"},
            ]},
        ],
    }));
    let url = |url: &str| Source::Url { url: url.to_owned(), media_type: None };
    let image = |source, detail: Option<&str>| Part::Image {
        source,
        detail: detail.map(str::to_owned),
        cache: None,
    };
    let bytes = |media_type: &str| Source::Base64 {
        media_type: media_type.to_owned(),
        data: "AA==".to_owned(),
    };
    let uploaded = Source::Uploaded { id: "file-1".to_owned(), media_type: None };
    let sealed =
        Seal { vendor: Vendor::OpenAi, data: "gAAA".to_owned(), item: Some("rs_1".to_owned()) };
    assert_eq!(request.system, [text("A"), text("B")]);
    assert_eq!(
        request.messages,
        [
            turn(
                Role::User,
                vec![
                    image(bytes("image/png"), None),
                    image(url("https://x.test/a.png"), Some("low")),
                    image(uploaded, None),
                    Part::File { source: url("https://x.test/a.pdf"), name: None, cache: None },
                    Part::File {
                        source: bytes("text/csv"),
                        name: Some("a.csv".to_owned()),
                        cache: None
                    },
                    Part::Audio { source: bytes("audio/mpeg") },
                ]
            ),
            turn(Role::System, vec![text("C")]),
            turn(
                Role::Assistant,
                vec![Part::Thinking { text: "One.\n\nTwo.".to_owned(), seal: Some(sealed) }]
            ),
            turn(Role::Assistant, vec![Part::Thinking { text: "Three.".to_owned(), seal: None }]),
            turn(Role::Assistant, vec![Part::Refusal { text: "No.".to_owned() }]),
            turn(
                Role::Assistant,
                vec![Part::ToolCall {
                    id: "c1".to_owned(),
                    name: "f".to_owned(),
                    arguments: "{ }".to_owned(),
                    seal: None,
                    cache: None,
                }]
            ),
            turn(
                Role::User,
                vec![Part::ToolResult {
                    id: "c1".to_owned(),
                    name: "f".to_owned(),
                    content: vec![text("x"), image(url("https://x.test/b.png"), None)],
                    error: true,
                    cache: None,
                }]
            ),
        ]
    );
    assert_eq!(request.extra, Vec::new());
}

#[test]
fn stored_answers_are_gone_on_from() {
    let first = json!({"model": "m", "instructions": "A", "input": "tide?"});
    let input = input_items_of(&first);
    assert_eq!(input, [json!({"type": "message", "role": "user", "content": "tide?"})]);
    let answer = answer(vec![text("One moment."), call("c1", "{}")], Stop::Tool);
    let output =
        Responses.write_response(&answer, &read(first))["output"].as_array().unwrap().clone();
    let reference = output[0]["id"].clone();
    let second = json!({"model": "m", "previous_response_id": "resp_1", "instructions": "B", "input": [
        {"type": "function_call_output", "call_id": "c1", "output": "high"},
    ], "stream": true});
    let whole = continue_from(input, output.clone(), second);
    assert_eq!(input_items_of(&whole).len(), 4);
    let request = read(whole);
    assert_eq!((request.extra.len(), &*request.system), (0, &[text("B")][..]));
    let parts: Vec<_> = request.messages.into_iter().flat_map(|message| message.parts).collect();
    let expected =
        [text("tide?"), text("One moment."), call("c1", "{}"), result(vec![text("high")], false)];
    assert_eq!(parts, expected);

    // The AI SDK refers to items instead, with and without their type.
    let third = json!({"model": "m", "input": [
        {"role": "user", "content": "tide?"},
        {"type": "item_reference", "id": reference},
        {"id": output[1]["id"]},
        {"type": "item_reference", "id": "msg_lost"},
        {"type": "function_call", "id": "fc_1", "call_id": "c9", "name": "f", "arguments": ""},
    ]});
    let find = |id: &str| output.iter().find(|item| item["id"] == id).cloned();
    let request = read(resolve_references(third, find));
    assert_eq!(request.messages.len(), 4);
    let paths: Vec<_> = request.extra.iter().map(|(path, _)| &**path).collect();
    assert_eq!(paths, ["input[3]"]);
    for odd in [json!(1), json!({"input": 1}), json!({})] {
        assert_eq!(resolve_references(odd.clone(), |_| None), odd);
        assert_eq!(
            input_items_of(&continue_from(vec![json!(1)], vec![], odd.clone())).len(),
            usize::from(odd.is_object())
        );
    }
}
