//! Writing the messages of a request.

use serde_json::{Value, json};

use super::seal;
use crate::neutral::{CacheMark, CacheTtl, Message, Part, Role, Source, Unsupported, Vendor};

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
            let written =
                block(part, message.role).map_err(|why| Unsupported::part(at, place, why))?;
            let list =
                if matches!(part, Part::ToolResult { .. }) { &mut *first } else { &mut *rest };
            list.extend(written);
        }
    }
    if !late.is_empty() {
        warn(warnings, "instructions among the messages were moved to the beginning");
    }
    let mut written = Vec::new();
    for (role, mut first, rest) in turns {
        first.extend(rest);
        if first.is_empty() {
            continue;
        }
        let name = if role == Role::Assistant { "assistant" } else { "user" };
        if written.is_empty() && role == Role::Assistant {
            warn(warnings, "a conversation begins with the user, so an empty turn was put before");
            written.push(json!({"role": "user", "content": "…"}));
        }
        written.push(json!({"role": name, "content": plain(first)}));
    }
    if written.is_empty() {
        warn(warnings, "the messages say nothing, which is refused, so `…` is sent");
        written.push(json!({"role": "user", "content": "…"}));
    }
    if written.last().is_some_and(|last| last["role"] == "assistant") {
        warn(
            warnings,
            "the last turn is the model's, which newer Claude models refuse to go on with",
        );
    }
    Ok((written, late))
}

fn warn(warnings: &mut Vec<String>, text: &str) {
    if !warnings.iter().any(|known| known == text) {
        warnings.push(text.to_owned());
    }
}

/// The blocks of a part: mostly one.
fn block(part: &Part, role: Role) -> Result<Vec<Value>, &'static str> {
    let written = match part {
        // Blank texts are refused, and say nothing.
        Part::Text { text, .. } | Part::Refusal { text } if text.trim().is_empty() => {
            return Ok(Vec::new());
        }
        Part::Text { text, cache } => marked(json!({"type": "text", "text": text}), *cache),
        Part::Refusal { text } => json!({"type": "text", "text": text}),
        Part::Image { source, cache, .. } => {
            marked(json!({"type": "image", "source": image(source)?}), *cache)
        }
        Part::File { source, name, cache } => {
            let mut document = json!({"type": "document", "source": file(source)?});
            if let Some(name) = name {
                document["title"] = json!(name);
            }
            marked(document, *cache)
        }
        Part::Audio { .. } => return Err("Anthropic takes no sound; send a transcript"),
        Part::ToolCall { id, name, arguments, cache, .. } if role == Role::Assistant => {
            let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
            let input: Value = serde_json::from_str(arguments).map_err(
                |_| "the arguments of the call are no JSON, and Anthropic takes objects only",
            )?;
            if !input.is_object() {
                return Err("the arguments of the call are no JSON object");
            }
            marked(
                json!({"type": "tool_use", "id": call_id(id), "name": name, "input": input}),
                *cache,
            )
        }
        Part::ToolResult { id, content, error, cache, .. } if role == Role::User => {
            let mut result = json!({"type": "tool_result", "tool_use_id": call_id(id)});
            let mut blocks = Vec::new();
            for part in content {
                match part {
                    Part::Text { .. } | Part::Image { .. } | Part::File { .. } => {
                        blocks.extend(block(part, role)?);
                    }
                    _ => return Err("a result holds text, images and documents only"),
                }
            }
            if !blocks.is_empty() {
                result["content"] = plain(blocks);
            }
            if *error {
                result["is_error"] = json!(true);
            }
            marked(result, *cache)
        }
        Part::Thinking { text, seal: Some(seal) } if seal.vendor == Vendor::Anthropic => {
            json!({"type": "thinking", "thinking": text, "signature": seal.data})
        }
        Part::Hidden { seal } if seal.vendor == Vendor::Anthropic => {
            json!({"type": "redacted_thinking", "data": seal.data})
        }
        // Thinking without Anthropic's own signature is refused, and only its own vendor can
        // open another's seal.
        Part::Thinking { .. } | Part::Hidden { .. } => return Ok(Vec::new()),
        Part::ToolCall { .. } | Part::ToolResult { .. } => {
            return Err("calls are the model's, and results the user's");
        }
    };
    Ok(vec![written])
}

fn image(source: &Source) -> Result<Value, &'static str> {
    match source {
        Source::Base64 { media_type, data } => {
            Ok(json!({"type": "base64", "media_type": media_type, "data": data}))
        }
        Source::Url { url, .. } => Ok(json!({"type": "url", "url": url})),
        Source::Uploaded { id, .. } if is_own_file(id) => {
            Ok(json!({"type": "file", "file_id": id}))
        }
        Source::Uploaded { .. } => {
            Err("the image was uploaded to another provider; send its bytes")
        }
        Source::Text { .. } => Err("a text is no image"),
    }
}

fn file(source: &Source) -> Result<Value, &'static str> {
    match source {
        Source::Base64 { media_type, data } if media_type == "application/pdf" => {
            Ok(json!({"type": "base64", "media_type": media_type, "data": data}))
        }
        Source::Base64 { .. } => Err("Anthropic takes documents as PDF or plain text only"),
        Source::Url { url, .. } => Ok(json!({"type": "url", "url": url})),
        Source::Uploaded { id, .. } if is_own_file(id) => {
            Ok(json!({"type": "file", "file_id": id}))
        }
        Source::Uploaded { .. } => Err("the file was uploaded to another provider; send its bytes"),
        Source::Text { text } => {
            Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
        }
    }
}

/// Whether an identifier is one of Anthropic's files.
fn is_own_file(id: &str) -> bool {
    id.starts_with("file_")
}

/// A call's identifier of the letters that are taken: `^[a-zA-Z0-9_-]+$`.
fn call_id(id: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let id: String = id.chars().map(letter).collect();
    if id.is_empty() { "call".to_owned() } else { id }
}

/// Adds a cache mark.
pub(super) fn marked(mut block: Value, cache: Option<CacheMark>) -> Value {
    if let Some(mark) = cache {
        block["cache_control"] = match mark.ttl {
            CacheTtl::Usual => json!({"type": "ephemeral"}),
            CacheTtl::Hour => json!({"type": "ephemeral", "ttl": "1h"}),
        };
    }
    block
}

/// A single text without anything else as just that.
fn plain(mut blocks: Vec<Value>) -> Value {
    let single = blocks.len() == 1
        && blocks[0]
            .as_object()
            .is_some_and(|block| block.len() == 2 && block.contains_key("text"));
    if single { blocks[0]["text"].take() } else { Value::Array(blocks) }
}

/// A seal of another vendor as a thinking block.
pub(super) fn foreign(text: &str, seal: Option<&crate::neutral::Seal>, call: bool) -> Value {
    let signature = seal.map(|seal| seal::signature(seal, call)).unwrap_or_default();
    json!({"type": "thinking", "thinking": text, "signature": signature})
}
