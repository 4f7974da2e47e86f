//! The KV cache as a pool of ref-counted blocks, of which the free ones still serve as a
//! prefix cache until they are used again, least recently used first.
//!
//! The model is vLLM's block pool. Two differences, neither visible in a schedule: a block
//! whose content is cached in another block already is not cached twice, and blocks have no
//! table of their own but rows of a few flat arrays.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A block of the pool.
pub(crate) type BlockId = u32;

/// No hash: the block's content is not complete, or caching is off.
const NONE: u64 = 0;

/// All blocks of one engine.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Chained hash of each block's content and all before it.
    hashes: Vec<u64>,
    refs: Vec<u32>,
    /// The free list in both directions; the last entry is the list's head and tail.
    next: Vec<BlockId>,
    prev: Vec<BlockId>,
    free: u32,
    by_hash: HashMap<u64, BlockId, BuildHasherDefault<Identity>>,
    caching: bool,
}

impl Pool {
    /// A pool of `blocks` free blocks, which are used in ascending order at first.
    pub(crate) fn new(blocks: u32, caching: bool) -> Self {
        let anchor = blocks as usize;
        let mut pool = Self {
            hashes: vec![NONE; anchor],
            refs: vec![0; anchor],
            next: vec![0; anchor + 1],
            prev: vec![0; anchor + 1],
            free: 0,
            by_hash: HashMap::default(),
            caching,
        };
        pool.next[anchor] = blocks;
        pool.prev[anchor] = blocks;
        for block in 0..blocks {
            pool.push_back(block);
        }
        pool
    }

    /// Blocks that nobody refers to.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// All blocks.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.refs.len()).unwrap_or(u32::MAX)
    }

    /// The block that holds this content.
    pub(crate) fn lookup(&self, hash: u64) -> Option<BlockId> {
        self.by_hash.get(&fix(hash)).copied()
    }

    /// Whether nobody refers to a block.
    pub(crate) fn is_free(&self, block: BlockId) -> bool {
        self.refs[block as usize] == 0
    }

    /// Adds a reference to a block that was looked up.
    pub(crate) fn share(&mut self, block: BlockId) {
        if self.is_free(block) {
            self.unlink(block);
        }
        self.refs[block as usize] += 1;
    }

    /// Takes the free block that has been unused for longest and forgets its content.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        if self.free == 0 {
            return None;
        }
        let block = self.next[self.refs.len()];
        self.unlink(block);
        let hash = std::mem::replace(&mut self.hashes[block as usize], NONE);
        if hash != NONE {
            self.by_hash.remove(&hash);
        }
        self.refs[block as usize] = 1;
        Some(block)
    }

    /// Makes the content of a block that is in use known under its hash.
    pub(crate) fn publish(&mut self, block: BlockId, hash: u64) {
        debug_assert!(!self.is_free(block), "only a block in use is filled");
        if self.caching
            && let std::collections::hash_map::Entry::Vacant(entry) = self.by_hash.entry(fix(hash))
        {
            entry.insert(block);
            self.hashes[block as usize] = fix(hash);
        }
    }

    /// Gives back the blocks of one sequence, its tail first, so that prefixes, which others
    /// may share, are evicted last.
    pub(crate) fn release(&mut self, blocks: &mut Vec<BlockId>) {
        for block in blocks.drain(..).rev() {
            let refs = &mut self.refs[block as usize];
            debug_assert!(*refs > 0, "a block is released as often as it was taken");
            *refs -= 1;
            if *refs == 0 {
                self.push_back(block);
            }
        }
    }

    fn push_back(&mut self, block: BlockId) {
        let anchor = self.refs.len();
        let last = self.prev[anchor];
        self.next[last as usize] = block;
        self.prev[block as usize] = last;
        self.next[block as usize] = self.len();
        self.prev[anchor] = block;
        self.free += 1;
    }

    fn unlink(&mut self, block: BlockId) {
        let (prev, next) = (self.prev[block as usize], self.next[block as usize]);
        self.next[prev as usize] = next;
        self.prev[next as usize] = prev;
        self.free -= 1;
    }
}

/// Keeps the mark for "no hash" free.
fn fix(hash: u64) -> u64 {
    hash.max(1)
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
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_goes_first_and_tails_before_heads() {
        let mut pool = Pool::new(4, true);
        let mut a: Vec<_> = (0..3).filter_map(|_| pool.take()).collect();
        assert_eq!(a, [0, 1, 2]);
        for (block, hash) in [(0, 10), (1, 11), (2, 12)] {
            pool.publish(block, hash);
        }
        pool.release(&mut a);
        // Never used block 3 first, then the tail of `a`.
        assert_eq!([pool.take(), pool.take()], [Some(3), Some(2)]);
        assert_eq!([10, 11, 12].map(|h| pool.lookup(h)), [Some(0), Some(1), None]);
        // A hit leaves the free list and is not evicted.
        pool.share(1);
        assert_eq!((pool.free(), pool.take(), pool.take()), (1, Some(0), None));
        assert_eq!([10, 11].map(|h| pool.lookup(h)), [None, Some(1)]);
    }

    #[test]
    fn a_block_is_free_when_its_last_reference_goes() {
        let mut pool = Pool::new(2, true);
        let block = pool.take().unwrap();
        pool.publish(block, 0);
        pool.share(block);
        pool.release(&mut vec![block]);
        assert!(!pool.is_free(block));
        pool.release(&mut vec![block]);
        assert_eq!((pool.free(), pool.lookup(0)), (2, Some(block)));
    }

    #[test]
    fn without_caching_nothing_is_found() {
        let mut pool = Pool::new(1, false);
        let block = pool.take().unwrap();
        pool.publish(block, 7);
        assert_eq!(pool.lookup(7), None);
    }
}
