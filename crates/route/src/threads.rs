//! Which conversation is at home where: a bounded table that forgets in constant time.
//!
//! Each shard keeps the homes in two generations of maps: a call moves its thread to the
//! young one, and a turn drops the old one whole. What the threads claim of each target is
//! summed by the time slot of their latest call, so that claims expire by slots, long
//! before homes are forgotten, and without a look at any entry.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use paceline_core::Instant;

use crate::target::Target;

/// Shards, so that cores rarely meet at a lock.
const SHARDS: usize = 16;
/// A claim lasts until this many slots have begun since the thread's latest call.
const CLAIM_SLOTS: u64 = 6;
/// A generation of homes lasts this many slots, or until it is full.
const HOME_SLOTS: u64 = 24;
/// All calls continue a thread, in the unit of `Threads::returns`.
const RETURNS_ALL: u32 = 1 << 16;
/// Of how many calls the table remembers whether they continued a thread, roughly.
const RETURNS_WINDOW: u32 = 32;

/// Where a thread is at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// The target's index.
    pub(crate) at: usize,
    /// Bytes of its latest request.
    pub(crate) bytes: u64,
    /// What of them counts as claimed at the moment: all, or nothing after an idle time.
    pub(crate) claimed: u64,
}

/// All threads of one pool, shared by all cores.
#[derive(Debug)]
pub(crate) struct Threads {
    shards: Box<[Mutex<Shard>]>,
    /// The latest slot that some core has seen.
    slot: AtomicU64,
    slot_ns: u64,
    /// The share of calls that continued a thread lately, of `RETURNS_ALL`. A lost update
    /// of two cores does not matter.
    returns: AtomicU32,
    /// Entries of a generation in a shard.
    entries_max: usize,
}

#[derive(Debug)]
struct Shard {
    young: Homes,
    old: Homes,
    /// When the young generation began.
    turned: u64,
    slot: u64,
    /// Claimed bytes by slot and target.
    claims: [Vec<u64>; CLAIM_SLOTS as usize],
}

type Homes = HashMap<u64, Entry, BuildHasherDefault<Identity>>;

/// 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u32,
    slot: u32,
    at: u8,
}

impl Threads {
    /// A table of at most `threads_max` threads (rounded up to 32), whose slots last `slot`.
    pub(crate) fn new(slot: Duration, threads_max: usize) -> Self {
        let shard = || Shard {
            young: Homes::default(),
            old: Homes::default(),
            turned: 0,
            slot: 0,
            claims: Default::default(),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            slot: AtomicU64::new(0),
            slot_ns: u64::try_from(slot.as_nanos()).unwrap_or(u64::MAX).max(1),
            // Runs of many calls are what this policy is for, until it learns better.
            returns: AtomicU32::new(RETURNS_ALL),
            entries_max: threads_max.div_ceil(2 * SHARDS).max(1),
        }
    }

    /// Lets `choose` decide on the home of a thread whose next request has `bytes`. It gets
    /// the present home, if that is known, and the share of calls that continued a thread
    /// lately; it runs under the lock of the thread's shard. The targets are those of the
    /// pool, at most 64 and always the same.
    pub(crate) fn settle(
        &self,
        thread: u64,
        bytes: u64,
        now: Instant,
        targets: &[Arc<Target>],
        choose: impl FnOnce(Option<Home>, f64) -> Option<usize>,
    ) -> Option<usize> {
        let slot = now.as_nanos() / self.slot_ns;
        self.advance(slot, targets);
        let mut shard = self.shard(thread);
        shard.advance(slot, targets);
        let known = shard.find(thread);
        let home = known.map(|entry| Home {
            at: usize::from(entry.at),
            bytes: u64::from(entry.bytes),
            claimed: if shard.counts(entry) { u64::from(entry.bytes) } else { 0 },
        });
        let at = choose(home, self.returns(known.is_some()))?;
        shard.put(thread, known, at, bytes, targets);
        if shard.young.len() >= self.entries_max {
            shard.turn();
        }
        Some(at)
    }

    /// Lets the claims of all shards expire when a slot begins; one core does it.
    fn advance(&self, slot: u64, targets: &[Arc<Target>]) {
        let seen = self.slot.load(Ordering::Relaxed);
        let taken = slot > seen
            && self.slot.compare_exchange(seen, slot, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if taken {
            for shard in &self.shards {
                lock(shard).advance(slot, targets);
            }
        }
    }

    /// The share of calls that continued a thread, before this one.
    fn returns(&self, known: bool) -> f64 {
        let before = self.returns.load(Ordering::Relaxed);
        let seen = if known { RETURNS_ALL } else { 0 };
        let after = before - before / RETURNS_WINDOW + seen / RETURNS_WINDOW;
        // Mostly nothing changes, and a read keeps the cache line shared.
        if after != before {
            self.returns.store(after, Ordering::Relaxed);
        }
        f64::from(before) / f64::from(RETURNS_ALL)
    }

    fn shard(&self, thread: u64) -> MutexGuard<'_, Shard> {
        // The maps use the low bits.
        lock(&self.shards[(thread >> 60) as usize % SHARDS])
    }
}

/// A panic under the lock would leave counts that are off by one call at most.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn advance(&mut self, slot: u64, targets: &[Arc<Target>]) {
        if slot <= self.slot {
            return; // Another core's clock reading was later.
        }
        for begun in (self.slot + 1..=slot).take(CLAIM_SLOTS as usize) {
            let expired = &mut self.claims[(begun % CLAIM_SLOTS) as usize];
            for (target, bytes) in targets.iter().zip(expired) {
                target.unclaim(std::mem::take(bytes));
            }
        }
        self.slot = slot;
        let generations = (slot - self.turned) / HOME_SLOTS;
        for _ in 0..generations.min(2) {
            self.turn();
        }
    }

    /// Drops the old generation; its claims are in the slots and expire with them.
    fn turn(&mut self) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        self.turned = self.slot;
    }

    fn find(&self, thread: u64) -> Option<Entry> {
        self.young.get(&thread).or_else(|| self.old.get(&thread)).copied()
    }

    fn counts(&self, entry: Entry) -> bool {
        self.slot < u64::from(entry.slot) + CLAIM_SLOTS
    }

    fn put(
        &mut self,
        thread: u64,
        known: Option<Entry>,
        at: usize,
        bytes: u64,
        targets: &[Arc<Target>],
    ) {
        if let Some(entry) = known.filter(|entry| self.counts(*entry)) {
            let (at, bytes) = (usize::from(entry.at), u64::from(entry.bytes));
            self.claims[(u64::from(entry.slot) % CLAIM_SLOTS) as usize][at] -= bytes;
            targets[at].unclaim(bytes);
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // 2^32 slots of a minute are 8,000 years, 64 targets fit into a byte.
        let entry = Entry { bytes, slot: self.slot as u32, at: at as u8 };
        let slot = &mut self.claims[(self.slot % CLAIM_SLOTS) as usize];
        if slot.len() < targets.len() {
            slot.resize(targets.len(), 0);
        }
        slot[at] += u64::from(bytes);
        targets[at].claim(u64::from(bytes));
        self.young.insert(thread, entry);
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests;
