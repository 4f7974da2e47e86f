//! The whole path of a call on one screen.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method};
use bytes::Bytes;
use paceline_cache::{Flights, Key, Memory, Use};
use paceline_core::{
    Call, Clock, Endpoint, Error, ErrorKind, Instant, Origin, Reply, Result, Retry, RunId,
};
use paceline_upstream::Upstream;

use crate::metrics::Metrics;
use crate::stages::admit::{self, Admit};
use crate::stages::hedge::Hedges;
use crate::stages::keep_alive::{self, KeepAliveConfig};
use crate::stages::line::LineConfig;
use crate::stages::record::{self, Answer, Recorder};
use crate::stages::routes::Routes;
use crate::stages::send::{RetryConfig, Send};
use crate::stages::stored::{Stored, StoredPath};

/// A request as a listener, or a replay, hands it in.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked, and in whose words.
    pub endpoint: Endpoint,
    /// The method.
    pub method: Method,
    /// Path and query from `/v1` on.
    pub path: Bytes,
    /// The run that the path named (`/r/{run}/v1/…`).
    pub run: Option<RunId>,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// When the head arrived.
    pub arrived: Instant,
}

/// What all cores share.
pub struct Shared {
    /// Who may call.
    pub admit: admit::Config,
    /// Kept replies.
    pub memory: Arc<Memory>,
    /// Equal calls under way.
    pub flights: Arc<Flights>,
    /// Which deployments serve which model.
    pub routes: Routes,
    /// When and how often calls are sent again.
    pub retry: RetryConfig,
    /// What may be spent on calls that are sent twice, since they are late.
    pub hedges: Hedges,
    /// How calls wait for the limits of upstreams.
    pub lines: LineConfig,
    /// Answers that may be asked for again.
    pub stored: Arc<Stored>,
    /// Who gets signs of life from a stream that has not begun.
    pub keep_alive: KeepAliveConfig,
    /// What is measured.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
}

impl Shared {
    /// Whether a refusal is waited out: limits are learned, and what the upstream asks to
    /// wait is no longer than a call may wait at all.
    pub(crate) fn limits_learned(&self, wait: Option<Duration>) -> bool {
        self.lines.learn && wait.is_none_or(|wait| wait <= self.lines.wait_max)
    }
}

/// The parts of which a core's pipeline is made.
pub struct Parts {
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// This core's way to each deployment, in the order of the routes.
    pub upstreams: Vec<Arc<dyn Upstream>>,
}

/// The stages of the request path, as one core sees them.
pub struct Pipeline {
    recorder: Recorder,
    admit: Admit,
    memory: Arc<Memory>,
    flights: Arc<Flights>,
    send: Send,
    keep_alive: KeepAliveConfig,
    clock: Clock,
}

impl Pipeline {
    /// Puts the stages together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { shared, upstreams } = parts;
        Arc::new(Self {
            recorder: Recorder::new(&shared),
            admit: Admit::new(Arc::clone(&shared)),
            memory: Arc::clone(&shared.memory),
            flights: Arc::clone(&shared.flights),
            keep_alive: shared.keep_alive,
            clock: shared.clock.clone(),
            send: Send::new(shared, upstreams),
        })
    }

    /// Answers a request. Errors are answers too, in the caller's dialect.
    ///
    /// # Cancel safety
    /// Dropping the future, or the answer's body, cancels the call and is recorded so.
    pub async fn handle(self: &Arc<Self>, incoming: Incoming) -> Answer {
        let record = self.recorder.open(incoming.arrived);
        let dialect = incoming.endpoint.dialect();
        let call = match self.admit.admit(incoming) {
            Ok(call) => Arc::new(call),
            Err(error) => return record.refuse(&error, dialect),
        };
        if self.keep_alive.is_for(&call) {
            record.pass_on();
            return Box::pin(self.answer_alive(call)).await;
        }
        let result = self.run(&call).await;
        record.close(&call, result)
    }

    /// Answers a call whose caller gets signs of life while nothing else comes.
    async fn answer_alive(self: &Arc<Self>, call: Arc<Call>) -> Answer {
        let (this, asked) = (Arc::clone(self), Arc::clone(&call));
        let answering = Box::pin(async move {
            let record = this.recorder.open(asked.arrived);
            let result = this.run(&asked).await;
            record.close(&asked, result)
        });
        let (endpoint, every) = (call.request.endpoint, self.keep_alive.every);
        let named = |headers: &mut HeaderMap| record::name(headers, &call);
        keep_alive::answer(endpoint, answering, every, &self.clock, named).await
    }

    /// Answers a request that asks for a stored answer.
    pub(crate) async fn stored(&self, incoming: Incoming, path: StoredPath<'_>) -> Answer {
        let record = self.recorder.open(incoming.arrived);
        let dialect = incoming.endpoint.dialect();
        match self.admit.admit(incoming) {
            Ok(call) => {
                let result = self.send.stored(&call, path).await;
                record.close(&call, result)
            }
            Err(error) => record.refuse(&error, dialect),
        }
    }

    /// The time by which the pipeline goes.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What is measured.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.send.shared.metrics
    }

    /// Checks the key of a request that is no call, and takes it out of the headers.
    pub(crate) fn check_key(&self, headers: &mut HeaderMap) -> Result<()> {
        self.admit.tenant(headers).map(|_| ())
    }

    /// The models that clients can name, and whether any deployment takes calls.
    pub fn models(&self) -> &Send {
        &self.send
    }

    async fn run(self: &Arc<Self>, call: &Arc<Call>) -> Result<Reply> {
        let may = Use::of(call);
        // Boxed, since the server moves the future of each request, and most need no room here.
        let send = || Box::pin(self.send.send(call));
        if !may.share && !may.keep {
            return send().await;
        }
        let key = Key::of(call);
        if !may.share {
            return Ok(self.memory.keep(call, key, send().await?));
        }
        if let Some(reply) = self.memory.peek(call, key) {
            return Ok(reply);
        }
        if may.only {
            return Err(not_kept());
        }
        let (this, leader) = (Arc::clone(self), Arc::clone(call));
        self.flights.join(call, key, || Box::pin(this.answer(leader, key))).await
    }

    async fn answer(self: Arc<Self>, call: Arc<Call>, key: Key) -> Result<Reply> {
        // An equal flight may have ended since the first look.
        if let Some(reply) = self.memory.peek(&call, key) {
            return Ok(reply);
        }
        let reply = self.send.send(&call).await?;
        Ok(self.memory.keep(&call, key, reply))
    }
}

fn not_kept() -> Error {
    let message = "no kept answer, and `x-paceline-cache: only` allows no other";
    Error::new(ErrorKind::NotCached, Origin::Client, Retry::Never, message)
}
