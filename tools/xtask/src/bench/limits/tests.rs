//! Small runs of the benchmark: the scenarios that catch a bad learner, and the method
//! itself.

use paceline_upstream::limits::Rules;

use super::contenders::{Open, Oracle};
use super::measure::{self, Figures};
use super::ours::Ours;
use super::scenario::{self, Scenario};
use super::world::{self, Mode};

fn named(group: &str, name: &str) -> Scenario {
    let found = scenario::named().into_iter();
    let mut found = found.filter(|scenario| scenario.group == group && scenario.name == name);
    found.next().unwrap_or_else(|| panic!("no scenario {group}: {name}"))
}

fn measured(scenario: &Scenario) -> Figures {
    let ideal = world::run(scenario, 1, Mode::Oracle, &mut Oracle, false);
    let mut ours = Ours::new(Rules::default());
    let outcome = world::run(scenario, 1, Mode::Gate, &mut ours, false);
    measure::figures(scenario, &outcome, &ideal)
}

/// Bars a little below what is measured, so that only a broken rule fails.
fn check(group: &str, name: &str, throughput: f64, refused: f64) {
    let figures = measured(&named(group, name));
    assert!(figures.throughput >= throughput, "{group}, {name}: {figures:?}");
    assert!(figures.refused <= refused, "{group}, {name}: {figures:?}");
    assert!(figures.failed == 0.0 && figures.jain >= 0.98, "{group}, {name}: {figures:?}");
}

#[test]
fn buckets() {
    check("request buckets", "300/min, depth 10", 0.95, 2.0);
    check("request buckets", "300/min, depth 20, unstreamed 30 s", 0.95, 2.0);
    check("30 requests/min", "depth 5, unstreamed 30 s", 0.93, 3.5);
}

#[test]
fn windows() {
    check("windows, rolling", "minute, 300, unaligned", 0.85, 2.0);
    check("windows, rolling", "rolling minute, 60", 0.85, 4.0);
}

#[test]
fn tokens_with_a_variation_of_one() {
    check("tokens/min", "at admission, 240 calls, depth 20", 0.93, 3.0);
}

#[test]
fn concurrency() {
    check("concurrency", "20, 5 s", 0.93, 2.0);
    check("concurrency changes", "20, 5 s", 0.88, 2.5);
}

#[test]
fn hints_that_lie() {
    check("Retry-After lies", "bucket, always 60", 0.9, 2.5);
    check("Retry-After lies", "bucket, always 1", 0.9, 2.5);
}

#[test]
fn limits_that_change() {
    let figures = measured(&named("bucket changes", "300/min, depth 10"));
    assert!(figures.halved_s.unwrap() <= 30.0 && figures.doubled_s.unwrap() <= 60.0, "{figures:?}");
}

#[test]
fn headers_leave_nothing_to_refuse() {
    check("headers", "bucket, 300/min, depth 300", 0.98, 0.0);
    check("headers", "minute window, 300", 0.98, 0.0);
    check("headers", "requests and tokens", 0.98, 0.0);
}

#[test]
fn random_refusals_do_not_drift() {
    check("random refusals", "bucket 300/min, 2 %", 0.85, 5.0);
}

#[test]
fn an_idle_time_does_no_harm() {
    check("idle, then burst", "300/min, depth 30", 0.93, 2.0);
}

#[test]
fn the_oracle_is_never_refused_and_a_seed_gives_the_same_run() {
    let scenario = named("two limits", "requests, tokens alike");
    let first = world::run(&scenario, 7, Mode::Oracle, &mut Oracle, false);
    let second = world::run(&scenario, 7, Mode::Oracle, &mut Oracle, false);
    assert!(first.refusals.is_empty());
    assert_eq!(first.admitted, second.admitted);
    assert_eq!(first.by_agent, second.by_agent);
}

#[test]
fn without_a_gateway_most_calls_fail() {
    let scenario = named("request buckets", "300/min, depth 10");
    let outcome = world::run(&scenario, 1, Mode::Sdk, &mut Open, false);
    assert!(outcome.failed as f64 > 0.5 * outcome.waits.len() as f64);
}
