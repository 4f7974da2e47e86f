//! Calls to providers and engines: connections, pools, timeouts.
//!
//! Only this crate opens connections to them.

mod upstream;

pub use upstream::Upstream;
