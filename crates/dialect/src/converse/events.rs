//! Reading a stream.

use std::borrow::Cow;

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
        self.frames.push(bytes, |frame| state.frame(frame, out))
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Broken> {
        let state = &mut self.state;
        if state.over {
            return Ok(());
        }
        // What it used comes behind the reason of the end, and may be missing.
        if !state.stopped || self.frames.is_cut() {
            return Err(Broken("was cut before its last event".to_owned()));
        }
        state.over = true;
        out.push(Event::End);
        Ok(())
    }
}

#[derive(Default)]
struct State {
    started: bool,
    stopped: bool,
    over: bool,
    /// The server's number of the open block.
    open: Option<u64>,
    parts: usize,
}

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
        if self.over {
            return Ok(());
        }
        if frame.kind != "event" {
            self.over = true;
            out.push(Event::Error(failure::in_stream(frame.name, frame.payload)));
            return Ok(());
        }
        let unreadable = |error| Broken(format!("has an event that cannot be read: {error}"));
        if frame.name == "metadata" {
            let metadata = serde_json::from_slice::<Value>(frame.payload).map_err(unreadable)?;
            out.push(Event::Usage(response::read_usage(&metadata["usage"])));
            if self.stopped {
                self.over = true;
                out.push(Event::End);
            }
            return Ok(());
        }
        let payload = serde_json::from_slice::<Payload<'_>>(frame.payload).map_err(unreadable)?;
        if !self.started {
            self.started = true;
            out.push(Event::Start { id: String::new(), model: String::new(), usage: None });
        }
        match frame.name {
            "contentBlockStart" => {
                self.close(out);
                if let Some(call) = payload.start.and_then(|start| start.tool_use) {
                    let part = Part::ToolCall {
                        id: call.tool_use_id.into_owned(),
                        name: call.name.into_owned(),
                        arguments: String::new(),
                        seal: None,
                        cache: None,
                    };
                    self.begin(payload.content_block_index, part, out);
                }
            }
            "contentBlockDelta" => {
                if let Some(delta) = payload.delta {
                    self.delta(payload.content_block_index, delta, out);
                }
            }
            "contentBlockStop" => self.close(out),
            "messageStop" => self.stop(&payload.stop_reason.unwrap_or_default(), out),
            _ => {}
        }
        Ok(())
    }

    fn stop(&mut self, reason: &str, out: &mut Vec<Event>) {
        self.close(out);
        self.stopped = true;
        match response::stop(reason) {
            Some(stop) => out.push(Event::Stop { stop, sequence: None }),
            None => {
                self.over = true;
                out.push(Event::Error(Failure {
                    class: FailureClass::Server,
                    message: format!("the model's output could not be used ({reason})"),
                    code: Some(reason.to_owned()),
                    param: None,
                }));
            }
        }
    }

    fn begin(&mut self, index: u64, part: Part, out: &mut Vec<Event>) {
        out.push(Event::PartStart { index: self.parts, part });
        self.parts += 1;
        self.open = Some(index);
    }

    /// Begins a part where the server said nothing of its beginning: it does so for calls only.
    fn ensure(&mut self, index: u64, part: Part, out: &mut Vec<Event>) {
        if self.open != Some(index) {
            self.close(out);
            self.begin(index, part, out);
        }
    }

    fn delta(&mut self, index: u64, delta: Delta<'_>, out: &mut Vec<Event>) {
        if let Some(text) = delta.text {
            self.ensure(index, Part::Text { text: String::new(), cache: None }, out);
            self.text(text, out);
        }
        if let Some(call) = delta.tool_use.filter(|call| !call.input.is_empty())
            && self.open == Some(index)
        {
            let json = call.input.into_owned();
            out.push(Event::Arguments { index: self.parts - 1, json });
        }
        if let Some(thought) = delta.reasoning_content {
            let seal = |data: Cow<'_, str>| Seal {
                vendor: Vendor::Anthropic,
                data: data.into_owned(),
                item: None,
            };
            if let Some(hidden) = thought.redacted_content {
                self.close(out);
                self.begin(index, Part::Hidden { seal: seal(hidden) }, out);
                return;
            }
            self.ensure(index, Part::Thinking { text: String::new(), seal: None }, out);
            if let Some(text) = thought.text {
                self.text(text, out);
            }
            if let Some(signature) = thought.signature.filter(|text| !text.is_empty()) {
                out.push(Event::Seal { index: self.parts - 1, seal: seal(signature) });
            }
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
