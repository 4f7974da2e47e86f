//! Opening connections: TCP, TLS, and the choice of HTTP/1.1 or HTTP/2.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use paceline_telemetry::metrics::GaugeHold;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::config::{Config, Http2};
use crate::dns::Dns;
use crate::proxy::tunnel;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate of the user's own authority cannot be read.
    #[error("the certificates in the CA file cannot be used")]
    Ca(#[source] rustls::Error),
    /// The certificate that is to be shown cannot be used.
    #[error("the client certificate cannot be used: {0}")]
    Identity(#[source] rustls::Error),
    /// The library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Whom an upstream's TLS trusts, and what it shows of itself.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Further certificate authorities, as DER.
    pub ca: Vec<Vec<u8>>,
    /// The certificate that is shown to the server, where one is.
    pub identity: Option<Arc<Identity>>,
}

/// A certificate with its private key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Of PEM texts: the certificate with those between it and its authority, and its key.
    ///
    /// # Errors
    /// [`TlsError::Identity`] when one of them holds none.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Arc<Self>, TlsError> {
        let fail = |what: &str| TlsError::Identity(rustls::Error::General(what.to_owned()));
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = found.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| fail("the file holds no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| fail("the file holds no private key"))?;
        Ok(Arc::new(Self { chain, key }))
    }
}

/// The TLS settings of an upstream. Trusted are the machine's certificate authorities,
/// Mozilla's where the machine has none, and those of `trust`.
///
/// # Errors
/// When a certificate of `trust` is unusable.
pub fn tls(trust: &Trust, http2: Http2) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    // Broken certificates in the machine's store are no reason to fail.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for certificate in &trust.ca {
        roots.add(certificate.clone().into()).map_err(TlsError::Ca)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots);
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(TlsError::Identity)?,
    };
    config.alpn_protocols = match http2 {
        Http2::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Http2::Never => vec![b"http/1.1".to_vec()],
        Http2::Always => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}

/// The certificates of a PEM text, as DER; what is no certificate is passed over.
pub fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let found = CertificateDer::pem_slice_iter(pem);
    found.filter_map(Result::ok).map(|certificate| certificate.as_ref().to_vec()).collect()
}

/// Opens a connection, through a proxy where there is one; whether the server chose HTTP/2.
pub(crate) async fn open(
    config: &Config,
    tls: Option<&Arc<ClientConfig>>,
    dns: &Dns,
) -> io::Result<(Io, bool)> {
    let url = &config.url;
    let host = url.host.trim_matches(['[', ']']);
    let (first, port) = match &config.proxy {
        Some(proxy) => (proxy.host.trim_matches(['[', ']']), proxy.port),
        None => (host, url.port),
    };
    let mut tcp = connect_any(&dns.look_up(first).await?, port).await?;
    tcp.set_nodelay(true)?;
    if let Some(proxy) = config.proxy.as_ref().filter(|_| url.tls) {
        tunnel(&mut tcp, proxy, url).await?;
    }
    if !url.tls {
        return Ok((Io::new(Stream::Tcp(tcp)), false));
    }
    // Never in plain text what was to be encrypted.
    let tls = tls.ok_or_else(|| io::Error::other("TLS is not set up"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Io::new(Stream::Tls(Box::new(stream))), h2))
}

/// How long an attempt has the field to itself ("Connection Attempt Delay"; RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A connection to one of several addresses: the next is tried when one fails or is slow, and
/// the first that answers is taken ("happy eyeballs"; RFC 8305).
async fn connect_any(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect((*only, port)).await;
    }
    let mut rest = interleaved(addresses).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match rest.next() {
            Some(address) => attempts.push(TcpStream::connect((address, port))),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let next = attempts.next();
        let ended = if rest.len() > 0 {
            tokio::time::timeout(ATTEMPT_DELAY, next).await.ok().flatten()
        } else {
            next.await
        };
        match ended {
            Some(Ok(tcp)) => return Ok(tcp),
            Some(Err(error)) => failure = error,
            None => {}
        }
    }
}

/// The addresses with both families in turn, from the resolver's first (RFC 8305, 4).
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (same, other): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(addresses.len());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    while order.len() < addresses.len() {
        order.extend(same.next());
        order.extend(other.next());
    }
    order
}

/// A connection that remembers whether anything was read from it.
pub(crate) struct Io {
    stream: Stream,
    heard: Arc<AtomicBool>,
    pub(crate) open: Option<GaugeHold>,
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    fn new(stream: Stream) -> Self {
        Self { stream, heard: Arc::default(), open: None }
    }

    /// Set as soon as a byte was read.
    pub(crate) fn heard(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.heard)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn families_take_turns() {
        let v4 = |n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
        let v6 = |n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n));
        let order = interleaved(&[v6(1), v6(2), v6(3), v4(1)]);
        assert_eq!(order, [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(interleaved(&[v4(1), v4(2)]), [v4(1), v4(2)]);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nobody listens at the first, and the second leads nowhere (RFC 5737).
        let addresses = ["127.0.0.2", "192.0.2.1", "127.0.0.1"].map(|a| a.parse().unwrap());
        let tcp = connect_any(&addresses, port).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap().port(), port);
        assert!(connect_any(&addresses[..1], port).await.is_err());
    }
}
