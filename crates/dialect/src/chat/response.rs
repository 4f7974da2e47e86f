//! Whole answers, read and written.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::details;
use super::incoming::{self, Call, Delta, Incoming};
use crate::neutral::{Fault, Part, Request, Response, Stop, Usage};

/// Reads a whole answer; of several choices the first.
pub(super) fn read(body: Value) -> Result<Response, Fault> {
    let mut incoming = Incoming::deserialize(&body)
        .map_err(|error| Fault::new("body", format!("is no chat completion: {error}")))?;
    let whole = incoming.is_failure();
    let whole = whole.then(|| incoming::whole_failure(body.to_string().as_bytes()));
    if let Some(failure) = incoming.failure().or(whole) {
        return Err(Fault::new("error", format!("reports {}", failure.message)));
    }
    let usage = incoming.usage().unwrap_or_default();
    let id = incoming.id.take().unwrap_or_default().into_owned();
    let choices = incoming.choices.take().ok_or_else(|| Fault::new("choices", "is missing"))?;
    let choice = choices.into_iter().next();
    let mut choice = choice.ok_or_else(|| Fault::new("choices", "must not be empty"))?;
    let parts = parts(choice.said().unwrap_or_default(), &id);
    let reason = choice.finish_reason.unwrap_or_default();
    if let Some(failure) = incoming::given_up(&reason) {
        return Err(Fault::new(
            "choices[0].finish_reason",
            format!("reports: {}", failure.message),
        ));
    }
    let has = |wanted: fn(&Part) -> bool| parts.iter().any(wanted);
    let calls = has(|part| matches!(part, Part::ToolCall { .. }));
    let refuses = has(|part| matches!(part, Part::Refusal { .. }));
    Ok(Response {
        model: incoming.model.take().unwrap_or_default().into_owned(),
        created: incoming.created.unwrap_or(0),
        stop: incoming::stop(&reason, calls, refuses),
        stop_sequence: None,
        id,
        parts,
        usage,
    })
}

fn parts(mut delta: Delta<'_>, id: &str) -> Vec<Part> {
    let mut thought = delta.thought();
    let (inner, said) = delta.content.map(|content| content.split()).unwrap_or_default();
    thought.push_str(&inner);
    let (mut parts, mut seals) = details::read(&delta.reasoning_details.unwrap_or_default());
    // The details tell the same again, with seals.
    let told =
        parts.iter().any(|part| matches!(part, Part::Thinking { text, .. } if !text.is_empty()));
    if !thought.is_empty() && !told {
        parts.insert(0, Part::Thinking { text: thought, seal: None });
    }
    if !said.is_empty() {
        parts.push(Part::Text { text: said, cache: None });
    }
    if let Some(text) = delta.refusal.filter(|text| !text.is_empty()) {
        parts.push(Part::Refusal { text: text.into_owned() });
    }
    let calls = delta.tool_calls.unwrap_or_default().into_iter();
    for (at, call) in calls.chain(delta.function_call.map(Call::old)).enumerate() {
        let seal = call.seal();
        let given = call.id.filter(|id| !id.is_empty());
        let id = given.map_or_else(|| minted(id, at), |id| id.into_owned());
        let Some(mut function) = call.function else { continue };
        parts.push(Part::ToolCall {
            seal: seal.or_else(|| seals.remove(&id)),
            id,
            name: function.name.take().unwrap_or_default().into_owned(),
            arguments: function.arguments(),
            cache: None,
        });
    }
    parts
}

/// An identifier for a call that has none.
pub(super) fn minted(id: &str, at: usize) -> String {
    format!("call_{}_{at}", id.trim_start_matches("chatcmpl-"))
}

/// Writes a whole answer.
pub(super) fn write(response: &Response, request: &Request) -> Value {
    let (mut content, mut thought, mut refusal) = (None::<String>, String::new(), None::<String>);
    let (mut calls, mut sealed) = (Vec::new(), Vec::new());
    for part in &response.parts {
        sealed.extend(details::write(part, sealed.len()));
        match part {
            Part::Text { text, .. } => content.get_or_insert_default().push_str(text),
            Part::Thinking { text, .. } => thought.push_str(text),
            Part::Refusal { text } => refusal.get_or_insert_default().push_str(text),
            Part::ToolCall { id, name, arguments, seal, .. } => {
                let mut call = json!({
                    "id": id, "type": "function",
                    "function": {"name": name, "arguments": arguments},
                });
                if let Some(extra) = details::extra_content(seal.as_ref()) {
                    call["extra_content"] = extra;
                }
                calls.push(call);
            }
            _ => {}
        }
    }
    if content.is_none() && calls.is_empty() && refusal.is_none() {
        content = Some(String::new());
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    message.insert("content".to_owned(), json!(content));
    message.insert("refusal".to_owned(), json!(refusal));
    if !thought.is_empty() {
        // DeepSeek's word for it, which most clients read.
        message.insert("reasoning_content".to_owned(), json!(thought));
    }
    if !sealed.is_empty() {
        message.insert("reasoning_details".to_owned(), Value::Array(sealed));
    }
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    json!({
        "id": response.id, "object": "chat.completion", "created": request.answered_s(response),
        "model": response.model,
        "choices": [{
            "index": 0, "message": message, "logprobs": null,
            "finish_reason": reason(response.stop),
        }],
        "usage": tokens(&response.usage),
    })
}

/// The word for why an answer ended.
pub(crate) const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::Tool => "tool_calls",
        Stop::Length => "length",
        Stop::Filter => "content_filter",
        Stop::End | Stop::Sequence | Stop::Refusal | Stop::Pause => "stop",
    }
}

/// The usage as this dialect adds it up.
pub(crate) fn tokens(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input(), "completion_tokens": usage.output,
        "total_tokens": usage.total(),
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}
