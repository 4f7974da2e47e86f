//! The run that a call belongs to: how a client names it, and what comes back.

use testkit::http::Response;
use testkit::{Reply, Script};

use crate::support::{CHAT, Gateway, answer, assert_error, chat, error_of};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn start() -> (Gateway, Script) {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("x"))).start();
    (Gateway::before(&upstream), upstream)
}

fn run_of(response: &Response) -> &str {
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.header("x-paceline-call").is_some_and(|call| call.starts_with("call_")));
    let time = response.header("x-process-time-ms").unwrap();
    assert!(time.parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{time}");
    response.header("x-paceline-run").unwrap()
}

#[test]
fn a_run_is_named_in_any_of_these_ways() {
    let (gateway, _upstream) = start();
    let check = |path: &str, headers: &[(&str, &str)], more: &str, expected: &str| {
        let response = testkit::http::post(&gateway.at(path), headers, chat("a", more));
        assert_eq!(run_of(&response), expected, "{path} {headers:?} {more}");
    };
    let trace = format!("00-{TRACE}-{SPAN}-01");
    let trace = ("traceparent", trace.as_str());
    let by_trace = format!("trace_{TRACE}");
    let baggage = ("baggage", "a=b, paceline.run = by-baggage;ttl=3,paceline.agent=x");
    let header = ("x-paceline-run", "by-header");
    let metadata = r#","metadata":{"paceline_run":"by-metadata","paceline_agent":"x","other":"y"}"#;
    let prefixed = format!("/r/by-path{CHAT}");
    check(CHAT, &[header], "", "by-header");
    check(&prefixed, &[], "", "by-path");
    check(CHAT, &[], metadata, "by-metadata");
    check(CHAT, &[baggage], "", "by-baggage");
    check(CHAT, &[trace], "", &by_trace);
    // What is nearer to the call comes first.
    check(&prefixed, &[header, baggage, trace], metadata, "by-header");
    check(&prefixed, &[baggage, trace], metadata, "by-path");
    check(CHAT, &[baggage, trace], metadata, "by-metadata");
    check(CHAT, &[trace, baggage], "", "by-baggage");
    // Unusual, and valid.
    check(CHAT, &[("x-paceline-run", "job:42/α".trim_end_matches('α'))], "", "job:42/");
    check(CHAT, &[("x-paceline-run", &"x".repeat(128))], "", &"x".repeat(128));
    check(CHAT, &[], r#","metadata":{"paceline_run":"\u0062y-escape"}"#, "by-escape");
}

#[test]
fn a_call_without_a_run_gets_one_of_its_own() {
    let (gateway, _upstream) = start();
    let fresh = |headers: &[(&str, &str)], more: &str| {
        let response = gateway.call(headers, chat("a", more));
        let run = run_of(&response).to_owned();
        assert!(run.starts_with("run_") && run.len() == 28, "{run} {headers:?}");
        run
    };
    let mut runs = std::collections::BTreeSet::new();
    runs.insert(fresh(&[], ""));
    runs.insert(fresh(&[], ""));
    // What others write for themselves is passed over where it names no run.
    runs.insert(fresh(&[("baggage", "userId=alice,paceline.runs=x")], ""));
    runs.insert(fresh(&[("baggage", "paceline.run=")], ""));
    runs.insert(fresh(&[("traceparent", "00-zz-yy-01")], ""));
    let zeros = format!("00-{}-{SPAN}-01", "0".repeat(32));
    runs.insert(fresh(&[("traceparent", &zeros)], ""));
    runs.insert(fresh(&[], ",\"metadata\":{\"user\":\"x\"}"));
    runs.insert(fresh(&[], ",\"metadata\":null"));
    runs.insert(fresh(&[], ",\"metadata\":{\"paceline_run\":7}"));
    assert_eq!(runs.len(), 9);
}

#[test]
fn a_bad_name_is_refused_and_named() {
    let (gateway, upstream) = start();
    let long = "x".repeat(129);
    let check = |path: &str, headers: &[(&str, &str)], more: &str, param: &str| {
        let response = testkit::http::post(&gateway.at(path), headers, chat("a", more));
        assert_error(&response, 400, "invalid_request");
        assert_eq!(error_of(&response)["param"], param, "{path} {headers:?} {more}");
    };
    for header in ["x-paceline-run", "x-paceline-parent", "x-paceline-agent"] {
        for value in ["", "two words", &long, "\u{e4}"] {
            check(CHAT, &[(header, value)], "", header);
        }
    }
    for field in ["paceline_run", "paceline_parent", "paceline_agent"] {
        for value in ["", "two words", &long] {
            check(CHAT, &[], &format!(",\"metadata\":{{\"{field}\":\"{value}\"}}"), field);
        }
    }
    check(&format!("/r/{CHAT}"), &[], "", "run");
    check(&format!("/r/{long}{CHAT}"), &[], "", "run");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn the_names_of_a_run_stay_here() {
    let (gateway, upstream) = start();
    let headers = [
        ("x-paceline-run", "r"),
        ("x-paceline-parent", "p"),
        ("x-paceline-agent", "a"),
        ("baggage", "paceline.run=x,a=b"),
    ];
    let body = chat("a", ",\"metadata\":{\"paceline_run\":\"m\"}");
    assert_eq!(run_of(&gateway.call(&headers, &body)), "r");
    let request = &upstream.requests()[0];
    assert!(!request.head().to_lowercase().contains("x-paceline"), "{}", request.head());
    // What is the caller's own passes as it came.
    assert_eq!(request.header("baggage").as_deref(), Some("paceline.run=x,a=b"));
    assert_eq!(request.text(), body);
}

#[test]
fn errors_name_the_run_too() {
    let gateway = Gateway::configured(&crate::support::refusing_url(), "");
    let response = gateway.call(&[("x-paceline-run", "r")], chat("a", ""));
    assert_eq!(response.status, 502);
    assert_eq!(response.header("x-paceline-run"), Some("r"));
}
