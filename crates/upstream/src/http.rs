//! An upstream behind HTTP: takes a connection, sends the bytes, reads the reply.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use ::http::header::{
    ALT_SVC, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap,
    HeaderName, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use ::http::{HeaderValue, Request, StatusCode, Uri, Version};
use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::Response;
use paceline_core::{
    Body, BoxFuture, CacheStatus, Clock, Deadline, Endpoint, Error, ErrorKind, Instant, Origin,
    RawRequest, Reply, Result, Retry,
};
use paceline_dialect::sse::Splitter;
use paceline_dialect::wire;
use paceline_telemetry::metrics::GaugeHold;
use paceline_telemetry::task;
use parking_lot::Mutex;
use rustls::ClientConfig;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Upstream;
use crate::body::{Events, Passed, Timed, broken};
use crate::coding::{Coding, Decoder};
use crate::config::{Config, Http2};
use crate::dns::Dns;
use crate::exchange::{self, Failure, Frames};
use crate::lines::{Http2Line, Line, warm};
use crate::metrics::Metrics;
use crate::pack::packed;
use crate::pool::Pool;
use crate::provider::CREDENTIALS;
use crate::sigv4::{AwsKey, Signed};

/// An upstream behind HTTP, as one core sees it: it has connections of its own.
pub struct Http {
    pub(crate) config: Config,
    host: HeaderValue,
    /// What stands before `/v1` in its paths.
    prefix: String,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) clock: Clock,
    pub(crate) pool: Arc<Pool>,
    pub(crate) http2: Mutex<Vec<Http2Line>>,
    /// The server has chosen HTTP/2 before, so that one connection serves all calls.
    pub(crate) speaks_http2: AtomicBool,
    /// Lets one call at a time open an HTTP/2 connection that the others then share.
    pub(crate) http2_gate: Semaphore,
    pub(crate) dns: Arc<Dns>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

/// What a call holds while its exchange lasts.
type Held = (OwnedSemaphorePermit, GaugeHold);

impl Http {
    /// Makes the upstream for the runtime of the calling core. An `https` URL needs `tls`.
    ///
    /// # Panics
    /// Outside a tokio runtime, since its idle connections are swept by a task.
    pub fn new(
        config: Config,
        tls: Option<Arc<ClientConfig>>,
        dns: Arc<Dns>,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let (base, own) = (&config.url.prefix, config.provider.prefix);
        // People copy base URLs with and without it.
        let prefix = format!("{}{own}", base.strip_suffix(own).unwrap_or(base));
        let host = HeaderValue::try_from(config.url.host_header())
            .expect("a parsed authority is a valid header value");
        let this = Arc::new(Self {
            host,
            prefix,
            tls,
            dns,
            pool: Pool::start(
                config.idle_connections_max,
                config.idle_expiry,
                clock.clone(),
                metrics.clone(),
            ),
            http2: Mutex::default(),
            speaks_http2: AtomicBool::new(config.http2 == Http2::Always),
            http2_gate: Semaphore::new(1),
            slots: Arc::new(Semaphore::new(config.calls_max)),
            clock,
            config,
            metrics,
        });
        if this.config.idle_connections_min > 0 {
            task::spawn("upstream.warm", warm(Arc::downgrade(&this)));
        }
        this
    }

    async fn exchange(&self, raw: &RawRequest, deadline: Deadline) -> Result<Reply> {
        let held = self.slot().await?;
        let start = self.clock.now();
        let end = deadline.or_at(start.after(self.config.timeouts.total));
        let mut sleep =
            self.clock.sleep_until(start.after(self.config.timeouts.first_byte).min(end));
        let mut answer = std::pin::pin!(self.first_answer(raw));
        let head = std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(result) = answer.as_mut().poll(cx) {
                return std::task::Poll::Ready(Some(result));
            }
            std::pin::Pin::new(&mut sleep).poll(cx).map(|()| None)
        })
        .await;
        match head {
            Some(Ok(response)) => {
                let (parts, frames) = response.into_parts();
                let timed = Timed {
                    frames,
                    decoder: None,
                    clock: self.clock.clone(),
                    sleep,
                    idle: self.config.timeouts.idle,
                    end,
                    heard_at: start,
                    heard: true,
                    name: Arc::clone(&self.config.name),
                    metrics: self.metrics.clone(),
                    _held: held,
                };
                self.reply(raw, parts, timed).await
            }
            Some(Err(error)) => Err(error),
            None => Err(self.late(deadline, end)),
        }
    }

    /// A slot among the calls under way, and the gauge that counts them.
    async fn slot(&self) -> Result<Held> {
        let slots = Arc::clone(&self.slots);
        let permit = match Arc::clone(&slots).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.metrics.slot_waits.inc();
                let until = self.clock.now().after(self.config.timeouts.slot);
                let wait = self.clock.timeout_at(until, slots.acquire_owned());
                let waited = Box::pin(wait).await;
                waited.and_then(std::result::Result::ok).ok_or_else(|| self.full())?
            }
        };
        Ok((permit, self.metrics.in_flight.hold()))
    }

    /// Sends the request and waits for the head; once more where a kept connection turned
    /// out to be closed before the server saw or answered the request.
    async fn first_answer(&self, raw: &RawRequest) -> Result<Response<Frames>> {
        let mut fresh = false;
        loop {
            let line = self.line(fresh).await?;
            let version =
                if matches!(line, Line::Http2(_)) { Version::HTTP_2 } else { Version::HTTP_11 };
            let request = self.request(raw, version)?;
            let result = match line {
                Line::Http1(connection) => exchange::http1(connection, request, &self.pool).await,
                Line::Http2(line) => exchange::http2(line.sender, line.streams, request).await,
            };
            match result {
                Ok(response) => return Ok(response),
                Err(Failure { again: true, .. }) if !fresh => {
                    self.metrics.retried.inc();
                    fresh = true;
                }
                Err(Failure { error, .. }) => {
                    self.metrics.broken.inc();
                    let what = if error.is_parse() {
                        "sent what is no valid HTTP reply"
                    } else {
                        "closed the connection without an answer"
                    };
                    return Err(broken(&self.config.name, what).with_source(error));
                }
            }
        }
    }

    /// The path as the upstream knows it.
    fn path(&self, raw: &RawRequest) -> Result<Bytes> {
        match &self.config.api_version {
            Some(version) => dated(&self.prefix, raw, version),
            None if self.prefix.is_empty() => Ok(raw.path.clone()),
            None => Ok(join(&self.prefix, &raw.path)),
        }
    }

    /// The request as the upstream gets it: the caller's bytes and headers, our host and key.
    fn request(&self, raw: &RawRequest, version: Version) -> Result<Request<Full<Bytes>>> {
        let url = &self.config.url;
        let path = self.path(raw)?;
        let uri = if version == Version::HTTP_2 {
            let scheme = if url.tls { "https" } else { "http" };
            Uri::builder()
                .scheme(scheme)
                .authority(url.host_header())
                .path_and_query(path.as_ref())
                .build()
        } else if self.config.proxy.is_some() && !url.tls {
            // A proxy that makes no tunnel is told the whole address (RFC 9112, 3.2.2).
            Uri::builder()
                .scheme("http")
                .authority(url.host_header())
                .path_and_query(path.as_ref())
                .build()
        } else {
            Uri::from_maybe_shared(path).map_err(Into::into)
        };
        let uri = uri.map_err(|error| {
            Error::invalid("the path has characters that no URL may have").with_source(error)
        })?;
        let mut request = Request::new(Full::new(raw.body.clone()));
        *request.method_mut() = raw.method.clone();
        *request.version_mut() = version;
        let mut headers = raw.headers.clone();
        if version == Version::HTTP_2 {
            headers.remove(HOST);
        } else {
            headers.insert(HOST, self.host.clone());
        }
        self.show_key(&mut headers);
        if let Some(auth) =
            self.config.proxy.as_ref().filter(|_| !url.tls).and_then(|p| p.auth.clone())
        {
            headers.insert(PROXY_AUTHORIZATION, auth);
        }
        if let Some(key) = &self.config.aws {
            self.sign(key, raw, &uri, &mut headers);
        }
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Signs the request with an AWS key.
    fn sign(&self, key: &AwsKey, raw: &RawRequest, uri: &Uri, headers: &mut HeaderMap) {
        let content_type = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let signed = Signed {
            method: raw.method.as_str(),
            path: uri.path(),
            host: self.host.to_str().unwrap_or_default(),
            content_type,
            body: &raw.body,
        };
        let signature = key.sign("bedrock", &signed, SystemTime::now());
        for name in CREDENTIALS {
            headers.remove(name);
        }
        headers.extend(signature);
    }

    /// Puts the deployment's own key in place of the caller's, however that was shown.
    fn show_key(&self, headers: &mut HeaderMap) {
        let Some(key) = &self.config.api_key else { return };
        let auth = self.config.provider.auth;
        let wanted = auth.header();
        // A look at each name finds the caller's faster than a search for each header.
        let others: SmallVec<[HeaderName; 2]> = headers
            .keys()
            .filter(|name| **name != wanted && CREDENTIALS.contains(name))
            .cloned()
            .collect();
        for name in others {
            headers.remove(name);
        }
        headers.insert(wanted, key.header(auth));
    }

    async fn reply(
        &self,
        raw: &RawRequest,
        mut parts: ::http::response::Parts,
        mut timed: Timed,
    ) -> Result<Reply> {
        let coded = parts.headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity");
        let mut plain = coded.is_none();
        // Nobody asked for it, and the caller may not take it. What nobody here can unpack is
        // passed on as it is.
        if let Some(coding) = coded.and_then(|coding| Coding::named(coding.as_bytes())) {
            let decoder = Decoder::new(coding).map_err(|error| {
                broken(&self.config.name, "sent what cannot be unpacked").with_source(error)
            })?;
            timed.decoder = Some(Box::new(decoder));
            parts.headers.remove(CONTENT_ENCODING);
            parts.headers.remove(CONTENT_LENGTH);
            plain = true;
        }
        let events = plain && is_event_stream(&parts.headers);
        let length = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if let Some(time) = strip_connection_headers(&mut parts.headers) {
            timed.frames.kept_for(time);
        }
        let body = if events {
            let splitter = Splitter::new(raw.endpoint);
            Body::Events(Box::pin(Events { rest: Some(timed), splitter }))
        } else if parts.status == StatusCode::OK && grows(raw, &parts.headers) {
            Body::Bytes(Box::pin(Passed { read: None, rest: Some(timed) }), length)
        } else {
            let (read, all) = timed.read(self.config.whole_bytes_max).await?;
            if all {
                Body::Whole(read)
            } else {
                Body::Bytes(Box::pin(Passed { read: Some(read), rest: Some(timed) }), length)
            }
        };
        self.metrics.answered.inc();
        Ok(Reply {
            status: parts.status,
            headers: parts.headers,
            body,
            cache: CacheStatus::default(),
            deployment: None,
        })
    }

    fn full(&self) -> Error {
        let message = format!(
            "the upstream `{}` already has {} calls under way; raise `calls_max` or add deployments",
            self.config.name, self.config.calls_max
        );
        Error::new(ErrorKind::Overloaded, Origin::Paceline, Retry::OtherTarget, message)
    }

    fn late(&self, deadline: Deadline, end: Instant) -> Error {
        self.metrics.timed_out.inc();
        if deadline.0.is_some_and(|deadline| deadline <= end && deadline <= self.clock.now()) {
            let message = "the call's deadline passed before the upstream answered";
            return Error::new(ErrorKind::DeadlineExceeded, Origin::Client, Retry::Never, message);
        }
        let message =
            format!("the upstream `{}` did not begin to answer in time", self.config.name);
        Error::new(ErrorKind::UpstreamTimeout, Origin::Upstream, Retry::Never, message)
    }
}

impl Upstream for Http {
    fn send<'a>(
        &'a self,
        request: &'a RawRequest,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Reply>> {
        let Some(coding) = self.config.compress_requests else {
            return Box::pin(self.exchange(request, deadline));
        };
        Box::pin(async move {
            let packed = packed(request, coding).await?;
            self.exchange(packed.as_ref().unwrap_or(request), deadline).await
        })
    }
}

/// The path in Azure's API of that date.
fn dated(prefix: &str, raw: &RawRequest, version: &str) -> Result<Bytes> {
    let path = String::from_utf8_lossy(&raw.path);
    let rest = path.strip_prefix("/v1").unwrap_or(&path);
    let asks = if rest.contains('?') { '&' } else { '?' };
    let model = String::from_utf8_lossy(&raw.fields.model);
    let deployment = match raw.endpoint {
        Endpoint::Chat | Endpoint::Completions | Endpoint::Embeddings => {
            // Only dots are a step in the path, escaped or not.
            if model.bytes().all(|byte| byte == b'.') {
                return Err(Error::invalid("`model` is no name of an Azure deployment"));
            }
            format!("/deployments/{}", wire::path_segment(&model))
        }
        _ => String::new(),
    };
    Ok(format!("{prefix}{deployment}{rest}{asks}api-version={version}").into())
}

fn join(prefix: &str, path: &[u8]) -> Bytes {
    let mut joined = BytesMut::with_capacity(prefix.len() + path.len());
    joined.extend_from_slice(prefix.as_bytes());
    joined.extend_from_slice(path);
    joined.freeze()
}

/// Whether an answer is a stream in another form than events: AWS frames, or the JSON list of
/// Gemini that grows.
fn grows(raw: &RawRequest, headers: &HeaderMap) -> bool {
    let frames = || is_kind(headers, b"application/vnd.amazon.eventstream");
    raw.fields.stream && (raw.endpoint == Endpoint::Generate || frames())
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    is_kind(headers, b"text/event-stream")
}

/// Whether the content type is this one, with whatever parameters.
fn is_kind(headers: &HeaderMap, wanted: &[u8]) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..wanted.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(wanted))
}

/// Takes out what concerns the connection to the upstream and not the caller. Gives how long
/// the server keeps the connection when it is idle, where it says so.
fn strip_connection_headers(headers: &mut HeaderMap) -> Option<Duration> {
    // Compared as names, most of which are numbers within, and searched for in one pass: a
    // search for each would hash each.
    const OURS: [HeaderName; 7] =
        [CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING, ALT_SVC, TE, TRAILER, UPGRADE];
    let mut out: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let mut kept = None;
    for (name, value) in &*headers {
        if *name == CONNECTION && value != "keep-alive" && value != "close" {
            let named = value.to_str().unwrap_or_default().split(',');
            out.extend(named.filter_map(|name| name.trim().parse::<HeaderName>().ok()));
        }
        let old = || matches!(name.as_str(), "keep-alive" | "proxy-connection");
        if OURS.contains(name) || old() {
            out.push(name.clone());
        }
        if name.as_str() == "keep-alive" {
            let mut said = value.to_str().unwrap_or_default().split(',');
            kept = said.find_map(|pair| pair.trim().strip_prefix("timeout=")?.parse().ok());
        }
    }
    for name in out {
        headers.remove(name);
    }
    kept.map(Duration::from_secs)
}
