//! Reading a stream.

use std::collections::VecDeque;

use super::incoming::{self, Call, Delta, Incoming};
use super::response::minted;
use crate::codec::{Broken, EventReader};
use crate::neutral::{Event, Part, Stop, Usage};
use crate::sse_reader::{SseEvent, SseReader};

/// Most calls of one answer.
const CALLS_MAX: usize = 1024;

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
    parts: usize,
    /// Calls that began while an earlier one was open, with what has come for them.
    later: VecDeque<Later>,
    calls: usize,
}

/// The part that is open.
#[derive(Clone, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    Refusal,
    Call(Key),
}

/// What tells a call from the others: its place, and its identifier where places repeat.
#[derive(Clone, Default, PartialEq, Eq)]
struct Key {
    index: Option<u64>,
    id: String,
}

struct Later {
    key: Key,
    name: String,
    arguments: String,
}

impl State {
    fn event(&mut self, event: &SseEvent, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over || event.data.is_empty() {
            return Ok(());
        }
        if event.data == b"[DONE]" {
            if !self.stopped {
                self.stop("stop", out);
            }
            self.end(out);
            return Ok(());
        }
        let mut incoming = serde_json::from_slice::<Incoming<'_>>(&event.data)
            .map_err(|error| Broken(format!("has a chunk that cannot be read: {error}")))?;
        self.usage = incoming.usage().or(self.usage);
        let failure = incoming.failure();
        if !self.started && incoming.choices.as_ref().is_some_and(|choices| !choices.is_empty()) {
            self.started = true;
            self.id = incoming.id.take().unwrap_or_default().into_owned();
            let model = incoming.model.take().unwrap_or_default().into_owned();
            out.push(Event::Start { id: self.id.clone(), model, usage: None });
        }
        // Of several choices the first.
        let choices = incoming.choices.unwrap_or_default().into_iter();
        for choice in choices.filter(|choice| choice.index.unwrap_or(0) == 0) {
            if let Some(delta) = choice.delta.filter(|_| !self.stopped) {
                self.delta(delta, out)?;
            }
            if let Some(reason) =
                choice.finish_reason.filter(|_| !self.stopped && failure.is_none())
            {
                self.stop(&reason, out);
            }
        }
        if let Some(failure) = failure {
            self.over = true;
            out.push(Event::Error(failure));
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        let (mut thought, said) = delta.content.map(|content| content.split()).unwrap_or_default();
        if let Some(text) = delta.reasoning_content.or(delta.reasoning) {
            thought.push_str(&text);
        }
        self.text(Open::Thinking, thought, out);
        self.text(Open::Text, said, out);
        if let Some(text) = delta.refusal {
            self.text(Open::Refusal, text.into_owned(), out);
        }
        for call in delta.tool_calls.unwrap_or_default() {
            self.call(call, out)?;
        }
        if let Some(function) = delta.function_call {
            self.call(Call { index: Some(0), id: None, function: Some(function) }, out)?;
        }
        Ok(())
    }

    fn text(&mut self, kind: Open, text: String, out: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        if self.open.as_ref() != Some(&kind) {
            self.close(out);
            self.refuses |= kind == Open::Refusal;
            let empty = String::new();
            let part = match kind {
                Open::Thinking => Part::Thinking { text: empty, seal: None },
                Open::Refusal => Part::Refusal { text: empty },
                Open::Text | Open::Call(_) => Part::Text { text: empty, cache: None },
            };
            self.begin(kind, part, out);
        }
        out.push(Event::Text { index: self.parts - 1, text });
    }

    fn begin(&mut self, kind: Open, part: Part, out: &mut Vec<Event>) {
        out.push(Event::PartStart { index: self.parts, part });
        self.parts += 1;
        self.open = Some(kind);
    }

    fn call(&mut self, call: Call<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        let id = call.id.as_deref().unwrap_or_default();
        let (name, arguments) = call.function.map_or_else(Default::default, |mut function| {
            let arguments = function.arguments();
            (function.name.take().unwrap_or_default().into_owned(), arguments)
        });
        // A new identifier at a known place is a new call.
        let same = |key: &Key| {
            let place = call.index.is_none() || key.index == call.index;
            place && (id.is_empty() || key.id == id)
        };
        if let Some(later) = self.later.iter_mut().rev().find(|later| same(&later.key)) {
            later.arguments.push_str(&arguments);
            return Ok(());
        }
        if let Some(Open::Call(key)) = &self.open
            && same(key)
        {
            if !arguments.is_empty() {
                out.push(Event::Arguments { index: self.parts - 1, json: arguments });
            }
            return Ok(());
        }
        if self.calls >= CALLS_MAX {
            return Err(Broken("has more than 1,024 calls".to_owned()));
        }
        let id = if id.is_empty() { minted(&self.id, self.calls) } else { id.to_owned() };
        let key = Key { index: call.index, id };
        self.calls += 1;
        self.has_call = true;
        let later = Later { key, name, arguments };
        if matches!(self.open, Some(Open::Call(_))) {
            // The open one may still go on.
            self.later.push_back(later);
        } else {
            self.close(out);
            self.begin_call(later, out);
        }
        Ok(())
    }

    fn begin_call(&mut self, later: Later, out: &mut Vec<Event>) {
        let Later { key, name, arguments } = later;
        let id = key.id.clone();
        let part = Part::ToolCall { id, name, arguments: String::new(), seal: None, cache: None };
        self.begin(Open::Call(key), part, out);
        if !arguments.is_empty() {
            out.push(Event::Arguments { index: self.parts - 1, json: arguments });
        }
    }

    /// Ends the open part, and the calls that waited for it.
    fn close(&mut self, out: &mut Vec<Event>) {
        while self.open.take().is_some() {
            out.push(Event::PartEnd { index: self.parts - 1 });
            if let Some(later) = self.later.pop_front() {
                self.begin_call(later, out);
            }
        }
    }

    fn stop(&mut self, reason: &str, out: &mut Vec<Event>) {
        self.close(out);
        self.stopped = true;
        let stop: Stop = incoming::stop(reason, self.has_call, self.refuses);
        out.push(Event::Stop { stop, sequence: None });
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        self.over = true;
        if let Some(usage) = self.usage {
            out.push(Event::Usage(usage));
        }
        out.push(Event::End);
    }
}
