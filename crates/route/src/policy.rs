//! The seam for balancing policies.

use std::sync::Arc;

use crate::target::Target;

/// What a policy may know of a call.
#[derive(Clone, Copy, Debug)]
pub struct RouteKey<'a> {
    /// The run that the call belongs to.
    pub run: &'a str,
    /// Draws for this call, uniform.
    pub random: u64,
}

/// A balancing policy. `pick` never blocks, allocates, or performs I/O.
pub trait Policy: Send + Sync {
    /// The index of the chosen target among those that `usable` allows, `None` when it
    /// allows none. `usable` has one bit a target, the first in the lowest.
    fn pick(&self, key: RouteKey<'_>, targets: &[Arc<Target>], usable: u64) -> Option<usize>;
}

/// The indexes of the set bits.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}
