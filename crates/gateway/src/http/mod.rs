//! The HTTP edge: listeners, limits, and the endpoints.

mod edge;
mod listen;
mod models;
mod paths;
mod tls;

pub use crate::stages::coded::Compress;
pub(crate) use edge::Refused;
pub use edge::{Edge, EdgeConfig};
pub use listen::{ListenError, Listener, Stop, Stopper, bind, serve};
pub use tls::{ServerTls, TlsFault, TlsFiles};
