//! Packed bodies: to upstreams that take them, from upstreams that send them unasked, and to
//! clients that want them.

use std::io::{Read as _, Write as _};

use flate2::read::MultiGzDecoder;
use testkit::http::Response;
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, answer, assert_error, assert_framed, chat, deployment};
use crate::support::{finish, once, piece, two_threads};

const STREAM: &str = r#","stream":true"#;

/// The codings, by their names in headers.
const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

fn pack(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "zstd" => out = zstd::encode_all(bytes, 3).unwrap(),
        "br" => {
            let mut packer = brotli::CompressorReader::new(bytes, 4096, 5, 22);
            packer.read_to_end(&mut out).unwrap();
        }
        "gzip" => {
            let mut packer = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            packer.write_all(bytes).unwrap();
            out = packer.finish().unwrap();
        }
        other => panic!("{other}"),
    }
    out
}

fn unpack(coding: &str, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let read = match coding {
        "zstd" => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        "gzip" => MultiGzDecoder::new(bytes).read_to_end(&mut out),
        other => panic!("{other}"),
    };
    read.unwrap();
    String::from_utf8(out).unwrap()
}

/// A reply with a packed body.
fn packed(status: u16, kind: &str, coding: &str, body: &[u8]) -> Reply {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Encoding: {coding}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    Reply::bytes([head.as_bytes(), body].concat())
}

/// Text that packs, but not to nothing.
fn text(words: usize) -> String {
    (0..words).map(|n| format!("word {} ", n * n)).collect()
}

#[test]
fn requests_reach_an_upstream_packed_where_it_takes_that() {
    for coding in ["zstd", "gzip"] {
        let upstream = Script::new().otherwise(Reply::json(200, &answer("there"))).start();
        let more = format!("compress_requests = \"{coding}\"");
        let gateway = Gateway::configured(upstream.url(), &more);
        // The second one is packed on a thread of its own.
        for words in [500, 20_000] {
            let body = chat(&text(words), "");
            assert_eq!(gateway.call(&[], &body).text(), answer("there"));
            let seen = &upstream.requests()[upstream.count() - 1];
            assert_eq!(seen.headers("content-encoding"), [coding]);
            assert!(seen.body.len() < body.len() / 2, "{}", seen.body.len());
            assert_framed(seen, &seen.body);
            assert_eq!(unpack(coding, &seen.body), body);
        }
    }
}

#[test]
fn requests_that_are_short_are_left_alone() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("there"))).start();
    let gateway = Gateway::configured(upstream.url(), "compress_requests = \"zstd\"");
    let short = chat("short", "");
    assert_eq!(gateway.call(&[], &short).status, 200);
    let seen = &upstream.requests()[upstream.count() - 1];
    assert_framed(seen, short.as_bytes());
    assert_eq!(seen.headers("content-encoding"), [""; 0]);
    let plain = Gateway::configured(upstream.url(), "");
    let body = chat(&text(500), "");
    assert_eq!(plain.call(&[], &body).status, 200);
    assert_framed(&upstream.requests()[upstream.count() - 1], body.as_bytes());
}

#[test]
fn answers_that_come_packed_unasked_are_unpacked() {
    let whole = answer(&text(300));
    let events = format!("data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", piece(&text(300)), finish());
    let error = r#"{"error":{"message":"too much","type":"t","code":"c","param":null}}"#;
    for coding in CODINGS {
        let stream = pack(coding, events.as_bytes());
        let upstream = Script::new()
            .reply(packed(200, "application/json", coding, &pack(coding, whole.as_bytes())))
            .reply(packed(200, "text/event-stream", coding, &stream).split_every(7))
            .reply(packed(400, "application/json", coding, &pack(coding, error.as_bytes())))
            .start();
        let gateway = Gateway::start(once().config(&deployment("up", upstream.url(), "")));
        let check = |more: &str, status: u16, expected: &str| {
            let response = gateway.call(&[], chat("a", more));
            assert_eq!(response.status, status, "{coding}: {}", response.text());
            assert_eq!(response.header("content-encoding"), None);
            assert_eq!(response.text(), expected, "{coding}");
        };
        check("", 200, &whole);
        check(STREAM, 200, &events);
        check("", 400, error);
        // It was read on the way, too.
        let tokens = r#"paceline_tokens_total{upstream="up",kind="output"}"#;
        assert!(gateway.metric(tokens) > 0.0, "{:?}", gateway.metrics());
        assert_eq!(upstream.unexpected(), 0);
    }
}

#[test]
fn what_nobody_can_unpack_is_passed_on() {
    let upstream =
        Script::new().otherwise(packed(200, "application/json", "gzip, x-odd", b"bytes")).start();
    let gateway = Gateway::before(&upstream);
    let response = gateway.call(&[], chat("a", ""));
    assert_eq!(response.header("content-encoding"), Some("gzip, x-odd"));
    assert_eq!(response.text(), "bytes");
}

#[test]
fn bombs_and_broken_packages_are_refused() {
    let zeros = vec![b' '; 64 << 20];
    for coding in CODINGS {
        let bomb = pack(coding, &zeros);
        let whole = pack(coding, answer(&text(300)).as_bytes());
        let upstream = Script::new()
            .reply(packed(200, "application/json", coding, &bomb))
            .reply(packed(200, "text/event-stream", coding, &bomb))
            .reply(packed(200, "application/json", coding, &whole[..whole.len() - 9]))
            .reply(packed(200, "application/json", coding, b"{\"id\": \"no such coding\"}"))
            .start();
        let gateway = Gateway::start(once().config(&deployment("up", upstream.url(), "")));
        for more in ["", STREAM, "", ""] {
            let response = gateway.call(&[], chat("a", more));
            assert_eq!(response.status, 502, "{coding} {more}: {} bytes", response.body.len());
            assert_error(&response, 502, "upstream_broken");
        }
        assert_eq!(upstream.unexpected(), 0);
    }
}

/// A gateway that packs answers as `which` says.
fn packing(which: &str, upstream: &Script) -> Gateway {
    let config = deployment("up", upstream.url(), "");
    let config = format!("{config}[server]\ncompress_responses = \"{which}\"\n");
    Gateway::start(two_threads().config(&config))
}

/// Asserts that an answer is packed like this, `None` for not at all, and has this text.
fn check(response: &Response, coding: Option<&str>, expected: &str) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-encoding"), coding);
    match coding {
        None => assert_eq!(response.text(), expected),
        Some(coding) => {
            assert!(response.body.len() < expected.len(), "{}", response.body.len());
            assert_eq!(unpack(coding, &response.body), expected);
        }
    }
}

#[test]
fn clients_get_the_coding_that_they_ask_for() {
    // The second one is packed on a thread of its own.
    for words in [300, 20_000] {
        let whole = answer(&text(words));
        let upstream = Script::new().otherwise(Reply::json(200, &whole)).start();
        let gateway = packing("whole", &upstream);
        let call = |accepts: &str| gateway.call(&[("accept-encoding", accepts)], chat("a", ""));
        for coding in CODINGS {
            let response = call(coding);
            check(&response, Some(coding), &whole);
            assert_eq!(response.header("vary"), Some("accept-encoding"));
            let length = response.body.len().to_string();
            assert_eq!(response.header("content-length"), Some(length.as_str()));
        }
        check(&call("gzip, deflate, br, zstd"), Some("zstd"), &whole);
        check(&call("gzip;q=1, zstd;q=0.2"), Some("gzip"), &whole);
        let plain = call("deflate");
        check(&plain, None, &whole);
        assert_eq!(plain.header("vary"), Some("accept-encoding"));
        check(&gateway.call(&[], chat("a", "")), None, &whole);
        // An upstream is never asked for what was asked of us.
        assert!(upstream.requests().iter().all(|seen| seen.header("accept-encoding").is_none()));
    }
}

#[test]
fn some_answers_are_left_alone() {
    let whole = answer(&text(300));
    let fixed = [("Content-Type", "application/json"), ("Cache-Control", "private, no-Transform")];
    let image = [("Content-Type", "image/png")];
    let events = [piece(&text(300)), finish()];
    let upstream = Script::new()
        .reply(Reply::json(200, &answer("short")))
        .reply(Reply::with_headers(200, &fixed, &whole))
        .reply(Reply::with_headers(200, &image, &whole))
        .reply(Reply::sse(&[&events[0], &events[1]]))
        .otherwise(Reply::json(200, &whole))
        .start();
    let gateway = packing("whole", &upstream);
    let accepting = [("accept-encoding", "gzip, br, zstd")];
    check(&gateway.call(&accepting, chat("a", "")), None, &answer("short"));
    check(&gateway.call(&accepting, chat("a", "")), None, &whole);
    check(&gateway.call(&accepting, chat("a", "")), None, &whole);
    let stream = gateway.call(&accepting, chat("a", STREAM));
    assert_eq!(stream.header("content-encoding"), None);
    assert_eq!(stream.events(), [&events[0], &events[1], "[DONE]"]);
    // Nothing is packed where that is not switched on.
    let usual = Gateway::before(&upstream);
    let response = usual.call(&accepting, chat("a", ""));
    check(&response, None, &whole);
    assert_eq!(response.header("vary"), None);
}

#[test]
fn each_event_of_a_packed_stream_comes_at_once() {
    let gate = Gate::new();
    let reply = Reply::stream().event(&piece("one")).wait_for(&gate);
    let reply = reply.event(&finish()).event("[DONE]").end();
    let upstream = Script::new().otherwise(reply).start();
    let gateway = packing("always", &upstream);
    let mut connection = gateway.begin(&[("accept-encoding", "gzip")], chat("a", STREAM));
    let head = connection.head();
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    assert_eq!(head.header("content-length"), None);
    let mut unpacker = flate2::write::GzDecoder::new(Vec::new());
    let first = format!("data: {}\n\n", piece("one"));
    while unpacker.get_ref() != first.as_bytes() {
        unpacker.write_all(&connection.piece().unwrap().bytes).unwrap();
        unpacker.flush().unwrap();
    }
    // Only now does the upstream go on.
    gate.open();
    while let Some(piece) = connection.piece() {
        unpacker.write_all(&piece.bytes).unwrap();
    }
    let all = String::from_utf8(unpacker.finish().unwrap()).unwrap();
    assert_eq!(all, format!("{first}data: {}\n\ndata: [DONE]\n\n", finish()));
    for coding in CODINGS {
        let response = gateway.call(&[("accept-encoding", coding)], chat("a", STREAM));
        assert_eq!(response.header("content-encoding"), Some(coding));
        assert_eq!(unpack(coding, &response.body), all);
    }
    gateway.wait_until_idle();
    assert_eq!(gateway.metric(r#"paceline_requests_total{outcome="answered"}"#), 4.0);
}

#[test]
fn a_packed_stream_that_breaks_off_ends_with_an_error_event() {
    let reply = Reply::stream().event(&piece("one")).close();
    let upstream = Script::new().otherwise(reply).start();
    let gateway = packing("always", &upstream);
    let response = gateway.call(&[("accept-encoding", "zstd")], chat("a", STREAM));
    let text = unpack("zstd", &response.body);
    assert!(text.contains("one") && text.contains("upstream_broken"), "{text}");
}

#[test]
fn packed_requests_are_unpacked() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("good"))).start();
    let gateway = Gateway::start(once().upstream(upstream.url()));
    let refused = || gateway.metric("paceline_refused_total{reason=\"body_too_large\"}");
    for body in [chat("a", ""), chat(&text(20_000), "")] {
        for coding in CODINGS {
            let packed = pack(coding, body.as_bytes());
            assert_eq!(gateway.call(&[("content-encoding", coding)], &packed).status, 200);
            let request = upstream.requests().pop().unwrap();
            assert_framed(&request, body.as_bytes());
            assert_eq!(request.header("content-encoding"), None);
            // What breaks off, what is something else, what unpacks to too much.
            let cut = &packed[..packed.len() / 2];
            for bytes in [cut, body.as_bytes()] {
                let response = gateway.call(&[("content-encoding", coding)], bytes);
                assert_error(&response, 400, "invalid_request");
            }
        }
    }
    let sent = upstream.count();
    for coding in CODINGS {
        let before = refused();
        let bomb = pack(coding, &vec![b' '; 80 << 20]);
        assert!(bomb.len() < 1 << 20);
        let response = gateway.call(&[("content-encoding", coding)], &bomb);
        assert_error(&response, 413, "body_too_large");
        assert_eq!(refused(), before + 1.0);
    }
    let (once, twice) = (pack("gzip", chat("a", "").as_bytes()), ("content-encoding", "gzip"));
    for (headers, body) in [
        (&[("content-encoding", "deflate")][..], &once),
        (&[("content-encoding", "gzip, gzip")], &once),
        (&[twice, twice], &once),
        (&[twice], &Vec::new()),
    ] {
        assert_error(&gateway.call(headers, body), 400, "invalid_request");
    }
    assert_eq!(gateway.call(&[("content-encoding", "identity")], chat("a", "")).status, 200);
    assert_eq!(upstream.count(), sent + 1);
}
