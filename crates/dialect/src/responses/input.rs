//! Reading the items of a request's `input`.

use std::collections::HashMap;

use serde_json::Value;

use super::{media, seal};
use crate::members::Members;
use crate::neutral::{CacheMark, CacheTtl, Fault, Message, Part, Request, Role, Source};

/// Members by which a request takes up what a server has stored, where calls may be whose
/// results the input holds.
const CONTEXT: [&str; 3] = ["previous_response_id", "conversation", "prompt"];

/// Reads `input` into the request's messages, one an item, so that an item's place can be
/// told from its message's. What comes from the system before all else joins the
/// instructions.
pub(super) fn read(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let stored = CONTEXT.iter().any(|name| body.has(name));
    let input = match body.take("input") {
        Some(Value::String(text)) => {
            let parts = vec![Part::Text { text, cache: None }];
            request.messages.push(Message { role: Role::User, parts, name: None });
            return Ok(());
        }
        Some(Value::Array(items)) => items,
        Some(_) => return Err(body.fault("input", "must be a text or a list")),
        None if stored => return Ok(()),
        None => return Err(body.fault("input", "is missing")),
    };
    let mut reader = Input { request, stored, names: HashMap::new() };
    for (at, item) in input.into_iter().enumerate() {
        reader.item(item, format!("input[{at}]"))?;
    }
    Ok(())
}

struct Input<'a> {
    request: &'a mut Request,
    stored: bool,
    /// The functions of the calls that came, by their identifiers.
    names: HashMap<String, String>,
}

impl Input<'_> {
    fn item(&mut self, value: Value, path: String) -> Result<(), Fault> {
        let has = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
        let kind = match value.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            Some(kind) if !kind.is_null() => {
                return Err(Fault::new(format!("{path}.type"), "must be a text"));
            }
            // Messages and references may leave it out.
            _ if has("role") => "message".to_owned(),
            _ if has("id") => "item_reference".to_owned(),
            _ if value.is_object() => return Err(Fault::new(format!("{path}.type"), "is missing")),
            _ => return Err(Fault::new(path, "must be an object")),
        };
        match &*kind {
            "message" => self.message(Members::of(value, path)?),
            "function_call" => self.call(Members::of(value, path)?),
            "function_call_output" => self.result(Members::of(value, path)?),
            "reasoning" => self.reasoning(Members::of(value, path)?),
            // References, and what OpenAI's own tools did, mean something only to the server
            // that keeps them.
            _ => {
                self.request.extra.push((path, value));
                Ok(())
            }
        }
    }

    fn message(&mut self, mut item: Members) -> Result<(), Fault> {
        let role = match &*item.required_text("role")? {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" | "developer" => Role::System,
            _ => return Err(item.fault("role", "must be user, assistant, system or developer")),
        };
        let parts = content(&mut item, "content", &mut self.request.extra)?;
        if role == Role::System {
            item.check_instructions("content", &parts)?;
        }
        // A name and a state by which a server keeps books, and the `phase` that OpenAI's
        // models give their own texts, tell other models nothing.
        for name in ["type", "id", "status", "phase"] {
            item.text(name)?;
        }
        item.rest(&mut self.request.extra);
        let leads = self.request.messages.is_empty();
        if role == Role::System && leads {
            self.request.system.extend(parts);
        } else if !parts.is_empty() {
            self.request.messages.push(Message { role, parts, name: None });
        }
        Ok(())
    }

    fn call(&mut self, mut item: Members) -> Result<(), Fault> {
        let id = item.required_text("call_id")?;
        let name = item.required_text("name")?;
        let arguments = item.required_text("arguments")?;
        self.bookkeeping(item)?;
        self.names.insert(id.clone(), name.clone());
        let call = Part::ToolCall { id, name, arguments, seal: None, cache: None };
        self.push(Role::Assistant, call);
        Ok(())
    }

    fn result(&mut self, mut item: Members) -> Result<(), Fault> {
        let id = item.required_text("call_id")?;
        let mut content = content(&mut item, "output", &mut self.request.extra)?;
        content.retain(|part| !matches!(part, Part::Text { text, .. } if text.is_empty()));
        let given = item.text("name")?;
        let name = self.names.get(&id).cloned().or(given);
        // The vendor's server refuses it too.
        let name = match name {
            Some(name) => name,
            None if self.stored => String::new(),
            None => return Err(item.fault("call_id", "is of no function_call before it")),
        };
        // There is no flag for errors; a result whose state is not `completed` is one.
        let error = item.peek_text("status") == Some("incomplete");
        self.bookkeeping(item)?;
        self.push(Role::User, Part::ToolResult { id, name, content, error, cache: None });
        Ok(())
    }

    fn reasoning(&mut self, mut item: Members) -> Result<(), Fault> {
        let id = item.text("id")?;
        let sealed = item.text("encrypted_content")?;
        let mut texts = Vec::new();
        for list in ["summary", "content"] {
            for (path, piece) in item.list(list)?.unwrap_or_default() {
                texts.push(Members::of(piece, path)?.required_text("text")?);
            }
        }
        self.bookkeeping(item)?;
        // One of which only the identifier is left is passed over: the answer to it came
        // from what follows in the input.
        if let Some(part) = seal::part(texts.join("\n\n"), sealed, id) {
            self.push(Role::Assistant, part);
        }
        Ok(())
    }

    /// Takes what only keeps books about an item, and its defaults.
    fn bookkeeping(&mut self, mut item: Members) -> Result<(), Fault> {
        for name in ["type", "id", "status"] {
            item.text(name)?;
        }
        for (name, default) in
            [("caller", serde_json::json!({"type": "direct"})), ("async", Value::Bool(false))]
        {
            if let Some(value) = item.take(name).filter(|value| *value != default) {
                self.request.extra.push((item.path(name), value));
            }
        }
        item.rest(&mut self.request.extra);
        Ok(())
    }

    fn push(&mut self, role: Role, part: Part) {
        self.request.messages.push(Message { role, parts: vec![part], name: None });
    }
}

/// Reads a text or a list of parts.
fn content(
    item: &mut Members,
    name: &str,
    extra: &mut Vec<(String, Value)>,
) -> Result<Vec<Part>, Fault> {
    let path = item.path(name);
    let list = match item.take(name) {
        Some(Value::String(text)) => return Ok(vec![Part::Text { text, cache: None }]),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(item.fault(name, "must be a text or a list")),
        None => return Err(item.fault(name, "is missing")),
    };
    let mut parts = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        parts.extend(part(value, format!("{path}[{at}]"), extra)?);
    }
    Ok(parts)
}

/// Reads a part. One of an unknown kind is left over.
fn part(
    value: Value,
    path: String,
    extra: &mut Vec<(String, Value)>,
) -> Result<Option<Part>, Fault> {
    let known =
        ["input_text", "output_text", "refusal", "input_image", "input_file", "input_audio"];
    if value.get("type").and_then(Value::as_str).is_some_and(|kind| !known.contains(&kind)) {
        extra.push((path, value));
        return Ok(None);
    }
    let mut part = Members::of(value, path)?;
    let kind = part.required_text("type")?;
    let cache = cache(&mut part)?;
    let read = match &*kind {
        "refusal" => Part::Refusal { text: part.required_text("refusal")? },
        "input_image" => {
            let source = match part.text("image_url")? {
                Some(url) => media::from_address(url),
                None => uploaded(&mut part, "image_url")?,
            };
            // Looking as closely as the model sees fit is the default.
            let detail = part.text("detail")?.filter(|detail| detail != "auto");
            Part::Image { source, detail, cache }
        }
        "input_file" => {
            let name = part.text("filename")?;
            let source = if let Some(data) = part.text("file_data")? {
                media::from_file_data(data, name.as_deref())
            } else if let Some(url) = part.text("file_url")? {
                media::from_address(url)
            } else {
                uploaded(&mut part, "file_data")?
            };
            // How closely to look at a page's picture: its loss is harmless.
            part.text("detail")?;
            Part::File { source, name, cache }
        }
        "input_audio" => audio(&mut part)?,
        _ => {
            // Marks on the model's own text (sources, likelihoods) are not for it to read.
            for name in ["annotations", "logprobs"] {
                part.take(name);
            }
            Part::Text { text: part.required_text("text")?, cache }
        }
    };
    part.rest(extra);
    Ok(Some(read))
}

fn uploaded(part: &mut Members, wanted: &str) -> Result<Source, Fault> {
    let id = part.text("file_id")?.ok_or_else(|| part.fault(wanted, "is missing"))?;
    Ok(Source::Uploaded { id, media_type: None })
}

fn audio(part: &mut Members) -> Result<Part, Fault> {
    let sound = part.object("input_audio")?;
    let mut sound = sound.ok_or_else(|| part.fault("input_audio", "is missing"))?;
    let format = sound.required_text("format")?;
    let media_type =
        if format == "mp3" { "audio/mpeg".to_owned() } else { format!("audio/{format}") };
    let source = Source::Base64 { media_type, data: sound.required_text("data")? };
    Ok(Part::Audio { source })
}

fn cache(part: &mut Members) -> Result<Option<CacheMark>, Fault> {
    let Some(mut mark) = part.object("prompt_cache_breakpoint")? else { return Ok(None) };
    // The longer of the two times, 12 hours, is the next above an hour; the other is 30 minutes.
    let ttl = match mark.text("ttl")?.as_deref() {
        None | Some("30m") => CacheTtl::Usual,
        Some("12h") => CacheTtl::Hour,
        Some(_) => return Err(mark.fault("ttl", "must be 30m or 12h")),
    };
    Ok(Some(CacheMark { ttl }))
}
