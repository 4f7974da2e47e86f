//! Streams that break off after their first content, and go on at another deployment.

use serde_json::{Value, json};
use testkit::http;
use testkit::{Reply, Script};

use crate::support::{Gateway, chat, finish, piece, two_threads};

const ON: &str = "[retry]\ncontinue_streams = true\nbackoff_ms = 1\n";
const STREAM: &str = r#","stream":true,"max_tokens":100"#;

fn deployment(name: &str, provider: &str, url: &str) -> String {
    format!("[[deployments]]\nname = \"{name}\"\nprovider = \"{provider}\"\nurl = \"{url}\"\n")
}

/// A gateway before one deployment that breaks off, which is asked first, and another one.
fn start(first: (&str, &Script), second: (&str, &Script), more: &str) -> Gateway {
    let config = deployment("a", first.0, first.1.url())
        + "models = [\"sim\"]\n"
        + &deployment("b", second.0, second.1.url())
        + more;
    Gateway::start(two_threads().config(&config))
}

/// Asks until the first deployment was asked first, and gives the stream of that time.
fn streamed(gateway: &Gateway, first: &Script, path: &str, body: &str) -> String {
    loop {
        let before = first.count();
        let response = http::post(&gateway.at(path), &[], body);
        assert_eq!(response.status, 200, "{}", response.text());
        if first.count() > before {
            return response.text();
        }
    }
}

fn data(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

fn chat_text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

fn good() -> Reply {
    Reply::sse(&[&piece(" a time."), &finish()])
}

#[test]
fn a_chat_stream_goes_on_where_it_broke_off() {
    let cut = Reply::stream().event(&piece("Once ")).event(&piece("upon ")).close();
    let a = Script::new().otherwise(cut).start();
    let b = Script::new().otherwise(good()).start();
    let gateway = start(("vllm", &a), ("vllm", &b), ON);
    let text = streamed(&gateway, &a, "/v1/chat/completions", &chat("Tell", STREAM));
    let events = data(&text);
    // White space that was there already does not come twice.
    assert_eq!(chat_text(&events), "Once upon a time.", "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let mark = events.iter().find(|event| event.get("paceline").is_some()).unwrap();
    assert_eq!(mark["paceline"], json!({"continued_at": "b", "characters": 10}));
    let ids: Vec<_> = events.iter().map(|event| &event["id"]).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let asked: Value = serde_json::from_str(&b.requests().last().unwrap().text()).unwrap();
    let last = asked["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(*last, json!({"role": "assistant", "content": "Once upon"}));
    assert_eq!(asked["continue_final_message"], true);
    assert_eq!(asked["max_tokens"], 98);
    assert_eq!(gateway.metric("paceline_streams_continued_total"), 1.0);
    gateway.wait_until_idle();
}

#[test]
fn a_claude_stream_goes_on_behind_an_error_at_a_chat_server() {
    let event =
        |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap());
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [],
        "stop_reason": null, "usage": {"input_tokens": 7, "output_tokens": 1},
    });
    let block = json!({"type": "text", "text": ""});
    let delta = json!({"type": "text_delta", "text": "Once upon"});
    let error = json!({"type": "overloaded_error", "message": "Overloaded"});
    let broken = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "error", "error": error}),
    ];
    let reply = broken.into_iter().fold(Reply::stream(), |reply, data| reply.chunk(event(data)));
    let a = Script::new().otherwise(reply.end()).start();
    let b = Script::new().otherwise(good()).start();
    let gateway = start(("anthropic", &a), ("vllm", &b), ON);
    let body = json!({
        "model": "sim", "max_tokens": 100, "stream": true,
        "messages": [{"role": "user", "content": "Tell"}],
    });
    let text = streamed(&gateway, &a, "/v1/messages", &body.to_string());
    let events = data(&text);
    let texts = events.iter().filter_map(|event| event["delta"]["text"].as_str());
    assert_eq!(texts.collect::<String>(), "Once upon a time.", "{text}");
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let count = |kind: &str| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((count("message_start"), count("content_block_start")), (1, 1), "{text}");
    assert_eq!((count("content_block_stop"), count("message_stop")), (1, 1), "{text}");
    assert_eq!((count("error"), count("ping")), (0, 1), "{text}");
}

#[test]
fn what_cannot_go_on_ends_with_its_error() {
    let call = r#"{"id":"c","object":"chat.completion.chunk","model":"sim","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"{"}}]}}]}"#;
    let text = || Reply::stream().event(&piece("Once"));
    let refused = Reply::json(400, r#"{"error":{"message":"no prefill"}}"#);
    let check = |provider: &str, reply: Reply, more: &str, goes_on: bool| {
        let a = Script::new().reply(reply).otherwise(refused.clone()).start();
        let refused = refused.clone();
        let b = Script::new()
            .respond(move |request| match request.text().contains("continue_final_message") {
                true if !goes_on => refused.clone(),
                _ => good(),
            })
            .start();
        let gateway = start((provider, &a), (provider, &b), more);
        let text = streamed(&gateway, &a, "/v1/chat/completions", &chat("Tell", STREAM));
        assert!(text.contains("upstream_broken"), "{provider} {goes_on}: {text}");
        assert!(
            !text.contains("[DONE]") && !text.contains("paceline {"),
            "{provider} {goes_on}: {text}"
        );
    };
    check("vllm", text().close(), "", true);
    check("groq", text().close(), ON, true);
    check("vllm", text().event(call).close(), ON, true);
    check("vllm", text().close(), ON, false);
}
