//! The cost of a decision of the limits' learner:
//! `cargo run --release -p paceline-upstream --example limits_cost`.
//!
//! A counting allocator shows that nothing is allocated once the learner is warm.

#![expect(unsafe_code, reason = "a global allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant as Wall;

use paceline_core::Instant;
use paceline_upstream::limits::{
    Bucket, Class, Cost, Decision, Headers, Learner, Refusal, Ticket, Used,
};

const CALLS: u64 = 1_000_000;
const COST: Cost = Cost { prompt: 1_000, output_max: 500 };
const USED: Used = Used { prompt: 1_000, output: 250 };
const REFUSAL: Refusal = Refusal { class: Class::RateLimit, retry_after: None, dimension: None };

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: both functions hand their arguments to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() {
    println!("{:<34} {:>8} {:>12}", "", "ns", "allocations");
    report("a decision that waits", || {
        let (mut learner, now) = warm(false);
        let mut waits = 0;
        let measured = measure(|call| {
            waits += u64::from(learner.decide(after(now, call), COST) != Decision::Send);
        });
        assert!(waits > CALLS / 2, "{waits} waited");
        measured
    });
    report("a call: decide, send, accept, end", || cycle(false));
    report("the same with headers", || cycle(true));
}

/// A learner that believes in a rate, and the time.
fn warm(with_headers: bool) -> (Learner, f64) {
    let mut learner = Learner::default();
    let (mut now, mut level) = (0.0, 10.0);
    for _ in 0..20_000 {
        now += 0.01;
        level = f64::min(level + 0.05, 10.0);
        if learner.decide(at(now), COST) == Decision::Send {
            let ticket = learner.sent(at(now), COST);
            if level >= 1.0 {
                level -= 1.0;
                finish(&mut learner, now, ticket, with_headers);
            } else {
                learner.refused(at(now + 0.05), ticket, &REFUSAL);
            }
        }
    }
    (learner, now)
}

fn cycle(with_headers: bool) -> (f64, u64) {
    let (mut learner, now) = warm(with_headers);
    let mut sent = 0;
    let measured = measure(|call| {
        let now = now + call as f64 * 0.25;
        if learner.decide(at(now), COST) == Decision::Send {
            sent += 1;
            let ticket = learner.sent(at(now), COST);
            finish(&mut learner, now, ticket, with_headers);
        }
    });
    assert!(sent > CALLS / 2, "{sent} sent");
    measured
}

fn finish(learner: &mut Learner, now: f64, mut ticket: Ticket, with_headers: bool) {
    learner.accepted(at(now + 0.001), &mut ticket);
    if with_headers {
        let told = |limit| {
            let (limit, remaining) = (Some(limit), Some(limit / 3.0));
            Some(Bucket { limit, remaining, reset_s: Some(40.0), period_s: None })
        };
        let headers =
            Headers { requests: told(300.0), tokens: told(450_000.0), ..Headers::default() };
        learner.headers(at(now + 0.001), &ticket, &headers);
    }
    learner.completed(at(now + 0.002), ticket, USED);
}

/// Nanoseconds and allocations of one step, in the mean.
fn measure(mut step: impl FnMut(u64)) -> (f64, u64) {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let started = Wall::now();
    for call in 0..CALLS {
        step(call);
    }
    let ns = started.elapsed().as_nanos() as f64 / CALLS as f64;
    (ns, ALLOCATIONS.load(Ordering::Relaxed) - before)
}

/// Runs it three times and shows the fastest.
fn report(name: &str, run: impl Fn() -> (f64, u64)) {
    let runs = [run(), run(), run()];
    let ns = runs.iter().map(|run| run.0).fold(f64::INFINITY, f64::min);
    let allocations = runs.iter().map(|run| run.1).max().unwrap_or(0);
    println!("{name:<34} {ns:>8.0} {allocations:>12}");
}

fn at(seconds: f64) -> Instant {
    Instant::from_nanos((seconds * 1e9) as u64)
}

fn after(now: f64, call: u64) -> Instant {
    Instant::from_nanos((now * 1e9) as u64 + call)
}
