//! What limits count, and how much of it a call takes.

use std::ops::{Index, IndexMut};

use serde::Serialize;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Calls.
    Requests,
    /// Tokens of the prompt and of the longest answer allowed, counted at admission.
    TokensAdmitted,
    /// Tokens of the prompt and of the answer, counted when the call has ended.
    TokensUsed,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Requests, Self::TokensAdmitted, Self::TokensUsed];
}

/// What is known of a call's size before it is sent, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Estimate of the prompt.
    pub prompt: u32,
    /// `max_tokens`, or an estimate where the call names none.
    pub output_max: u32,
}

/// What a call has used in the end, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Prompt, cached tokens included.
    pub prompt: u32,
    /// Answer, reasoning included.
    pub output: u32,
}

/// One number for each dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amounts([f64; 3]);

impl Amounts {
    pub(super) fn new(requests: f64, admitted: f64, used: f64) -> Self {
        Self([requests, admitted, used])
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to -= from;
        }
    }

    /// Moves a share `by` of the way to `other`.
    pub(super) fn approach(&mut self, other: &Self, by: f64) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to += (from - *to) * by;
        }
    }
}

impl Index<Dimension> for Amounts {
    type Output = f64;

    fn index(&self, dimension: Dimension) -> &f64 {
        &self.0[dimension as usize]
    }
}

impl IndexMut<Dimension> for Amounts {
    fn index_mut(&mut self, dimension: Dimension) -> &mut f64 {
        &mut self.0[dimension as usize]
    }
}
