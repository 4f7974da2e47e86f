//! Reading a stream.

use serde_json::Value;

use super::incoming::{self, Block, Incoming};
use super::response::part;
use super::seal;
use crate::codec::{Broken, EventReader};
use crate::neutral::{Event, Failure, Part, Usage};
use crate::responses::failure;
use crate::sse_reader::{SseEvent, SseReader};

/// Reads the events of a stream.
#[derive(Default)]
pub(super) struct Reader {
    sse: SseReader,
    state: State,
}

impl EventReader for Reader {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<(), Broken> {
        let state = &mut self.state;
        self.sse.push(bytes, |event| state.event(event, out))
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Broken> {
        let state = &mut self.state;
        self.sse.finish(|event| state.event(event, out))?;
        if state.over { Ok(()) } else { Err(Broken("was cut before its last event".to_owned())) }
    }
}

#[derive(Default)]
struct State {
    started: bool,
    over: bool,
    stopped: bool,
    usage: Usage,
    /// The server's number of the open block.
    open: Option<u64>,
    kind: Kind,
    parts: usize,
}

/// What may be added to the open block.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Text,
    Thinking,
    Call,
    /// Nothing: it came whole.
    Whole,
}

impl State {
    fn event(&mut self, event: &SseEvent, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over || event.data.is_empty() {
            return Ok(());
        }
        let unreadable = |error| Broken(format!("has an event that cannot be read: {error}"));
        let incoming = serde_json::from_slice::<Incoming<'_>>(&event.data).map_err(unreadable)?;
        match &*incoming.kind {
            "message_start" if self.started => {
                return Err(Broken("begins once more".to_owned()));
            }
            "message_start" => {
                if let Some(message) = incoming.message {
                    self.started = true;
                    self.usage = message.usage.unwrap_or_default().over(self.usage);
                    out.push(Event::Start {
                        id: message.id.unwrap_or_default().into_owned(),
                        model: message.model.unwrap_or_default().into_owned(),
                        usage: Some(self.usage),
                    });
                }
            }
            "content_block_start" | "content_block_delta" | "message_delta" | "message_stop"
                if !self.started =>
            {
                return Err(Broken("lacks its first event".to_owned()));
            }
            "content_block_start" if self.stopped => {
                return Err(Broken("goes on after why it ended".to_owned()));
            }
            "content_block_start" => {
                self.close(out);
                if let Some(part) = incoming.content_block.and_then(part) {
                    if matches!(&part, Part::ToolCall { name, .. } if name.is_empty()) {
                        return Err(Broken("has a call without a name".to_owned()));
                    }
                    self.begin(incoming.index.unwrap_or(0), part, out);
                }
            }
            "content_block_delta" => {
                let here = self.open == Some(incoming.index.unwrap_or(0));
                if let Some(delta) = incoming.delta.filter(|_| here) {
                    self.delta(delta, out);
                }
            }
            "content_block_stop" if self.open == Some(incoming.index.unwrap_or(0)) => {
                self.close(out);
            }
            "message_delta" => {
                self.close(out);
                self.usage = incoming.usage.unwrap_or_default().over(self.usage);
                out.push(Event::Usage(self.usage));
                let delta = incoming.delta.unwrap_or_default();
                if let Some(reason) = delta.stop_reason.filter(|_| !self.stopped) {
                    self.stopped = true;
                    let sequence = delta.stop_sequence.map(|text| text.into_owned());
                    out.push(Event::Stop { stop: incoming::stop(&reason), sequence });
                }
            }
            "message_stop" => {
                self.close(out);
                if !self.stopped {
                    out.push(Event::Stop { stop: incoming::stop(""), sequence: None });
                }
                out.push(Event::End);
                self.over = true;
            }
            "error" => {
                self.over = true;
                out.push(Event::Error(failed(&event.data)));
            }
            // Pings, and what is not known.
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, index: u64, mut part: Part, out: &mut Vec<Event>) {
        self.kind = match part {
            Part::Thinking { .. } => Kind::Thinking,
            Part::ToolCall { .. } => Kind::Call,
            Part::Hidden { .. } => Kind::Whole,
            _ => Kind::Text,
        };
        // Arguments come as text behind the block's beginning, which shows an empty object.
        let mut arguments = String::new();
        if let Part::ToolCall { arguments: given, .. } = &mut part {
            arguments = std::mem::take(given);
        }
        out.push(Event::PartStart { index: self.parts, part });
        if !arguments.is_empty() && arguments != "{}" {
            out.push(Event::Arguments { index: self.parts, json: arguments });
        }
        self.parts += 1;
        self.open = Some(index);
    }

    fn delta(&mut self, delta: Block<'_>, out: &mut Vec<Event>) {
        let index = self.parts - 1;
        let more = match self.kind {
            Kind::Text => delta.text,
            Kind::Thinking => delta.thinking,
            Kind::Call => delta.partial_json,
            Kind::Whole => None,
        };
        if let Some(text) = more.filter(|text| !text.is_empty()).map(|text| text.into_owned()) {
            out.push(match self.kind {
                Kind::Call => Event::Arguments { index, json: text },
                _ => Event::Text { index, text },
            });
        }
        let signature = delta.signature.filter(|_| self.kind == Kind::Thinking);
        if let Some((seal, _)) = signature.and_then(|signature| seal::read(&signature)) {
            out.push(Event::Seal { index, seal });
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if self.open.take().is_some() {
            out.push(Event::PartEnd { index: self.parts - 1 });
        }
    }
}

/// The failure that an `error` event tells.
fn failed(data: &[u8]) -> Failure {
    let kind = serde_json::from_slice::<Value>(data).ok();
    let kind = kind.as_ref().and_then(|event| event.pointer("/error/type")?.as_str());
    // The event has a type but no status; these are the ones that the types go with.
    let status = match kind {
        Some("authentication_error") => 401,
        Some("permission_error") => 403,
        Some("not_found_error") => 404,
        Some("rate_limit_error") => 429,
        Some("overloaded_error") => 529,
        Some("timeout_error") => 504,
        Some("invalid_request_error" | "request_too_large") => 400,
        Some("billing_error") => 402,
        _ => 500,
    };
    failure::read(status, &http::HeaderMap::new(), data)
}
