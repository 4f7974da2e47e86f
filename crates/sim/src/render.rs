//! The wire format of an answer: server-sent events, or one JSON document.
//!
//! What all events of an answer have in common is written once; a token is then a copy of
//! two texts with a few bytes between them.

use std::ops::Range;

use paceline_core::Instant;
use serde::Serialize;
use serde_json::json;

use crate::answer::{Answer, Content};
use crate::engine::Summary;
use crate::text::Vocabulary;

/// What the document and the events of one answer have in common.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) id: String,
    /// Unix time, in seconds.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) prompt_tokens: u64,
    pub(crate) include_usage: bool,
    /// Whether the exact times are told.
    pub(crate) stamps: bool,
    /// How many bytes of content stand in place of the first token.
    pub(crate) huge: Option<usize>,
}

/// Writes the events of one answer.
#[derive(Debug)]
pub(crate) struct Events {
    frame: Frame,
    answer: Answer,
    /// From `data:` to the opening brace of the delta.
    head: String,
    /// From the closing brace of the delta to the end, without the stamp.
    tail: String,
    token_bytes: usize,
}

const FINGERPRINT: &str = "\"system_fingerprint\":\"paceline-sim\"";

impl Events {
    pub(crate) fn new(frame: Frame, answer: Answer, token_bytes: usize) -> Self {
        let mut head = String::with_capacity(256);
        head.push_str("data: {\"id\":\"");
        head.push_str(&frame.id);
        head.push_str("\",\"object\":\"chat.completion.chunk\",\"created\":");
        push_number(&mut head, frame.created);
        head.push_str(",\"model\":");
        push_json(&mut head, &frame.model);
        head.push(',');
        head.push_str(FINGERPRINT);
        head.push_str(",\"choices\":[");
        let usage = if frame.include_usage { ",\"usage\":null" } else { "" };
        let tail = format!("}},\"logprobs\":null,\"finish_reason\":null}}]{usage}");
        Self { frame, answer, head, tail, token_bytes }
    }

    /// Room for the events of so many tokens.
    pub(crate) fn size_hint(&self, tokens: usize) -> usize {
        (tokens + 3) * (self.head.len() + self.tail.len() + 96)
    }

    /// Writes the event of the token at `position`; nothing when it shows nothing.
    pub(crate) fn token(&self, text: &mut String, words: &Vocabulary, position: u32, at: Instant) {
        let wordless = matches!(self.answer.content, Content::Tool { .. });
        if position == 0 {
            let content = if wordless { "null" } else { "\"\"" };
            self.event(text, at, |text| {
                text.push_str("\"role\":\"assistant\",\"content\":");
                text.push_str(content);
            });
            if let Some(bytes) = self.frame.huge {
                self.event(text, at, |text| {
                    text.push_str("\"content\":\"");
                    text.extend(std::iter::repeat_n('x', bytes));
                    text.push('"');
                });
                return;
            }
        }
        match &self.answer.content {
            Content::Prose { seed, bytes } => {
                let shown = bytes.saturating_sub(position as usize * self.token_bytes);
                let token = words.token(*seed, position);
                if let Some(token) = token.get(..shown.min(token.len())).filter(|t| !t.is_empty()) {
                    self.event(text, at, |text| {
                        text.push_str("\"content\":\"");
                        text.push_str(token);
                        text.push('"');
                    });
                }
            }
            Content::Json(document) => {
                let piece = &document[self.piece(document, position)];
                self.event(text, at, |text| {
                    text.push_str("\"content\":");
                    push_json(text, piece);
                });
            }
            Content::Tool { id, name, name_tokens, arguments } => {
                if position + 1 == *name_tokens {
                    self.event(text, at, |text| {
                        text.push_str("\"tool_calls\":[{\"index\":0,\"id\":\"");
                        text.push_str(id);
                        text.push_str("\",\"type\":\"function\",\"function\":{\"name\":");
                        push_json(text, name);
                        text.push_str(",\"arguments\":\"\"}}]");
                    });
                } else if position >= *name_tokens {
                    let piece = &arguments[self.piece(arguments, position - name_tokens)];
                    self.event(text, at, |text| {
                        text.push_str("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":");
                        push_json(text, piece);
                        text.push_str("}}]");
                    });
                }
            }
        }
    }

    /// Writes an event that is no valid JSON.
    pub(crate) fn malformed(&self, text: &mut String) {
        text.push_str(&self.head);
        text.push_str("{\"index\":0,\"delta\":{\"content\":\n\n");
    }

    /// Writes the last events: the reason, the usage where it was asked for, the end.
    pub(crate) fn finish(&self, text: &mut String, summary: &Summary, at: Instant) {
        let sim = self.frame.stamps.then(|| sim(summary));
        text.push_str(&self.head);
        text.push_str("{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"");
        text.push_str(self.answer.finish.as_str());
        text.push_str("\"}]");
        if self.frame.include_usage {
            text.push_str(",\"usage\":null");
        } else if let Some(sim) = &sim {
            text.push_str(sim);
        }
        self.end(text, at);
        if self.frame.include_usage {
            text.push_str(&self.head);
            text.push_str("],\"usage\":");
            text.push_str(&usage(&self.frame, &self.answer, summary).to_string());
            text.push_str(sim.as_deref().unwrap_or_default());
            self.end(text, at);
        }
        text.push_str("data: [DONE]\n\n");
    }

    fn event(&self, text: &mut String, at: Instant, delta: impl FnOnce(&mut String)) {
        text.push_str(&self.head);
        text.push_str("{\"index\":0,\"delta\":{");
        delta(text);
        text.push_str(&self.tail);
        self.end(text, at);
    }

    fn end(&self, text: &mut String, at: Instant) {
        if self.frame.stamps {
            text.push_str(",\"sim_ns\":");
            push_number(text, at.as_nanos());
        }
        text.push_str("}\n\n");
    }

    /// Where the piece with this number lies in a text; never within a character.
    fn piece(&self, text: &str, number: u32) -> Range<usize> {
        let at = number as usize * self.token_bytes;
        text.floor_char_boundary(at)..text.floor_char_boundary(at + self.token_bytes)
    }
}

/// An answer as one document.
pub(crate) fn whole(
    frame: &Frame,
    answer: &Answer,
    summary: &Summary,
    (words, token_bytes): (&Vocabulary, usize),
) -> String {
    let shown = |text: &str, tokens: u32| {
        text[..text.floor_char_boundary(tokens as usize * token_bytes)].to_owned()
    };
    let message = match &answer.content {
        _ if frame.huge.is_some() => {
            json!({"role": "assistant", "content": "x".repeat(frame.huge.unwrap_or(0))})
        }
        Content::Prose { seed, bytes } => {
            let mut text = words.text(*seed, 0, answer.tokens);
            text.truncate(*bytes);
            json!({"role": "assistant", "content": text})
        }
        Content::Json(document) => {
            json!({"role": "assistant", "content": shown(document, answer.tokens)})
        }
        Content::Tool { id, name, name_tokens, arguments } => {
            let arguments = shown(arguments, answer.tokens.saturating_sub(*name_tokens));
            let function = json!({"name": name, "arguments": arguments});
            let call = json!({"id": id, "type": "function", "function": function});
            json!({"role": "assistant", "content": null, "tool_calls": [call]})
        }
    };
    let document = json!({
        "id": frame.id,
        "object": "chat.completion",
        "created": frame.created,
        "model": frame.model,
        "system_fingerprint": "paceline-sim",
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": answer.finish.as_str(),
        }],
        "usage": usage(frame, answer, summary),
    });
    let mut text = document.to_string();
    if frame.stamps {
        text.pop();
        text.push_str(&sim(summary));
        text.push('}');
    }
    text
}

fn usage(frame: &Frame, answer: &Answer, summary: &Summary) -> serde_json::Value {
    json!({
        "prompt_tokens": frame.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": frame.prompt_tokens + u64::from(answer.tokens),
        "prompt_tokens_details": {"cached_tokens": summary.cached_tokens},
    })
}

/// The member with the exact times, its comma included.
fn sim(summary: &Summary) -> String {
    let times = json!({
        "arrived_ns": summary.arrived.as_nanos(),
        "queued_ns": ns(summary.started.since(summary.arrived)),
        "first_token_ns": summary.first_token.as_nanos(),
        "last_token_ns": summary.last_token.as_nanos(),
        "prefilled_tokens": summary.prefilled_tokens,
        "cached_tokens": summary.cached_tokens,
        "preemptions": summary.preemptions,
    });
    format!(",\"sim\":{times}")
}

fn ns(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Writes a value as JSON; strings with their quotes.
fn push_json<T: Serialize + ?Sized>(text: &mut String, value: &T) {
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
}
