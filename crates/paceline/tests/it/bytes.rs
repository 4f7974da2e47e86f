//! Same dialect in and out: the same bytes, however they are cut on the way.

use testkit::http::{Connection, Ending};
use testkit::{Reply, Script};

use crate::support::{CHAT, Gateway, assert_framed, chat, finish, piece};

/// Bodies whose spelling a parser and a writer would not keep.
fn bodies() -> Vec<String> {
    let spaced = "{ \"messages\" : [ ] ,\r\n\t\"model\":\"sim\" , \"temperature\" : 1.50 }\n";
    let numbers = r#"{"model":"sim","seed":12345678901234567890123,"x":[1e400,-0.0,1E+2,0.10]}"#;
    let texts = r#"{"model":"s\u0069m","messages":[{"role":"user","content":"\u00e4ä\ud83d\ude00\/\\ \u0000"}],"messages2":"\ud800"}"#;
    let nested =
        r#"{"model":"sim","x":{"a":{"a":1,"a":2},"":[[],{}]},"y":"{\"model\":\"other\"}"}"#;
    let long = chat(&"lorem ipsum ".repeat(40_000), ",\"n\":1");
    [spaced, numbers, texts, nested].iter().map(|body| (*body).to_owned()).chain([long]).collect()
}

/// The bytes in pieces of random lengths, most of them short.
fn split<'a>(random: &mut fastrand::Rng, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let longest = [1, 7, 100, 5000][random.usize(..4)].max(bytes.len() / 200);
    let (mut rest, mut parts) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(random.usize(1..=longest.min(rest.len())));
        parts.push(part);
        rest = tail;
    }
    parts
}

fn chunked(parts: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::new();
    for part in parts {
        framed.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        framed.extend_from_slice(part);
        framed.extend_from_slice(b"\r\n");
    }
    [&framed[..], b"0\r\n\r\n"].concat()
}

#[test]
fn requests_pass_as_they_came() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let gateway = Gateway::before(&upstream);
    let mut random = fastrand::Rng::with_seed(7);
    let mut expected = Vec::new();
    let mut connection = Connection::to(gateway.url());
    for round in 0..6 {
        for body in bodies() {
            let bytes = body.as_bytes();
            let framed = if round % 2 == 0 {
                gateway.compose(&[], bytes)
            } else {
                let head = format!(
                    "POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                [head.as_bytes(), &chunked(&split(&mut random, bytes))].concat()
            };
            for part in split(&mut random, &framed) {
                connection.send(part);
            }
            assert_eq!(connection.response().status, 200);
            expected.push(body);
        }
    }
    for (request, body) in upstream.requests().iter().zip(&expected) {
        assert_framed(request, body.as_bytes());
    }
    assert_eq!(upstream.count(), expected.len());
}

#[test]
fn headers_pass_but_for_those_of_the_connection_and_ours() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let gateway = Gateway::before(&upstream);
    let passed = [
        ("authorization", "Bearer sk-client"),
        ("user-agent", "OpenAI/Python 1.0"),
        ("openai-organization", "org"),
        ("x-stainless-retry-count", "0"),
        ("x-odd", "two  blanks, \u{e4}"),
        ("accept", "application/json, text/event-stream"),
        ("cookie", "a=1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-twice", "1"),
        ("x-twice", "2"),
    ];
    let ours = [
        ("x-paceline-run", "r"),
        ("x-paceline-parent", "p"),
        ("x-paceline-agent", "a"),
        ("x-paceline-cache", "no"),
        ("x-paceline-priority", "9"),
        ("x-paceline-deadline-ms", "60000"),
        ("x-paceline-budget", "{}"),
        ("x-paceline-batch", "allow"),
        ("accept-encoding", "gzip, br"),
    ];
    let all = [&passed[..], &ours[..]].concat();
    let body = chat("a", "");
    assert_eq!(gateway.call(&all, &body).status, 200);
    let request = &upstream.requests()[0];
    assert_framed(request, body.as_bytes());
    let mut found: Vec<(String, String)> = request
        .head()
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let added = [
        ("host", upstream.addr().to_string()),
        ("content-type", "application/json".to_owned()),
        ("content-length", body.len().to_string()),
    ];
    let mut expected: Vec<(String, String)> = passed
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .chain(added)
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_query_and_a_path_before_v1_reach_the_upstream() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let check = |base: &str, path: &str, expected: &str| {
        let gateway = Gateway::configured(&format!("{}{base}", upstream.url()), "");
        let before = upstream.count();
        let url = gateway.at(path);
        assert_eq!(testkit::http::post(&url, &[], chat("a", "")).status, 200);
        let line = upstream.requests()[before].line();
        assert_eq!(line, format!("POST {expected} HTTP/1.1"));
    };
    check("", CHAT, CHAT);
    check("/v1/", CHAT, CHAT);
    check(
        "",
        "/v1/chat/completions?api-version=1&x=%20y",
        "/v1/chat/completions?api-version=1&x=%20y",
    );
    check("/openai/v1", "/r/my-run/v1/chat/completions?x=1", "/openai/v1/chat/completions?x=1");
}

#[test]
fn answers_pass_as_they_came() {
    let mut replies = Vec::new();
    let mut random = fastrand::Rng::with_seed(8);
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let sse = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
    let mut add = |head: &str, body: &str, chunks: bool| {
        let bytes = body.as_bytes();
        let framed = if chunks {
            let parts = split(&mut random, bytes);
            [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunked(&parts)].concat()
        } else {
            let length = format!("Content-Length: {}\r\n\r\n", bytes.len());
            [head.as_bytes(), length.as_bytes(), bytes].concat()
        };
        let parts = split(&mut random, &framed);
        let reply = parts.into_iter().fold(Reply::new(), |reply, part| reply.write(part));
        replies.push((reply, body.to_owned()));
    };
    let pieces: String = (0..200)
        .map(|n| format!("id: {n}\nevent: x\ndata: {}\n\n: ping\n\n", piece(&"ä".repeat(n))))
        .collect();
    let stream = format!(": begin\n\n{pieces}data: {}\n\ndata: [DONE]\n\n", finish());
    for _ in 0..3 {
        for body in bodies() {
            add(json, &body, false);
            add(json, &body, true);
        }
        add(sse, &stream, true);
        add(sse, &stream.replace('\n', "\r\n"), true);
        add(sse, &stream.replace('\n', "\r"), false);
    }
    let (replies, expected): (Vec<_>, Vec<_>) = replies.into_iter().unzip();
    let upstream = replies.into_iter().fold(Script::new(), testkit::ScriptBuilder::reply).start();
    let gateway = Gateway::before(&upstream);
    let mut connection = Connection::to(gateway.url());
    for (case, expected) in expected.iter().enumerate() {
        connection.send(&gateway.compose(&[], chat("a", ",\"stream\":true")));
        let response = connection.response();
        assert_eq!((response.status, response.ending), (200, Ending::Whole), "{case}");
        assert!(response.text() == *expected, "{case}: {}", response.text());
    }
    assert_eq!(upstream.unexpected(), 0);
}
