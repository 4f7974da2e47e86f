//! The way of a call through the deployments and models that may answer it, until one does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paceline_core::{Call, Error, ErrorKind, Origin, Reply, Result, Retry};
use paceline_upstream::Upstream;
use serde_json::json;

use crate::pipeline::Shared;
use crate::stages::attempt::{Errand, Failed};
use crate::stages::line::Turn;
use crate::stages::routes::{Chain, Deployment, Route};
use crate::stages::stored::TakenUp;
use crate::stages::verdict::{Again, Fallback, Verdict};

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
    /// Whether a stream that breaks off after its first content goes on at another
    /// deployment, which is given what has come. Default: no.
    pub continue_streams: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff: Duration::from_millis(500),
            wait_max: Duration::from_secs(30),
            continue_streams: false,
        }
    }
}

/// The stage. Clones share everything.
#[derive(Clone)]
pub struct Send {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstreams: Arc<[Arc<dyn Upstream>]>,
}

/// What is asked of one model.
struct Ask<'a> {
    model: &'a Bytes,
    route: &'a Route,
    /// Whether the call waits for a provider's limits.
    patient: bool,
    /// The one deployment that may answer, where there is only one.
    only: Option<usize>,
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

impl Send {
    pub(crate) fn new(shared: Arc<Shared>, upstreams: Vec<Arc<dyn Upstream>>) -> Self {
        debug_assert_eq!(shared.routes.deployments().len(), upstreams.len());
        Self { shared, upstreams: upstreams.into() }
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
        match self.shared.stored.taken_up(call)? {
            None => self.send_to(call, None).await,
            Some(TakenUp { call: continued, only }) => {
                Box::pin(self.send_to(continued.as_ref().unwrap_or(call), only)).await
            }
        }
    }

    /// Sends the call; to one deployment `only` where that stores what the call continues.
    async fn send_to(&self, call: &Arc<Call>, only: Option<usize>) -> Result<Reply> {
        let routes = &self.shared.routes;
        let model = &call.request.fields.model;
        let Some(chain) = routes.chains.get(model) else {
            let ask = Ask { model, route: routes.find(model)?, patient: true, only };
            return self.try_model(call, ask).await.result;
        };
        // Boxed, so that calls without a chain carry no room for it.
        Box::pin(self.send_along(call, chain, only)).await
    }

    /// Sends the call to each model of a chain until one answers.
    async fn send_along(
        &self,
        call: &Arc<Call>,
        chain: &Chain,
        only: Option<usize>,
    ) -> Result<Reply> {
        let routes = &self.shared.routes;
        let (mut rest, mut longer) = (chain.models.iter(), chain.longer.as_ref());
        let mut next = rest.next();
        let mut result = Err(nobody());
        while let Some(model) = next {
            let ended = match routes.find(model) {
                // Only where no other model is left, a call waits for a provider's limits.
                Ok(route) => {
                    let patient = rest.len() == 0;
                    self.try_model(call, Ask { model, route, patient, only }).await
                }
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
        Ask { model, route, patient, only }: Ask<'_>,
    ) -> Ended {
        let (endpoint, retry) = (call.request.endpoint, self.shared.retry);
        // Those that count as tried from the beginning.
        let never = only.map_or(0, |only| route.all_but(only));
        let (mut tried, mut attempts, mut refused) = (never, 0, false);
        let mut last = Ended { result: Err(nobody()), fallback: Fallback::Next };
        loop {
            let turn = match (patient, refused) {
                (false, _) => Turn::Elsewhere,
                (true, true) => Turn::Again,
                (true, false) => Turn::First,
            };
            let boarded = route.line.board(call, route.way(endpoint), tried, turn).await;
            let (lease, pass) = match boarded {
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
            let sent = self
                .hedged(Errand { call, model, route, begun: None }, (lease, pass), &mut tried)
                .await;
            let Failed { result, verdict, wait, limited } = match sent {
                Ok(reply) => {
                    let reply = self.continuing(call, model, reply);
                    return Ended { result: Ok(reply), fallback: Fallback::None };
                }
                Err(failed) => failed,
            };
            last = Ended { result, fallback: verdict.fallback };
            refused = limited.is_some();
            if refused {
                if !patient {
                    return last;
                }
                // From here on the learner says when, and the call keeps its place.
                tried = never;
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
                tried = never;
            }
        }
    }

    /// Whether a call may wait so long before its next attempt.
    fn may_wait(&self, call: &Call, wait: Duration) -> bool {
        let end = self.shared.clock.now().after(wait);
        wait <= self.shared.retry.wait_max && call.deadline.0.is_none_or(|deadline| end < deadline)
    }

    /// The deployments, in the order of the upstreams.
    pub fn deployments(&self) -> &[Deployment] {
        self.shared.routes.deployments()
    }

    /// The names that stand for several models.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &Bytes> {
        self.shared.routes.chains.keys()
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
                    |place: usize| &**routes.deployments()[route.deployments[place]].target.name();
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

/// A wait drawn between nothing and a bound that doubles with each attempt ("full jitter":
/// Brooker, "Exponential Backoff And Jitter", AWS 2015).
fn backoff(first: Duration, attempts: u32) -> Duration {
    let bound = first.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    bound.mul_f64(fastrand::f64())
}

fn nobody() -> Error {
    let message = "every deployment of the model refused the connection";
    Error::new(ErrorKind::NoHealthyTarget, Origin::Upstream, Retry::SameTarget, message)
}
