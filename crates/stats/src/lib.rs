//! Quantiles, bounded summaries, time lines, and comparisons with stated error rates.
//!
//! This crate performs no I/O, draws no random number without a given seed, and knows
//! nothing of calls or engines.

mod compare;
mod quantile;
mod student;
mod summary;
mod timeline;

pub use compare::{Interval, Ratio, bootstrap, mean_interval, paired_ratio};
pub use quantile::{mean, quantile_sorted, quantiles};
pub use student::{t_cdf, t_quantile};
pub use summary::Summary;
pub use timeline::{Bucket, Timeline};
