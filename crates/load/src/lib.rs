//! Replays of real traces, against the simulated fleet in virtual time or against any URL in
//! real time, and their reports.

pub mod text;
pub mod trace;

pub use trace::{Fit, Kind, LeftOut, Trace, TraceError};
