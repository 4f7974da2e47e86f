//! Callers of other dialects before Amazon Bedrock.

use paceline_dialect::neutral::{Event, Failure, FailureClass, Part, Stop, Usage};
use paceline_dialect::{Codec, Converse};
use serde_json::{Value, json};
use testkit::http::{self, Response};
use testkit::{Reply, Script};

use crate::support::{Gateway, two_threads};

const MODEL: &str = "anthropic.claude-x-v1:0";

fn start(upstream: &Script) -> Gateway {
    let config = format!(
        "[[deployments]]\nname = \"aws\"\nprovider = \"bedrock\"\nurl = \"{}\"\n\
         rename = {{ m = \"{MODEL}\" }}\n[deployments.aws]\nregion = \"eu-west-1\"\n\
         access_key_id = \"AKIDEXAMPLE\"\nsecret_access_key = \"the-secret\"\n",
        upstream.url()
    );
    Gateway::start(two_threads().env("PACELINE__RETRY__BACKOFF_MS", "1").config(&config))
}

fn ask(gateway: &Gateway, path: &str, stream: bool) -> Response {
    let body = json!({
        "model": "m", "max_tokens": 9, "stream": stream,
        "messages": [{"role": "user", "content": "Hi"}],
    });
    http::post(&gateway.at(path), &[], body.to_string())
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
fn an_exception_or_a_cut_is_never_a_clean_end() {
    let broken = [said(), vec![failed(FailureClass::Server)]].concat();
    let damaged = {
        let mut wire = frames(&ended());
        let at = wire.len() - 40;
        wire[at] ^= 1;
        wire
    };
    for reply in
        [stream(&frames(&broken)).end(), stream(&frames(&said())).end(), stream(&damaged).end()]
    {
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
