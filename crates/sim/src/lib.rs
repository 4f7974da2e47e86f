//! A simulated LLM engine with real scheduling, prefix cache, latencies and faults.

mod answer;
mod api;
mod config;
mod engine;
mod fault;
mod kv;
mod local;
mod metrics;
mod render;
mod scheduler;
mod server;
mod shape;
mod text;

pub use config::{Config, ConfigError};
pub use engine::{Engine, Refused, Summary, TokenStream, Tokens};
pub use fault::{FAULT_HEADER, FaultError};
pub use local::Local;
pub use metrics::Stats;
pub use scheduler::Work;
pub use server::Server;
pub use shape::{BLOCK_TOKENS, Gpu, Load, Model, Shape, ShapeError, Timing};
pub use text::{HEADER_BYTES, overhead_tokens};
