//! `cargo xtask bench`: what Paceline costs, beside a known quantity in the same run.

pub(crate) mod gateway;
pub(crate) mod instructions;
pub(crate) mod limits;
mod load;
mod measure;
mod paced;
mod report;
mod servers;

/// The core of the gateway under test, alone on it.
const GATEWAY_CORE: usize = 0;

/// The core of the client and of the mock upstream.
const CLIENT_CORE: usize = 1;
