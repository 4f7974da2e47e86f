//! The route and the upstream: which deployment, the exchange with it, and what follows when
//! that fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use paceline_core::{
    Body, Call, Clock, Endpoint, Error, ErrorKind, Name, Origin, Reply, Result, Retry,
};
use paceline_dialect::codec;
use paceline_dialect::neutral::FailureClass;
use paceline_route::{Ask, Lease, Outcome, Pool, Target};
use paceline_upstream::limits::{Class, Headers, Refusal, headers};
use paceline_upstream::{Provider, Upstream};
use serde_json::json;
use tracing::{error, warn};

use crate::metrics::Metrics;
use crate::pipeline::Shared;
use crate::stages::answer::{Begun, hold};
use crate::stages::line::{Line, LineConfig, Pass, Turn};
use crate::stages::prepare::prepare;
use crate::stages::translate;
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

/// What the lines before the pools are made of.
pub struct Lines {
    /// How calls wait.
    pub config: LineConfig,
    /// The clock of all waiting.
    pub clock: Clock,
    /// Where waits are counted.
    pub metrics: Metrics,
}

struct Route {
    pool: Arc<Pool>,
    line: Arc<Line>,
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
        lines: Lines,
        pool: impl Fn(&[usize], Vec<Arc<Target>>) -> Arc<Pool>,
    ) -> Self {
        let Lines { config, clock, metrics } = lines;
        let line = |places| Line::new(places, config, clock.clone(), metrics.clone());
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
                line: line(places.len()),
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
    fn all_tried(&self, tried: u64) -> bool {
        tried.count_ones() as usize >= self.deployments.len()
    }

    /// The way of a call to the deployments.
    fn way(&self, endpoint: Endpoint) -> Way {
        let native = self.native.get(&endpoint).copied().unwrap_or(0);
        let all = u64::MAX >> (64 - self.deployments.len().clamp(1, 64));
        // Most pools speak one dialect, and have no first choice.
        Way { pool: Arc::clone(&self.pool), first: if native == all { 0 } else { native }, all }
    }
}

/// The deployments that may take a call, and those that would rather.
pub(crate) struct Way {
    pool: Arc<Pool>,
    /// Those that speak the caller's dialect, where not all do.
    first: u64,
    all: u64,
}

impl Way {
    /// All places, one bit each.
    pub(crate) const fn places(&self) -> u64 {
        self.all
    }

    /// A deployment that is not in `tried`; one that speaks the caller's dialect first.
    pub(crate) fn lease(&self, ask: &Ask<'_>, tried: u64) -> Option<Lease> {
        let first = self.first & !tried != 0 && self.first & !tried & self.pool.usable() != 0;
        self.pool.lease(ask, if first { tried | !self.first } else { tried })
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

impl Ended {
    fn of(error: Error) -> Self {
        let fallback = Verdict::of_error(&error).fallback;
        Self { result: Err(error), fallback }
    }
}

/// How one attempt failed.
struct Failed {
    result: Result<Reply>,
    verdict: Verdict,
    /// What the upstream asks to wait.
    wait: Option<Duration>,
    /// The upstream refused the call for a limit of its own.
    limited: Option<Refusal>,
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
    pub(crate) async fn send(&self, call: &Arc<Call>) -> Result<Reply> {
        let routes = &self.shared.routes;
        let model = &call.request.fields.model;
        let Some(chain) = routes.chains.get(model) else {
            return self.try_model(call, model, routes.find(model)?, true).await.result;
        };
        let (mut rest, mut longer) = (chain.models.iter(), chain.longer.as_ref());
        let mut next = rest.next();
        let mut result = Err(nobody());
        while let Some(model) = next {
            let ended = match routes.find(model) {
                // Only where no other model is left, a call waits for a provider's limits.
                Ok(route) => self.try_model(call, model, route, rest.len() == 0).await,
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
    async fn try_model(
        &self,
        call: &Arc<Call>,
        model: &Bytes,
        route: &Route,
        patient: bool,
    ) -> Ended {
        let (endpoint, retry) = (call.request.endpoint, self.shared.retry);
        let (mut tried, mut attempts, mut refused) = (0u64, 0, false);
        let mut last = Ended { result: Err(nobody()), fallback: Fallback::Next };
        loop {
            let turn = match (patient, refused) {
                (false, _) => Turn::Elsewhere,
                (true, true) => Turn::Again,
                (true, false) => Turn::First,
            };
            let boarded = route.line.board(call, route.way(endpoint), tried, turn).await;
            let (mut lease, pass) = match boarded {
                Ok(Some(boarded)) => boarded,
                Ok(None) => return last,
                // A refusal that led to the wait says more than its end.
                Err(_) if refused => return last,
                Err(error) => return Ended::of(error),
            };
            let retries = lease.target().retries();
            if attempts == 0 {
                retries.attempted();
            } else if refused || retries.take() {
                self.shared.metrics.retries.inc();
            } else {
                return last;
            }
            attempts += u32::from(!refused);
            tried |= 1 << lease.index();
            let place = lease.index();
            let at = route.deployments[place];
            let once = self.once(call, model, at);
            let (sent, pass) = watched(once, pass, &self.shared.clock).await;
            let shown = match &sent {
                Ok(reply) | Err(Failed { result: Ok(reply), .. }) => Some(&reply.headers),
                Err(_) => None,
            };
            if let Some(limits) = shown.and_then(|headers| self.limits_in(at, headers)) {
                route.line.shown(place, pass.as_ref(), &limits);
            }
            let Failed { result, verdict, wait, limited } = match sent {
                Ok(reply) => {
                    report(&mut lease, Outcome::Answered, "");
                    lease.target().retries().answered();
                    return Ended {
                        result: Ok(hold(call, reply, lease, pass)),
                        fallback: Fallback::None,
                    };
                }
                Err(failed) => failed,
            };
            let why = match &result {
                Ok(reply) => reply.status.as_str().to_owned(),
                Err(error) => error.message().to_owned(),
            };
            let outcome = if limited.is_some() { Outcome::Answered } else { verdict.outcome };
            report(&mut lease, outcome, &why);
            drop(lease);
            last = Ended { result, fallback: verdict.fallback };
            refused = false;
            if let Some(refusal) = limited.filter(|_| self.shared.limits_learned(wait)) {
                // From here on the learner says when, and the call keeps its place.
                route.line.refused(place, pass, &refusal);
                if !patient {
                    return last;
                }
                (refused, tried) = (true, 0);
                continue;
            }
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

    /// The limits that an answer of a deployment shows, where they are of use.
    fn limits_in(&self, at: usize, headers: &HeaderMap) -> Option<Headers> {
        // Most answers show none, and are not searched.
        let shows = |name: &::http::HeaderName| name.as_str().contains("ratelimit-");
        if !self.shared.lines.learn || !headers.keys().any(shows) {
            return None;
        }
        let provider = self.shared.routes.deployments[at].provider;
        Headers::read(headers, provider.limits, unix_s())
    }

    /// Whether a call may wait so long before its next attempt.
    fn may_wait(&self, call: &Call, wait: Duration) -> bool {
        let end = self.shared.clock.now().after(wait);
        wait <= self.shared.retry.wait_max && call.deadline.0.is_none_or(|deadline| end < deadline)
    }

    /// One attempt at a deployment. A stream has begun to answer when this returns.
    async fn once(&self, call: &Call, model: &Bytes, at: usize) -> Result<Reply, Failed> {
        let deployment = &self.shared.routes.deployments[at];
        let raw = &call.request;
        if raw.endpoint == Endpoint::CountTokens && !deployment.provider.speaks(raw.endpoint) {
            return translate::count_tokens(raw).map_err(Failed::of);
        }
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
        let class = match whole(&reply) {
            Some(body) => classify(endpoint, &reply, body),
            None => class_of_status(reply.status.as_u16()),
        };
        let verdict = Verdict::of_class(class, deployment.keyed);
        let wait = retry_after(&reply);
        let limited = limit_of(class, reply.status.as_u16()).map(|class| Refusal {
            class,
            retry_after: wait,
            dimension: whole(&reply).and_then(headers::refused_dimension),
        });
        let result = match prepared.translation {
            None => Ok(reply),
            Some(translation) => translation.reply(reply),
        };
        Err(Failed { result, verdict, wait, limited })
    }

    /// The deployments, in the order of the upstreams.
    pub fn deployments(&self) -> &[Deployment] {
        self.shared.routes.deployments()
    }

    /// The names that stand for several models.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &Bytes> {
        self.shared.routes.chains()
    }

    /// What is believed of the limits of each model's deployments, and how many calls wait.
    pub(crate) fn limits(&self) -> serde_json::Value {
        let routes = &self.shared.routes;
        let any = routes.any.iter().map(|route| (None, route));
        let named = routes.named.iter().map(|(model, route)| (Some(model), route));
        let mut lines: Vec<_> = named
            .chain(any)
            .map(|(model, route)| {
                let (waiting, beliefs) = route.line.beliefs();
                let name =
                    |place: usize| &**routes.deployments[route.deployments[place]].target.name();
                let deployments: Vec<_> = beliefs
                    .iter()
                    .map(|(place, beliefs)| json!({"deployment": name(*place), "limits": beliefs}))
                    .collect();
                let model = model.map(|model| String::from_utf8_lossy(model).into_owned());
                json!({"model": model, "waiting": waiting, "deployments": deployments})
            })
            .collect();
        lines.sort_by_key(|line| line["model"].to_string());
        json!({ "models": lines })
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
        Self { result: Err(error), verdict, wait: None, limited: None }
    }
}

/// What kind of error an upstream's answer is.
fn classify(endpoint: Endpoint, reply: &Reply, body: &[u8]) -> FailureClass {
    let status = reply.status.as_u16();
    match codec::of(endpoint) {
        Some(codec) => codec.read_failure(status, &reply.headers, body).class,
        None => class_of_status(status),
    }
}

/// What an answer asks to wait, in its `retry-after-ms` or `Retry-After`, or in Google's body.
fn retry_after(reply: &Reply) -> Option<Duration> {
    let asked = headers::retry_after(&reply.headers, unix_s());
    asked.or_else(|| headers::retry_info(whole(reply)?))
}

/// The body of an answer that is no stream.
fn whole(reply: &Reply) -> Option<&[u8]> {
    match &reply.body {
        Body::Whole(body) => Some(body),
        _ => None,
    }
}

fn unix_s() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// A wait drawn between nothing and a bound that doubles with each attempt ("full jitter":
/// Brooker, "Exponential Backoff And Jitter", AWS 2015).
fn backoff(first: Duration, attempts: u32) -> Duration {
    let bound = first.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    bound.mul_f64(fastrand::f64())
}

/// The kind of limit that a class of errors speaks of.
const fn limit_of(class: FailureClass, status: u16) -> Option<Class> {
    match (class, status) {
        (FailureClass::RateLimited, _) => Some(Class::RateLimit),
        // Anthropic's word for it; a 503 is an outage as likely as not.
        (FailureClass::Overloaded, 529) => Some(Class::Overloaded),
        _ => None,
    }
}

/// Lets an attempt run, and tells its pass after a second without a refusal that it was
/// accepted: some providers refuse at once or never.
async fn watched(
    attempt: impl Future<Output = Result<Reply, Failed>>,
    pass: Option<Pass>,
    clock: &Clock,
) -> (Result<Reply, Failed>, Option<Pass>) {
    let Some(mut pass) = pass else { return (attempt.await, None) };
    let mut attempt = std::pin::pin!(attempt);
    if let Some(sent) = clock.timeout_at(clock.now().after(ACCEPTED_AFTER), &mut attempt).await {
        return (sent, Some(pass));
    }
    pass.accepted();
    (attempt.await, Some(pass))
}

/// A call that was not refused for so long is taken as accepted (`limit-learning.md` of our
/// own research: refusals come within a second).
const ACCEPTED_AFTER: Duration = Duration::from_secs(1);

/// What the choice of a deployment goes by.
pub(crate) fn ask(call: &Call) -> Ask<'_> {
    Ask {
        tenant: call.caller.tenant.as_deref(),
        run: call.run_named.then(|| call.run.0.as_str()),
        agent: call.agent.as_ref().map(Name::as_str),
        bytes: call.request.body.len() as u64,
    }
}

pub(crate) fn report(lease: &mut Lease, outcome: Outcome, why: &str) {
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

fn nobody() -> Error {
    let message = "every deployment of the model refused the connection";
    Error::new(ErrorKind::NoHealthyTarget, Origin::Upstream, Retry::SameTarget, message)
}
