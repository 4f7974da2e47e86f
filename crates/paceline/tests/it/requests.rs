//! Malformed and huge requests, and lengths that two servers might read differently.

use testkit::http::{self, Connection, Ending};
use testkit::{Reply, Script};

use crate::support::{
    CHAT, Gateway, PATIENCE, answer, assert_error, assert_framed, chat, deployment, error_of,
    eventually, two_threads,
};

fn upstream() -> Script {
    Script::new().otherwise(Reply::json(200, &answer("fine"))).start()
}

/// A head with these further lines.
fn head(lines: &str) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nHost: gateway\r\n{lines}\r\n")
}

#[test]
fn what_could_be_read_in_two_ways_goes_nowhere() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    let len = body.len();
    let (more, less) = (len + 1, len - 1);
    let chunk = format!("{len:x}\r\n{body}\r\n");
    let chunked = |head_lines: &str, framed: &str| head(head_lines) + framed;
    let te = "Transfer-Encoding: chunked\r\n";
    let cases = [
        ("no host", format!("POST {CHAT} HTTP/1.1\r\nContent-Length: {len}\r\n\r\n{body}")),
        ("two hosts", head(&format!("Host: other\r\nContent-Length: {len}\r\n")) + &body),
        (
            "two lengths",
            head(&format!("Content-Length: {len}\r\nContent-Length: {more}\r\n")) + &body,
        ),
        ("a list of lengths", head(&format!("Content-Length: {len}, {len}\r\n")) + &body),
        ("a signed length", head(&format!("Content-Length: +{len}\r\n")) + &body),
        ("a hexadecimal length", head(&format!("Content-Length: 0x{len:x}\r\n")) + &body),
        ("a negative length", head("Content-Length: -1\r\n") + &body),
        ("an endless length", head(&format!("Content-Length: {}\r\n", "9".repeat(40))) + &body),
        ("an empty length", head("Content-Length:\r\n") + &body),
        (
            "chunked is not last",
            chunked("Transfer-Encoding: chunked, gzip\r\n", &format!("{chunk}0\r\n\r\n")),
        ),
        (
            "not quite chunked",
            chunked("Transfer-Encoding: xchunked\r\n", &format!("{chunk}0\r\n\r\n")),
        ),
        ("identity", chunked("Transfer-Encoding: identity\r\n", &body)),
        ("a letter as a size", chunked(te, &format!("z\r\n{body}\r\n0\r\n\r\n"))),
        ("a negative size", chunked(te, &format!("-1\r\n{body}\r\n0\r\n\r\n"))),
        ("an overflowing size", chunked(te, &format!("1{:016x}\r\n{body}\r\n0\r\n\r\n", len))),
        ("no size", chunked(te, &format!("\r\n{body}\r\n0\r\n\r\n"))),
        ("a size too small", chunked(te, &format!("{less:x}\r\n{body}\r\n0\r\n\r\n"))),
        ("a size too large", chunked(te, &format!("{more:x}\r\n{body}\r\n0\r\n\r\n"))),
        ("a blank in a name", head(&format!("Content-Length : {len}\r\n")) + &body),
        ("a folded line", head(&format!("X-A: b\r\n c\r\nContent-Length: {len}\r\n")) + &body),
        ("a zero byte", head(&format!("X-A: \0\r\nContent-Length: {len}\r\n")) + &body),
        ("a lone CR", head(&format!("X-A: a\rB: c\r\nContent-Length: {len}\r\n")) + &body),
        ("a line without a colon", head(&format!("X-A\r\nContent-Length: {len}\r\n")) + &body),
        ("no version", format!("POST {CHAT}\r\nHost: gateway\r\n\r\n")),
        ("another version", head("").replace("HTTP/1.1", "HTTP/1.2")),
        ("garbage", "\u{1}\u{2}\u{3} what\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
    ];
    for (name, bytes) in &cases {
        let mut connection = Connection::to(gateway.url());
        connection.send(bytes.as_bytes());
        let head = connection.any_head();
        let head = head.unwrap_or_else(|| panic!("{name}: closed without an answer"));
        assert_eq!(head.status, 400, "{name}");
        // Whatever follows is no request of its own.
        assert!(connection.closes_within(PATIENCE), "{name}: the connection stays open");
        let rest = connection.until_close();
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("HTTP/1.1"), "{name}: a second answer: {rest}");
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.requests());
    gateway.wait_until_idle();
}

#[test]
fn what_is_odd_but_clear_is_framed_anew() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    let len = body.len();
    let length = format!("Content-Length: {len}\r\n");
    let chunks: String = body
        .as_bytes()
        .chunks(5)
        .map(|part| format!("{:04X}; a=\"b\"\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)))
        .collect();
    let chunked = format!(
        "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n{chunks}0\r\nX-T: 1\r\nHost: evil\r\n\r\n"
    );
    let post = |target: &str, lines: &str, rest: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: gateway\r\n{lines}\r\n{rest}")
    };
    let cases = [
        ("chunks", format!("POST {CHAT} HTTP/1.1\r\nHost: gateway\r\n{chunked}")),
        ("equal lengths", post(CHAT, &format!("{length}{length}"), &body)),
        (
            "CHUNKED",
            post(
                CHAT,
                "transfer-ENCODING: Chunked\r\n",
                &format!("{len:x}\r\n{body}\r\n0\r\n\r\n"),
            ),
        ),
        ("leading empty lines", format!("\r\n\r\n{}", post(CHAT, &length, &body))),
        ("a full URL", post(&format!("http://evil.example{CHAT}"), &length, &body)),
        (
            "blanks around values",
            post(CHAT, &format!("Content-Length: \t {len} \t\r\nX-A:b\r\n"), &body),
        ),
        ("line feeds alone", post(CHAT, &length, &body).replace("\r\n", "\n")),
        (
            "hop-by-hop headers",
            post(
                CHAT,
                &format!(
                    "{length}Connection: keep-alive, X-Secret, Authorization\r\nKeep-Alive: timeout=9\r\n\
                     X-Secret: 1\r\nProxy-Authorization: x\r\nTE: trailers\r\nUpgrade: h2c\r\n\
                     Proxy-Connection: close\r\nAuthorization: Bearer x\r\n"
                ),
                &body,
            ),
        ),
    ];
    for (at, (name, bytes)) in cases.iter().enumerate() {
        let mut connection = Connection::to(gateway.url());
        connection.send(bytes.as_bytes());
        let response = connection.response();
        assert_eq!(
            (response.status, response.ending),
            (200, Ending::Whole),
            "{name}: {}",
            response.text()
        );
        let request = &upstream.requests()[at];
        assert_framed(request, body.as_bytes());
        assert_eq!(request.line(), format!("POST {CHAT} HTTP/1.1"), "{name}");
        assert_eq!(request.header("host"), Some(upstream.addr().to_string()), "{name}");
        for gone in [
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "expect",
            "x-t",
            "x-secret",
            "proxy-authorization",
            "proxy-connection",
            "authorization",
            "accept-encoding",
        ] {
            assert_eq!(request.headers(gone), [""; 0], "{name}: {gone}");
        }
    }
    assert_eq!(upstream.count(), cases.len());
}

#[test]
fn chunks_and_a_length_never_make_two_requests() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    // A server that goes by the length would take the rest for a second request.
    let smuggled = gateway.compose(&[("x-smuggled", "yes")], &body);
    let smuggled = String::from_utf8(smuggled).unwrap();
    let framed = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for lines in [
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let mut connection = Connection::to(gateway.url());
        connection.send((head(lines) + &framed + &smuggled).as_bytes());
        let status = connection.any_head().map(|head| head.status);
        assert!(connection.closes_within(PATIENCE), "{lines}: the connection stays open");
        for request in upstream.requests() {
            assert_framed(&request, body.as_bytes());
            assert_eq!(request.header("x-smuggled"), None, "{lines}");
        }
        assert!(matches!(status, Some(400 | 200)), "{lines}: {status:?}");
    }
}

#[test]
fn a_request_that_breaks_off_goes_nowhere() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    let whole = gateway.compose(&[], &body);
    let chunked =
        head("Transfer-Encoding: chunked\r\n") + &format!("{:x}\r\n{body}\r\n", body.len());
    for bytes in [&whole[..20], &whole[..whole.len() - 1], chunked.as_bytes()] {
        http::raw(gateway.addr(), bytes);
        let mut connection = Connection::to(gateway.url());
        connection.send(bytes);
        drop(connection);
    }
    gateway.wait_until_idle();
    eventually("the connections are gone", || gateway.metric("paceline_client_connections") <= 1.0);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_head_has_a_limit() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    let many = "X-A: b\r\n".repeat(2000);
    let long = format!("X-A: {}\r\n", "b".repeat(1 << 20));
    for lines in [many, long] {
        let mut connection = Connection::to(gateway.url());
        connection.try_send((head(&lines) + &body).as_bytes());
        assert_eq!(connection.any_head().map(|head| head.status), Some(431));
    }
    let mut connection = Connection::to(gateway.url());
    let target = format!("{CHAT}?{}", "x".repeat(70_000));
    connection.try_send(head("").replace(CHAT, &target).as_bytes());
    assert!(matches!(connection.any_head().map(|head| head.status), Some(414 | 431)));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_body_has_a_limit() {
    let upstream = upstream();
    let config = deployment("up", upstream.url(), "") + "[server]\nbody_bytes_max = 2000\n";
    let gateway = Gateway::start(two_threads().config(&config));
    let fits = chat(&"x".repeat(2000 - chat("", "").len()), "");
    assert_eq!(fits.len(), 2000);
    assert_eq!(gateway.call(&[], &fits).status, 200);
    let chunked = |body: &str| {
        let chunks: String = body
            .as_bytes()
            .chunks(700)
            .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)))
            .collect();
        head("Transfer-Encoding: chunked\r\n") + &chunks
    };
    let check = |bytes: &str| {
        let mut connection = Connection::to(gateway.url());
        connection.try_send(bytes.as_bytes());
        let response = connection.response();
        assert_error(&response, 413, "body_too_large");
        assert_eq!(response.header("connection"), Some("close"));
        assert!(connection.closes_within(PATIENCE));
    };
    // Refused by its declared length, before any of the body is there.
    check(&head("Content-Length: 2001\r\n"));
    check(&head(&format!("Content-Length: {}\r\n", u64::MAX >> 1)));
    check(&chunked(&"x".repeat(2001)));
    check(&chunked(&"x".repeat(1 << 20)));
    assert_eq!(upstream.count(), 1);
    let late = deployment("up", upstream.url(), "") + "[server]\nbody_timeout_ms = 100\n";
    let gateway = Gateway::start(two_threads().config(&late));
    let mut connection = Connection::to(gateway.url());
    connection.send((head("Content-Length: 9\r\n") + "{").as_bytes());
    assert_error(&connection.response(), 408, "request_timeout");
    assert!(connection.closes_within(PATIENCE));
}

#[test]
fn a_body_that_is_no_request_is_refused() {
    let upstream = upstream();
    let gateway = Gateway::before(&upstream);
    let check = |body: &str, param: Option<&str>, message: &str| {
        let response = gateway.call(&[], body);
        assert_error(&response, 400, "invalid_request");
        let error = error_of(&response);
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert_eq!(error["param"].as_str(), param, "{body}");
        assert!(error["message"].as_str().unwrap().contains(message), "{body}: {error}");
    };
    check("", None, "the body ends there");
    check("null", None, "expected a JSON object");
    check("{\"model\":\"m\"", None, "not valid JSON");
    check("{\"model\":\"m\"}{}", None, "unexpected bytes");
    check("{\"model\":\"m\",}", None, "at byte 13");
    check("{\"model\":\"m\",\"model\":\"n\"}", Some("model"), "twice");
    check("{\"model\":\"m\",\"stream\":true,\"stream\":false}", Some("stream"), "twice");
    check("{\"messages\":[]}", Some("model"), "missing");
    check("{\"model\":\"m\",\"stream\":1}", Some("stream"), "true or false");
    check("{\"mo\\u0064el\":\"m\"}", None, "escape");
    check(
        &format!("{{\"model\":\"m\",\"x\":{}{}}}", "[".repeat(200), "]".repeat(200)),
        None,
        "128",
    );
    assert_eq!(upstream.count(), 0);
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="rejected"}"#), 11.0);
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let upstream = upstream();
    let gateway = Gateway::before(&upstream);
    let check = |method: &str, path: &str, status: u16, code: &str, allow: Option<&str>| {
        let response = http::request(method, &gateway.at(path), &[], b"");
        assert_error(&response, status, code);
        assert_eq!(response.header("allow"), allow, "{method} {path}");
    };
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/chat/completions",
        "/r/x",
        "/r/x/health/",
        "/v2/models",
    ] {
        check("GET", path, 404, "unknown_url", None);
        check("POST", path, 404, "unknown_url", None);
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        check(method, CHAT, 405, "method_not_allowed", Some("POST"));
    }
    check("POST", "/v1/models", 405, "method_not_allowed", Some("GET"));
    check("DELETE", "/health", 405, "method_not_allowed", Some("GET"));
    check("POST", "/metrics", 405, "method_not_allowed", Some("GET"));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn http_1_0_is_answered_in_its_own_way() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    let bytes = format!("POST {CHAT} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut connection = Connection::to(gateway.url());
    connection.send(bytes.as_bytes());
    let response = connection.response();
    assert_eq!((response.status, response.text()), (200, answer("fine")));
    assert!(connection.closes_within(PATIENCE));
    // A chunked stream, for a client that knows no chunks.
    let streams = Script::new().otherwise(Reply::sse(&[&crate::support::piece("x")])).start();
    let gateway = Gateway::before(&streams);
    let body = chat("a", ",\"stream\":true");
    let bytes = format!("POST {CHAT} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut connection = Connection::to(gateway.url());
    connection.send(bytes.as_bytes());
    let response = connection.response();
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.events().len(), 2);
    assert_eq!(upstream.requests()[0].line(), format!("POST {CHAT} HTTP/1.1"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Script::new().respond(|request| Reply::json(200, &request.text())).start();
    let gateway = Gateway::before(&upstream);
    let bodies: Vec<String> = (0..10).map(|n| chat(&format!("number {n}"), "")).collect();
    let bytes: Vec<u8> = bodies.iter().flat_map(|body| gateway.compose(&[], body)).collect();
    let mut connection = Connection::to(gateway.url());
    connection.send(&bytes);
    for body in &bodies {
        assert_eq!(connection.response().text(), *body);
    }
    for (request, body) in upstream.requests().iter().zip(&bodies) {
        assert_framed(request, body.as_bytes());
    }
}

#[test]
fn a_client_that_expects_100_gets_it() {
    let (upstream, body) = (upstream(), chat("a", ""));
    let gateway = Gateway::before(&upstream);
    let mut connection = Connection::to(gateway.url());
    let lines = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
    connection.send(head(&lines).as_bytes());
    assert_eq!(connection.any_head().unwrap().status, 100);
    connection.send(body.as_bytes());
    assert_eq!(connection.response().status, 200);
    assert_framed(&upstream.requests()[0], body.as_bytes());
    assert_eq!(upstream.requests()[0].header("expect"), None);
}

#[test]
fn azure_by_date_names_its_deployment_in_the_path() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("good"))).start();
    let ask = |url: &str, version: &str, path: &str, body: &str| {
        let more = format!(
            "provider = \"azure\"\napi_key = \"the-azure-key\"\n{version}\n\
             rename = {{ fast = \"gpt 4o\" }}"
        );
        let gateway = Gateway::configured(url, &more);
        assert_eq!(http::post(&gateway.at(path), &[], body).status, 200);
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.header("api-key"), Some("the-azure-key".to_owned()));
        request.line()
    };
    let dated = "api_version = \"2024-10-21\"";
    let chat = r#"{"model":"fast","messages":[{"role":"user","content":"a"}],"max_tokens":9}"#;
    let path = "POST /openai/deployments/gpt%204o/chat/completions?api-version=2024-10-21 HTTP/1.1";
    assert_eq!(ask(upstream.url(), dated, CHAT, chat), path);
    // It has no Responses of its own, and nothing of Anthropic's.
    let responses = r#"{"model":"fast","input":"a","store":false}"#;
    assert_eq!(ask(upstream.url(), dated, "/v1/responses", responses), path);
    assert_eq!(ask(upstream.url(), dated, "/v1/messages", chat), path);
    // Without a date; the base URL may hold the path.
    for url in [upstream.url().to_owned(), format!("{}/openai/v1/", upstream.url())] {
        let line = ask(&url, "", CHAT, chat);
        assert_eq!(line, "POST /openai/v1/chat/completions HTTP/1.1");
        let line = ask(&url, dated, CHAT, chat);
        assert_eq!(line, path);
    }
}
