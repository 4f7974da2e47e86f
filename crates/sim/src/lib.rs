//! A simulated LLM engine with real scheduling, prefix cache, latencies and faults.
//!
//! A replica behaves like one vLLM process on one GPU: continuous batching with a token
//! budget, chunked prefill, ref-counted KV blocks with an LRU prefix cache, preemption by
//! recompute. Step times follow a [`Shape`], which is data. Texts mean nothing: they are
//! drawn from a seed, a fixed number of bytes a token.
//!
//! Three ways in, one above the other:
//!
//! - [`Engine`] takes numbers and block hashes ([`Work`]) and gives exact token times;
//! - [`Local`] is an [`Upstream`](paceline_upstream::Upstream) that answers OpenAI chat
//!   requests in process, under the real clock or in virtual time;
//! - [`Server`] puts N replicas behind N ports.
//!
//! In virtual time the same seed gives the same result each time:
//!
//! ```
//! use paceline_core::clock::run_virtual;
//! use paceline_sim::{Config, Engine, Shape, Work};
//!
//! let shape = Shape::load("llama3-8b").unwrap();
//! let summary = run_virtual(|clock| async move {
//!     let engine = Engine::start(&Config::default(), &shape, &clock).unwrap();
//!     let work = Work { prompt: 12_000, output: 343, hashes: Box::default() };
//!     let mut stream = engine.submit(work).unwrap();
//!     while let Some(tokens) = stream.next().await {
//!         if tokens.summary.is_some() {
//!             return tokens.summary;
//!         }
//!     }
//!     None
//! })
//! .unwrap()
//! .unwrap();
//! // 12,000 tokens of prefill take 0.31 s on an H100, 342 decode steps 2.5 s.
//! assert_eq!(summary.first_token.since(summary.arrived).as_millis(), 305);
//! assert_eq!(summary.last_token.since(summary.first_token).as_millis(), 2492);
//! ```

mod shape;

mod kv;
mod scheduler;

mod engine;

mod text;

mod answer;
mod api;
mod render;

mod fault;
mod local;

mod metrics;
mod server;

mod provider;

mod config;

pub use config::{Config, ConfigError};
pub use engine::{Engine, Refused, Summary, TokenStream, Tokens};
pub use fault::{FAULT_HEADER, FaultError};
pub use local::Local;
pub use metrics::Stats;
pub use provider::{Provider, Vendor};
pub use scheduler::Work;
pub use server::Server;
pub use shape::{BLOCK_TOKENS, Gpu, Load, Model, Shape, ShapeError, Timing};
pub use text::{HEADER_BYTES, overhead_tokens};
