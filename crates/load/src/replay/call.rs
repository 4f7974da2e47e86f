//! One call: written, sent at its time, and read to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use paceline_core::{CacheStatus, Instant, Usage};

use crate::scan::Scan;
use crate::target::{Failure, FailureKind, Request, Response};

use super::Shared;

/// How much of an error answer is kept, in bytes.
const ERROR_BYTES_MAX: usize = 300;

/// What is known of a call that ended well.
pub(super) struct Done {
    pub(super) intended: Instant,
    /// When each token came; tokens of one event share a stamp. At least one.
    pub(super) stamps: Vec<u64>,
    /// When the last thing of use came: the last token.
    pub(super) ended: Instant,
    pub(super) usage: Usage,
    pub(super) replica: Option<Arc<str>>,
    pub(super) cache: Option<CacheStatus>,
}

/// What a call cost this machine.
#[derive(Default)]
pub(super) struct CallCost {
    pub(super) text: Duration,
    pub(super) scan: Duration,
    pub(super) body_bytes: u64,
    pub(super) stream_bytes: u64,
}

impl Shared {
    /// Makes one call, whose intended time is `at`; returns when it ended, and whether well.
    pub(super) async fn call(
        &self,
        index: usize,
        agent: usize,
        call: usize,
        at: Instant,
    ) -> (Instant, bool) {
        self.sleep_until_shortly_before(at).await;
        let item = &self.plan.items[index];
        let mut cost = CallCost::default();
        let begun = std::time::Instant::now();
        let thread = &item.session.agents[agent];
        // Sessions and agents have fewer calls than this, so no two calls share a number.
        let unique = ((index as u64) << 40) | ((agent as u64) << 24) | call as u64;
        let body = self.writer.body(&item.session, agent, &thread.calls[call], unique);
        cost.text = begun.elapsed();
        cost.body_bytes = body.len() as u64;
        let request = Request {
            run: item.run.clone(),
            agent: thread.name.clone(),
            session: item.number,
            intended: at,
            body,
        };
        self.wait_exactly(at).await;
        // The lag is the client's own: connecting is the network's part, and in the latency.
        self.collector.lock().sent(self.clock.now(), at);
        let limit = at.after(self.config.call_timeout);
        let exchange = self.exchange(request, at, &mut cost);
        let result = self.clock.timeout_at(limit, exchange).await;
        let result = result.unwrap_or_else(|| {
            let limit_s = self.config.call_timeout.as_secs();
            Err(Failure::new(FailureKind::Timeout, format!("no end within {limit_s} s")))
        });
        let ended = result.as_ref().map_or_else(|_| self.clock.now(), |done| done.ended);
        self.ended(|collector| {
            collector.spent(&cost);
            match &result {
                Ok(done) => collector.done(done, self.start),
                Err(failure) => collector.failed(failure),
            }
        });
        (ended, result.is_ok())
    }

    /// Waits until `at` more exactly than the runtime's timers, which round up to 1 ms: the
    /// rest of it goes by in polls that let all other tasks run.
    async fn wait_exactly(&self, at: Instant) {
        if self.clock.is_virtual() {
            return;
        }
        self.clock.sleep_until(Instant::from_nanos(at.as_nanos().saturating_sub(1_100_000))).await;
        while self.clock.now() < at {
            tokio::task::yield_now().await;
        }
    }

    async fn exchange(
        &self,
        request: Request,
        at: Instant,
        cost: &mut CallCost,
    ) -> Result<Done, Failure> {
        let mut response = self.target.send(request).await?;
        if !(200..300).contains(&response.status) {
            return Err(refused(&mut response).await);
        }
        let mut scan = Scan::default();
        let from = at.as_nanos();
        while let Some(chunk) = response.body.next().await {
            let chunk = chunk?;
            let now = self.clock.now().as_nanos();
            let begun = std::time::Instant::now();
            scan.push(&chunk, from, now);
            cost.scan += begun.elapsed();
            cost.stream_bytes += chunk.len() as u64;
        }
        scan.finish(from, self.clock.now().as_nanos());
        if let Some(error) = scan.error {
            return Err(Failure::new(FailureKind::Error, error));
        }
        if !scan.done {
            let message = if scan.events == 0 {
                "the answer is no event stream"
            } else {
                "the stream ended without `[DONE]`"
            };
            return Err(Failure::new(FailureKind::Broken, message));
        }
        let ended = scan.stamps.iter().max().copied();
        let ended = ended.map_or_else(|| self.clock.now(), Instant::from_nanos);
        // An answer of nothing but its end has its end as its first and only token.
        if scan.stamps.is_empty() {
            scan.stamps.push(ended.as_nanos());
        }
        let usage =
            scan.usage.unwrap_or(Usage { input: 0, cached: 0, output: scan.stamps.len() as u64 });
        Ok(Done {
            intended: at,
            stamps: scan.stamps,
            ended,
            usage,
            replica: response.replica,
            cache: response.cache,
        })
    }
}

/// The failure of an answer with an error status, with the beginning of its body.
async fn refused(response: &mut Response) -> Failure {
    let mut text = Vec::new();
    let body: &mut Pin<Box<_>> = &mut response.body;
    while let Some(Ok(chunk)) = body.next().await {
        text.extend_from_slice(&chunk[..chunk.len().min(ERROR_BYTES_MAX - text.len())]);
        if text.len() >= ERROR_BYTES_MAX {
            break;
        }
    }
    let message = format!("status {}: {}", response.status, String::from_utf8_lossy(&text).trim());
    Failure::new(FailureKind::Rejected, message)
}
