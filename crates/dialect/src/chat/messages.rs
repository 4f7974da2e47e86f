//! Reading the messages of a request.

use std::collections::HashMap;

use serde_json::Value;

use super::{details, incoming};
use crate::members::Members;
use crate::neutral::{
    CacheMark, CacheTtl, Fault, Message, Part, Request, Role, Seal, Source, Vendor,
};
use crate::responses::media;

type Extra = Vec<(String, Value)>;

/// Reads `messages`: those that lead as instructions, the others as turns.
pub(super) fn read(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let messages = body.list("messages")?.ok_or_else(|| body.fault("messages", "is missing"))?;
    if messages.is_empty() {
        return Err(body.fault("messages", "must not be empty"));
    }
    // The names of the functions that were called, by the call's identifier.
    let mut called = HashMap::new();
    for (path, value) in messages {
        let place = path.clone();
        let mut message = Members::of(value, path)?;
        let role = message.required_text("role")?;
        let cache = cache_mark(&mut message)?;
        let extra = &mut request.extra;
        let read = match &*role {
            "system" | "developer" => {
                let mut parts = content(&mut message, extra)?;
                message.check_instructions("content", &parts)?;
                mark_last(&mut parts, cache);
                if request.messages.is_empty() {
                    request.system.extend(parts);
                    message.text("name")?;
                    message.rest(extra);
                    continue;
                }
                Message { role: Role::System, parts, name: None }
            }
            "user" => {
                let parts = content(&mut message, extra)?;
                if parts.is_empty() && extra.is_empty() {
                    return Err(message.fault("content", "must not be empty"));
                }
                Message { role: Role::User, parts, name: None }
            }
            "assistant" => {
                let parts = assistant(&mut message, extra, &mut called)?;
                Message { role: Role::Assistant, parts, name: None }
            }
            "tool" => {
                let parts = vec![result(&mut message, extra, &called)?];
                Message { role: Role::User, parts, name: None }
            }
            _ => {
                return Err(
                    message.fault("role", "must be system, developer, user, assistant or tool")
                );
            }
        };
        let name = message.text("name")?;
        // Some clients name the function on its result, which is no speaker's name.
        let name = name.filter(|_| role != "tool");
        message.rest(&mut request.extra);
        let mut read = Message { name, ..read };
        if read.parts.is_empty() {
            // A turn of the model's that says nothing, as some clients keep it.
            continue;
        }
        mark_last(&mut read.parts, cache);
        request.places.0.push(place);
        request.messages.push(read);
    }
    if request.messages.is_empty() {
        // A prompt that is all instructions is answered like a question.
        let parts = std::mem::take(&mut request.system);
        request.messages.push(Message { role: Role::User, parts, name: None });
    }
    Ok(())
}

/// Puts a mark that stands on the whole message on its last part.
fn mark_last(parts: &mut [Part], mark: Option<CacheMark>) {
    if let Some(
        Part::Text { cache, .. }
        | Part::Image { cache, .. }
        | Part::File { cache, .. }
        | Part::ToolCall { cache, .. }
        | Part::ToolResult { cache, .. },
    ) = parts.last_mut()
    {
        *cache = cache.or(mark);
    }
}

/// A message's content: a text, or a list of parts.
fn content(message: &mut Members, extra: &mut Extra) -> Result<Vec<Part>, Fault> {
    match message.take("content") {
        None => Err(message.fault("content", "is missing")),
        Some(Value::String(text)) => Ok(vec![Part::Text { text, cache: None }]),
        Some(Value::Array(items)) => {
            let path = message.path("content");
            let mut parts = Vec::new();
            for (at, item) in items.into_iter().enumerate() {
                parts.extend(part(Members::of(item, format!("{path}[{at}]"))?, extra)?);
            }
            Ok(parts)
        }
        Some(_) => Err(message.fault("content", "must be a text or a list of parts")),
    }
}

/// A part; `None` where it went to `extra`.
fn part(mut item: Members, extra: &mut Extra) -> Result<Option<Part>, Fault> {
    let cache = cache_mark(&mut item)?;
    let kind = item.required_text("type")?;
    let part = match &*kind {
        "text" => Part::Text { text: item.required_text("text")?, cache },
        "refusal" => Part::Refusal { text: item.required_text("refusal")? },
        "image_url" => {
            // Some clients give the address without its object.
            let (url, detail) = match item.take("image_url") {
                Some(Value::String(url)) => (url, None),
                Some(value) => {
                    let mut image = Members::of(value, item.path("image_url"))?;
                    let found = (image.required_text("url")?, image.text("detail")?);
                    image.rest(extra);
                    found
                }
                None => return Err(item.fault("image_url", "is missing")),
            };
            Part::Image { source: media::from_address(url), detail, cache }
        }
        "input_audio" => {
            let mut audio = needed(&mut item, "input_audio")?;
            let (data, format) = (audio.required_text("data")?, audio.required_text("format")?);
            audio.rest(extra);
            Part::Audio { source: Source::Base64 { media_type: format!("audio/{format}"), data } }
        }
        "file" => {
            let mut file = needed(&mut item, "file")?;
            let name = file.text("filename")?;
            let source = match (file.text("file_data")?, file.text("file_id")?) {
                (Some(data), _) => media::from_file_data(data, name.as_deref()),
                (None, Some(id)) => Source::Uploaded { id, media_type: None },
                (None, None) => return Err(file.fault("file_data", "is missing")),
            };
            file.rest(extra);
            Part::File { source, name, cache }
        }
        // Mistral's form of thinking, which comes back as it went out.
        "thinking" => {
            let pieces = item.list("thinking")?.unwrap_or_default();
            let text = pieces.iter().filter_map(|(_, piece)| piece.get("text")?.as_str()).collect();
            Part::Thinking { text, seal: None }
        }
        _ => return Err(item.fault("type", "must be text, image_url, input_audio or file")),
    };
    item.rest(extra);
    Ok(Some(part))
}

fn needed(item: &mut Members, name: &str) -> Result<Members, Fault> {
    item.object(name)?.ok_or_else(|| item.fault(name, "is missing"))
}

pub(super) fn cache_mark(item: &mut Members) -> Result<Option<CacheMark>, Fault> {
    // OpenAI's own, and what clients send for Claude behind compatible servers.
    let (ours, theirs) = (item.object("prompt_cache_breakpoint")?, item.object("cache_control")?);
    let Some(mut mark) = ours.or(theirs) else { return Ok(None) };
    let long = mark.text("ttl")?.is_some_and(|ttl| ttl == "12h" || ttl == "1h");
    Ok(Some(CacheMark { ttl: if long { CacheTtl::Hour } else { CacheTtl::Usual } }))
}

fn assistant(
    message: &mut Members,
    extra: &mut Extra,
    called: &mut HashMap<String, String>,
) -> Result<Vec<Part>, Fault> {
    let (mut parts, mut seals) = thoughts(message)?;
    let said = if message.has("content") { content(message, extra)? } else { Vec::new() };
    let empty = |part: &Part| matches!(part, Part::Text { text, .. } if text.is_empty());
    parts.extend(said.into_iter().filter(|part| !empty(part)));
    if let Some(text) = message.text("refusal")? {
        parts.push(Part::Refusal { text });
    }
    for (path, value) in message.list("tool_calls")?.unwrap_or_default() {
        if value.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "function") {
            extra.push((path, value));
            continue;
        }
        let mut call = Members::of(value, path)?;
        call.text("type")?;
        call.integer("index")?;
        let id = call.required_text("id")?;
        let seal = call.take("extra_content").and_then(|extra| incoming::google_seal(&extra));
        let mut function = needed(&mut call, "function")?;
        let seal = [litellm_seal(&mut call, extra)?, litellm_seal(&mut function, extra)?]
            .into_iter()
            .fold(seal, Option::or);
        let name = function.required_text("name")?;
        let arguments = function.text("arguments")?.unwrap_or_default();
        called.insert(id.clone(), name.clone());
        function.rest(extra);
        call.rest(extra);
        let seal = seal.or_else(|| seals.remove(&id));
        parts.push(Part::ToolCall { id, name, arguments, seal, cache: None });
    }
    // That the answer is to go on with the last turn, which other dialects do of themselves.
    message.flag("prefix")?;
    // What LiteLLM adds to an answer, and its callers send back as it came.
    if let Some(fields) = message.object("provider_specific_fields")? {
        fields.rest(extra);
    }
    Ok(parts)
}

/// Google's seal of a call in LiteLLM's words, which stand on the call or on its function, and
/// beside `extra_content` at clients that know both.
fn litellm_seal(item: &mut Members, extra: &mut Extra) -> Result<Option<Seal>, Fault> {
    let Some(mut fields) = item.object("provider_specific_fields")? else { return Ok(None) };
    let data = fields.text("thought_signature")?;
    fields.rest(extra);
    Ok(data.map(|data| Seal { vendor: Vendor::Google, data, item: None }))
}

/// What the model thought, as it comes back: with seals in `reasoning_details`, and else as
/// text alone. The seals of calls come with it, by the call's identifier.
fn thoughts(message: &mut Members) -> Result<(Vec<Part>, HashMap<String, Seal>), Fault> {
    let details = message.list("reasoning_details")?.unwrap_or_default();
    let details: Vec<_> = details.into_iter().map(|(_, entry)| entry).collect();
    let (mut parts, seals) = details::read(&details);
    // Two names of one thing: DeepSeek's and vLLM's.
    let (old, new) = (message.text("reasoning_content")?, message.text("reasoning")?);
    let shown = |part: &Part| matches!(part, Part::Thinking { text, .. } if !text.is_empty());
    // The details tell the same again.
    if let Some(text) = [old, new].into_iter().flatten().find(|text| !text.is_empty())
        && !parts.iter().any(shown)
    {
        parts.insert(0, Part::Thinking { text, seal: None });
    }
    Ok((parts, seals))
}

fn result(
    message: &mut Members,
    extra: &mut Extra,
    called: &HashMap<String, String>,
) -> Result<Part, Fault> {
    let id = message.required_text("tool_call_id")?;
    let content = if message.has("content") { content(message, extra)? } else { Vec::new() };
    let empty = |part: &Part| matches!(part, Part::Text { text, .. } if text.is_empty());
    let content = content.into_iter().filter(|part| !empty(part)).collect();
    let Some(name) = called.get(&id).cloned() else {
        return Err(message.fault("tool_call_id", "is of no call before it"));
    };
    Ok(Part::ToolResult { id, name, content, error: false, cache: None })
}
