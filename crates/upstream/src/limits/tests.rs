//! The learner against small scripted providers, and against any outcomes at all.
//! `cargo xtask bench limits` has the large ones.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const COST: Cost = Cost { prompt: 1000, output_max: 500 };
const USED: Used = Used { prompt: 1000, output: 250 };

fn at(seconds: f64) -> Instant {
    Instant::from_nanos((seconds * 1e9) as u64)
}

fn refusal(retry_after_s: Option<f64>, dimension: Option<Dimension>) -> Refusal {
    let retry_after = retry_after_s.map(Duration::from_secs_f64);
    Refusal { class: Class::RateLimit, retry_after, dimension }
}

/// What a provider limits, from the calls it has admitted: their times and the number under
/// way.
type Limit = Box<dyn FnMut(f64, usize) -> bool>;

/// A provider for a queue that never runs empty.
struct World {
    limit: Limit,
    reply_s: f64,
    streamed: bool,
    retry_after_s: Option<f64>,
    /// From when on refusals name tokens.
    tokens_from: f64,
    learner: Learner,
    admitted: Vec<f64>,
    refused: Vec<f64>,
}

impl World {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            reply_s: 4.0,
            streamed: true,
            retry_after_s: None,
            tokens_from: f64::INFINITY,
            learner: Learner::default(),
            admitted: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Runs from `from` to `to`, in steps of 5 ms, which is also as exact as it gets.
    fn run(&mut self, from: f64, to: f64) {
        let mut open: VecDeque<(f64, Ticket, bool)> = VecDeque::new();
        let mut refused: VecDeque<(f64, Ticket)> = VecDeque::new();
        let steps = ((to - from) / 0.005) as u64;
        for step in 0..steps {
            let now = from + step as f64 * 0.005;
            while refused.front().is_some_and(|(at, _)| now >= at + 0.05) {
                let (_, ticket) = refused.pop_front().unwrap();
                let told = (now >= self.tokens_from).then_some(Dimension::TokensAdmitted);
                let refusal = refusal(self.retry_after_s, told);
                self.learner.refused(at(now), ticket, &refusal);
            }
            let head = if self.streamed { 0.5 } else { 1.0 };
            for (sent, ticket, known) in &mut open {
                if !*known && now >= *sent + head {
                    self.learner.accepted(at(now), ticket);
                    *known = true;
                }
            }
            open.retain(|(sent, ticket, _)| {
                // From half to one and a half times the mean, by the call's number.
                let share = 0.5 + (ticket.number * 7919 % 101) as f64 / 100.0;
                let is_open = now < sent + self.reply_s * share;
                if !is_open {
                    self.learner.completed(at(now), *ticket, USED);
                }
                is_open
            });
            let mut burst = 0;
            while self.learner.decide(at(now), COST) == Decision::Send && burst < 100 {
                burst += 1;
                let ticket = self.learner.sent(at(now), COST);
                if (self.limit)(now, open.len()) {
                    self.admitted.push(now);
                    open.push_back((now, ticket, false));
                } else {
                    self.refused.push(now);
                    refused.push_back((now, ticket));
                }
            }
        }
    }

    /// Checks calls a minute and the refused share, in per cent, after `from`.
    fn check(&self, from: f64, to: f64, per_min: f64, refused_max: f64) {
        let after = |times: &[f64]| times.iter().filter(|at| **at >= from).count() as f64;
        let (admitted, refused) = (after(&self.admitted), after(&self.refused));
        let found = admitted * 60.0 / (to - from);
        let share = 100.0 * refused / (admitted + refused).max(1.0);
        let believed = self.learner.explain(at(to));
        assert!(found >= 0.9 * per_min, "{found:.0}/min of {per_min}; {believed:?}");
        assert!(share <= refused_max, "{share:.1} % refused; {believed:?}");
    }
}

fn bucket(per_s: f64, depth: f64) -> Limit {
    let (mut level, mut last) = (depth, 0.0);
    Box::new(move |now, _| {
        level = f64::min(level + (now - last) * per_s, depth);
        last = now;
        let admits = level >= 1.0;
        level -= if admits { 1.0 } else { 0.0 };
        admits
    })
}

fn window(most: u32, period_s: f64, offset_s: f64) -> Limit {
    let (mut index, mut used) = (-1.0, 0);
    Box::new(move |now, _| {
        let current = ((now + offset_s) / period_s).floor();
        if current != index {
            (index, used) = (current, 0);
        }
        let admits = used < most;
        used += u32::from(admits);
        admits
    })
}

fn concurrency(most: usize) -> Limit {
    Box::new(move |_, running| running < most)
}

#[test]
fn a_bucket_is_learned() {
    let mut world = World::new(bucket(5.0, 10.0));
    world.run(0.0, 240.0);
    world.check(60.0, 240.0, 300.0, 2.0);
    let believed = world.learner.explain(at(240.0));
    assert_eq!((believed.kind, believed.cap), (Kind::Rate, None));
    let per_min = believed.rate.unwrap().per_min;
    assert!((280.0..320.0).contains(&per_min), "{per_min}");
}

#[test]
fn a_bucket_that_saves_nothing_is_learned() {
    let mut world = World::new(bucket(5.0, 1.0));
    world.run(0.0, 300.0);
    world.check(120.0, 300.0, 300.0, 5.0);
}

#[test]
fn a_slow_bucket_with_long_replies_is_no_cap() {
    let mut world = World::new(bucket(0.5, 5.0));
    (world.reply_s, world.streamed) = (30.0, false);
    world.run(0.0, 600.0);
    world.check(60.0, 600.0, 30.0, 4.0);
    assert_ne!(world.learner.explain(at(600.0)).cap, Some(1));
}

#[test]
fn an_unaligned_window_is_learned() {
    let mut world = World::new(window(120, 60.0, 17.0));
    world.run(0.0, 600.0);
    world.check(180.0, 600.0, 120.0 * 0.9, 3.0);
}

#[test]
fn concurrency_is_learned_as_a_cap() {
    let mut world = World::new(concurrency(8));
    world.run(0.0, 300.0);
    world.check(60.0, 300.0, 120.0, 2.0);
    let believed = world.learner.explain(at(300.0));
    assert_eq!(believed.kind, Kind::Concurrency, "{believed:?}");
    assert_eq!(believed.cap, Some(8));
}

#[test]
fn a_hint_that_lies_is_not_obeyed_for_ever() {
    for hint in [1.0, 60.0] {
        let mut world = World::new(bucket(5.0, 10.0));
        world.retry_after_s = Some(hint);
        world.run(0.0, 300.0);
        world.check(120.0, 300.0, 300.0, 2.0);
    }
}

#[test]
fn a_rate_goes_on_in_the_unit_that_a_refusal_names() {
    // All calls are of one size, so that a bucket of requests is one of tokens as well.
    let mut world = World::new(bucket(5.0, 60.0));
    world.tokens_from = 60.0;
    world.run(0.0, 240.0);
    world.check(60.0, 240.0, 300.0, 3.0);
    let rate = world.learner.explain(at(240.0)).rate.unwrap();
    assert_eq!(rate.dimension, Dimension::TokensAdmitted);
}

#[test]
fn a_limit_that_changes_is_followed() {
    let mut slow = bucket(2.5, 10.0);
    let mut fast = bucket(5.0, 10.0);
    let limit: Limit = Box::new(
        move |now, running| {
            if now < 200.0 { slow(now, running) } else { fast(now, running) }
        },
    );
    let mut world = World::new(limit);
    world.run(0.0, 400.0);
    world.check(60.0, 200.0, 150.0, 5.0);
    world.check(300.0, 400.0, 300.0, 4.0);
}

#[test]
fn a_cancelled_call_gives_its_credit_back() {
    let mut learner = Learner::default();
    for _ in 0..100 {
        assert_eq!(learner.decide(at(1.0), COST), Decision::Send);
        let ticket = learner.sent(at(1.0), COST);
        learner.lost(at(1.0), ticket);
    }
    assert_eq!(learner.explain(at(1.0)).in_flight, 0);
    // A canary that is cancelled must not hold the queue for ever.
    let ticket = learner.sent(at(1.0), COST);
    learner.refused(at(1.1), ticket, &refusal(None, None));
    assert!(matches!(learner.decide(at(1.1), COST), Decision::Wait { .. }));
    let canary = learner.sent(at(5.0), COST);
    learner.lost(at(5.01), canary);
    assert_eq!(learner.decide(at(5.02), COST), Decision::Send);
}

#[test]
fn headers_are_never_overdrawn() {
    let mut learner = Learner::default();
    let told =
        Bucket { limit: Some(60.0), remaining: Some(3.0), reset_s: Some(40.0), period_s: None };
    let mut ticket = learner.sent(at(1.0), COST);
    learner.accepted(at(1.1), &mut ticket);
    let headers = Headers { requests: Some(told), ..Headers::default() };
    learner.headers(at(1.1), &ticket, &headers);
    let mut sent = 0;
    while learner.decide(at(1.2), COST) == Decision::Send {
        learner.sent(at(1.2), COST);
        sent += 1;
    }
    assert_eq!(sent, 3);
    assert!(matches!(learner.decide(at(1.3), COST), Decision::Wait { why: Why::Headers, .. }));
}

#[test]
fn beliefs_are_plain_values() {
    let mut world = World::new(bucket(5.0, 10.0));
    world.run(0.0, 30.0);
    let json = serde_json::to_value(world.learner.explain(at(30.0))).unwrap();
    assert_eq!(json["kind"], "rate");
    assert_eq!(json["rate"]["dimension"], "requests");
    assert!(json["refusals"][0]["ago_s"].as_f64().unwrap() >= 0.0);
    assert!(json["reason"].as_str().unwrap().contains("requests a minute"));
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Wait(f64),
    Send { prompt: u32 },
    Accept(usize),
    Complete(usize),
    Refuse(usize, Option<f64>),
    Lose(usize),
    Tell(usize, f64, f64, f64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0.0..20.0).prop_map(Step::Wait),
        (0.0..0.5).prop_map(Step::Wait),
        (0u32..200_000).prop_map(|prompt| Step::Send { prompt }),
        (1u32..2_000).prop_map(|prompt| Step::Send { prompt }),
        any::<usize>().prop_map(Step::Accept),
        any::<usize>().prop_map(Step::Complete),
        (any::<usize>(), prop::option::of(0.0..90.0)).prop_map(|(at, hint)| Step::Refuse(at, hint)),
        any::<usize>().prop_map(Step::Lose),
        (any::<usize>(), 0.0..1e6, 0.0..1e6, 0.0..90.0)
            .prop_map(|(at, limit, left, reset)| Step::Tell(at, limit, left, reset)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, the rate stays above nothing and finite, and once calls pass
    /// again, every call goes within minutes.
    #[test]
    fn any_outcomes_leave_it_alive(steps in prop::collection::vec(step(), 1..400)) {
        let mut learner = Learner::default();
        let mut now = 0.0;
        let mut open: Vec<Ticket> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Send { prompt } => {
                    let cost = Cost { prompt, output_max: 1000 };
                    if learner.decide(at(now), cost) == Decision::Send {
                        open.push(learner.sent(at(now), cost));
                    }
                }
                _ if open.is_empty() => {}
                Step::Accept(index) => {
                    let index = index % open.len();
                    learner.accepted(at(now), &mut open[index]);
                }
                Step::Complete(index) => {
                    let ticket = open.swap_remove(index % open.len());
                    learner.completed(at(now), ticket, Used { prompt: 10, output: 2000 });
                }
                Step::Refuse(index, hint) => {
                    let ticket = open.swap_remove(index % open.len());
                    learner.refused(at(now), ticket, &refusal(hint, None));
                }
                Step::Lose(index) => {
                    let ticket = open.swap_remove(index % open.len());
                    learner.lost(at(now), ticket);
                }
                Step::Tell(index, limit, left, reset) => {
                    let told = Bucket {
                        limit: Some(limit),
                        remaining: Some(left),
                        reset_s: Some(reset),
                        period_s: None,
                    };
                    let headers = Headers { requests: Some(told), ..Headers::default() };
                    let index = index % open.len();
                    learner.headers(at(now), &open[index], &headers);
                }
            }
            if let Some(rate) = learner.explain(at(now)).rate {
                prop_assert!(rate.per_min > 0.0 && rate.per_min.is_finite());
            }
        }
        for ticket in open.drain(..) {
            learner.completed(at(now), ticket, USED);
        }
        // From here on everything passes, so nothing may stall.
        for _ in 0..20 {
            let asked = now;
            loop {
                match learner.decide(at(now), COST) {
                    Decision::Send => break,
                    Decision::Wait { until, why } => {
                        let until = until.map(Instant::as_secs_f64);
                        prop_assert!(until.is_some(), "nothing is under way, and {why:?} waits");
                        now = until.unwrap().max(now + 0.001);
                    }
                }
                prop_assert!(now - asked < 900.0, "{:?}", learner.explain(at(now)));
            }
            let mut ticket = learner.sent(at(now), COST);
            now += 0.3;
            learner.accepted(at(now), &mut ticket);
            learner.completed(at(now), ticket, USED);
        }
    }
}
