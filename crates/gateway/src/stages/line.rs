//! The line of calls before the deployments of a model: who may go, and who waits.
//!
//! Each deployment has a gate with a learner of its hidden limits. As long as it has refused
//! nothing and shows no limits, its gate is open and costs one look. Where all gates are
//! closed, calls wait in one queue, and the deployment is chosen when one opens. A call that
//! was refused goes back to its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use paceline_core::{Call, Clock, Error, ErrorKind, Instant, Origin, Result, Retry};
use paceline_route::{Full, Lease, Queue, QueueConfig, Ticket, Waiting};
use paceline_telemetry::metrics::GaugeHold;
use paceline_telemetry::task;
use paceline_upstream::limits::{self, Beliefs, Cost, Decision, Learner, Refusal, Used};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::stages::routes::{Way, ask};

/// How calls wait where a provider's limits hold them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineConfig {
    /// Whether limits are learned, and calls held back, at all. Default: yes.
    pub learn: bool,
    /// The order and the bound of the queue.
    pub queue: QueueConfig,
    /// Longest wait of one call; its deadline may be sooner. Default: 10 min.
    pub wait_max: Duration,
    /// What happens to a call that finds the queue full.
    pub overflow: Overflow,
}

impl Default for LineConfig {
    fn default() -> Self {
        Self {
            learn: true,
            queue: QueueConfig::default(),
            wait_max: Duration::from_secs(600),
            overflow: Overflow::Refuse,
        }
    }
}

/// What happens to a call that finds the queue full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused, with the time after which there should be room.
    #[default]
    Refuse,
    /// The oldest call of the lowest priority is refused in its place, unless that is higher.
    Drop,
    /// It goes on to the next model of its route.
    Spill,
}

/// How a call comes to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// For the first time.
    First,
    /// It was refused, and keeps its place.
    Again,
    /// It may as well go to another model, and does not wait.
    Elsewhere,
}

/// The line before one pool.
pub(crate) struct Line {
    gates: Vec<Gate>,
    /// Some gate may be closed.
    active: AtomicBool,
    state: Mutex<State>,
    config: LineConfig,
    clock: Clock,
    metrics: Metrics,
}

struct Gate {
    active: AtomicBool,
    learner: Mutex<Learner>,
}

struct State {
    queue: Queue,
    waiters: HashMap<Ticket, Waiter>,
    /// When a task asks again, since a learner said to.
    asks_at: Option<Instant>,
    /// Mean time between calls that were let go, in ns; 0 when not known.
    pace_ns: u64,
    last_grant: Instant,
}

struct Waiter {
    call: Arc<Call>,
    way: Way,
    tried: u64,
    grant: oneshot::Sender<Granted>,
    _waiting: GaugeHold,
}

type Granted = Result<(Lease, Option<Pass>)>;

/// The right to have one call under way past a gate; tells its learner what became of it.
pub(crate) struct Pass {
    line: Arc<Line>,
    place: usize,
    ticket: Option<limits::Ticket>,
}

impl Line {
    pub(crate) fn new(
        places: usize,
        config: LineConfig,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let gate = || Gate { active: AtomicBool::new(false), learner: Mutex::default() };
        Arc::new(Self {
            gates: (0..places).map(|_| gate()).collect(),
            active: AtomicBool::new(false),
            state: Mutex::new(State {
                queue: Queue::new(config.queue),
                waiters: HashMap::new(),
                asks_at: None,
                pace_ns: 0,
                last_grant: Instant::default(),
            }),
            config,
            clock,
            metrics,
        })
    }

    /// A deployment for a call, at once or when one may take it. `None` when all of them
    /// were tried.
    ///
    /// # Errors
    /// When the queue is full, or the wait is over.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub(crate) async fn board(
        self: &Arc<Self>,
        call: &Arc<Call>,
        way: Way,
        tried: u64,
        turn: Turn,
    ) -> Result<Option<(Lease, Option<Pass>)>> {
        if !self.active.load(Ordering::Relaxed) {
            return Ok(way.lease(&ask(call), tried).map(|lease| (lease, None)));
        }
        let cost = cost(call);
        let mut receive = {
            let mut state = self.state.lock();
            let (closed, _) = self.closed(cost);
            if state.queue.is_empty() && (!closed & way.places() & !tried) != 0 {
                return Ok(self.pass(&way, call, tried | closed, cost));
            }
            if way.places() & !tried == 0 {
                return Ok(None);
            }
            if turn == Turn::Elsewhere {
                return Err(full(state.room_in(), Overflow::Spill));
            }
            self.enter(&mut state, call, way, tried, turn == Turn::Again)?
        };
        self.pump();
        let until = call.deadline.or_at(call.arrived.after(self.config.wait_max));
        let waited = self.clock.timeout_at(until, &mut receive).await;
        match waited {
            Some(Ok(granted)) => granted.map(Some),
            Some(Err(_)) => Err(over(call.deadline.0 == Some(until))),
            None => {
                // It may have been granted in this very moment.
                receive.close();
                match receive.try_recv() {
                    Ok(granted) => granted.map(Some),
                    Err(_) => Err(over(call.deadline.0 == Some(until))),
                }
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        state: &mut State,
        call: &Arc<Call>,
        way: Way,
        tried: u64,
        again: bool,
    ) -> Result<oneshot::Receiver<Granted>> {
        let waiting = waiting(call);
        let pushed = match state.queue.push(waiting, again) {
            Err(Full) if self.config.overflow == Overflow::Drop => {
                let least =
                    state.queue.least().filter(|(_, least)| least.priority <= waiting.priority);
                if let Some((ticket, _)) = least {
                    state.queue.remove(ticket);
                    let wait = state.room_in();
                    if let Some(waiter) = state.waiters.remove(&ticket) {
                        let _ = waiter.grant.send(Err(full(wait, Overflow::Drop)));
                    }
                }
                state.queue.push(waiting, again)
            }
            pushed => pushed,
        };
        let ticket = pushed.map_err(|Full| full(state.room_in(), self.config.overflow))?;
        let (grant, receive) = oneshot::channel();
        let held = self.metrics.waiting.hold();
        let waiter = Waiter { call: Arc::clone(call), way, tried, grant, _waiting: held };
        state.waiters.insert(ticket, waiter);
        Ok(receive)
    }

    /// Lets as many calls go as the gates allow.
    fn pump(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            let Some((ticket, waiting)) = state.queue.peek(now) else { return };
            let gone = state.waiters.get(&ticket).is_none_or(|waiter| waiter.grant.is_closed());
            if gone {
                state.queue.remove(ticket);
                state.waiters.remove(&ticket);
                continue;
            }
            let Some(waiter) = state.waiters.get(&ticket) else { continue };
            let (closed, until) = self.closed(cost(&waiter.call));
            let open = !closed & waiter.way.places() & !waiter.tried;
            if open == 0 {
                self.drive(&mut state, until);
                return;
            }
            state.queue.take(ticket);
            state.granted(now);
            let Some(waiter) = state.waiters.remove(&ticket) else { continue };
            let passed =
                self.pass(&waiter.way, &waiter.call, waiter.tried | closed, cost(&waiter.call));
            self.metrics.waited.record(now.since(waiting.arrived));
            if let Some(passed) = passed {
                // A caller that is gone gives its pass back as it drops.
                let _ = waiter.grant.send(Ok(passed));
            }
        }
    }

    /// Sees to it that somebody asks again at `until`.
    fn drive(self: &Arc<Self>, state: &mut State, until: Option<Instant>) {
        // Any event asks sooner; this is for silence.
        let until = until.unwrap_or_else(|| self.clock.now().after(Duration::from_secs(1)));
        if state.asks_at.is_some_and(|at| at <= until) {
            return;
        }
        state.asks_at = Some(until);
        let line = Arc::downgrade(self);
        let clock = self.clock.clone();
        task::spawn("gateway.line", async move {
            clock.sleep_until(until).await;
            if let Some(line) = line.upgrade() {
                {
                    let mut state = line.state.lock();
                    // Another one asks sooner, and has taken its place.
                    state.asks_at = state.asks_at.filter(|at| *at < until);
                }
                line.pump();
            }
        });
    }

    /// The places whose gates are closed to a call of this cost, and when to ask again.
    fn closed(&self, cost: Cost) -> (u64, Option<Instant>) {
        let now = self.clock.now();
        let (mut closed, mut soonest) = (0, None);
        for (place, gate) in self.gates.iter().enumerate() {
            if !gate.active.load(Ordering::Relaxed) {
                continue;
            }
            if let Decision::Wait { until, .. } = gate.learner.lock().decide(now, cost) {
                closed |= 1 << place;
                soonest = [soonest, until].into_iter().flatten().min();
            }
        }
        (closed, soonest)
    }

    fn pass(
        self: &Arc<Self>,
        way: &Way,
        call: &Call,
        tried: u64,
        cost: Cost,
    ) -> Option<(Lease, Option<Pass>)> {
        let lease = way.lease(&ask(call), tried)?;
        let gate = &self.gates[lease.index()];
        let pass = gate.active.load(Ordering::Relaxed).then(|| {
            let ticket = gate.learner.lock().sent(self.clock.now(), cost);
            Pass { line: Arc::clone(self), place: lease.index(), ticket: Some(ticket) }
        });
        Some((lease, pass))
    }

    /// An answer shows limits: from the first one on the learner of the place decides.
    pub(crate) fn shown(&self, place: usize, pass: Option<&Pass>, headers: &limits::Headers) {
        self.gates[place].active.store(true, Ordering::Relaxed);
        self.active.store(true, Ordering::Relaxed);
        if let Some(pass) = pass {
            pass.headers(headers);
        }
    }

    /// A provider refused a call. From the first refusal on the learner of the place decides.
    pub(crate) fn refused(&self, place: usize, pass: Option<Pass>, refusal: &Refusal) {
        let gate = &self.gates[place];
        let was_active = gate.active.swap(true, Ordering::Relaxed);
        self.active.store(true, Ordering::Relaxed);
        match pass {
            Some(pass) => pass.refused(refusal),
            // The others that were sent before there was a learner tell it nothing new.
            None if was_active => {}
            None => {
                let now = self.clock.now();
                let mut learner = gate.learner.lock();
                let ticket = learner.sent(now, Cost::default());
                learner.refused(now, ticket, refusal);
            }
        }
    }

    /// What is believed of each place whose gate is active, and how many calls wait.
    pub(crate) fn beliefs(&self) -> (usize, Vec<(usize, Beliefs)>) {
        let now = self.clock.now();
        let active =
            self.gates.iter().enumerate().filter(|(_, gate)| gate.active.load(Ordering::Relaxed));
        let beliefs = active.map(|(at, gate)| (at, gate.learner.lock().explain(now))).collect();
        (self.state.lock().queue.len(), beliefs)
    }
}

impl State {
    fn granted(&mut self, now: Instant) {
        let gap = u64::try_from(now.since(self.last_grant).as_nanos()).unwrap_or(u64::MAX);
        self.pace_ns = match (self.last_grant == Instant::default(), self.pace_ns) {
            (true, pace) => pace,
            (false, 0) => gap,
            (false, pace) => pace - pace / 8 + gap / 8,
        };
        self.last_grant = now;
    }

    /// After what time the calls that wait now should have gone.
    fn room_in(&self) -> Duration {
        let pace = if self.pace_ns == 0 { 1_000_000_000 } else { self.pace_ns };
        let wait = Duration::from_nanos(pace.saturating_mul(self.queue.len() as u64));
        wait.clamp(Duration::from_secs(1), Duration::from_secs(600))
    }
}

impl Pass {
    /// The first sign that the call was not refused.
    pub(crate) fn accepted(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            let now = self.line.clock.now();
            self.line.gates[self.place].learner.lock().accepted(now, ticket);
        }
        self.line.pump();
    }

    /// Notes the limits that an answer shows.
    fn headers(&self, headers: &limits::Headers) {
        if let Some(ticket) = &self.ticket {
            let now = self.line.clock.now();
            self.line.gates[self.place].learner.lock().headers(now, ticket, headers);
        }
    }

    /// The call ended with an answer.
    pub(crate) fn completed(mut self, used: Used) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.line.clock.now();
            self.line.gates[self.place].learner.lock().completed(now, ticket, used);
        }
    }

    /// The provider refused the call because of a limit.
    pub(crate) fn refused(mut self, refusal: &Refusal) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.line.clock.now();
            self.line.gates[self.place].learner.lock().refused(now, ticket, refusal);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.line.clock.now();
            self.line.gates[self.place].learner.lock().lost(now, ticket);
        }
        let line = Arc::clone(&self.line);
        // Not from here: a drop computes nothing, and the queue may be locked by who drops.
        let waits = line.state.try_lock().is_none_or(|state| !state.queue.is_empty());
        if waits {
            task::spawn("gateway.line_next", async move { line.pump() });
        }
    }
}

/// What a call will take: its bytes at four to a token, and the answer that it allows.
pub(crate) fn cost(call: &Call) -> Cost {
    let raw = &call.request;
    let limit = |name: &[u8]| {
        let member = raw.fields.members.iter().find(|member| raw.get(member.key) == name)?;
        std::str::from_utf8(raw.get(member.value)).ok()?.parse::<u32>().ok()
    };
    let names: [&[u8]; 3] = [b"max_completion_tokens", b"max_tokens", b"max_output_tokens"];
    let output_max = names.into_iter().find_map(limit).unwrap_or(OUTPUT_TOKENS_USUAL);
    Cost { prompt: u32::try_from(raw.body.len() / 4).unwrap_or(u32::MAX), output_max }
}

/// Tokens of an answer where the call sets no limit: the mean of recorded agent calls is 444.
const OUTPUT_TOKENS_USUAL: u32 = 512;

fn waiting(call: &Call) -> Waiting {
    let hash =
        |text: Option<&str>| text.map_or(0, |text| xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    let cost = cost(call);
    Waiting {
        priority: call.priority,
        tenant: hash(call.caller.tenant.as_deref()),
        run: hash(Some(call.run.0.as_str())),
        run_began: call.arrived,
        cost: u64::from(cost.prompt) + u64::from(cost.output_max),
        arrived: call.arrived,
    }
}

fn full(wait: Duration, overflow: Overflow) -> Error {
    let seconds = wait.as_secs_f64().ceil();
    let message = format!(
        "too many calls wait for the provider's limits already; there should be room in {seconds} s"
    );
    let retry = if overflow == Overflow::Spill { Retry::OtherTarget } else { Retry::After(wait) };
    Error::new(ErrorKind::QueueFull, Origin::Paceline, retry, message)
}

fn over(by_deadline: bool) -> Error {
    if by_deadline {
        let message = "the call's deadline passed while it waited for the provider's limits";
        return Error::new(ErrorKind::DeadlineExceeded, Origin::Client, Retry::Never, message);
    }
    let message = "the call waited as long as it may for the provider's limits";
    Error::new(ErrorKind::QueueTimeout, Origin::Paceline, Retry::SameTarget, message)
}
