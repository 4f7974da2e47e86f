//! A workload in which calls repeat, since those of agent sessions hardly ever do.

use std::time::Duration;

use fastrand::Rng;
use paceline_load::trace::{Agent, Kind, Run, Session, Trace, TraceCall};

const CALLS: usize = 1500;
const BLOCK_TOKENS: u32 = 64;

/// Sub-calls at temperature 0, such as classify, route and judge, that several agents make
/// on the same inputs: 300 different prompts drawn by Zipf's law, 5 a second; every tenth
/// arrival is a fan-out of eight equal calls at once.
pub(super) fn repeated_calls() -> Trace {
    let mut random = Rng::with_seed(7);
    let weights: Vec<f64> = (1..=300).map(|rank| 1.0 / f64::from(rank)).collect();
    let total: f64 = weights.iter().sum();
    let mut sessions = Vec::with_capacity(CALLS);
    let mut at = Duration::ZERO;
    while sessions.len() < CALLS {
        at += Duration::from_secs_f64(-0.2 * (1.0 - random.f64()).ln());
        let mut left = random.f64() * total;
        let past = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        let prompt = weights.iter().position(past).unwrap_or(0);
        let copies = if random.u8(0..10) == 0 { 8 } else { 1 };
        for _ in 0..copies {
            sessions.push(session(sessions.len(), prompt as u32, at));
        }
    }
    Trace {
        name: "synthetic_repeated_calls".to_owned(),
        sha256: "synthetic, made by the demo".to_owned(),
        kind: Kind::Open { tick: Duration::ZERO },
        block_tokens: BLOCK_TOKENS,
        sessions,
    }
}

fn session(number: usize, prompt: u32, at: Duration) -> Session {
    // Equal prompts are equal in length and in what is asked for.
    let blocks = 8 + prompt % 48;
    let call = TraceCall {
        at,
        think: Duration::ZERO,
        joins: Vec::new(),
        input_tokens: blocks * BLOCK_TOKENS,
        output_tokens: 20 + prompt % 100,
        blocks: vec![Run { start: u64::from(prompt) * 1000, blocks }],
    };
    let agent = Agent { name: None, after: None, delay: Duration::ZERO, calls: vec![call] };
    Session { id: number.to_string(), space: 0, system_tokens: 0, agents: vec![agent] }
}
