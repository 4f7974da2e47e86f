//! Reading a stream.

use std::collections::{BTreeSet, VecDeque};

use super::incoming::{Answer, Content, Incoming, Item, Kind, Problem};
use super::{failure, seal};
use crate::codec::{Broken, EventReader};
use crate::neutral::{Event, Part};
use crate::sse_reader::{SseEvent, SseReader};

/// Most parts that may wait for an earlier one to end.
const LANES_MAX: usize = 1024;

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
        if !state.over {
            // Some servers break off with their error as bare JSON.
            state.bare_error(self.sse.stray(), out);
        }
        if state.over { Ok(()) } else { Err(Broken("was cut before its last event".to_owned())) }
    }
}

#[derive(Default)]
struct State {
    started: bool,
    over: bool,
    has_call: bool,
    has_refusal: bool,
    /// Parts that have begun at the server and not ended here. The first is the one that is
    /// handed on; the others collect what comes for them until it ends.
    lanes: VecDeque<Lane>,
    /// How many parts have been handed on.
    parts: usize,
    /// The item whose parts have come in pieces, which its end only repeats.
    told: BTreeSet<usize>,
}

/// A part on its way.
struct Lane {
    output: usize,
    content: usize,
    /// The part as it begins, with what came before it could be handed on.
    part: Part,
    /// Its number, once its beginning has been handed on.
    number: Option<usize>,
    /// The seal of thinking, with the item's identifier.
    sealed: Option<(String, Option<String>)>,
    ended: bool,
    /// Whether anything of its text has come.
    any: bool,
    /// Which piece of a summary came last.
    piece: usize,
}

impl State {
    fn event(&mut self, event: &SseEvent, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over || event.data.is_empty() || event.data == b"[DONE]" {
            return Ok(());
        }
        match serde_json::from_slice::<Incoming<'_>>(&event.data) {
            Ok(incoming) => self.incoming(incoming, out),
            Err(error) => {
                // Events that are not known may have members of other kinds.
                match serde_json::from_slice::<Named>(&event.data) {
                    Ok(named) if !is_known(&named.kind) => Ok(()),
                    _ => Err(Broken(format!("has an event that cannot be read: {error}"))),
                }
            }
        }
    }

    fn incoming(&mut self, mut event: Incoming<'_>, out: &mut Vec<Event>) -> Result<(), Broken> {
        let (output, content) = (event.output_index, event.content_index);
        match &*event.kind {
            "response.output_text.delta" => {
                let text = || Part::Text { text: String::new(), cache: None };
                self.text(output, content, &event.delta, text, out)?;
            }
            "response.function_call_arguments.delta" => self.more(output, &event.delta, out),
            "response.reasoning_summary_text.delta" => {
                self.thought(output, event.summary_index, &event.delta, out);
            }
            "response.reasoning_text.delta" => self.thought(output, content, &event.delta, out),
            "response.refusal.delta" => {
                let refusal = || Part::Refusal { text: String::new() };
                self.text(output, content, &event.delta, refusal, out)?;
            }
            "response.output_item.added" => {
                if let Some(item) = event.item {
                    self.added(output, item, out)?;
                }
            }
            "response.content_part.added" => {
                if let Some(part @ (Part::Text { .. } | Part::Refusal { .. })) =
                    event.part.and_then(Content::into_part)
                {
                    self.begin(output, content, part, out)?;
                }
            }
            "response.output_text.done" => self.rest(output, content, event.text.as_deref(), out),
            "response.refusal.done" => self.rest(output, content, event.refusal.as_deref(), out),
            "response.function_call_arguments.done" => {
                self.rest(output, 0, event.arguments.as_deref(), out);
            }
            // Those of reasoning items end with their item, which brings the seal.
            "response.content_part.done" if event.part.and_then(Content::into_part).is_some() => {
                self.end(output, Some(content), out);
            }
            "response.output_item.done" => {
                if let Some(item) = event.item {
                    self.done(output, item, out)?;
                }
            }
            "response.created" | "response.in_progress" | "response.queued" => {
                self.start(&mut event.response.unwrap_or_default(), out);
            }
            "response.completed" | "response.incomplete" => {
                self.terminal(event.response.unwrap_or_default(), out)?;
            }
            "response.failed" | "response.cancelled" => {
                let problem = event.response.and_then(|answer| answer.error);
                self.fail(problem.unwrap_or_default(), out);
            }
            // The SDK's type has the error's members beside the event's; servers nest them.
            _ if event.kind == "error" || event.error.is_some() => {
                let flat = Problem {
                    message: event.message.take(),
                    code: event.code.take(),
                    param: event.param.take(),
                    kind: None,
                };
                self.fail(event.error.unwrap_or(flat), out);
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands on that the answer begins, once.
    fn start(&mut self, answer: &mut Answer, out: &mut Vec<Event>) {
        if !self.started {
            self.started = true;
            let usage = answer.usage();
            let model = answer.model();
            out.push(Event::Start { id: answer.id.take().unwrap_or_default(), model, usage });
        }
    }

    fn added(&mut self, output: usize, mut item: Item, out: &mut Vec<Event>) -> Result<(), Broken> {
        match item.kind() {
            Some(Kind::Call) => self.begin(output, 0, item.call(), out),
            Some(Kind::Reasoning) => {
                let part = Part::Thinking { text: String::new(), seal: None };
                self.begin(output, 0, part, out)
            }
            // Its parts follow by themselves.
            Some(Kind::Message) | None => Ok(()),
        }
    }

    /// Takes the end of an item, and all of it where no piece has come.
    fn done(&mut self, output: usize, mut item: Item, out: &mut Vec<Event>) -> Result<(), Broken> {
        let told = self.told.contains(&output);
        match item.kind() {
            Some(Kind::Call) if told => {
                if let Part::ToolCall { arguments, .. } = item.call() {
                    self.rest(output, 0, Some(&arguments), out);
                }
            }
            Some(Kind::Reasoning) if told => {
                let (text, sealed) = (item.thought(), item.encrypted_content.take());
                self.rest(output, 0, Some(&text), out);
                if let Some(lane) = self.lane(output, 0) {
                    self.lanes[lane].sealed = sealed.map(|sealed| (sealed, item.take_id()));
                }
            }
            _ if told => {}
            _ => self.whole(output, item, out)?,
        }
        self.end(output, None, out);
        Ok(())
    }

    /// Takes an item of which nothing has come before.
    fn whole(&mut self, output: usize, item: Item, out: &mut Vec<Event>) -> Result<(), Broken> {
        for (content, part) in item.into_parts().into_iter().enumerate() {
            self.begin(output, content, part, out)?;
            self.end(output, Some(content), out);
        }
        Ok(())
    }

    fn terminal(&mut self, mut answer: Answer, out: &mut Vec<Event>) -> Result<(), Broken> {
        if answer.status.as_deref() == Some("failed") {
            self.fail(answer.error.take().unwrap_or_default(), out);
            return Ok(());
        }
        self.start(&mut answer, out);
        let items = answer.take_items();
        // Otherwise what it holds has come before.
        if self.told.is_empty() {
            for (output, item) in items.into_iter().enumerate() {
                self.whole(output, item, out)?;
            }
        }
        self.close(out);
        out.extend(answer.usage().map(Event::Usage));
        let stop = answer.stop(self.has_call, self.has_refusal);
        out.extend([Event::Stop { stop, sequence: None }, Event::End]);
        self.over = true;
        Ok(())
    }

    fn fail(&mut self, problem: Problem, out: &mut Vec<Event>) {
        out.push(Event::Error(failure::of_problem(None, problem)));
        self.over = true;
    }

    fn bare_error(&mut self, stray: &[u8], out: &mut Vec<Event>) {
        let read = serde_json::from_slice::<Incoming<'_>>(stray);
        if let Some(problem) = read.ok().and_then(|event| event.error) {
            self.fail(problem, out);
        }
    }

    fn lane(&self, output: usize, content: usize) -> Option<usize> {
        self.lanes
            .iter()
            .position(|lane| (lane.output, lane.content) == (output, content) && !lane.ended)
    }

    /// A part begins.
    fn begin(
        &mut self,
        output: usize,
        content: usize,
        part: Part,
        out: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        if self.lanes.len() == LANES_MAX {
            return Err(Broken("has too many parts at once".to_owned()));
        }
        // Where the server has not said so before.
        self.start(&mut Answer::default(), out);
        self.told.insert(output);
        self.has_call |= matches!(part, Part::ToolCall { .. });
        self.has_refusal |= matches!(part, Part::Refusal { .. });
        let any = match &part {
            Part::Text { text, .. } | Part::Refusal { text } => !text.is_empty(),
            Part::ToolCall { arguments, .. } => !arguments.is_empty(),
            _ => false,
        };
        let lane =
            Lane { output, content, part, number: None, sealed: None, ended: false, any, piece: 0 };
        self.lanes.push_back(lane);
        if self.lanes.len() == 1 {
            self.hand_on(out);
        }
        Ok(())
    }

    /// More text, of a part that begins with it where the server has not said so.
    fn text(
        &mut self,
        output: usize,
        content: usize,
        delta: &str,
        part: impl FnOnce() -> Part,
        out: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        if self.lane(output, content).is_none() {
            self.begin(output, content, part(), out)?;
        }
        if let Some(lane) = self.lane(output, content) {
            self.append(lane, delta, out);
        }
        Ok(())
    }

    /// More of a call's arguments.
    fn more(&mut self, output: usize, delta: &str, out: &mut Vec<Event>) {
        if let Some(lane) = self.lane(output, 0) {
            self.append(lane, delta, out);
        }
    }

    /// More shown thinking, of which a new piece begins a new paragraph.
    fn thought(&mut self, output: usize, piece: usize, delta: &str, out: &mut Vec<Event>) {
        let Some(at) = self.lane(output, 0) else { return };
        let lane = &mut self.lanes[at];
        let apart = lane.any && lane.piece != piece;
        lane.piece = piece;
        if apart {
            self.append(at, "\n\n", out);
        }
        self.append(at, delta, out);
    }

    /// The whole text of a part at its end, for servers that send no pieces of it.
    fn rest(&mut self, output: usize, content: usize, whole: Option<&str>, out: &mut Vec<Event>) {
        let Some(lane) = self.lane(output, content).filter(|at| !self.lanes[*at].any) else {
            return;
        };
        self.append(lane, whole.unwrap_or_default(), out);
    }

    fn append(&mut self, at: usize, delta: &str, out: &mut Vec<Event>) {
        if delta.is_empty() {
            return;
        }
        let lane = &mut self.lanes[at];
        lane.any = true;
        let Some(index) = lane.number else {
            match &mut lane.part {
                Part::Text { text, .. } | Part::Refusal { text } | Part::Thinking { text, .. } => {
                    text.push_str(delta);
                }
                Part::ToolCall { arguments, .. } => arguments.push_str(delta),
                _ => {}
            }
            if at == 0 {
                self.hand_on(out);
            }
            return;
        };
        out.push(match &lane.part {
            Part::ToolCall { .. } => Event::Arguments { index, json: delta.to_owned() },
            _ => Event::Text { index, text: delta.to_owned() },
        });
    }

    /// A part ends, or all of an item.
    fn end(&mut self, output: usize, content: Option<usize>, out: &mut Vec<Event>) {
        for lane in &mut self.lanes {
            lane.ended |=
                lane.output == output && content.is_none_or(|content| content == lane.content);
        }
        self.hand_on(out);
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        for lane in &mut self.lanes {
            lane.ended = true;
        }
        self.hand_on(out);
    }

    /// Hands on what can be: the first part's beginning and end, then the next one's.
    fn hand_on(&mut self, out: &mut Vec<Event>) {
        while let Some(lane) = self.lanes.front_mut() {
            let waits = matches!(&lane.part, Part::Thinking { text, .. } if text.is_empty());
            if lane.number.is_none() && (!waits || lane.ended) {
                let part = match &mut lane.part {
                    // Only at its end it is known whether anything of it is shown.
                    Part::Thinking { text, seal: None } if lane.ended => {
                        let (sealed, item) = lane.sealed.take().unzip();
                        seal::part(std::mem::take(text), sealed, item.flatten())
                    }
                    part => Some(part.clone()),
                };
                if let Some(part) = part {
                    out.push(Event::PartStart { index: self.parts, part });
                    lane.number = Some(self.parts);
                    self.parts += 1;
                }
            }
            if !lane.ended {
                return;
            }
            if let Some(index) = lane.number {
                let seal = lane.sealed.take().map(|(sealed, item)| seal::of(sealed, item));
                out.extend(seal.map(|seal| Event::Seal { index, seal }));
                out.push(Event::PartEnd { index });
            }
            self.lanes.pop_front();
        }
    }
}

/// An event of which only the name is read.
#[derive(serde::Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: String,
}

/// Whether an event is one that is read, so that it must be understood.
fn is_known(kind: &str) -> bool {
    let names = [
        "error",
        "response.created",
        "response.in_progress",
        "response.queued",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
    ];
    let families = [
        "response.output_item.",
        "response.content_part.",
        "response.output_text.d",
        "response.refusal.",
        "response.function_call_arguments.",
        "response.reasoning_",
    ];
    names.contains(&kind) || families.iter().any(|family| kind.starts_with(family))
}
