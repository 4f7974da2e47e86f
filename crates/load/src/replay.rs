//! Replays a trace against a target and measures what its agents would feel.
//!
//! In closed loop, N sessions are active at once: each agent sends, waits for the whole
//! answer, thinks as long as recorded, and sends again; a session that ends makes room for
//! the next. Open arrivals come at their recorded times whatever the target does. All work
//! is drawn before the start, so that equal seeds give equal work to every target.
//!
//! A failed call counts as failed and takes no part in latencies; its agent thinks and goes
//! on with its next call, as agents with a retry loop do.

mod call;
mod collect;
mod plan;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use paceline_core::{Clock, Instant};
use paceline_telemetry::task;
use parking_lot::Mutex;

use crate::report::{Meta, Report};
use crate::target::{Failure, FailureKind, Probe, Target};
use crate::text::{Style, Writer};
use crate::trace::{Kind, Trace};
use collect::Collector;
pub use plan::Plan;

/// What is replayed, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Draws which sessions, their order and their offsets. Default: 1.
    pub seed: u64,
    /// Closed loop: sessions active at once. Default: 24.
    pub active: usize,
    /// Closed loop: sessions to draw. Default: all.
    pub sessions_max: Option<usize>,
    /// Calls to draw: a window of open arrivals at a random place, or sessions in drawn
    /// order, of which the last is cut short. With all open arrivals, seeds differ only in
    /// how ticks are spread, so their intervals say little of other loads. Default: all.
    pub calls_max: Option<usize>,
    /// Open arrivals: how many times as fast they come. Default: 1.
    pub rate: f64,
    /// Open arrivals: spreads those of one step of the recording's clock evenly over it,
    /// at random, since they did not come all at once. Default: true.
    pub spread_ticks: bool,
    /// Longest think time; recorded ones reach a day. Default: 60 s.
    pub think_max: Duration,
    /// Closed loop: the first sessions start at random times within this. Default: 60 s.
    pub start_spread: Duration,
    /// No call starts later than this after the start. Default: none.
    pub time_max: Option<Duration>,
    /// Longest wait for the end of an answer, from the intended send. Default: 1 h.
    pub call_timeout: Duration,
    /// Open arrivals: calls in flight at once; one more is dropped, and the run is invalid.
    /// Default: 20,000.
    pub in_flight_max: usize,
    /// Time between two looks into the replicas. Default: 1 s.
    pub sample_every: Duration,
    /// How bodies are written.
    pub style: Style,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            active: 24,
            sessions_max: None,
            calls_max: None,
            rate: 1.0,
            spread_ticks: true,
            think_max: Duration::from_secs(60),
            start_spread: Duration::from_secs(60),
            time_max: None,
            call_timeout: Duration::from_secs(3600),
            in_flight_max: 20_000,
            sample_every: Duration::from_secs(1),
            style: Style::default(),
        }
    }
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Calls that have ended, also failed ones.
    pub calls_done: usize,
    /// Calls that were drawn.
    pub calls_total: usize,
    /// Calls that failed.
    pub calls_failed: usize,
    /// Time on the replay's clock since its start.
    pub elapsed: Duration,
}

/// Is told of the progress after each call; must return at once.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// A trace, a target, and how they meet.
pub struct Replay {
    /// What is replayed.
    pub trace: Arc<Trace>,
    /// How.
    pub config: Config,
    /// Against what.
    pub target: Arc<dyn Target>,
    /// Looks into the replicas, where that is possible.
    pub probe: Option<Arc<dyn Probe>>,
    /// The clock that the target runs on too.
    pub clock: Clock,
    /// Is told of the progress.
    pub on_progress: Option<OnProgress>,
    /// What the report says of the circumstances.
    pub meta: Meta,
}

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The figures; equal for equal seeds in virtual time, byte for byte.
    pub report: Report,
    /// What the replay itself cost on this machine.
    pub cost: Cost,
}

/// Wall time of a replay, and how much of it was the replay's own; never in a report,
/// since it differs from run to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From the start to the end.
    pub wall: Duration,
    /// Writing request bodies.
    pub text: Duration,
    /// Reading streams.
    pub scan: Duration,
    /// Bytes of request bodies.
    pub body_bytes: u64,
    /// Bytes of streams.
    pub stream_bytes: u64,
    /// Calls that ended.
    pub calls: usize,
}

impl Replay {
    /// Runs the replay to its end.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop calls that have begun; drop the runtime for that.
    pub async fn run(self) -> Outcome {
        let wall = std::time::Instant::now();
        let plan = Plan::draw(&self.trace, &self.config);
        // A real start lies a little ahead, so that nothing is late from the beginning.
        let lead = if self.clock.is_virtual() { Duration::ZERO } else { START_LEAD };
        let shared = Arc::new(Shared {
            writer: Writer::new(&self.config.style, &self.trace),
            start: self.clock.now().after(lead),
            collector: Mutex::new(Collector::new(plan.calls)),
            next: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            kind: self.trace.kind,
            config: self.config,
            plan,
            target: self.target,
            clock: self.clock,
            on_progress: self.on_progress,
        });
        let sampler = self.probe.map(|probe| {
            let shared = Arc::clone(&shared);
            task::spawn("replay-sampler", async move { shared.sample(&*probe).await })
        });
        match shared.kind {
            Kind::Closed => shared.closed().await,
            Kind::Open { .. } => shared.open().await,
        }
        if let Some(sampler) = sampler {
            sampler.abort();
        }
        let collector = std::mem::take(&mut *shared.collector.lock());
        let cost = Cost { wall: wall.elapsed(), ..collector.cost };
        let report = collector.report(&self.trace, &shared.config, &shared.plan, self.meta);
        Outcome { report, cost }
    }
}

/// How long before its intended time a body is written in real time, so that writing it
/// delays nothing.
const PREPARE_AHEAD: Duration = Duration::from_millis(20);

const START_LEAD: Duration = Duration::from_millis(100);

/// What all tasks of a replay share.
struct Shared {
    writer: Writer,
    start: Instant,
    collector: Mutex<Collector>,
    /// The next session of the plan.
    next: AtomicUsize,
    in_flight: AtomicUsize,
    kind: Kind,
    config: Config,
    plan: Plan,
    target: Arc<dyn Target>,
    clock: Clock,
    on_progress: Option<OnProgress>,
}

impl Shared {
    /// N workers, each with one session at a time.
    async fn closed(self: &Arc<Self>) {
        let workers: Vec<_> = (0..self.plan.active)
            .map(|_| {
                let shared = Arc::clone(self);
                task::spawn("replay-session", async move {
                    let mut from = None;
                    while let Some(index) = shared.take() {
                        let offset = shared.plan.items[index].at;
                        let start = from.unwrap_or_else(|| shared.start.after(offset));
                        if shared.is_over(start) {
                            break;
                        }
                        from = Some(shared.session(index, start).await);
                    }
                })
            })
            .collect();
        finish(workers).await;
    }

    /// Whether nothing may start at `at` any more.
    fn is_over(&self, at: Instant) -> bool {
        self.config.time_max.is_some_and(|max| at > self.start.after(max))
    }

    /// The number of the next session, where one is left.
    fn take(&self) -> Option<usize> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < self.plan.items.len()).then_some(index)
    }

    /// One task for each arrival, at its time.
    async fn open(self: &Arc<Self>) {
        let mut tasks = Vec::new();
        while let Some(index) = self.take() {
            let at = self.start.after(self.plan.items[index].at);
            if self.is_over(at) {
                break;
            }
            self.sleep_until_shortly_before(at).await;
            if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.config.in_flight_max {
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
                let failure = Failure::new(FailureKind::Dropped, "too many calls in flight");
                self.ended(|collector| collector.failed(&failure));
                continue;
            }
            let shared = Arc::clone(self);
            tasks.push(task::spawn("replay-call", async move {
                shared.session(index, at).await;
                shared.in_flight.fetch_sub(1, Ordering::Relaxed);
            }));
        }
        finish(tasks).await;
    }

    /// Waits until there is just time enough to write a body; in virtual time nothing takes
    /// time, so until `at` itself.
    async fn sleep_until_shortly_before(&self, at: Instant) {
        if self.clock.is_virtual() {
            self.clock.sleep_until(at).await;
        } else {
            let ahead = PREPARE_AHEAD.as_nanos() as u64;
            let early = Instant::from_nanos(at.as_nanos().saturating_sub(ahead));
            self.clock.sleep_until(early).await;
        }
    }

    /// Notes the end of a call and tells of it.
    fn ended(&self, note: impl FnOnce(&mut Collector)) {
        let progress = {
            let mut collector = self.collector.lock();
            note(&mut collector);
            collector.progress(self.plan.calls, self.clock.now().since(self.start))
        };
        if let Some(on_progress) = &self.on_progress {
            on_progress(progress);
        }
    }

    /// Looks into the replicas until it is aborted.
    async fn sample(&self, probe: &dyn Probe) {
        let every = self.config.sample_every.max(Duration::from_millis(1));
        let mut at = self.start;
        loop {
            self.clock.sleep_until(at).await;
            let replicas = probe.sample();
            self.collector.lock().sample(at.since(self.start), &replicas);
            at = at.after(every);
        }
    }
}

/// Waits for tasks; one that panicked has said so already and counts as ended.
async fn finish(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        let _ = task.await;
    }
}
