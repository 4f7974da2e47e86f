//! Reading a stream.

use std::borrow::Cow;
use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::Value;

use super::frame::{Frame, FrameReader};
use super::{failure, response};
use crate::codec::{Broken, EventReader};
use crate::neutral::{Event, Failure, FailureClass, Part, Seal, Vendor};

/// Reads the frames of a stream.
#[derive(Default)]
pub(super) struct Reader {
    frames: FrameReader,
    state: State,
}

impl EventReader for Reader {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<(), Broken> {
        let state = &mut self.state;
        if state.over {
            return Ok(());
        }
        self.frames.push(bytes, |frame| {
            state.frame(frame, out)?;
            Ok(if state.over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }

    fn finish(&mut self, _out: &mut Vec<Event>) -> Result<(), Broken> {
        // What it used comes behind the reason of the end: a stream without is cut.
        if self.state.over {
            return Ok(());
        }
        let place = if self.frames.is_cut() { "within a frame" } else { "before its last event" };
        Err(Broken(format!("was cut {place}")))
    }
}

#[derive(Default)]
struct State {
    started: bool,
    stopped: bool,
    metered: bool,
    over: bool,
    /// The server's number of the open block, and what it holds.
    open: Option<(u64, Holds)>,
    parts: usize,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Text,
    Thinking,
    Hidden,
    Call,
}

/// The events that are known.
const KNOWN: [&str; 6] = [
    "messageStart",
    "contentBlockStart",
    "contentBlockDelta",
    "contentBlockStop",
    "messageStop",
    "metadata",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    #[serde(default)]
    content_block_index: u64,
    #[serde(borrow, default)]
    start: Option<Start<'a>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    additional_model_response_fields: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start<'a> {
    #[serde(borrow, default)]
    tool_use: Option<ToolUse<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUse<'a> {
    #[serde(borrow, default)]
    tool_use_id: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    input: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_use: Option<ToolUse<'a>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Thought<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thought<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    signature: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    redacted_content: Option<Cow<'a, str>>,
}

impl State {
    fn frame(&mut self, frame: Frame<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        if frame.kind != "event" {
            self.over = true;
            out.push(Event::Error(failure::in_stream(frame.name, frame.message, frame.payload)));
            return Ok(());
        }
        if !KNOWN.contains(&frame.name) {
            return Ok(());
        }
        if !self.started {
            self.started = true;
            out.push(Event::Start { id: String::new(), model: String::new(), usage: None });
        }
        let unreadable = |error| Broken(format!("has an event that cannot be read: {error}"));
        if frame.name == "metadata" {
            let metadata = serde_json::from_slice::<Value>(frame.payload).map_err(unreadable)?;
            out.push(Event::Usage(response::read_usage(&metadata["usage"])));
            self.metered = true;
        } else {
            let payload = serde_json::from_slice(frame.payload).map_err(unreadable)?;
            self.event(frame.name, payload, out)?;
        }
        if self.stopped && self.metered && !self.over {
            self.over = true;
            out.push(Event::End);
        }
        Ok(())
    }

    fn event(
        &mut self,
        name: &str,
        payload: Payload<'_>,
        out: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        if self.stopped {
            return Err(Broken(format!("has a {name} behind its end")));
        }
        let index = payload.content_block_index;
        match name {
            "contentBlockStart" => {
                self.close(out);
                if let Some(call) = payload.start.and_then(|start| start.tool_use) {
                    self.begin_call(index, call, out)?;
                }
            }
            "contentBlockDelta" => {
                if let Some(delta) = payload.delta {
                    self.delta(index, delta, out)?;
                }
            }
            "contentBlockStop" => self.close(out),
            "messageStop" => self.stop(payload, out),
            _ => {}
        }
        Ok(())
    }

    fn stop(&mut self, payload: Payload<'_>, out: &mut Vec<Event>) {
        self.close(out);
        self.stopped = true;
        let reason = payload.stop_reason.unwrap_or_default();
        match response::stop(&reason) {
            Some(stop) => {
                let more = payload.additional_model_response_fields.unwrap_or_default();
                out.push(Event::Stop { stop, sequence: response::stop_sequence(&more) });
            }
            None => {
                self.over = true;
                out.push(Event::Error(Failure {
                    class: FailureClass::Server,
                    message: format!("the model's output could not be used ({reason})"),
                    code: Some(reason.into_owned()),
                    param: None,
                }));
            }
        }
    }

    fn begin_call(
        &mut self,
        index: u64,
        call: ToolUse<'_>,
        out: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        if call.tool_use_id.is_empty() || call.name.is_empty() {
            return Err(Broken("has a call without a name or an identifier".to_owned()));
        }
        let part = Part::ToolCall {
            id: call.tool_use_id.into_owned(),
            name: call.name.into_owned(),
            arguments: String::new(),
            seal: None,
            cache: None,
        };
        self.begin(index, Holds::Call, part, out);
        Ok(())
    }

    fn begin(&mut self, index: u64, holds: Holds, part: Part, out: &mut Vec<Event>) {
        out.push(Event::PartStart { index: self.parts, part });
        self.parts += 1;
        self.open = Some((index, holds));
    }

    /// Begins a part where the server said nothing of its beginning: it does so for calls only.
    fn ensure(&mut self, index: u64, holds: Holds, out: &mut Vec<Event>) {
        if self.open != Some((index, holds)) {
            self.close(out);
            let text = String::new();
            let part = match holds {
                Holds::Thinking => Part::Thinking { text, seal: None },
                _ => Part::Text { text, cache: None },
            };
            self.begin(index, holds, part, out);
        }
    }

    fn delta(&mut self, index: u64, delta: Delta<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        if let Some(text) = delta.text {
            self.ensure(index, Holds::Text, out);
            self.text(text, out);
        }
        if let Some(call) = delta.tool_use.filter(|call| !call.input.is_empty()) {
            // Without these a call would seem whole, and would not be.
            if self.open != Some((index, Holds::Call)) {
                return Err(Broken("has arguments of no open call".to_owned()));
            }
            let json = call.input.into_owned();
            out.push(Event::Arguments { index: self.parts - 1, json });
        }
        if let Some(thought) = delta.reasoning_content {
            self.thought(index, thought, out);
        }
        Ok(())
    }

    fn thought(&mut self, index: u64, thought: Thought<'_>, out: &mut Vec<Event>) {
        let seal = |data: Cow<'_, str>| Seal {
            vendor: Vendor::Anthropic,
            data: data.into_owned(),
            item: None,
        };
        if let Some(hidden) = thought.redacted_content {
            self.close(out);
            self.begin(index, Holds::Hidden, Part::Hidden { seal: seal(hidden) }, out);
            return;
        }
        self.ensure(index, Holds::Thinking, out);
        if let Some(text) = thought.text {
            self.text(text, out);
        }
        if let Some(signature) = thought.signature.filter(|text| !text.is_empty()) {
            out.push(Event::Seal { index: self.parts - 1, seal: seal(signature) });
        }
    }

    fn text(&self, text: Cow<'_, str>, out: &mut Vec<Event>) {
        if !text.is_empty() {
            out.push(Event::Text { index: self.parts - 1, text: text.into_owned() });
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if self.open.take().is_some() {
            out.push(Event::PartEnd { index: self.parts - 1 });
        }
    }
}
