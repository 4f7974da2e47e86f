//! Several deployments of one model: load, health, affinity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use testkit::http::Response;
use testkit::{Reply, Script};

use crate::support::{
    Gateway, answer, assert_error, chat, deployment, eventually, refusing_url, two_threads,
};

fn good() -> Script {
    Script::new().otherwise(Reply::json(200, &answer("good"))).start()
}

fn named(response: &Response) -> String {
    response.header("x-paceline-deployment").unwrap_or("none").to_owned()
}

/// A gateway before these deployments.
fn start(deployments: &[(&str, &str, &str)], more: &str) -> Gateway {
    let all: String =
        deployments.iter().map(|(name, url, more)| deployment(name, url, more)).collect();
    Gateway::start(two_threads().config(&(all + more)))
}

/// An upstream that fails in this way for as long as `failing` is set.
fn failing(failing: &Arc<AtomicBool>, how: Reply) -> Script {
    let failing = Arc::clone(failing);
    let good = Reply::json(200, &answer("good"));
    let reply = move |_: &testkit::Request| {
        if failing.load(Ordering::SeqCst) { how.clone() } else { good.clone() }
    };
    Script::new().respond(reply).start()
}

#[test]
fn a_failing_upstream_is_left_out_and_comes_back() {
    for how in [Reply::json(500, "{}"), Reply::json(503, "{}"), Reply::new().close()] {
        let ill = Arc::new(AtomicBool::new(true));
        let (a, b) = (failing(&ill, how), good());
        let health = "[health]\nfailures_max = 3\nopen_ms = 400\nopen_ms_max = 400\n";
        let mut gateway = start(&[("a", a.url(), ""), ("b", b.url(), "")], health);
        // Calls go to both until one has failed often enough.
        eventually("it has failed three times", || {
            gateway.call(&[], chat("a", ""));
            a.count() == 3
        });
        gateway.wait_for_log("left out while others are healthy");
        let before = b.count();
        for _ in 0..10 {
            assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
        }
        let trials = a.count() - 3;
        assert!(trials <= 1, "{trials} calls went to what is left out");
        assert!(b.count() >= before + 9);
        // A trial that fails takes it out again, for one call each time.
        eventually("another trial has failed", || {
            gateway.call(&[], chat("a", ""));
            a.count() == 5
        });
        ill.store(false, Ordering::SeqCst);
        eventually("it is back", || {
            let response = gateway.call(&[], chat("a", ""));
            response.status == 200 && named(&response) == "a"
        });
        let back = a.count();
        eventually("it has its share again", || {
            assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
            a.count() >= back + 5
        });
    }
}

#[test]
fn a_refusal_for_the_rate_is_no_illness() {
    for status in [400, 401, 404, 429] {
        let a = Script::new().otherwise(Reply::json(status, "{}")).start();
        let more = "[health]\nfailures_max = 1\n[queue]\nlearn = false\n";
        let gateway = start(&[("a", a.url(), "")], more);
        for _ in 0..5 {
            assert_eq!(gateway.call(&[], chat("a", "")).status, status);
        }
        assert_eq!(testkit::http::get(&gateway.at("/ready")).status, 200);
    }
}

#[test]
fn a_refused_connection_goes_to_the_other() {
    let b = good();
    let gateway = start(&[("a", &refusing_url(), ""), ("b", b.url(), "")], "");
    for _ in 0..20 {
        let response = gateway.call(&[], chat("a", ""));
        assert_eq!((response.status, named(&response).as_str()), (200, "b"));
    }
    assert_eq!(b.count(), 20);
    let more = "[retry]\nbackoff_ms = 1\n[health]\nopen_ms = 60000\n";
    let gateway = start(&[("a", &refusing_url(), ""), ("b", &refusing_url(), "")], more);
    for _ in 0..20 {
        assert_error(&gateway.call(&[], chat("a", "")), 502, "upstream_unreachable");
    }
    assert_eq!(testkit::http::get(&gateway.at("/ready")).status, 503);
}

#[test]
fn the_calls_of_a_run_go_to_one_replica() {
    let replicas: Vec<Script> = (0..4).map(|_| good()).collect();
    let names = ["r0", "r1", "r2", "r3"];
    let all: Vec<_> = names
        .iter()
        .zip(&replicas)
        .map(|(name, replica)| (*name, replica.url(), "kind = \"engine\""))
        .collect();
    let gateway = start(&all, "");
    let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for round in 0..3 {
        for run in 0..24 {
            let run = format!("run-{run}");
            let response = gateway.call(&[("x-paceline-run", &run)], chat(&format!("{round}"), ""));
            homes.entry(run).or_default().insert(named(&response));
        }
    }
    assert!(homes.values().all(|replicas| replicas.len() == 1), "{homes:?}");
    let used: BTreeSet<_> = homes.values().flatten().collect();
    assert!(used.len() >= 3, "24 runs live on {used:?} only");
    // Another gateway puts them into the same homes.
    let again = start(&all, "");
    for (run, home) in &homes {
        let response = again.call(&[("x-paceline-run", run)], chat("again", ""));
        assert_eq!(home.first(), Some(&named(&response)));
    }
}

#[test]
fn each_model_has_its_deployments() {
    let (a, b, c) = (good(), good(), good());
    let gateway = start(
        &[
            ("a", a.url(), "models = [\"small\", \"both\"]"),
            ("b", b.url(), "models = [\"large\", \"both\"]"),
        ],
        "",
    );
    let call =
        |model: &str| gateway.call(&[], format!("{{\"model\":\"{model}\",\"messages\":[]}}"));
    for _ in 0..10 {
        assert_eq!(named(&call("small")), "a");
        assert_eq!(named(&call("large")), "b");
    }
    let both: BTreeSet<_> = (0..100).map(|_| named(&call("both"))).collect();
    assert_eq!(both.len(), 2);
    assert_error(&call("other"), 404, "model_not_found");
    let any = start(&[("a", a.url(), "models = [\"small\"]"), ("c", c.url(), "")], "");
    let other = any.call(&[], "{\"model\":\"whatever\"}");
    assert_eq!(named(&other), "c");
}

#[test]
fn the_operators_key_goes_to_the_upstream() {
    let upstream = good();
    let more = "api_key = \"${UPSTREAM_KEY}\"";
    let config = deployment("up", upstream.url(), more);
    let serve = two_threads().config(&config).env("UPSTREAM_KEY", "sk-operator\n");
    let gateway = Gateway::start(serve);
    gateway.call(&[("authorization", "Bearer sk-client")], chat("a", ""));
    gateway.call(&[], chat("a", ""));
    for request in upstream.requests() {
        assert_eq!(request.headers("authorization"), ["Bearer sk-operator"]);
    }
    // A client's key for the gateway never leaves it.
    let keys = "[[keys]]\ntenant = \"t\"\nkey = \"key-of-the-tenant\"\n";
    let gateway = start(&[("up", upstream.url(), "")], keys);
    let headers = [("authorization", "Bearer key-of-the-tenant")];
    assert_eq!(gateway.call(&headers, chat("a", "")).status, 200);
    assert_eq!(upstream.requests()[2].headers("authorization"), [""; 0]);
    assert!(!gateway.log().contains("sk-"), "{}", gateway.log());
}

#[test]
fn a_bound_of_calls_holds() {
    let gate = testkit::Gate::new();
    let reply = Reply::new()
        .wait_for(&gate)
        .write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    let upstream = Script::new().otherwise(reply).start();
    let more = "calls_max = 2\ntimeouts = { slot_ms = 200 }";
    let config = deployment("up", upstream.url(), more);
    let serve = testkit::Paceline::serve().arg("--threads").arg("1").config(&config);
    let gateway = Gateway::start(serve);
    let calls = [gateway.begin(&[], chat("a", "")), gateway.begin(&[], chat("b", ""))];
    upstream.wait_for_requests(2);
    let refused = gateway.call(&[], chat("c", ""));
    assert_error(&refused, 503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(upstream.count(), 2);
    gate.open();
    for mut call in calls {
        assert_eq!(call.response().status, 200);
    }
    assert_eq!(gateway.call(&[], chat("d", "")).status, 200);
}
