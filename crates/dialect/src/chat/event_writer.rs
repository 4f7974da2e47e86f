//! Writing a stream.

use serde::Serialize;
use serde_json::{Value, json};

use super::details;
use super::response::{reason, tokens};
use crate::codec::EventWriter;
use crate::neutral::{Event, Part, Request, Seal, Usage};
use crate::responses::failure;
use crate::sse::EVENT_BYTES_MAX;

/// DeepSeek's word for thinking, which most clients read.
const THOUGHT: &str = "reasoning_content";

const CALL: &str = "tool_calls";

/// Writes the chunks of a stream.
pub(super) struct Writer {
    /// Whether the caller asked for usage.
    include_usage: bool,
    /// When the call came in, in seconds since 1970.
    asked_s: u64,
    /// What each chunk begins with, up to its choices.
    head: Vec<u8>,
    /// The member in which more of the open part comes.
    member: &'static str,
    /// Calls so far: they have numbers of their own here.
    calls: usize,
    /// Sealed thoughts so far.
    thoughts: usize,
    /// What was shown of the open thought, which its seal comes with; `None` where it is
    /// longer than a seal is worth.
    thought: Option<String>,
    usage: Usage,
    over: bool,
}

impl Writer {
    pub(super) fn new(request: &Request) -> Self {
        Self {
            include_usage: request.include_usage,
            asked_s: request.asked_s,
            head: Vec::new(),
            member: "content",
            calls: 0,
            thoughts: 0,
            thought: None,
            usage: Usage::default(),
            over: false,
        }
    }
}

impl EventWriter for Writer {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Start { id, model, usage } => {
                self.usage = usage.unwrap_or_default();
                self.start(id, model);
                // The SDK for Node wants the role in the first delta.
                self.chunk(out, None, |out| {
                    out.extend_from_slice(b"{\"role\":\"assistant\",\"content\":\"\"}");
                });
            }
            Event::PartStart { part, .. } => self.part(part, out),
            Event::Text { text, .. } => self.text(text, out),
            Event::Arguments { json: text, .. } => self.arguments(text, out),
            Event::Usage(usage) => self.usage = *usage,
            Event::Stop { stop, .. } => {
                self.chunk(out, Some(reason(*stop)), |out| out.extend_from_slice(b"{}"));
            }
            Event::End => self.end(out),
            Event::Error(failure) => {
                out.extend_from_slice(b"data: ");
                json(&failure::write(failure).1, out);
                out.extend_from_slice(b"\n\n");
                self.over = true;
            }
            Event::Seal { seal, .. } => self.seal(seal, out),
            // A part's end shows in the next one's beginning.
            Event::PartEnd { .. } => {}
        }
    }
}

impl Writer {
    fn start(&mut self, id: &str, model: &str) {
        let head = json!({
            "id": id, "object": "chat.completion.chunk", "created": self.asked_s, "model": model,
        });
        self.head = head.to_string().into_bytes();
        self.head.pop();
        self.head.extend_from_slice(b",\"choices\":");
    }

    /// Writes a chunk with a delta.
    fn chunk(&self, out: &mut Vec<u8>, reason: Option<&str>, delta: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"[{\"index\":0,\"delta\":");
        delta(out);
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
        json(&reason, out);
        out.extend_from_slice(b"}]}\n\n");
    }

    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        match part {
            Part::Text { text, .. } => {
                self.member = "content";
                self.text(text, out);
            }
            Part::Thinking { text, seal } => {
                self.member = THOUGHT;
                self.thought = Some(String::new());
                self.text(text, out);
                if let Some(seal) = seal {
                    self.seal(seal, out);
                }
            }
            Part::Refusal { text } => {
                self.member = "refusal";
                self.text(text, out);
            }
            Part::Hidden { .. } => {
                if let Some(entry) = details::write(part, self.thoughts) {
                    self.details(entry, out);
                }
            }
            Part::ToolCall { id, name, arguments, seal, .. } => {
                self.member = CALL;
                let mut call = json!({"tool_calls": [{
                    "index": self.calls, "id": id, "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }]});
                if let Some(extra) = details::extra_content(seal.as_ref()) {
                    call["tool_calls"][0]["extra_content"] = extra;
                }
                self.calls += 1;
                self.chunk(out, None, |out| json(&call, out));
            }
            _ => {}
        }
    }

    /// The seal of the open part: of a thought, whose text comes once more with it, so that a
    /// client has in one piece what must come back; or of a call.
    fn seal(&mut self, seal: &Seal, out: &mut Vec<u8>) {
        if self.member == THOUGHT {
            if let Some(text) = self.thought.take() {
                self.details(details::thought(&text, seal, self.thoughts), out);
            }
        } else if let (CALL, Some(extra)) = (self.member, details::extra_content(Some(seal))) {
            let index = self.calls.saturating_sub(1);
            let call = json!({"tool_calls": [{"index": index, "extra_content": extra}]});
            self.chunk(out, None, |out| json(&call, out));
        }
    }

    fn details(&mut self, entry: Value, out: &mut Vec<u8>) {
        self.thoughts += 1;
        let delta = json!({"reasoning_details": [entry]});
        self.chunk(out, None, |out| json(&delta, out));
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if self.member == THOUGHT
            && let Some(thought) = &mut self.thought
        {
            thought.push_str(text);
            if thought.len() > EVENT_BYTES_MAX / 2 {
                self.thought = None;
            }
        }
        self.chunk(out, None, |out| {
            out.extend_from_slice(b"{\"");
            out.extend_from_slice(self.member.as_bytes());
            out.extend_from_slice(b"\":");
            json(&text, out);
            out.push(b'}');
        });
    }

    fn arguments(&self, text: &str, out: &mut Vec<u8>) {
        let index = self.calls.saturating_sub(1);
        self.chunk(out, None, |out| {
            out.extend_from_slice(b"{\"tool_calls\":[{\"index\":");
            json(&index, out);
            out.extend_from_slice(b",\"function\":{\"arguments\":");
            json(&text, out);
            out.extend_from_slice(b"}}]}");
        });
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.include_usage {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"[],\"usage\":");
            json(&tokens(&self.usage), out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        self.over = true;
    }
}

/// Appends JSON. It fails for maps with keys that are no texts only, of which there are none.
fn json(value: &impl Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "{written:?}");
}
