//! Signs of life for the caller of a stream that has not begun.

use testkit::http::Connection;
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, chat, deployment, finish, once, piece};

const ACCEPTING: &[(&str, &str)] = &[("accept", "text/event-stream")];
const STREAM: &str = r#","stream":true"#;

/// A gateway that soon shows signs of life, before an upstream that answers when the gate
/// opens.
fn start(more: &str, reply: Reply) -> (Gateway, Script, Gate) {
    let gate = Gate::new();
    let upstream = Script::new().otherwise(Reply::new().wait_for(&gate).then(reply)).start();
    let config = format!("[server]\nkeep_alive_ms = 20\n{more}");
    let serve = once().config(&(deployment("up", upstream.url(), "") + &config));
    (Gateway::start(serve), upstream, gate)
}

fn rest(connection: &mut Connection) -> String {
    let pieces = std::iter::from_fn(|| connection.piece());
    String::from_utf8(pieces.flat_map(|piece| piece.bytes).collect()).unwrap()
}

#[test]
fn a_stream_that_waits_shows_signs_of_life_and_then_its_events() {
    let (gateway, _upstream, gate) = start("", Reply::sse(&[&piece("one"), &finish()]));
    let mut connection = gateway.begin(ACCEPTING, chat("a", STREAM));
    let head = connection.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert!(head.header("x-paceline-run").is_some());
    for _ in 0..3 {
        assert_eq!(connection.piece().unwrap().bytes, b": keep-alive\n\n");
    }
    gate.open();
    let text = rest(&mut connection);
    let events = text.trim_start_matches(": keep-alive\n\n");
    assert!(events.starts_with("data: {") && events.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(!events.contains("keep-alive"), "{text}");
    gateway.wait_until_idle();
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="answered"}"#), 1.0);
}

#[test]
fn an_error_behind_a_sign_of_life_is_an_event() {
    let error = r#"{"error": {
        "message": "no", "type": "t", "code": "c", "param": "p"}}"#;
    let (gateway, _upstream, gate) = start("", Reply::json(400, error));
    let mut connection = gateway.begin(ACCEPTING, chat("a", STREAM));
    assert_eq!(connection.head().status, 200);
    gate.open();
    let text = rest(&mut connection);
    let event = text.trim_start_matches(": keep-alive\n\n").strip_prefix("data: ").unwrap();
    let event: serde_json::Value = serde_json::from_str(event.lines().next().unwrap()).unwrap();
    let member = |name: &str| event["error"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!([member("message"), member("code"), member("param")], ["no", "c", "p"]);
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="upstream_error"}"#), 1.0);
}

#[test]
fn a_caller_that_leaves_while_it_waits_cancels_its_call() {
    let (gateway, upstream, _gate) = start("", Reply::new().close());
    let mut connection = gateway.begin(ACCEPTING, chat("a", STREAM));
    assert_eq!(connection.head().status, 200);
    drop(connection);
    upstream.wait_for_left(1);
    gateway.wait_for_metric(r#"paceline_requests_total{outcome="cancelled"}"#, 1.0);
}

#[test]
fn only_those_get_them_who_should() {
    let check = |more, headers, stream, expected| {
        let (gateway, upstream, gate) = start(more, Reply::json(400, "{}"));
        let mut connection = gateway.begin(headers, chat("a", stream));
        upstream.wait_for_requests(1);
        std::thread::sleep(std::time::Duration::from_millis(100));
        gate.open();
        assert_eq!(connection.head().status, expected, "{more}");
    };
    check("", &[], STREAM, 400);
    check("keep_alive = \"nobody\"", ACCEPTING, STREAM, 400);
    check("keep_alive = \"all\"", ACCEPTING, "", 400);
    check("keep_alive = \"all\"", &[], STREAM, 200);
}
