//! Where an upstream is, and the bounds of its use.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;

use crate::coding::Coding;
use crate::provider::{Auth, Provider};
use crate::proxy::Proxy;
use crate::sigv4::AwsKey;

/// One upstream: a place where models can be called.
#[derive(Clone, Debug)]
pub struct Config {
    /// The deployment's name, for errors and metrics.
    pub name: Arc<str>,
    /// Its base URL.
    pub url: Url,
    /// Sent instead of the caller's, as the provider wants it; `None` passes the caller's on.
    pub api_key: Option<Secret>,
    /// Signs each request, where the provider wants that.
    pub aws: Option<AwsKey>,
    /// The date of Azure's API, whose paths then name the deployment:
    /// `/openai/deployments/MODEL/chat/completions?api-version=DATE`. Default: none.
    pub api_version: Option<Box<str>>,
    /// What it speaks.
    pub provider: &'static Provider,
    /// Which HTTP version to speak.
    pub http2: Http2,
    /// Time limits.
    pub timeouts: Timeouts,
    /// How bodies of requests are packed from [`CODED_BYTES_MIN`](crate::coding::CODED_BYTES_MIN)
    /// on; the server must take that. Default: not at all.
    pub compress_requests: Option<Coding>,
    /// The proxy on the way to it. Default: none.
    pub proxy: Option<Proxy>,
    /// HTTP/1.1 connections, per core, that are opened at the start and kept open. With
    /// HTTP/2 one is. Default: 0.
    pub idle_connections_min: usize,
    /// Most idle HTTP/1.1 connections kept, per core. Default: 256.
    pub idle_connections_max: usize,
    /// How long an idle connection is kept, or less where the server says so
    /// (`Keep-Alive: timeout=`). Default: 30 s.
    pub idle_expiry: Duration,
    /// Most calls under way, per core; further ones wait for [`Timeouts::slot`]. Default: 4096.
    pub calls_max: usize,
    /// Replies up to this size are held and checked whole before the caller sees any of
    /// them; longer ones pass through as they come. Default: 4 MiB.
    pub whole_bytes_max: usize,
}

impl Config {
    /// The defaults for a URL.
    pub fn new(name: impl Into<Arc<str>>, url: Url) -> Self {
        Self {
            name: name.into(),
            url,
            provider: Provider::compatible(),
            api_key: None,
            aws: None,
            api_version: None,
            http2: Http2::Auto,
            timeouts: Timeouts::default(),
            compress_requests: None,
            proxy: None,
            idle_connections_min: 0,
            idle_connections_max: 256,
            idle_expiry: Duration::from_secs(30),
            calls_max: 4096,
            whole_bytes_max: 4 << 20,
        }
    }
}

/// Time limits of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included. Default: 5 s.
    pub connect: Duration,
    /// From the request to the head of the reply. Default: 600 s, as whole answers of
    /// long generations come only then; the OpenAI SDKs wait as long.
    pub first_byte: Duration,
    /// Between two pieces of the body. Default: 120 s.
    pub idle: Duration,
    /// For the whole exchange. Default: 3600 s.
    pub total: Duration,
    /// For a slot below [`Config::calls_max`]. Default: 2 s.
    pub slot: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(3600),
            slot: Duration::from_secs(2),
        }
    }
}

/// Which HTTP version to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// HTTP/2 where the server offers it in the TLS handshake, else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Never,
    /// HTTP/2 only; without TLS by prior knowledge.
    Always,
}

/// A key that no log, error or page ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    plain: HeaderValue,
    bearer: HeaderValue,
}

impl Secret {
    /// A key; `None` when it has characters that no header may carry.
    pub fn new(key: &str) -> Option<Self> {
        let value = |text: String| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Self { plain: value(key.to_owned())?, bearer: value(format!("Bearer {key}"))? })
    }

    /// The value of the header that shows it.
    pub(crate) fn header(&self, auth: Auth) -> HeaderValue {
        match auth {
            Auth::Bearer | Auth::SigV4 => self.bearer.clone(),
            Auth::Header(_) => self.plain.clone(),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The base URL of an upstream: `https://api.openai.com/v1`, or without the `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What stands before `/v1`, without a slash at its end.
    pub(crate) prefix: String,
}

/// Why a text is no base URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `http` nor `https`.
    #[error("it must start with http:// or https://")]
    Scheme,
    /// No host, or not a valid one.
    #[error("it has no valid host and port, as in http://127.0.0.1:8001")]
    Host,
    /// A user name or password.
    #[error("it holds a user name; give the key as `api_key` instead")]
    UserInfo,
    /// A query or a fragment.
    #[error("it has a query or a fragment; only a path may follow the host")]
    Query,
}

/// Ends of base URLs that the paths of requests begin with.
const VERSIONS: [&str; 2] = ["/v1", "/v1beta"];

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority: ::http::uri::Authority = authority.parse().map_err(|_| UrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        // A port that does not fit 16 bits is dropped by the parser, not refused.
        let port = authority.as_str().rsplit_once("]").map_or(authority.as_str(), |(_, rest)| rest);
        let has_port = port.contains(':');
        if authority.host().is_empty() || has_port && authority.port_u16().is_none() {
            return Err(UrlError::Host);
        }
        let path: ::http::uri::PathAndQuery =
            if path.is_empty() { "/" } else { path }.parse().map_err(|_| UrlError::Host)?;
        let path = path.path().trim_end_matches('/');
        Ok(Self {
            tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: VERSIONS.iter().find_map(|v| path.strip_suffix(v)).unwrap_or(path).to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.prefix)
    }
}

impl Url {
    /// Whether it is an `https` URL.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// The value of the `Host` header.
    pub(crate) fn host_header(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        let check = |text: &str, expected: Result<&str, UrlError>| {
            let found = text.parse::<Url>().map(|url| url.to_string());
            assert_eq!(found, expected.map(str::to_owned), "{text}");
        };
        check("http://127.0.0.1:8001", Ok("http://127.0.0.1:8001"));
        check("https://api.openai.com/v1/", Ok("https://api.openai.com:443"));
        check("http://[::1]:9/openai/v1", Ok("http://[::1]:9/openai"));
        check("ftp://x", Err(UrlError::Scheme));
        check("localhost:8000", Err(UrlError::Scheme));
        check("http://", Err(UrlError::Host));
        check("http://x:", Err(UrlError::Host));
        check("http://x:99999", Err(UrlError::Host));
        check("http://k@x", Err(UrlError::UserInfo));
        check("http://x/v1?a=b", Err(UrlError::Query));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("sk-very-secret").unwrap();
        for auth in [Auth::Bearer, Auth::Header("x-api-key")] {
            assert_eq!(format!("{secret:?} {:?}", secret.header(auth)), "*** Sensitive");
        }
        assert!(Secret::new("a\nb").is_none());
    }
}
