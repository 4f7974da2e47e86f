//! Reading the blocks of messages.

use serde_json::Value;

use super::media::{DOCUMENTS, IMAGES, SOUNDS, VIDEOS, media_type, source};
use crate::members::Members;
use crate::neutral::{CacheMark, CacheTtl, Fault, Part, Seal, Vendor};

type Extra = Vec<(String, Value)>;

/// Reads the blocks of a message's `content`.
pub(super) fn parts(message: &mut Members, extra: &mut Extra) -> Result<Vec<Part>, Fault> {
    if !message.has("content") {
        return Err(message.fault("content", "is missing"));
    }
    blocks(message, "content", extra)
}

/// Reads a list of blocks. A `cachePoint` marks the block before it.
pub(super) fn blocks(
    members: &mut Members,
    name: &str,
    extra: &mut Extra,
) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    for (path, value) in members.list(name)?.unwrap_or_default() {
        let mut block = Members::of(value, path)?;
        if let Some(point) = block.object("cachePoint")? {
            let mark = mark(point)?;
            match parts.last_mut().and_then(cache_of) {
                Some(cache) => *cache = Some(mark),
                None => return Err(block.fault("cachePoint", "must follow a block")),
            }
            continue;
        }
        parts.push(part(&mut block, extra)?);
        block.rest(extra);
    }
    Ok(parts)
}

/// A cache point as a mark.
pub(super) fn mark(mut point: Members) -> Result<CacheMark, Fault> {
    point.text("type")?;
    let ttl = match point.text("ttl")?.as_deref() {
        Some("1h") => CacheTtl::Hour,
        None | Some("5m") => CacheTtl::Usual,
        Some(_) => return Err(point.fault("ttl", "must be 5m or 1h")),
    };
    Ok(CacheMark { ttl })
}

fn cache_of(part: &mut Part) -> Option<&mut Option<CacheMark>> {
    match part {
        Part::Text { cache, .. }
        | Part::Image { cache, .. }
        | Part::File { cache, .. }
        | Part::ToolCall { cache, .. }
        | Part::ToolResult { cache, .. } => Some(cache),
        _ => None,
    }
}

fn part(block: &mut Members, extra: &mut Extra) -> Result<Part, Fault> {
    if let Some(text) = block.text("text")? {
        return Ok(Part::Text { text, cache: None });
    }
    if let Some(part) = media(block, extra)? {
        return Ok(part);
    }
    if let Some(mut call) = block.object("toolUse")? {
        let input = call.take("input").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        if !input.is_object() {
            return Err(call.fault("input", "must be an object"));
        }
        return Ok(Part::ToolCall {
            id: call.required_text("toolUseId")?,
            name: call.required_text("name")?,
            arguments: input.to_string(),
            seal: None,
            cache: None,
        });
    }
    if let Some(mut result) = block.object("toolResult")? {
        return tool_result(&mut result, extra);
    }
    if let Some(mut cited) = block.object("citationsContent")? {
        return cited_text(&mut cited);
    }
    if let Some(mut thought) = block.object("reasoningContent")? {
        let seal = |data| Seal { vendor: Vendor::Anthropic, data, item: None };
        if let Some(hidden) = thought.text("redactedContent")? {
            return Ok(Part::Hidden { seal: seal(hidden) });
        }
        let Some(mut text) = thought.object("reasoningText")? else {
            return Err(thought.fault("reasoningText", "is missing"));
        };
        let signature = text.text("signature")?.filter(|signature| !signature.is_empty());
        let text = text.text("text")?.unwrap_or_default();
        return Ok(Part::Thinking { text, seal: signature.map(seal) });
    }
    let known = "text, image, document, video, audio, toolUse, toolResult, reasoningContent, \
                 citationsContent or cachePoint";
    Err(Fault::new(block.path("").trim_end_matches('.'), format!("must be one of {known}")))
}

/// An image, a document, a video or a sound.
fn media(block: &mut Members, extra: &mut Extra) -> Result<Option<Part>, Fault> {
    if let Some(mut image) = block.object("image")? {
        let media_type = media_type(&mut image, IMAGES)?;
        let source = source(&mut image, media_type)?;
        return Ok(Some(Part::Image { source, detail: None, cache: None }));
    }
    if let Some(mut document) = block.object("document")? {
        // Texts may go without.
        let media_type = if document.has("format") {
            media_type(&mut document, DOCUMENTS)?
        } else {
            "text/plain".to_owned()
        };
        let name = document.text("name")?;
        let source = source(&mut document, media_type)?;
        document.rest(extra);
        return Ok(Some(Part::File { source, name, cache: None }));
    }
    if let Some(mut video) = block.object("video")? {
        let media_type = media_type(&mut video, VIDEOS)?;
        let source = source(&mut video, media_type)?;
        return Ok(Some(Part::File { source, name: None, cache: None }));
    }
    if let Some(mut audio) = block.object("audio")? {
        let media_type = media_type(&mut audio, SOUNDS)?;
        let source = source(&mut audio, media_type)?;
        return Ok(Some(Part::Audio { source }));
    }
    Ok(None)
}

/// The text of an answer with citations; what was cited stands in the text as well.
fn cited_text(cited: &mut Members) -> Result<Part, Fault> {
    let mut text = String::new();
    for (path, value) in cited.list("content")?.unwrap_or_default() {
        text.push_str(&Members::of(value, path)?.text("text")?.unwrap_or_default());
    }
    Ok(Part::Text { text, cache: None })
}

fn tool_result(result: &mut Members, extra: &mut Extra) -> Result<Part, Fault> {
    let id = result.required_text("toolUseId")?;
    let error = match result.text("status")?.as_deref() {
        None | Some("success") => false,
        Some("error") => true,
        Some(_) => return Err(result.fault("status", "must be success or error")),
    };
    let mut content = Vec::new();
    for (path, value) in result.list("content")?.unwrap_or_default() {
        let mut block = Members::of(value, path)?;
        content.push(match block.take("json") {
            Some(json) => Part::Text { text: json.to_string(), cache: None },
            None => part(&mut block, extra)?,
        });
    }
    Ok(Part::ToolResult { id, name: String::new(), content, error, cache: None })
}
