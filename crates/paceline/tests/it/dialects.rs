//! Callers of one dialect before upstreams of another, on real sockets.

use serde_json::{Value, json};
use testkit::http::{self, Response};
use testkit::{Reply, Script};

use crate::support::{Gateway, answer, finish, piece, two_threads};

fn deployment(provider: &str, url: &str, more: &str) -> String {
    format!("[[deployments]]\nname = \"up\"\nprovider = \"{provider}\"\nurl = \"{url}\"\n{more}\n")
}

fn before(provider: &str, upstream: &Script, more: &str) -> Gateway {
    let config = deployment(provider, upstream.url(), more);
    Gateway::start(two_threads().env("PACELINE__RETRY__BACKOFF_MS", "1").config(&config))
}

fn ask(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    http::post(&gateway.at(path), headers, body.to_string())
}

fn message(text: &str) -> Value {
    json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]})
}

const CLAUDE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[{"type":"text","text":"Calm."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":2}}"#;

#[test]
fn a_request_of_the_upstreams_dialect_is_forwarded_unchanged() {
    let upstream = Script::new().otherwise(Reply::json(200, CLAUDE)).start();
    let gateway = before("anthropic", &upstream, "");
    let body = r#"{ "model":"m", "max_tokens" : 9,"messages":[{"content":"x","role":"user"}], "beta_thing":[1.0] }"#;
    let headers =
        [("x-api-key", "own"), ("anthropic-version", "2026-10-21"), ("anthropic-beta", "b")];
    let response = http::post(&gateway.at("/v1/messages?beta=true"), &headers, body);
    assert_eq!((response.status, response.text().as_str()), (200, CLAUDE));
    let seen = &upstream.requests()[0];
    assert_eq!(seen.text(), body);
    assert!(seen.line().starts_with("POST /v1/messages?beta=true "));
    for (name, value) in headers {
        assert_eq!(seen.header(name).as_deref(), Some(value));
    }
}

#[test]
fn chat_is_told_to_claude_and_back() {
    let upstream = Script::new().otherwise(Reply::json(200, CLAUDE)).start();
    let gateway =
        before("anthropic", &upstream, "api_key = \"sk-ours\"\nrename = { m = \"claude-x\" }");
    let mut body = message("Hi");
    body["temperature"] = json!(2);
    let headers = [("authorization", "Bearer callers-own"), ("openai-organization", "o")];
    let response = ask(&gateway, "/v1/chat/completions", &headers, &body);
    let told: Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(told["object"], "chat.completion");
    assert_eq!(told["choices"][0]["message"]["content"], "Calm.");
    assert_eq!(told["usage"]["prompt_tokens"], 7);
    assert!(response.header("x-paceline-warning").unwrap().contains("temperature"));
    let seen = &upstream.requests()[0];
    let sent: Value = serde_json::from_str(&seen.text()).unwrap();
    assert_eq!((&sent["model"], &sent["temperature"]), (&json!("claude-x"), &json!(1.0)));
    assert_eq!(seen.header("x-api-key").as_deref(), Some("sk-ours"));
    // Nothing of the caller's own account goes to another vendor.
    assert_eq!((seen.header("authorization"), seen.header("openai-organization")), (None, None));
    assert!(seen.header("anthropic-version").is_some());
}

#[test]
fn a_claude_stream_comes_from_a_chat_upstream() {
    let events = [&*piece("It "), &*piece("is."), &*finish()];
    let upstream = Script::new().otherwise(Reply::sse(&events)).start();
    let gateway = before("openai", &upstream, "");
    let mut body = message("Hi");
    body["stream"] = json!(true);
    let response = ask(&gateway, "/v1/messages", &[], &body);
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let text = response.text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let sent: Value = serde_json::from_str(&upstream.requests()[0].text()).unwrap();
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
}

#[test]
fn a_cut_stream_ends_with_the_callers_error_event() {
    let cut = Reply::stream().event(&piece("It ")).close();
    let upstream = Script::new().otherwise(cut).start();
    let gateway = before("paceline-sim", &upstream, "");
    for (path, body, expected) in [
        ("/v1/messages", message("Hi"), "event: error\ndata: {\"type\":\"error\""),
        ("/v1/responses", json!({"model": "m", "input": "Hi"}), "event: error\n"),
        ("/v1/completions", json!({"model": "m", "prompt": "Hi"}), "upstream_broken"),
    ] {
        let mut body = body;
        body["stream"] = json!(true);
        let text = ask(&gateway, path, &[], &body).text();
        assert!(text.contains(expected), "{path}: {text}");
        assert!(!text.contains("message_stop") && !text.contains("response.completed"), "{text}");
    }
}

#[test]
fn errors_are_told_in_the_callers_dialect() {
    let refusal = r#"{"error":{"message":"no such model: m","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#;
    let upstream = Script::new().otherwise(Reply::json(404, refusal)).start();
    let gateway = before("openai", &upstream, "");
    let response = ask(&gateway, "/v1/messages", &[], &message("Hi"));
    assert_eq!(response.status, 404);
    let told: Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(
        (&told["type"], &told["error"]["type"]),
        (&json!("error"), &json!("not_found_error"))
    );
    assert!(told["error"]["message"].as_str().unwrap().contains("no such model"));
}

#[test]
fn what_cannot_be_told_names_the_callers_field() {
    let upstream = Script::new().otherwise(Reply::json(200, CLAUDE)).start();
    let gateway = before("anthropic", &upstream, "");
    let mut body = message("Hi");
    for (field, value) in [("seed", json!(7)), ("logit_bias", json!({"1": 2})), ("n", json!(2))] {
        body[field] = value;
        let response = ask(&gateway, "/v1/chat/completions", &[], &body);
        let told: Value = serde_json::from_str(&response.text()).unwrap();
        assert_eq!((response.status, &told["error"]["param"]), (400, &json!(field)), "{told}");
        body.as_object_mut().unwrap().remove(field);
    }
    let mut body = message("Hi");
    body["messages"][0]["content"] = json!([{"type": "video"}]);
    let response = ask(&gateway, "/v1/chat/completions", &[], &body);
    assert!(response.text().contains("messages[0].content[0].type"), "{}", response.text());
    assert_eq!(upstream.count(), 0);
}

#[test]
fn tokens_are_counted_by_the_provider_or_estimated() {
    let counted = r#"{"input_tokens":42}"#;
    let upstream = Script::new().otherwise(Reply::json(200, counted)).start();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(4000)}]});
    let path = "/v1/messages/count_tokens";
    let own = ask(&before("anthropic", &upstream, ""), path, &[], &body);
    assert_eq!((own.text().as_str(), own.header("x-paceline-warning")), (counted, None));
    let estimated = ask(&before("openai", &upstream, ""), path, &[], &body);
    let told: Value = serde_json::from_str(&estimated.text()).unwrap();
    assert!((900..1200).contains(&told["input_tokens"].as_u64().unwrap()), "{told}");
    assert!(estimated.header("x-paceline-warning").unwrap().contains("estimate"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn translated_answers_are_kept_and_shared() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("good"))).start();
    let gateway = before("openai", &upstream, "");
    let mut body = message("Hi");
    body["temperature"] = json!(0);
    let first = ask(&gateway, "/v1/messages", &[], &body);
    let second = ask(&gateway, "/v1/messages", &[], &body);
    assert_eq!(first.text(), second.text());
    assert_eq!(second.header("x-paceline-cache"), Some("hit"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn an_upstream_of_the_callers_dialect_comes_first() {
    let claude = Script::new().otherwise(Reply::json(200, CLAUDE)).start();
    let chat = Script::new().otherwise(Reply::json(200, &answer("chat"))).start();
    let config = deployment("openai", chat.url(), "")
        + &deployment("anthropic", claude.url(), "").replace("\"up\"", "\"claude\"");
    let gateway = Gateway::start(two_threads().config(&config));
    for _ in 0..5 {
        let response = ask(&gateway, "/v1/messages", &[], &message("Hi"));
        assert_eq!(response.header("x-paceline-deployment"), Some("claude"));
    }
    assert_eq!((claude.count(), chat.count()), (5, 0));
}

/// A name that is too long for Claude goes out short, the same each time, and comes back long;
/// and an answer that tells no time has that of the call.
#[test]
fn tools_keep_their_names_and_answers_have_a_time() {
    let own = format!("mcp__files.{}", "read_".repeat(20));
    let mut body = message("Read it");
    let function = json!({"name": own, "parameters": {"type": "object"}});
    body["tools"] = json!([{"type": "function", "function": function}]);
    let short = |upstream: &Script| {
        let sent: Value = serde_json::from_str(&upstream.requests()[0].text()).unwrap();
        sent["tools"][0]["name"].as_str().unwrap().to_owned()
    };
    let upstream = Script::new().otherwise(Reply::json(200, CLAUDE)).start();
    ask(&before("anthropic", &upstream, ""), "/v1/chat/completions", &[], &body);
    let told = short(&upstream);
    assert!(told.len() <= 64 && !told.contains('.'), "{told}");
    let call = json!({"type": "tool_use", "id": "toolu_1", "name": told, "input": {}});
    let whole = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [call],
        "stop_reason": "tool_use", "usage": {"input_tokens": 7, "output_tokens": 2},
    });
    let events = [
        json!({"type": "message_start", "message": {"id": "msg_1", "model": "c"}}),
        json!({"type": "content_block_start", "index": 0, "content_block": call}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}),
        json!({"type": "message_stop"}),
    ];
    let event =
        |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    let stream = Reply::stream().chunk(events.iter().map(event).collect::<String>());
    for (streams, reply) in [(false, Reply::json(200, &whole.to_string())), (true, stream.end())] {
        let upstream = Script::new().otherwise(reply).start();
        body["stream"] = json!(streams);
        let answer = ask(&before("anthropic", &upstream, ""), "/v1/chat/completions", &[], &body);
        let text = answer.text();
        assert_eq!(short(&upstream), told);
        assert!(text.contains(&own) && !text.contains(&told), "{text}");
        assert!(text.contains("\"created\":1") && !text.contains("\"created\":0"), "{text}");
    }
}
