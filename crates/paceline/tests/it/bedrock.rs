//! Callers of other dialects before Amazon Bedrock.

use paceline_dialect::neutral::{Event, Failure, FailureClass, Part, Stop, Usage};
use paceline_dialect::{Codec, Converse};
use serde_json::{Value, json};
use testkit::http::{self, Connection, Response};
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, two_threads};

const MODEL: &str = "anthropic.claude-x-v1:0";

fn start(upstream: &Script) -> Gateway {
    start_for(upstream, MODEL)
}

fn start_for(upstream: &Script, model: &str) -> Gateway {
    let config = format!(
        "[[deployments]]\nname = \"aws\"\nprovider = \"bedrock\"\nurl = \"{}\"\n\
         rename = {{ m = \"{model}\" }}\n[deployments.aws]\nregion = \"eu-west-1\"\n\
         access_key_id = \"AKIDEXAMPLE\"\nsecret_access_key = \"the-secret\"\n",
        upstream.url()
    );
    Gateway::start(two_threads().env("PACELINE__RETRY__BACKOFF_MS", "1").config(&config))
}

fn body(stream: bool) -> String {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": messages}).to_string()
}

fn ask(gateway: &Gateway, path: &str, stream: bool) -> Response {
    http::post(&gateway.at(path), &[], body(stream))
}

fn frames(events: &[Event]) -> Vec<u8> {
    let mut writer = Converse.event_writer(&paceline_dialect::neutral::Request::default());
    let mut wire = Vec::new();
    events.iter().for_each(|event| writer.write(event, &mut wire));
    wire
}

fn said() -> Vec<Event> {
    let text = |text: &str| Event::Text { index: 0, text: text.to_owned() };
    let part = Part::Text { text: String::new(), cache: None };
    vec![
        Event::Start { id: String::new(), model: String::new(), usage: None },
        Event::PartStart { index: 0, part },
        text("It "),
        text("is."),
    ]
}

fn ended() -> Vec<Event> {
    let usage = Usage { input_uncached: 7, output: 2, ..Usage::default() };
    [
        said(),
        vec![
            Event::PartEnd { index: 0 },
            Event::Stop { stop: Stop::End, sequence: None },
            Event::Usage(usage),
            Event::End,
        ],
    ]
    .concat()
}

/// Frames cut into chunks of a few bytes.
fn stream(wire: &[u8]) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    wire.chunks(23).fold(Reply::bytes(head), |reply, piece| reply.chunk(piece))
}

/// A call of a tool, as Claude streams it.
fn called() -> Vec<Event> {
    let part = Part::ToolCall {
        id: "tooluse_1".to_owned(),
        name: "look".to_owned(),
        arguments: String::new(),
        seal: None,
        cache: None,
    };
    let json = |json: &str| Event::Arguments { index: 0, json: json.to_owned() };
    vec![
        said()[0].clone(),
        Event::PartStart { index: 0, part },
        json("{\"city\":"),
        json("\"Oslo\"}"),
        Event::PartEnd { index: 0 },
        Event::Stop { stop: Stop::Tool, sequence: None },
        Event::End,
    ]
}

fn failed(class: FailureClass) -> Event {
    Event::Error(Failure { class, message: "Gone.".to_owned(), code: None, param: None })
}

#[test]
fn whole_answers_come_from_converse() {
    let answer = json!({
        "output": {"message": {"role": "assistant", "content": [{"text": "Calm."}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9},
    });
    let upstream = Script::new().otherwise(Reply::json(200, &answer.to_string())).start();
    let gateway = start(&upstream);
    let response = ask(&gateway, "/v1/chat/completions", false);
    let told: Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(told["choices"][0]["message"]["content"], "Calm.", "{told}");
    assert_eq!(told["usage"]["prompt_tokens"], 7);
    // Bedrock names no answer, and clients want a name.
    assert!(
        told["id"].as_str().unwrap().len() > 10 && told["created"].as_u64() > Some(0),
        "{told}"
    );
    let response = ask(&gateway, "/v1/messages", false);
    let told: Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(told["content"][0]["text"], "Calm.", "{told}");
    let seen = &upstream.requests()[0];
    assert!(seen.line().starts_with("POST /model/anthropic.claude-x-v1%3A0/converse "));
    let signature = seen.header("authorization").unwrap();
    assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{signature}");
    assert!(signature.contains("/eu-west-1/bedrock/aws4_request"), "{signature}");
    assert!(seen.header("x-amz-date").is_some());
    let sent: Value = serde_json::from_str(&seen.text()).unwrap();
    assert_eq!(sent["messages"][0]["content"][0]["text"], "Hi");
    assert_eq!(sent["inferenceConfig"]["maxTokens"], 9);
    assert!(!gateway.log().contains("the-secret"));
}

#[test]
fn streams_come_from_frames() {
    let upstream = Script::new().otherwise(stream(&frames(&ended())).end()).start();
    let gateway = start(&upstream);
    let response = ask(&gateway, "/v1/chat/completions", true);
    let text = response.text();
    assert!(text.contains(r#""content":"It ""#) && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let text = ask(&gateway, "/v1/messages", true).text();
    assert!(text.contains("event: message_stop"), "{text}");
    assert!(text.contains(r#""output_tokens":2"#), "{text}");
    let seen = &upstream.requests()[0];
    assert!(seen.line().contains("/converse-stream "), "{}", seen.line());
    let accepts = seen.header("accept");
    assert_eq!(accepts.as_deref(), Some("application/vnd.amazon.eventstream"));
}

#[test]
fn events_are_told_as_they_come() {
    let (begun, rest) =
        (frames(&said()[..3]), frames(&ended()).split_off(frames(&said()[..3]).len()));
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let gate = Gate::new();
        let reply = stream(&begun).wait_for(&gate).chunk(&rest).end();
        let upstream = Script::new().otherwise(reply).start();
        let gateway = start(&upstream);
        let mut caller = Connection::to(&gateway.at(path));
        caller.send(&http::compose("POST", &gateway.at(path), &[], body(true).as_bytes()));
        assert_eq!(caller.head().status, 200);
        let mut text = String::new();
        while !text.contains("It ") {
            let piece = caller.piece().expect("the first word comes before the rest is sent");
            text.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        assert!(!text.contains("is."), "{text}");
        gate.open();
        while let Some(piece) = caller.piece() {
            text.push_str(&String::from_utf8_lossy(&piece.bytes));
        }
        assert!(text.contains("[DONE]") || text.contains("message_stop"), "{text}");
    }
}

#[test]
fn calls_of_tools_come_from_frames() {
    // Some proxies write the type in their own way.
    let head = "HTTP/1.1 200 OK\r\nContent-Type: Application/vnd.amazon.eventstream; v=1\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let reply = Reply::bytes(head).chunk(frames(&called())).end();
    let upstream = Script::new().otherwise(reply).start();
    let gateway = start(&upstream);
    let text = ask(&gateway, "/v1/chat/completions", true).text();
    assert!(text.contains(r#""finish_reason":"tool_calls""#), "{text}");
    assert!(text.contains("tooluse_1") && text.contains(r#"{\"city\":"#), "{text}");
    let text = ask(&gateway, "/v1/messages", true).text();
    assert!(text.contains(r#""stop_reason":"tool_use""#), "{text}");
    assert!(text.contains(r#""partial_json":"\"Oslo\"}""#), "{text}");
}

#[test]
fn arns_stand_in_the_path_as_one_segment() {
    let upstream = Script::new().otherwise(stream(&frames(&ended())).end()).start();
    let gateway = start_for(&upstream, "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x");
    assert_eq!(ask(&gateway, "/v1/messages", true).status, 200);
    let line = upstream.requests()[0].line();
    let path =
        "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.x/converse-stream";
    assert!(line.starts_with(&format!("POST {path} ")), "{line}");
}

#[test]
fn an_exception_or_a_cut_is_never_a_clean_end() {
    let broken = [said(), vec![failed(FailureClass::Server)]].concat();
    let damaged = {
        let mut wire = frames(&ended());
        let at = wire.len() - 40;
        wire[at] ^= 1;
        wire
    };
    // The reason of the end has come, and what it used has not.
    let unmetered = frames(&ended()[..ended().len() - 1]);
    let begun = frames(&said());
    let within = &begun[..begun.len() - 5];
    for wire in [&frames(&broken)[..], &begun, &damaged, &unmetered, within] {
        let reply = stream(wire).end();
        let upstream = Script::new().otherwise(reply).start();
        let gateway = start(&upstream);
        let text = ask(&gateway, "/v1/chat/completions", true).text();
        assert!(text.contains(r#""error""#) && !text.contains("[DONE]"), "{text}");
        let text = ask(&gateway, "/v1/messages", true).text();
        assert!(text.contains("event: error") && !text.contains("message_stop"), "{text}");
    }
}

#[test]
fn an_exception_before_the_first_word_is_retried() {
    let at_once = frames(&[said()[0].clone(), failed(FailureClass::Server)]);
    let upstream = Script::new()
        .reply(stream(&at_once).end())
        .otherwise(stream(&frames(&ended())).end())
        .start();
    let gateway = start(&upstream);
    let text = ask(&gateway, "/v1/chat/completions", true).text();
    assert!(text.ends_with("data: [DONE]\n\n") && !text.contains("error"), "{text}");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn errors_are_told_in_the_callers_dialect() {
    let reply = Reply::with_headers(
        400,
        &[("Content-Type", "application/json"), ("x-amzn-errortype", "ValidationException:http")],
        r#"{"message":"The model is not on sale."}"#,
    );
    let upstream = Script::new().otherwise(reply).start();
    let response = ask(&start(&upstream), "/v1/chat/completions", false);
    assert_eq!(response.status, 400);
    let told: Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(told["error"]["message"], "The model is not on sale.", "{told}");
}
