//! What a server sends: the objects of answers and of streams, as far as they are read.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::seal;
use crate::neutral::{Part, Response, Stop, Usage};

/// An answer, whole or in an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) id: Option<String>,
    model: Option<String>,
    created_at: Option<f64>,
    pub(super) status: Option<String>,
    pub(super) error: Option<Problem>,
    incomplete_details: Option<Details>,
    output: Option<Vec<Item>>,
    usage: Option<Tokens>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    reason: Option<String>,
}

/// An error. Some servers give a code as a number.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) message: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) code: Option<Value>,
    pub(crate) param: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Tokens {
    input_tokens: Option<u64>,
    input_tokens_details: Option<InputDetails>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

/// An item of the output, of any kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Item {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    content: Option<Vec<Content>>,
    summary: Option<Vec<Content>>,
    pub(super) encrypted_content: Option<String>,
}

/// A piece of a message, or of a reasoning item.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Content {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

/// An event of a stream, of any kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Incoming<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    pub(super) output_index: usize,
    pub(super) content_index: usize,
    pub(super) summary_index: usize,
    #[serde(borrow)]
    pub(super) delta: Cow<'a, str>,
    pub(super) text: Option<String>,
    pub(super) refusal: Option<String>,
    pub(super) arguments: Option<String>,
    pub(super) item: Option<Item>,
    pub(super) part: Option<Content>,
    pub(super) response: Option<Answer>,
    pub(super) error: Option<Problem>,
    pub(super) message: Option<String>,
    pub(super) code: Option<Value>,
    pub(super) param: Option<String>,
}

impl Answer {
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage.map(Tokens::usage)
    }

    pub(super) fn model(&mut self) -> String {
        self.model.take().unwrap_or_default()
    }

    pub(super) fn take_items(&mut self) -> Vec<Item> {
        self.output.take().unwrap_or_default()
    }

    /// Why it ended, given what it holds.
    pub(super) fn stop(&self, has_call: bool, has_refusal: bool) -> Stop {
        let reason = self.incomplete_details.as_ref().and_then(|details| details.reason.as_deref());
        match reason {
            Some("content_filter") => Stop::Filter,
            Some(_) => Stop::Length,
            None if self.status.as_deref() == Some("incomplete") => Stop::Length,
            None if has_call => Stop::Tool,
            None if has_refusal => Stop::Refusal,
            None => Stop::End,
        }
    }

    pub(super) fn into_response(mut self) -> Response {
        let parts: Vec<_> = self.take_items().into_iter().flat_map(Item::into_parts).collect();
        let has = |wanted: fn(&Part) -> bool| parts.iter().any(wanted);
        let stop = self.stop(
            has(|part| matches!(part, Part::ToolCall { .. })),
            has(|part| matches!(part, Part::Refusal { .. })),
        );
        Response {
            usage: self.usage().unwrap_or_default(),
            model: self.model(),
            // Some servers give fractions of a second.
            created: self.created_at.map_or(0, |at| at.max(0.0) as u64),
            id: self.id.unwrap_or_default(),
            parts,
            stop,
            stop_sequence: None,
        }
    }
}

impl Tokens {
    fn usage(self) -> Usage {
        let details = self.input_tokens_details.unwrap_or_default();
        let cache_read = details.cached_tokens.unwrap_or_default();
        let cache_write = details.cache_write_tokens.unwrap_or_default();
        // The cached ones are counted inside the input here.
        let input = self.input_tokens.unwrap_or_default();
        Usage {
            input_uncached: input.saturating_sub(cache_read).saturating_sub(cache_write),
            cache_read,
            cache_write,
            output: self.output_tokens.unwrap_or_default(),
            reasoning: self
                .output_tokens_details
                .and_then(|d| d.reasoning_tokens)
                .unwrap_or_default(),
        }
    }
}

/// The kinds of items that are parts of an answer. The others tell what OpenAI's own tools
/// did, which no other dialect asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Call,
    Reasoning,
}

impl Item {
    pub(super) fn kind(&self) -> Option<Kind> {
        match self.kind.as_deref()? {
            "message" => Some(Kind::Message),
            "function_call" => Some(Kind::Call),
            "reasoning" => Some(Kind::Reasoning),
            _ => None,
        }
    }

    /// The parts of a whole item.
    pub(super) fn into_parts(mut self) -> Vec<Part> {
        match self.kind() {
            Some(Kind::Message) => self
                .content
                .unwrap_or_default()
                .into_iter()
                .filter_map(Content::into_part)
                .collect(),
            Some(Kind::Call) => vec![self.call()],
            Some(Kind::Reasoning) => {
                let text = self.thought();
                seal::part(text, self.encrypted_content, self.id).into_iter().collect()
            }
            None => Vec::new(),
        }
    }

    /// The call that an item is, with its arguments as far as they are there.
    pub(super) fn call(&mut self) -> Part {
        // Old servers give one identifier for both purposes.
        let id = self.call_id.take().or_else(|| self.id.take()).unwrap_or_default();
        let name = self.name.take().unwrap_or_default();
        let arguments = self.arguments.take().unwrap_or_default();
        Part::ToolCall { id, name, arguments, seal: None, cache: None }
    }

    /// The shown text of a reasoning item: its summary, or what open models show.
    pub(super) fn thought(&mut self) -> String {
        let pieces = [self.summary.take(), self.content.take()].into_iter().flatten().flatten();
        pieces.filter_map(|piece| piece.text).collect::<Vec<_>>().join("\n\n")
    }

    pub(super) fn take_id(&mut self) -> Option<String> {
        self.id.take()
    }
}

impl Content {
    /// The text or refusal that it is.
    pub(super) fn into_part(self) -> Option<Part> {
        match self.kind.as_deref()? {
            "output_text" => Some(Part::Text { text: self.text.unwrap_or_default(), cache: None }),
            "refusal" => Some(Part::Refusal { text: self.refusal.unwrap_or_default() }),
            _ => None,
        }
    }
}
