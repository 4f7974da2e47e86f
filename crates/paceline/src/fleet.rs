//! A fleet of agents on simulated replicas in virtual time, with and without Paceline.
//!
//! Without it an agent's calls go straight to a replica; with it they go through the same
//! pipeline that `serve` runs, in this process and on the same virtual clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use paceline_core::clock::{Stalled, run_virtual};
use paceline_core::{Body, BoxFuture, CacheStatus, Clock, Endpoint, Name, RunId};
use paceline_gateway::{Incoming, Pipeline};
use paceline_load::replay::OnProgress;
use paceline_load::{
    Config as ReplayConfig, Failure, FailureKind, Meta, Outcome, Probe, Replay, ReplicaStats,
    Request, Response, Target, Trace,
};
use paceline_sim::Local;

use crate::assemble::{self, Gateway};
use crate::config::{Resolved, ResolvedDeployment, Source};

/// How calls reach the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    /// Each agent has one replica for good, as when each is given a base URL.
    Fixed,
    /// Each call goes to the next replica, as behind a Kubernetes Service.
    RoundRobin,
    /// Through Paceline.
    Paceline,
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed replica",
            Self::RoundRobin => "round robin",
            Self::Paceline => "Paceline",
        })
    }
}

/// The replicas and the gateway of a replay.
#[derive(Clone)]
pub(crate) struct Fleet {
    /// How many replicas.
    pub(crate) replicas: u32,
    /// What they are.
    pub(crate) sim: paceline_sim::Config,
    /// The gateway's settings; its deployments are replaced by the replicas.
    pub(crate) gateway: Arc<Resolved>,
}

impl Fleet {
    /// Replays a trace in virtual time.
    ///
    /// # Errors
    /// When an engine cannot start, or virtual time stands still (a bug).
    pub(crate) fn replay(
        &self,
        arm: Arm,
        trace: Arc<Trace>,
        config: ReplayConfig,
        meta: Meta,
        on_progress: Option<OnProgress>,
    ) -> anyhow::Result<Outcome> {
        let outcome: Result<anyhow::Result<Outcome>, Stalled> = run_virtual(|clock| async move {
            let sim = paceline_sim::Config { stamps: true, ..self.sim.clone() };
            let engines = assemble::engines(&sim, &clock, self.replicas)?;
            let names: Vec<Arc<str>> =
                (0..self.replicas).map(|replica| Arc::from(format!("replica-{replica}"))).collect();
            let probe = Engines { engines: engines.clone(), names: names.clone() };
            let target: Arc<dyn Target> = match arm {
                Arm::Fixed => Arc::new(Direct { engines, names, turn: None }),
                Arm::RoundRobin => {
                    Arc::new(Direct { engines, names, turn: Some(AtomicUsize::new(0)) })
                }
                Arm::Paceline => Arc::new(self.gateway(&clock, engines, &names)?),
            };
            let probe: Option<Arc<dyn Probe>> = Some(Arc::new(probe));
            Ok(Replay { trace, config, target, probe, clock, on_progress, meta }.run().await)
        });
        outcome?
    }

    fn gateway(
        &self,
        clock: &Clock,
        engines: Vec<Local>,
        names: &[Arc<str>],
    ) -> anyhow::Result<Through> {
        let replica =
            |name: &Arc<str>| ResolvedDeployment::engine(name.to_string(), Source::Embedded);
        let resolved = Resolved {
            deployments: names.iter().map(replica).collect(),
            keys: Vec::new(),
            ..(*self.gateway).clone()
        };
        let gateway = Gateway::new(&resolved, clock, engines)?;
        Ok(Through { pipeline: gateway.pipeline(), clock: clock.clone() })
    }
}

/// Straight to the replicas.
struct Direct {
    engines: Vec<Local>,
    names: Vec<Arc<str>>,
    /// The next replica; `None` keeps each session at one.
    turn: Option<AtomicUsize>,
}

impl Target for Direct {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Failure>> {
        let number = match &self.turn {
            Some(turn) => turn.fetch_add(1, Ordering::Relaxed),
            None => request.session,
        };
        let at = number % self.engines.len();
        Box::pin(async move {
            let reply = self.engines[at].chat(&HeaderMap::new(), &request.body).await?;
            Ok(Response {
                status: reply.status.as_u16(),
                replica: Some(Arc::clone(&self.names[at])),
                cache: None,
                body: match reply.body {
                    Body::Events(chunks) | Body::Bytes(chunks, _) => chunks,
                    Body::Whole(bytes) => Box::pin(futures_util::stream::iter([Ok(bytes)])),
                },
            })
        })
    }
}

/// Through the gateway's pipeline.
struct Through {
    pipeline: Arc<Pipeline>,
    clock: Clock,
}

const AGENT: HeaderName = HeaderName::from_static("x-paceline-agent");

impl Target for Through {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Failure>> {
        Box::pin(async move {
            let run = Name::new(request.run)
                .map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some(agent) = request.agent.and_then(|agent| HeaderValue::try_from(agent).ok()) {
                headers.insert(AGENT, agent);
            }
            let incoming = Incoming {
                endpoint: Endpoint::Chat,
                method: Method::POST,
                path: "/v1/chat/completions".into(),
                run: Some(RunId(run)),
                headers,
                body: request.body,
                arrived: self.clock.now(),
            };
            let answer = self.pipeline.handle(incoming).await;
            let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
            Ok(Response {
                status: answer.status.as_u16(),
                replica: text("x-paceline-deployment").map(Arc::from),
                cache: text("x-paceline-cache").and_then(CacheStatus::parse),
                body: Box::pin(answer.body),
            })
        })
    }
}

struct Engines {
    engines: Vec<Local>,
    names: Vec<Arc<str>>,
}

impl Probe for Engines {
    fn sample(&self) -> Vec<ReplicaStats> {
        let sample = |(engine, name): (&Local, &Arc<str>)| {
            let stats = engine.engine().stats();
            ReplicaStats {
                name: Arc::clone(name),
                running: stats.running,
                waiting: stats.waiting,
                kv_usage: stats.kv_usage(),
            }
        };
        self.engines.iter().zip(&self.names).map(sample).collect()
    }
}
