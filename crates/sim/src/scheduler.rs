//! The scheduler: which tokens of which requests the next step computes.
//!
//! A pure state machine without clock or I/O, after vLLM's V1 scheduler: running requests
//! first, in order of admission (a decode is one token, a chunked prefill goes on), within a
//! token budget; then waiting ones, first come, first served. When blocks run out, the
//! request admitted last loses its own and returns to the head of the queue, to be
//! recomputed. Full blocks are cached when their step is planned, as in vLLM, so that a
//! second request can hit what the first computes in the same step.

use std::collections::VecDeque;

use slab::Slab;

use crate::kv::{BlockId, Pool};
use crate::shape::{BLOCK_TOKENS, Load};

/// Bounds of one engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests that run at a time.
    pub(crate) seqs: usize,
    /// Tokens of one step.
    pub(crate) step_tokens: u32,
    /// KV-cache blocks.
    pub(crate) blocks: u32,
    /// Whether unused blocks serve as a prefix cache.
    pub(crate) prefix_cache: bool,
}

/// What a request asks of an engine: numbers and block hashes, no text.
#[derive(Clone, Debug)]
pub struct Work {
    /// Prompt tokens, at least 1.
    pub prompt: u32,
    /// Tokens to generate, at least 1.
    pub output: u32,
    /// Chained hashes of the full blocks of prompt and output together; those left out are
    /// not cached.
    pub hashes: Box<[u64]>,
}

/// A request in the scheduler.
pub(crate) type SeqId = usize;

/// What is known of a request besides its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Prompt tokens that the prefix cache held at the first admission.
    pub(crate) cached: u32,
    /// Tokens computed other than by decoding, recomputed ones included.
    pub(crate) prefilled: u64,
    /// How often it lost its blocks.
    pub(crate) preemptions: u32,
}

#[derive(Debug)]
struct Seq {
    work: Work,
    /// The caller's name of the request.
    tag: usize,
    generated: u32,
    /// Tokens whose keys and values are in blocks.
    computed: u32,
    /// Tokens that the step under way computes.
    scheduled: u32,
    blocks: Vec<BlockId>,
    admitted: bool,
    facts: Facts,
}

impl Seq {
    fn known(&self) -> u32 {
        self.work.prompt + self.generated
    }
}

/// One generated token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Emitted {
    /// The caller's name of the request.
    pub(crate) tag: usize,
    /// What is known of the request.
    pub(crate) facts: Facts,
    /// Whether it is the request's last token.
    pub(crate) last: bool,
}

/// Counts since the engine's start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) steps: u64,
    pub(crate) preemptions: u64,
    pub(crate) prefix_queries: u64,
    pub(crate) prefix_hits: u64,
    pub(crate) prompt_tokens: u64,
}

/// Why the head of the queue could not be admitted for want of blocks. As long as too few
/// are free and its next block is not cached, looking it up again is futile.
#[derive(Debug)]
struct Blocked {
    id: SeqId,
    needs: u32,
    missing: Option<u64>,
}

/// The state of one engine.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: Pool,
    seqs: Slab<Seq>,
    running: Vec<SeqId>,
    waiting: VecDeque<SeqId>,
    blocked: Option<Blocked>,
    hits: Vec<BlockId>,
    totals: Totals,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            pool: Pool::new(limits.blocks, limits.prefix_cache),
            seqs: Slab::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            blocked: None,
            hits: Vec::new(),
            totals: Totals::default(),
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn blocks(&self) -> (u32, u32) {
        (self.pool.len() - self.pool.free(), self.pool.len())
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a request could ever run: the last token generated needs no block.
    pub(crate) fn fits(&self, work: &Work) -> bool {
        let tokens = u64::from(work.prompt) + u64::from(work.output) - 1;
        tokens <= u64::from(self.limits.blocks) * u64::from(BLOCK_TOKENS)
    }

    /// Queues a request that [`fits`](Self::fits).
    pub(crate) fn add(&mut self, tag: usize, work: Work) -> SeqId {
        debug_assert!(work.prompt > 0 && work.output > 0 && self.fits(&work));
        let id = self.seqs.insert(Seq {
            work,
            tag,
            generated: 0,
            computed: 0,
            scheduled: 0,
            blocks: Vec::new(),
            admitted: false,
            facts: Facts::default(),
        });
        self.waiting.push_back(id);
        id
    }

    /// Drops a request, wherever it is. Between steps only.
    pub(crate) fn remove(&mut self, id: SeqId) {
        // The next request may get the same identifier.
        self.blocked = None;
        self.running.retain(|other| *other != id);
        self.waiting.retain(|other| *other != id);
        let mut seq = self.seqs.remove(id);
        self.pool.release(&mut seq.blocks);
    }

    /// Plans the next step and takes its blocks; `None` when there is nothing to compute.
    /// `admitted` is told the tag of each request that runs for the first time.
    pub(crate) fn plan(&mut self, mut admitted: impl FnMut(usize)) -> Option<Load> {
        let mut load = Load::default();
        let mut budget = self.limits.step_tokens;
        let mut preempted = false;
        let mut i = 0;
        while i < self.running.len() && budget > 0 {
            let id = self.running[i];
            let seq = &self.seqs[id];
            let new = (seq.known() - seq.computed).min(budget);
            if !self.make_room(id, new, &mut preempted) {
                break;
            }
            self.schedule(id, new, &mut load);
            budget -= new;
            i += 1;
        }
        while !preempted && budget > 0 && self.running.len() < self.limits.seqs {
            let Some(new) = self.admit(budget, &mut admitted) else { break };
            let id = self.running[self.running.len() - 1];
            self.schedule(id, new, &mut load);
            budget -= new;
        }
        if load.tokens == 0 {
            return None;
        }
        self.totals.steps += 1;
        Some(load)
    }

    /// Ends the step under way: its tokens are computed, and each request that has no more
    /// to compute gets a token, in order of admission.
    pub(crate) fn complete(&mut self, mut emit: impl FnMut(Emitted)) {
        let mut ended = false;
        for &id in &self.running {
            let seq = &mut self.seqs[id];
            if seq.scheduled == 0 {
                continue;
            }
            seq.computed += std::mem::take(&mut seq.scheduled);
            if seq.computed == seq.known() {
                seq.generated += 1;
                let last = seq.generated == seq.work.output;
                ended |= last;
                emit(Emitted { tag: seq.tag, facts: seq.facts, last });
            }
        }
        if ended {
            let Self { running, seqs, pool, .. } = self;
            running.retain(|id| {
                let done = seqs[*id].generated == seqs[*id].work.output;
                if done {
                    let mut seq = seqs.remove(*id);
                    pool.release(&mut seq.blocks);
                }
                !done
            });
        }
    }

    /// How the engine goes on after the step under way as long as nothing happens but
    /// decoding; `None` when its end, or the plan of the next step, may change more.
    pub(crate) fn steady(&self) -> Option<Steady> {
        if !self.waiting.is_empty() && self.running.len() < self.limits.seqs {
            return None;
        }
        let mut steady = Steady {
            steps: u32::MAX,
            load: Load::default(),
            free: self.pool.free(),
            boundary: [0; BLOCK_TOKENS as usize],
        };
        for &id in &self.running {
            let seq = &self.seqs[id];
            let computed = seq.computed + seq.scheduled;
            let rest = seq.work.output - seq.generated;
            // A first token, a last token, and a prefill that goes on are changes.
            if computed < seq.known() || seq.generated == 0 || rest <= 1 {
                return None;
            }
            steady.steps = steady.steps.min(rest - 1);
            steady.load.context += u64::from(computed) + 1;
            let until = (BLOCK_TOKENS - computed % BLOCK_TOKENS) % BLOCK_TOKENS;
            steady.boundary[until as usize] += 1;
        }
        let seqs = self.running.len() as u64;
        steady.load.tokens = seqs;
        steady.load.decodes = seqs;
        (seqs > 0 && seqs <= u64::from(self.limits.step_tokens)).then_some(steady)
    }

    /// Gives a running request the blocks for `new` more tokens, at the expense of those
    /// admitted last; whether it still runs.
    fn make_room(&mut self, id: SeqId, new: u32, preempted: &mut bool) -> bool {
        let seq = &self.seqs[id];
        let needed = blocks_for(seq.computed + new) - count(&seq.blocks);
        while self.pool.free() < needed {
            let Some(victim) = self.running.pop() else { return false };
            *preempted = true;
            self.totals.preemptions += 1;
            let seq = &mut self.seqs[victim];
            seq.computed = 0;
            seq.facts.preemptions += 1;
            self.pool.release(&mut seq.blocks);
            self.waiting.push_front(victim);
            if victim == id {
                return false;
            }
        }
        self.allocate(id, needed);
        true
    }

    /// Moves the head of the queue to the running requests and gives it the blocks of its
    /// first chunk; the size of that, or `None` when nobody can be admitted.
    fn admit(&mut self, budget: u32, admitted: &mut impl FnMut(usize)) -> Option<u32> {
        let id = *self.waiting.front()?;
        if let Some(blocked) = &self.blocked
            && blocked.id == id
            && self.pool.free() < blocked.needs
            && blocked.missing.is_none_or(|hash| self.pool.lookup(hash).is_none())
        {
            return None;
        }
        self.blocked = None;
        let seq = &self.seqs[id];
        // At least one token is computed, for there is nothing to sample from otherwise.
        let cacheable = ((seq.known() - 1) / BLOCK_TOKENS) as usize;
        self.hits.clear();
        let hashes = &seq.work.hashes[..cacheable.min(seq.work.hashes.len())];
        self.hits.extend(hashes.iter().map_while(|hash| self.pool.lookup(*hash)));
        let hits = count(&self.hits);
        // As vLLM does by default, a prompt is let in only when all of it fits, although it
        // takes the blocks of its first chunk only.
        let needs = blocks_for(seq.known()) - hits;
        let revived = self.hits.iter().filter(|block| self.pool.is_free(**block)).count();
        if u64::from(needs) + revived as u64 > u64::from(self.pool.free()) {
            let missing = hashes.get(self.hits.len()).copied();
            self.blocked = Some(Blocked { id, needs, missing });
            return None;
        }
        self.waiting.pop_front();
        for block in &self.hits {
            self.pool.share(*block);
        }
        let seq = &mut self.seqs[id];
        seq.blocks.extend_from_slice(&self.hits);
        seq.computed = hits * BLOCK_TOKENS;
        let new = (seq.known() - seq.computed).min(budget);
        let first_chunk = blocks_for(seq.computed + new) - hits;
        if !seq.admitted {
            seq.admitted = true;
            seq.facts.cached = seq.computed;
            self.totals.prefix_queries += u64::from(seq.work.prompt);
            self.totals.prefix_hits += u64::from(seq.computed);
            self.totals.prompt_tokens += u64::from(seq.work.prompt);
            admitted(seq.tag);
        }
        self.allocate(id, first_chunk);
        self.running.push(id);
        Some(new)
    }

    fn allocate(&mut self, id: SeqId, blocks: u32) {
        let seq = &mut self.seqs[id];
        for _ in 0..blocks {
            let block = self.pool.take().expect("the callers have counted the free blocks");
            seq.blocks.push(block);
        }
    }

    /// Enters `new` tokens of a request into the step and caches the blocks that they fill.
    fn schedule(&mut self, id: SeqId, new: u32, load: &mut Load) {
        let seq = &mut self.seqs[id];
        let (before, after) = (seq.computed, seq.computed + new);
        seq.scheduled = new;
        load.tokens += u64::from(new);
        if new == 1 {
            load.decodes += 1;
            load.context += u64::from(after);
        } else {
            load.prefill += u64::from(new) * (2 * u64::from(before) + u64::from(new));
        }
        if new > 1 || seq.generated == 0 {
            seq.facts.prefilled += u64::from(new);
        }
        for full in before / BLOCK_TOKENS..after / BLOCK_TOKENS {
            if let Some(hash) = seq.work.hashes.get(full as usize) {
                self.pool.publish(seq.blocks[full as usize], *hash);
            }
        }
    }
}

/// A row of decode steps of the same requests.
#[derive(Clone, Debug)]
pub(crate) struct Steady {
    /// How many steps it has until a request ends.
    pub(crate) steps: u32,
    /// The first of them.
    pub(crate) load: Load,
    /// Blocks that are free before it.
    free: u32,
    /// How many requests take a block in the first step, in the second, and so on in turn.
    boundary: [u32; BLOCK_TOKENS as usize],
}

impl Steady {
    /// Goes one step ahead; false when blocks run out in it.
    pub(crate) fn advance(&mut self, step: u32) -> bool {
        let taken = self.boundary[(step % BLOCK_TOKENS) as usize];
        let enough = taken <= self.free;
        self.free = self.free.saturating_sub(taken);
        self.load.context += self.load.decodes;
        enough
    }
}

fn blocks_for(tokens: u32) -> u32 {
    tokens.div_ceil(BLOCK_TOKENS)
}

fn count(blocks: &[BlockId]) -> u32 {
    u32::try_from(blocks.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
