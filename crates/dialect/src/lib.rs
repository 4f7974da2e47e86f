//! The wire formats: what a request's bytes mean, and what a stream's events tell.
//!
//! Nothing here is parsed whole on the request path: [`scan`] walks the top level of a
//! request body once, [`sse`] finds the ends of events, and both leave the bytes alone.
//! [`convert`] parses, since a kept reply is turned from one form into the other at most
//! once per hit.
//!
//! Where the upstream speaks another dialect than the caller, a [`Codec`] of the one reads
//! into the [`neutral`] form and a [`Codec`] of the other writes it. That path parses whole
//! requests, and streams event by event.

pub mod anthropic;
pub mod chat;
pub mod codec;
mod completions;
pub mod converse;
pub mod gemini;
mod lenient;
mod members;
pub mod names;
pub mod neutral;
pub mod responses;
mod sse_reader;

pub mod convert;
pub mod openai;
pub mod scan;
pub mod sse;
pub mod wire;

pub use anthropic::Anthropic;
pub use chat::Chat;
pub use codec::Codec;
pub use completions::Completions;
pub use converse::Converse;
pub use gemini::Gemini;
pub use responses::Responses;
