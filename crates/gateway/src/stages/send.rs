//! The route and the upstream: which deployment, and the exchange with it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::StatusCode;
use bytes::Bytes;
use futures_core::Stream;
use paceline_core::{Body, Call, Chunks, Error, ErrorKind, Name, Origin, Reply, Result, Retry};
use paceline_route::{Ask, Lease, Outcome, Pool, Target};
use paceline_upstream::{Provider, Upstream};
use tracing::warn;

use crate::pipeline::Shared;

/// Most deployments that one call tries when connections are refused.
const ATTEMPTS_MAX: u32 = 3;

/// A deployment as the gateway knows it; the upstreams stand in the same order.
#[derive(Clone)]
pub struct Deployment {
    /// Its load and health, shared by all pools that it is in.
    pub target: Arc<Target>,
    /// Whether its answers come from a simulated engine.
    pub simulated: bool,
    /// What it speaks.
    pub provider: &'static Provider,
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

/// Which deployments serve which model.
pub struct Routes {
    deployments: Vec<Deployment>,
    named: HashMap<Bytes, Route>,
    any: Option<Route>,
}

struct Route {
    pool: Arc<Pool>,
    /// The place among all deployments of each place in the pool.
    deployments: Vec<usize>,
}

impl Routes {
    /// Makes a pool for each model that is named, and one for all other models. `pool`
    /// chooses the policy for the deployments at the given places.
    pub fn new(
        deployments: Vec<Deployment>,
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
            (!places.is_empty())
                .then(|| Route { pool: pool(&places, targets), deployments: places })
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
        Self { deployments, named, any }
    }

    /// The deployments.
    pub fn deployments(&self) -> &[Deployment] {
        &self.deployments
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

/// The stage.
pub struct Send {
    shared: Arc<Shared>,
    upstreams: Vec<Arc<dyn Upstream>>,
}

impl Send {
    pub(crate) fn new(shared: Arc<Shared>, upstreams: Vec<Arc<dyn Upstream>>) -> Self {
        debug_assert_eq!(shared.routes.deployments.len(), upstreams.len());
        Self { shared, upstreams }
    }

    /// Sends the call to a deployment of its model; to another one where a connection was
    /// refused, so that nothing was sent.
    pub(crate) async fn send(&self, call: &Call) -> Result<Reply> {
        let route = self.shared.routes.find(&call.request.fields.model)?;
        let ask = ask(call);
        let mut tried = 0u64;
        loop {
            let Some(mut lease) = route.pool.lease(&ask, tried) else {
                return Err(nobody());
            };
            tried |= 1 << lease.index();
            let upstream = &self.upstreams[route.deployments[lease.index()]];
            match upstream.send(&call.request, call.deadline).await {
                Ok(mut reply) => {
                    reply.deployment = Some(Arc::clone(lease.target().name()));
                    let outcome = outcome_of(reply.status);
                    report(&mut lease, outcome, reply.status.as_str());
                    return Ok(hold(reply, lease));
                }
                Err(error) => {
                    if error.origin() == Origin::Upstream {
                        report(&mut lease, Outcome::Failed, error.message());
                    }
                    let left = (tried.count_ones() as usize) < route.deployments.len();
                    let again = error.retry() == Retry::OtherTarget
                        && left
                        && tried.count_ones() < ATTEMPTS_MAX;
                    if !again {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The deployments, in the order of the upstreams.
    pub fn deployments(&self) -> &[Deployment] {
        self.shared.routes.deployments()
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

/// What the choice of a deployment goes by.
fn ask(call: &Call) -> Ask<'_> {
    Ask {
        tenant: call.caller.tenant.as_deref(),
        run: call.run_named.then(|| call.run.0.as_str()),
        agent: call.agent.as_ref().map(Name::as_str),
        bytes: call.request.body.len() as u64,
    }
}

/// What a status says of the deployment's health: a refusal for its rate is none.
fn outcome_of(status: StatusCode) -> Outcome {
    let failed = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    if failed { Outcome::Failed } else { Outcome::Answered }
}

fn report(lease: &mut Lease, outcome: Outcome, why: &str) {
    if lease.report(outcome) {
        let upstream = &**lease.target().name();
        warn!(upstream, why, "upstream keeps failing; left out while others are healthy");
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
