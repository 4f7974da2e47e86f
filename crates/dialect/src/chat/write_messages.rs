//! Writing the messages of a request.

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::details;
use crate::codec::{Quirks, Target};
use crate::names;
use crate::neutral::{CacheMark, CacheTtl, Message, Part, Role, Source, Unsupported};
use crate::responses::media;

/// The messages written so far.
pub(super) struct Messages<'a> {
    quirks: &'a Quirks,
    /// Whether cache marks are written.
    marks: bool,
    /// Whether Google's seals are written on calls: its own server of this dialect wants them
    /// back, and others refuse what they do not know.
    google: bool,
    written: Vec<Value>,
    warnings: Vec<String>,
}

impl<'a> Messages<'a> {
    pub(super) fn new(target: &'a Target, marks: bool) -> Self {
        let quirks = &target.quirks;
        let google = target.model.contains("gemini") && !quirks.reasoning_details;
        Self { quirks, marks, google, written: Vec::new(), warnings: Vec::new() }
    }

    /// The messages, and what was only approximated.
    pub(super) fn end(mut self) -> (Vec<Value>, Vec<String>) {
        let last = self.written.last_mut().filter(|_| self.quirks.short_call_ids);
        if let Some(last) = last.filter(|m| m["role"] == "assistant" && m["tool_calls"].is_null()) {
            // Mistral goes on with a turn of the model's only where that says so.
            last["prefix"] = json!(true);
        }
        (self.written, self.warnings)
    }

    /// Notes an approximation, once.
    fn warn(&mut self, text: &str) {
        if !self.warnings.iter().any(|known| known == text) {
            self.warnings.push(text.to_owned());
        }
    }

    /// Instructions before the first turn.
    pub(super) fn system(&mut self, parts: &[Part]) {
        if !parts.is_empty() {
            let content = self.texts(parts);
            self.written.push(json!({"role": "system", "content": content}));
        }
    }

    /// A turn: results of tools first, then what is said.
    pub(super) fn message(&mut self, at: usize, message: &Message) -> Result<(), Unsupported> {
        match message.role {
            Role::System => {
                let after = self.last_role();
                if self.quirks.short_call_ids && matches!(after, "assistant" | "tool") {
                    self.warn(
                        "Mistral takes no instructions there, so they were sent as the user's",
                    );
                    self.bridge();
                    let content = self.texts(&message.parts);
                    self.written.push(json!({"role": "user", "content": content}));
                    return Ok(());
                }
                let content = self.texts(&message.parts);
                self.written.push(json!({"role": "system", "content": content}));
                Ok(())
            }
            Role::Assistant => self.assistant(at, message),
            Role::User => self.user(at, message),
        }
    }

    fn last_role(&self) -> &str {
        self.written.last().and_then(|message| message["role"].as_str()).unwrap_or_default()
    }

    /// Puts a turn of the model's between a result and what the user says: Mistral refuses
    /// the one behind the other (error 3230, `invalid_request_message_order`).
    fn bridge(&mut self) {
        if self.quirks.short_call_ids && self.last_role() == "tool" {
            self.warn("Mistral wants a turn of the model's behind results, so a short one was put");
            self.written.push(json!({"role": "assistant", "content": "I have the results."}));
        }
    }

    fn user(&mut self, at: usize, message: &Message) -> Result<(), Unsupported> {
        let mut content = Vec::new();
        for (place, part) in message.parts.iter().enumerate() {
            let refuse = |why: &str| Unsupported::part(at, place, why);
            match part {
                Part::ToolResult { id, content: result, error, .. } => {
                    let shown = self.result(id, result, *error).map_err(refuse)?;
                    content.extend(shown);
                }
                Part::Thinking { .. } | Part::Hidden { .. } | Part::ToolCall { .. } => {
                    return Err(refuse("it is the model's, and stands in a turn of the user"));
                }
                part => content.push(self.part(part).map_err(refuse)?),
            }
        }
        if content.is_empty() {
            return Ok(());
        }
        self.bridge();
        let mut written = Map::new();
        written.insert("role".to_owned(), json!("user"));
        written.insert("content".to_owned(), plain(content));
        if let Some(name) = &message.name {
            written.insert("name".to_owned(), json!(name));
        }
        self.written.push(Value::Object(written));
        Ok(())
    }

    /// Writes a result, and returns what of it only a user may show.
    fn result(
        &mut self,
        id: &str,
        content: &[Part],
        error: bool,
    ) -> Result<Vec<Value>, &'static str> {
        let (mut texts, mut shown) = (Vec::new(), Vec::new());
        for part in content {
            match part {
                Part::Text { text, .. } => texts.push(text.as_str()),
                Part::Image { .. } | Part::File { .. } => shown.push(self.part(part)?),
                _ => return Err("a result holds text, images and files only"),
            }
        }
        if !shown.is_empty() {
            self.warn("images and files of a tool's result were sent as the user's");
        }
        let text = match *texts {
            [text] => json!(text),
            [] => json!(""),
            _ => texts.iter().map(|text| json!({"type": "text", "text": text})).collect(),
        };
        let text = if error { self.failed(&texts.concat()) } else { text };
        let id = self.call_id(id);
        self.written.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
        Ok(shown)
    }

    /// A failed result says so in its text, since there is no flag for it.
    fn failed(&mut self, text: &str) -> Value {
        if text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error")) {
            return json!(text);
        }
        self.warn("there is no error flag of tool results, so their texts say it");
        json!(if text.is_empty() { "ERROR".to_owned() } else { format!("ERROR: {text}") })
    }

    fn assistant(&mut self, at: usize, message: &Message) -> Result<(), Unsupported> {
        let (mut content, mut calls) = (Vec::new(), Vec::new());
        let (mut thinking, mut refusal) = (String::new(), None);
        let mut sealed = Vec::new();
        for (place, part) in message.parts.iter().enumerate() {
            if self.quirks.reasoning_details {
                sealed.extend(details::write_back(part, sealed.len()));
            }
            match part {
                Part::Text { text, .. } if text.is_empty() => {}
                Part::Text { text, .. } => content.push(json!({"type": "text", "text": text})),
                Part::Refusal { text } => refusal = Some(text),
                Part::ToolCall { id, name, arguments, seal, .. } => {
                    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
                    let mut call = json!({
                        "id": self.call_id(id), "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    });
                    if let Some(extra) =
                        details::extra_content(seal.as_ref().filter(|_| self.google))
                    {
                        call["extra_content"] = extra;
                    }
                    calls.push(call);
                }
                Part::Thinking { text, .. } => thinking.push_str(text),
                // Only its own vendor can open it.
                Part::Hidden { .. } => {}
                Part::Image { .. }
                | Part::File { .. }
                | Part::Audio { .. }
                | Part::ToolResult { .. } => {
                    let why = "a turn of the model holds text and calls only";
                    return Err(Unsupported::part(at, place, why));
                }
            }
        }
        let mut written = Map::new();
        written.insert("role".to_owned(), json!("assistant"));
        if content.is_empty() && calls.is_empty() && refusal.is_none() {
            return Ok(());
        }
        let content = if content.is_empty() { Value::Null } else { plain(content) };
        written.insert("content".to_owned(), content);
        if self.quirks.reasoning_content && (!thinking.is_empty() || !calls.is_empty()) {
            written.insert("reasoning_content".to_owned(), json!(thinking));
        }
        if !sealed.is_empty() {
            written.insert("reasoning_details".to_owned(), Value::Array(sealed));
        }
        if let Some(text) = refusal {
            written.insert("refusal".to_owned(), json!(text));
        }
        if !calls.is_empty() {
            written.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        if let Some(name) = &message.name {
            written.insert("name".to_owned(), json!(name));
        }
        self.written.push(Value::Object(written));
        Ok(())
    }

    /// A part of the user's.
    fn part(&mut self, part: &Part) -> Result<Value, &'static str> {
        let written = match part {
            Part::Text { text, cache } => {
                return Ok(self.marked(json!({"type": "text", "text": text}), *cache));
            }
            Part::Refusal { text } => return Ok(json!({"type": "text", "text": text})),
            Part::Image { source, detail, cache } => {
                let url = match source {
                    Source::Base64 { media_type, data } => media::address(media_type, data),
                    Source::Url { url, .. } => url.clone(),
                    Source::Uploaded { .. } => {
                        return Err("chat completions take no uploaded images; send its bytes");
                    }
                    Source::Text { .. } => return Err("a text is no image"),
                };
                let mut image = Map::from_iter([("url".to_owned(), json!(url))]);
                if let Some(detail) = detail {
                    image.insert("detail".to_owned(), json!(detail));
                }
                self.marked(json!({"type": "image_url", "image_url": image}), *cache)
            }
            Part::File { source, name, cache } => {
                let file = match source {
                    Source::Base64 { media_type, data } => {
                        let name = name.clone().unwrap_or_else(|| media::file_name(media_type));
                        json!({"filename": name, "file_data": media::address(media_type, data)})
                    }
                    Source::Uploaded { id, .. } if media::is_own_file(id) => json!({"file_id": id}),
                    Source::Uploaded { .. } => {
                        return Err("the file was uploaded to another provider; send its bytes");
                    }
                    Source::Url { .. } => {
                        return Err("chat completions take no addresses of files; send its bytes");
                    }
                    Source::Text { text } => {
                        self.warn("documents in plain text were sent as text");
                        return Ok(json!({"type": "text", "text": text}));
                    }
                };
                self.marked(json!({"type": "file", "file": file}), *cache)
            }
            Part::Audio { source } => match source {
                Source::Base64 { media_type, data } => {
                    let format = media_type.rsplit('/').next().unwrap_or("wav");
                    json!({"type": "input_audio", "input_audio": {"data": data, "format": format}})
                }
                _ => return Err("chat completions take sound as bytes only"),
            },
            _ => return Err("it is no part that a user sends"),
        };
        Ok(written)
    }

    fn texts(&self, parts: &[Part]) -> Value {
        let text = |part: &Part| match part {
            Part::Text { text, cache } => {
                Some(self.marked(json!({"type": "text", "text": text}), *cache))
            }
            _ => None,
        };
        plain(parts.iter().filter_map(text).collect())
    }

    /// Adds a cache mark. Where none can be written, its loss is harmless: OpenAI caches long
    /// prompts without.
    fn marked(&self, mut part: Value, cache: Option<CacheMark>) -> Value {
        if let Some(mark) = cache.filter(|_| self.marks) {
            part["prompt_cache_breakpoint"] = match mark.ttl {
                CacheTtl::Usual => json!({"mode": "explicit"}),
                CacheTtl::Hour => json!({"mode": "explicit", "ttl": "12h"}),
            };
        }
        part
    }

    /// A call's identifier as the server takes it. Mistral wants exactly 9 letters or digits.
    fn call_id(&self, id: &str) -> String {
        let fits = id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !self.quirks.short_call_ids || fits {
            return id.to_owned();
        }
        names::digits(xxh3_64(id.as_bytes()), 9)
    }
}

/// A single text without anything else as just that.
fn plain(mut content: Vec<Value>) -> Value {
    let single = content.len() == 1
        && content[0].as_object().is_some_and(|part| part.len() == 2 && part.contains_key("text"));
    if single { content[0]["text"].take() } else { Value::Array(content) }
}
