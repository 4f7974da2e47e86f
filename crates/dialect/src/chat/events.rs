//! Reading a stream.

use std::collections::HashMap;

use super::calls::{CALLS_MAX, Calls, Piece, Place};
use super::details::{self, Detail};
use super::incoming::{self, Call, Delta, Incoming};
use super::response::minted;
use crate::codec::{Broken, EventReader};
use crate::neutral::{Event, Failure, Part, Seal, Stop, Usage, Vendor};
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
        if !state.over && state.stopped {
            // Some servers send no `[DONE]`.
            state.end(out);
        }
        if state.over { Ok(()) } else { Err(Broken("was cut before its end".to_owned())) }
    }
}

#[derive(Default)]
struct State {
    id: String,
    started: bool,
    stopped: bool,
    over: bool,
    has_call: bool,
    refuses: bool,
    usage: Option<Usage>,
    open: Option<Open>,
    /// Whether the open thought has shown anything.
    shown: bool,
    parts: usize,
    calls: Calls,
    /// Seals that came apart from their calls, by the call's identifier.
    seals: HashMap<String, Seal>,
}

/// The part that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    Refusal,
    Call,
}

impl State {
    fn event(&mut self, event: &SseEvent, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over || event.data.is_empty() {
            return Ok(());
        }
        if event.data == b"[DONE]" {
            if !self.stopped {
                // A server that lost its engine may close the stream in good order.
                return Err(Broken("says `[DONE]` without why it ended".to_owned()));
            }
            self.end(out);
            return Ok(());
        }
        let mut incoming = serde_json::from_slice::<Incoming<'_>>(&event.data)
            .map_err(|error| Broken(format!("has a chunk that cannot be read: {error}")))?;
        self.usage = incoming.usage().or(self.usage);
        let mut failure = incoming.failure();
        if failure.is_none()
            && (incoming.is_failure() || (event.name == b"error" && incoming.choices.is_none()))
        {
            failure = Some(incoming::whole_failure(&event.data));
        }
        if !self.started && incoming.choices.as_ref().is_some_and(|choices| !choices.is_empty()) {
            self.start(&mut incoming, out);
        }
        // Of several choices the first.
        let choices = incoming.choices.unwrap_or_default().into_iter();
        for mut choice in choices.filter(|choice| choice.index.unwrap_or(0) == 0) {
            if let Some(delta) = choice.said().filter(|_| !self.stopped) {
                self.delta(delta, out)?;
            }
            // Some servers send an empty reason with every chunk.
            let reason = choice.finish_reason.filter(|reason| !reason.is_empty());
            if let Some(reason) = reason.filter(|_| !self.stopped && failure.is_none()) {
                match incoming::given_up(&reason) {
                    given_up @ Some(_) => failure = given_up,
                    None => self.stop(&reason, out)?,
                }
            }
        }
        if let Some(failure) = failure {
            self.fail(failure, out);
        }
        Ok(())
    }

    fn start(&mut self, incoming: &mut Incoming<'_>, out: &mut Vec<Event>) {
        self.started = true;
        self.id = incoming.id.take().unwrap_or_default().into_owned();
        let model = incoming.model.take().unwrap_or_default().into_owned();
        out.push(Event::Start { id: self.id.clone(), model, usage: None });
    }

    fn delta(&mut self, mut delta: Delta<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        let mut thought = delta.thought();
        let (inner, said) = delta.content.map(|content| content.split()).unwrap_or_default();
        thought.push_str(&inner);
        let details = delta.reasoning_details.unwrap_or_default();
        let details: Vec<_> = details.iter().filter_map(details::read_entry).collect();
        let told = !thought.is_empty();
        self.text(Open::Thinking, thought, out)?;
        for detail in details {
            self.detail(detail, told, out)?;
        }
        self.text(Open::Text, said, out)?;
        if let Some(text) = delta.refusal {
            self.text(Open::Refusal, text.into_owned(), out)?;
        }
        for call in delta.tool_calls.unwrap_or_default() {
            self.call(call, out)?;
        }
        if let Some(function) = delta.function_call {
            self.call(Call::old(function), out)?;
        }
        Ok(())
    }

    /// Takes an entry of `reasoning_details`; `told` where its text came beside it.
    fn detail(
        &mut self,
        detail: Detail<'_>,
        told: bool,
        out: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        let Detail { text, seal, hidden, id, .. } = detail;
        // A seal may come with all of the text once more.
        let again = told || (seal.is_some() && self.open == Some(Open::Thinking) && self.shown);
        if !again {
            self.text(Open::Thinking, text.to_owned(), out)?;
        }
        let Some(seal) = seal else { return Ok(()) };
        match id {
            // As many as there may be calls.
            Some(id) if hidden && seal.vendor == Vendor::Google => {
                if self.seals.len() >= CALLS_MAX {
                    return Err(Broken("has more than 1,024 seals of calls".to_owned()));
                }
                self.seals.insert(id.to_owned(), seal);
            }
            _ if hidden && (seal.vendor != Vendor::OpenAi || self.open != Some(Open::Thinking)) => {
                self.close(out)?;
                out.push(Event::PartStart { index: self.parts, part: Part::Hidden { seal } });
                out.push(Event::PartEnd { index: self.parts });
                self.parts += 1;
            }
            _ => {
                if self.open != Some(Open::Thinking) {
                    self.close(out)?;
                    let part = Part::Thinking { text: String::new(), seal: None };
                    self.begin(Open::Thinking, part, out);
                }
                out.push(Event::Seal { index: self.parts - 1, seal });
                self.close(out)?;
            }
        }
        Ok(())
    }

    fn text(&mut self, kind: Open, text: String, out: &mut Vec<Event>) -> Result<(), Broken> {
        // Some servers break a line between the pieces of a call.
        if text.is_empty() || (self.calls.is_unfinished() && text.trim().is_empty()) {
            return Ok(());
        }
        if self.open != Some(kind) {
            self.close(out)?;
            self.refuses |= kind == Open::Refusal;
            let empty = String::new();
            let part = match kind {
                Open::Thinking => Part::Thinking { text: empty, seal: None },
                Open::Refusal => Part::Refusal { text: empty },
                Open::Text | Open::Call => Part::Text { text: empty, cache: None },
            };
            self.begin(kind, part, out);
        }
        self.shown = true;
        out.push(Event::Text { index: self.parts - 1, text });
        Ok(())
    }

    fn begin(&mut self, kind: Open, part: Part, out: &mut Vec<Event>) {
        out.push(Event::PartStart { index: self.parts, part });
        self.parts += 1;
        self.open = Some(kind);
        self.shown = false;
    }

    fn call(&mut self, mut call: Call<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        let seal = call.seal();
        let id = call.id.take().unwrap_or_default().into_owned();
        let (name, arguments) = call.function.map_or_else(Default::default, |mut function| {
            let arguments = function.arguments();
            (function.name.take().unwrap_or_default().into_owned(), arguments)
        });
        let mut piece = Piece { index: call.index, id, name, arguments, seal };
        let at = match self.calls.place(&piece) {
            Place::Of(at) => at,
            Place::Closed if piece.arguments.trim().is_empty() => return Ok(()),
            Place::Closed => {
                return Err(Broken("goes on with a call that had ended".to_owned()));
            }
            Place::New => {
                let at = self.calls.begin(&mut piece);
                at.ok_or_else(|| Broken("has more than 1,024 calls".to_owned()))?
            }
        };
        let seal = piece.seal.clone();
        if let Some(json) = self.calls.add(at, piece) {
            out.push(Event::Arguments { index: self.parts - 1, json });
        }
        if self.calls.is_full() {
            return Err(Broken("has calls beyond 4 MiB that wait for others".to_owned()));
        }
        if let (Some(seal), Some((first, call))) = (seal, self.calls.first())
            && call.open
            && first == at
        {
            out.push(Event::Seal { index: self.parts - 1, seal });
        }
        self.open_calls(out);
        Ok(())
    }

    /// Begins the first call that is not closed, once its name is known, and those behind it
    /// as soon as those before are whole.
    fn open_calls(&mut self, out: &mut Vec<Event>) {
        loop {
            if self.calls.may_close() {
                self.close_call(out);
            }
            match self.calls.first() {
                Some((_, call)) if !call.open && !call.name.is_empty() => {}
                _ => return,
            }
            self.close_text(out);
            self.begin_call(out);
            if !self.calls.may_close() {
                return;
            }
        }
    }

    fn begin_call(&mut self, out: &mut Vec<Event>) {
        let Some((at, call)) = self.calls.first() else { return };
        call.open = true;
        let id = if call.id.is_empty() { minted(&self.id, at) } else { call.id.clone() };
        let seal = call.seal.take().or_else(|| self.seals.remove(&id));
        let (name, json) = (call.name.clone(), std::mem::take(&mut call.arguments));
        let part = Part::ToolCall { id, name, arguments: String::new(), seal, cache: None };
        self.has_call = true;
        self.begin(Open::Call, part, out);
        if !json.is_empty() {
            out.push(Event::Arguments { index: self.parts - 1, json });
        }
    }

    /// Ends the first call that is not closed, which has begun.
    fn close_call(&mut self, out: &mut Vec<Event>) {
        out.push(Event::PartEnd { index: self.parts - 1 });
        self.calls.first_unclosed += 1;
        self.open = None;
    }

    /// Ends the open part, where it is no call.
    fn close_text(&mut self, out: &mut Vec<Event>) {
        if !matches!(self.open, None | Some(Open::Call)) {
            out.push(Event::PartEnd { index: self.parts - 1 });
            self.open = None;
        }
    }

    /// Ends the open part, and the calls that waited for it.
    fn close(&mut self, out: &mut Vec<Event>) -> Result<(), Broken> {
        self.close_text(out);
        while let Some((_, call)) = self.calls.first() {
            if call.open {
                self.close_call(out);
            } else if !call.name.is_empty() {
                self.begin_call(out);
            } else if call.arguments.trim().is_empty() {
                // Nothing was ever said of it.
                self.calls.first_unclosed += 1;
            } else {
                return Err(Broken("has a call without a name".to_owned()));
            }
        }
        Ok(())
    }

    fn stop(&mut self, reason: &str, out: &mut Vec<Event>) -> Result<(), Broken> {
        self.close(out)?;
        self.stopped = true;
        let stop: Stop = incoming::stop(reason, self.has_call, self.refuses);
        out.push(Event::Stop { stop, sequence: None });
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        self.over = true;
        if let Some(usage) = self.usage {
            out.push(Event::Usage(usage));
        }
        out.push(Event::End);
    }

    fn fail(&mut self, failure: Failure, out: &mut Vec<Event>) {
        self.over = true;
        out.push(Event::Error(failure));
    }

    /// An error that breaks into the stream as a bare object.
    fn bare_error(&mut self, stray: &[u8], out: &mut Vec<Event>) {
        if self.over || self.stopped {
            return;
        }
        let Ok(mut incoming) = serde_json::from_slice::<Incoming<'_>>(stray) else { return };
        let whole = incoming.is_failure().then(|| incoming::whole_failure(stray));
        if let Some(failure) = incoming.failure().or(whole) {
            self.fail(failure, out);
        }
    }
}
