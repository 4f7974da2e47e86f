//! Calls to providers and engines: connections, pools, timeouts.
//!
//! Only this crate opens connections to them. HTTP/1.1 connections have no task of their
//! own: whoever reads a reply's body polls the connection in place, which joins the frames
//! that are already there and saves a wake-up for each (`docs/design/request-path.md`).

mod body;
pub mod coding;
mod config;
mod connect;
mod dns;
mod exchange;
mod http;
pub mod limits;
mod lines;
mod metrics;
mod pack;
mod pool;
mod provider;
mod proxy;
mod sigv4;
mod upstream;

pub use config::{Config, Http2, Secret, Timeouts, Url, UrlError};
pub use connect::{Identity, TlsError, Trust, certificates, tls};
pub use dns::{Dns, DnsConfig};
pub use http::Http;
pub use metrics::Metrics;
pub use provider::{Auth, CREDENTIALS, PROVIDERS, Prefill, Provider};
pub use proxy::{NoProxy, Proxy, ProxyError};
pub use rustls::ClientConfig as TlsConfig;
pub use sigv4::AwsKey;
pub use upstream::Upstream;
