//! OpenAI's older text completions, `POST /v1/completions`, for clients that still speak them.
//!
//! A prompt is told as one question of the user. No request is written in this dialect: an
//! upstream that speaks it gets the caller's bytes. Its answers are read like those of chat,
//! of which they differ in where the text stands.

use http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};

use crate::chat::{reason, tokens};
use crate::codec::{Codec, EventReader, EventWriter, PathFacts, Target};
use crate::members::Members;
use crate::neutral::{
    Event, Failure, Fault, Field, Message, Part, Request, Response, Role, Unsupported, Usage, What,
    Written,
};
use crate::responses::failure;

/// The dialect of OpenAI's text completions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Completions;

/// Tokens of an answer where the caller sets no limit (OpenAI's API reference).
const MAX_TOKENS_DEFAULT: u64 = 16;

impl Codec for Completions {
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault> {
        let mut body = Members::of(body, "")?;
        let mut request = Request::default();
        let model = body.text("model")?.or_else(|| path.model.clone());
        request.model =
            model.filter(|m| !m.is_empty()).ok_or_else(|| body.fault("model", "is missing"))?;
        request.stream = body.flag("stream")?.unwrap_or(path.stream);
        if let Some(mut options) = body.object("stream_options")? {
            request.include_usage = options.flag("include_usage")?.unwrap_or(false);
            options.rest(&mut request.extra);
        }
        let parts = vec![Part::Text { text: prompt(&mut body)?, cache: None }];
        request.messages.push(Message { role: Role::User, parts, name: None });
        request.max_tokens = Some(body.whole("max_tokens")?.unwrap_or(MAX_TOKENS_DEFAULT));
        request.temperature = body.number("temperature")?;
        request.top_p = body.number("top_p")?;
        request.seed = body.integer("seed")?;
        request.presence_penalty = body.number("presence_penalty")?;
        request.frequency_penalty = body.number("frequency_penalty")?;
        request.user = body.text("user")?;
        request.stop = match body.take("stop") {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(texts)) if texts.iter().all(Value::is_string) => {
                texts.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
            }
            Some(_) => return Err(body.fault("stop", "must be a text or a list of texts")),
        };
        let defaults = [
            ("n", json!(1)),
            ("best_of", json!(1)),
            ("echo", json!(false)),
            ("logit_bias", json!({})),
        ];
        for (name, default) in defaults {
            if let Some(value) = body.take(name).filter(|value| *value != default) {
                request.extra.push((name.to_owned(), value));
            }
        }
        body.rest(&mut request.extra);
        Ok(request)
    }

    fn write_request(&self, _: &Request, _: &Target) -> Result<Written, Unsupported> {
        let why = "no upstream is spoken to in text completions".to_owned();
        Err(Unsupported { what: What::Field(Field::System), why })
    }

    fn path(&self, _model: &str, _stream: bool) -> String {
        "/v1/completions".to_owned()
    }

    fn field(&self, field: Field) -> &'static str {
        match field {
            Field::MaxTokens => "max_tokens",
            Field::User => "user",
            other => crate::Chat.field(other),
        }
    }

    fn part_path(&self, _message: usize, _part: usize) -> String {
        "prompt".to_owned()
    }

    fn read_response(&self, body: Value) -> Result<Response, Fault> {
        crate::Chat.read_response(body)
    }

    fn write_response(&self, response: &Response, request: &Request) -> Value {
        let text: String = response.parts.iter().filter_map(said).collect();
        json!({
            "id": response.id, "object": "text_completion",
            "created": request.answered_s(response), "model": response.model,
            "choices": [{
                "text": text, "index": 0, "logprobs": null, "finish_reason": reason(response.stop),
            }],
            "usage": tokens(&response.usage),
        })
    }

    fn event_reader(&self) -> Box<dyn EventReader> {
        crate::Chat.event_reader()
    }

    fn event_writer(&self, request: &Request) -> Box<dyn EventWriter> {
        Box::new(Writer {
            include_usage: request.include_usage,
            asked_s: request.asked_s,
            ..Writer::default()
        })
    }

    fn read_failure(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
        failure::read(status, headers, body)
    }

    fn write_failure(&self, failure: &Failure) -> (u16, Value) {
        failure::write(failure)
    }
}

/// The prompt: a text, or a list of one.
fn prompt(body: &mut Members) -> Result<String, Fault> {
    let single = "must be one text: lists of tokens and of several prompts cannot be translated";
    match body.take("prompt") {
        None => Err(body.fault("prompt", "is missing")),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(mut texts)) if texts.len() == 1 => match texts.pop() {
            Some(Value::String(text)) => Ok(text),
            _ => Err(body.fault("prompt", single)),
        },
        Some(_) => Err(body.fault("prompt", single)),
    }
}

/// What of a part is text.
fn said(part: &Part) -> Option<&str> {
    match part {
        Part::Text { text, .. } | Part::Refusal { text } => Some(text),
        _ => None,
    }
}

/// Writes the chunks of a stream.
#[derive(Default)]
struct Writer {
    include_usage: bool,
    /// When the call came in, in seconds since 1970.
    asked_s: u64,
    head: Vec<u8>,
    /// Whether the open part is text.
    shown: bool,
    usage: Usage,
    over: bool,
}

impl EventWriter for Writer {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Start { id, model, .. } => {
                let head = json!({
                    "id": id, "object": "text_completion", "created": self.asked_s, "model": model,
                });
                self.head = head.to_string().into_bytes();
                self.head.pop();
                self.head.extend_from_slice(b",\"choices\":");
            }
            Event::PartStart { part, .. } => {
                self.shown = said(part).is_some();
                self.text(said(part).unwrap_or_default(), out);
            }
            Event::Text { text, .. } if self.shown => self.text(text, out),
            Event::Usage(usage) => self.usage = *usage,
            Event::Stop { stop, .. } => self.chunk("", Some(reason(*stop)), out),
            Event::End => {
                if self.include_usage {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(&self.head);
                    out.extend_from_slice(b"[],\"usage\":");
                    put(&tokens(&self.usage), out);
                    out.extend_from_slice(b"}\n\n");
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
                self.over = true;
            }
            Event::Error(failed) => {
                out.extend_from_slice(b"data: ");
                put(&failure::write(failed).1, out);
                out.extend_from_slice(b"\n\n");
                self.over = true;
            }
            _ => {}
        }
    }
}

impl Writer {
    fn text(&self, text: &str, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.chunk(text, None, out);
        }
    }

    fn chunk(&self, text: &str, reason: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        let choice = json!([{"text": text, "index": 0, "logprobs": null, "finish_reason": reason}]);
        put(&choice, out);
        out.extend_from_slice(b"}\n\n");
    }
}

fn put(value: &impl Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "{written:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neutral::Stop;

    fn read(body: Value) -> Result<Request, Fault> {
        Completions.read_request(body, &PathFacts::default())
    }

    #[test]
    fn a_prompt_is_one_question() {
        let request = read(json!({
            "model": "m", "prompt": ["Say it"], "max_tokens": 5, "stop": "x", "n": 1, "suffix": "s",
        }))
        .unwrap();
        let parts = vec![Part::Text { text: "Say it".to_owned(), cache: None }];
        assert_eq!(request.messages, [Message { role: Role::User, parts, name: None }]);
        assert_eq!((request.max_tokens, request.stop.len()), (Some(5), 1));
        assert_eq!(request.extra, [("suffix".to_owned(), json!("s"))]);
        assert_eq!(read(json!({"model": "m", "prompt": "x"})).unwrap().max_tokens, Some(16));
        for (body, field) in [
            (json!({"prompt": "x"}), "model"),
            (json!({"model": "", "prompt": "x"}), "model"),
            (json!({"model": "m"}), "prompt"),
            (json!({"model": "m", "prompt": [1, 2]}), "prompt"),
            (json!({"model": "m", "prompt": "x", "stop": 1}), "stop"),
        ] {
            assert_eq!(read(body).unwrap_err().field, field);
        }
    }

    #[test]
    fn answers_of_servers_are_read() {
        let choice = |text: &str, reason: Option<&str>| json!({"text": text, "index": 0, "logprobs": null, "finish_reason": reason});
        let whole = json!({"id": "c", "created": 7, "choices": [choice("yes", Some("length"))]});
        let read = Completions.read_response(whole).unwrap();
        assert_eq!(read.parts, [Part::Text { text: "yes".to_owned(), cache: None }]);
        assert_eq!((read.stop, read.created), (Stop::Length, 7));
        let (mut reader, mut events) = (Completions.event_reader(), Vec::new());
        for choice in [choice("y", None), choice("es", None), choice("", Some("stop"))] {
            let event = format!("data: {}\n\n", json!({"id": "c", "choices": [choice]}));
            reader.push(event.as_bytes(), &mut events).unwrap();
        }
        reader.push(b"data: [DONE]\n\n", &mut events).unwrap();
        let text = |event: &Event| match event {
            Event::Text { text, .. } => Some(text.clone()),
            _ => None,
        };
        assert_eq!(events.iter().filter_map(text).collect::<String>(), "yes");
        assert_eq!(events.last(), Some(&Event::End));
    }

    #[test]
    fn answers_are_texts() {
        let request = read(json!({"model": "m", "prompt": "x", "stream": true})).unwrap();
        let text = |text: &str| Part::Text { text: text.to_owned(), cache: None };
        let response = Response {
            id: "c".to_owned(),
            parts: vec![Part::Thinking { text: "hm".to_owned(), seal: None }, text("yes")],
            stop: Stop::Length,
            ..Response::default()
        };
        let written = Completions.write_response(&response, &request);
        assert_eq!(written["choices"][0]["text"], "yes");
        assert_eq!(written["choices"][0]["finish_reason"], "length");
        let mut writer = Completions.event_writer(&request);
        let mut out = Vec::new();
        for event in [
            Event::Start { id: "c".to_owned(), model: "m".to_owned(), usage: None },
            Event::PartStart { index: 0, part: text("y") },
            Event::Text { index: 0, text: "es".to_owned() },
            Event::PartEnd { index: 0 },
            Event::Stop { stop: Stop::End, sequence: None },
            Event::End,
        ] {
            writer.write(&event, &mut out);
        }
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("\"object\":\"text_completion\"").count(), 3, "{out}");
        assert!(out.contains("\"text\":\"es\"") && out.ends_with("data: [DONE]\n\n"));
    }
}
