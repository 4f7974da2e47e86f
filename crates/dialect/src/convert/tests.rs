use super::*;

fn whole(message: Value, extra: Value) -> Value {
    let mut choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    choice.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({
        "id": "c1", "object": "chat.completion", "created": 7, "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    })
}

/// A whole reply survives the way into a stream and back.
#[test]
fn whole_to_stream_and_back() {
    let check = |message: Value, extra: Value| {
        let before = whole(message, extra);
        let stream = to_stream(before.to_string().as_bytes(), true).unwrap();
        let after: Value = serde_json::from_slice(&to_whole(&stream).unwrap()).unwrap();
        assert_eq!(after, before, "{}", String::from_utf8_lossy(&stream));
    };
    check(json!({"role": "assistant", "content": "Hi."}), json!({}));
    check(
        json!({"role": "assistant", "content": "ä\n\"🚨".repeat(40), "refusal": null}),
        json!({}),
    );
    check(
        json!({"role": "assistant", "content": "x", "reasoning_content": "because ".repeat(9)}),
        json!({}),
    );
    check(
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]}),
        json!({}),
    );
    check(
        json!({"role": "assistant", "content": "x"}),
        json!({"logprobs": {"content": [{"token": "x", "logprob": -0.5}]}}),
    );
}

#[test]
fn long_text_comes_in_pieces() {
    let before = whole(json!({"role": "assistant", "content": "word ".repeat(100)}), json!({}));
    let stream = to_stream(before.to_string().as_bytes(), false).unwrap();
    let events: Vec<_> = sse::data(&stream).collect();
    assert_eq!(events.len(), 1 + 500usize.div_ceil(PIECE_CHARS) + 2);
    assert!(!stream.windows(7).any(|w| w == b"\"usage\""), "usage was not asked for");
}

#[test]
fn deltas_of_a_stream_are_joined() {
    let stream = [
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": null}, "finish_reason": null}], "usage": null}),
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]}, "finish_reason": null}]}),
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\""}}]}, "finish_reason": null}]}),
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, "finish_reason": null}]}),
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": {"prompt_tokens": 1}}),
    ]
    .map(|event| format!("data: {event}\n\n"))
    .concat()
        + "data: [DONE]\n\n";
    let whole: Value = serde_json::from_slice(&to_whole(stream.as_bytes()).unwrap()).unwrap();
    assert_eq!(
        whole,
        json!({
            "id": "c", "object": "chat.completion", "model": "m",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
                "role": "assistant", "content": null,
                "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}],
            }}],
            "usage": {"prompt_tokens": 1},
        })
    );
}

#[test]
fn what_is_no_complete_stream_is_refused() {
    let event = |body: Value| format!("data: {body}\n\ndata: [DONE]\n\n");
    let choice =
        |finish: Value| json!([{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}]);
    let usage = json!({"prompt_tokens": 1});
    for (what, stream) in [
        ("no usage", event(json!({"choices": choice(json!("stop"))}))),
        ("no finish", event(json!({"choices": choice(Value::Null), "usage": usage}))),
        ("an error", event(json!({"error": {"message": "x"}}))),
        ("no JSON", "data: x\n\n".to_owned()),
        ("nothing", String::new()),
    ] {
        assert!(to_whole(stream.as_bytes()).is_none(), "{what}");
    }
    assert!(to_stream(b"{\"error\":{}}", false).is_none());
}

#[test]
fn usage_is_taken_out() {
    let stream = "data: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n\
                  data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n";
    let out = String::from_utf8(without_usage(stream.as_bytes())).unwrap();
    assert_eq!(out, "data: {\"choices\":[{\"delta\":{}}]}\n\ndata: [DONE]\n\n");
}
