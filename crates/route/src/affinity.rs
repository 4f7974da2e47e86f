//! A conversation stays where its prefix is while that target bears its share of load.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::{Policy, RouteKey, bits, two_of};
use crate::target::Target;
use crate::threads::{Home, Threads};

/// How far a target's load may exceed the mean before its threads may move.
const LOAD_FACTOR: f64 = 1.25;

/// What a byte still to be read weighs against a claimed one: it delays the next call for
/// certain, while a claimed byte costs only what it may evict. Values from 1 to 16 do alike
/// on recorded agent sessions (`docs/design/affinity.md`).
const UNREAD_WEIGHT: f64 = 2.0;

/// Loads that differ by less than this are taken as equal, so that homes follow from the
/// names alone while there is little to balance. 64 KiB are about 16,000 tokens, a third of
/// a second of prefill for a model of 8B parameters on an H100.
const LOAD_STEP: f64 = 65536.0;

/// So many further calls of a thread, on average, give its claim full weight.
const RETURNS_FULL: f64 = 8.0;

/// Bounds of the table of [`Affinity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityConfig {
    /// A thread's claim expires 5 to 6 of these after its latest call; its home is forgotten
    /// 24 to 48 of these after, 8 to 16 minutes. Default: 20 s.
    pub slot: Duration,
    /// Most threads that are remembered, 32 bytes each as the table fills. Default: 131,072.
    pub threads_max: usize,
}

impl Default for AffinityConfig {
    fn default() -> Self {
        Self { slot: Duration::from_secs(20), threads_max: 1 << 17 }
    }
}

/// Run affinity with bounded load, for pools of engines with a prefix cache.
///
/// Load is counted in bytes: those that a target has still to read, and those that the
/// threads at home there will want to find again, as far as threads have further calls at
/// all. (Calls under way say little: a replica is idle while its agents run tools, and its
/// cache is full all the same.)
///
/// A new thread's home is the least loaded target, and among equals the one with the
/// highest hash of thread and target (rendezvous hashing). Its next calls go home, unless
/// home bears more than 1.25 times the mean load and has more bytes to read before this
/// call than the least loaded other target has, by more than home knows of the call. Then
/// its home moves there, and stays. A call whose run was made for it alone goes to that of
/// two random targets which has less to read.
#[derive(Debug)]
pub struct Affinity {
    threads: Threads,
}

impl Affinity {
    /// A policy that knows no thread yet. It serves one pool.
    pub fn new(config: AffinityConfig) -> Self {
        Self { threads: Threads::new(config.slot, config.threads_max) }
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Self::new(AffinityConfig::default())
    }
}

impl Policy for Affinity {
    fn pick(&self, key: RouteKey, targets: &[Arc<Target>], usable: u64) -> Option<usize> {
        let Some(thread) = key.thread else {
            let (first, second) = two_of(usable, key.random)?;
            let load = |at: usize| (targets[at].unread_bytes(), targets[at].outstanding());
            return Some(if load(second) < load(first) { second } else { first });
        };
        self.threads.settle(thread, key.bytes, key.now, targets, |home, returns| {
            let home = home.filter(|home| usable >> home.at & 1 == 1);
            let (bytes, claim_weight) = (key.bytes, claim_weight(returns));
            Look { targets, usable, thread, bytes, home, claim_weight }.choose()
        })
    }
}

/// What is known when a call of a thread is placed.
struct Look<'a> {
    targets: &'a [Arc<Target>],
    usable: u64,
    thread: u64,
    bytes: u64,
    /// The thread's home, where it is usable.
    home: Option<Home>,
    claim_weight: f64,
}

impl Look<'_> {
    fn choose(&self) -> Option<usize> {
        let unread = |at: usize| self.targets[at].unread_bytes();
        let known = self.home.map_or(0, |home| home.bytes.min(self.bytes));
        if let Some(home) = self.home
            && unread(home.at) <= known
        {
            return Some(home.at); // No move can pay; this is nearly every call.
        }
        let (mut total, mut count) = (0.0, 0.0);
        let mut least: Option<(u64, u64, usize)> = None; // Steps, rank, index.
        for at in bits(self.usable) {
            let load = self.load(at);
            total += load;
            count += 1.0;
            if self.home.is_some_and(|home| home.at == at) {
                continue;
            }
            let rank = mix(self.thread ^ self.targets[at].seed());
            let steps = (load / LOAD_STEP) as u64;
            if least.is_none_or(|(low, best, _)| steps < low || (steps == low && rank > best)) {
                least = Some((steps, rank, at));
            }
        }
        let least = least.map(|(_, _, at)| at);
        let Some(home) = self.home else { return least };
        let Some(other) = least else { return Some(home.at) };
        let own = self.bytes as f64;
        let over = self.load(home.at) + own > LOAD_FACTOR * (total + own) / count;
        let pays = unread(home.at) > unread(other).saturating_add(known);
        Some(if over && pays { other } else { home.at })
    }

    /// The load of a target without this thread's claim.
    fn load(&self, at: usize) -> f64 {
        let target = &self.targets[at];
        let own = self.home.filter(|home| home.at == at).map_or(0, |home| home.claimed);
        let claimed = target.claimed_bytes().saturating_sub(own);
        self.claim_weight * claimed as f64 + UNREAD_WEIGHT * target.unread_bytes() as f64
    }
}

/// What a claimed byte weighs where this share of the calls continues a thread: a thread
/// has `returns / (1 - returns)` further calls on average.
fn claim_weight(returns: f64) -> f64 {
    (returns / (1.0 - returns).max(f64::EPSILON) / RETURNS_FULL).min(1.0)
}

/// Spreads the bits of a hash (the finaliser of MurmurHash3).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests;
