//! Equal calls under way share one upstream call.

use testkit::http::{Connection, Ending, Response};
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, answer, chat, error_of, finish, once, piece, two_threads};

const JOINED: &str = "paceline_flights_joined_total";
const CANCELLED: &str = r#"paceline_requests_total{outcome="cancelled"}"#;

/// A call that may be shared.
fn shared(more: &str) -> String {
    chat("the same question", &format!(",\"temperature\":0{more}"))
}

/// Begins so many equal calls, and waits until all but the first have joined it.
fn begin_together(gateway: &Gateway, count: usize, body: &str) -> Vec<Connection> {
    let calls = (0..count).map(|_| gateway.begin(&[], body)).collect();
    gateway.wait_for_metric(JOINED, (count - 1) as f64);
    calls
}

fn responses(calls: Vec<Connection>) -> Vec<Response> {
    calls.into_iter().map(|mut call| call.response()).collect()
}

fn states(responses: &[Response], state: &str) -> usize {
    responses.iter().filter(|r| r.header("x-paceline-cache") == Some(state)).count()
}

/// 1,000 equal calls at once, and what one of them asks for.
fn thousand(gate: &Gate, reply: Reply, more: &str, expected: &str) {
    const CALLS: usize = 1000;
    let upstream = Script::new().reply(reply).start();
    let gateway = Gateway::before(&upstream);
    let calls = begin_together(&gateway, CALLS, &shared(more));
    assert_eq!(gateway.metric("paceline_flights_open"), 1.0);
    assert_eq!(gateway.metric("paceline_requests_in_flight"), CALLS as f64);
    gate.open();
    let responses = responses(calls);
    for response in &responses {
        assert_eq!((response.status, response.ending), (200, Ending::Whole));
        assert_eq!(response.text(), expected);
    }
    assert_eq!((states(&responses, "miss"), states(&responses, "joined")), (1, CALLS - 1));
    let ids: std::collections::BTreeSet<_> =
        responses.iter().map(|response| response.header("x-paceline-call").unwrap()).collect();
    assert_eq!(ids.len(), CALLS, "each call has an identifier of its own");
    assert_eq!((upstream.count(), upstream.unexpected()), (1, 0));
    gateway.wait_until_idle();
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="answered"}"#), CALLS as f64);
    // The answer was kept.
    let later = gateway.call(&[], shared(more));
    assert_eq!((later.header("x-paceline-cache"), later.text().as_str()), (Some("hit"), expected));
}

#[test]
fn a_thousand_equal_whole_calls_are_one() {
    let gate = Gate::new();
    let body = answer("for all of you");
    thousand(&gate, Reply::new().wait_for(&gate).write(bytes_of(&body)), "", &body);
}

fn bytes_of(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_thousand_equal_streams_are_one() {
    let gate = Gate::new();
    let pieces: Vec<String> = (0..20).map(|n| piece(&format!("part {n}"))).collect();
    let (early, late) = pieces.split_at(10);
    let reply = early.iter().fold(Reply::stream(), |reply, data| reply.event(data)).wait_for(&gate);
    let reply = late.iter().fold(reply, |reply, data| reply.event(data));
    let reply = reply.event(&finish()).event("[DONE]").end();
    let data = pieces.iter().cloned().chain([finish(), "[DONE]".to_owned()]);
    let expected: String = data.map(|data| format!("data: {data}\n\n")).collect();
    thousand(&gate, reply, ",\"stream\":true", &expected);
}

#[test]
fn those_who_join_late_get_the_stream_from_its_beginning() {
    let gate = Gate::new();
    let reply = Reply::stream().event(&piece("one")).wait_for(&gate).event(&finish()).end();
    let upstream = Script::new().reply(reply).start();
    let gateway = Gateway::before(&upstream);
    let mut first = gateway.begin(&[], shared(",\"stream\":true"));
    let head = first.head();
    let begun = first.piece().unwrap().bytes;
    let mut second = gateway.begin(&[], shared(",\"stream\":true"));
    let second_head = second.head();
    assert_eq!(second.piece().unwrap().bytes, begun);
    gate.open();
    let rests = [first.rest(head).text(), second.rest(second_head).text()];
    assert_eq!(rests[0], rests[1]);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn the_first_one_may_leave() {
    for (more, whole) in [("", true), (",\"stream\":true", false)] {
        let gate = Gate::new();
        let body = answer("still here");
        let reply = if whole {
            Reply::new().wait_for(&gate).write(bytes_of(&body))
        } else {
            Reply::stream().event(&piece("one")).wait_for(&gate).event(&finish()).end()
        };
        let upstream = Script::new().reply(reply).start();
        let gateway = Gateway::before(&upstream);
        let first = gateway.begin(&[], shared(more));
        upstream.wait_for_requests(1);
        let mut others: Vec<_> = (0..5).map(|_| gateway.begin(&[], shared(more))).collect();
        gateway.wait_for_metric(JOINED, 5.0);
        drop(first);
        gateway.wait_for_metric(CANCELLED, 1.0);
        // One in the middle leaves, too.
        drop(others.remove(2));
        gateway.wait_for_metric(CANCELLED, 2.0);
        gate.open();
        let responses = responses(others);
        assert!(responses.iter().all(|r| r.status == 200 && r.ending == Ending::Whole));
        assert!(responses.iter().all(|r| r.body == responses[0].body && !r.body.is_empty()));
        assert_eq!((upstream.count(), upstream.left()), (1, 0));
        gateway.wait_until_idle();
    }
}

#[test]
fn when_all_leave_the_upstream_call_ends() {
    for more in ["", ",\"stream\":true"] {
        let begun = if more.is_empty() { Reply::new() } else { Reply::stream().event(&piece("a")) };
        let upstream = Script::new()
            .reply(begun.wait_for(&Gate::new()))
            .otherwise(Reply::json(200, &answer("again")))
            .start();
        let gateway = Gateway::before(&upstream);
        let calls = begin_together(&gateway, 20, &shared(more));
        upstream.wait_for_requests(1);
        drop(calls);
        upstream.wait_for_left(1);
        gateway.wait_for_metric(CANCELLED, 20.0);
        gateway.wait_until_idle();
        // Nothing of it is kept, and nobody joins what has ended.
        let after = gateway.call(&[], shared(""));
        assert_eq!((after.status, after.header("x-paceline-cache")), (200, Some("miss")));
    }
}

#[test]
fn a_failure_is_that_of_all_and_is_not_kept() {
    let refusal = r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    let gate = Gate::new();
    let limited = format!(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: {}\r\n\r\n{refusal}",
        refusal.len()
    );
    let upstream = Script::new()
        .reply(Reply::new().wait_for(&gate).write(limited))
        .reply(Reply::bytes("HTTP/1.1 2").close())
        .otherwise(Reply::json(200, &answer("better")))
        .start();
    let gateway = Gateway::start(once().upstream(upstream.url()));
    let calls = begin_together(&gateway, 50, &shared(""));
    gate.open();
    for response in responses(calls) {
        assert_eq!((response.status, response.text().as_str()), (429, refusal));
        assert_eq!(response.header("retry-after"), Some("3"));
    }
    assert_eq!(upstream.count(), 1);
    // This one breaks off.
    let broken = gateway.call(&[], shared(""));
    assert_eq!(broken.status, 502, "{}", broken.text());
    assert_eq!(error_of(&broken)["code"], "upstream_broken");
    let good = gateway.call(&[], shared(""));
    assert_eq!((good.status, good.header("x-paceline-cache")), (200, Some("miss")));
}

#[test]
fn a_stream_that_breaks_off_does_so_for_all() {
    let gate = Gate::new();
    let reply = Reply::stream().event(&piece("one")).wait_for(&gate).close();
    let upstream = Script::new().reply(reply).otherwise(Reply::sse(&[&finish()])).start();
    let gateway = Gateway::before(&upstream);
    let calls = begin_together(&gateway, 20, &shared(",\"stream\":true"));
    gate.open();
    for response in responses(calls) {
        let events = response.events();
        assert_eq!((events.len(), &events[0]), (2, &piece("one")));
        let error = crate::support::error_in(events[1].as_bytes());
        assert_eq!(error["code"], "upstream_broken");
    }
    let later = gateway.call(&[], shared(",\"stream\":true"));
    assert_eq!(later.header("x-paceline-cache"), Some("miss"));
    assert_eq!(upstream.count(), 2);
}

/// Begins a call with each of these headers, one after the other under way, then again
/// when all are answered; returns how many reached the upstream.
fn upstream_calls(config: Option<&str>, callers: &[&[(&str, &str)]], body: &str) -> usize {
    let gate = Gate::new();
    let held = Reply::new().wait_for(&gate).write(bytes_of(&answer("x")));
    let upstream = Script::new().otherwise(held).start();
    let more = config.unwrap_or_default();
    let config = crate::support::deployment("up", upstream.url(), "") + more;
    let gateway = Gateway::start(two_threads().config(&config));
    let mut calls = Vec::new();
    for (at, headers) in callers.iter().enumerate() {
        calls.push(gateway.begin(headers, body));
        // Each is under way before the next one comes.
        gateway.wait_for_metric("paceline_requests_in_flight", (at + 1) as f64);
    }
    gate.open();
    for response in responses(calls) {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    for headers in callers {
        assert_eq!(gateway.call(headers, body).status, 200);
    }
    upstream.count()
}

#[test]
fn strangers_never_share() {
    let body = shared("");
    let alice: &[(&str, &str)] = &[("authorization", "Bearer key-of-alice-1234")];
    let alice_too: &[(&str, &str)] = &[("authorization", "Bearer key-of-alice-5678")];
    let bob: &[(&str, &str)] = &[("authorization", "Bearer key-of-bobby-1234")];
    let nobody: &[(&str, &str)] = &[];
    let project: &[(&str, &str)] = &[("openai-project", "p")];
    let keys = "
        [[keys]]
        tenant = \"alice\"
        key = \"key-of-alice-1234\"
        [[keys]]
        tenant = \"alice\"
        key = \"key-of-alice-5678\"
        [[keys]]
        tenant = \"bob\"
        key = \"key-of-bobby-1234\"
    ";
    let check = |config, callers: &[&[(&str, &str)]], expected| {
        assert_eq!(upstream_calls(config, callers, &body), expected, "{callers:?}");
    };
    check(None, &[nobody, nobody], 1);
    check(None, &[alice, alice], 1);
    check(None, &[alice, bob, nobody], 3);
    check(None, &[nobody, project], 2);
    check(Some(keys), &[alice, alice_too], 1);
    check(Some(keys), &[alice, bob], 2);
}

#[test]
fn what_may_differ_is_not_shared() {
    let check = |body: &str, header: Option<(&str, &str)>, expected: usize| {
        let headers: Vec<_> = header.into_iter().collect();
        let callers = [&headers[..], &headers[..]];
        assert_eq!(upstream_calls(None, &callers, body), expected, "{body} {header:?}");
    };
    check(&chat("a", ""), None, 4);
    check(&chat("a", ",\"temperature\":0.1"), None, 4);
    check(&chat("a", ",\"temperature\":0,\"store\":true"), None, 4);
    check(&chat("a", ",\"temperature\":0"), Some(("x-paceline-cache", "no")), 4);
    check(&chat("a", ""), Some(("x-paceline-cache", "yes")), 1);
}
