//! The engine's state: the scheduler, the step under way, and what callers wait for.

use std::collections::VecDeque;
use std::task::Waker;

use paceline_core::Instant;
use slab::Slab;

use super::Summary;
use crate::metrics::{Metrics, Stats};
use crate::scheduler::{Facts, Scheduler, SeqId, Work};
use crate::shape::Timing;

#[derive(Debug)]
pub(super) enum Message {
    Arrive(usize, Work),
    Cancel(usize),
}

/// A request as its caller sees it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) arrived: u64,
    pub(super) started: u64,
    pub(super) first_token: u64,
    pub(super) last_token: u64,
    pub(super) seq: Option<SeqId>,
    /// Tokens that the caller has not taken yet.
    pub(super) pending: Vec<Instant>,
    /// Whether the caller may take them.
    pub(super) ready: bool,
    pub(super) done: bool,
    pub(super) facts: Facts,
    pub(super) waker: Option<Waker>,
}

impl Request {
    pub(super) fn new(arrived: u64) -> Self {
        Self {
            arrived,
            started: 0,
            first_token: 0,
            last_token: 0,
            seq: None,
            pending: Vec::new(),
            ready: false,
            done: false,
            facts: Facts::default(),
            waker: None,
        }
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            arrived: Instant::from_nanos(self.arrived),
            started: Instant::from_nanos(self.started),
            first_token: Instant::from_nanos(self.first_token),
            last_token: Instant::from_nanos(self.last_token),
            cached_tokens: self.facts.cached,
            prefilled_tokens: self.facts.prefilled,
            preemptions: self.facts.preemptions,
        }
    }
}

/// The state of an engine; all times in nanoseconds.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) scheduler: Scheduler,
    pub(super) timing: Timing,
    /// When the step under way ends.
    pub(super) step_end: Option<u64>,
    /// When the last step ended, or the next one may begin.
    pub(super) edge: u64,
    /// Arrivals and cancellations that no step has seen yet, in order of time.
    pub(super) inbox: VecDeque<(u64, Message)>,
    /// Arrivals among those.
    pub(super) arriving: usize,
    pub(super) calls: Slab<Request>,
    pub(super) driver: Option<Waker>,
    /// Callers to wake when the lock is released.
    pub(super) woken: Vec<Waker>,
    /// Longest time that tokens are joined; `None` hands each over at its time.
    pub(super) join_ns: Option<u64>,
    /// When joined tokens must be handed over.
    pub(super) flush_at: u64,
    pub(super) closed: bool,
    pub(super) metrics: Metrics,
}

impl Core {
    pub(super) fn send(&mut self, at: u64, message: Message) {
        self.inbox.push_back((at, message));
        self.wake_driver();
    }

    pub(super) fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Takes all steps that have begun before `now`.
    pub(super) fn advance(&mut self, now: u64) {
        loop {
            if let Some(end) = self.step_end {
                if end > now {
                    break;
                }
                self.step_end = None;
                self.edge = end;
                self.complete(end);
            }
            self.receive();
            if self.edge >= now {
                break;
            }
            let Self { scheduler, calls, metrics, edge, .. } = self;
            let load = scheduler.plan(|key| {
                let request = &mut calls[key];
                request.started = *edge;
                metrics.queued.record_ns(*edge - request.arrived);
            });
            match (load, self.inbox.front()) {
                (Some(load), _) => {
                    let ns = self.timing.step_ns(load);
                    self.metrics.busy_ns += ns;
                    self.metrics.step_tokens.record(load.tokens);
                    self.step_end = Some(self.edge + ns);
                }
                // Idle until the next message.
                (None, Some((at, _))) => self.edge = *at,
                (None, None) => {
                    debug_assert_eq!(self.scheduler.waiting(), 0, "alone, every request fits");
                    break;
                }
            }
        }
        if now >= self.flush_at {
            self.flush();
        }
    }

    /// Takes in what has arrived by the edge between two steps.
    fn receive(&mut self) {
        while let Some((at, _)) = self.inbox.front()
            && *at <= self.edge
            && let Some((_, message)) = self.inbox.pop_front()
        {
            match message {
                Message::Arrive(key, work) => {
                    self.arriving -= 1;
                    self.calls[key].seq = Some(self.scheduler.add(key, work));
                }
                Message::Cancel(key) => {
                    if let Some(seq) = self.calls.remove(key).seq {
                        self.metrics.cancelled += 1;
                        self.scheduler.remove(seq);
                    }
                }
            }
        }
    }

    /// Ends the step under way and hands its tokens over, or keeps them to be joined.
    fn complete(&mut self, end: u64) {
        let Self { scheduler, calls, metrics, woken, join_ns, flush_at, .. } = self;
        scheduler.complete(|emitted| {
            metrics.generated += 1;
            let request = &mut calls[emitted.tag];
            let first = request.first_token == 0;
            if first {
                request.first_token = end;
                metrics.first_token.record_ns(end - request.arrived);
            } else {
                metrics.inter_token.record_ns(end - request.last_token);
            }
            request.last_token = end;
            request.pending.push(Instant::from_nanos(end));
            request.facts = emitted.facts;
            if emitted.last {
                request.done = true;
                request.seq = None;
                metrics.whole.record_ns(end - request.arrived);
            }
            match join_ns {
                Some(join_ns) if !first && !request.done => {
                    *flush_at = (*flush_at).min(end.saturating_add(*join_ns));
                }
                _ => {
                    request.ready = true;
                    woken.extend(request.waker.take());
                }
            }
        });
    }

    fn flush(&mut self) {
        self.flush_at = u64::MAX;
        for (_, request) in &mut self.calls {
            if !request.pending.is_empty() {
                request.ready = true;
                self.woken.extend(request.waker.take());
            }
        }
    }

    /// When the driver has something to do next; `None` when the engine is idle.
    pub(super) fn wake_at(&self) -> Option<u64> {
        let Some(end) = self.step_end else {
            let idle = self.inbox.is_empty()
                && self.scheduler.running() == 0
                && self.scheduler.waiting() == 0;
            return (!idle).then(|| self.edge + 1);
        };
        match self.join_ns {
            Some(join_ns) if self.inbox.is_empty() => Some(self.next_change(end, join_ns)),
            _ => Some(end),
        }
    }

    /// The end of the last step before a caller sees something, from the step that ends at
    /// `end` on.
    fn next_change(&self, mut end: u64, join_ns: u64) -> u64 {
        let Some(mut steady) = self.scheduler.steady() else { return end };
        let flush_at = self.flush_at.min(end.saturating_add(join_ns));
        let rest = self.timing.without_context(steady.load);
        for step in 0..steady.steps {
            if end >= flush_at {
                break;
            }
            let context = steady.load.context;
            if !steady.advance(step) {
                break;
            }
            end += self.timing.with_context(rest, context);
        }
        end
    }

    pub(super) fn stats(&self) -> Stats {
        let (used, blocks) = self.scheduler.blocks();
        let (totals, m) = (self.scheduler.totals(), &self.metrics);
        Stats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting() + self.arriving,
            kv_blocks_used: used,
            kv_blocks: blocks,
            prompt_tokens: totals.prompt_tokens,
            prefix_query_tokens: totals.prefix_queries,
            prefix_hit_tokens: totals.prefix_hits,
            generated_tokens: m.generated,
            preemptions: totals.preemptions,
            finished: m.whole.count(),
            cancelled: m.cancelled,
            rejected: m.rejected,
            steps: totals.steps,
            busy_ns: m.busy_ns,
        }
    }
}
