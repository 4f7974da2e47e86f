//! The memory tier: byte-bounded, with a time to live.

use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use paceline_core::{Body, CacheStatus, Call, Chunks, Clock, Endpoint, Instant, Reply, Result};
use paceline_dialect::{convert, sse, wire};
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::key::{Canonical, Form, Key};
use crate::metrics::Metrics;

/// Bounds of the memory tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes of all entries, their keys included; 0 switches the tier off. Default: 256 MiB.
    pub bytes_max: u64,
    /// Bytes of one entry; larger answers are not kept. Default: 1 MiB.
    pub entry_bytes_max: usize,
    /// How long an answer is served. Default: 1 h.
    pub ttl: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { bytes_max: 256 << 20, entry_bytes_max: 1 << 20, ttl: Duration::from_secs(3600) }
    }
}

/// Kept replies, shared by all cores and read without an await.
pub struct Memory {
    table: Cache<Key, Arc<Entry>, Weigh, PassHash, DefaultLifecycle<Key, Arc<Entry>>>,
    config: MemoryConfig,
    clock: Clock,
    metrics: Metrics,
}

struct Entry {
    call: Canonical,
    form: Form,
    body: Bytes,
    expires: Instant,
}

impl Entry {
    fn bytes(&self) -> usize {
        // The entry itself, its table slot and two allocations.
        160 + self.call.len() + self.body.len()
    }
}

impl Memory {
    /// An empty tier.
    pub fn new(config: MemoryConfig, clock: Clock, metrics: Metrics) -> Arc<Self> {
        // An estimate for the first allocation only; a table of 16 KiB entries.
        let entries = usize::try_from(config.bytes_max >> 14).unwrap_or(usize::MAX).clamp(16, 1024);
        let options = quick_cache::OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(config.bytes_max)
            // Each shard bounds its own bytes, and must hold several of the largest entries.
            .shards(if config.bytes_max >= 64 << 20 { 8 } else { 1 })
            .build()
            .expect("both capacities are given");
        let table = Cache::with_options(options, Weigh, PassHash, DefaultLifecycle::default());
        Arc::new(Self { table, config, clock, metrics })
    }

    /// The kept answer to an equal call, in the form that this call asks for.
    pub fn peek(&self, call: &Call, key: Key) -> Option<Reply> {
        let wanted = Form::of(call);
        let entry = self.find(call, place(call, key, wanted))?;
        if entry.form == wanted {
            return Some(reply(wanted, entry.body.clone()));
        }
        // The other forms have entries of their own, so that each is made once.
        let derived = key.form(wanted);
        if let Some(made) = self.find(call, derived)
            // Made of this answer, and not of one that was refreshed since.
            && made.expires == entry.expires
        {
            return Some(reply(wanted, made.body.clone()));
        }
        let body = derive(&entry, wanted)?;
        let expires = entry.expires;
        self.insert(
            call,
            derived,
            Entry { call: Canonical::of(call), form: wanted, body: body.clone(), expires },
        );
        Some(reply(wanted, body))
    }

    /// Keeps a reply, where it is a proper answer: at once when it is whole, else when the
    /// last event of its stream has come.
    pub fn keep(self: &Arc<Self>, call: &Arc<Call>, key: Key, mut reply: Reply) -> Reply {
        let asked = Form::of(call);
        let as_asked = match &reply.body {
            Body::Whole(_) => asked == Form::Whole && is_json(&reply.headers),
            Body::Events(_) => asked != Form::Whole,
            Body::Bytes(..) => false,
        };
        if reply.status != StatusCode::OK || !as_asked || self.config.bytes_max == 0 {
            return reply;
        }
        reply.body = match reply.body {
            Body::Whole(body) => {
                if wire::is_answer(call.request.endpoint, &body) {
                    self.put(call, key, Form::Whole, &body);
                }
                Body::Whole(body)
            }
            Body::Events(events) => Body::Events(Box::pin(Keep {
                events,
                kept: Some(Vec::new()),
                bytes: 0,
                memory: Arc::clone(self),
                call: Arc::clone(call),
                key,
            })),
            other => other,
        };
        reply
    }

    /// Bytes that the entries take now.
    pub fn bytes(&self) -> u64 {
        self.table.weight()
    }

    fn find(&self, call: &Call, key: Key) -> Option<Arc<Entry>> {
        let entry = self.table.get(&key)?;
        if entry.expires <= self.clock.now() {
            self.table.remove_if(&key, |found| Arc::ptr_eq(found, &entry));
            return None;
        }
        entry.call.matches(call).then_some(entry)
    }

    fn put(&self, call: &Call, key: Key, form: Form, body: &[u8]) {
        let key = place(call, key, form);
        let expires = self.clock.now().after(self.config.ttl);
        // A copy of its own: a slice would hold the whole read buffer that it came in.
        let body = Bytes::copy_from_slice(body);
        self.insert(call, key, Entry { call: Canonical::of(call), form, body, expires });
    }

    fn insert(&self, _call: &Call, key: Key, entry: Entry) {
        if entry.bytes() > self.config.entry_bytes_max {
            self.metrics.too_large.inc();
            return;
        }
        self.metrics.kept.inc();
        self.metrics.kept_bytes.add(entry.bytes() as u64);
        self.table.insert(key, Arc::new(entry));
    }
}

/// A stream that is kept when it has come to its end.
struct Keep {
    events: Chunks,
    /// `None` once it is clear that the stream will not be kept.
    kept: Option<Vec<Bytes>>,
    bytes: usize,
    memory: Arc<Memory>,
    call: Arc<Call>,
    key: Key,
}

impl Stream for Keep {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let next = std::task::ready!(this.events.as_mut().poll_next(cx));
        match &next {
            Some(Ok(chunk)) => {
                this.bytes += chunk.len();
                if this.bytes > this.memory.config.entry_bytes_max {
                    this.kept = None;
                }
                if let Some(kept) = &mut this.kept {
                    kept.push(chunk.clone());
                }
            }
            Some(Err(_)) => this.kept = None,
            None => {
                if let Some(kept) = this.kept.take() {
                    let mut body = BytesMut::with_capacity(this.bytes);
                    for chunk in kept {
                        body.extend_from_slice(&chunk);
                    }
                    let mut facts = sse::Facts::default();
                    wire::read_events(this.call.request.endpoint, &body, &mut facts);
                    if facts.done && facts.finished && !facts.failed {
                        this.memory.put(&this.call, this.key, Form::of(&this.call), &body);
                    }
                }
            }
        }
        Poll::Ready(next)
    }
}

/// Where an answer is kept. Those of chat are turned from one form into another, so that one
/// place serves all forms; others have a place a form.
fn place(call: &Call, key: Key, form: Form) -> Key {
    if call.request.endpoint == Endpoint::Chat { key } else { key.form(form) }
}

fn derive(entry: &Entry, wanted: Form) -> Option<Bytes> {
    let body = match (entry.form, wanted) {
        (Form::Whole, wanted) => convert::to_stream(&entry.body, wanted == Form::StreamWithUsage)?,
        (Form::StreamWithUsage, Form::Stream) => convert::without_usage(&entry.body),
        (_, Form::Whole) => convert::to_whole(&entry.body)?,
        // The kept stream tells no usage, so the caller must ask upstream.
        (_, Form::StreamWithUsage) => return None,
        (Form::Stream, Form::Stream) => return Some(entry.body.clone()),
    };
    Some(Bytes::from(body))
}

fn reply(form: Form, body: Bytes) -> Reply {
    let kind = match form {
        Form::Whole => "application/json",
        Form::Stream | Form::StreamWithUsage => "text/event-stream; charset=utf-8",
    };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Reply {
        status: StatusCode::OK,
        headers,
        body: Body::Whole(body),
        cache: CacheStatus::Hit,
        deployment: None,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    const KIND: &[u8] = b"application/json";
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..KIND.len()));
    let plain = !headers.contains_key(http::header::CONTENT_ENCODING);
    plain && kind.is_some_and(|kind| kind.eq_ignore_ascii_case(KIND))
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Key, Arc<Entry>> for Weigh {
    fn weight(&self, _: &Key, entry: &Arc<Entry>) -> u64 {
        entry.bytes() as u64
    }
}

/// Keys are hashes already.
#[derive(Clone, Default)]
struct PassHash;

impl BuildHasher for PassHash {
    type Hasher = Passed;

    fn build_hasher(&self) -> Passed {
        Passed(0)
    }
}

struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = (key >> 64) as u64 ^ key as u64;
    }
}

#[cfg(test)]
mod tests;
