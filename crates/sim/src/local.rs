//! A simulated replica as an upstream in the same process, without a socket.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use paceline_core::clock::Sleep;
use paceline_core::{
    Body, BoxFuture, CacheStatus, Clock, Deadline, Error, ErrorKind, Instant, Origin, RawRequest,
    Reply, Result, Retry,
};
use paceline_upstream::Upstream;
use parking_lot::Mutex;

use crate::answer::{Answer, Finish};
use crate::api::{ApiError, Chat};
use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Refused, Summary, TokenStream, Tokens};
use crate::fault::{Bucket, FAULT_HEADER, Faults, Mishap, Verdict};
use crate::render::{Events, Frame, whole};
use crate::scheduler::Work;
use crate::shape::Shape;
use crate::text::{Vocabulary, mix};

/// One simulated replica: an engine behind the OpenAI chat API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Local(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    clock: Clock,
    model: String,
    replica: u64,
    seed: u64,
    bytes_per_token: u8,
    output_tokens_median: u32,
    stamps: bool,
    words: Vocabulary,
    faults: Faults,
    bucket: Option<Mutex<Bucket>>,
    /// Calls so far.
    number: AtomicU64,
    /// Calls at present, where their number is limited.
    open: Arc<AtomicUsize>,
}

impl Local {
    /// Starts a replica; `replica` numbers it among its siblings, so that their identifiers
    /// and faults differ. Equal prompts with `temperature` 0 get equal answers from all.
    ///
    /// # Errors
    /// When the configuration is not valid.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        config: &Config,
        shape: &Shape,
        clock: &Clock,
        replica: u32,
    ) -> Result<Self, ConfigError> {
        let faults = Faults::parse(&config.faults)?;
        Ok(Self(Arc::new(Inner {
            engine: Engine::start(config, shape, clock)?,
            clock: clock.clone(),
            model: config.model.clone(),
            replica: u64::from(replica),
            seed: config.seed,
            bytes_per_token: config.bytes_per_token,
            output_tokens_median: config.output_tokens_median,
            stamps: config.stamps,
            words: Vocabulary::new(config.bytes_per_token),
            bucket: faults.rate.map(|rate| Mutex::new(Bucket::new(rate, clock.now()))),
            faults,
            number: AtomicU64::new(0),
            open: Arc::default(),
        })))
    }

    /// The engine behind it, for its state and its metrics.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The model's name in lists and metrics.
    pub fn model(&self) -> &str {
        &self.0.model
    }

    /// Answers a body of `POST /v1/chat/completions`. Of the headers only
    /// [`FAULT_HEADER`] has an effect. Errors of the request are replies in OpenAI's form.
    ///
    /// # Errors
    /// When a fault cuts the connection before a whole answer, or the engine has ended.
    ///
    /// # Cancel safety
    /// Dropping the future or the reply's body cancels the request in the engine.
    pub async fn chat(&self, headers: &HeaderMap, body: &[u8]) -> Result<Reply> {
        let inner = &self.0;
        let number = inner.number.fetch_add(1, Ordering::Relaxed);
        let mut limits = HeaderMap::new();
        let (mishap, permit) = match inner.admit(number, headers, &mut limits) {
            Ok(admitted) => admitted,
            Err(error) => return Ok(error_reply(&error, limits)),
        };
        match inner.begin(number, body, mishap) {
            Err(error) => {
                if error.status == StatusCode::SERVICE_UNAVAILABLE {
                    limits.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
                Ok(error_reply(&error, limits))
            }
            Ok(started) if started.stream => {
                let events = self.events(started, mishap, permit);
                let events = Body::Events(Box::pin(events));
                Ok(reply(StatusCode::OK, "text/event-stream; charset=utf-8", events, limits))
            }
            Ok(started) => {
                let text = inner.whole(started, mishap).await?;
                drop(permit);
                Ok(reply(StatusCode::OK, "application/json", Body::Whole(text.into()), limits))
            }
        }
    }

    fn events(&self, started: Started, mishap: Mishap, permit: Option<Permit>) -> EventStream {
        let by_length = started.answer.finish == Finish::Length;
        let token_bytes = usize::from(self.0.bytes_per_token);
        EventStream {
            local: self.clone(),
            tokens: started.tokens,
            events: Events::new(started.frame, started.answer, token_bytes),
            mishap,
            by_length,
            held: None,
            sleep: None,
            not_before: Instant::default(),
            state: State::Open,
            _permit: permit,
        }
    }
}

impl Upstream for Local {
    fn send<'a>(&'a self, request: &'a RawRequest, _: Deadline) -> BoxFuture<'a, Result<Reply>> {
        Box::pin(async move {
            let path = request.path.split(|byte| *byte == b'?').next().unwrap_or_default();
            if path != b"/v1/chat/completions" {
                let mut error =
                    ApiError::invalid("", "The simulated engine has only chat completions.");
                error.status = StatusCode::NOT_FOUND;
                return Ok(error_reply(&error, HeaderMap::new()));
            }
            self.chat(&request.headers, &request.body).await
        })
    }
}

/// A request that the engine has taken.
struct Started {
    tokens: TokenStream,
    frame: Frame,
    answer: Answer,
    stream: bool,
}

impl Inner {
    /// The limits and faults that strike before the request is read.
    fn admit(
        &self,
        number: u64,
        headers: &HeaderMap,
        limits: &mut HeaderMap,
    ) -> Result<(Mishap, Option<Permit>), ApiError> {
        let mut mishap = self.faults.draw(mix(self.seed ^ mix(self.replica)), number);
        for header in headers.get_all(FAULT_HEADER) {
            let text = header.to_str().unwrap_or("?");
            mishap.add_header(text).map_err(|e| ApiError::invalid(FAULT_HEADER, e.to_string()))?;
        }
        if let Some(bucket) = &self.bucket {
            let verdict = bucket.lock().take(self.clock.now());
            add_limits(limits, &verdict);
            if verdict.retry_after.is_some() {
                let limit = verdict.limit;
                let message = format!("Rate limit reached for requests: limit {limit}.");
                return Err(ApiError::server(StatusCode::TOO_MANY_REQUESTS, message));
            }
        }
        let permit = match self.faults.concurrency {
            None => None,
            Some(limit) => Some(Permit::take(&self.open, limit).ok_or_else(|| {
                add_retry_after(limits, Duration::from_secs(1));
                let message = format!("Too many concurrent requests: limit {limit}.");
                ApiError::server(StatusCode::TOO_MANY_REQUESTS, message)
            })?),
        };
        if let Some(status) = mishap.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            if status == StatusCode::TOO_MANY_REQUESTS {
                add_retry_after(limits, Duration::from_secs(1));
            }
            return Err(ApiError::server(status, "A fault was asked for."));
        }
        Ok((mishap, permit))
    }

    /// Reads the request, decides on its answer, and hands both to the engine.
    fn begin(&self, number: u64, body: &[u8], mishap: Mishap) -> Result<Started, ApiError> {
        let chat = Chat::parse(body, self.bytes_per_token)?;
        let (prompt, max) = (chat.prompt.tokens(), self.engine.tokens_max());
        let room = max.saturating_sub(prompt);
        if room == 0 || chat.max_tokens.is_some_and(|wanted| u64::from(wanted) > room) {
            return Err(ApiError::too_long(max, prompt, chat.max_tokens.map(u64::from)));
        }
        let mut seed = mix(self.seed ^ chat.prompt.digest());
        if chat.random {
            let own = mix(mix(number) ^ self.replica);
            seed = mix(seed ^ chat.seed.map_or(own, |seed| mix(seed.cast_unsigned())));
        }
        let words = (&self.words, usize::from(self.bytes_per_token));
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let answer = Answer::new(&chat, seed, room, self.output_tokens_median, words);
        let mut blocks = chat.prompt;
        answer.push(&mut blocks, &self.words);
        let work = Work {
            prompt: u32::try_from(prompt).unwrap_or(u32::MAX),
            output: answer.tokens,
            hashes: blocks.into_hashes(),
        };
        let tokens = self.engine.submit(work).map_err(|refused| match refused {
            Refused::TooLong { max, .. } => {
                ApiError::too_long(max, prompt, Some(answer.tokens.into()))
            }
            Refused::QueueFull { .. } => {
                ApiError::server(StatusCode::SERVICE_UNAVAILABLE, refused.to_string())
            }
        })?;
        let frame = Frame {
            id: format!("chatcmpl-{:016x}", mix(mix(number) ^ mix(self.seed ^ self.replica << 40))),
            created: self.unix_time(),
            model: chat.model,
            prompt_tokens: prompt,
            include_usage: chat.include_usage,
            stamps: self.stamps,
            huge: mishap.huge,
        };
        Ok(Started { tokens, frame, answer, stream: chat.stream })
    }

    /// Waits for the last token and writes the answer as one document.
    async fn whole(&self, mut started: Started, mishap: Mishap) -> Result<String> {
        let summary = loop {
            let tokens = started.tokens.next().await.ok_or_else(engine_ended)?;
            if let Some(summary) = tokens.summary {
                break summary;
            }
        };
        for wait in [mishap.slow_first, mishap.stall].into_iter().flatten() {
            self.clock.sleep(wait).await;
        }
        if mishap.cut.is_some() {
            return Err(cut());
        }
        let words = (&self.words, usize::from(self.bytes_per_token));
        let mut text = whole(&started.frame, &started.answer, &summary, words);
        if mishap.malformed {
            text.truncate(text.len() / 2);
        }
        self.engine.note_end(started.answer.finish == Finish::Length);
        Ok(text)
    }

    /// The time of day; in virtual time it begins in November 2023, so that a replay is the
    /// same each time.
    fn unix_time(&self) -> u64 {
        if self.clock.is_virtual() {
            return 1_700_000_000 + self.clock.now().as_nanos() / 1_000_000_000;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |time| time.as_secs())
    }
}

/// One of the calls that a concurrency limit allows.
#[derive(Debug)]
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(open: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let more = |n: usize| (n < limit).then_some(n + 1);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The events of a streamed answer. Each item holds all events that are ready.
struct EventStream {
    local: Local,
    tokens: TokenStream,
    events: Events,
    mishap: Mishap,
    by_length: bool,
    /// Tokens that a fault keeps back until `sleep` ends.
    held: Option<Tokens>,
    sleep: Option<Sleep>,
    /// When the last delay ended: nothing is stamped before that.
    not_before: Instant,
    state: State,
    _permit: Option<Permit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The next item is the error of a cut.
    Cut,
    Ended,
}

impl Stream for EventStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.state {
                State::Open => {}
                State::Cut => {
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(cut())));
                }
                State::Ended => return Poll::Ready(None),
            }
            if let Some(sleep) = &mut this.sleep {
                ready!(Pin::new(sleep).poll(cx));
                this.sleep = None;
            }
            let tokens = match this.held.take() {
                Some(tokens) => tokens,
                None => match ready!(this.tokens.poll_next(cx)) {
                    Some(tokens) => tokens,
                    None => {
                        this.state = State::Ended;
                        return Poll::Ready(Some(Err(engine_ended())));
                    }
                },
            };
            let Some(tokens) = this.delay(tokens) else { continue };
            let item = this.render(&tokens);
            if !item.is_empty() {
                return Poll::Ready(Some(Ok(item.into())));
            }
        }
    }
}

impl EventStream {
    /// Keeps back what a fault delays; the tokens that may go out now.
    fn delay(&mut self, mut tokens: Tokens) -> Option<Tokens> {
        let delay = if tokens.first == 0 {
            if self.mishap.stall.is_some() && tokens.at.len() > 1 {
                let rest = tokens.at.split_off(1);
                let (cached, summary) = (tokens.cached, tokens.summary.take());
                self.held = Some(Tokens { first: 1, at: rest, cached, summary });
            }
            self.mishap.slow_first.take()
        } else {
            self.mishap.stall.take()
        };
        let Some(delay) = delay else { return Some(tokens) };
        let ready = tokens.at.first().copied().unwrap_or_default().max(self.not_before);
        self.not_before = ready.after(delay);
        self.sleep = Some(self.local.0.clock.sleep_until(self.not_before));
        if let Some(mut rest) = self.held.take() {
            tokens.at.append(&mut rest.at);
            tokens.summary = rest.summary;
        }
        self.held = Some(tokens);
        None
    }

    fn render(&mut self, tokens: &Tokens) -> String {
        let words = &self.local.0.words;
        let mut text = String::with_capacity(self.events.size_hint(tokens.at.len()));
        for (position, at) in (tokens.first..).zip(&tokens.at) {
            if self.mishap.cut.is_some_and(|cut| position >= cut) {
                self.state = State::Cut;
                return text;
            }
            if self.mishap.malformed && position == 1 {
                self.events.malformed(&mut text);
                continue;
            }
            self.events.token(&mut text, words, position, (*at).max(self.not_before));
        }
        if let Some(summary) = &tokens.summary {
            let summary = self.shift(summary);
            self.events.finish(&mut text, &summary, summary.last_token);
            self.local.0.engine.note_end(self.by_length);
            self.state = State::Ended;
        }
        text
    }

    /// The times as the caller sees them, after delays.
    fn shift(&self, summary: &Summary) -> Summary {
        let last_token = summary.last_token.max(self.not_before);
        Summary { last_token, ..*summary }
    }
}

fn reply(status: StatusCode, kind: &'static str, body: Body, mut headers: HeaderMap) -> Reply {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Reply { status, headers, body, cache: CacheStatus::default(), deployment: None }
}

fn error_reply(error: &ApiError, headers: HeaderMap) -> Reply {
    reply(error.status, "application/json", Body::Whole(error.body().into()), headers)
}

fn cut() -> Error {
    let message = "the simulated engine cut the connection";
    Error::new(ErrorKind::UpstreamBroken, Origin::Upstream, Retry::OtherTarget, message)
}

fn engine_ended() -> Error {
    let message = "the simulated engine has ended";
    Error::new(ErrorKind::UpstreamBroken, Origin::Upstream, Retry::OtherTarget, message)
}

/// OpenAI's headers of a request limit.
fn add_limits(headers: &mut HeaderMap, verdict: &Verdict) {
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("x-ratelimit-limit-requests", verdict.limit.to_string());
    put("x-ratelimit-remaining-requests", verdict.remaining.to_string());
    put("x-ratelimit-reset-requests", format!("{}ms", verdict.reset.as_millis()));
    if let Some(wait) = verdict.retry_after {
        add_retry_after(headers, wait);
    }
}

/// In whole seconds, rounded up, and in milliseconds as OpenAI has it.
fn add_retry_after(headers: &mut HeaderMap, wait: Duration) {
    let ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
    headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(ms));
}

#[cfg(test)]
mod tests;
