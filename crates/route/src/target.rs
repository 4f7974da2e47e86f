//! The deployments of one model, their load, and the lease that a call takes on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use paceline_core::{Clock, Instant};
use xxhash_rust::xxh3::xxh3_64;

use crate::health::{Health, HealthConfig};
use crate::policy::{Policy, RouteKey};

/// One deployment in a pool.
#[derive(Debug)]
pub struct Target {
    name: Arc<str>,
    seed: u64,
    outstanding: AtomicU32,
    health: Health,
}

impl Target {
    /// A healthy, idle deployment.
    pub fn new(name: impl Into<Arc<str>>, health: HealthConfig) -> Self {
        let name = name.into();
        Self {
            seed: xxh3_64(name.as_bytes()),
            name,
            outstanding: AtomicU32::new(0),
            health: Health::new(health),
        }
    }

    /// The deployment's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Calls under way.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Whether it takes calls at `now`.
    pub fn usable(&self, now: Instant) -> bool {
        self.health.usable(now)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }
}

/// The deployments that serve one model, and the policy that chooses among them. Shared
/// by all cores; a deployment of several models is in several pools with one load.
pub struct Pool {
    targets: Vec<Arc<Target>>,
    policy: Box<dyn Policy>,
    clock: Clock,
}

impl Pool {
    /// Most deployments of one model.
    pub const TARGETS_MAX: usize = 64;

    /// A pool of at most [`Self::TARGETS_MAX`] deployments; further ones are left out.
    pub fn new(mut targets: Vec<Arc<Target>>, policy: Box<dyn Policy>, clock: Clock) -> Arc<Self> {
        targets.truncate(Self::TARGETS_MAX);
        Arc::new(Self { targets, policy, clock })
    }

    /// The deployments.
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// Chooses a deployment among those that are healthy and not in `tried` (one bit a
    /// target). When none is healthy, the choice is among the others of `tried` all the
    /// same: an answer of a failing upstream says more than a refusal of ours. `None` when
    /// all were tried.
    pub fn lease(self: &Arc<Self>, run: &str, tried: u64) -> Option<Lease> {
        let now = self.clock.now();
        let all = self.targets.iter().enumerate();
        let rest = all.clone().fold(0, |set, (at, _)| set | 1 << at) & !tried;
        let healthy = all.fold(0, |set, (at, t)| set | u64::from(t.usable(now)) << at) & rest;
        let key = RouteKey { run, random: fastrand::u64(..) };
        let mut usable = healthy;
        while let Some(at) = self.policy.pick(key, &self.targets, usable) {
            if let Some(trial) = self.targets[at].health.enter(now) {
                return Some(Lease::take(self, at, trial));
            }
            usable &= !(1 << at);
        }
        let at = self.policy.pick(key, &self.targets, rest)?;
        Some(Lease::take(self, at, false))
    }
}

/// How a call on a deployment ended, as far as health is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It could not be reached, broke off, or reported a failure of its own.
    Failed,
}

/// The right to send one call to a deployment; counts as load until it drops.
pub struct Lease {
    pool: Arc<Pool>,
    at: usize,
    trial: bool,
}

impl Lease {
    fn take(pool: &Arc<Pool>, at: usize, trial: bool) -> Self {
        pool.targets[at].outstanding.fetch_add(1, Ordering::Relaxed);
        Self { pool: Arc::clone(pool), at, trial }
    }

    /// The deployment's place in the pool.
    pub fn index(&self) -> usize {
        self.at
    }

    /// The deployment.
    pub fn target(&self) -> &Target {
        &self.pool.targets[self.at]
    }

    /// Tells how the call began or ended; whether that took the deployment out of use.
    pub fn report(&mut self, outcome: Outcome) -> bool {
        let trial = std::mem::take(&mut self.trial);
        let health = &self.pool.targets[self.at].health;
        match outcome {
            Outcome::Answered => {
                health.succeeded();
                false
            }
            Outcome::Failed => health.failed(self.pool.clock.now(), trial),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let target = &self.pool.targets[self.at];
        target.outstanding.fetch_sub(1, Ordering::Relaxed);
        if self.trial {
            target.health.undecided(self.pool.clock.now());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::LeastOfTwo;

    pub(crate) fn targets(loads: &[u32]) -> Vec<Arc<Target>> {
        let target = |(at, load): (usize, &u32)| {
            let target = Target::new(format!("t{at}"), HealthConfig::default());
            target.outstanding.store(*load, Ordering::Relaxed);
            Arc::new(target)
        };
        loads.iter().enumerate().map(target).collect()
    }

    #[test]
    fn load_is_given_back_and_failing_targets_are_left_out() {
        let pool = Pool::new(targets(&[0, 0]), Box::new(LeastOfTwo), Clock::real());
        let lease = pool.lease("r", 0).unwrap();
        assert_eq!(lease.target().outstanding(), 1);
        let other = pool.lease("r", 1 << lease.index()).unwrap();
        assert_ne!(other.index(), lease.index());
        assert!(pool.lease("r", 0b11).is_none());
        drop((lease, other));
        assert!(pool.targets().iter().all(|t| t.outstanding() == 0));
        for _ in 0..5 {
            let mut lease = pool.lease("r", 0b10).unwrap();
            lease.report(Outcome::Failed);
        }
        for _ in 0..20 {
            assert_eq!(pool.lease("r", 0).unwrap().index(), 1, "only the healthy one is chosen");
        }
        assert_eq!(pool.lease("r", 0b10).unwrap().index(), 0, "with no healthy one left, any");
    }
}
