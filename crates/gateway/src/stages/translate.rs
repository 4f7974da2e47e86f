//! A call told in the dialect of its upstream, and the answer told in the caller's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_core::Stream;
use paceline_core::{
    Body, CacheStatus, Chunks, Endpoint, Error, ErrorKind, Origin, RawRequest, Reply, Result, Retry,
};
use paceline_dialect::Anthropic;
use paceline_dialect::codec::{self, Codec, EventReader, EventWriter, PathFacts, Target};
use paceline_dialect::names::Names;
use paceline_dialect::neutral::{Event, Fault, Request, Unsupported, What};
use paceline_telemetry::task;
use paceline_upstream::Provider;
use serde_json::Value;

use crate::stages::attempt::unix_s;

/// Bodies above this leave the thread of the other calls: about 0.5 ms.
const INLINE_BYTES_MAX: usize = 128 << 10;

const WARNING: HeaderName = HeaderName::from_static("x-paceline-warning");

/// How an answer is told to a caller who speaks another dialect than the upstream.
pub(crate) struct Translation {
    caller: &'static dyn Codec,
    upstream: &'static dyn Codec,
    request: Request,
    /// A stream is wanted as a JSON list that grows (Gemini without `alt=sse`).
    as_list: bool,
    warnings: Vec<String>,
    /// The tools that the upstream knows by other names.
    names: Option<Names>,
}

/// Tells a request in the dialect of a provider.
///
/// # Errors
/// `InvalidRequest` with the caller's field that is at fault, or that cannot be told.
pub(crate) async fn request(
    raw: &RawRequest,
    model: String,
    provider: &'static Provider,
) -> Result<(Bytes, Translation)> {
    let (endpoint, body, path) = (raw.endpoint, raw.body.clone(), raw.path.clone());
    let facts = facts(raw);
    let tell = move || {
        let as_list = endpoint == Endpoint::Generate
            && facts.stream
            && memchr::memmem::find(&path, b"alt=sse").is_none();
        tell(endpoint, &body, &facts, Target { model, quirks: provider.quirks }, provider)
            .map(|(body, translation)| (body, Translation { as_list, ..translation }))
    };
    if raw.body.len() <= INLINE_BYTES_MAX {
        return tell();
    }
    task::spawn_blocking("gateway.translate", tell).await.unwrap_or_else(|_| {
        let message = "the translation of a request failed; this is a bug of Paceline";
        Err(Error::new(ErrorKind::Internal, Origin::Paceline, Retry::Never, message))
    })
}

fn facts(raw: &RawRequest) -> PathFacts {
    let in_path = raw.endpoint == Endpoint::Generate;
    PathFacts {
        model: in_path.then(|| String::from_utf8_lossy(&raw.fields.model).into_owned()),
        stream: raw.fields.stream,
    }
}

/// A request in the neutral form, and the codec of its dialect; `None` where it is none.
pub(crate) fn neutral(raw: &RawRequest) -> Option<(&'static dyn Codec, Request)> {
    let codec = codec::of(raw.endpoint)?;
    let body = serde_json::from_slice(&raw.body).ok()?;
    let mut request = codec.read_request(body, &facts(raw)).ok()?;
    request.asked_s = unix_s() as u64;
    Some((codec, request))
}

/// Answers `count_tokens` where the upstream has no such operation: an estimate.
///
/// # Errors
/// `InvalidRequest` with the field that is at fault.
pub(crate) fn count_tokens(raw: &RawRequest) -> Result<Reply> {
    let body = parse(&raw.body)?;
    let request = Anthropic.read_request(body, &PathFacts::default()).map_err(fault)?;
    let tokens = paceline_dialect::anthropic::estimated_tokens(&request);
    let mut headers = HeaderMap::new();
    set_kind(&mut headers, "application/json");
    let warning = "the count is an estimate: the upstream has no operation for it";
    headers.insert(WARNING, HeaderValue::from_static(warning));
    Ok(Reply {
        status: StatusCode::OK,
        headers,
        body: Body::Whole(Bytes::from(format!("{{\"input_tokens\":{tokens}}}"))),
        cache: CacheStatus::default(),
        deployment: None,
    })
}

fn parse(body: &Bytes) -> Result<Value> {
    serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("the body is not valid JSON: {error}")))
}

fn fault(fault: Fault) -> Error {
    Error::invalid(fault.to_string()).with_param(fault.field)
}

fn tell(
    endpoint: Endpoint,
    body: &Bytes,
    facts: &PathFacts,
    target: Target,
    provider: &Provider,
) -> Result<(Bytes, Translation)> {
    let (Some(caller), Some(upstream)) = (codec::of(endpoint), codec::of(provider.conversation))
    else {
        return Err(Error::invalid("this operation cannot be told in another dialect"));
    };
    let mut request = caller.read_request(parse(body)?, facts).map_err(fault)?;
    request.asked_s = unix_s() as u64;
    let (told, names) = Names::fit(&request, upstream.tool_names()).unzip();
    let written = upstream
        .write_request(told.as_ref().unwrap_or(&request), &target)
        .map_err(|unsupported| refuse(caller, &request, &unsupported, provider))?;
    let warnings = written.warnings;
    let translation = Translation { caller, upstream, request, as_list: false, warnings, names };
    Ok((Bytes::from(written.body.to_string()), translation))
}

/// A field that the upstream's dialect has no word for, by its name in the caller's dialect.
fn refuse(
    caller: &dyn Codec,
    request: &Request,
    unsupported: &Unsupported,
    provider: &Provider,
) -> Error {
    let field = match &unsupported.what {
        What::Extra(path) => path.clone(),
        What::Field(field) => caller.field(*field).to_owned(),
        What::Part { message, part } => caller.path_of_part(request, *message, *part),
        What::Tool(at) => format!("tools[{at}]"),
    };
    let (why, name) = (&unsupported.why, provider.name);
    let message = format!("`{field}` cannot be translated for the provider `{name}`: {why}");
    // Another deployment of the model may speak the caller's dialect.
    Error::new(ErrorKind::InvalidRequest, Origin::Client, Retry::OtherTarget, message)
        .with_param(field)
}

impl Translation {
    /// The upstream's path.
    pub(crate) fn path(&self, model: &str) -> String {
        self.upstream.path(model, self.request.stream)
    }

    /// Tells an upstream's answer in the caller's dialect.
    ///
    /// # Errors
    /// `UpstreamBroken` when it is no answer of the upstream's dialect.
    pub(crate) fn reply(self, mut reply: Reply) -> Result<Reply> {
        reply.headers.remove(CONTENT_LENGTH);
        for warning in &self.warnings {
            if let Ok(warning) = HeaderValue::try_from(warning) {
                reply.headers.append(WARNING, warning);
            }
        }
        match reply.body {
            Body::Whole(body) if reply.status == StatusCode::OK => {
                let mut told = serde_json::from_slice(&body)
                    .map_err(|error| error.to_string())
                    .and_then(|body| {
                        self.upstream.read_response(body).map_err(|fault| fault.to_string())
                    })
                    .map_err(|why| broken(&format!("gave an answer that cannot be read: {why}")))?;
                if let Some(names) = &self.names {
                    names.restore(&mut told);
                }
                if told.id.is_empty() {
                    told.id = fresh_id();
                }
                let body = self.caller.write_response(&told, &self.request).to_string();
                reply.body = Body::Whole(Bytes::from(body));
                set_kind(&mut reply.headers, "application/json");
                Ok(reply)
            }
            Body::Whole(body) => {
                let failure =
                    self.upstream.read_failure(reply.status.as_u16(), &reply.headers, &body);
                let (status, body) = self.caller.write_failure(&failure);
                reply.status = StatusCode::from_u16(status).unwrap_or(reply.status);
                reply.body = Body::Whole(Bytes::from(body.to_string()));
                set_kind(&mut reply.headers, "application/json");
                Ok(reply)
            }
            Body::Events(chunks) | Body::Bytes(chunks, _) if self.request.stream => {
                let told = Box::pin(Told::new(&self, chunks));
                let (kind, body) = if self.as_list {
                    ("application/json", Body::Bytes(told, None))
                } else {
                    ("text/event-stream; charset=utf-8", Body::Events(told))
                };
                set_kind(&mut reply.headers, kind);
                reply.body = body;
                Ok(reply)
            }
            Body::Events(_) => Err(broken("sent a stream although none was asked for")),
            Body::Bytes(..) => Err(broken("sent an answer beyond `whole_bytes_max`")),
        }
    }
}

/// An identifier for an answer whose upstream gives it none.
fn fresh_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

fn set_kind(headers: &mut HeaderMap, kind: &'static str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
}

/// A stream that is told event by event.
struct Told {
    chunks: Chunks,
    reader: Box<dyn EventReader>,
    writer: Box<dyn EventWriter>,
    names: Option<Names>,
    events: Vec<Event>,
    out: Vec<u8>,
    state: State,
}

enum State {
    Open,
    /// The last item is an error.
    Failed(Error),
    Ended,
}

impl Told {
    fn new(translation: &Translation, chunks: Chunks) -> Self {
        let writer = if translation.as_list {
            translation.caller.list_writer(&translation.request)
        } else {
            translation.caller.event_writer(&translation.request)
        };
        let reader = translation.upstream.event_reader();
        let names = translation.names.clone();
        let (events, out) = (Vec::new(), Vec::new());
        Self { chunks, reader, writer, names, events, out, state: State::Open }
    }

    /// Writes what was read, and notes how the reading went.
    fn write(&mut self, read: std::result::Result<(), codec::Broken>) {
        for mut event in self.events.drain(..) {
            if let Some(names) = &self.names {
                names.restore_event(&mut event);
            }
            if let Event::Start { id, .. } = &mut event
                && id.is_empty()
            {
                *id = fresh_id();
            }
            self.writer.write(&event, &mut self.out);
        }
        if let Err(why) = read {
            self.state = State::Failed(broken(&why.0));
        }
    }
}

impl Stream for Told {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if !this.out.is_empty() {
                return Poll::Ready(Some(Ok(Bytes::from(std::mem::take(&mut this.out)))));
            }
            match std::mem::replace(&mut this.state, State::Ended) {
                State::Open => this.state = State::Open,
                State::Failed(error) => return Poll::Ready(Some(Err(error))),
                State::Ended => return Poll::Ready(None),
            }
            match ready!(this.chunks.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => {
                    let read = this.reader.push(&bytes, &mut this.events);
                    this.write(read);
                }
                Some(Err(error)) => this.state = State::Failed(error),
                None => {
                    this.state = State::Ended;
                    let read = this.reader.finish(&mut this.events);
                    this.write(read);
                }
            }
        }
    }
}

fn broken(what: &str) -> Error {
    let message = format!("the upstream {what}");
    Error::new(ErrorKind::UpstreamBroken, Origin::Upstream, Retry::Never, message)
}
