//! Writing a stream: chunks as events, or as one JSON list that grows.

use serde_json::{Value, json};

use super::failure;
use super::response::{answer, piece};
use crate::codec::EventWriter;
use crate::neutral::{Event, Part, Seal, Stop, Usage};

/// Writes the chunks of a stream.
pub(super) struct Writer {
    as_list: bool,
    /// A chunk has been written.
    any: bool,
    id: String,
    model: String,
    /// The open part. Calls are told whole, others piece by piece.
    open: Option<Part>,
    usage: Usage,
    stop: Stop,
    over: bool,
}

impl Writer {
    pub(super) fn new(as_list: bool) -> Self {
        Self {
            as_list,
            any: false,
            id: String::new(),
            model: String::new(),
            open: None,
            usage: Usage::default(),
            stop: Stop::End,
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
                (self.id, self.model) = (id.clone(), model.clone());
                self.usage = usage.unwrap_or_default();
            }
            Event::PartStart { part, .. } => self.begin(part, out),
            Event::Text { text, .. } => self.text(text, out),
            Event::Arguments { json, .. } => {
                if let Some(Part::ToolCall { arguments, .. }) = &mut self.open {
                    arguments.push_str(json);
                }
            }
            Event::Seal { seal, .. } => self.seal(seal, out),
            Event::PartEnd { .. } => {
                if let Some(part @ Part::ToolCall { .. }) = self.open.take() {
                    self.pieces(piece(&part), out);
                }
            }
            Event::Usage(usage) => self.usage = *usage,
            Event::Stop { stop, .. } => self.stop = *stop,
            Event::End => {
                let parts = vec![json!({"text": ""})];
                let last = answer(&self.id, &self.model, parts, Some(self.stop), Some(&self.usage));
                self.chunk(&last, out);
                if self.as_list {
                    out.extend_from_slice(b"]");
                }
                self.over = true;
            }
            Event::Error(failed) => {
                let body = failure::write(failed).1;
                if self.as_list {
                    self.chunk(&body, out);
                    out.extend_from_slice(b"]");
                } else {
                    // Google's servers break into the stream with the bare object.
                    out.extend_from_slice(format!("{body}\r\n\r\n").as_bytes());
                }
                self.over = true;
            }
        }
    }
}

impl Writer {
    fn begin(&mut self, part: &Part, out: &mut Vec<u8>) {
        if !matches!(part, Part::ToolCall { .. }) {
            let empty = matches!(part, Part::Text { text, .. } if text.is_empty());
            if !empty {
                self.pieces(piece(part), out);
            }
        }
        self.open = Some(part.clone());
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        let thought = matches!(self.open, Some(Part::Thinking { .. }));
        let piece =
            if thought { json!({"text": text, "thought": true}) } else { json!({"text": text}) };
        self.pieces(Some(piece), out);
    }

    fn seal(&mut self, seal: &Seal, out: &mut Vec<u8>) {
        match &mut self.open {
            Some(Part::ToolCall { seal: own, .. }) => *own = Some(seal.clone()),
            _ => {
                let part = Part::Thinking { text: String::new(), seal: Some(seal.clone()) };
                self.pieces(piece(&part), out);
            }
        }
    }

    fn pieces(&mut self, piece: Option<Value>, out: &mut Vec<u8>) {
        if let Some(piece) = piece {
            let chunk = answer(&self.id, &self.model, vec![piece], None, None);
            self.chunk(&chunk, out);
        }
    }

    fn chunk(&mut self, chunk: &Value, out: &mut Vec<u8>) {
        let (before, after) = match (self.as_list, self.any) {
            (false, _) => ("data: ", "\r\n\r\n"),
            (true, false) => ("[", ""),
            (true, true) => (",\r\n", ""),
        };
        self.any = true;
        out.extend_from_slice(format!("{before}{chunk}{after}").as_bytes());
    }
}
