//! What is no call: models, health, readiness, metrics.

use std::collections::BTreeSet;

use serde_json::Value;
use testkit::http::{self, Response};
use testkit::{Paceline, Reply, Script};

use crate::support::{
    Gateway, answer, assert_error, chat, deployment, refusing_url, samples, two_threads,
};

fn list(ids: &[&str]) -> Reply {
    let models: Vec<Value> = ids
        .iter()
        .map(|id| serde_json::json!({"id": id, "object": "model", "created": 7, "owned_by": "x", "extra": [1]}))
        .collect();
    Reply::json(200, &serde_json::json!({"object": "list", "data": models}).to_string())
}

fn ids(response: &Response) -> Vec<String> {
    assert_eq!(response.status, 200, "{}", response.text());
    let list: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(list["object"], "list");
    let data = list["data"].as_array().unwrap();
    data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn models_are_those_of_the_configuration_and_of_the_upstreams() {
    let a = Script::new().otherwise(list(&["m1", "m2"])).start();
    let b = Script::new().otherwise(list(&["m2", "org/m3"])).start();
    let config = [
        deployment("a", a.url(), ""),
        deployment("b", b.url(), ""),
        deployment("c", &refusing_url(), "models = [\"m4\"]"),
    ]
    .concat();
    let gateway = Gateway::start(two_threads().config(&config));
    let all = http::get(&gateway.at("/v1/models"));
    assert_eq!(ids(&all), ["m1", "m2", "org/m3", "m4"]);
    assert_eq!(ids(&http::get(&gateway.at("/r/run-1/v1/models"))), ids(&all));
    let one = http::get(&gateway.at("/v1/models/org/m3"));
    let model: Value = serde_json::from_slice(&one.body).unwrap();
    assert_eq!((one.status, &model["id"], &model["extra"][0]), (200, &"org/m3".into(), &1.into()));
    let configured = http::get(&gateway.at("/v1/models/m4"));
    assert_eq!(serde_json::from_slice::<Value>(&configured.body).unwrap()["owned_by"], "c");
    let none = http::get(&gateway.at("/v1/models/m5"));
    assert_error(&none, 404, "model_not_found");
    let request = &a.requests()[0];
    assert_eq!(request.line(), "GET /v1/models HTTP/1.1");
}

#[test]
fn one_upstream_that_lists_nothing_hides_no_other() {
    let b = Script::new().otherwise(list(&["m1"])).start();
    let check = |a: &str, expected: &[&str]| {
        let config = deployment("a", a, "") + &deployment("b", b.url(), "");
        let gateway = Gateway::start(two_threads().config(&config));
        assert_eq!(ids(&http::get(&gateway.at("/v1/models"))), expected);
    };
    check(&refusing_url(), &["m1"]);
    for reply in [Reply::json(500, "{}"), Reply::json(200, "[]"), Reply::new().close()] {
        let a = Script::new().otherwise(reply).start();
        check(a.url(), &["m1"]);
    }
    let alone = Gateway::configured(&refusing_url(), "");
    assert_error(&http::get(&alone.at("/v1/models")), 502, "upstream_unreachable");
}

#[test]
fn a_list_of_models_needs_a_key_where_there_are_keys() {
    let upstream = Script::new().otherwise(list(&["m1"])).start();
    let keys = "[[keys]]\ntenant = \"t\"\nkey = \"${TENANT_KEY}\"\n";
    let config = deployment("a", upstream.url(), "") + keys;
    let serve = two_threads().config(&config).env("TENANT_KEY", "key-of-the-tenant");
    let gateway = Gateway::start(serve);
    let get = |path: &str, key: Option<&str>| {
        let header = key.map(|key| ("authorization", key));
        let headers: Vec<_> = header.into_iter().collect();
        http::request("GET", &gateway.at(path), &headers, b"")
    };
    for wrong in [
        None,
        Some("Bearer wrong-key-of-all"),
        Some("Basic key-of-the-tenant"),
        Some("Bearer "),
        Some("key-of-the-tenant"),
    ] {
        assert_error(&get("/v1/models", wrong), 401, "invalid_api_key");
        assert_error(&get("/v1/models/m1", wrong), 401, "invalid_api_key");
        let headers: Vec<_> = wrong.map(|key| ("authorization", key)).into_iter().collect();
        assert_error(&gateway.call(&headers, chat("a", "")), 401, "invalid_api_key");
    }
    assert_eq!(upstream.count(), 0);
    for right in ["Bearer key-of-the-tenant", "bearer  key-of-the-tenant "] {
        assert_eq!(ids(&get("/v1/models", Some(right))), ["m1"]);
    }
    assert_eq!(upstream.requests()[0].headers("authorization"), [""; 0]);
    // What watches the process has no key.
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(get(path, None).status, 200, "{path}");
    }
}

#[test]
fn health_and_readiness() {
    let upstream = Script::new().otherwise(Reply::json(500, "{}")).start();
    let config =
        deployment("a", upstream.url(), "") + "[health]\nfailures_max = 1\nopen_ms = 60000\n";
    let gateway = Gateway::start(two_threads().config(&config));
    let check = |path: &str, status: u16, text: &str| {
        let response = http::get(&gateway.at(path));
        assert_eq!((response.status, response.text().as_str()), (status, text));
        assert_eq!(response.header("content-type"), Some("application/json"));
        let head = http::request("HEAD", &gateway.at(path), &[], b"");
        assert_eq!((head.status, head.body.len()), (status, 0));
    };
    check("/health", 200, r#"{"status":"ok"}"#);
    check("/ready", 200, r#"{"status":"ready"}"#);
    gateway.call(&[], chat("a", ""));
    check("/health", 200, r#"{"status":"ok"}"#);
    check("/ready", 503, r#"{"status":"every deployment is failing"}"#);
}

/// Checks a page of metrics line by line, as OpenMetrics has it.
fn assert_open_metrics(text: &str) {
    assert!(text.ends_with("# EOF\n"));
    let mut families = BTreeSet::new();
    let mut family: Option<(String, String)> = None;
    for line in text.lines().take_while(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty() && name.starts_with("paceline_"), "{line}");
                assert!(families.insert(name.to_owned()), "two families {name}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                family = Some((name.to_owned(), kind.to_owned()));
            }
            ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
            _ => {
                let (name, kind) = family.as_ref().unwrap_or_else(|| panic!("no TYPE: {line}"));
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let (sample, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                let suffix = sample.strip_prefix(name.as_str()).unwrap_or_else(|| panic!("{line}"));
                let suffixes: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    _ => &["_bucket", "_sum", "_count"],
                };
                assert!(suffixes.contains(&suffix), "{line}");
                let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
                for label in labels.split(',').filter(|label| !label.is_empty()) {
                    let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
                    assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
                    assert!(
                        value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                        "{line}"
                    );
                }
            }
        }
    }
    let distinct = samples(text.trim_end_matches("# EOF\n")).len();
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(distinct, lines, "a sample stands there twice");
}

#[test]
fn metrics_are_valid_and_their_labels_bounded() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("x"))).start();
    let gateway = Gateway::before(&upstream);
    let page = || {
        let response = http::get(&gateway.at("/metrics"));
        let kind = response.header("content-type").unwrap();
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        response.text()
    };
    let names = |page: &str| samples(page).into_keys().collect::<BTreeSet<_>>();
    let before = page();
    assert_open_metrics(&before);
    for n in 0..50 {
        let body = format!("{{\"model\":\"unknown-{n}\",\"temperature\":0,\"user\":\"u{n}\"}}");
        let run = format!("run-{n}");
        let headers =
            [("x-paceline-run", &*run), ("x-paceline-agent", &*run), ("authorization", &*run)];
        gateway.call(&headers, &body);
        http::get(&gateway.at(&format!("/nowhere-{n}")));
    }
    let after = page();
    assert_open_metrics(&after);
    assert_eq!(names(&before), names(&after), "a client made a label");
    let of = |sample: &str| samples(&after).get(sample).copied();
    assert_eq!(of(r#"paceline_requests_total{outcome="answered"}"#), Some(50.0));
    assert_eq!(of(r#"paceline_cache_requests_total{result="miss"}"#), Some(50.0));
    assert_eq!(of(r#"paceline_request_duration_seconds_count{upstream="upstream"}"#), Some(50.0));
}

#[test]
fn tokens_are_counted_as_the_upstream_reports_them() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("x"))).start();
    let gateway = Gateway::before(&upstream);
    for _ in 0..3 {
        gateway.call(&[], chat("a", ",\"temperature\":0"));
    }
    let tokens = |upstream: &str, kind: &str| {
        let metrics = gateway.metrics();
        let label = format!("upstream=\"{upstream}\"");
        let kind = format!("kind=\"{kind}\"");
        let found = metrics.into_iter().find(|(name, _)| {
            name.starts_with("paceline_tokens_total")
                && name.contains(&label)
                && name.contains(&kind)
        });
        found.unwrap().1
    };
    assert_eq!((tokens("upstream", "input"), tokens("upstream", "output")), (5.0, 2.0));
    assert_eq!((tokens("kept", "input"), tokens("kept", "output")), (10.0, 4.0));
}

#[test]
fn without_an_upstream_a_simulated_engine_answers_and_says_so() {
    let gateway = Gateway::start(Paceline::serve().arg("--threads").arg("1"));
    assert!(gateway.log().contains("SIMULATED"));
    let models = http::get(&gateway.at("/v1/models"));
    let list: Value = serde_json::from_slice(&models.body).unwrap();
    assert_eq!(list["data"][0]["owned_by"], "paceline-sim");
    assert!(list["data"][0]["description"].as_str().unwrap().contains("simulated"));
    let response = gateway.call(&[], chat("hello", ",\"max_tokens\":5"));
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.header("x-paceline-warning").unwrap().contains("simulated"));
}
