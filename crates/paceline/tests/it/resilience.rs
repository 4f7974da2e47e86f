//! What happens to a call when an upstream fails: again, elsewhere, another model, or the
//! upstream's own error.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use testkit::http::Response;
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, answer, chat, deployment, finish, piece, two_threads};

fn good() -> Script {
    Script::new().otherwise(Reply::json(200, &answer("good"))).start()
}

/// A gateway before these deployments that never waits long between attempts.
fn start(deployments: &[(&str, &str, &str)], more: &str) -> Gateway {
    let all: String =
        deployments.iter().map(|(name, url, more)| deployment(name, url, more)).collect();
    let serve = two_threads().env("PACELINE__RETRY__BACKOFF_MS", "1");
    Gateway::start(serve.config(&(all + more)))
}

fn named(response: &Response) -> &str {
    response.header("x-paceline-deployment").unwrap_or("none")
}

#[test]
fn a_failed_call_is_sent_again() {
    for failure in [Reply::json(500, "{}"), Reply::json(529, "{}"), Reply::new().close()] {
        let upstream = Script::new()
            .reply(failure.clone())
            .reply(failure)
            .otherwise(Reply::json(200, &answer("good")))
            .start();
        let gateway = start(&[("a", upstream.url(), "")], "");
        assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
        assert_eq!(upstream.count(), 3);
        assert_eq!(gateway.metric("paceline_retries_total"), 2.0);
    }
}

#[test]
fn what_would_fail_again_is_not_sent_again() {
    for status in [400, 413, 422, 501] {
        let (a, b) = (Script::new().otherwise(Reply::json(status, "{}")).start(), good());
        let chain = "[[routes]]\nmodel = \"r\"\nmodels = [\"x\", \"y\"]\n";
        let deployments = [("a", a.url(), "models = [\"x\"]"), ("b", b.url(), "models = [\"y\"]")];
        let gateway = start(&deployments, chain);
        let body = chat("a", "").replace("\"sim\"", "\"r\"");
        assert_eq!(gateway.call(&[], body).status, status);
        assert_eq!((a.count(), b.count()), (1, 0), "{status}");
    }
}

#[test]
fn another_deployment_answers_for_one_that_fails() {
    let (a, b) = (Script::new().otherwise(Reply::new().close()).start(), good());
    let gateway = start(&[("a", a.url(), ""), ("b", b.url(), "")], "");
    for _ in 0..20 {
        let response = gateway.call(&[], chat("a", ""));
        assert_eq!((response.status, named(&response)), (200, "b"));
    }
    assert_eq!(b.count(), 20);
    assert!(a.count() <= 6, "{} calls went to what fails", a.count());
}

#[test]
fn a_stream_that_breaks_before_its_first_word_begins_anew() {
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let stream =
        |events: &[&str]| events.iter().fold(Reply::stream(), |reply, event| reply.event(event));
    let good = Reply::sse(&[role, &piece("better"), &finish()]);
    for broken in [stream(&[role]).close(), stream(&[]).close(), stream(&[role]).reset()] {
        let upstream = Script::new().reply(broken).otherwise(good.clone()).start();
        let gateway = start(&[("a", upstream.url(), "")], "");
        let response = gateway.call(&[], chat("a", ",\"stream\":true"));
        assert_eq!(response.status, 200);
        assert!(response.text().contains("better") && response.text().ends_with("[DONE]\n\n"));
        assert_eq!(
            response.text().matches("assistant").count(),
            1,
            "the first one's role was sent"
        );
        assert_eq!(upstream.count(), 2);
    }
    // Behind the first word it is too late.
    let broken = stream(&[role, &piece("first")]).close();
    let upstream = Script::new().reply(broken).otherwise(good).start();
    let gateway = start(&[("a", upstream.url(), "")], "");
    let response = gateway.call(&[], chat("a", ",\"stream\":true"));
    assert!(response.text().contains("first") && response.text().contains("upstream_broken"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn retries_amplify_no_outage() {
    const CALLS: usize = 400;
    let upstream = Script::new().otherwise(Reply::json(503, "{}")).start();
    let gateway = start(&[("a", upstream.url(), "")], "[retry]\nattempts_max = 10\n");
    for _ in 0..CALLS {
        assert_eq!(gateway.call(&[], chat("a", "")).status, 503);
    }
    let seen = upstream.count();
    // A tenth, and the five retries that a new target may have.
    assert!(seen > CALLS && seen <= CALLS + CALLS / 10 + 5, "{seen} calls");
}

#[test]
fn a_wait_that_the_upstream_asks_for_is_waited_for_or_passed_on() {
    let limited = |after: &str| {
        Reply::with_headers(
            429,
            &[("Retry-After", after), ("Content-Type", "application/json")],
            "{}",
        )
    };
    let upstream = Script::new()
        .reply(Reply::with_headers(429, &[("retry-after-ms", "40")], "{}"))
        .otherwise(Reply::json(200, &answer("good")))
        .start();
    let gateway = start(&[("a", upstream.url(), "")], "");
    let before = std::time::Instant::now();
    assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
    assert!(before.elapsed().as_millis() >= 40);
    for after in ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"] {
        let upstream = Script::new().otherwise(limited(after)).start();
        let gateway = start(&[("a", upstream.url(), "")], "");
        let response = gateway.call(&[], chat("a", ""));
        assert_eq!((response.status, response.header("retry-after")), (429, Some(after)));
        assert_eq!(upstream.count(), 1);
    }
    // Nor does it wait beyond the call's deadline.
    let upstream = Script::new().otherwise(limited("5")).start();
    let gateway = start(&[("a", upstream.url(), "")], "");
    let response = gateway.call(&[("x-paceline-deadline-ms", "900")], chat("a", ""));
    assert_eq!((response.status, upstream.count()), (429, 1));
}

#[test]
fn a_key_that_is_refused_is_left_out_and_reported() {
    for status in [401, 402, 403] {
        let refusing = move |request: &testkit::Request| {
            let bad = request.header("authorization") == Some("Bearer bad-key".to_owned());
            if bad { Reply::json(status, "{}") } else { Reply::json(200, &answer("good")) }
        };
        let upstream = Script::new().respond(refusing).start();
        let keys = "api_keys = [\"bad-key\", \"good-key\"]";
        let mut gateway = start(&[("a", upstream.url(), keys)], "");
        for _ in 0..30 {
            let response = gateway.call(&[], chat("a", ""));
            assert_eq!((response.status, named(&response)), (200, "a/2"));
        }
        gateway.wait_for_log("upstream refuses its key");
        assert!(upstream.count() <= 31, "the refused key was used again");
        assert!(!gateway.log().contains("bad-key"));
    }
    // A caller's own key is the caller's affair.
    let upstream = Script::new().otherwise(Reply::json(401, "{}")).start();
    let gateway = start(&[("a", upstream.url(), "")], "");
    for _ in 0..3 {
        assert_eq!(gateway.call(&[], chat("a", "")).status, 401);
    }
    assert_eq!(upstream.count(), 3);
    assert_eq!(testkit::http::get(&gateway.at("/ready")).status, 200);
}

#[test]
fn another_model_answers_in_the_declared_order() {
    let down = Script::new().otherwise(Reply::json(503, "{}")).start();
    let (b, c) = (good(), good());
    let deployments = [
        ("a", down.url(), "models = [\"x\"]"),
        ("b", b.url(), "models = [\"y\"]\nrename = { y = \"y-2026\" }"),
        ("c", c.url(), "models = [\"z\"]"),
    ];
    let chain = "[[routes]]\nmodel = \"smart\"\nmodels = [\"x\", \"y\"]\nlonger = \"z\"\n";
    let gateway = start(&deployments, chain);
    let body = chat("a", ",\"x\" : 1.0").replace("\"sim\"", "\"smart\"");
    let response = gateway.call(&[], &body);
    assert_eq!((response.status, named(&response)), (200, "b"));
    // The name is spliced, and nothing else is touched.
    assert_eq!(b.requests()[0].text(), body.replace("\"smart\"", "\"y-2026\""));
    assert_eq!(c.count(), 0);
    assert_eq!(gateway.metric("paceline_fallbacks_total"), 1.0);
    let listed = testkit::http::get(&gateway.at("/v1/models")).text();
    assert!(listed.contains("\"smart\""), "{listed}");
}
#[test]
fn a_prompt_that_does_not_fit_goes_to_the_longer_model() {
    let too_long = r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
    let (short, next, long) =
        (Script::new().otherwise(Reply::json(400, too_long)).start(), good(), good());
    let deployments = [
        ("a", short.url(), "models = [\"x\"]"),
        ("b", next.url(), "models = [\"y\"]"),
        ("c", long.url(), "models = [\"z\"]"),
    ];
    let chain = "[[routes]]\nmodel = \"smart\"\nmodels = [\"x\", \"y\"]\nlonger = \"z\"\n";
    let gateway = start(&deployments, chain);
    let response = gateway.call(&[], chat("a", "").replace("\"sim\"", "\"smart\""));
    assert_eq!((response.status, named(&response)), (200, "c"));
    assert_eq!(next.count(), 0);
}

/// Sends so many calls of eight threads, so that the gateway knows how long answers take.
fn warm(gateway: &Gateway, calls: usize) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..calls / 8 {
                    assert_eq!(gateway.call(&[], chat("warm", "")).status, 200);
                }
            });
        }
    });
}

#[test]
fn a_late_call_is_sent_twice_and_the_first_answer_counts() {
    let (gate, slow) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let upstream = |name: &'static str| {
        let (gate, slow) = (gate.clone(), Arc::clone(&slow));
        Script::new()
            .respond(move |request| {
                let reply = Reply::json(200, &answer(name));
                if request.header("x-case").is_some() && slow.fetch_add(1, SeqCst) == 0 {
                    return Reply::new().wait_for(&gate).close();
                }
                reply
            })
            .start()
    };
    let (a, b) = (upstream("a"), upstream("b"));
    let hedge = "[hedge]\nenabled = true\nspend_share_max = 0.5\n";
    let gateway = start(&[("a", a.url(), ""), ("b", b.url(), "")], hedge);
    warm(&gateway, 400);
    let before = gateway.metric("paceline_hedges_won_total");
    let response = gateway.call(&[("x-case", "slow")], chat("a", ""));
    assert_eq!(response.status, 200);
    assert_eq!(slow.load(SeqCst), 2);
    assert_eq!(gateway.metric("paceline_hedges_won_total"), before + 1.0);
    assert!(gateway.metric("paceline_hedges_total") >= 1.0);
    // The attempt that lost was cancelled.
    gateway.wait_until_idle();
    gate.open();
}

#[test]
fn a_call_that_cannot_make_its_deadline_is_not_sent() {
    let slow = Reply::json(200, &answer("late")).late_by(Duration::from_millis(100));
    let upstream = Script::new().otherwise(slow).start();
    let gateway = start(&[("a", upstream.url(), "")], "");
    warm(&gateway, 64);
    let response = gateway.call(&[("x-paceline-deadline-ms", "40")], chat("a", ""));
    assert_eq!(response.status, 504, "{}", response.text());
    assert!(response.text().contains("was not sent"), "{}", response.text());
    assert_eq!(upstream.count(), 64);
    let response = gateway.call(&[("x-paceline-deadline-ms", "5000")], chat("a", ""));
    assert_eq!(response.status, 200);
}

#[test]
fn errors_within_streams_count_against_a_deployment() {
    let error = |kind: &str| format!(r#"{{"error":{{"message":"no","type":"{kind}"}}}}"#);
    let told = |kind: &str| {
        let stream = Reply::stream().event(&piece("one")).event(&error(kind)).end();
        Script::new().otherwise(stream).start()
    };
    let more = "[health]\nfailures_max = 2\nopen_ms = 60000\n[retry]\nattempts_max = 1\n";
    let stream = chat("a", ",\"stream\":true");
    let ill = told("server_error");
    let mut gateway = start(&[("a", ill.url(), "")], more);
    for _ in 0..2 {
        assert!(gateway.call(&[], &stream).text().contains("server_error"));
    }
    gateway.wait_for_log("left out while others are healthy");
    assert_eq!(testkit::http::get(&gateway.at("/ready")).status, 503);
    // The same in Anthropic's words, passed on and translated.
    let start_of = r#"{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"x","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}"#;
    let block =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}"#;
    for (kind, ready) in [("api_error", 503), ("overloaded_error", 503), ("rate_limit_error", 200)]
    {
        for path in ["/v1/messages", "/v1/chat/completions"] {
            let failed = error(kind).replacen('{', r#"{"type":"error","#, 1);
            let stream = [start_of, block, &failed].iter().fold(Reply::stream(), |to, data| {
                let value: serde_json::Value = serde_json::from_str(data).unwrap();
                let name = value["type"].as_str().unwrap();
                to.chunk(format!("event: {name}\ndata: {data}\n\n"))
            });
            let upstream = Script::new().otherwise(stream.end()).start();
            let deployment = [("a", upstream.url(), "provider = \"anthropic\"")];
            let gateway = start(&deployment, more);
            let body = chat("a", ",\"stream\":true,\"max_tokens\":9");
            for _ in 0..2 {
                testkit::http::post(&gateway.at(path), &[], &body);
            }
            gateway.wait_until_idle();
            let found = testkit::http::get(&gateway.at("/ready")).status;
            assert_eq!(found, ready, "{kind} at {path}");
        }
    }
    // What the caller asked wrongly says nothing of the deployment.
    let well = told("invalid_request_error");
    let gateway = start(&[("a", well.url(), "")], more);
    for _ in 0..4 {
        assert!(gateway.call(&[], &stream).text().contains("invalid_request_error"));
    }
    assert_eq!(testkit::http::get(&gateway.at("/ready")).status, 200);
}
