//! Real servers, scripted peers and clients for the tests of the workspace.
//!
//! Everything listens on a free loopback port, is ready when `start` returns, and ends
//! when its value is dropped, also when a test panics. The log of a failed test's server
//! stays under `target/testkit/`. A step that fails ends the test: nothing here returns a
//! `Result` that a test would only unwrap.
//!
//! ```no_run
//! let upstream = testkit::Script::new().otherwise(testkit::Reply::json(200, "{}")).start();
//! let gateway = testkit::Paceline::serve().upstream(upstream.url()).start();
//! let response = testkit::http::get(&format!("{}/v1/models", gateway.url()));
//! assert_eq!(response.status, 200);
//! ```

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test that asked for it"
)]

pub mod clients;
pub mod http;
mod litellm;
mod nginx;
mod paceline;
mod process;
mod script;
pub mod tls;
pub mod tools;

pub use litellm::{Litellm, Model};
pub use nginx::{Nginx, NginxBuilder};
pub use paceline::{Paceline, Running, Sim};
pub use process::Process;
pub use script::{Gate, Reply, Request, Script, ScriptBuilder};
