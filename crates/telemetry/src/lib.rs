//! Metrics, logs and named tasks, for every crate above.
//!
//! Counters are sharded over the cores and cost a few nanoseconds; an exporter adds the
//! shards up. Labels come only from closed enums or from configured names.

pub mod log;
pub mod metrics;
pub mod task;
