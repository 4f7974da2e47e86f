//! The engine: the scheduler driven by the clock.
//!
//! One task owns the passing of time; callers queue messages and read tokens. The state is
//! rolled forward lazily, one step after the other up to the present, and the task wakes
//! only when something becomes visible to a caller: without joining at the end of each
//! step, with joining at the next first or last token. Both take the same steps, so the
//! schedule and all stamps are equal.
//!
//! A step begins at the exact end of the one before. What arrives or is cancelled up to that
//! very nanosecond counts, so the next step is planned only when the clock has passed it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use paceline_core::{Clock, Instant};
use parking_lot::Mutex;
use slab::Slab;

use crate::config::{Config, ConfigError};
use crate::metrics::{self, Metrics, Stats};
use crate::scheduler::{Scheduler, Work};
use crate::shape::{BLOCK_TOKENS, Shape, Timing};

mod core;

use self::core::{Core, Message, Request};

/// A handle to a simulated engine. Cheap to clone; the engine ends with the last handle and
/// the last stream.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Handle>);

/// Why an engine refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Prompt and output together exceed the KV cache or the model's length.
    #[error("prompt and output have {tokens} tokens, but the engine holds {max}")]
    TooLong {
        /// Tokens of prompt and output.
        tokens: u64,
        /// Tokens that fit.
        max: u64,
    },
    /// The queue is full.
    #[error("{max} requests are waiting already")]
    QueueFull {
        /// The queue's bound.
        max: usize,
    },
}

/// Tokens of one request, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Position of the first of them in the output.
    pub first: u32,
    /// When each was ready.
    pub at: Vec<Instant>,
    /// Prompt tokens that the prefix cache held.
    pub cached: u32,
    /// With the last token: what happened to the request.
    pub summary: Option<Summary>,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// When it was submitted.
    pub arrived: Instant,
    /// When its first step began.
    pub started: Instant,
    /// When its first token was ready.
    pub first_token: Instant,
    /// When its last token was ready.
    pub last_token: Instant,
    /// Prompt tokens that the prefix cache held at admission.
    pub cached_tokens: u32,
    /// Tokens computed other than by decoding, recomputed ones included.
    pub prefilled_tokens: u64,
    /// How often it lost its blocks.
    pub preemptions: u32,
}

impl Engine {
    /// Starts an engine; its time begins now.
    ///
    /// # Errors
    /// When the configuration is out of range.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: &Config, shape: &Shape, clock: &Clock) -> Result<Self, ConfigError> {
        let limits = config.limits(shape)?;
        let kv_tokens = u64::from(limits.blocks) * u64::from(BLOCK_TOKENS);
        let join_ns = u64::from(config.join_ms_max) * 1_000_000;
        let core = Core {
            scheduler: Scheduler::new(limits),
            timing: Timing::new(shape, config.speed),
            step_end: None,
            edge: clock.now().as_nanos(),
            inbox: VecDeque::new(),
            arriving: 0,
            calls: Slab::new(),
            driver: None,
            woken: Vec::new(),
            join_ns: (config.join_events && clock.is_virtual()).then_some(join_ns),
            flush_at: u64::MAX,
            closed: false,
            metrics: Metrics::default(),
        };
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            clock: clock.clone(),
            waiting_max: config.waiting_max as usize,
            tokens_max: config.max_model_len.map_or(kv_tokens, |len| kv_tokens.min(len.into())),
        });
        let mut driver =
            Driver { shared: Arc::clone(&shared), sleep: clock.sleep_until(clock.now()) };
        paceline_telemetry::task::spawn("sim engine", poll_fn(move |cx| driver.poll(cx)));
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Queues a request. Dropping the stream cancels it: its blocks are free from the next
    /// step on.
    ///
    /// # Errors
    /// When it can never fit, or when the queue is full.
    pub fn submit(&self, work: Work) -> Result<TokenStream, Refused> {
        let shared = &*self.0.0;
        let tokens = u64::from(work.prompt) + u64::from(work.output);
        let mut core = shared.core.lock();
        if tokens > shared.tokens_max || work.prompt == 0 || work.output == 0 {
            return Err(Refused::TooLong { tokens, max: shared.tokens_max });
        }
        if core.scheduler.waiting() + core.arriving >= shared.waiting_max {
            core.metrics.rejected += 1;
            return Err(Refused::QueueFull { max: shared.waiting_max });
        }
        // Under the lock, so that messages lie in the order of their times.
        let now = shared.clock.now();
        let key = core.calls.insert(Request::new(now.as_nanos()));
        core.arriving += 1;
        core.send(now.as_nanos(), Message::Arrive(key, work));
        Ok(TokenStream { handle: Arc::clone(&self.0), key, position: 0, ended: false })
    }

    /// The engine's state at present and its counts. Costs a few hundred nanoseconds.
    pub fn stats(&self) -> Stats {
        self.0.0.roll(|core| core.stats())
    }

    /// Longest prompt and output together, in tokens.
    pub fn tokens_max(&self) -> u64 {
        self.0.0.tokens_max
    }

    /// Notes how a request ended, which only the caller knows, for the metrics.
    pub(crate) fn note_end(&self, by_length: bool) {
        let mut core = self.0.0.core.lock();
        if by_length {
            core.metrics.ended_by_length += 1;
        } else {
            core.metrics.ended_by_stop += 1;
        }
    }

    /// All metrics in the Prometheus text format, under vLLM's names.
    pub fn metrics_text(&self, model: &str, engine: usize) -> String {
        self.0.0.roll(|core| metrics::render(&core.metrics, &core.stats(), model, engine))
    }
}

/// The tokens of one request as they become ready. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    handle: Arc<Handle>,
    key: usize,
    position: u32,
    ended: bool,
}

impl TokenStream {
    /// The next tokens; `None` after the last one, or when the engine has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Tokens>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut core = self.handle.0.core.lock();
        if core.closed {
            return Poll::Ready(None);
        }
        let request = &mut core.calls[self.key];
        if !request.ready {
            match &mut request.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        request.ready = false;
        let at = std::mem::take(&mut request.pending);
        let first = self.position;
        self.position += u32::try_from(at.len()).unwrap_or(u32::MAX);
        let cached = request.facts.cached;
        let summary = request.done.then(|| request.summary());
        if summary.is_some() {
            self.ended = true;
            core.calls.remove(self.key);
        }
        Poll::Ready(Some(Tokens { first, at, cached, summary }))
    }

    /// Waits for the next tokens; `None` after the last one, or when the engine has ended.
    ///
    /// # Cancel safety
    /// No token is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Tokens> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut core = self.handle.0.core.lock();
        if core.calls[self.key].done {
            core.calls.remove(self.key);
        } else {
            let now = self.handle.0.clock.now().as_nanos();
            core.send(now, Message::Cancel(self.key));
        }
    }
}

/// Closes the engine when the last caller goes.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let mut core = self.0.core.lock();
        core.closed = true;
        core.wake_driver();
    }
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    clock: Clock,
    waiting_max: usize,
    tokens_max: u64,
}

impl Shared {
    /// Brings the engine to the present, lets `f` look at it, and wakes whom that concerns.
    fn roll<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock();
        core.advance(self.clock.now().as_nanos());
        let result = f(&mut core);
        let woken = std::mem::take(&mut core.woken);
        drop(core);
        for waker in woken {
            waker.wake();
        }
        result
    }
}

/// The task that lets time pass.
struct Driver {
    shared: Arc<Shared>,
    sleep: paceline_core::clock::Sleep,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (closed, wake_at) = self.shared.roll(|core| {
                match &mut core.driver {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                (core.closed, core.wake_at())
            });
            if closed {
                return Poll::Ready(());
            }
            let Some(at) = wake_at.map(Instant::from_nanos) else { return Poll::Pending };
            if self.sleep.deadline() != at {
                self.sleep.reset(at);
            }
            if Pin::new(&mut self.sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests;
