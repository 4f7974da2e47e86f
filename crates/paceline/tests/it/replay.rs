//! Replays on the virtual clock: the same seed gives the same result.

use std::process::Command;

use serde_json::Value;
use testkit::tools;

const SESSIONS: &str = "bench/traces/claude_code_slice.jsonl.gz";
const ARRIVALS: &str = "bench/traces/mooncake_slice.jsonl.gz";

fn replay(trace: &str, arguments: &[&str]) -> String {
    let output = Command::new(tools::paceline())
        .args(["replay", "--json"])
        .arg(tools::repository().join(trace))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A report without what names its command.
fn measured(report: &str) -> Value {
    let mut report: Value = serde_json::from_str(report).unwrap();
    let meta = report.as_object_mut().unwrap().remove("meta").unwrap();
    assert_eq!(meta["simulated"], true);
    report
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let check = |trace: &str, arguments: &[&str]| {
        let with = |seed: &str| replay(trace, &[arguments, &["--seed", seed]].concat());
        let first = with("1");
        assert!(first == with("1"), "two replays of {trace} {arguments:?} differ");
        let other = with("2");
        assert_ne!(measured(&first), measured(&other), "the seed of {trace} changes nothing");
    };
    for arm in ["paceline", "fixed", "round-robin"] {
        check(SESSIONS, &["--sessions", "6", "--against", arm]);
        check(ARRIVALS, &["--calls", "150", "--against", arm]);
    }
}

#[test]
fn arms_and_seeds_are_compared() {
    let arguments =
        ["--sessions", "6", "--seeds", "2", "--against", "fixed", "--against", "paceline"];
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let report = ["--report", page.to_str().unwrap()];
    let compared: Value =
        serde_json::from_str(&replay(SESSIONS, &[&arguments[..], &report].concat())).unwrap();
    assert!(compared.to_string().contains("fixed"));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") || html.starts_with("<!DOCTYPE html>"));
    assert!(html.to_lowercase().contains("simulated") && html.trim_end().ends_with("</html>"));
    assert!(!html.contains("<script src") && !html.contains("http-equiv"), "it loads something");
}

#[test]
fn the_demo_runs_and_writes_its_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let output = Command::new(tools::paceline())
        .current_dir(folder.path())
        .args(["demo", "--seeds", "1", "--report"])
        .arg(&page)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.to_lowercase().contains("simulated"), "{text}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.len() > 10_000 && html.trim_end().ends_with("</html>"));
}
