//! Puts the parts together: routes, caches, upstreams and pipelines.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use paceline_cache::{Flights, Memory};
use paceline_core::Clock;
use paceline_gateway::http::ServerTls;
use paceline_gateway::{
    AdmitConfig, Deployment, Hedges, Lines, Models, Parts, Pipeline, Routes, Shared, Stored,
};
use paceline_route::{Affinity, LeastOfTwo, Policy, Pool, Target};
use paceline_sim::{Local, Shape};
use paceline_telemetry::metrics::{Gauge, Registry};
use paceline_upstream::{Dns, Http, Upstream};

use crate::config::{Kind, Resolved, ResolvedDeployment, Source};

/// Everything that the cores share, and what each needs to build its own part.
pub(crate) struct Gateway {
    shared: Arc<Shared>,
    sources: Vec<Way>,
    /// The addresses of upstreams' hosts.
    dns: Arc<Dns>,
    /// All metrics of this process.
    pub(crate) registry: Arc<Registry>,
    /// TLS of the listeners.
    pub(crate) tls: Option<Arc<ServerTls>>,
    /// Open client connections.
    pub(crate) connections: Gauge,
}

/// How a core makes its way to a deployment.
enum Way {
    Http(
        Box<paceline_upstream::Config>,
        Option<Arc<paceline_upstream::TlsConfig>>,
        paceline_upstream::Metrics,
    ),
    /// Shared by all cores.
    Engine(Local),
}

impl Gateway {
    /// Builds what is shared. `engines` answer for the embedded deployments, in order.
    pub(crate) fn new(
        resolved: &Resolved,
        clock: &Clock,
        engines: Vec<Local>,
    ) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        let deployments = &resolved.deployments;
        let is_simulated = |d: &ResolvedDeployment| matches!(d.source, Source::Embedded);
        let named: Vec<(&str, bool)> =
            deployments.iter().map(|d| (d.name.as_str(), is_simulated(d))).collect();
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let cache_metrics = paceline_cache::Metrics::register(&mut registry);
        let metrics = paceline_gateway::Metrics::register(&mut registry, &named);
        let upstream_metrics = paceline_upstream::Metrics::register(&mut registry, &names);
        let mut engines = engines.into_iter();
        let mut sources = Vec::new();
        let mut routed = Vec::new();
        for (deployment, metrics) in deployments.iter().zip(upstream_metrics) {
            let models = deployment.models.clone();
            let models = match &deployment.source {
                Source::Http(config, trust) => {
                    // Reading the machine's certificate authorities costs memory and time.
                    let tls = if config.url.is_tls() {
                        let tls = paceline_upstream::tls(trust, config.http2);
                        Some(tls.with_context(|| format!("deployment `{}`", deployment.name))?)
                    } else {
                        None
                    };
                    sources.push(Way::Http(config.clone(), tls, metrics));
                    models.map_or(Models::Any(Vec::new()), Models::Named)
                }
                Source::Embedded => {
                    let engine = engines.next().context("an embedded deployment has no engine")?;
                    let listed = vec![engine.model().to_owned()];
                    sources.push(Way::Engine(engine));
                    models.map_or(Models::Any(listed), Models::Named)
                }
            };
            routed.push(Deployment {
                target: Arc::new(Target::new(deployment.name.as_str(), resolved.health)),
                simulated: is_simulated(deployment),
                provider: deployment.provider,
                keyed: matches!(&deployment.source, Source::Http(config, _) if config.api_key.is_some() || config.aws.is_some()),
                rename: renamed(&deployment.rename),
                models,
            });
        }
        let kinds: Vec<Kind> = deployments.iter().map(|d| d.kind).collect();
        let connections = metrics.connections().clone();
        let lines =
            Lines { config: resolved.lines, clock: clock.clone(), metrics: metrics.clone() };
        let shared = Shared {
            admit: AdmitConfig { keys: resolved.keys.clone() },
            memory: Memory::new(resolved.memory, clock.clone(), cache_metrics.clone()),
            flights: Flights::new(resolved.flights, cache_metrics),
            retry: resolved.retry,
            hedges: Hedges::new(resolved.hedge),
            lines: resolved.lines,
            keep_alive: resolved.keep_alive,
            stored: Stored::new(resolved.stored, clock.clone()),
            routes: Routes::new(routed, resolved.chains.clone(), lines, |places, targets| {
                let engines = places.iter().all(|at| kinds[*at] == Kind::Engine);
                let policy: Box<dyn Policy> =
                    if engines { Box::<Affinity>::default() } else { Box::new(LeastOfTwo) };
                Pool::new(targets, policy, clock.clone())
            }),
            metrics,
            clock: clock.clone(),
        };
        let (tls, dns) = (resolved.tls.clone(), Dns::new(resolved.dns, clock.clone()));
        Ok(Self {
            shared: Arc::new(shared),
            sources,
            dns,
            registry: Arc::new(registry),
            tls,
            connections,
        })
    }

    /// The pipeline of the calling core.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn pipeline(&self) -> Arc<Pipeline> {
        let clock = &self.shared.clock;
        let way = |way: &Way| -> Arc<dyn Upstream> {
            match way {
                Way::Http(config, tls, metrics) => Http::new(
                    (**config).clone(),
                    tls.clone(),
                    Arc::clone(&self.dns),
                    clock.clone(),
                    metrics.clone(),
                ),
                Way::Engine(engine) => Arc::new(engine.clone()),
            }
        };
        let upstreams = self.sources.iter().map(way).collect();
        Pipeline::new(Parts { shared: Arc::clone(&self.shared), upstreams })
    }
}

fn renamed(names: &HashMap<String, String>) -> HashMap<Bytes, String> {
    names.iter().map(|(from, to)| (Bytes::from(from.clone()), to.clone())).collect()
}

/// Starts `count` engines in this process.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn engines(
    config: &paceline_sim::Config,
    clock: &Clock,
    count: u32,
) -> anyhow::Result<Vec<Local>> {
    let shape = Shape::load(&config.shape)?;
    (0..count).map(|replica| Ok(Local::start(config, &shape, clock, replica)?)).collect()
}
