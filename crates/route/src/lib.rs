//! The choice of a deployment for a call: policies, and health learned from outcomes.
//!
//! This crate performs no I/O and opens no connection: it only counts and observes.

mod affinity;
mod budget;
mod health;
mod least;
mod policy;
mod queue;
mod target;
mod threads;
mod times;

pub use affinity::{Affinity, AffinityConfig};
pub use budget::RetryBudget;
pub use health::{Health, HealthConfig};
pub use least::LeastOfTwo;
pub use policy::{Policy, RouteKey};
pub use queue::{Full, LEVELS, Order, Queue, QueueConfig, Ticket, Waiting};
pub use target::{Ask, Lease, Outcome, Pool, Target};
pub use times::Times;
