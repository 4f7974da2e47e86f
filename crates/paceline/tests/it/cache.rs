//! Kept replies over HTTP.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::http::Response;
use testkit::{Reply, Script};

use crate::support::{
    Gateway, answer, assert_error, chat, deployment, finish, once, piece, two_threads,
};

/// An upstream whose answers are numbered, in the form that is asked for.
fn numbered() -> Script {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Script::new()
        .respond(move |request| {
            let text =
                format!("answer {}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
            if !request.text().contains("\"stream\":true") {
                return Reply::json(200, &answer(&text));
            }
            let (first, last) = text.split_at(3);
            let usage = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"sim","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
            let usage = Some(usage).filter(|_| request.text().contains("\"include_usage\":true"));
            let role = piece("")
                .replace("{\"content\":\"\"}", "{\"role\":\"assistant\",\"content\":\"\"}");
            let (first, last, finish) = (piece(first), piece(last), finish());
            let events = [&*role, &first, &last, &finish].into_iter().chain(usage);
            Reply::sse(&events.collect::<Vec<_>>())
        })
        .start()
}

/// The text of an answer, whole or streamed.
fn text_of(response: &Response) -> String {
    let text = |value: &Value, at: &str| {
        value["choices"][0][at]["content"].as_str().unwrap_or_default().to_owned()
    };
    if response.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        let events = response.events();
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        let parse = |data: &String| serde_json::from_str::<Value>(data).unwrap();
        return events[..events.len() - 1].iter().map(|data| text(&parse(data), "delta")).collect();
    }
    text(&serde_json::from_slice(&response.body).unwrap(), "message")
}

#[test]
fn each_mode_uses_the_cache_in_its_way() {
    let upstream = numbered();
    let gateway = Gateway::before(&upstream);
    let plain = chat("q", "");
    let zero = chat("q", ",\"temperature\":0");
    let streamed = chat("q", ",\"temperature\":0,\"stream\":true");
    let check = |body: &str, mode: &str, state: &str, text: &str| {
        let headers = [("x-paceline-cache", mode)];
        let headers = if mode.is_empty() { &headers[..0] } else { &headers[..] };
        let response = gateway.call(headers, body);
        let found = (response.header("x-paceline-cache"), text_of(&response));
        assert_eq!(found, (Some(state), text.to_owned()), "{mode:?} {body}");
        let deployment = (state != "hit").then_some("upstream");
        assert_eq!(response.header("x-paceline-deployment"), deployment);
    };
    check(&zero, "", "miss", "answer 0");
    check(&zero, "", "hit", "answer 0");
    check(&streamed, "", "hit", "answer 0");
    check(&streamed, "", "hit", "answer 0");
    check(&zero, "no", "bypass", "answer 1");
    check(&zero, "", "hit", "answer 0");
    check(&zero, "refresh", "bypass", "answer 2");
    check(&zero, "", "hit", "answer 2");
    check(&zero, "only", "hit", "answer 2");
    check(&streamed, "only", "hit", "answer 2");
    // Without a temperature of 0 an answer may differ, so it is kept on request only.
    check(&plain, "", "bypass", "answer 3");
    check(&plain, "", "bypass", "answer 4");
    check(&plain, "yes", "miss", "answer 5");
    check(&plain, "yes", "hit", "answer 5");
    check(&plain, "only", "hit", "answer 5");
    check(&plain, "", "bypass", "answer 6");
    assert_eq!(upstream.count(), 7);
    let none = gateway.call(&[("x-paceline-cache", "only")], chat("new", ",\"temperature\":0"));
    assert_error(&none, 504, "not_cached");
    let wrong = gateway.call(&[("x-paceline-cache", "maybe")], &zero);
    assert_error(&wrong, 400, "invalid_request");
    assert_eq!(upstream.count(), 7);
}

#[test]
fn a_stream_that_was_kept_answers_whole_calls() {
    let upstream = numbered();
    let gateway = Gateway::before(&upstream);
    let streamed = chat("q", ",\"temperature\":0,\"stream\":true");
    let first = gateway.call(&[], &streamed);
    assert_eq!(first.header("x-paceline-cache"), Some("miss"));
    let second = gateway.call(&[], &streamed);
    assert_eq!(second.header("x-paceline-cache"), Some("hit"));
    assert_eq!(second.text(), first.text(), "a kept stream is given again byte for byte");
    // It told no usage, which a whole answer has.
    let plain = gateway.call(&[("x-paceline-cache", "only")], chat("q", ",\"temperature\":0"));
    assert_error(&plain, 504, "not_cached");
    let more = ",\"temperature\":0,\"stream\":true,\"stream_options\":{\"include_usage\":true}";
    let with_usage = gateway.call(&[], chat("q", more));
    assert_eq!(with_usage.header("x-paceline-cache"), Some("miss"));
    let whole = gateway.call(&[], chat("q", ",\"temperature\":0"));
    assert_eq!(whole.header("x-paceline-cache"), Some("hit"));
    assert_eq!(whole.header("content-type"), Some("application/json"));
    let value: Value = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(value["object"], "chat.completion");
    assert_eq!(value["choices"][0]["finish_reason"], "stop");
    assert_eq!(value["choices"][0]["message"]["role"], "assistant");
    assert_eq!(value["usage"]["prompt_tokens"], 5);
    assert_eq!(text_of(&whole), "answer 1");
    let without = gateway.call(&[], &streamed);
    assert_eq!(without.header("x-paceline-cache"), Some("hit"));
    assert!(text_of(&without) == "answer 1" && !without.text().contains("usage"));
    assert_eq!(upstream.count(), 2);
}

#[test]
fn usage_comes_only_when_asked_for() {
    let upstream = numbered();
    let gateway = Gateway::before(&upstream);
    gateway.call(&[], chat("q", ",\"temperature\":0"));
    let with = |usage: bool| {
        let options = format!(",\"stream_options\":{{\"include_usage\":{usage}}}");
        let more = format!(",\"temperature\":0,\"stream\":true{options}");
        let response = gateway.call(&[], chat("q", &more));
        assert_eq!(response.header("x-paceline-cache"), Some("hit"));
        response.text()
    };
    assert!(with(true).contains("\"prompt_tokens\":5"));
    assert!(!with(false).contains("prompt_tokens"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn only_proper_answers_are_kept() {
    let check = |reply: Reply, more: &str| {
        let upstream = Script::new().otherwise(reply).start();
        let gateway = Gateway::start(once().upstream(upstream.url()));
        let body = chat("q", &format!(",\"temperature\":0{more}"));
        for _ in 0..2 {
            let response = gateway.call(&[], &body);
            assert_ne!(response.header("x-paceline-cache"), Some("hit"), "{}", response.text());
        }
        assert_eq!(upstream.count(), 2);
        assert_eq!(gateway.metric("paceline_cache_kept_total"), 0.0);
    };
    let stream = ",\"stream\":true";
    check(Reply::json(500, &answer("x")), "");
    check(Reply::json(201, &answer("x")), "");
    check(Reply::json(200, r#"{"error":{"message":"no"}}"#), "");
    check(Reply::json(200, "not json"), "");
    check(Reply::json(200, ""), "");
    check(Reply::with_headers(200, &[("Content-Type", "text/plain")], &answer("x")), "");
    check(Reply::json(200, &answer(&"x".repeat(2 << 20))), "");
    check(Reply::stream().event(&piece("x")).close(), stream);
    check(Reply::stream().event(&piece("x")).end(), stream);
    check(Reply::stream().event(&piece("x")).event(r#"{"error":{"message":"no"}}"#).end(), stream);
    // Another form than the one that was asked for.
    check(Reply::sse(&[&piece("x"), &finish()]), "");
    check(Reply::json(200, &answer("x")), stream);
}

#[test]
fn a_kept_answer_has_its_time() {
    let upstream = numbered();
    let config = deployment("up", upstream.url(), "") + "[cache]\nttl_s = 1\n";
    let gateway = Gateway::start(two_threads().config(&config));
    let body = chat("q", ",\"temperature\":0");
    let first_at = Instant::now();
    assert_eq!(gateway.call(&[], &body).header("x-paceline-cache"), Some("miss"));
    let kept_at = Instant::now();
    loop {
        let response = gateway.call(&[], &body);
        if response.header("x-paceline-cache") == Some("miss") {
            break;
        }
        assert_eq!(text_of(&response), "answer 0");
        assert!(kept_at.elapsed() < Duration::from_secs(10), "it is served for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(first_at.elapsed() >= Duration::from_secs(1), "it was served too short");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_cache_of_no_bytes_keeps_nothing() {
    let upstream = numbered();
    let config = deployment("up", upstream.url(), "") + "[cache]\nmemory_bytes_max = 0\n";
    let gateway = Gateway::start(two_threads().config(&config));
    let body = chat("q", ",\"temperature\":0");
    for n in 0..3 {
        let response = gateway.call(&[], &body);
        assert_eq!(response.header("x-paceline-cache"), Some("miss"));
        assert_eq!(text_of(&response), format!("answer {n}"));
    }
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer(&"x".repeat(50_000)))).start();
    let config = deployment("up", upstream.url(), "") + "[cache]\nmemory_bytes_max = 1000000\n";
    let gateway = Gateway::start(two_threads().config(&config));
    for n in 0..100 {
        let body = chat(&format!("question {n}"), ",\"temperature\":0");
        assert_eq!(gateway.call(&[], &body).status, 200);
    }
    let kept = (0..100)
        .filter(|n| {
            let body = chat(&format!("question {n}"), ",\"temperature\":0");
            gateway.call(&[("x-paceline-cache", "only")], &body).status == 200
        })
        .count();
    assert!((5..20).contains(&kept), "{kept} answers of 50 kB are kept in 1 MB");
}
