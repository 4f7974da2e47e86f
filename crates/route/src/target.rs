//! The deployments of one model, their load, and the lease that a call takes on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use paceline_core::{Clock, Instant};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::budget::RetryBudget;
use crate::health::{Health, HealthConfig};
use crate::policy::{Policy, RouteKey};
use crate::times::Times;

/// One deployment in a pool.
#[derive(Debug)]
pub struct Target {
    name: Arc<str>,
    seed: u64,
    outstanding: AtomicU32,
    unread: AtomicU64,
    claims: AtomicU64,
    health: Health,
    retries: RetryBudget,
    whole_times: Times,
    stream_times: Times,
}

impl Target {
    /// A healthy, idle deployment.
    pub fn new(name: impl Into<Arc<str>>, health: HealthConfig) -> Self {
        let name = name.into();
        Self {
            seed: xxh3_64(name.as_bytes()),
            name,
            outstanding: AtomicU32::new(0),
            unread: AtomicU64::new(0),
            claims: AtomicU64::new(0),
            health: Health::new(health),
            retries: RetryBudget::default(),
            whole_times: Times::default(),
            stream_times: Times::default(),
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

    /// Bytes of requests that it may still be reading: those whose answer has not begun. A
    /// request whose prefix is known there counts as a whole, but for moments only.
    pub fn unread_bytes(&self) -> u64 {
        self.unread.load(Ordering::Relaxed)
    }

    /// Bytes that the runs at home here will want to find in its prefix cache: the latest
    /// request of each.
    pub fn claimed_bytes(&self) -> u64 {
        self.claims.load(Ordering::Relaxed)
    }

    pub(crate) fn claim(&self, bytes: u64) {
        self.claims.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what was claimed. Whoever does so has claimed it before, under one lock,
    /// so that the sum never falls below zero.
    pub(crate) fn unclaim(&self, bytes: u64) {
        self.claims.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The retries that it has earned.
    pub fn retries(&self) -> &RetryBudget {
        &self.retries
    }

    /// How long its answers take to begin: the first token of a stream, or all of a whole
    /// answer.
    pub fn times(&self, stream: bool) -> &Times {
        if stream { &self.stream_times } else { &self.whole_times }
    }

    /// Whether it takes calls at `now`.
    pub fn usable(&self, now: Instant) -> bool {
        self.health.usable(now)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }
}

/// A call that asks for a deployment.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose run it is; equal names of different tenants are different runs.
    pub tenant: Option<&'a str>,
    /// The run, where the client named it; `None` when it was made for this call alone.
    pub run: Option<&'a str>,
    /// The agent within the run: each has a conversation of its own.
    pub agent: Option<&'a str>,
    /// Bytes of the request's body.
    pub bytes: u64,
}

impl Ask<'_> {
    fn thread(&self) -> Option<u64> {
        let parts = [self.tenant, Some(self.run?), self.agent];
        let hash = |seed: u64, part: Option<&str>| {
            part.map_or(!seed, |part| xxh3_64_with_seed(part.as_bytes(), seed))
        };
        Some(parts.into_iter().fold(0, hash))
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

    /// The places of the deployments that take calls now, one bit each.
    pub fn usable(&self) -> u64 {
        let now = self.clock.now();
        let all = self.targets.iter().enumerate();
        all.fold(0, |set, (at, target)| set | u64::from(target.usable(now)) << at)
    }

    /// Whether one more may be left out as an outlier.
    fn may_eject(&self, share_max: f64) -> bool {
        let out = self.targets.len() - self.usable().count_ones() as usize;
        (out + 1) as f64 <= share_max * self.targets.len() as f64
    }

    /// The deployments.
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// Chooses a deployment among those that are healthy and not in `tried` (one bit a
    /// target). When none is healthy, the choice is among the others of `tried` all the
    /// same: an answer of a failing upstream says more than a refusal of ours. `None` when
    /// all were tried.
    pub fn lease(self: &Arc<Self>, ask: &Ask<'_>, tried: u64) -> Option<Lease> {
        let now = self.clock.now();
        let all = self.targets.iter().enumerate();
        let rest = all.clone().fold(0, |set, (at, _)| set | 1 << at) & !tried;
        let (thread, bytes, random) = (ask.thread(), ask.bytes, fastrand::u64(..));
        // In a slow start a conversation that was let in stays so.
        let draw = |target: &Target| thread.map_or(random, |thread| thread ^ target.seed);
        let takes = |target: &Target| u64::from(target.health.takes(now, draw(target)));
        let healthy = all.fold(0, |set, (at, target)| set | takes(target) << at) & rest;
        let key = RouteKey { thread, bytes, now, random };
        let mut usable = healthy;
        while let Some(at) = self.policy.pick(key, &self.targets, usable) {
            if let Some(trial) = self.targets[at].health.enter(now) {
                return Some(Lease::take(self, at, trial, now, bytes));
            }
            usable &= !(1 << at);
        }
        let at = self.policy.pick(key, &self.targets, rest)?;
        Some(Lease::take(self, at, false, now, bytes))
    }
}

/// How a call on a deployment ended, as far as health is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// A stream that had begun came to its end.
    Ended,
    /// It could not be reached, broke off, or reported a failure of its own.
    Failed,
    /// It refuses its key, so that it will refuse every call until somebody mends that.
    Barred,
}

/// The right to send one call to a deployment; counts as load until it drops.
pub struct Lease {
    pool: Arc<Pool>,
    at: usize,
    trial: bool,
    taken: Instant,
    /// Bytes of the request, until its answer begins.
    unread: u64,
}

impl Lease {
    fn take(pool: &Arc<Pool>, at: usize, trial: bool, taken: Instant, unread: u64) -> Self {
        let target = &pool.targets[at];
        target.outstanding.fetch_add(1, Ordering::Relaxed);
        target.unread.fetch_add(unread, Ordering::Relaxed);
        Self { pool: Arc::clone(pool), at, trial, taken, unread }
    }

    /// The deployment's place in the pool.
    pub fn index(&self) -> usize {
        self.at
    }

    /// When it was taken.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// The deployment.
    pub fn target(&self) -> &Target {
        &self.pool.targets[self.at]
    }

    /// Tells that the answer has begun, so that the request has been read. Only the first
    /// time counts.
    pub fn began(&mut self) {
        let unread = std::mem::take(&mut self.unread);
        if unread != 0 {
            self.target().unread.fetch_sub(unread, Ordering::Relaxed);
        }
    }

    /// Tells that a stream has begun to answer. That ends a trial; else a stream counts as
    /// answered at its end, or those that break off would never count as failures in a row.
    pub fn streams(&mut self) {
        if self.trial || !self.target().health.is_closed() {
            self.report(Outcome::Answered);
        }
    }

    /// Tells how the call began or ended; whether that took the deployment out of use.
    pub fn report(&mut self, outcome: Outcome) -> bool {
        let trial = std::mem::take(&mut self.trial);
        let health = &self.pool.targets[self.at].health;
        let now = || self.pool.clock.now();
        match outcome {
            Outcome::Answered => {
                health.succeeded(now, trial);
                false
            }
            Outcome::Ended => {
                health.ended();
                false
            }
            Outcome::Failed => {
                health.failed(now(), trial, || self.pool.may_eject(health.outliers_share_max()))
            }
            Outcome::Barred => health.barred(now()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.began();
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

    /// A call at the origin of time.
    pub(crate) fn key(thread: Option<u64>, bytes: u64) -> RouteKey {
        RouteKey { thread, bytes, now: Instant::default(), random: 0 }
    }

    /// Makes requests of so many bytes wait at a target.
    pub(crate) fn set_unread(target: &Target, bytes: u64) {
        target.unread.store(bytes, Ordering::Relaxed);
    }

    const ASK: Ask<'_> = Ask { tenant: None, run: Some("r"), agent: None, bytes: 10 };

    #[test]
    fn load_is_given_back_and_failing_targets_are_left_out() {
        let pool = Pool::new(targets(&[0, 0]), Box::new(LeastOfTwo), Clock::real());
        let mut lease = pool.lease(&ASK, 0).unwrap();
        assert_eq!((lease.target().outstanding(), lease.target().unread_bytes()), (1, 10));
        lease.began();
        lease.began();
        assert_eq!((lease.target().outstanding(), lease.target().unread_bytes()), (1, 0));
        let other = pool.lease(&ASK, 1 << lease.index()).unwrap();
        assert_ne!(other.index(), lease.index());
        assert!(pool.lease(&ASK, 0b11).is_none());
        drop((lease, other));
        assert!(pool.targets().iter().all(|t| t.outstanding() == 0 && t.unread_bytes() == 0));
        for _ in 0..5 {
            let mut lease = pool.lease(&ASK, 0b10).unwrap();
            lease.report(Outcome::Failed);
        }
        for _ in 0..20 {
            assert_eq!(pool.lease(&ASK, 0).unwrap().index(), 1, "only the healthy one is chosen");
        }
        assert_eq!(pool.lease(&ASK, 0b10).unwrap().index(), 0, "with no healthy one left, any");
    }

    #[test]
    fn a_conversation_is_told_by_tenant_run_and_agent() {
        let ask = |tenant, run, agent| Ask { tenant, run, agent, bytes: 0 }.thread();
        assert_eq!(ask(Some("t"), None, Some("a")), None);
        let threads = [
            ask(None, Some("r"), None),
            ask(None, Some("r"), Some("a")),
            ask(None, Some("s"), None),
            ask(Some("a"), Some("r"), None),
            ask(Some("r"), Some("a"), None),
        ];
        for (at, thread) in threads.iter().enumerate() {
            assert!(thread.is_some() && !threads[..at].contains(thread), "{at}");
        }
        assert_eq!(threads[0], ask(None, Some("r"), None));
    }
}
