//! Writing the messages of a request.

use serde_json::{Map, Value, json};

use super::media;
use crate::neutral::{CacheMark, CacheTtl, Message, Part, Role, Unsupported, Vendor};

/// The messages, and the instructions that stood among them.
type Messages = (Vec<Value>, Vec<Part>);

/// Writes the turns: consecutive ones of one role are joined, and results of tools come first.
pub(super) fn write(
    messages: &[Message],
    warnings: &mut Vec<String>,
) -> Result<Messages, Unsupported> {
    let mut turns: Vec<(Role, Vec<Value>, Vec<Value>)> = Vec::new();
    let mut late = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if message.role == Role::System {
            warn(warnings, "instructions among the messages were moved to the beginning");
            late.extend(message.parts.iter().cloned());
            continue;
        }
        if message.name.is_some() {
            warn(warnings, "there are no names of speakers, so they were left out");
        }
        if turns.last().is_none_or(|(role, ..)| *role != message.role) {
            turns.push((message.role, Vec::new(), Vec::new()));
        }
        let Some((_, first, rest)) = turns.last_mut() else { continue };
        for (place, part) in message.parts.iter().enumerate() {
            let owner = match part {
                Part::ToolCall { .. } => Role::Assistant,
                Part::ToolResult { .. } => Role::User,
                _ => message.role,
            };
            if owner != message.role {
                let why = "calls are the model's, and results the user's";
                return Err(Unsupported::part(at, place, why));
            }
            let written = block(part).map_err(|why| Unsupported::part(at, place, why))?;
            let list =
                if matches!(part, Part::ToolResult { .. }) { &mut *first } else { &mut *rest };
            list.extend(written);
        }
    }
    let mut written = join(turns, warnings);
    media::number_documents(&mut written);
    Ok((written, late))
}

/// The turns as they alternate, the user's first.
fn join(turns: Vec<(Role, Vec<Value>, Vec<Value>)>, warnings: &mut Vec<String>) -> Vec<Value> {
    let mut written: Vec<Value> = Vec::new();
    for (role, mut blocks, rest) in turns {
        blocks.extend(rest);
        if blocks.is_empty() {
            continue;
        }
        if written.is_empty() && role == Role::Assistant {
            warn(warnings, "a conversation begins with the user, so an empty turn was put before");
            written.push(json!({"role": "user", "content": [{"text": "…"}]}));
        }
        let has = |name: &str| blocks.iter().any(|block| block.get(name).is_some());
        if has("document") && !has("text") {
            // Bedrock wants a text beside a document.
            blocks.push(json!({"text": "…"}));
        }
        let role = if role == Role::Assistant { "assistant" } else { "user" };
        // A turn between that says nothing is left out.
        match written.last_mut().filter(|last| last["role"] == role) {
            Some(last) => {
                last["content"].as_array_mut().into_iter().for_each(|all| all.append(&mut blocks));
            }
            None => written.push(json!({"role": role, "content": blocks})),
        }
    }
    if written.is_empty() {
        warn(warnings, "the messages say nothing, which is refused, so `…` is sent");
        written.push(json!({"role": "user", "content": [{"text": "…"}]}));
    }
    written
}

pub(super) fn warn(warnings: &mut Vec<String>, text: &str) {
    if !warnings.iter().any(|known| known == text) {
        warnings.push(text.to_owned());
    }
}

/// The blocks of a part, with a cache point behind it where it is marked.
pub(super) fn block(part: &Part) -> Result<Vec<Value>, &'static str> {
    let (written, cache) = match part {
        // Blank texts are refused, and say nothing.
        Part::Text { text, .. } | Part::Refusal { text } if text.trim().is_empty() => {
            return Ok(Vec::new());
        }
        Part::Text { text, cache } => (json!({"text": text}), *cache),
        Part::Refusal { text } => (json!({"text": text}), None),
        Part::Image { source, cache, .. } => (json!({"image": media::image(source)?}), *cache),
        Part::File { source, name, cache } => (media::file(source, name.as_deref())?, *cache),
        Part::Audio { source } => (json!({"audio": media::sound(source)?}), None),
        Part::ToolCall { id, name, arguments, cache, .. } => {
            let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
            let input = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object);
            let input = input.ok_or("the arguments of the call are no JSON object")?;
            (json!({"toolUse": {"toolUseId": call_id(id), "name": name, "input": input}}), *cache)
        }
        Part::ToolResult { id, content, error, cache, .. } => {
            // There are no marks within a result, so the last of them stands behind it.
            let within = content.iter().rev().find_map(mark);
            let result = tool_result(id, content, *error)?;
            (json!({"toolResult": result}), cache.or(within))
        }
        Part::Thinking { text, seal: Some(seal) } if seal.vendor == Vendor::Anthropic => {
            let text = json!({"text": text, "signature": seal.data});
            (json!({"reasoningContent": {"reasoningText": text}}), None)
        }
        Part::Hidden { seal } if seal.vendor == Vendor::Anthropic => {
            (json!({"reasoningContent": {"redactedContent": seal.data}}), None)
        }
        // Thinking without a signature is refused, and only its vendor can open a seal.
        Part::Thinking { .. } | Part::Hidden { .. } => return Ok(Vec::new()),
    };
    Ok(std::iter::once(written).chain(cache.map(point)).collect())
}

/// The mark behind a part of a result.
fn mark(part: &Part) -> Option<CacheMark> {
    match part {
        Part::Text { cache, .. } | Part::Image { cache, .. } | Part::File { cache, .. } => *cache,
        _ => None,
    }
}

/// A part of an answer as a block: also what a request may not hold.
pub(super) fn answer_block(part: &Part) -> Option<Value> {
    match part {
        Part::Text { text, .. } | Part::Refusal { text } => Some(json!({"text": text})),
        Part::Thinking { text, seal } => {
            let mut told = json!({"text": text});
            if let Some(seal) = seal.as_ref().filter(|seal| seal.vendor == Vendor::Anthropic) {
                told["signature"] = json!(seal.data);
            }
            Some(json!({"reasoningContent": {"reasoningText": told}}))
        }
        Part::ToolCall { id, name, arguments, .. } => {
            // A model's arguments are mostly JSON; what is not is shown as it is.
            let input = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object);
            let input = input.unwrap_or_else(|| match arguments.trim() {
                "" => json!({}),
                text => json!({"arguments": text}),
            });
            Some(json!({"toolUse": {"toolUseId": call_id(id), "name": name, "input": input}}))
        }
        part => block(part).ok()?.into_iter().next(),
    }
}

/// A cache point.
pub(super) fn point(mark: CacheMark) -> Value {
    match mark.ttl {
        CacheTtl::Usual => json!({"cachePoint": {"type": "default"}}),
        CacheTtl::Hour => json!({"cachePoint": {"type": "default", "ttl": "1h"}}),
    }
}

fn tool_result(id: &str, content: &[Part], error: bool) -> Result<Value, &'static str> {
    let mut blocks = Vec::new();
    for part in content {
        match part {
            Part::Text { text, .. } if let Some(object) = exact_object(text) => {
                blocks.push(json!({"json": object}));
            }
            Part::Text { .. } | Part::Image { .. } | Part::File { .. } => {
                blocks.extend(block(part)?.into_iter().take(1));
            }
            _ => return Err("a result holds text, images, videos and documents only"),
        }
    }
    if blocks.is_empty() {
        // An empty result is refused.
        blocks.push(json!({"text": if error { "failed" } else { "done" }}));
    }
    let mut result = json!({"toolUseId": call_id(id), "content": blocks});
    if error {
        result["status"] = json!("error");
    }
    Ok(result)
}

/// A text that is a JSON object, where it comes out again as the same letters.
fn exact_object(text: &str) -> Option<Value> {
    let object = Value::Object(serde_json::from_str::<Map<String, Value>>(text).ok()?);
    let again = object.to_string();
    (again == text).then_some(object)
}

/// Longest identifier of a call.
const CALL_ID_MAX: usize = 64;

/// A call's identifier of the letters that are taken: `^[a-zA-Z0-9_-]{1,64}$`.
pub(super) fn call_id(id: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let mut written: String = id.chars().map(letter).collect();
    if written.len() > CALL_ID_MAX {
        written.truncate(CALL_ID_MAX - 17);
        written.push_str(&format!("_{:016x}", xxhash_rust::xxh3::xxh3_64(id.as_bytes())));
    }
    if written.is_empty() { "call".to_owned() } else { written }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_identifiers_stay_apart() {
        let ids: Vec<_> = (0..3).map(|n| call_id(&format!("{}{n}", "x".repeat(80)))).collect();
        assert!(ids.iter().all(|id| id.len() == CALL_ID_MAX));
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
        assert_eq!(call_id("call:1"), "call_1");
    }

    #[test]
    fn results_are_never_empty() {
        let result = tool_result("t", &[Part::Text { text: " ".to_owned(), cache: None }], true);
        assert_eq!(result.unwrap()["content"][0]["text"], "failed");
    }
}
