//! Writing a stream.

use serde::Serialize;

use super::outgoing::{self, Answer, Content, Ids, Item, Problem, Summary, Tokens};
use super::{failure, seal};
use crate::codec::EventWriter;
use crate::neutral::{Event, Failure, Part, Request, Stop, Usage};

/// Writes the events of a stream.
pub(super) struct Writer {
    /// What each answer object repeats of the request, as the JSON behind its own members.
    echo: Vec<u8>,
    /// When the call came in, in seconds since 1970.
    asked_s: u64,
    ids: Ids,
    model: String,
    started: bool,
    over: bool,
    /// The number of the next event.
    sequence: u64,
    /// Items that are complete.
    items: Vec<Item>,
    /// The item that parts go to. A message stays open behind its part, since a further text
    /// joins it.
    open: Option<Item>,
    has_refusal: bool,
    usage: Option<Usage>,
    stop: Stop,
}

/// Where a delta belongs, and what it is.
#[derive(Serialize)]
struct Delta<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
}

/// The whole of what came in deltas.
#[derive(Serialize)]
struct Whole<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
}

/// A piece of a message begins or ends.
#[derive(Serialize)]
struct Piece<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    part: &'a Content,
}

/// A piece of shown thinking begins or ends.
#[derive(Serialize)]
struct SummaryPiece<'a> {
    item_id: &'a str,
    output_index: usize,
    summary_index: usize,
    part: &'a Summary,
}

/// An item begins or ends.
#[derive(Serialize)]
struct Entry<'a> {
    output_index: usize,
    item: &'a Item,
}

impl EventWriter for Writer {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Start { id, model, usage } => {
                self.usage = *usage;
                self.start(id, model, out);
            }
            Event::PartStart { part, .. } => self.part(part, out),
            Event::Text { text, .. } => self.more(text, out),
            Event::Arguments { json, .. } => self.more(json, out),
            // One on a call has no place here; the gateway keeps it by the call's identifier.
            Event::Seal { seal, .. } => {
                if let Some(Item::Reasoning { id, encrypted_content, .. }) = &mut self.open {
                    *encrypted_content = Some(seal::text(seal, false, id));
                }
            }
            Event::PartEnd { .. } => self.part_end(out),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Stop { stop, .. } => self.stop = *stop,
            Event::End => self.end(out),
            Event::Error(failure) => self.fail(failure, out),
        }
    }
}

impl Writer {
    pub(super) fn new(request: &Request) -> Self {
        let mut echo = serde_json::to_vec(&outgoing::echo(request)).unwrap_or_default();
        if let Some(first) = echo.first_mut() {
            *first = b',';
        }
        Self {
            echo,
            asked_s: request.asked_s,
            ids: Ids::default(),
            model: String::new(),
            started: false,
            over: false,
            sequence: 0,
            items: Vec::new(),
            open: None,
            has_refusal: false,
            usage: None,
            stop: Stop::End,
        }
    }

    fn start(&mut self, id: &str, model: &str, out: &mut Vec<u8>) {
        if self.started {
            return;
        }
        self.started = true;
        self.ids = Ids::of(id);
        model.clone_into(&mut self.model);
        self.answer("response.created", "in_progress", None, out);
        self.answer("response.in_progress", "in_progress", None, out);
    }

    /// A part begins: its item, unless a message is open that it joins.
    fn part(&mut self, part: &Part, out: &mut Vec<u8>) {
        self.start("", "", out);
        let joins = matches!(self.open, Some(Item::Message { .. }));
        let piece = Content::of(part);
        if !joins || piece.is_none() {
            self.close(false, out);
            self.open = Item::begin(part, &self.ids, self.items.len());
            if let Some(item) = &self.open {
                let entry = Entry { output_index: self.items.len(), item };
                emit(&mut self.sequence, "response.output_item.added", &entry, out);
            }
        }
        match (part, &mut self.open) {
            (Part::Text { text, .. }, Some(Item::Message { content, .. })) => {
                content.push(Content::text(String::new()));
                self.piece(out);
                self.more(text, out);
            }
            (Part::Refusal { text }, Some(Item::Message { content, .. })) => {
                content.push(Content::Refusal { refusal: String::new() });
                self.has_refusal = true;
                self.piece(out);
                self.more(text, out);
            }
            (Part::ToolCall { arguments, .. }, _) => self.more(arguments, out),
            (
                Part::Thinking { text, seal },
                Some(Item::Reasoning { id, encrypted_content, .. }),
            ) => {
                *encrypted_content = seal.as_ref().map(|seal| seal::text(seal, false, id));
                self.more(text, out);
            }
            (Part::Hidden { seal }, Some(Item::Reasoning { id, encrypted_content, .. })) => {
                *encrypted_content = Some(seal::text(seal, true, id));
            }
            _ => {}
        }
    }

    /// Tells that the open message's last piece begins.
    fn piece(&mut self, out: &mut Vec<u8>) {
        let Some(Item::Message { id, content, .. }) = &self.open else { return };
        let Some(part) = content.last() else { return };
        let piece = Piece {
            item_id: id,
            output_index: self.items.len(),
            content_index: content.len() - 1,
            part,
        };
        emit(&mut self.sequence, "response.content_part.added", &piece, out);
    }

    /// More of the open part's text or arguments.
    fn more(&mut self, delta: &str, out: &mut Vec<u8>) {
        if delta.is_empty() {
            return;
        }
        let output_index = self.items.len();
        let at = |item_id| Delta {
            item_id,
            output_index,
            content_index: None,
            summary_index: None,
            delta,
            logprobs: None,
        };
        let sequence = &mut self.sequence;
        match &mut self.open {
            Some(Item::Message { id, content, .. }) => {
                let content_index = content.len().checked_sub(1);
                match content.last_mut() {
                    Some(Content::OutputText { text, .. }) => {
                        text.push_str(delta);
                        let delta = Delta { content_index, logprobs: Some([]), ..at(id) };
                        emit(sequence, "response.output_text.delta", &delta, out);
                    }
                    Some(Content::Refusal { refusal }) => {
                        refusal.push_str(delta);
                        let delta = Delta { content_index, ..at(id) };
                        emit(sequence, "response.refusal.delta", &delta, out);
                    }
                    None => {}
                }
            }
            Some(Item::FunctionCall { id, arguments, .. }) => {
                arguments.push_str(delta);
                emit(sequence, "response.function_call_arguments.delta", &at(id), out);
            }
            Some(Item::Reasoning { id, summary, .. }) => {
                if summary.is_empty() {
                    summary.push(Summary::SummaryText { text: String::new() });
                    let piece = SummaryPiece {
                        item_id: id,
                        output_index,
                        summary_index: 0,
                        part: &summary[0],
                    };
                    emit(sequence, "response.reasoning_summary_part.added", &piece, out);
                }
                let Some(Summary::SummaryText { text }) = summary.last_mut() else { return };
                text.push_str(delta);
                let delta = Delta { summary_index: Some(0), ..at(id) };
                emit(sequence, "response.reasoning_summary_text.delta", &delta, out);
            }
            None => {}
        }
    }

    /// A part is complete; its item is not before the next one begins.
    fn part_end(&mut self, out: &mut Vec<u8>) {
        let output_index = self.items.len();
        let sequence = &mut self.sequence;
        let at = |item_id| Whole {
            item_id,
            output_index,
            content_index: None,
            summary_index: None,
            name: None,
            text: None,
            refusal: None,
            arguments: None,
            logprobs: None,
        };
        match &self.open {
            Some(Item::Message { id, content, .. }) => {
                let Some(part) = content.last() else { return };
                let content_index = content.len() - 1;
                let (name, whole) = match part {
                    Content::OutputText { text, .. } => (
                        "response.output_text.done",
                        Whole { text: Some(text), logprobs: Some([]), ..at(id) },
                    ),
                    Content::Refusal { refusal } => {
                        ("response.refusal.done", Whole { refusal: Some(refusal), ..at(id) })
                    }
                };
                emit(sequence, name, &Whole { content_index: Some(content_index), ..whole }, out);
                let piece = Piece { item_id: id, output_index, content_index, part };
                emit(sequence, "response.content_part.done", &piece, out);
            }
            Some(Item::FunctionCall { id, name, arguments, .. }) => {
                let whole = Whole { name: Some(name), arguments: Some(arguments), ..at(id) };
                emit(sequence, "response.function_call_arguments.done", &whole, out);
            }
            Some(Item::Reasoning { id, summary, .. }) => {
                let Some(part @ Summary::SummaryText { text }) = summary.first() else { return };
                let whole = Whole { summary_index: Some(0), text: Some(text), ..at(id) };
                emit(sequence, "response.reasoning_summary_text.done", &whole, out);
                let piece = SummaryPiece { item_id: id, output_index, summary_index: 0, part };
                emit(sequence, "response.reasoning_summary_part.done", &piece, out);
            }
            None => {}
        }
    }

    /// Tells that the open item is complete.
    fn close(&mut self, cut: bool, out: &mut Vec<u8>) {
        let Some(mut item) = self.open.take() else { return };
        item.end(cut);
        let entry = Entry { output_index: self.items.len(), item: &item };
        emit(&mut self.sequence, "response.output_item.done", &entry, out);
        self.items.push(item);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.start("", "", out);
        if self.stop == Stop::Refusal && !self.has_refusal {
            self.part(&Part::Refusal { text: outgoing::DECLINED.to_owned() }, out);
            self.part_end(out);
        }
        let (status, _) = outgoing::status(self.stop);
        self.close(status == "incomplete", out);
        // An answer without usage makes clients that count fail.
        self.usage.get_or_insert_default();
        let name =
            if status == "incomplete" { "response.incomplete" } else { "response.completed" };
        self.answer(name, status, None, out);
        self.over = true;
    }

    /// Ends with an error: what is not complete by then is no part of the answer.
    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        // Clients take no event before `response.created`.
        self.start("", "", out);
        self.open = None;
        let problem = Problem { code: failure::stream_code(failure), message: &failure.message };
        self.answer("response.failed", "failed", Some(problem), out);
        self.over = true;
    }

    /// Writes an event with the answer as it is.
    fn answer(
        &mut self,
        name: &str,
        status: &'static str,
        error: Option<Problem<'_>>,
        out: &mut Vec<u8>,
    ) {
        let output: Vec<_> = self.items.iter().chain(&self.open).collect();
        let ended = status == "completed" || status == "incomplete";
        let answer = Answer {
            id: &self.ids.answer,
            object: "response",
            created_at: self.asked_s,
            status,
            error,
            incomplete_details: if ended { outgoing::status(self.stop).1 } else { None },
            model: &self.model,
            output: &output,
            usage: self.usage.filter(|_| status != "in_progress").as_ref().map(Tokens::of),
        };
        head(&mut self.sequence, name, out);
        out.extend_from_slice(b",\"response\":");
        json(&answer, out);
        // The request's echo, which begins with a comma, goes before the closing brace.
        out.pop();
        out.extend_from_slice(&self.echo);
        out.extend_from_slice(b"}\n\n");
    }
}

/// Writes an event whose members are those of `body` beside its own.
fn emit(sequence: &mut u64, name: &str, body: &impl Serialize, out: &mut Vec<u8>) {
    head(sequence, name, out);
    let at = out.len();
    json(body, out);
    // The object's members go on with the event's.
    if let Some(brace) = out.get_mut(at) {
        *brace = b',';
    }
    out.extend_from_slice(b"\n\n");
}

/// Writes an event's lines up to its own members, and counts it.
fn head(sequence: &mut u64, name: &str, out: &mut Vec<u8>) {
    for piece in ["event: ", name, "\ndata: {\"type\":\"", name, "\",\"sequence_number\":"] {
        out.extend_from_slice(piece.as_bytes());
    }
    json(sequence, out);
    *sequence += 1;
}

/// Appends JSON. It fails for maps with keys that are no texts only, of which there are none.
fn json(value: &impl Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "{written:?}");
}
