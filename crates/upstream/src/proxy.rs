//! Proxies on the way to upstreams: which one, and how it is asked for a tunnel.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use ::http::HeaderValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Url;

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Proxy-Authorization`.
    pub(crate) auth: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

/// Why a text is no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Another scheme than `http`.
    #[error("a proxy's address begins with http://; other kinds of proxies are not supported")]
    Scheme,
    /// No valid host and port.
    #[error("it has no valid host and port, as in http://proxy.example:3128")]
    Host,
}

impl FromStr for Proxy {
    type Err = ProxyError;

    /// `http://USER:PASSWORD@HOST:PORT`; user and port (80) may be missing, the scheme too.
    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => text,
        };
        let rest = rest.trim_end_matches('/');
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let authority: ::http::uri::Authority = rest.parse().map_err(|_| ProxyError::Host)?;
        if authority.host().is_empty() || authority.as_str().ends_with(':') {
            return Err(ProxyError::Host);
        }
        let auth = user.map(|user| {
            let text = format!("Basic {}", BASE64_STANDARD.encode(unescaped(user)));
            let mut value = HeaderValue::try_from(text).map_err(|_| ProxyError::Host)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(80),
            auth: auth.transpose()?,
        })
    }
}

/// The hosts that are reached without a proxy, as in `NO_PROXY`: names with all below them,
/// addresses, ranges as `10.0.0.0/8`, each with a port where it is meant for that alone, or
/// `*` for all. This machine itself is always among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<String>);

impl NoProxy {
    /// Of a list with commas.
    pub fn new(list: &str) -> Self {
        let items = list.split([',', ' ']).map(|item| item.trim().to_ascii_lowercase());
        Self(items.filter(|item| !item.is_empty()).collect())
    }

    /// Whether an upstream is reached without a proxy.
    pub fn holds(&self, url: &Url) -> bool {
        let host = url.host.trim_matches(['[', ']']).to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.0.iter().any(|item| {
            let (name, port) = match item.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                    (name, port.parse::<u16>().ok())
                }
                _ => (item.as_str(), None),
            };
            if port.is_some_and(|port| port != url.port) {
                return false;
            }
            let name = name.trim_matches(['[', ']']).trim_start_matches('.');
            if name == "*" || name == host {
                return true;
            }
            match address {
                Some(address) => in_range(address, name),
                None => host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
            }
        })
    }
}

/// Whether an address lies in a range such as `10.0.0.0/8`.
fn in_range(address: IpAddr, range: &str) -> bool {
    let Some((base, bits)) = range.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let (a, b, width) = match (address, base) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0)
}

/// The longest answer to a request for a tunnel.
const ANSWER_BYTES_MAX: usize = 8192;

/// Asks a proxy for a tunnel to an upstream (`CONNECT`; RFC 9110, 9.3.6).
pub(crate) async fn tunnel(tcp: &mut TcpStream, proxy: &Proxy, url: &Url) -> io::Result<()> {
    let target = format!("{}:{}", url.host, url.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(auth) = &proxy.auth {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(auth.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    tcp.write_all(&request).await?;
    let mut answer = Vec::with_capacity(256);
    // Byte by byte, so that nothing of what follows is taken: it is read once a connection.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= ANSWER_BYTES_MAX {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        answer.push(tcp.read_u8().await?);
    }
    let status = answer.trim_ascii_end().split(|byte| byte.is_ascii_whitespace()).nth(1);
    let status = status.unwrap_or_default();
    match status {
        // Any of them means it (RFC 9110, 9.3.6).
        [b'2', _, _] => Ok(()),
        b"407" => Err(io::Error::other("the proxy wants a user and a password")),
        status => {
            let status = String::from_utf8_lossy(status);
            Err(io::Error::other(format!("the proxy refuses a tunnel (status {status})")))
        }
    }
}

/// A text with its `%xx` read.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| *byte == b'%') {
            Some(code) => {
                out.push(code);
                rest = &behind[2..];
            }
            None => {
                out.push(*byte);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read() {
        let check = |text: &str, expected: Result<(&str, u16, Option<&str>), ProxyError>| {
            let found = text.parse::<Proxy>();
            let found = found.as_ref().map(|proxy| {
                let auth = proxy.auth.as_ref().map(|auth| auth.to_str().unwrap());
                (proxy.host.as_str(), proxy.port, auth)
            });
            assert_eq!(found.map_err(Clone::clone), expected, "{text}");
        };
        check("http://proxy.example:3128/", Ok(("proxy.example", 3128, None)));
        check("proxy.example", Ok(("proxy.example", 80, None)));
        // The pair of RFC 7617, 2.
        let basic = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        check("http://Aladdin:open%20sesame@p:1", Ok(("p", 1, basic)));
        check("socks5://p:1", Err(ProxyError::Scheme));
        check("http://", Err(ProxyError::Host));
        let shown = format!("{:?}", "http://u:secret@p:1".parse::<Proxy>().unwrap());
        assert_eq!(shown, "http://p:1");
    }

    #[test]
    fn some_hosts_are_reached_without() {
        let check = |list: &str, url: &str, expected: bool| {
            let url: Url = url.parse().unwrap();
            assert_eq!(NoProxy::new(list).holds(&url), expected, "{list} {url}");
        };
        check("", "https://api.example.com", false);
        check("", "http://localhost:1", true);
        check("", "http://[::1]:1", true);
        check("*", "https://api.example.com", true);
        check("example.com", "https://api.example.com", true);
        check(".example.com", "https://api.example.com", true);
        check("ample.com", "https://api.example.com", false);
        check("a.b, API.example.com:443", "https://api.example.com", true);
        check("api.example.com:80", "https://api.example.com", false);
        check("10.0.0.0/8", "http://10.9.8.7:1", true);
        check("10.0.0.0/8", "http://11.9.8.7:1", false);
        check("fd00::/8", "http://[fd00::7]:1", true);
        check("10.0.0.1", "http://10.0.0.1:1", true);
        check("[fd00::7]:1", "http://[fd00::7]:1", true);
    }

    #[tokio::test]
    async fn a_tunnel_is_there_when_the_proxy_says_so() {
        let check = async |answer: Vec<u8>, expected: Result<(), &str>| {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut proxy, _) = listener.accept().await.unwrap();
            proxy.write_all(&answer).await.unwrap();
            proxy.shutdown().await.unwrap();
            let url: Url = "https://api.example.com".parse().unwrap();
            let found = tunnel(&mut tcp, &"p".parse().unwrap(), &url).await;
            match (found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
            let mut rest = Vec::new();
            tcp.read_to_end(&mut rest).await.unwrap();
            assert!(expected.is_err() || rest == b"first", "{rest:?}");
        };
        check(b"HTTP/1.1 200 Fine\r\nVia: x\r\n\r\nfirst".to_vec(), Ok(())).await;
        check(b"HTTP/1.0 201\r\n\r\nfirst".to_vec(), Ok(())).await;
        check(b"HTTP/1.1 407 Who\r\n\r\n".to_vec(), Err("a user and a password")).await;
        check(b"HTTP/1.1 302 No\r\n\r\n".to_vec(), Err("status 302")).await;
        check(b"\r\n\r\n".to_vec(), Err("refuses a tunnel")).await;
        check(b"HTTP/1.1 200 Fi".to_vec(), Err("")).await;
        let endless = [b"HTTP/1.1 200 Fine\r\n", &b"X: y\r\n".repeat(2000)[..]].concat();
        check(endless, Err("does not end")).await;
    }
}
