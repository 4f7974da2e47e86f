//! `cargo xtask bench`: what Paceline costs, beside a known quantity in the same run.

pub(crate) mod gateway;
pub(crate) mod instructions;
pub(crate) mod limits;
mod load;
mod measure;
mod paced;
mod report;
mod servers;

use std::path::PathBuf;

use anyhow::Result;
use testkit::tools;

use crate::phases::{Phases, cargo, run};

/// The core of the gateway under test, alone on it.
const GATEWAY_CORE: usize = 0;

/// The core of the client and of the mock upstream.
const CLIENT_CORE: usize = 1;

/// How Paceline is built for a measurement,
const DIST: [&str; 5] = ["build", "--locked", "--profile", "dist", "-ppaceline"];

/// with the allocator that it is released with.
const ALLOCATOR: [&str; 2] = ["--features", "jemalloc"];

/// Builds Paceline as it is released.
fn build_paceline(phases: &mut Phases) -> Result<PathBuf> {
    phases.run("build Paceline (profile dist)", || run(cargo().args(DIST).args(ALLOCATOR)))?;
    Ok(tools::target_dir().join("dist/paceline"))
}
