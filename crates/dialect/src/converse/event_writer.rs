//! Writing a stream.

use serde_json::{Value, json};

use super::frame::{self, Frame};
use super::write_messages::call_id;
use super::{failure, response};
use crate::codec::EventWriter;
use crate::neutral::{Event, Part, Usage};

/// Writes the frames of a stream.
#[derive(Default)]
pub(super) struct Writer {
    /// Whether the open part is thinking.
    thinks: bool,
    usage: Usage,
    over: bool,
}

impl EventWriter for Writer {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Start { usage, .. } => {
                self.usage = usage.unwrap_or_default();
                emit("messageStart", &json!({"role": "assistant"}), out);
            }
            Event::PartStart { index, part } => self.begin(*index, part, out),
            Event::Text { index, text } => self.text(*index, text, out),
            Event::Arguments { index, json } => {
                delta(*index, &json!({"toolUse": {"input": json}}), out)
            }
            Event::Seal { index, seal } => {
                if self.thinks {
                    let sealed = json!({"reasoningContent": {"signature": seal.data}});
                    delta(*index, &sealed, out);
                }
            }
            Event::PartEnd { index } => {
                emit("contentBlockStop", &json!({"contentBlockIndex": index}), out);
            }
            Event::Usage(usage) => self.usage = *usage,
            Event::Stop { stop, sequence } => {
                let mut told = json!({"stopReason": response::reason(*stop)});
                response::tell_sequence(&mut told, sequence.as_deref());
                emit("messageStop", &told, out);
            }
            Event::End => {
                let usage = response::write_usage(self.usage);
                emit("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 0}}), out);
                self.over = true;
            }
            Event::Error(failed) => {
                let (_, name) = failure::kind(failed);
                let payload = json!({"message": failed.message}).to_string();
                write("exception", name, &payload, out);
                self.over = true;
            }
        }
    }
}

impl Writer {
    fn begin(&mut self, index: usize, part: &Part, out: &mut Vec<u8>) {
        self.thinks = matches!(part, Part::Thinking { .. });
        match part {
            Part::ToolCall { id, name, arguments, .. } => {
                let start = json!({"toolUse": {"toolUseId": call_id(id), "name": name}});
                emit(
                    "contentBlockStart",
                    &json!({"contentBlockIndex": index, "start": start}),
                    out,
                );
                if !arguments.is_empty() {
                    delta(index, &json!({"toolUse": {"input": arguments}}), out);
                }
            }
            Part::Text { text, .. } | Part::Refusal { text } => self.text(index, text, out),
            Part::Thinking { text, seal } => {
                self.text(index, text, out);
                if let Some(seal) = seal {
                    let sealed = json!({"reasoningContent": {"signature": seal.data}});
                    delta(index, &sealed, out);
                }
            }
            Part::Hidden { seal } => {
                let hidden = json!({"reasoningContent": {"redactedContent": seal.data}});
                delta(index, &hidden, out);
            }
            _ => {}
        }
    }

    fn text(&self, index: usize, text: &str, out: &mut Vec<u8>) {
        let text = json!({"text": text});
        let told = if self.thinks { json!({"reasoningContent": text}) } else { text };
        delta(index, &told, out);
    }
}

fn delta(index: usize, delta: &Value, out: &mut Vec<u8>) {
    emit("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta}), out);
}

fn emit(name: &str, payload: &Value, out: &mut Vec<u8>) {
    write("event", name, &payload.to_string(), out);
}

fn write(kind: &str, name: &str, payload: &str, out: &mut Vec<u8>) {
    frame::write(Frame { kind, name, payload: payload.as_bytes(), ..Frame::default() }, out);
}
