//! The simulated world: closed-loop agents, a gate with its queue, and a provider.
//!
//! Events are ordered by time and, within a time, by their number, so that a seed gives
//! the same run each time. Every agent draws its calls from a generator of its own, so
//! that all contenders face the same calls.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;

use super::gate::{Gate, Refused, Sent, Verdict};
use super::provider::{Provider, Shown, Size};
use super::scenario::{Others, Scenario};

/// One way through the network, in seconds.
const ONE_WAY_S: f64 = 0.025;

/// When a call that was not refused counts as accepted, in seconds.
const ACCEPTED_S: f64 = 1.0;

/// Longest wait in the queue, in seconds: the default deadline.
const DEADLINE_S: f64 = 600.0;

/// Largest call, as a multiple of the mean: it must fit into every limit.
const TOKENS_MAX: f64 = 5.0;

/// What happened to every call of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Times at which calls were admitted that had an answer.
    pub(crate) admitted: Vec<f64>,
    /// Times of all sends.
    pub(crate) sends: Vec<f64>,
    /// Times at which refused calls had been sent.
    pub(crate) refusals: Vec<f64>,
    /// Time from joining the queue to the send that succeeded, or to the end of the run.
    pub(crate) waits: Vec<f64>,
    /// Calls that failed.
    pub(crate) failed: u64,
    /// Answered calls by agent.
    pub(crate) by_agent: Vec<f64>,
    /// Lines of what the gate believed.
    pub(crate) trace: Vec<String>,
}

/// How calls meet the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Through a gate's queue.
    Gate,
    /// As a gate, which knows the provider's state, without the way there.
    Oracle,
    /// No gateway: each agent's SDK retries twice.
    Sdk,
}

#[derive(Debug)]
enum Event {
    Begin { agent: usize },
    Arrive { call: usize },
    Accepted { call: usize, send: u32 },
    Refused { call: usize, refused: Refused },
    Head { call: usize },
    End { call: usize },
    Answered { call: usize },
    Wake,
    Scale { by: f64 },
    Resend { call: usize },
    OtherBegin,
    OtherEnd { size: Size },
    Trace,
}

struct Call {
    agent: usize,
    size: Size,
    joined: f64,
    sent_at: f64,
    sends: u32,
    head_s: f64,
    reply_s: f64,
    shown: Vec<Shown>,
    known: bool,
}

struct World<'a> {
    scenario: &'a Scenario,
    provider: Provider,
    gate: &'a mut dyn Gate,
    mode: Mode,
    now: f64,
    number: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    calls: Vec<Call>,
    /// Waiting calls by their number, which is the order of their arrival.
    queue: BTreeMap<usize, ()>,
    agents: Vec<Rng>,
    rng: Rng,
    wake_at: f64,
    outcome: Outcome,
}

/// Runs a scenario to its end.
pub(crate) fn run(
    scenario: &Scenario,
    seed: u64,
    mode: Mode,
    gate: &mut dyn Gate,
    trace: bool,
) -> Outcome {
    let agents = (0..scenario.agents)
        .map(|agent| Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (agent as u64 + 1)))
        .collect();
    let mut world = World {
        scenario,
        provider: scenario.provider.clone(),
        gate,
        mode,
        now: 0.0,
        number: 0,
        events: BinaryHeap::new(),
        slots: Vec::new(),
        free: Vec::new(),
        calls: Vec::new(),
        queue: BTreeMap::new(),
        agents,
        rng: Rng::with_seed(seed ^ 0x5EED),
        wake_at: f64::INFINITY,
        outcome: Outcome { by_agent: vec![0.0; scenario.agents], ..Outcome::default() },
    };
    world.run(trace);
    world.outcome
}

impl World<'_> {
    fn run(&mut self, trace: bool) {
        for agent in 0..self.scenario.agents {
            let at = self.agents[agent].f64() * 2.0;
            self.at(at, Event::Begin { agent });
        }
        for &(at, by) in &self.scenario.changes {
            self.at(at, Event::Scale { by });
        }
        if self.scenario.others.is_some() {
            self.at(0.0, Event::OtherBegin);
        }
        if trace {
            self.at(0.0, Event::Trace);
        }
        let end_ns = (self.scenario.seconds * 1e9) as u64;
        while let Some(Reverse((at, _, slot))) = self.events.pop() {
            if at > end_ns {
                break;
            }
            self.now = at as f64 / 1e9;
            self.free.push(slot);
            if let Some(event) = self.slots[slot].take() {
                self.handle(event);
            }
        }
        let end = self.scenario.seconds;
        for call in self.queue.keys() {
            self.outcome.waits.push(end - self.calls[*call].joined);
        }
    }

    fn at(&mut self, at: f64, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.number += 1;
        self.events.push(Reverse(((at.max(self.now) * 1e9) as u64, self.number, slot)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Begin { agent } => self.begin(agent),
            Event::Arrive { call } => self.arrive(call),
            Event::Accepted { call, send } => {
                if self.calls[call].sends == send {
                    self.accepted(call);
                }
            }
            Event::Refused { call, refused } => self.refused(call, refused),
            Event::Head { call } => {
                self.accepted(call);
                let shown = std::mem::take(&mut self.calls[call].shown);
                if !shown.is_empty() {
                    let sent = self.sent(call);
                    self.gate.headers(self.now, sent, &shown);
                }
            }
            Event::End { call } => {
                let size = self.calls[call].size;
                self.provider.finish(self.now, size);
                let way = if self.mode == Mode::Oracle { 0.0 } else { ONE_WAY_S };
                self.at(self.now + way, Event::Answered { call });
            }
            Event::Answered { call } => self.answered(call),
            // One that an earlier one has replaced.
            Event::Wake if self.now < self.wake_at - 1e-9 => return,
            Event::Wake => self.wake_at = f64::INFINITY,
            Event::Scale { by } => self.provider.scale(self.now, by),
            Event::Resend { call } => self.send(call),
            Event::OtherBegin => self.other(),
            Event::OtherEnd { size } => self.provider.finish(self.now, size),
            Event::Trace => {
                let from = self.now - 1.0;
                let last = |times: &[f64]| times.len() - times.partition_point(|at| *at < from);
                let line = format!(
                    "{:6.1} sent {:3} admitted {:3} refused {:3} | {}",
                    self.now,
                    last(&self.outcome.sends),
                    last(&self.outcome.admitted),
                    last(&self.outcome.refusals),
                    self.gate.belief(self.now)
                );
                self.outcome.trace.push(line);
                self.at(self.now + 1.0, Event::Trace);
                return;
            }
        }
        self.pump();
    }

    fn begin(&mut self, agent: usize) {
        let shape = &self.scenario.shape;
        let rng = &mut self.agents[agent];
        let mut tokens =
            |mean: f64| lognormal(rng, mean, shape.tokens_cv).clamp(1.0, TOKENS_MAX * mean).round();
        let (prompt, output) = (tokens(shape.prompt), tokens(shape.output));
        let size = Size { prompt, output, output_max: (output * 2.0).max(shape.output).round() };
        let reply_s = lognormal(rng, shape.reply_s, shape.reply_cv).max(0.05);
        let head_s = if shape.streamed { (reply_s * 0.2).clamp(0.05, 1.5) } else { reply_s };
        let call = self.calls.len();
        self.calls.push(Call {
            agent,
            size,
            joined: self.now,
            sent_at: self.now,
            sends: 0,
            head_s: head_s.min(reply_s),
            reply_s,
            shown: Vec::new(),
            known: false,
        });
        if self.mode == Mode::Sdk {
            self.send(call);
        } else {
            self.queue.insert(call, ());
        }
    }

    /// Sends waiting calls while the gate lets them.
    fn pump(&mut self) {
        if self.mode == Mode::Sdk {
            return;
        }
        while let Some((&call, ())) = self.queue.first_key_value() {
            if self.now - self.calls[call].joined > DEADLINE_S {
                self.queue.remove(&call);
                self.fail(call);
                continue;
            }
            let size = self.calls[call].size;
            match self.gate.decide(self.now, size, &mut self.provider) {
                Verdict::Send => {
                    self.queue.remove(&call);
                    self.send(call);
                }
                Verdict::Wait(until) => {
                    if let Some(until) = until.filter(|until| *until < self.wake_at - 1e-9) {
                        self.wake_at = until.max(self.now + 1e-6);
                        self.at(self.wake_at, Event::Wake);
                    }
                    return;
                }
            }
        }
    }

    fn send(&mut self, call: usize) {
        self.calls[call].sent_at = self.now;
        self.calls[call].sends += 1;
        self.calls[call].known = false;
        self.outcome.sends.push(self.now);
        let sent = self.sent(call);
        self.gate.sent(self.now, sent);
        if self.mode == Mode::Oracle {
            self.arrive(call);
        } else {
            self.at(self.now + ONE_WAY_S, Event::Arrive { call });
            let send = self.calls[call].sends;
            self.at(self.now + ACCEPTED_S, Event::Accepted { call, send });
        }
    }

    fn arrive(&mut self, call: usize) {
        let Call { size, head_s, reply_s, .. } = self.calls[call];
        if self.provider.admit(self.now, size, &mut self.rng) {
            self.outcome.admitted.push(self.now);
            self.outcome.waits.push(self.calls[call].sent_at - self.calls[call].joined);
            self.calls[call].shown = self.provider.shown(self.now);
            self.at(self.now + head_s + ONE_WAY_S, Event::Head { call });
            self.at(self.now + reply_s, Event::End { call });
            return;
        }
        self.outcome.refusals.push(self.calls[call].sent_at);
        let retry_after_s = self.provider.retry_after_s(self.now, size);
        let refused = Refused { overloaded: self.provider.manners.overloaded, retry_after_s };
        if self.mode != Mode::Oracle {
            self.calls[call].shown = self.provider.shown(self.now);
        }
        let back = self.rng.f64() * 0.02 + ONE_WAY_S;
        self.at(self.now + back, Event::Refused { call, refused });
    }

    fn accepted(&mut self, call: usize) {
        if !std::mem::replace(&mut self.calls[call].known, true) {
            let sent = self.sent(call);
            self.gate.accepted(self.now, sent);
        }
    }

    fn refused(&mut self, call: usize, refused: Refused) {
        self.calls[call].known = true;
        let sent = self.sent(call);
        let shown = std::mem::take(&mut self.calls[call].shown);
        if !shown.is_empty() {
            self.gate.headers(self.now, sent, &shown);
        }
        self.gate.refused(self.now, sent, refused);
        if self.mode != Mode::Sdk {
            self.queue.insert(call, ());
            return;
        }
        let sends = self.calls[call].sends;
        if sends > 2 {
            self.fail(call);
            return;
        }
        // The SDKs of OpenAI and Anthropic: the hint up to a minute, else 0.5 s doubling
        // to 8 s, less up to a quarter.
        let agent = self.calls[call].agent;
        let jitter = 1.0 - 0.25 * self.agents[agent].f64();
        let wait = match refused.retry_after_s.filter(|s| *s > 0.0 && *s <= 60.0) {
            Some(s) => s,
            None => (0.5 * 2f64.powi(sends as i32 - 1)).min(8.0) * jitter,
        };
        self.at(self.now + wait, Event::Resend { call });
    }

    fn answered(&mut self, call: usize) {
        self.accepted(call);
        let sent = self.sent(call);
        self.gate.completed(self.now, sent);
        let agent = self.calls[call].agent;
        self.outcome.by_agent[agent] += 1.0;
        self.next(agent);
    }

    fn fail(&mut self, call: usize) {
        self.outcome.failed += 1;
        self.outcome.waits.push(self.now - self.calls[call].joined);
        self.next(self.calls[call].agent);
    }

    fn next(&mut self, agent: usize) {
        let think = lognormal(&mut self.agents[agent], self.scenario.shape.think_s, 1.0);
        let mut at = self.now + think;
        if let Some((from, to)) =
            self.scenario.pause.filter(|(from, to)| (*from..*to).contains(&at))
        {
            debug_assert!(from < to);
            at = to + self.agents[agent].f64();
        }
        self.at(at, Event::Begin { agent });
    }

    /// A call of another client of the same key.
    fn other(&mut self) {
        let Some(Others { per_s, swing_s }) = self.scenario.others else { return };
        // Slow waves between nothing and twice the mean.
        let wave = 1.0 + (self.now * std::f64::consts::TAU / swing_s).sin();
        let shape = &self.scenario.shape;
        let size =
            Size { prompt: shape.prompt, output: shape.output, output_max: shape.output * 2.0 };
        if self.rng.f64() * 2.0 < wave {
            self.provider.take(self.now, size);
            let reply = lognormal(&mut self.rng, shape.reply_s, shape.reply_cv);
            self.at(self.now + reply, Event::OtherEnd { size });
        }
        let gap = -(1.0 - self.rng.f64()).ln() / (per_s * 2.0);
        self.at(self.now + gap, Event::OtherBegin);
    }

    fn sent(&self, call: usize) -> Sent {
        Sent { call, size: self.calls[call].size, at: self.calls[call].sent_at }
    }
}

/// A lognormal number with this mean and this coefficient of variation.
fn lognormal(rng: &mut Rng, mean: f64, cv: f64) -> f64 {
    let variance = (1.0 + cv * cv).ln();
    let (u, v) = (1.0 - rng.f64(), rng.f64());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    mean * (variance.sqrt() * normal - variance / 2.0).exp()
}
