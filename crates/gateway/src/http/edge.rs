//! From an HTTP request to an endpoint: paths, limits, the body.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::http::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap,
    HeaderValue, TRANSFER_ENCODING,
};
use ::http::{Method, Request, Response, StatusCode, Version};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use hyper::body::Incoming as HyperBody;
use paceline_core::{Dialect, Endpoint, Error, ErrorKind, Name, Origin, Result, Retry, RunId};
use paceline_telemetry::metrics::{self, Registry};
use paceline_telemetry::task;
use paceline_upstream::coding::{Coding, INLINE_BYTES_MAX, decode};

use crate::http::listen::Stop;
use crate::http::models;
use crate::http::paths::{self, Asked};
use crate::pipeline::{Incoming, Pipeline};
use crate::stages::coded::{Compress, compress};
use crate::stages::record::{Answer, AnswerBody, error_answer};

/// Limits of the HTTP edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeConfig {
    /// Longest request body, in bytes. Default: 64 MiB.
    pub body_bytes_max: usize,
    /// Time for a request body to arrive. Default: 60 s.
    pub body_timeout: Duration,
    /// Time for a request's head to arrive, and for an idle connection to be used again,
    /// from the end of the last answer. Default: 75 s.
    pub head_timeout: Duration,
    /// Longest head of a request: its line and its headers, in bytes. Default: 64 KiB.
    pub head_bytes_max: usize,
    /// Most connections of one core at a time. Default: 16384.
    pub connections_max: usize,
    /// Which answers are packed, for clients that take that. Default: none.
    pub compress: Compress,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 20,
            body_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(75),
            head_bytes_max: 64 << 10,
            connections_max: 16_384,
            compress: Compress::Never,
        }
    }
}

/// Why a connection, or a request, was turned away before it was a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are too many connections.
    Connections,
    /// The TLS handshake failed, or took too long.
    Tls,
    /// The body is too long.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// What the request says of its own length is unclear.
    Framing,
}

impl Refused {
    /// All, with their names in the metric.
    pub(crate) const ALL: [(Self, &'static str); 5] = [
        (Self::Connections, "connections"),
        (Self::Tls, "tls"),
        (Self::BodyTooLarge, "body_too_large"),
        (Self::BodyTimeout, "body_timeout"),
        (Self::Framing, "framing"),
    ];
}

/// Room made for a declared body length before its bytes come.
const BODY_ROOM_MAX: usize = 256 << 10;

/// The endpoints of one core.
pub struct Edge {
    pipeline: Arc<Pipeline>,
    registry: Arc<Registry>,
    config: EdgeConfig,
    stop: Stop,
}

impl Edge {
    /// Puts a pipeline behind the endpoints.
    pub fn new(
        pipeline: Arc<Pipeline>,
        registry: Arc<Registry>,
        config: EdgeConfig,
        stop: Stop,
    ) -> Arc<Self> {
        Arc::new(Self { pipeline, registry, config, stop })
    }

    /// The limits.
    pub(crate) const fn config(&self) -> &EdgeConfig {
        &self.config
    }

    /// Counts what was turned away.
    pub(crate) fn refused(&self, why: Refused) {
        self.pipeline.metrics().refused(why);
    }

    /// Answers one request.
    ///
    /// # Errors
    /// Never: errors are answers.
    pub async fn respond(
        self: Arc<Self>,
        request: Request<HyperBody>,
    ) -> Result<Response<AnswerBody>, Infallible> {
        let http1 = request.version() < Version::HTTP_2;
        let which = self.config.compress;
        let wanted = match which {
            Compress::Never => None,
            Compress::Whole | Compress::Always => Coding::accepted(request.headers()),
        };
        let (run, path) = split_run(request.uri().path());
        let asked = paths::asked(path);
        let dialect = paths::dialect(asked, path, request.headers());
        let framing = check_framing(&request);
        let unclear = framing.is_err();
        let run = run.map(|run| name_run(run).map(Some)).unwrap_or(Ok(None));
        let result = match (framing, run) {
            (Ok(()), Ok(run)) if !asked.takes(request.method()) && asked != Asked::Unknown => {
                drop(run);
                Ok(not_allowed(asked.method(), dialect))
            }
            (Ok(()), Ok(run)) => self.answer(request, run).await,
            (Err(error), _) => {
                self.refused(Refused::Framing);
                Err(error)
            }
            (_, Err(error)) => Err(error),
        };
        let mut answer = result.unwrap_or_else(|error| error_answer(&error, dialect));
        if which != Compress::Never {
            // Boxed, so that answers that are not packed carry no room for it.
            answer = Box::pin(compress(answer, which, wanted)).await;
        }
        let Answer { status, mut headers, body } = answer;
        let unread =
            status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::REQUEST_TIMEOUT;
        if http1 && (unclear || unread) {
            // Where the body ends is not known, or not waited for: the connection ends here.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    async fn answer(&self, request: Request<HyperBody>, run: Option<RunId>) -> Result<Answer> {
        let arrived = self.pipeline.clock().now();
        let (head, body) = request.into_parts();
        let (_, path) = split_run(head.uri.path());
        let asked = paths::asked(path);
        let dialect = || paths::dialect(asked, path, &head.headers);
        match asked {
            Asked::Call(endpoint) => {
                let mut body = self.read(&head.headers, body).await?;
                let mut headers = head.headers;
                if headers.contains_key(CONTENT_ENCODING) {
                    body = self.unpacked(&mut headers, body).await?;
                }
                let path = call_path(endpoint, path, head.uri.query(), &mut headers);
                let method = head.method;
                let incoming = Incoming { endpoint, method, path, run, headers, body, arrived };
                Ok(self.pipeline.handle(incoming).await)
            }
            Asked::Stored(stored) => {
                let (endpoint, method, headers) = (Endpoint::Other, head.method, head.headers);
                let query = head.uri.query();
                let path = call_path(Endpoint::Responses, path, query, &mut HeaderMap::new());
                let body = Bytes::new();
                let incoming = Incoming { endpoint, method, path, run, headers, body, arrived };
                Ok(Box::pin(self.pipeline.stored(incoming, stored)).await)
            }
            Asked::Models => Box::pin(models::list(&self.pipeline, dialect(), head.headers)).await,
            Asked::Model(id) => {
                Box::pin(models::get(&self.pipeline, dialect(), head.headers, id)).await
            }
            Asked::Health => Ok(state(true, "ok")),
            Asked::Ready => Ok(self.ready()),
            Asked::Metrics => {
                Ok(answer(StatusCode::OK, METRICS_TYPE, metrics::encode(&self.registry)))
            }
            Asked::Limits => {
                let text = self.pipeline.models().limits().to_string();
                Ok(answer(StatusCode::OK, "application/json", text))
            }
            Asked::Unknown => Err(not_found(path)),
        }
    }

    fn ready(&self) -> Answer {
        if self.stop.stopping() {
            return state(false, "stopping");
        }
        if self.pipeline.models().ready() {
            return state(true, "ready");
        }
        state(false, "every deployment is failing")
    }

    /// Reads the whole body within its limits of size and time.
    async fn read(&self, headers: &HeaderMap, body: HyperBody) -> Result<Bytes> {
        let max = self.config.body_bytes_max;
        let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if declared.is_some_and(|len: usize| len > max) {
            return Err(self.too_large("exceeds"));
        }
        let clock = self.pipeline.clock();
        let mut body = pin!(body);
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        // Bodies are mostly there already; the timer is made only when one is not.
        let mut timer = None;
        loop {
            let frame = std::future::poll_fn(|cx| {
                if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                    return Poll::Ready(Some(frame));
                }
                let timer = timer.get_or_insert_with(|| clock.sleep(self.config.body_timeout));
                Pin::new(timer).poll(cx).map(|()| None)
            })
            .await;
            let data = match frame {
                None => {
                    self.refused(Refused::BodyTimeout);
                    return Err(late());
                }
                Some(None) => return Ok(first.unwrap_or_else(|| rest.freeze())),
                Some(Some(Err(error))) => {
                    return Err(Error::invalid("the body broke off").with_source(error));
                }
                Some(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            let have = first.as_ref().map_or(rest.len(), Bytes::len);
            if have + data.len() > max {
                return Err(self.too_large("exceeds"));
            }
            if have == 0 {
                first = Some(data);
                continue;
            }
            if let Some(first) = first.take() {
                rest.reserve(
                    declared
                        .unwrap_or(0)
                        .clamp(have + data.len(), BODY_ROOM_MAX.max(have + data.len())),
                );
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }

    /// The body as the stages read it, where the caller has packed it. The headers that told
    /// so are taken out.
    async fn unpacked(&self, headers: &mut HeaderMap, body: Bytes) -> Result<Bytes> {
        let names: Vec<HeaderValue> = headers.get_all(CONTENT_ENCODING).iter().cloned().collect();
        headers.remove(CONTENT_ENCODING);
        headers.remove(CONTENT_LENGTH);
        let name = if let [name] = &names[..] { name.as_bytes().trim_ascii() } else { b"" };
        if name.eq_ignore_ascii_case(b"identity") {
            return Ok(body);
        }
        let Some(coding) = Coding::named(name) else {
            let message = "`Content-Encoding` must be one of zstd, br and gzip, or be left out";
            return Err(Error::invalid(message).with_param("content-encoding"));
        };
        let max = self.config.body_bytes_max;
        let inline = body.len() <= INLINE_BYTES_MAX;
        let unpack = move || decode(coding, body, max);
        let unpacked = if inline {
            unpack()
        } else {
            let unpacking = task::spawn_blocking("gateway.unpack", unpack).await;
            unpacking.map_err(|error| {
                let message = "a body was not unpacked";
                Error::new(ErrorKind::Internal, Origin::Paceline, Retry::SameTarget, message)
                    .with_source(error)
            })?
        };
        unpacked.map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => {
                self.too_large("unpacks to a hundred times its length, or exceeds")
            }
            _ => {
                let message = format!("the body is not the {} it is said to be", coding.name());
                Error::invalid(message).with_param("content-encoding").with_source(error)
            }
        })
    }

    fn too_large(&self, how: &str) -> Error {
        self.refused(Refused::BodyTooLarge);
        let message = format!(
            "the body {how} {} bytes; the operator can raise `body_bytes_max`",
            self.config.body_bytes_max
        );
        Error::new(ErrorKind::BodyTooLarge, Origin::Client, Retry::Never, message)
    }
}

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Refuses requests whose framing another server might read otherwise (request smuggling).
fn check_framing(request: &Request<HyperBody>) -> Result<()> {
    if request.version() >= Version::HTTP_2 {
        return Ok(());
    }
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts != 1 && request.version() == Version::HTTP_11 || hosts > 1 {
        return Err(Error::invalid("the request must have exactly one `Host` header"));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Error::invalid(
            "the request has both `Transfer-Encoding` and `Content-Length`; send one of them",
        ));
    }
    Ok(())
}

/// Takes `/r/{run}` off the path.
fn split_run(path: &str) -> (Option<&str>, &str) {
    let split = |path: &'_ str| path.strip_prefix("/r/")?.find('/').map(|at| at + 3);
    match split(path) {
        Some(at) => (Some(&path[3..at]), &path[at..]),
        None => (None, path),
    }
}

fn name_run(run: &str) -> Result<RunId> {
    let name = Name::new(run.to_owned()).map_err(|fault| {
        Error::invalid(format!("the run in the path is no valid name: {fault}")).with_param("run")
    })?;
    Ok(RunId(name))
}

/// Path and query as an upstream of the same dialect gets them.
fn call_path(
    endpoint: Endpoint,
    path: &str,
    query: Option<&str>,
    headers: &mut HeaderMap,
) -> Bytes {
    let Some(query) = query else {
        return match endpoint {
            Endpoint::Chat => Bytes::from_static(b"/v1/chat/completions"),
            _ => Bytes::copy_from_slice(path.as_bytes()),
        };
    };
    if endpoint != Endpoint::Generate {
        return Bytes::from(format!("{path}?{query}"));
    }
    let (query, key) = paths::take_key(query);
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        headers.entry("x-goog-api-key").or_insert(key);
    }
    let mark = if query.is_empty() { "" } else { "?" };
    Bytes::from(format!("{path}{mark}{query}"))
}

pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Answer { status, headers, body: AnswerBody::whole(body) }
}

fn state(good: bool, state: &'static str) -> Answer {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, "application/json", format!("{{\"status\":\"{state}\"}}"))
}

fn not_allowed(allow: Method, dialect: Dialect) -> Answer {
    let message = format!("this path takes {allow} only");
    let error = Error::new(ErrorKind::MethodNotAllowed, Origin::Client, Retry::Never, message);
    let mut answer = error_answer(&error, dialect);
    let value = if allow == Method::POST { "POST" } else { "GET" };
    answer.headers.insert(ALLOW, HeaderValue::from_static(value));
    answer
}

fn not_found(path: &str) -> Error {
    let message = format!(
        "no such path: {path}; served are POST /v1/chat/completions, /v1/responses, /v1/embeddings, \
         /v1/completions, /v1/messages, /v1/messages/count_tokens and \
         /v1beta/models/MODEL:generateContent, and GET /v1/models, /v1/responses/ID, /health, /ready, /metrics and /limits"
    );
    Error::new(ErrorKind::NotFound, Origin::Client, Retry::Never, message)
}

fn late() -> Error {
    let message = "the body did not arrive in time";
    Error::new(ErrorKind::RequestTimeout, Origin::Client, Retry::SameTarget, message)
}
