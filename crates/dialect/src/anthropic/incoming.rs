//! What a server sends: whole answers and the events of a stream.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::lenient;
use crate::neutral::{Stop, Usage};

/// A whole answer, or the message with which a stream begins.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) content: Option<Vec<Block<'a>>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) stop_reason: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) stop_sequence: Option<Cow<'a, str>>,
    pub(super) usage: Option<Tokens>,
}

/// A block, or a delta of one.
#[derive(Default, Deserialize)]
pub(super) struct Block<'a> {
    #[serde(default, borrow, rename = "type", deserialize_with = "lenient::text")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) thinking: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) signature: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) data: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) partial_json: Option<Cow<'a, str>>,
    pub(super) input: Option<Value>,
    // Of a message's delta.
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) stop_reason: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) stop_sequence: Option<Cow<'a, str>>,
}

/// An event of a stream.
#[derive(Deserialize)]
pub(super) struct Incoming<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    pub(super) index: Option<u64>,
    #[serde(borrow)]
    pub(super) message: Option<Message<'a>>,
    #[serde(borrow)]
    pub(super) content_block: Option<Block<'a>>,
    #[serde(borrow)]
    pub(super) delta: Option<Block<'a>>,
    pub(super) usage: Option<Tokens>,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Tokens {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Tokens {
    /// The usage; what a later count leaves out is as it was.
    pub(super) fn over(self, before: Usage) -> Usage {
        let thinking = self.output_tokens_details.and_then(|details| details.thinking_tokens);
        Usage {
            // The caches are counted beside the input here.
            input_uncached: self.input_tokens.unwrap_or(before.input_uncached),
            cache_read: self.cache_read_input_tokens.unwrap_or(before.cache_read),
            cache_write: self.cache_creation_input_tokens.unwrap_or(before.cache_write),
            output: self.output_tokens.unwrap_or(before.output),
            reasoning: thinking.unwrap_or(before.reasoning),
        }
    }
}

/// Why an answer ended.
pub(super) fn stop(reason: &str) -> Stop {
    match reason {
        "tool_use" => Stop::Tool,
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "stop_sequence" => Stop::Sequence,
        "refusal" => Stop::Refusal,
        "pause_turn" => Stop::Pause,
        _ => Stop::End,
    }
}

/// The word for why an answer ended.
pub(super) const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "end_turn",
        Stop::Tool => "tool_use",
        Stop::Length => "max_tokens",
        Stop::Sequence => "stop_sequence",
        Stop::Refusal | Stop::Filter => "refusal",
        Stop::Pause => "pause_turn",
    }
}
