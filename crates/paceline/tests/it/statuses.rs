//! What an upstream answers passes through: status, headers and body.

use testkit::{Reply, Script};

use crate::support::{Gateway, chat, once};

const ERROR: &str = r#"{ "error": {"message": "no\u0020way", "type": "t", "param": null, "code": "c"} , "more":[1.0, 1e2] }"#;

#[test]
fn statuses_pass_with_headers_and_body() {
    let check = |status: u16, headers: &[(&str, &str)], body: &str, stream: &str| {
        let all =
            [&[("Content-Type", "application/json"), ("X-Request-Id", "req_7")], headers].concat();
        let upstream = Script::new().otherwise(Reply::with_headers(status, &all, body)).start();
        let gateway = Gateway::start(once().upstream(upstream.url()));
        for _ in 0..2 {
            let response = gateway.call(&[], chat("a", stream));
            assert_eq!((response.status, response.text().as_str()), (status, body));
            for (name, value) in &all {
                assert_eq!(response.header(&name.to_lowercase()), Some(*value), "{status} {name}");
            }
            assert_eq!(response.header("content-length"), Some(&*body.len().to_string()));
            assert_eq!(response.header("x-paceline-deployment"), Some("upstream"));
        }
        assert_eq!(upstream.count(), 2, "an error status was kept, or tried again");
        let sample = r#"paceline_requests_total{outcome="upstream_error"}"#;
        assert_eq!(gateway.metric(sample), if status < 400 { 0.0 } else { 2.0 });
    };
    let deterministic = ",\"temperature\":0";
    let streamed = ",\"temperature\":0,\"stream\":true";
    check(400, &[], ERROR, deterministic);
    check(401, &[("WWW-Authenticate", "Bearer realm=\"x\"")], ERROR, streamed);
    let limits = [
        ("Retry-After", "7"),
        ("retry-after-ms", "6500"),
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1s"),
    ];
    check(429, &limits, ERROR, deterministic);
    check(429, &limits, ERROR, streamed);
    check(500, &[("x-should-retry", "false")], ERROR, streamed);
    check(503, &[("Retry-After", "1")], "<html>not json</html>", deterministic);
    check(529, &[], "", deterministic);
    check(201, &[], ERROR, deterministic);
    check(302, &[("Location", "http://elsewhere.example/")], "", deterministic);
}

#[test]
fn headers_of_the_connection_to_the_upstream_stay_there() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
        Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nTrailer: X\r\nAlt-Svc: h3=\":443\"\r\n\
        Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Odd:  two  blanks \r\nServer: engine\r\n\
        Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}";
    let upstream = Script::new().otherwise(Reply::bytes(head)).start();
    let gateway = Gateway::before(&upstream);
    let response = gateway.call(&[], chat("a", ""));
    for gone in ["connection", "x-hop", "keep-alive", "proxy-connection", "trailer", "alt-svc"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    let values = |name: &str| {
        let all = response.head.headers.iter().filter(|(key, _)| key == name);
        all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(values("x-odd"), ["two  blanks"]);
    assert_eq!(values("server"), ["engine"]);
    assert_eq!(values("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
    assert_eq!(values("content-length"), ["2"]);
}

#[test]
fn an_upstream_cannot_speak_for_the_gateway() {
    let ours =
        [("x-paceline-run", "forged"), ("x-paceline-cache", "hit"), ("x-paceline-call", "x")];
    let upstream = Script::new().otherwise(Reply::with_headers(200, &ours, "{}")).start();
    let gateway = Gateway::before(&upstream);
    let response = gateway.call(&[("x-paceline-run", "mine")], chat("a", ""));
    let values = |name: &str| {
        let all = response.head.headers.iter().filter(|(key, _)| key == name);
        all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(values("x-paceline-run"), ["mine"]);
    assert_eq!(values("x-paceline-cache"), ["bypass"]);
    assert!(values("x-paceline-call")[0].starts_with("call_"));
}
