//! Which deployments serve which model, and the way of a call to them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use paceline_core::{Call, Clock, Endpoint, Error, ErrorKind, Name, Origin, Result, Retry};
use paceline_route::{Ask, Lease, Pool, Target};
use paceline_upstream::Provider;

use crate::metrics::Metrics;
use crate::stages::line::{Line, LineConfig};

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
    pub(crate) named: HashMap<Bytes, Route>,
    pub(crate) any: Option<Route>,
    pub(crate) chains: HashMap<Bytes, Chain>,
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

pub(crate) struct Route {
    pool: Arc<Pool>,
    pub(crate) line: Arc<Line>,
    /// The place among all deployments of each place in the pool.
    pub(crate) deployments: Vec<usize>,
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

    pub(crate) fn find(&self, model: &Bytes) -> Result<&Route> {
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
    pub(crate) fn all_tried(&self, tried: u64) -> bool {
        tried.count_ones() as usize >= self.deployments.len()
    }

    /// The places of all deployments but one; of none where that is not among them.
    pub(crate) fn all_but(&self, deployment: usize) -> u64 {
        let place = self.deployments.iter().position(|at| *at == deployment);
        let all = u64::MAX >> (64 - self.deployments.len().clamp(1, 64));
        place.map_or(0, |place| all & !(1 << place))
    }

    /// The places of all deployments, one bit each, that are as they should be.
    pub(crate) fn places(&self, mut fits: impl FnMut(usize) -> bool) -> u64 {
        let places = self.deployments.iter().enumerate();
        places.map(|(place, at)| u64::from(fits(*at)) << place).sum()
    }

    /// The way of a call to the deployments.
    pub(crate) fn way(&self, endpoint: Endpoint) -> Way {
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

/// What the choice of a deployment goes by.
pub(crate) fn ask(call: &Call) -> Ask<'_> {
    Ask {
        tenant: call.caller.tenant.as_deref(),
        run: call.run_named.then(|| call.run.0.as_str()),
        agent: call.agent.as_ref().map(Name::as_str),
        bytes: call.request.body.len() as u64,
    }
}
