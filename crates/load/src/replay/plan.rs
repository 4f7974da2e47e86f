//! What a seed draws.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;

use crate::trace::{Kind, Session, Trace};

use super::Config;

/// The sessions of a replay, drawn before it starts: the same for every target.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order in which they start.
    pub items: Vec<Item>,
    /// Their calls.
    pub calls: usize,
    /// Sessions that are active at once; without meaning for open arrivals.
    pub active: usize,
}

/// One session of a plan.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it does.
    pub session: Session,
    /// The name of its run: the session's with the seed, so that replays against one gateway
    /// never share a run.
    pub run: String,
    /// The run's number in the plan, from 0: open arrivals of one conversation share it.
    pub number: usize,
    /// When it starts, since the start of the replay. In closed loop this holds for the
    /// first sessions; the others start when one ends.
    pub at: Duration,
}

impl Plan {
    /// Draws sessions of a trace.
    pub fn draw(trace: &Trace, config: &Config) -> Self {
        let mut random = Rng::with_seed(config.seed);
        let (items, active) = match trace.kind {
            Kind::Closed => closed(trace, config, &mut random),
            Kind::Open { tick } => (open(trace, config, tick, &mut random), 0),
        };
        let calls = items.iter().map(|item| item.session.calls()).sum();
        Self { items, calls, active }
    }
}

fn closed(trace: &Trace, config: &Config, random: &mut Rng) -> (Vec<Item>, usize) {
    let mut order: Vec<_> = (0..trace.sessions.len()).collect();
    random.shuffle(&mut order);
    order.truncate(config.sessions_max.unwrap_or(usize::MAX));
    let mut left = config.calls_max.unwrap_or(usize::MAX);
    let mut items = Vec::new();
    for index in order {
        let mut session = trace.sessions[index].clone();
        if session.calls() > left {
            session.keep_first(left);
        }
        // Calls that share a time stamp go together, so nothing may be left.
        if session.calls() == 0 {
            break;
        }
        left = left.saturating_sub(session.calls());
        items.push(Item {
            run: run(&session.id, config.seed),
            number: items.len(),
            session,
            at: Duration::ZERO,
        });
    }
    let active = config.active.clamp(1, items.len().max(1));
    let mut offsets: Vec<_> =
        (0..active).map(|_| config.start_spread.mul_f64(random.f64())).collect();
    offsets.sort_unstable();
    for (item, at) in items.iter_mut().zip(offsets) {
        item.at = at;
    }
    (items, active)
}

fn open(trace: &Trace, config: &Config, tick: Duration, random: &mut Rng) -> Vec<Item> {
    let count = config.calls_max.unwrap_or(usize::MAX).min(trace.sessions.len());
    let first = random.usize(..=trace.sessions.len() - count);
    let window = &trace.sessions[first..first + count];
    let arrival = |session: &Session| session.agents[0].calls[0].at;
    let origin = window.first().map(arrival).unwrap_or_default();
    let mut items: Vec<_> = window
        .iter()
        .map(|session| {
            let spread =
                if config.spread_ticks { tick.mul_f64(random.f64()) } else { Duration::ZERO };
            let at = (arrival(session) - origin + spread).div_f64(config.rate.max(1e-6));
            Item { run: run(&session.id, config.seed), number: 0, session: session.clone(), at }
        })
        .collect();
    items.sort_by_key(|item| item.at);
    let mut numbers = HashMap::new();
    for item in &mut items {
        let next = numbers.len();
        item.number = *numbers.entry(item.session.id.clone()).or_insert(next);
    }
    items
}

/// A name that a run may have: at most 128 printable ASCII characters.
fn run(id: &str, seed: u64) -> String {
    let id: String =
        id.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).take(96).collect();
    format!("{id}.{seed}")
}
