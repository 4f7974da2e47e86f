//! From an HTTP request to an endpoint: paths, limits, the body.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
    TRANSFER_ENCODING,
};
use ::http::{Method, Request, Response, StatusCode, Uri, Version};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use hyper::body::Incoming as HyperBody;
use paceline_core::{Error, ErrorKind, Name, Origin, Result, Retry, RunId};
use paceline_telemetry::metrics::{self, Registry};

use crate::http::listen::Stop;
use crate::http::models;
use crate::pipeline::{Incoming, Pipeline};
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
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 20,
            body_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(75),
        }
    }
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

    /// Answers one request.
    ///
    /// # Errors
    /// Never: errors are answers.
    pub async fn respond(
        self: Arc<Self>,
        request: Request<HyperBody>,
    ) -> Result<Response<AnswerBody>, Infallible> {
        let http1 = request.version() < Version::HTTP_2;
        let framing = check_framing(&request);
        let unclear = framing.is_err();
        let result = match framing {
            Ok(()) => self.route(request).await,
            Err(error) => Err(error),
        };
        let answer = result.unwrap_or_else(|error| error_answer(&error));
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

    async fn route(&self, request: Request<HyperBody>) -> Result<Answer> {
        let arrived = self.pipeline.clock().now();
        let (head, body) = request.into_parts();
        let (run, path) = split_run(&head.uri)?;
        match (&path[..], &head.method) {
            (b"/v1/chat/completions", &Method::POST) => {
                let body = self.read(&head.headers, body).await?;
                let path = match head.uri.query() {
                    None => path,
                    Some(query) => Bytes::from(format!("/v1/chat/completions?{query}")),
                };
                let incoming = Incoming {
                    method: head.method,
                    path,
                    run,
                    headers: head.headers,
                    body,
                    arrived,
                };
                Ok(self.pipeline.handle(incoming).await)
            }
            (b"/v1/chat/completions", _) => Ok(not_allowed("POST")),
            (b"/v1/models", &Method::GET) => models::list(&self.pipeline, head.headers).await,
            (b"/v1/models", _) => Ok(not_allowed("GET")),
            (b"/health", &Method::GET | &Method::HEAD) => Ok(state(true, "ok")),
            (b"/ready", &Method::GET | &Method::HEAD) => Ok(self.ready()),
            (b"/metrics", &Method::GET) => {
                Ok(answer(StatusCode::OK, METRICS_TYPE, metrics::encode(&self.registry)))
            }
            (b"/health" | b"/ready" | b"/metrics", _) => Ok(not_allowed("GET")),
            (path, method) => match path.strip_prefix(b"/v1/models/") {
                Some(id) if method == Method::GET => {
                    let id = String::from_utf8_lossy(id).into_owned();
                    models::get(&self.pipeline, head.headers, &id).await
                }
                _ => Err(not_found(path)),
            },
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
            return Err(self.too_large());
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
                None => return Err(late()),
                Some(None) => return Ok(first.unwrap_or_else(|| rest.freeze())),
                Some(Some(Err(error))) => {
                    return Err(Error::invalid("the body broke off").with_source(error));
                }
                Some(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            let have = first.as_ref().map_or(rest.len(), Bytes::len);
            if have + data.len() > max {
                return Err(self.too_large());
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

    fn too_large(&self) -> Error {
        let message = format!(
            "the body exceeds {} bytes; the operator can raise `body_bytes_max`",
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
fn split_run(uri: &Uri) -> Result<(Option<RunId>, Bytes)> {
    let path = uri.path();
    if path == CHAT {
        return Ok((None, Bytes::from_static(CHAT.as_bytes())));
    }
    let Some((run, rest)) = path.strip_prefix("/r/").and_then(|rest| rest.split_once('/')) else {
        return Ok((None, Bytes::copy_from_slice(path.as_bytes())));
    };
    let run = Name::new(run.to_owned()).map_err(|fault| {
        Error::invalid(format!("the run in the path is no valid name: {fault}")).with_param("run")
    })?;
    Ok((Some(RunId(run)), Bytes::from(format!("/{rest}"))))
}

const CHAT: &str = "/v1/chat/completions";

pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Answer { status, headers, body: AnswerBody::whole(body) }
}

fn state(good: bool, state: &'static str) -> Answer {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, "application/json", format!("{{\"status\":\"{state}\"}}"))
}

fn not_allowed(allow: &'static str) -> Answer {
    let message = format!("this path takes {allow} only");
    let error = Error::new(ErrorKind::MethodNotAllowed, Origin::Client, Retry::Never, message);
    let mut answer = error_answer(&error);
    answer.headers.insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

fn not_found(path: &[u8]) -> Error {
    let message = format!(
        "no such path: {}; served are /v1/chat/completions, /v1/models, /health, /ready and /metrics",
        String::from_utf8_lossy(path)
    );
    Error::new(ErrorKind::NotFound, Origin::Client, Retry::Never, message)
}

fn late() -> Error {
    let message = "the body did not arrive in time";
    Error::new(ErrorKind::RequestTimeout, Origin::Client, Retry::SameTarget, message)
}
