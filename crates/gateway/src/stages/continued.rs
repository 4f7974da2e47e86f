//! A stream that breaks off after its first content, and goes on at another deployment.
//!
//! The bytes of the first stream pass unchanged. Beside them a writer of the caller's dialect
//! is kept at the same point, with its output thrown away; when the stream breaks, the events
//! of the next one are written by it, as if it had written all of them. What is given to the
//! next deployment is the text so far, so that only streams of text can go on: a call of a
//! function that was begun ends with the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use paceline_core::{Body, Call, Chunks, Endpoint, Error, ErrorKind, Origin, Reply, Result, Retry};
use paceline_dialect::codec::{Codec, EventReader, EventWriter};
use paceline_dialect::neutral::{Event, Part, Usage};
use paceline_upstream::Prefill;
use serde_json::json;
use tracing::info;

use crate::stages::attempt::{Errand, Failed};
use crate::stages::line::Turn;
use crate::stages::send::Send;
use crate::stages::translate;

/// How often one stream goes on.
const CONTINUED_MAX: u32 = 3;

/// The longest text that is given to another deployment.
const TEXT_BYTES_MAX: usize = 1 << 20;

impl Send {
    /// The reply, whose stream goes on elsewhere when it breaks off, where that is wanted and
    /// can be.
    pub(crate) fn continuing(&self, call: &Arc<Call>, model: &Bytes, mut reply: Reply) -> Reply {
        if !self.shared.retry.continue_streams || !matches!(reply.body, Body::Events(_)) {
            return reply;
        }
        let request = &call.request;
        // Several answers at a time, and the odds of each token, have no place in the
        // neutral form.
        let told = |name: &[u8]| request.fields.members.iter().any(|m| request.get(m.key) == name);
        if told(b"n") || told(b"logprobs") || told(b"top_logprobs") {
            return reply;
        }
        let Some((codec, neutral)) = translate::neutral(request) else { return reply };
        reply.body = match reply.body {
            Body::Events(chunks) => Body::Events(Box::pin(Continued {
                send: self.clone(),
                call: Arc::clone(call),
                model: model.clone(),
                deployment: reply.deployment.clone().unwrap_or_default(),
                chunks,
                codec,
                reader: codec.event_reader(),
                writer: codec.event_writer(&neutral),
                asked_s: neutral.asked_s,
                events: Vec::new(),
                out: Vec::new(),
                so_far: SoFar::default(),
                join: None,
                continued: 0,
                state: State::Flowing,
            })),
            other => other,
        };
        reply
    }

    /// Lets a deployment go on with an answer that has begun.
    async fn go_on(
        &self,
        call: &Arc<Call>,
        model: &Bytes,
        begun: &str,
        broken: &str,
    ) -> Result<Reply> {
        let route = self.shared.routes.find(model)?;
        let deployment = |at: usize| &self.deployments()[at];
        let unable = route.places(|at| deployment(at).provider.prefill == Prefill::None);
        let broken = route.places(|at| &**deployment(at).target.name() == broken);
        let mut result = Err(unable_to_go_on());
        // Another one first.
        for tried in [unable | broken, unable | !broken] {
            let way = route.way(call.request.endpoint);
            let Some(boarded) = route.line.board(call, way, tried, Turn::Elsewhere).await? else {
                continue;
            };
            let errand = Errand { call, model, route, begun: Some(begun) };
            match self.attempt(errand, boarded).await {
                Ok(reply) => return Ok(reply),
                Err(Failed { result: failed, .. }) => result = failed,
            }
        }
        result
    }
}

fn unable_to_go_on() -> Error {
    let message = "no deployment of the model can go on with an answer";
    Error::new(ErrorKind::NoHealthyTarget, Origin::Upstream, Retry::Never, message)
}

struct Continued {
    send: Send,
    call: Arc<Call>,
    model: Bytes,
    /// The deployment whose stream this is.
    deployment: Arc<str>,
    chunks: Chunks,
    codec: &'static dyn Codec,
    reader: Box<dyn EventReader>,
    writer: Box<dyn EventWriter>,
    /// When the call came in, in seconds since 1970.
    asked_s: u64,
    events: Vec<Event>,
    /// What is to go out next.
    out: Vec<u8>,
    so_far: SoFar,
    /// How the events of the stream follow those before it; `None` for the first.
    join: Option<Join>,
    continued: u32,
    state: State,
}

enum State {
    Flowing,
    /// Another deployment is asked to go on. Where it does not, the item tells of the break;
    /// where it does, the bytes go out before what it says.
    Asking(
        Pin<Box<dyn Future<Output = Result<Reply>> + std::marker::Send>>,
        Result<Bytes>,
        Vec<u8>,
    ),
    Broken(Result<Bytes>),
    Ended,
}

/// What has gone to the caller.
#[derive(Default)]
struct SoFar {
    /// The answer's identifier.
    id: String,
    text: String,
    /// How many parts have begun.
    parts: usize,
    /// The part of text that is open.
    open: Option<usize>,
    /// Something came that no other deployment can go on from.
    other: bool,
    usage: Usage,
}

/// How the parts of a stream are numbered behind those of the streams before it.
struct Join {
    /// The first part of text goes on with this one.
    open: Option<usize>,
    /// What is added to the numbers of the others.
    shift: usize,
    /// Parts that are left out: what the next model thought before it went on.
    skipped: usize,
    /// White space that has gone out and was not given to the next model, as some refuse to
    /// go on behind it.
    trimmed: String,
    usage: Usage,
}

impl SoFar {
    fn note(&mut self, event: &Event) {
        if let Event::Start { id, .. } = event {
            self.id.clone_from(id);
        }
        match event {
            Event::PartStart { index, part } => {
                self.parts = self.parts.max(index + 1);
                match part {
                    Part::Text { text, .. } => {
                        self.open = Some(*index);
                        self.text.push_str(text);
                    }
                    Part::Thinking { .. } => {}
                    _ => self.other = true,
                }
            }
            Event::Text { index, text } if self.open == Some(*index) => self.text.push_str(text),
            Event::PartEnd { index } if self.open == Some(*index) => self.open = None,
            Event::Start { usage: Some(usage), .. } | Event::Usage(usage) => self.usage = *usage,
            // It has ended but for its last words.
            Event::Stop { .. } => self.other = true,
            _ => {}
        }
    }

    fn can_go_on(&self) -> bool {
        !self.other && !self.text.trim().is_empty() && self.text.len() <= TEXT_BYTES_MAX
    }
}

impl Join {
    /// An event as it follows what came before, where it does.
    fn follow(&mut self, event: Event) -> Option<Event> {
        Some(match event {
            Event::Start { usage, .. } => Event::Usage(self.sum(usage?)),
            Event::Usage(usage) => Event::Usage(self.sum(usage)),
            Event::PartStart { index, part: Part::Thinking { .. } } if index == self.skipped => {
                self.skipped += 1;
                return None;
            }
            Event::PartStart { index, part: Part::Text { text, .. } }
                if index == self.skipped && self.open.is_some() =>
            {
                Event::Text { index: self.place(index)?, text: self.behind_white_space(text) }
            }
            Event::PartStart { index, part } => {
                Event::PartStart { index: self.place(index)?, part }
            }
            Event::Text { index, text } => {
                Event::Text { index: self.place(index)?, text: self.behind_white_space(text) }
            }
            Event::Arguments { index, json } => {
                Event::Arguments { index: self.place(index)?, json }
            }
            Event::Seal { index, seal } => Event::Seal { index: self.place(index)?, seal },
            Event::PartEnd { index } => Event::PartEnd { index: self.place(index)? },
            last => last,
        })
    }

    /// The part of text that ends since the next stream begins with something else.
    fn ended_by(&mut self, event: &Event) -> Option<usize> {
        match event {
            Event::PartStart { part: Part::Text { .. } | Part::Thinking { .. }, .. } => None,
            Event::PartStart { index, .. } if *index == self.skipped => self.open.take(),
            _ => None,
        }
    }

    /// The first text without the white space that has gone out before it.
    fn behind_white_space(&mut self, text: String) -> String {
        let same = text.bytes().zip(self.trimmed.bytes()).take_while(|(a, b)| a == b).count();
        let Some(rest) = text.get(same..) else { return text };
        if rest.is_empty() {
            // More of it may come.
            self.trimmed.drain(..same);
        } else {
            self.trimmed.clear();
        }
        rest.to_owned()
    }

    /// The number of a part; `None` for one that is left out.
    fn place(&self, index: usize) -> Option<usize> {
        let own = index.checked_sub(self.skipped)?;
        Some(match self.open {
            Some(open) => open + own,
            None => self.shift + own,
        })
    }

    fn sum(&self, usage: Usage) -> Usage {
        Usage {
            input_uncached: usage.input_uncached.saturating_add(self.usage.input_uncached),
            cache_read: usage.cache_read.saturating_add(self.usage.cache_read),
            cache_write: usage.cache_write.saturating_add(self.usage.cache_write),
            output: usage.output.saturating_add(self.usage.output),
            reasoning: usage.reasoning.saturating_add(self.usage.reasoning),
        }
    }
}

impl Continued {
    /// Takes the events of a chunk; whether the stream is still whole.
    fn take(&mut self, read: bool) -> bool {
        let mut whole = read;
        for event in std::mem::take(&mut self.events) {
            if matches!(event, Event::Error(_)) {
                whole = false;
                break;
            }
            let ended = self.join.as_mut().and_then(|join| join.ended_by(&event));
            if let Some(index) = ended {
                self.writer.write(&Event::PartEnd { index }, &mut self.out);
            }
            let Some(event) = (match &mut self.join {
                None => Some(event),
                Some(join) => join.follow(event),
            }) else {
                continue;
            };
            self.so_far.note(&event);
            self.writer.write(&event, &mut self.out);
        }
        whole
    }

    /// The stream broke off, which `told` tells.
    fn broke(&mut self, told: Result<Bytes>) {
        let ahead = std::mem::take(&mut self.out);
        if self.continued >= CONTINUED_MAX || !self.so_far.can_go_on() {
            self.state = State::Broken(told);
            return;
        }
        self.continued += 1;
        let (send, call, model) = (self.send.clone(), Arc::clone(&self.call), self.model.clone());
        let (begun, broken) = (self.so_far.text.clone(), Arc::clone(&self.deployment));
        let asking =
            Box::pin(async move { send.go_on(&call, &model, begun.trim_end(), &broken).await });
        self.state = State::Asking(asking, told, ahead);
    }

    /// Another deployment goes on.
    fn join(&mut self, deployment: Option<Arc<str>>, chunks: Chunks, ahead: Vec<u8>) {
        let deployment = deployment.unwrap_or_default();
        info!(from = &*self.deployment, to = &*deployment, "a stream broke off and goes on");
        self.send.shared.metrics.continued.inc();
        self.out = ahead;
        self.mark(&deployment);
        self.join = Some(Join {
            open: self.so_far.open,
            shift: self.so_far.parts,
            skipped: 0,
            trimmed: self.so_far.text[self.so_far.text.trim_end().len()..].to_owned(),
            usage: self.so_far.usage,
        });
        (self.chunks, self.deployment) = (chunks, deployment);
        self.reader = self.codec.event_reader();
        self.state = State::Flowing;
    }

    /// Tells the caller where the stream goes on: in a comment, and in an event where the
    /// dialect has one that clients pass over.
    fn mark(&mut self, deployment: &str) {
        let place =
            json!({"continued_at": deployment, "characters": self.so_far.text.chars().count()});
        self.out.extend_from_slice(format!(": paceline {place}\n\n").as_bytes());
        let event = match self.call.request.endpoint {
            Endpoint::Chat => {
                let event = json!({
                    "id": self.so_far.id, "object": "chat.completion.chunk", "created": self.asked_s,
                    "model": String::from_utf8_lossy(&self.model), "choices": [], "paceline": place,
                });
                format!("data: {event}\n\n")
            }
            Endpoint::Messages => {
                let event = json!({"type": "ping", "paceline": place});
                format!("event: ping\ndata: {event}\n\n")
            }
            _ => return,
        };
        self.out.extend_from_slice(event.as_bytes());
    }
}

impl Stream for Continued {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match std::mem::replace(&mut this.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Broken(told) => return Poll::Ready(Some(told)),
                State::Asking(mut asking, told, ahead) => match asking.as_mut().poll(cx) {
                    Poll::Pending => {
                        this.state = State::Asking(asking, told, ahead);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Reply { body: Body::Events(chunks), deployment, .. })) => {
                        this.join(deployment, chunks, ahead);
                    }
                    Poll::Ready(_) => this.state = State::Broken(told),
                },
                State::Flowing => this.state = State::Flowing,
            }
            if !this.out.is_empty() {
                return Poll::Ready(Some(Ok(Bytes::from(std::mem::take(&mut this.out)))));
            }
            if !matches!(this.state, State::Flowing) {
                continue;
            }
            match ready!(this.chunks.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => {
                    let read = this.reader.push(&bytes, &mut this.events).is_ok();
                    if !this.take(read) {
                        let own = this.join.is_none();
                        this.broke(if own { Ok(bytes) } else { Err(broken()) });
                    } else if this.join.is_none() {
                        // What the writer wrote of it was only to keep it at the same point.
                        this.out.clear();
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Some(Err(error)) => this.broke(Err(error)),
                None => {
                    let read = this.reader.finish(&mut this.events).is_ok();
                    if !this.take(read) {
                        this.broke(Err(broken()));
                    } else {
                        this.state = State::Ended;
                        if this.join.is_none() {
                            this.out.clear();
                        }
                        if !this.out.is_empty() {
                            return Poll::Ready(Some(Ok(Bytes::from(std::mem::take(
                                &mut this.out,
                            )))));
                        }
                    }
                }
            }
        }
    }
}

fn broken() -> Error {
    let message = "the upstream broke off its stream, and no other could go on with it";
    Error::new(ErrorKind::UpstreamBroken, Origin::Upstream, Retry::Never, message)
}
