//! The LLM endpoints through one pipeline.
//!
//! [`Pipeline`] takes a request as bytes and gives an answer as bytes; [`http`] puts it
//! behind a listener. A replay drives the same pipeline without sockets.

pub mod http;
mod metrics;
mod pipeline;
mod stages;
mod status;

pub use metrics::Metrics;
pub use pipeline::{Incoming, Parts, Pipeline, Shared};
pub use stages::admit::{Config as AdmitConfig, StaticKey};
pub use stages::hedge::{HedgeConfig, Hedges};
pub use stages::keep_alive::{KeepAlive, KeepAliveConfig};
pub use stages::line::{LineConfig, Overflow};
pub use stages::record::{Answer, AnswerBody};
pub use stages::routes::{Chain, Deployment, Lines, Models, Routes};
pub use stages::send::RetryConfig;
pub use stages::stored::{Stored, StoredConfig};
