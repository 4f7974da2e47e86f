//! A provider with hidden limits: calls wait instead of failing.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use testkit::http::{self, Connection, Response};
use testkit::{Gate, Reply, Script};

use crate::support::{Gateway, answer, assert_error, chat, deployment, two_threads};

/// A provider that takes so many calls in each window, and refuses the others.
fn windowed(calls: u32, window: Duration, refusal: &Reply) -> Script {
    let (refusal, state) = (refusal.clone(), Mutex::new((Instant::now(), 0)));
    Script::new()
        .respond(move |_: &testkit::Request| {
            let mut state = state.lock().unwrap();
            if state.0.elapsed() >= window {
                *state = (Instant::now(), 0);
            }
            state.1 += 1;
            if state.1 > calls { refusal.clone() } else { Reply::json(200, &answer("good")) }
        })
        .start()
}

fn start(url: &str, more: &str) -> Gateway {
    Gateway::start(two_threads().config(&(deployment("a", url, "") + more)))
}

fn finish(connections: Vec<Connection>) -> Vec<Response> {
    connections.into_iter().map(|mut connection| connection.response()).collect()
}

#[test]
fn a_burst_above_the_limit_waits_and_nothing_fails() {
    for refusal in [Reply::json(429, "{}"), Reply::json(529, "{}")] {
        let upstream = windowed(5, Duration::from_millis(300), &refusal);
        let gateway = start(upstream.url(), "");
        let calls = (0..40).map(|n| gateway.begin(&[], chat(&n.to_string(), ""))).collect();
        for response in finish(calls) {
            assert_eq!(response.status, 200, "{}", response.text());
        }
        assert_eq!(gateway.metric("paceline_queue_calls"), 0.0);
        gateway.wait_until_idle();
    }
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let gate = Gate::new();
    let upstream = Script::new().otherwise(Reply::json(429, "{}").wait_for(&gate)).start();
    let gateway = start(upstream.url(), "[queue]\nlen_max = 2\nwait_ms_max = 6000\n");
    let waiting: Vec<_> = (0..3).map(|n| gateway.begin(&[], chat(&n.to_string(), ""))).collect();
    // A call that came after the first refusal might never be sent, and so not be refused.
    upstream.wait_for_requests(3);
    gate.open();
    gateway.wait_for_metric("paceline_queue_calls", 3.0);
    let refused = gateway.call(&[], chat("more", ""));
    assert_error(&refused, 429, "queue_full");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&after));
    for response in finish(waiting) {
        // The provider's own refusal, when the wait is over.
        assert_eq!((response.status, response.text().as_str()), (429, "{}"));
    }
    gateway.wait_until_idle();
}

#[test]
fn a_caller_that_leaves_the_queue_leaves_nothing_behind() {
    let upstream = Script::new().otherwise(Reply::json(429, "{}")).start();
    let gateway = start(upstream.url(), "");
    let waiting: Vec<_> = (0..10).map(|n| gateway.begin(&[], chat(&n.to_string(), ""))).collect();
    gateway.wait_for_metric("paceline_queue_calls", 10.0);
    drop(waiting);
    gateway.wait_for_metric("paceline_queue_calls", 0.0);
    gateway.wait_until_idle();
}

#[test]
fn urgent_calls_go_before_others() {
    let gate = Gate::new();
    let upstream = Script::new()
        .reply(Reply::with_headers(429, &[("retry-after-ms", "700")], "{}"))
        .respond(|_: &testkit::Request| Reply::json(200, &answer("good")))
        .start();
    let gateway = start(upstream.url(), "");
    let mut calls = vec![gateway.begin(&[], chat("first", ""))];
    gateway.wait_for_metric("paceline_queue_calls", 1.0);
    for (at, priority) in ["0", "3", "9", "6"].into_iter().enumerate() {
        calls.push(gateway.begin(&[("x-paceline-priority", priority)], chat(priority, "")));
        gateway.wait_for_metric("paceline_queue_calls", at as f64 + 2.0);
    }
    gate.open();
    assert!(finish(calls).iter().all(|response| response.status == 200));
    let order: Vec<String> = upstream.requests().iter().map(|request| request.text()).collect();
    let place =
        |text: &str| order.iter().rposition(|o| o.contains(&format!("\"{text}\""))).unwrap();
    assert!(
        place("9") < place("6") && place("6") < place("3") && place("3") < place("0"),
        "{order:?}"
    );
    let wrong = gateway.call(&[("x-paceline-priority", "10")], chat("x", ""));
    assert_error(&wrong, 400, "invalid_request");
}

#[test]
fn a_route_goes_on_to_another_model_instead_of_waiting() {
    let limited = Script::new().otherwise(Reply::json(429, "{}")).start();
    let free = Script::new().otherwise(Reply::json(200, &answer("good"))).start();
    let config = deployment("a", limited.url(), "models = [\"x\"]")
        + &deployment("b", free.url(), "models = [\"y\"]")
        + "[[routes]]\nmodel = \"r\"\nmodels = [\"x\", \"y\"]\n";
    let gateway = Gateway::start(two_threads().config(&config));
    for n in 0..10 {
        let response = gateway.call(&[], chat(&n.to_string(), "").replace("\"sim\"", "\"r\""));
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-paceline-deployment"), Some("b"));
    }
    assert!(limited.count() < 10, "{} calls went to what refuses", limited.count());
    let _ = http::get(&gateway.at("/metrics"));
}
