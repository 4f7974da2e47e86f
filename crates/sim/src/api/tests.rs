use super::*;
use serde_json::json;

/// The parameter and code of the error for a body.
fn refused(body: serde_json::Value) -> (Option<String>, Option<&'static str>) {
    let error = Chat::parse(body.to_string().as_bytes(), 4).unwrap_err();
    assert_eq!(error.status, StatusCode::BAD_REQUEST);
    assert!(!error.message.is_empty());
    (error.param, error.code)
}

fn with(key: &str, value: serde_json::Value) -> serde_json::Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    body[key] = value;
    body
}

#[test]
fn errors_name_the_member_at_fault() {
    let check = |key: &str, value: serde_json::Value, param: &str| {
        assert_eq!(refused(with(key, value.clone())).0.as_deref(), Some(param), "{key}: {value}");
    };
    let message = |message| json!([message]);
    check("model", json!(7), "model");
    check("model", json!(null), "model");
    check("messages", json!([]), "messages");
    check("messages", json!("hi"), "messages");
    check("messages", message(json!({"role": "robot", "content": "x"})), "messages[0].role");
    check("messages", message(json!({"content": "x"})), "messages");
    check("messages", message(json!({"role": "user"})), "messages[0].content");
    check("messages", message(json!({"role": "user", "content": 3})), "messages");
    check("messages", message(json!({"role": "tool", "content": "x"})), "messages[0].tool_call_id");
    let odd_part = json!({"role": "user", "content": [{"type": "video"}]});
    check("messages", message(odd_part), "messages");
    check("max_tokens", json!(0), "max_tokens");
    check("max_tokens", json!(-1), "max_tokens");
    check("max_tokens", json!(1.5), "max_tokens");
    check("max_completion_tokens", json!("many"), "max_completion_tokens");
    check("n", json!(2), "n");
    check("temperature", json!(2.5), "temperature");
    check("stream", json!("yes"), "stream");
    check("stream_options", json!({"include_usage": true}), "stream_options");
    check("stop", json!([""]), "stop");
    check("stop", json!(7), "stop");
    check("tool_choice", json!("required"), "tool_choice");
    check("tool_choice", json!({"function": {"name": "x"}}), "tool_choice");
    check("tools", json!([{"type": "function"}]), "tools");
    check("response_format", json!({"type": "xml"}), "response_format");
    check("response_format", json!({"type": "json_schema"}), "response_format");
    assert_eq!(refused(json!({"messages": []})).1, Some("missing_required_parameter"));
    assert_eq!(refused(json!([])), (None, None));
    assert_eq!(Chat::parse(b"{\"model\":", 4).unwrap_err().param, None);
}

#[test]
fn what_real_clients_send_is_accepted() {
    let check = |key: &str, value: serde_json::Value| {
        let body = with(key, value).to_string();
        Chat::parse(body.as_bytes(), 4).unwrap_or_else(|e| panic!("{body}: {e:?}"));
    };
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    check(
        "messages",
        json!([
            {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "done"},
            {"role": "assistant", "content": null, "refusal": "no"},
            {"role": "user", "content": "esc\"aped\n", "name": "ann"},
        ]),
    );
    for null in ["max_tokens", "tools", "stop", "seed", "stream_options", "response_format"] {
        check(null, json!(null));
    }
    check("metadata", json!({"anything": 1}));
    check("seed", json!(-3));
}

#[test]
fn equal_prefixes_give_equal_blocks() {
    let hashes = |messages: serde_json::Value| {
        let body = json!({"model": "m", "messages": messages}).to_string();
        let prompt = Chat::parse(body.as_bytes(), 4).unwrap().prompt;
        (prompt.tokens(), prompt.into_hashes())
    };
    let system = json!({"role": "system", "content": "s".repeat(240)});
    let (tokens, a) = hashes(json!([system, {"role": "user", "content": "a".repeat(64)}]));
    assert_eq!((tokens, a.len()), (4 + 60 + 4 + 16 + 4, 5));
    let (_, b) = hashes(json!([system, {"role": "user", "content": "b".repeat(64)}]));
    assert_eq!((&a[..4], a[4] == b[4]), (&b[..4], false));
    // The same text in parts, or with escapes, is the same prompt.
    let parts = json!([{"type": "text", "text": "s".repeat(200)}, {"type": "text", "text": "s".repeat(40)}]);
    let (_, c) = hashes(json!([{"role": "system", "content": parts}]));
    assert_eq!(c[..4], a[..4]);
}
