//! The tests of the binary, one file per capability, on real sockets.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a step that fails ends its test")]

mod answers;
mod balance;
mod bedrock;
mod bytes;
mod cache;
mod cli;
mod compression;
mod continued;
mod dialects;
mod disconnects;
mod endpoints;
mod flights;
mod frameworks;
mod http2;
mod keep_alive;
mod limits;
mod listener;
mod network;
mod providers;
mod replay;
mod requests;
mod resilience;
mod runs;
mod sdk;
mod secrets;
mod soak;
mod statuses;
mod stop;
mod stored;
mod support;
