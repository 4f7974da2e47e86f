//! The route and the upstream: which deployment, the exchange with it, and what follows when
//! that fails.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use paceline_core::{
    Body, Call, Chunks, Endpoint, Error, ErrorKind, Name, Origin, Reply, Result, Retry,
};
use paceline_dialect::{codec, wire};
use paceline_route::{Ask, Lease, Outcome, Pool, Target};
use paceline_upstream::{Provider, Upstream};
use smallvec::SmallVec;
use tracing::{error, warn};

use crate::pipeline::Shared;
use crate::stages::prepare::prepare;
use crate::stages::verdict::{Again, Fallback, Verdict, class_of_status};

/// When and how often a call is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Most attempts of one call at one model, the first included. Default: 3.
    pub attempts_max: u32,
    /// The longest wait before the second attempt; doubled with each further one, and the
    /// wait is drawn between nothing and that. Default: 500 ms.
    pub backoff: Duration,
    /// The longest wait that backoff, or the upstream's `Retry-After`, may ask for; a call
    /// that would have to wait longer gets the upstream's error. Default: 30 s.
    pub wait_max: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff: Duration::from_millis(500),
            wait_max: Duration::from_secs(30),
        }
    }
}

/// A deployment as the gateway knows it; the upstreams stand in the same order.
#[derive(Clone)]
pub struct Deployment {
    /// Its load and health, shared by all pools that it is in.
    pub target: Arc<Target>,
    /// Whether its answers come from a simulated engine.
    pub simulated: bool,
    /// What it speaks.
    pub provider: &'static Provider,
    /// Whether it has a key of its own; else the caller's goes on to it.
    pub keyed: bool,
    /// Its own names of models, by the names that callers use.
    pub rename: HashMap<Bytes, String>,
    /// What it serves.
    pub models: Models,
}

/// The models that a deployment serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Models {
    /// Only these.
    Named(Vec<String>),
    /// Whatever is asked of it; these are listed, or its own list where there are none.
    Any(Vec<String>),
}

/// Models that answer for one name, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The models; each is tried when those before it have failed.
    pub models: Vec<Bytes>,
    /// The one for prompts that do not fit the others.
    pub longer: Option<Bytes>,
}

/// Which deployments serve which model.
pub struct Routes {
    deployments: Vec<Deployment>,
    named: HashMap<Bytes, Route>,
    any: Option<Route>,
    chains: HashMap<Bytes, Chain>,
}

struct Route {
    pool: Arc<Pool>,
    /// The place among all deployments of each place in the pool.
    deployments: Vec<usize>,
    /// The places whose deployments speak an endpoint's dialect, by endpoint.
    native: HashMap<Endpoint, u64>,
}

impl Routes {
    /// Makes a pool for each model that is named, and one for all other models. `pool`
    /// chooses the policy for the deployments at the given places.
    pub fn new(
        deployments: Vec<Deployment>,
        chains: HashMap<Bytes, Chain>,
        pool: impl Fn(&[usize], Vec<Arc<Target>>) -> Arc<Pool>,
    ) -> Self {
        let route = |serves: &dyn Fn(&Models) -> bool| {
            let places: Vec<usize> = deployments
                .iter()
                .enumerate()
                .filter(|(_, deployment)| serves(&deployment.models))
                .map(|(at, _)| at)
                .take(Pool::TARGETS_MAX)
                .collect();
            let targets = places.iter().map(|at| Arc::clone(&deployments[*at].target)).collect();
            (!places.is_empty()).then(|| Route {
                pool: pool(&places, targets),
                native: natives(&places, &deployments),
                deployments: places,
            })
        };
        let mut named = HashMap::new();
        for deployment in &deployments {
            let (Models::Named(names) | Models::Any(names)) = &deployment.models;
            for name in names {
                let serves = |models: &Models| match models {
                    Models::Named(names) => names.contains(name),
                    Models::Any(_) => true,
                };
                named
                    .entry(Bytes::from(name.clone()))
                    .or_insert_with(|| route(&serves).expect("this deployment serves it"));
            }
        }
        let any = route(&|models| matches!(models, Models::Any(_)));
        Self { deployments, named, any, chains }
    }

    /// The deployments.
    pub fn deployments(&self) -> &[Deployment] {
        &self.deployments
    }

    /// The names that stand for several models.
    pub fn chains(&self) -> impl Iterator<Item = &Bytes> {
        self.chains.keys()
    }

    fn find(&self, model: &Bytes) -> Result<&Route> {
        self.named.get(model).or(self.any.as_ref()).ok_or_else(|| {
            let model = String::from_utf8_lossy(model).into_owned();
            let message = format!(
                "no deployment serves the model `{model}`; GET /v1/models lists those that are served"
            );
            Error::new(ErrorKind::ModelNotFound, Origin::Client, Retry::Never, message)
                .with_param("model")
        })
    }
}

/// The places whose deployments speak each dialect.
fn natives(places: &[usize], deployments: &[Deployment]) -> HashMap<Endpoint, u64> {
    Endpoint::CALLS
        .into_iter()
        .map(|endpoint| {
            let speaks = |(place, at): (usize, &usize)| {
                u64::from(deployments[*at].provider.speaks(endpoint)) << place
            };
            (endpoint, places.iter().enumerate().map(speaks).sum())
        })
        .collect()
}

impl Route {
    /// A deployment that was not tried; one that speaks the caller's dialect first.
    fn lease(&self, ask: &Ask<'_>, endpoint: Endpoint, tried: u64) -> Option<Lease> {
        let native = self.native.get(&endpoint).copied().unwrap_or(0);
        // Most pools speak one dialect, and need no look.
        let some = native != 0 && native.count_ones() as usize != self.deployments.len();
        let first = some && native & !tried & self.pool.usable() != 0;
        self.pool.lease(ask, if first { tried | !native } else { tried })
    }

    fn all_tried(&self, tried: u64) -> bool {
        tried.count_ones() as usize >= self.deployments.len()
    }
}

/// The stage.
pub struct Send {
    shared: Arc<Shared>,
    upstreams: Vec<Arc<dyn Upstream>>,
}

/// How the attempts at one model ended.
struct Ended {
    result: Result<Reply>,
    fallback: Fallback,
}

/// How one attempt failed.
struct Failed {
    result: Result<Reply>,
    verdict: Verdict,
    /// What the upstream asks to wait.
    wait: Option<Duration>,
}

impl Send {
    pub(crate) fn new(shared: Arc<Shared>, upstreams: Vec<Arc<dyn Upstream>>) -> Self {
        debug_assert_eq!(shared.routes.deployments.len(), upstreams.len());
        Self { shared, upstreams }
    }

    /// Sends the call to a deployment of its model, and where that fails again, to others,
    /// and to the models that may answer instead.
    ///
    /// # Errors
    /// The last failure.
    ///
    /// # Cancel safety
    /// Dropping the future ends the exchange.
    pub(crate) async fn send(&self, call: &Call) -> Result<Reply> {
        let routes = &self.shared.routes;
        let model = &call.request.fields.model;
        let Some(chain) = routes.chains.get(model) else {
            return self.try_model(call, model, routes.find(model)?).await.result;
        };
        let (mut rest, mut longer) = (chain.models.iter(), chain.longer.as_ref());
        let mut next = rest.next();
        let mut result = Err(nobody());
        while let Some(model) = next {
            let ended = match routes.find(model) {
                Ok(route) => self.try_model(call, model, route).await,
                Err(error) => Ended { result: Err(error), fallback: Fallback::Next },
            };
            result = ended.result;
            next = match ended.fallback {
                Fallback::None => None,
                Fallback::Next => rest.next(),
                Fallback::Longer => longer.take(),
            };
            if next.is_some() {
                self.shared.metrics.fallbacks.inc();
            }
        }
        result
    }

    /// Tries the deployments of one model.
    async fn try_model(&self, call: &Call, model: &Bytes, route: &Route) -> Ended {
        let (ask, endpoint, retry) = (ask(call), call.request.endpoint, self.shared.retry);
        let (mut tried, mut attempts) = (0u64, 0);
        let mut last = Ended { result: Err(nobody()), fallback: Fallback::Next };
        loop {
            let Some(mut lease) = route.lease(&ask, endpoint, tried) else { return last };
            let retries = lease.target().retries();
            if attempts == 0 {
                retries.attempted();
            } else if retries.take() {
                self.shared.metrics.retries.inc();
            } else {
                return last;
            }
            attempts += 1;
            tried |= 1 << lease.index();
            let at = route.deployments[lease.index()];
            let Failed { result, verdict, wait } = match self.once(call, model, at).await {
                Ok(reply) => {
                    report(&mut lease, Outcome::Answered, "");
                    lease.target().retries().answered();
                    return Ended { result: Ok(hold(reply, lease)), fallback: Fallback::None };
                }
                Err(failed) => failed,
            };
            let why = match &result {
                Ok(reply) => reply.status.as_str().to_owned(),
                Err(error) => error.message().to_owned(),
            };
            report(&mut lease, verdict.outcome, &why);
            drop(lease);
            last = Ended { result, fallback: verdict.fallback };
            if verdict.again == Again::Never || attempts >= retry.attempts_max {
                return last;
            }
            if route.all_tried(tried) {
                let wait = wait.unwrap_or_default().max(backoff(retry.backoff, attempts));
                if verdict.again != Again::Any || !self.may_wait(call, wait) {
                    return last;
                }
                self.shared.clock.sleep(wait).await;
                tried = 0;
            }
        }
    }

    /// Whether a call may wait so long before its next attempt.
    fn may_wait(&self, call: &Call, wait: Duration) -> bool {
        let end = self.shared.clock.now().after(wait);
        wait <= self.shared.retry.wait_max && call.deadline.0.is_none_or(|deadline| end < deadline)
    }

    /// One attempt at a deployment. A stream has begun to answer when this returns.
    async fn once(&self, call: &Call, model: &Bytes, at: usize) -> Result<Reply, Failed> {
        let deployment = &self.shared.routes.deployments[at];
        let prepared = prepare(call, model, deployment).await.map_err(Failed::of)?;
        let sent = self.upstreams[at].send(&prepared.request, call.deadline).await;
        let mut reply = sent.map_err(Failed::of)?;
        reply.deployment = Some(Arc::clone(deployment.target.name()));
        let endpoint = prepared.request.endpoint;
        let good = reply.status.as_u16() < 400;
        if good && let Body::Events(chunks) = reply.body {
            let begun = Begun::wait(chunks, endpoint).await.map_err(Failed::of)?;
            reply.body = Body::Events(Box::pin(begun));
        }
        if good {
            return match prepared.translation {
                None => Ok(reply),
                Some(translation) => translation.reply(reply).map_err(Failed::of),
            };
        }
        let class = match &reply.body {
            Body::Whole(body) => classify(endpoint, &reply, body),
            _ => class_of_status(reply.status.as_u16()),
        };
        let verdict = Verdict::of_class(class, deployment.keyed);
        let wait = retry_after(&reply);
        let result = match prepared.translation {
            None => Ok(reply),
            Some(translation) => translation.reply(reply),
        };
        Err(Failed { result, verdict, wait })
    }

    /// The deployments, in the order of the upstreams.
    pub fn deployments(&self) -> &[Deployment] {
        self.shared.routes.deployments()
    }

    /// The names that stand for several models.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &Bytes> {
        self.shared.routes.chains()
    }

    /// This core's way to the deployment at a place.
    pub fn upstream(&self, at: usize) -> &Arc<dyn Upstream> {
        &self.upstreams[at]
    }

    /// Whether any deployment takes calls now.
    pub fn ready(&self) -> bool {
        let now = self.shared.clock.now();
        self.deployments().iter().any(|deployment| deployment.target.usable(now))
    }
}

impl Failed {
    fn of(error: Error) -> Self {
        let verdict = Verdict::of_error(&error);
        Self { result: Err(error), verdict, wait: None }
    }
}

/// What kind of error an upstream's answer is.
fn classify(
    endpoint: Endpoint,
    reply: &Reply,
    body: &[u8],
) -> paceline_dialect::neutral::FailureClass {
    let status = reply.status.as_u16();
    match codec::of(endpoint) {
        Some(codec) => codec.read_failure(status, &reply.headers, body).class,
        None => class_of_status(status),
    }
}

/// What an answer asks to wait, in its `retry-after-ms` or `Retry-After`.
fn retry_after(reply: &Reply) -> Option<Duration> {
    let text = |name: &str| reply.headers.get(name)?.to_str().ok();
    if let Some(ms) = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let after = text("retry-after")?;
    match after.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => {
            let date = httpdate::parse_http_date(after).ok()?;
            Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
        }
    }
}

/// A wait drawn between nothing and a bound that doubles with each attempt ("full jitter":
/// Brooker, "Exponential Backoff And Jitter", AWS 2015).
fn backoff(first: Duration, attempts: u32) -> Duration {
    let bound = first.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    bound.mul_f64(fastrand::f64())
}

/// What the choice of a deployment goes by.
fn ask(call: &Call) -> Ask<'_> {
    Ask {
        tenant: call.caller.tenant.as_deref(),
        run: call.run_named.then(|| call.run.0.as_str()),
        agent: call.agent.as_ref().map(Name::as_str),
        bytes: call.request.body.len() as u64,
    }
}

fn report(lease: &mut Lease, outcome: Outcome, why: &str) {
    if !lease.report(outcome) {
        return;
    }
    let upstream = &**lease.target().name();
    if outcome == Outcome::Barred {
        error!(upstream, why, "upstream refuses its key; left out until that is mended");
    } else {
        warn!(upstream, why, "upstream keeps failing; left out while others are healthy");
    }
}

/// A stream that has begun to answer: what came of it until then, and the rest.
struct Begun {
    held: SmallVec<[Bytes; 2]>,
    chunks: Chunks,
}

/// What is held back at most while a stream has not begun to answer.
const PREAMBLE_BYTES_MAX: usize = 64 << 10;

impl Begun {
    /// Waits for the first events that say something. Until then nothing has gone to the
    /// caller, so that another deployment may begin anew.
    async fn wait(mut chunks: Chunks, endpoint: Endpoint) -> Result<Self> {
        let mut held: SmallVec<[Bytes; 2]> = SmallVec::new();
        let mut bytes = 0;
        while let Some(chunk) = std::future::poll_fn(|cx| chunks.as_mut().poll_next(cx)).await {
            let chunk = chunk?;
            bytes += chunk.len();
            let says_something = !wire::is_preamble(endpoint, &chunk);
            held.push(chunk);
            if says_something || bytes > PREAMBLE_BYTES_MAX {
                break;
            }
        }
        held.reverse();
        Ok(Self { held, chunks })
    }
}

impl Stream for Begun {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.held.pop() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None => self.chunks.as_mut().poll_next(cx),
        }
    }
}

/// Counts the call as load of its deployment until its body has ended.
fn hold(mut reply: Reply, lease: Lease) -> Reply {
    reply.body = match reply.body {
        Body::Whole(bytes) => Body::Whole(bytes),
        Body::Events(chunks) => Body::Events(Box::pin(Leased { chunks, lease: Some(lease) })),
        Body::Bytes(chunks, length) => {
            Body::Bytes(Box::pin(Leased { chunks, lease: Some(lease) }), length)
        }
    };
    reply
}

struct Leased {
    chunks: Chunks,
    lease: Option<Lease>,
}

impl Stream for Leased {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.chunks.as_mut().poll_next(cx));
        match &next {
            Some(Ok(_)) => {
                if let Some(lease) = &mut self.lease {
                    lease.began();
                }
            }
            Some(Err(error)) => {
                if let Some(mut lease) = self.lease.take()
                    && error.origin() == Origin::Upstream
                {
                    report(&mut lease, Outcome::Failed, error.message());
                }
            }
            None => self.lease = None,
        }
        Poll::Ready(next)
    }
}

fn nobody() -> Error {
    let message = "every deployment of the model refused the connection";
    Error::new(ErrorKind::NoHealthyTarget, Origin::Upstream, Retry::SameTarget, message)
}
