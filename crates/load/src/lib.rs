//! Replays of real traces, against the simulated fleet in virtual time or against any URL in
//! real time, and their reports.
//!
//! A [`Trace`] is read and fitted, a [`Replay`] sends its calls to a [`Target`], and a
//! [`Report`] says what came of it. The assembly implements [`Target`] over the gateway's
//! pipeline and over bare engines.

pub mod client;
pub mod replay;
pub mod report;
mod scan;
mod target;
pub mod text;
pub mod trace;

pub use client::Client;
pub use replay::{Config, Cost, Outcome, Progress, Replay};
pub use report::compare::{Arm, Comparison};
pub use report::{Meta, Report};
pub use target::{Failure, FailureKind, Probe, ReplicaStats, Request, Response, Target};
pub use trace::{Fit, Kind, LeftOut, Trace, TraceError};
