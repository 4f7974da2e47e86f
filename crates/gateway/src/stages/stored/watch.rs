//! A stream of Responses, of which it is noted what it gives to store.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use memchr::memmem;
use paceline_core::{Call, Chunks, Result};
use paceline_dialect::sse;
use serde::Deserialize;
use serde_json::Value;

use super::{Owner, Stored};

/// An answer's identifier, and those of its items.
#[derive(Deserialize)]
pub(super) struct Named<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    output: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
}

impl Named<'_> {
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        let items = self.output.iter().filter_map(|item| item.id.as_deref());
        std::iter::once(&*self.id).chain(items)
    }
}

/// What an event tells of what is stored.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    response: Option<Named<'a>>,
    #[serde(borrow, default)]
    item: Option<Item<'a>>,
}

/// The stream, unchanged.
pub(super) struct Watched {
    stored: Arc<Stored>,
    call: Arc<Call>,
    owner: Owner,
    /// The deployment that stores the answer; the last event is kept where none does.
    at: Option<usize>,
    chunks: Chunks,
}

impl Watched {
    pub(super) fn new(
        stored: Arc<Stored>,
        call: Arc<Call>,
        at: Option<usize>,
        chunks: Chunks,
    ) -> Self {
        let owner = Owner::of(&call);
        Self { stored, call, owner, at, chunks }
    }

    /// Notes what the events of a chunk give to store. Events come whole.
    fn note(&self, chunk: &[u8]) {
        let has = |text: &str| memmem::find(chunk, text.as_bytes()).is_some();
        match self.at {
            Some(at) if has("response.created") || has("response.output_item.added") => {
                for data in sse::data(chunk) {
                    let Ok(told) = serde_json::from_slice::<Told<'_>>(&data) else { continue };
                    let item = told.item.as_ref().and_then(|item| item.id.as_deref());
                    let answer = told.response.iter().flat_map(Named::ids);
                    self.stored.note_ids(&self.owner, at, answer.chain(item));
                }
            }
            None if has("response.completed") || has("response.incomplete") => {
                for data in sse::data(chunk) {
                    let Ok(mut event) = serde_json::from_slice::<Value>(&data) else { continue };
                    let ends = ["response.completed", "response.incomplete"];
                    if event["type"].as_str().is_some_and(|kind| ends.contains(&kind)) {
                        let len = data.len();
                        self.stored.keep(&self.call, event["response"].take(), len);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Stream for Watched {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.chunks.as_mut().poll_next(cx));
        if let Some(Ok(chunk)) = &next {
            self.note(chunk);
        }
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_found_in_answers_and_events() {
        let body = r#"{"id":"resp_a","object":"response","output":[{"id":"msg_a"},{"n":1}]}"#;
        let answer = serde_json::from_str::<Named<'_>>(body).unwrap();
        assert_eq!(answer.ids().collect::<Vec<_>>(), ["resp_a", "msg_a"]);
        let event = format!(r#"{{"type":"response.created","response":{body}}}"#);
        let told = serde_json::from_str::<Told<'_>>(&event).unwrap();
        assert_eq!(told.response.unwrap().ids().count(), 2);
        let event = r#"{"type":"response.output_item.added","item":{"id":"fc_1"}}"#;
        let told = serde_json::from_str::<Told<'_>>(event).unwrap();
        assert_eq!(told.item.unwrap().id.as_deref(), Some("fc_1"));
    }
}
