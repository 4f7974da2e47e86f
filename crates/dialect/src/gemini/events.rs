//! Reading a stream.

use serde_json::Value;

use super::failure;
use super::incoming::{self, Incoming, Piece, minted};
use crate::codec::{Broken, EventReader};
use crate::neutral::{Event, Part, Seal, Stop, Usage, Vendor};
use crate::sse_reader::{SseEvent, SseReader};

/// Reads the chunks of a stream.
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
        state.bare_error(self.sse.stray(), out);
        if state.over {
            return Ok(());
        }
        // The stream ends with its bytes.
        let Some(stop) = state.stop else {
            return Err(Broken("was cut before its end".to_owned()));
        };
        state.close(out);
        out.push(Event::Usage(state.usage));
        out.push(Event::Stop { stop, sequence: None });
        out.push(Event::End);
        state.over = true;
        Ok(())
    }
}

#[derive(Default)]
struct State {
    id: String,
    started: bool,
    over: bool,
    stop: Option<Stop>,
    usage: Usage,
    /// Whether the open part is thinking.
    open: Option<bool>,
    parts: usize,
    calls: usize,
}

impl State {
    fn event(&mut self, event: &SseEvent, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over || event.data.is_empty() {
            return Ok(());
        }
        let mut incoming = serde_json::from_slice::<Incoming<'_>>(&event.data)
            .map_err(|error| Broken(format!("has a chunk that cannot be read: {error}")))?;
        if incoming.error.is_some() {
            self.fail(&event.data, out);
            return Ok(());
        }
        if !self.started {
            self.started = true;
            self.id = incoming.response_id.take().unwrap_or_default().into_owned();
            let model = incoming.model_version.take().unwrap_or_default().into_owned();
            out.push(Event::Start { id: self.id.clone(), model, usage: None });
        }
        if let Some(tokens) = incoming.usage_metadata {
            // Each chunk repeats it; the last one counts.
            self.usage = tokens.usage();
        }
        if incoming.blocked() {
            self.stop = Some(Stop::Filter);
        }
        let candidates = incoming.candidates.unwrap_or_default().into_iter();
        for candidate in candidates.filter(|candidate| candidate.index.unwrap_or(0) == 0) {
            for piece in candidate.content.and_then(|content| content.parts).unwrap_or_default() {
                self.piece(piece, out)?;
            }
            if let Some(reason) = candidate.finish_reason {
                self.stop = Some(incoming::stop(&reason, self.calls > 0));
            }
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        let data = piece.thought_signature;
        let seal =
            data.map(|data| Seal { vendor: Vendor::Google, data: data.into_owned(), item: None });
        if let Some(mut call) = piece.function_call {
            self.close(out);
            let id =
                call.id.take().map_or_else(|| minted(&self.id, self.calls), |id| id.into_owned());
            let name = call.name.take().unwrap_or_default().into_owned();
            if name.is_empty() {
                return Err(Broken("has a call without a name".to_owned()));
            }
            let json = call.arguments();
            let arguments = String::new();
            self.begin(Part::ToolCall { id, name, arguments, seal, cache: None }, false, out);
            out.push(Event::Arguments { index: self.parts - 1, json });
            self.calls += 1;
            self.close(out);
            return Ok(());
        }
        let text = piece.text.unwrap_or_default();
        if !text.is_empty() {
            if self.open != Some(piece.thought) {
                self.close(out);
                let part = match piece.thought {
                    true => Part::Thinking { text: String::new(), seal: None },
                    false => Part::Text { text: String::new(), cache: None },
                };
                self.begin(part, piece.thought, out);
            }
            out.push(Event::Text { index: self.parts - 1, text: text.into_owned() });
        }
        if let Some(seal) = seal {
            if self.open == Some(true) {
                out.push(Event::Seal { index: self.parts - 1, seal });
            } else {
                // A seal beside a text stands alone behind it.
                self.close(out);
                self.begin(Part::Thinking { text: String::new(), seal: Some(seal) }, true, out);
                self.close(out);
            }
        }
        Ok(())
    }

    fn begin(&mut self, part: Part, thinks: bool, out: &mut Vec<Event>) {
        out.push(Event::PartStart { index: self.parts, part });
        self.parts += 1;
        self.open = Some(thinks);
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if self.open.take().is_some() {
            out.push(Event::PartEnd { index: self.parts - 1 });
        }
    }

    fn fail(&mut self, body: &[u8], out: &mut Vec<Event>) {
        self.over = true;
        out.push(Event::Error(failure::read(None, body)));
    }

    /// An error that breaks into the stream as a bare object.
    fn bare_error(&mut self, stray: &[u8], out: &mut Vec<Event>) {
        let is_error = !self.over
            && serde_json::from_slice::<Value>(stray)
                .is_ok_and(|value| value.get("error").is_some());
        if is_error {
            self.fail(stray, out);
        }
    }
}
