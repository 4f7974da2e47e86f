//! The rate, from anchors: moments at which the limit had just let a call through again.
//!
//! At an anchor a bucket holds between nothing and what fills in during the gap since the
//! last refusal. So between two anchors the amount that passed tells the rate, the better
//! the further they are apart, and without knowing how deep the bucket is. The same holds
//! for the edges of windows.

use std::collections::VecDeque;

use super::amount::{Amounts, Dimension};

/// Anchors that are kept (limit-learning.md: the newest 24).
const ANCHORS_MAX: usize = 24;

/// Calls between anchors at which an estimate weighs half (limit-learning.md: A / (A + 8)).
const HALF_WEIGHT_CALLS: f64 = 8.0;

/// Bounds of one change of the rate, as factors (limit-learning.md: 0.3 to 4).
const STEP: (f64, f64) = (0.3, 4.0);

/// Anchors whose steadiness chooses the dimension (limit-learning.md: 8).
const CHOICE_ANCHORS: usize = 8;

/// Fewest calls in a span between anchors that says something.
const CHOICE_CALLS_MIN: f64 = 6.0;

/// Fewest pairs of spans for a choice.
const CHOICE_SPANS_MIN: usize = 3;

/// How much steadier another dimension must be than requests, and than tokens: pacing by
/// tokens makes their rate steady by itself (limit-learning.md: 0.7 for all).
const INCUMBENT: (f64, f64) = (0.6, 0.85);

/// A moment at which the limit had just let a call through again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    /// When the call was sent that passed, in seconds.
    pub(super) at: f64,
    /// Everything that had been let through before it.
    pub(super) counters: Amounts,
    /// Time since the send before it, which was refused, in seconds.
    pub(super) gap: f64,
}

/// The rate and what it is known from.
#[derive(Debug)]
pub(super) struct Rate {
    anchors: VecDeque<Anchor>,
    /// What limits, as far as known.
    pub(super) dimension: Dimension,
    /// Whether refusals have named tokens, or something else; `None` while they named nothing.
    told_tokens: Option<bool>,
    /// Units of `dimension` a second; `None` while nothing is known.
    pub(super) per_s: Option<f64>,
    /// The most calls that a bucket may hold.
    pub(super) depth_calls: f64,
    /// Calls between the anchors of the latest estimate.
    pub(super) base_calls: f64,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self {
            anchors: VecDeque::with_capacity(ANCHORS_MAX),
            dimension: Dimension::Requests,
            told_tokens: None,
            per_s: None,
            depth_calls: f64::INFINITY,
            base_calls: 0.0,
        }
    }

    pub(super) fn forget_anchors(&mut self) {
        self.anchors.clear();
    }

    pub(super) fn newest(&self) -> Option<&Anchor> {
        self.anchors.back()
    }

    pub(super) fn anchors(&self) -> usize {
        self.anchors.len()
    }

    /// A refusal names what its limit counts: the rate goes on in that unit, and the anchors
    /// choose no other. Which tokens are meant, they may. True where the unit is another.
    pub(super) fn told(&mut self, dimension: Dimension, mean: &Amounts) -> bool {
        let tokens = counts_tokens(dimension);
        self.told_tokens = Some(tokens);
        if counts_tokens(self.dimension) == tokens {
            return false;
        }
        let per_s = self.per_s.map(|per_s| per_s * ratio(mean, self.dimension, dimension));
        self.dimension = dimension;
        if let Some(per_s) = per_s {
            self.set(per_s);
        }
        true
    }

    /// A refused call that had been counted before the anchors knew its end.
    pub(super) fn take_back(&mut self, sent_at: f64, amounts: &Amounts) {
        for anchor in self.anchors.iter_mut().rev().take_while(|anchor| anchor.at > sent_at) {
            anchor.counters.subtract(amounts);
        }
    }

    /// Takes a new anchor; `mean` is the size of the mean call.
    pub(super) fn anchor(&mut self, anchor: Anchor, mean: &Amounts, choose: bool, is_guess: bool) {
        if self.anchors.len() == ANCHORS_MAX {
            self.anchors.pop_front();
        }
        self.anchors.push_back(anchor);
        if choose {
            self.choose(mean);
        }
        let unit = mean[self.dimension].max(f64::MIN_POSITIVE);
        let Some((estimate, amount)) = self.estimate(self.dimension, unit) else { return };
        self.base_calls = amount / unit;
        let weight = self.base_calls / (self.base_calls + HALF_WEIGHT_CALLS);
        let new = match self.per_s {
            Some(_) if is_guess => estimate,
            Some(old) => (old + weight * (estimate - old)).clamp(old * STEP.0, old * STEP.1),
            None => estimate,
        };
        self.set(new);
    }

    /// Sets the rate, kept finite and above nothing whatever was measured.
    pub(super) fn set(&mut self, per_s: f64) {
        if per_s.is_finite() {
            self.per_s = Some(per_s.clamp(1e-4, 1e9));
        }
    }

    /// Rate and amount over the longest span of anchors that agree with one rate.
    ///
    /// Between anchors i and j, A units apart, a bucket allows the rates from
    /// (A - 1) / (t + gap i) to (A + 1) / (t - gap j); going back, these intervals are
    /// intersected until nothing is left, which is where the limit changed.
    fn estimate(&self, dimension: Dimension, unit: f64) -> Option<(f64, f64)> {
        let (newest, rest) = self.anchors.iter().rev().collect_split()?;
        let slack = if dimension == Dimension::Requests { unit } else { 2.0 * unit };
        let (mut low, mut high) = (0.0_f64, f64::INFINITY);
        let mut found = None;
        for anchor in rest {
            let amount = newest.counters[dimension] - anchor.counters[dimension];
            let time = newest.at - anchor.at;
            low = low.max((amount - slack) / (time + anchor.gap));
            if time > newest.gap {
                high = high.min((amount + slack) / (time - newest.gap));
            }
            if low > high {
                break;
            }
            // What came in during a gap is no more than a bucket holds.
            let full_s = self.depth_calls * unit * time / amount.max(unit);
            let gap = |gap: f64| gap.min(full_s);
            let time = time + (gap(anchor.gap) - gap(newest.gap)) / 2.0;
            if amount > 0.0 && time > 0.0 {
                found = Some((amount / time, amount));
            }
        }
        found
    }

    /// Chooses the dimension whose rate varied least between the last anchors.
    fn choose(&mut self, mean: &Amounts) {
        let Some(own) = self.variation(self.dimension) else { return };
        let incumbent =
            if self.dimension == Dimension::Requests { INCUMBENT.0 } else { INCUMBENT.1 };
        let mut best = (own * incumbent, self.dimension);
        for dimension in Dimension::ALL {
            if self.told_tokens.is_some_and(|tokens| tokens != counts_tokens(dimension)) {
                continue;
            }
            match self.variation(dimension) {
                Some(variation) if variation < best.0 => best = (variation, dimension),
                _ => {}
            }
        }
        if best.1 != self.dimension {
            self.dimension = best.1;
            let unit = mean[best.1].max(f64::MIN_POSITIVE);
            self.per_s = None;
            if let Some((estimate, _)) = self.estimate(best.1, unit) {
                self.set(estimate);
            }
        }
    }

    /// How much the rate varied from one span between anchors to the next: the median of
    /// the logarithms of their ratios, so that one change of the limit does not count.
    fn variation(&self, dimension: Dimension) -> Option<f64> {
        let from = self.anchors.len().saturating_sub(CHOICE_ANCHORS + 1);
        let mut ratios = [0.0_f64; CHOICE_ANCHORS];
        let (mut found, mut last) = (0, None::<f64>);
        let mut before: Option<&Anchor> = None;
        for anchor in self.anchors.range(from..) {
            if let Some(before) = before {
                let time = anchor.at - before.at + (before.gap - anchor.gap) / 2.0;
                let calls =
                    anchor.counters[Dimension::Requests] - before.counters[Dimension::Requests];
                let amount = anchor.counters[dimension] - before.counters[dimension];
                if calls < CHOICE_CALLS_MIN {
                    continue;
                }
                if time > 0.0 && amount > 0.0 {
                    let rate = amount / time;
                    if let Some(last) = last {
                        ratios[found] = (rate / last).ln().abs();
                        found += 1;
                    }
                    last = Some(rate);
                }
            }
            before = Some(anchor);
        }
        let ratios = &mut ratios[..found];
        if found < CHOICE_SPANS_MIN {
            return None;
        }
        ratios.sort_unstable_by(f64::total_cmp);
        Some(ratios[found / 2])
    }
}

fn counts_tokens(dimension: Dimension) -> bool {
    dimension != Dimension::Requests
}

/// How many units of one dimension the mean call takes for each of another.
pub(super) fn ratio(mean: &Amounts, from: Dimension, to: Dimension) -> f64 {
    // Calls without a size leave nothing to go by.
    (mean[to] / mean[from].max(f64::MIN_POSITIVE)).clamp(1e-6, 1e6)
}

/// The first item of an iterator, and the others.
trait CollectSplit: Iterator + Sized {
    fn collect_split(mut self) -> Option<(Self::Item, Self)> {
        Some((self.next()?, self))
    }
}

impl<I: Iterator> CollectSplit for I {}
