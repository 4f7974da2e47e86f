//! Answers of OpenAI's Responses that callers may ask for again, or take up by their
//! identifiers.
//!
//! Of an answer that an upstream stores it is noted which one, so that the same one is asked.
//! An answer that was translated nobody stores but us, with the conversation before it: a
//! call that continues it is sent with all of that in its own input. Nobody finds what
//! another tenant, or another key, has stored.

mod asked;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use bytes::Bytes;
use memchr::memmem;
use paceline_core::{Body, Call, Clock, Endpoint, Instant, Reply, Result};
use paceline_dialect::responses::{continue_from, input_items_of, resolve_references};
use paceline_dialect::wire;
use paceline_upstream::CREDENTIALS;
use quick_cache::sync::Cache;
use serde_json::Value;

use crate::stages::digest::{Digest, sha256};
use crate::stages::stored::watch::{Named, Watched};

pub(crate) use asked::{StoredPath, What};

/// Bounds of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredConfig {
    /// Bytes of everything; 0 stores nothing. Default: 64 MiB.
    pub bytes_max: u64,
    /// Bytes of one answer and the conversation before it. Default: 4 MiB.
    pub entry_bytes_max: usize,
    /// How long an answer is stored. Default: 1 day.
    pub ttl: Duration,
}

impl Default for StoredConfig {
    fn default() -> Self {
        Self { bytes_max: 64 << 20, entry_bytes_max: 4 << 20, ttl: Duration::from_secs(86_400) }
    }
}

/// What is stored, shared by all cores.
pub struct Stored {
    table: Cache<Digest, Arc<Entry>, Weigh>,
    config: StoredConfig,
    clock: Clock,
}

struct Entry {
    expires: Instant,
    kept: Kept,
    bytes: usize,
}

enum Kept {
    /// The deployment that stores it.
    At(usize),
    /// An answer, and the items of the conversation before it.
    Answer { answer: Value, input: Vec<Value> },
    /// An item of an answer.
    Item(Value),
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Digest, Arc<Entry>> for Weigh {
    fn weight(&self, _: &Digest, entry: &Arc<Entry>) -> u64 {
        // The entry, its slot and an allocation; a parsed value takes about thrice its text.
        160 + 3 * entry.bytes as u64
    }
}

/// Whose answers may be found: those of one tenant, and of one key that goes on to the
/// upstream.
#[derive(Clone)]
struct Owner(Digest);

impl Owner {
    fn of(call: &Call) -> Self {
        let shown = CREDENTIALS.iter().find_map(|name| call.request.headers.get(name));
        let key = sha256(shown.map_or(b"", |value| value.as_bytes()));
        let tenant = sha256(call.caller.tenant.as_deref().unwrap_or_default().as_bytes());
        Self(sha256(&[key, tenant].concat()))
    }

    fn place(&self, id: &str) -> Digest {
        sha256(&[&self.0, id.as_bytes()].concat())
    }
}

/// A call that takes up a stored answer.
pub(crate) struct TakenUp {
    /// The call with what it refers to in its own input, where that was stored here.
    pub(crate) call: Option<Arc<Call>>,
    /// The deployment that stores it, where one does.
    pub(crate) only: Option<usize>,
}

impl Stored {
    /// An empty store.
    pub fn new(config: StoredConfig, clock: Clock) -> Arc<Self> {
        // An estimate for the first allocation only.
        let entries = usize::try_from(config.bytes_max >> 14).unwrap_or(usize::MAX);
        let table = Cache::with_weighter(entries.clamp(16, 4096), config.bytes_max, Weigh);
        Arc::new(Self { table, config, clock })
    }

    /// Notes an answer of the deployment `at`, so that it is found again. `is_native` tells
    /// whether that speaks Responses itself.
    pub(crate) fn note(
        self: &Arc<Self>,
        call: &Arc<Call>,
        at: usize,
        is_native: bool,
        mut reply: Reply,
    ) -> Reply {
        let stores = call.request.endpoint == Endpoint::Responses
            && reply.status == StatusCode::OK
            && self.config.bytes_max > 0
            && member(call, b"store") != Some(b"false");
        if !stores {
            return reply;
        }
        reply.body = match reply.body {
            Body::Whole(body) => {
                if is_native {
                    if let Ok(answer) = serde_json::from_slice::<Named<'_>>(&body) {
                        self.note_ids(&Owner::of(call), at, answer.ids());
                    }
                } else if let Ok(answer) = serde_json::from_slice::<Value>(&body) {
                    self.keep(call, answer, body.len());
                }
                Body::Whole(body)
            }
            Body::Events(chunks) => {
                let (stored, call) = (Arc::clone(self), Arc::clone(call));
                let at = is_native.then_some(at);
                Body::Events(Box::pin(Watched::new(stored, call, at, chunks)))
            }
            Body::Bytes(chunks, length) => Body::Bytes(chunks, length),
        };
        reply
    }

    /// Notes that the deployment `at` stores what these identifiers name.
    fn note_ids<'a>(&self, owner: &Owner, at: usize, ids: impl Iterator<Item = &'a str>) {
        for id in ids.filter(|id| !id.is_empty()) {
            self.insert(owner.place(id), Kept::At(at), 0);
        }
    }

    /// Keeps an answer that was translated, its items, and the conversation before it.
    fn keep(&self, call: &Call, answer: Value, len: usize) {
        let bytes = len + call.request.body.len();
        let Some(id) = answer["id"].as_str().filter(|_| bytes <= self.config.entry_bytes_max)
        else {
            return;
        };
        let Ok(request) = serde_json::from_slice::<Value>(&call.request.body) else { return };
        let owner = Owner::of(call);
        for item in answer["output"].as_array().into_iter().flatten() {
            if let Some(id) = item["id"].as_str() {
                self.insert(owner.place(id), Kept::Item(item.clone()), len);
            }
        }
        let place = owner.place(id);
        self.insert(place, Kept::Answer { answer, input: input_items_of(&request) }, bytes);
    }

    fn insert(&self, place: Digest, kept: Kept, bytes: usize) {
        let expires = self.clock.now().after(self.config.ttl);
        self.table.insert(place, Arc::new(Entry { expires, kept, bytes }));
    }

    fn find(&self, owner: &Owner, id: &str) -> Option<Arc<Entry>> {
        let entry = self.table.get(&owner.place(id))?;
        (entry.expires > self.clock.now()).then_some(entry)
    }

    /// What a call takes up of what is stored; `None` where nothing.
    ///
    /// # Errors
    /// `InvalidRequest`, where the call with all that it takes up is no request any more.
    pub(crate) fn taken_up(&self, call: &Arc<Call>) -> Result<Option<TakenUp>> {
        let request = &call.request;
        if request.endpoint != Endpoint::Responses {
            return Ok(None);
        }
        let previous = member(call, b"previous_response_id")
            .and_then(|value| serde_json::from_slice::<String>(value).ok());
        let refers = memmem::find(&request.body, b"item_reference").is_some();
        if previous.is_none() && !refers {
            return Ok(None);
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&request.body) else { return Ok(None) };
        let (owner, mut only, mut changed) = (Owner::of(call), None, false);
        let before = previous.and_then(|id| self.find(&owner, &id));
        match before.as_ref().map(|entry| &entry.kept) {
            Some(Kept::At(at)) => only = Some(*at),
            Some(Kept::Answer { answer, input }) => {
                let output = answer["output"].as_array().cloned().unwrap_or_default();
                body = continue_from(input.clone(), output, body);
                changed = true;
            }
            Some(Kept::Item(_)) | None => {}
        }
        body = resolve_references(body, |id| match &self.find(&owner, id)?.kept {
            Kept::Item(item) => {
                changed = true;
                Some(item.clone())
            }
            Kept::At(at) => {
                only = Some(*at);
                None
            }
            Kept::Answer { .. } => None,
        });
        let call = changed.then(|| with_body(call, &body)).transpose()?;
        Ok(Some(TakenUp { call, only }))
    }
}

/// The call with another body.
fn with_body(call: &Call, body: &Value) -> Result<Arc<Call>> {
    let mut call = call.clone();
    let request = &mut call.request;
    request.body = Bytes::from(body.to_string());
    request.fields = wire::fields(request.endpoint, &request.path, &request.body)?;
    Ok(Arc::new(call))
}

/// The text of a member of a call's body.
fn member<'a>(call: &'a Call, name: &[u8]) -> Option<&'a [u8]> {
    let request = &call.request;
    let member = request.fields.members.iter().find(|member| request.get(member.key) == name)?;
    Some(request.get(member.value))
}
