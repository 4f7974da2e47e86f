//! Writing the messages of a request.

use serde_json::{Map, Value, json};

use super::read_blocks::DOCUMENTS;
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
            let written = block(part).map_err(|why| Unsupported::part(at, place, why))?;
            let list =
                if matches!(part, Part::ToolResult { .. }) { &mut *first } else { &mut *rest };
            list.extend(written);
        }
    }
    let mut written = Vec::new();
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
        written.push(json!({"role": role, "content": blocks}));
    }
    if written.is_empty() {
        warn(warnings, "the messages say nothing, which is refused, so `…` is sent");
        written.push(json!({"role": "user", "content": [{"text": "…"}]}));
    }
    Ok((written, late))
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
        Part::Text { text, cache } => (json!({"text": text}), cache),
        Part::Refusal { text } => (json!({"text": text}), &None),
        Part::Image { source, cache, .. } => (json!({"image": image(source)?}), cache),
        Part::File { source, name, cache } => {
            (json!({"document": document(source, name.as_deref())?}), cache)
        }
        Part::Audio { .. } => return Err("Converse takes no sound; send a transcript"),
        Part::ToolCall { id, name, arguments, cache, .. } => {
            let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
            let input = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object);
            let input = input.ok_or("the arguments of the call are no JSON object")?;
            (json!({"toolUse": {"toolUseId": call_id(id), "name": name, "input": input}}), cache)
        }
        Part::ToolResult { id, content, error, cache, .. } => {
            (json!({"toolResult": tool_result(id, content, *error)?}), cache)
        }
        Part::Thinking { text, seal: Some(seal) } if seal.vendor == Vendor::Anthropic => {
            let text = json!({"text": text, "signature": seal.data});
            (json!({"reasoningContent": {"reasoningText": text}}), &None)
        }
        Part::Hidden { seal } if seal.vendor == Vendor::Anthropic => {
            (json!({"reasoningContent": {"redactedContent": seal.data}}), &None)
        }
        // Thinking without a signature is refused, and only its vendor can open a seal.
        Part::Thinking { .. } | Part::Hidden { .. } => return Ok(Vec::new()),
    };
    Ok(std::iter::once(written).chain(cache.map(point)).collect())
}

/// A part of an answer as a block, thinking without a signature too.
pub(super) fn answer_block(part: &Part) -> Option<Value> {
    match part {
        Part::Thinking { text, seal: None } => {
            Some(json!({"reasoningContent": {"reasoningText": {"text": text}}}))
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
            Part::Text { text, .. } => {
                // A text that is a JSON object is given as just that.
                let object = serde_json::from_str::<Map<String, Value>>(text).ok();
                match object {
                    Some(object) => blocks.push(json!({"json": object})),
                    None => blocks.extend(block(part)?),
                }
            }
            Part::Image { .. } | Part::File { .. } => {
                blocks.extend(block(part)?.into_iter().take(1));
            }
            _ => return Err("a result holds text, images and documents only"),
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

fn image(source: &Source) -> Result<Value, &'static str> {
    let (media_type, place) = place(source)?;
    let format = match media_type.unwrap_or_default() {
        "image/jpg" => "jpeg",
        kind => kind.strip_prefix("image/").unwrap_or_default(),
    };
    if !["png", "jpeg", "gif", "webp"].contains(&format) {
        return Err("Converse takes images as PNG, JPEG, GIF or WebP only");
    }
    Ok(json!({"format": format, "source": place}))
}

fn document(source: &Source, name: Option<&str>) -> Result<Value, &'static str> {
    let (media_type, place) = place(source)?;
    let kind = media_type.unwrap_or("text/plain");
    let format = DOCUMENTS.iter().find(|(_, known)| *known == kind).map(|(format, _)| format);
    let format = format.ok_or("Converse takes no documents of this type")?;
    Ok(json!({"format": format, "name": document_name(name), "source": place}))
}

/// A name of the letters that are taken, without its ending and without runs of spaces.
fn document_name(name: Option<&str>) -> String {
    let name = name.map_or("document", |name| name.rsplit_once('.').map_or(name, |(stem, _)| stem));
    let letter = |c: char| match c {
        c if c.is_ascii_alphanumeric() || " -()[]".contains(c) => c,
        _ => '-',
    };
    let name: String = name.chars().map(letter).take(200).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "document".to_owned() } else { name }
}

/// The type of a source, and where its bytes are.
fn place(source: &Source) -> Result<(Option<&str>, Value), &'static str> {
    match source {
        Source::Base64 { media_type, data } => Ok((Some(media_type), json!({"bytes": data}))),
        Source::Url { url, media_type } if url.starts_with("s3://") => {
            Ok((media_type.as_deref(), json!({"s3Location": {"uri": url}})))
        }
        Source::Url { .. } => Err("Converse fetches nothing but from S3; send the bytes"),
        Source::Uploaded { .. } => Err("the file was uploaded to another provider; send its bytes"),
        Source::Text { text } => Ok((Some("text/plain"), json!({"text": text}))),
    }
}

/// Longest identifier of a call.
const CALL_ID_MAX: usize = 64;

/// A call's identifier of the letters that are taken: `^[a-zA-Z0-9_-]{1,64}$`.
fn call_id(id: &str) -> String {
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
    fn names_of_documents_are_made_acceptable() {
        assert_eq!(document_name(Some("Q3  report_v2.pdf")), "Q3 report-v2");
        assert_eq!(document_name(None), "document");
    }

    #[test]
    fn results_are_never_empty() {
        let result = tool_result("t", &[Part::Text { text: " ".to_owned(), cache: None }], true);
        assert_eq!(result.unwrap()["content"][0]["text"], "failed");
    }
}
