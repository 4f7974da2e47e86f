//! Writing a stream.

use serde::Serialize;
use serde_json::{Value, json};

use super::failure;
use super::incoming::reason;
use super::response::tokens;
use super::seal;
use super::write_messages::foreign;
use crate::codec::EventWriter;
use crate::neutral::{Event, Part, Stop, Usage, Vendor};

/// Writes the events of a stream.
#[derive(Default)]
pub(super) struct Writer {
    /// Blocks so far: they are numbered without gaps here.
    blocks: usize,
    /// What the deltas of the open block are called.
    delta: Option<(&'static str, &'static str)>,
    open: bool,
    usage: Usage,
    stop: Stop,
    sequence: Option<String>,
    over: bool,
}

const TEXT: (&str, &str) = ("text_delta", "text");
const THINKING: (&str, &str) = ("thinking_delta", "thinking");
const ARGUMENTS: (&str, &str) = ("input_json_delta", "partial_json");
const SIGNATURE: (&str, &str) = ("signature_delta", "signature");

impl EventWriter for Writer {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Start { id, model, usage } => {
                self.usage = usage.unwrap_or_default();
                let message = json!({
                    "id": id, "type": "message", "role": "assistant", "model": model,
                    "content": [], "stop_reason": null, "stop_sequence": null,
                    "usage": tokens(&self.usage),
                });
                emit("message_start", &json!({"type": "message_start", "message": message}), out);
            }
            Event::PartStart { part, .. } => self.begin(part, out),
            Event::Text { text, .. } => self.more(text, out),
            Event::Arguments { json, .. } => self.more(json, out),
            Event::Seal { seal, .. } if self.delta == Some(THINKING) => {
                self.piece(SIGNATURE, &seal::signature(seal, false), out);
            }
            // A call's seal stands before the call, where it is known by then.
            Event::Seal { .. } => {}
            Event::PartEnd { .. } => self.close(out),
            Event::Usage(usage) => self.usage = *usage,
            Event::Stop { stop, sequence } => {
                self.close(out);
                (self.stop, self.sequence) = (*stop, sequence.clone());
            }
            Event::End => self.end(out),
            Event::Error(failed) => {
                emit("error", &failure::write(failed).1, out);
                self.over = true;
            }
        }
    }
}

impl Writer {
    fn begin(&mut self, part: &Part, out: &mut Vec<u8>) {
        self.close(out);
        match part {
            Part::Text { text, .. } | Part::Refusal { text } => {
                self.block(&json!({"type": "text", "text": ""}), Some(TEXT), out);
                self.more(text, out);
            }
            Part::Thinking { text, seal } => {
                let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.block(&block, Some(THINKING), out);
                self.more(text, out);
                if let Some(seal) = seal {
                    self.piece(SIGNATURE, &seal::signature(seal, false), out);
                }
            }
            Part::Hidden { seal } if seal.vendor == Vendor::Anthropic => {
                self.block(&json!({"type": "redacted_thinking", "data": seal.data}), None, out);
            }
            Part::Hidden { seal } => self.block(&foreign("", Some(seal), false), None, out),
            Part::ToolCall { id, name, arguments, seal, .. } => {
                if seal.is_some() {
                    self.block(&foreign("", seal.as_ref(), true), None, out);
                    self.close(out);
                }
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.block(&block, Some(ARGUMENTS), out);
                self.more(arguments, out);
            }
            _ => {}
        }
    }

    fn block(
        &mut self,
        block: &Value,
        delta: Option<(&'static str, &'static str)>,
        out: &mut Vec<u8>,
    ) {
        let event =
            json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        emit("content_block_start", &event, out);
        self.delta = delta;
        self.open = true;
    }

    fn more(&self, text: &str, out: &mut Vec<u8>) {
        if let Some(delta) = self.delta.filter(|_| !text.is_empty()) {
            self.piece(delta, text, out);
        }
    }

    fn piece(&self, (kind, member): (&str, &str), text: &str, out: &mut Vec<u8>) {
        let start =
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":";
        out.extend_from_slice(start);
        put(&self.blocks, out);
        for piece in [",\"delta\":{\"type\":\"", kind, "\",\"", member, "\":"] {
            out.extend_from_slice(piece.as_bytes());
        }
        put(&text, out);
        out.extend_from_slice(b"}}\n\n");
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.open) {
            let event = json!({"type": "content_block_stop", "index": self.blocks});
            emit("content_block_stop", &event, out);
            self.blocks += 1;
            self.delta = None;
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close(out);
        let delta = json!({"stop_reason": reason(self.stop), "stop_sequence": self.sequence});
        let event = json!({"type": "message_delta", "delta": delta, "usage": tokens(&self.usage)});
        emit("message_delta", &event, out);
        emit("message_stop", &json!({"type": "message_stop"}), out);
        self.over = true;
    }
}

fn emit(name: &str, event: &Value, out: &mut Vec<u8>) {
    for piece in ["event: ", name, "\ndata: "] {
        out.extend_from_slice(piece.as_bytes());
    }
    put(event, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends JSON. It fails for maps with keys that are no texts only, of which there are none.
fn put(value: &impl Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "{written:?}");
}
