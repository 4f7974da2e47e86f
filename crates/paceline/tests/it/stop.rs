//! The graceful end: what is open may end, and nothing new begins.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::http::{Connection, Ending};
use testkit::{Gate, Reply, Script};

use crate::support::{
    Gateway, PATIENCE, answer, chat, deployment, eventually, finish, piece, two_threads,
};

/// SIGTERM, SIGSTOP and SIGCONT come from outside, as an operator sends them.
fn signal(gateway: &Gateway, name: &str) {
    let pid = gateway.pid().to_string();
    let status = std::process::Command::new("kill").args(["-s", name, &pid]).status();
    assert!(status.unwrap().success());
}

fn whole(gate: &Gate) -> Reply {
    let body = answer("late");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let length = body.len();
    Reply::new().wait_for(gate).write(format!("{head}Content-Length: {length}\r\n\r\n{body}"))
}

#[test]
fn open_answers_end_properly_and_new_connections_are_refused() {
    let gate = Gate::new();
    let streamed = Reply::stream().event(&piece("one")).wait_for(&gate).event(&finish());
    let upstream = Script::new().reply(streamed.event("[DONE]").end()).reply(whole(&gate)).start();
    let mut gateway = Gateway::before(&upstream);
    let mut stream = gateway.begin(&[], chat("a", ",\"stream\":true"));
    let head = stream.head();
    let first = stream.piece().unwrap();
    let mut call = gateway.begin(&[], chat("b", ""));
    upstream.wait_for_requests(2);
    let mut idle = Connection::to(gateway.url());
    idle.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.response().status, 200);
    let mut silent = Connection::to(gateway.url());

    signal(&gateway, "TERM");
    gateway.wait_for_log("stopping");
    eventually("new connections are refused", || TcpStream::connect(gateway.addr()).is_err());
    assert!(idle.closes_within(PATIENCE), "an idle connection stays open");
    assert!(silent.closes_within(PATIENCE), "an unused connection stays open");
    gate.open();
    let rest = stream.rest(head);
    assert_eq!(rest.ending, Ending::Whole);
    assert_eq!(first.bytes, format!("data: {}\n\n", piece("one")).as_bytes());
    assert_eq!(rest.events(), [finish(), "[DONE]".to_owned()]);
    let response = call.response();
    assert_eq!((response.status, response.text()), (200, answer("late")));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(gateway.wait(PATIENCE).code(), Some(0));
    assert!(gateway.log().contains("stopped"));
}

#[test]
fn without_work_it_ends_at_once() {
    let upstream = Script::new().start();
    let mut gateway = Gateway::before(&upstream);
    let kept = Connection::to(gateway.url());
    let began = Instant::now();
    assert_eq!(gateway.terminate(PATIENCE).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(kept);
}

#[test]
fn the_time_to_drain_is_bounded() {
    let upstream =
        Script::new().otherwise(Reply::stream().event("x").wait_for(&Gate::new())).start();
    let config = deployment("up", upstream.url(), "") + "[server]\ndrain_ms = 300\n";
    let mut gateway = Gateway::start(two_threads().config(&config));
    let mut stream = gateway.begin(&[], chat("a", ",\"stream\":true"));
    let head = stream.head();
    let began = Instant::now();
    signal(&gateway, "TERM");
    assert_eq!(gateway.wait(PATIENCE).code(), Some(0));
    let took = began.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert!(gateway.log().contains("still open at the end of the drain time"));
    // What was cut looks cut.
    assert_eq!(stream.rest(head).ending, Ending::Cut);
    upstream.wait_for_left(1);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let upstream = Script::new().otherwise(Reply::new().wait_for(&Gate::new())).start();
    let mut gateway = Gateway::before(&upstream);
    let _call = gateway.begin(&[], chat("a", ""));
    upstream.wait_for_requests(1);
    signal(&gateway, "INT");
    gateway.wait_for_log("stopping: open answers may end");
    signal(&gateway, "TERM");
    assert_eq!(gateway.wait(PATIENCE).code(), Some(1));
    upstream.wait_for_left(1);
}

#[test]
fn what_came_before_the_signal_is_answered() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("in time"))).start();
    let mut gateway = Gateway::before(&upstream);
    // While the process stands still, the kernel accepts for it.
    signal(&gateway, "STOP");
    let mut calls: Vec<_> = (0..10).map(|_| gateway.begin(&[], chat("a", ""))).collect();
    let mut ready = Connection::to(gateway.url());
    ready.send(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
    signal(&gateway, "TERM");
    signal(&gateway, "CONT");
    for call in &mut calls {
        let response = call.response();
        assert_eq!((response.status, response.text()), (200, answer("in time")));
    }
    let ready = ready.response();
    // Whether the signal or the connection is seen first is open.
    assert!(ready.status == 200 || ready.text() == r#"{"status":"stopping"}"#, "{}", ready.text());
    assert_eq!(gateway.wait(PATIENCE).code(), Some(0));
}

#[test]
fn a_port_is_served_once() {
    let gateway = Gateway::start(two_threads().upstream("http://127.0.0.1:1"));
    let address = gateway.addr().to_string();
    let output = std::process::Command::new(testkit::tools::paceline())
        .args(["serve", "--upstream", "http://127.0.0.1:1", "--listen", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&format!("cannot listen on {address}")), "{text}");
}
