//! The less loaded of two random targets.

use std::sync::Arc;

use crate::policy::{Policy, RouteKey, two_of};
use crate::target::Target;

/// Power of two choices: two targets drawn at random, the one with fewer calls under way
/// wins, the first on a tie. (Mitzenmacher 2001: the longest queue grows with log log n
/// instead of log n, and herds do not form as with the global least.)
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastOfTwo;

impl Policy for LeastOfTwo {
    fn pick(&self, key: RouteKey, targets: &[Arc<Target>], usable: u64) -> Option<usize> {
        let (first, second) = two_of(usable, key.random)?;
        let fewer = targets[second].outstanding() < targets[first].outstanding();
        Some(if fewer { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::{key, targets};

    #[test]
    fn takes_the_less_loaded_of_the_two() {
        let targets = targets(&[5, 0, 3]);
        let check = |low: u64, high: u64, usable: u64, expected: Option<usize>| {
            let key = RouteKey { random: high << 32 | low, ..key(None, 10) };
            assert_eq!(LeastOfTwo.pick(key, &targets, usable), expected, "{low} {high} {usable:b}");
        };
        check(0, 0, 0b111, Some(1)); // 5 against 0
        check(0, 1, 0b111, Some(2)); // 5 against 3
        check(1, 0, 0b111, Some(1)); // 0 against 3
        check(2, 0, 0b111, Some(2)); // 3 against 5
        check(0, 0, 0b101, Some(2));
        check(7, 9, 0b001, Some(0));
        check(0, 0, 0, None);
    }
}
