//! The HTTP edge: listeners, limits, and the endpoints.

mod edge;
mod listen;
mod models;
mod paths;

pub use edge::{Edge, EdgeConfig};
pub use listen::{ListenError, Listener, Stop, Stopper, bind, serve};
