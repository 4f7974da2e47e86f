//! The wire formats: what a request's bytes mean, and what a stream's events tell.
//!
//! Nothing here is parsed whole on the request path: [`scan`] walks the top level of a
//! request body once, [`sse`] finds the ends of events, and both leave the bytes alone.
//! [`convert`] parses, since a kept reply is turned from one form into the other at most
//! once per hit.

pub mod convert;
pub mod openai;
pub mod scan;
pub mod sse;
