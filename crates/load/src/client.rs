//! A small HTTP client for replays in real time: it opens a connection whenever none is
//! free, so that a slow answer never delays the next call, as agents of their own would.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Scheme, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use paceline_core::{BoxFuture, CacheStatus, Chunks, Error, ErrorKind, Origin, Retry};
use paceline_telemetry::task;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::target::{Failure, FailureKind, Request, Response, Target};

/// Where a [`Client`] sends calls, and with what.
#[derive(Clone, Debug)]
pub struct Config {
    /// `http` or `https` URL. A path other than `/` or one that ends in `/v1` is taken as
    /// it is; else `/v1/chat/completions` is meant.
    pub url: String,
    /// Sent as `Authorization: Bearer …`. Default: none.
    pub api_key: Option<String>,
    /// More headers, sent with every call. Default: none.
    pub headers: Vec<(String, String)>,
    /// Longest wait for a connection. Default: 10 s.
    pub connect_timeout: Duration,
}

impl Config {
    /// The defaults for a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key: None,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// A [`Config`] that no call can be sent with.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; {hint}")]
pub struct ConfigError {
    /// What is wrong.
    pub problem: String,
    /// How to mend it.
    pub hint: &'static str,
}

impl ConfigError {
    fn new(problem: impl Into<String>, hint: &'static str) -> Self {
        Self { problem: problem.into(), hint }
    }
}

/// Sends calls to a URL. Runs on a tokio runtime with I/O and timers.
pub struct Client(Arc<Inner>);

struct Inner {
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
    connect_timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Connections that wait for a call; the last used is the next, so that others may end.
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

/// An idle connection that the server closed shows so only when it is used; this many are
/// kept at most.
const IDLE_MAX: usize = 4096;

impl Client {
    /// A client for a URL; connects with the first call.
    ///
    /// # Errors
    /// When the URL or a header is malformed.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        const URL_HINT: &str = "give one such as http://127.0.0.1:8000";
        let bad = |what: String| ConfigError::new(format!("`{}` {what}", config.url), URL_HINT);
        let uri: Uri = config.url.parse().map_err(|error| bad(format!("is no URL: {error}")))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(bad("is no http or https URL".to_owned())),
        };
        let authority = uri.authority().ok_or_else(|| bad("names no host".to_owned()))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "" | "/" => "/v1/chat/completions".to_owned(),
            path if path.trim_end_matches('/').ends_with("/v1") => {
                format!("{}/chat/completions", path.trim_end_matches('/'))
            }
            path => path.to_owned(),
        };
        let tls = if tls {
            let name = ServerName::try_from(host.clone())
                .map_err(|error| bad(format!("has no name for TLS: {error}")))?;
            Some((connector(), name))
        } else {
            None
        };
        Ok(Self(Arc::new(Inner {
            port: authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 }),
            headers: headers(config, authority.as_str())?,
            host,
            path,
            connect_timeout: config.connect_timeout,
            tls,
            idle: Mutex::default(),
        })))
    }
}

fn headers(config: &Config, host: &str) -> Result<HeaderMap, ConfigError> {
    const HINT: &str = "headers are printable ASCII";
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    let value = |name: &str, text: &str| {
        HeaderValue::from_str(text)
            .map_err(|error| ConfigError::new(format!("header `{name}`: {error}"), HINT))
    };
    headers.insert(HOST, value("host", host)?);
    if let Some(key) = &config.api_key {
        let mut secret = value("authorization", &format!("Bearer {key}"))?;
        secret.set_sensitive(true);
        headers.insert(AUTHORIZATION, secret);
    }
    for (name, text) in &config.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|error| ConfigError::new(format!("header `{name}`: {error}"), HINT))?;
        headers.insert(key, value(name, text)?);
    }
    Ok(headers)
}

fn connector() -> TlsConnector {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

impl Target for Client {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Failure>> {
        Box::pin(exchange(&self.0, request))
    }
}

async fn exchange(client: &Arc<Inner>, request: Request) -> Result<Response, Failure> {
    let request = client.request(request)?;
    // A server may close an idle connection just when it is used: then on the next one, and
    // at last on a new one. An answer that has begun is never asked for again.
    while let Some(mut connection) = client.idle() {
        if connection.ready().await.is_err() {
            continue;
        }
        match connection.try_send_request(request.clone()).await {
            Ok(response) => return Ok(client.response(connection, response)),
            Err(mut error) => {
                // Not sent at all, or sent and closed without a byte of an answer: the same
                // race, seen sooner or later.
                if error.take_message().is_none() && !error.error().is_incomplete_message() {
                    return Err(broken(error.error()));
                }
            }
        }
    }
    let connecting = client.connect();
    let mut connection =
        tokio::time::timeout(client.connect_timeout, connecting).await.map_err(|_| {
            let limit_ms = client.connect_timeout.as_millis();
            Failure::new(FailureKind::Connect, format!("no connection within {limit_ms} ms"))
        })??;
    let response = connection.send_request(request).await.map_err(|error| broken(&error))?;
    Ok(client.response(connection, response))
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::new(FailureKind::Broken, format!("the exchange broke off: {error}"))
}

impl Inner {
    fn request(&self, request: Request) -> Result<http::Request<Full<Bytes>>, Failure> {
        let mut out = http::Request::new(Full::new(request.body));
        *out.method_mut() = http::Method::POST;
        let refused = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Rejected, format!("the call cannot be sent: {error}"))
        };
        *out.uri_mut() = self.path.parse().map_err(|error| refused(&error))?;
        *out.headers_mut() = self.headers.clone();
        let mut name = |key: &'static str, text: &str| {
            let value = HeaderValue::from_str(text).map_err(|error| refused(&error))?;
            out.headers_mut().insert(key, value);
            Ok::<_, Failure>(())
        };
        name("x-paceline-run", &request.run)?;
        if let Some(agent) = &request.agent {
            name("x-paceline-agent", agent)?;
        }
        Ok(out)
    }

    fn idle(&self) -> Option<Connection> {
        self.idle.lock().pop()
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let refused = |error: std::io::Error| {
            let target = format!("{}:{}", self.host, self.port);
            Failure::new(FailureKind::Connect, format!("cannot reach {target}: {error}"))
        };
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        match &self.tls {
            None => start(TokioIo::new(tcp)).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await.map_err(refused)?;
                start(TokioIo::new(tls)).await
            }
        }
    }

    fn response(
        self: &Arc<Self>,
        connection: Connection,
        response: http::Response<Incoming>,
    ) -> Response {
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let cache = header("x-paceline-cache").and_then(|status| match status {
            "hit" | "similar" => Some(CacheStatus::Hit),
            "joined" => Some(CacheStatus::Joined),
            "miss" => Some(CacheStatus::Miss),
            "bypass" => Some(CacheStatus::Bypass),
            _ => None,
        });
        let replica = header("x-paceline-deployment").map(Into::into);
        let status = response.status().as_u16();
        let body = body(Arc::clone(self), connection, response.into_body());
        Response { status, replica, cache, body }
    }
}

async fn start<T>(io: T) -> Result<Connection, Failure>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (connection, driver) = handshake(io).await.map_err(|error| broken(&error))?;
    // Its error reaches the call that waits for the answer.
    task::spawn("replay-connection", async move { drop(driver.await) });
    Ok(connection)
}

/// The pieces of a body as they arrive. At its end the connection is free again; a body
/// that is dropped before ends its connection.
fn body(client: Arc<Inner>, connection: Connection, incoming: Incoming) -> Chunks {
    let state = Some((client, connection, incoming));
    Box::pin(stream::unfold(state, |state| async move {
        let (client, connection, mut incoming) = state?;
        loop {
            match incoming.frame().await {
                None => {
                    let mut idle = client.idle.lock();
                    if !connection.is_closed() && idle.len() < IDLE_MAX {
                        idle.push(connection);
                    }
                    return None;
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), Some((client, connection, incoming))));
                    }
                }
                Some(Err(error)) => {
                    let message = "the answer broke off";
                    let kind = ErrorKind::UpstreamBroken;
                    let error = Error::new(kind, Origin::Upstream, Retry::Never, message)
                        .with_source(error);
                    return Some((Err(error), None));
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;

    use paceline_core::Clock;

    use super::*;
    use crate::replay::{Config as ReplayConfig, Replay};
    use crate::report::{Meta, Report};
    use crate::trace::Trace;

    /// A server that answers each call after `ttft` with `max_tokens` ignored and three
    /// tokens, one byte of the stream at a time where `slow`; it closes a connection after
    /// `calls` of them.
    fn serve(ttft: Duration, calls: usize, status: u16) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, seen) = (stream.unwrap(), Arc::clone(&seen));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut writer = stream;
                    for _ in 0..calls {
                        let (mut head, mut length) = (String::new(), 0);
                        loop {
                            let mut line = String::new();
                            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                                return;
                            }
                            if let Some(value) = line.strip_prefix("content-length: ") {
                                length = value.trim().parse().unwrap();
                            }
                            if line == "\r\n" {
                                break;
                            }
                            head += &line;
                        }
                        let mut body = vec![0; length];
                        reader.read_exact(&mut body).unwrap();
                        seen.lock().push(head);
                        std::thread::sleep(ttft);
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\nx-paceline-cache: miss\r\nx-paceline-deployment: a\r\n\r\n"
                        );
                        writer.write_all(head.as_bytes()).unwrap();
                        for event in [
                            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
                            "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\nda",
                            "ta: {\"choices\":[{\"delta\":{\"content\":\"c\"}}],\"usage\":null}\n\n",
                            "data: {\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\ndata: [DONE]\n\n",
                        ] {
                            write!(writer, "{:x}\r\n{event}\r\n", event.len()).unwrap();
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        writer.write_all(b"0\r\n\r\n").unwrap();
                    }
                });
            }
        });
        (url, heads)
    }

    fn replay(url: &str, calls: u64) -> Report {
        let line = |call: u64| {
            format!(
                "{{\"timestamp\":{},\"input_length\":600,\"output_length\":3,\"hash_ids\":[0,{call}]}}\n",
                call * 10
            )
        };
        let text: String = (1..=calls).map(line).collect();
        let trace = Arc::new(Trace::parse("t.jsonl", text.as_bytes()).unwrap());
        let config = Config { api_key: Some("key".to_owned()), ..Config::new(url) };
        let replay = Replay {
            trace,
            config: ReplayConfig::default(),
            target: Arc::new(Client::new(&config).unwrap()),
            probe: None,
            clock: Clock::real(),
            on_progress: None,
            meta: Meta::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(replay.run()).report
    }

    #[test]
    fn real_time_over_http() {
        // Connections that close after three calls make the client notice and connect again.
        let (url, heads) = serve(Duration::from_millis(25), 3, 200);
        let report = replay(&url, 30);
        assert_eq!((report.calls.completed, report.calls.failed), (30, 0), "{:?}", report.calls);
        assert_eq!(report.prefix_hit_ratio, Some(0.5));
        assert!((25.0..300.0).contains(&report.ttft_ms.p50), "{:?}", report.ttft_ms.p50);
        assert_eq!(report.inter_token_ms.count, 60);
        assert_eq!(report.replicas[0].calls, 30);
        let heads = heads.lock();
        let head = heads[0].to_lowercase();
        for part in [
            "post /v1/chat/completions http/1.1",
            "x-paceline-run: call-1.1",
            "authorization: bearer key",
        ] {
            assert!(head.contains(part), "{head}");
        }
    }

    #[test]
    fn failures_in_real_time() {
        let (url, _) = serve(Duration::ZERO, 9, 503);
        let report = replay(&url, 2);
        assert_eq!(report.calls.failures[0].kind, FailureKind::Rejected);
        assert!(report.calls.failures[0].example.starts_with("status 503: data:"));
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let report = replay(&format!("http://{free}"), 2);
        assert_eq!(report.calls.failures[0].kind, FailureKind::Connect);
        assert_eq!(report.calls.failed, 2);
    }

    #[test]
    fn urls_and_headers() {
        let path = |url: &str| Client::new(&Config::new(url)).map(|c| (c.0.port, c.0.path.clone()));
        for (url, port, expected) in [
            ("http://a", 80, "/v1/chat/completions"),
            ("https://a/", 443, "/v1/chat/completions"),
            ("http://a:9/v1/", 9, "/v1/chat/completions"),
            ("http://a:9/r/x/v1", 9, "/r/x/v1/chat/completions"),
            ("http://a:9/x?y=1", 9, "/x?y=1"),
        ] {
            assert_eq!(path(url).unwrap(), (port, expected.to_owned()), "{url}");
        }
        for (url, problem) in [("ftp://a", "no http"), ("a b", "no URL"), ("/x", "no http")] {
            let error = path(url).unwrap_err();
            assert!(error.problem.contains(problem), "{error}");
        }
        let headers = vec![("x y".to_owned(), "z".to_owned())];
        let error = Client::new(&Config { headers, ..Config::new("http://a") }).err().unwrap();
        assert!(error.to_string().contains("`x y`"), "{error}");
    }
}
