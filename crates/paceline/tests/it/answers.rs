//! Slow, cut, malformed and huge answers of an upstream.

use std::time::Duration;

use testkit::http::Ending;
use testkit::{Reply, Script};

use crate::support::{
    Gateway, answer, assert_error, chat, error_in, error_of, finish, once, piece, refusing_url,
};

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

/// An upstream that answers the request with the header `x-case: N` by the `N`th reply.
fn cases(replies: Vec<Reply>) -> Script {
    let reply = move |request: &testkit::Request| {
        let case: usize = request.header("x-case").unwrap().parse().unwrap();
        replies[case].clone()
    };
    Script::new().respond(reply).start()
}

#[test]
fn a_refused_connection_is_a_502() {
    let gateway = Gateway::configured(&refusing_url(), "");
    let response = gateway.call(&[], chat("a", ""));
    assert_error(&response, 502, "upstream_unreachable");
    assert_eq!(error_of(&response)["type"], "upstream_error");
    assert!(response.header("x-paceline-call").is_some());
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="failed"}"#), 1.0);
}

#[test]
fn an_answer_that_is_none_is_a_502() {
    let many_headers = "X-Many: yes\r\n".repeat(50);
    let replies = [
        ("closed at once", Reply::new().close()),
        ("reset at once", Reply::new().reset()),
        ("no HTTP", Reply::bytes("what do you mean?\r\n\r\n").close()),
        ("HTTP/0.9", Reply::bytes("<html>hello</html>").close()),
        ("half a head", Reply::bytes("HTTP/1.1 200 OK\r\nContent-").close()),
        ("cut body", Reply::bytes(format!("{JSON}Content-Length: 99\r\n\r\n{{\"a\":")).close()),
        ("no body", Reply::bytes(format!("{JSON}Content-Length: 99\r\n\r\n")).close()),
        ("reset body", Reply::bytes(format!("{JSON}Content-Length: 99\r\n\r\n{{")).reset()),
        ("cut chunk", chunked().write("9\r\nhalf").close()),
        ("no last chunk", chunked().chunk("{\"a\":1}").close()),
        ("bad chunk size", chunked().write("zz\r\n{}\r\n0\r\n\r\n").close()),
        ("endless chunk size", chunked().write("f".repeat(40)).close()),
        ("bad length", Reply::bytes(format!("{JSON}Content-Length: -1\r\n\r\n")).close()),
        (
            "two lengths",
            Reply::bytes(format!("{JSON}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"))
                .close(),
        ),
        ("endless headers", Reply::bytes(JSON).for_ever(many_headers, Duration::ZERO)),
        (
            "an endless header",
            Reply::bytes(format!("{JSON}X-Long: ")).for_ever("x".repeat(4096), Duration::ZERO),
        ),
        ("endless 1xx", Reply::new().for_ever("HTTP/1.1 100 Continue\r\n", Duration::ZERO)),
    ];
    let names: Vec<&str> = replies.iter().map(|(name, _)| *name).collect();
    let upstream = cases(replies.into_iter().map(|(_, reply)| reply).collect());
    let gateway = Gateway::start(once().upstream(upstream.url()));
    for stream in ["", ",\"stream\":true"] {
        for (case, name) in names.iter().enumerate() {
            let response = gateway.call(&[("x-case", &case.to_string())], chat("a", stream));
            assert_eq!(response.status, 502, "{name}: {}", response.text());
            assert_error(&response, 502, "upstream_broken");
        }
    }
    assert_eq!(upstream.count(), 2 * names.len(), "a call was sent twice");
    gateway.wait_until_idle();
    assert_eq!(
        gateway.metric(r#"paceline_requests_total{outcome="failed"}"#),
        upstream.count() as f64
    );
    assert_eq!(gateway.metric(r#"paceline_upstream_connections_open{upstream="upstream"}"#), 0.0);
}

fn chunked() -> Reply {
    Reply::bytes(format!("{JSON}Transfer-Encoding: chunked\r\n\r\n"))
}

/// The bytes of the events that a stream of these replies has, without the framing.
fn events(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_event() {
    let (one, two) = (piece("one"), piece("two"));
    let begun = || Reply::stream().event(&one).event(&two);
    let unframed = || {
        Reply::bytes("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n")
            .write(events(&[&one, &two]))
    };
    let huge = "x".repeat(1 << 20);
    let replies = [
        ("cut between events", begun().close()),
        ("reset between events", begun().reset()),
        ("cut in an event", begun().chunk("data: {\"id\"").close()),
        ("cut in a chunk", begun().write("400\r\ndata: {\"id\"").close()),
        ("cut before the empty line", begun().chunk(format!("data: {one}\n")).close()),
        ("a proper end without finish", begun().end()),
        ("a proper end in an event", begun().chunk("data: {\"id\"").end()),
        ("a proper end in [DONE]", begun().chunk("data: [DON").end()),
        ("closed without length", unframed().close()),
        ("bad chunk", begun().write("zz\r\n").close()),
        ("an endless event", begun().chunk("data: ").for_ever(chunk(&huge), Duration::ZERO)),
    ];
    let names: Vec<&str> = replies.iter().map(|(name, _)| *name).collect();
    let upstream = cases(replies.into_iter().map(|(_, reply)| reply).collect());
    let gateway = Gateway::before(&upstream);
    let expected = events(&[&one, &two]);
    for (case, name) in names.iter().enumerate() {
        let case = case.to_string();
        let response = gateway.call(&[("x-case", &case)], chat("a", ",\"stream\":true"));
        assert_eq!(response.status, 200, "{name}");
        assert_eq!(response.ending, Ending::Whole, "{name}");
        let text = response.text();
        let rest = text.strip_prefix(&expected);
        let rest =
            rest.unwrap_or_else(|| panic!("{name}: the whole events are not all there: {text}"));
        let data = rest.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let data = data.unwrap_or_else(|| panic!("{name}: not one event: {rest:?}"));
        let error = error_in(data.as_bytes());
        assert_eq!(error["code"], "upstream_broken", "{name}");
    }
    gateway.wait_until_idle();
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="broken"}"#), names.len() as f64);
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

#[test]
fn a_stream_that_ends_properly_gets_nothing_added() {
    let one = piece("one");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    let plain = events(&[&one, &finish(), "[DONE]"]);
    let error = r#"{"error":{"message":"no","type":"server_error","param":null,"code":null}}"#;
    let length = plain.len();
    let replies = [
        (Reply::sse(&[&one, &finish()]), plain.clone()),
        (Reply::stream().event(&one).event(&finish()).end(), events(&[&one, &finish()])),
        (Reply::stream().event(&one).event(error).end(), events(&[&one, error])),
        (Reply::bytes(format!("{head}\r\n{plain}")).close(), plain.clone()),
        (Reply::bytes(format!("{head}Content-Length: {length}\r\n\r\n{plain}")), plain.clone()),
        (
            Reply::stream().chunk(": hello\n\n").chunk(plain.replace('\n', "\r\n")).end(),
            format!(": hello\n\n{}", plain.replace('\n', "\r\n")),
        ),
        // The empty line behind `[DONE]` is missing, and is added.
        (Reply::stream().event(&one).chunk("data: [DONE]\n").end(), events(&[&one, "[DONE]"])),
    ];
    let (replies, expected): (Vec<_>, Vec<_>) = replies.into_iter().unzip();
    let upstream = cases(replies);
    let gateway = Gateway::before(&upstream);
    for (case, expected) in expected.iter().enumerate() {
        let case = case.to_string();
        let response = gateway.call(&[("x-case", &case)], chat("a", ",\"stream\":true"));
        assert_eq!((response.status, response.ending), (200, Ending::Whole), "{case}");
        assert_eq!(response.text(), *expected, "{case}");
    }
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="broken"}"#), 0.0);
}

#[test]
fn twenty_mebibytes_pass_byte_for_byte() {
    let body: String = (0..20 << 17).map(|n| format!("{n:07x} ")).collect();
    let whole = Reply::with_headers(200, &[("Content-Type", "application/json")], &body);
    let chunks = body.as_bytes().chunks(300_007);
    let chunked = chunks.fold(chunked(), |reply, part| reply.chunk(part)).end();
    let cut = Reply::bytes(format!("{JSON}Content-Length: {}\r\n\r\n{body}", body.len() + 1));
    let upstream = cases(vec![whole, chunked, cut.close()]);
    let gateway = Gateway::before(&upstream);
    for case in ["0", "1"] {
        let response = gateway.call(&[("x-case", case)], chat("a", ""));
        assert_eq!((response.status, response.ending), (200, Ending::Whole));
        assert!(response.body == body.as_bytes(), "the body of case {case} is another one");
    }
    let declared = gateway.call(&[("x-case", "0")], chat("a", ""));
    assert_eq!(declared.header("content-length"), Some(&*body.len().to_string()));
    // Too long to be held, so that the cut itself goes on to the client.
    let response = gateway.call(&[("x-case", "2")], chat("a", ""));
    assert_eq!((response.status, response.ending), (200, Ending::Cut));
}

#[test]
fn chunks_of_any_shape_are_joined_to_the_same_bytes() {
    let body = crate::support::answer("a longer text, so that there is something to split");
    let odd = |size: usize| {
        let parts = body.as_bytes().chunks(size);
        let frame = |part: &[u8]| {
            let size = format!("000{:X};name=\"va;lue\";x\r\n", part.len());
            [size.as_bytes(), part, b"\r\n"].concat()
        };
        let head = format!("{JSON}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        let reply = parts.fold(Reply::bytes(head), |reply, part| reply.write(frame(part)));
        reply.write("0;last\r\nX-Sum: 7\r\n\r\n")
    };
    let early = |head: &str| {
        Reply::bytes(format!("{head}{JSON}Content-Length: {}\r\n\r\n{body}", body.len()))
    };
    let upstream = cases(vec![
        odd(1),
        odd(7),
        odd(7).split_every(1),
        odd(1000).split_every(3),
        early("HTTP/1.1 100 Continue\r\n\r\n"),
        early("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"),
    ]);
    let gateway = Gateway::before(&upstream);
    for case in 0..6 {
        let response = gateway.call(&[("x-case", &case.to_string())], chat("a", ""));
        assert_eq!((response.status, response.text()), (200, body.clone()), "{case}");
        assert_eq!(response.header("trailer"), None);
        assert_eq!(response.header("link"), None);
    }
}

#[test]
fn silence_has_a_limit() {
    let gateway_of = |reply: Reply| {
        let upstream = Script::new().otherwise(reply).start();
        let more = "timeouts = { first_byte_ms = 150, idle_ms = 150 }";
        (Gateway::configured(upstream.url(), more), upstream)
    };
    let check = |reply: Reply, body: &str, status: u16, begin: &str| {
        let (gateway, upstream) = gateway_of(reply);
        let response = gateway.call(&[], body);
        assert_eq!((response.status, response.ending), (status, Ending::Whole));
        let text = response.text();
        let error = text.strip_prefix(begin).unwrap_or_else(|| panic!("{text}"));
        let error = error.trim_start_matches("data: ").trim_end();
        assert_eq!(error_in(error.as_bytes())["code"], "upstream_timeout");
        upstream.wait_for_left(1);
        gateway.wait_until_idle();
        let sample = r#"paceline_upstream_attempts_total{outcome="timed_out",upstream="up"}"#;
        let other = r#"paceline_upstream_attempts_total{upstream="up",outcome="timed_out"}"#;
        assert_eq!(gateway.metric(sample) + gateway.metric(other), 1.0);
    };
    let long = Duration::from_secs(60);
    let (whole, streamed) = (chat("a", ""), chat("a", ",\"stream\":true"));
    let one = events(&[&piece("one")]);
    check(Reply::new().pause(long), &whole, 504, "");
    check(Reply::new().pause(long), &streamed, 504, "");
    check(Reply::bytes("HTTP/1.1 200 OK\r\nContent-").pause(long), &whole, 504, "");
    check(Reply::bytes(format!("{JSON}Content-Length: 9\r\n\r\n{{")).pause(long), &whole, 504, "");
    check(Reply::stream().chunk(&one).pause(long), &streamed, 200, &one);
    check(Reply::stream().chunk(&one).chunk("data: {").pause(long), &streamed, 200, &one);
}

#[test]
fn a_deadline_of_the_caller_ends_the_call() {
    let upstream = Script::new().otherwise(Reply::new().pause(Duration::from_secs(60))).start();
    let gateway = Gateway::before(&upstream);
    let response = gateway.call(&[("x-paceline-deadline-ms", "100")], chat("a", ""));
    assert_error(&response, 504, "deadline_exceeded");
    upstream.wait_for_left(1);
    assert_eq!(upstream.requests()[0].header("x-paceline-deadline-ms"), None);
    for wrong in ["0", "-1", "1.5", "soon", ""] {
        let response = gateway.call(&[("x-paceline-deadline-ms", wrong)], chat("a", ""));
        assert_error(&response, 400, "invalid_request");
        assert_eq!(error_of(&response)["param"], "x-paceline-deadline-ms", "{wrong}");
    }
}

#[test]
fn a_stale_connection_is_replaced_once() {
    let check = |stale: Reply, status: u16, requests: usize| {
        let good = || Reply::json(200, &answer("good"));
        let upstream = Script::new().reply(good()).reply(stale).otherwise(good()).start();
        let gateway = Gateway::start(
            testkit::Paceline::serve()
                .arg("--threads")
                .arg("1")
                .env("PACELINE__RETRY__ATTEMPTS_MAX", "1")
                .upstream(upstream.url()),
        );
        assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
        let second = gateway.call(&[], chat("b", ""));
        assert_eq!(second.status, status, "{}", second.text());
        let seen = upstream.requests();
        assert_eq!(seen.len(), requests);
        assert_eq!(seen[1].connection, 0, "the kept connection was not used");
        assert!(seen.last().unwrap().text().contains("\"b\""));
        assert_eq!(gateway.call(&[], chat("c", "")).status, 200);
    };
    check(Reply::new().close(), 200, 3);
    check(Reply::new().reset(), 200, 3);
    // It had begun to answer, so the call may have had its effect.
    check(Reply::bytes("HTTP/1.1 2").close(), 502, 2);
    check(Reply::bytes(format!("{JSON}Content-Length: 9\r\n\r\n{{")).close(), 502, 2);
}

#[test]
fn a_connection_closed_between_two_calls_is_not_used() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("x")).close()).start();
    let gateway = Gateway::before(&upstream);
    for n in 0..20 {
        assert_eq!(gateway.call(&[], chat(&n.to_string(), "")).status, 200);
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 20));
    gateway.wait_for_metric(r#"paceline_upstream_connections_open{upstream="upstream"}"#, 0.0);
}
