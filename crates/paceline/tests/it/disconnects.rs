//! A client that goes away, at every stage: the upstream call ends, and nothing stays.

use std::time::{Duration, Instant};

use testkit::http::Connection;
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, chat, eventually, piece};

const CANCELLED: &str = r#"paceline_requests_total{outcome="cancelled"}"#;

/// A cancelled call must end at the upstream within this time, also on a busy machine.
const BOUND: Duration = Duration::from_secs(5);

fn gone(gateway: &Gateway) {
    gateway.wait_until_idle();
    // The connection that asks for the metrics is one.
    eventually("the client's connection is gone", || {
        gateway.metric("paceline_client_connections") <= 1.0
    });
}

#[test]
fn before_the_request_is_whole_nothing_was_begun() {
    let upstream = Script::new().start();
    let gateway = Gateway::before(&upstream);
    let whole = gateway.compose(&[], chat("a", ""));
    let head = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    for length in [0, 1, 30, head - 1, head, head + 1, whole.len() - 1] {
        let mut connection = Connection::to(gateway.url());
        connection.send(&whole[..length]);
        drop(connection);
    }
    gone(&gateway);
    assert_eq!(upstream.count(), 0);
    assert_eq!(upstream.connections(), 0);
}

/// The client sends this call and leaves when `until` says so; then the upstream must see
/// its connection close, and the call must count as cancelled.
fn check(reply: Reply, body: &str, until: impl FnOnce(&mut Connection)) {
    let upstream = Script::new().otherwise(reply).start();
    let gateway = Gateway::before(&upstream);
    let mut connection = gateway.begin(&[], body);
    upstream.wait_for_requests(1);
    until(&mut connection);
    let left_at = Instant::now();
    drop(connection);
    upstream.wait_for_left(1);
    assert!(left_at.elapsed() < BOUND, "it took {:?}", left_at.elapsed());
    gateway.wait_for_metric(CANCELLED, 1.0);
    gone(&gateway);
    let open = r#"paceline_upstream_connections_open{upstream="upstream"}"#;
    eventually("the connection to the upstream is closed", || gateway.metric(open) == 0.0);
    assert_eq!(upstream.count(), 1);
    let all = ["answered", "rejected", "upstream_error", "failed", "broken"];
    for outcome in all.map(|name| format!("paceline_requests_total{{outcome=\"{name}\"}}")) {
        assert_eq!(gateway.metric(&outcome), 0.0, "{outcome}");
    }
}

#[test]
fn before_the_answer() {
    for more in ["", ",\"temperature\":0", ",\"stream\":true", ",\"temperature\":0,\"stream\":true"]
    {
        check(Reply::new().wait_for(&Gate::new()), &chat("a", more), |_| {});
    }
}

#[test]
fn in_the_middle_of_the_answers_head() {
    let reply = Reply::bytes("HTTP/1.1 200 OK\r\nContent-").wait_for(&Gate::new());
    check(reply, &chat("a", ""), |_| {});
}

#[test]
fn in_the_middle_of_a_held_answer() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
    for more in ["", ",\"temperature\":0"] {
        check(Reply::bytes(head).wait_for(&Gate::new()), &chat("a", more), |_| {});
    }
}

#[test]
fn in_a_stream_that_stands_still() {
    for more in [",\"stream\":true", ",\"temperature\":0,\"stream\":true"] {
        let reply = Reply::stream().event(&piece("one")).wait_for(&Gate::new());
        check(reply, &chat("a", more), |connection| {
            assert_eq!(connection.head().status, 200);
            assert!(connection.piece().is_some());
        });
    }
}

#[test]
fn in_a_stream_that_flows() {
    let event = format!("data: {}\n\n", piece("more"));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    for more in [",\"stream\":true", ",\"temperature\":0,\"stream\":true"] {
        let reply = Reply::stream().for_ever(&chunk, Duration::from_millis(1));
        check(reply, &chat("a", more), |connection| {
            connection.head();
            for _ in 0..5 {
                assert!(connection.piece().is_some());
            }
        });
    }
}

#[test]
fn in_a_stream_that_the_client_does_not_read() {
    let event = format!("data: {}\n\n", piece(&"x".repeat(100_000)));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let reply = Reply::stream().for_ever(&chunk, Duration::ZERO);
    check(reply, &chat("a", ",\"stream\":true"), |connection| {
        connection.head();
    });
}

#[test]
fn in_a_long_answer_that_passes_through() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n";
    let reply = Reply::bytes(head).write(vec![b' '; 8 << 20]).wait_for(&Gate::new());
    check(reply, &chat("a", ""), |connection| {
        assert_eq!(connection.head().status, 200);
        assert!(connection.piece().is_some());
    });
}

#[test]
fn after_the_last_event_the_call_was_answered() {
    // The upstream says `[DONE]` and keeps its connection busy; a client that has its
    // answer and leaves has cancelled nothing.
    let reply = Reply::stream().event(&piece("one")).event("[DONE]").wait_for(&Gate::new());
    let upstream = Script::new().otherwise(reply).start();
    let gateway = Gateway::before(&upstream);
    let mut connection = gateway.begin(&[], chat("a", ",\"stream\":true"));
    connection.head();
    let mut text = Vec::new();
    while !text.ends_with(b"[DONE]\n\n") {
        text.extend(connection.piece().unwrap().bytes);
    }
    drop(connection);
    upstream.wait_for_left(1);
    gateway.wait_for_metric(r#"paceline_requests_total{outcome="answered"}"#, 1.0);
    assert_eq!(gateway.metric(CANCELLED), 0.0);
    gone(&gateway);
}
