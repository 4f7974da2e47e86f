//! The seam for balancing policies.

use std::sync::Arc;

use paceline_core::Instant;

use crate::target::Target;

/// What a policy may know of a call.
#[derive(Clone, Copy, Debug)]
pub struct RouteKey {
    /// A hash of whose conversation the call continues (tenant, run and agent); `None` when
    /// its run was made for this call alone.
    pub thread: Option<u64>,
    /// Bytes of the request's body. They stand for its tokens: what counts is only how
    /// requests compare.
    pub bytes: u64,
    /// The time, by the clock of the pool.
    pub now: Instant,
    /// Draws for this call, uniform.
    pub random: u64,
}

/// A balancing policy. `pick` performs no I/O, waits for nothing but a lock that guards a
/// few lines, and allocates nothing but bounded tables.
pub trait Policy: Send + Sync {
    /// The index of the chosen target among those that `usable` allows, `None` when it
    /// allows none. `usable` has one bit a target, the first in the lowest. A call may be
    /// picked for again, with fewer targets: the last choice holds.
    fn pick(&self, key: RouteKey, targets: &[Arc<Target>], usable: u64) -> Option<usize>;
}

/// The indexes of the set bits.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}

/// Two different targets of a set, drawn at random, or twice its only one.
pub(crate) fn two_of(set: u64, random: u64) -> Option<(usize, usize)> {
    let n = u64::from(set.count_ones());
    let first = (random & 0xffff_ffff).checked_rem(n)?;
    let second = (first + 1 + (random >> 32) % n.saturating_sub(1).max(1)) % n;
    let nth = |k: u64| bits(set).nth(usize::try_from(k).unwrap_or(0));
    Some((nth(first)?, nth(second)?))
}
