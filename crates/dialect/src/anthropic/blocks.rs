//! Reading content blocks of a request.

use std::collections::HashMap;

use serde_json::Value;

use super::seal;
use crate::members::Members;
use crate::neutral::{CacheMark, CacheTtl, Fault, Part, Seal, Source, Vendor};

/// What is gathered while the blocks of all messages are read.
pub(super) struct Blocks<'a> {
    /// What has no word in the neutral form.
    pub(super) extra: &'a mut Vec<(String, Value)>,
    /// The names of the tools that were called, by the call's identifier.
    pub(super) called: HashMap<String, String>,
}

impl Blocks<'_> {
    /// The parts of a content: a text, or a list of blocks.
    pub(super) fn content(&mut self, owner: &mut Members) -> Result<Vec<Part>, Fault> {
        match owner.take("content") {
            None => Err(owner.fault("content", "is missing")),
            Some(Value::String(text)) => Ok(vec![Part::Text { text, cache: None }]),
            Some(Value::Array(items)) => {
                let path = owner.path("content");
                let (mut parts, mut sealed) = (Vec::new(), None);
                for (at, item) in items.into_iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    parts.extend(self.block(item, path, &mut sealed)?);
                }
                Ok(parts)
            }
            Some(_) => Err(owner.fault("content", "must be a text or a list of blocks")),
        }
    }

    /// A block; `None` where it went to `extra`, or belongs to the next one.
    fn block(
        &mut self,
        item: Value,
        path: String,
        sealed: &mut Option<Seal>,
    ) -> Result<Option<Part>, Fault> {
        let whole = item.clone();
        let mut block = Members::of(item, path.clone())?;
        let cache = cache_mark(&mut block)?;
        let part = match &*block.required_text("type")? {
            "text" => {
                let text = block.required_text("text")?;
                // What was cited stands in the text as well.
                block.take("citations");
                Part::Text { text, cache }
            }
            "image" => Part::Image { source: self.source(&mut block)?, detail: None, cache },
            "document" => {
                let name = block.text("title")?;
                block.object("citations")?.map(|mut c| c.flag("enabled")).transpose()?;
                Part::File { source: self.source(&mut block)?, name, cache }
            }
            "tool_use" => {
                let (id, name) = (block.required_text("id")?, block.required_text("name")?);
                let input =
                    block.take("input").unwrap_or_else(|| Value::Object(Default::default()));
                if !input.is_object() {
                    return Err(block.fault("input", "must be an object"));
                }
                self.called.insert(id.clone(), name.clone());
                block.take("caller");
                let arguments = input.to_string();
                Part::ToolCall { id, name, arguments, seal: sealed.take(), cache }
            }
            "tool_result" => {
                let id = block.required_text("tool_use_id")?;
                let content =
                    if block.has("content") { self.content(&mut block)? } else { Vec::new() };
                let empty =
                    |part: &Part| matches!(part, Part::Text { text, .. } if text.is_empty());
                let content = content.into_iter().filter(|part| !empty(part)).collect();
                let error = block.flag("is_error")?.unwrap_or(false);
                let Some(name) = self.called.get(&id).cloned() else {
                    return Err(block.fault("tool_use_id", "is of no `tool_use` before it"));
                };
                Part::ToolResult { id, name, content, error, cache }
            }
            "thinking" => {
                let text = block.text("thinking")?.unwrap_or_default();
                let seal = seal::read(&block.text("signature")?.unwrap_or_default());
                match seal {
                    Some((seal, true)) => {
                        *sealed = Some(seal);
                        return Ok(None);
                    }
                    seal => Part::Thinking { text, seal: seal.map(|(seal, _)| seal) },
                }
            }
            "redacted_thinking" => {
                let data = block.required_text("data")?;
                Part::Hidden { seal: Seal { vendor: Vendor::Anthropic, data, item: None } }
            }
            // What Anthropic's own tools left in the conversation.
            _ => {
                self.extra.push((path, whole));
                return Ok(None);
            }
        };
        block.rest(self.extra);
        Ok(Some(part))
    }

    fn source(&mut self, block: &mut Members) -> Result<Source, Fault> {
        let mut source =
            block.object("source")?.ok_or_else(|| block.fault("source", "is missing"))?;
        let kind = source.required_text("type")?;
        let read = match &*kind {
            "base64" => Source::Base64 {
                media_type: source.required_text("media_type")?,
                data: source.required_text("data")?,
            },
            "url" => Source::Url { url: source.required_text("url")?, media_type: None },
            "file" => Source::Uploaded { id: source.required_text("file_id")?, media_type: None },
            "text" => {
                source.text("media_type")?;
                Source::Text { text: source.required_text("data")? }
            }
            "content" => {
                let parts = self.content(&mut source)?;
                let texts = parts.iter().map(|part| match part {
                    Part::Text { text, .. } => Ok(text.as_str()),
                    _ => Err(source.fault("content", "must be text only to be translated")),
                });
                Source::Text { text: texts.collect::<Result<Vec<_>, _>>()?.join("\n") }
            }
            _ => return Err(source.fault("type", "must be base64, url, file, text or content")),
        };
        source.rest(self.extra);
        Ok(read)
    }
}

/// Takes a block's cache mark.
pub(super) fn cache_mark(block: &mut Members) -> Result<Option<CacheMark>, Fault> {
    let Some(mut mark) = block.object("cache_control")? else { return Ok(None) };
    let hour = mark.text("ttl")?.is_some_and(|ttl| ttl == "1h");
    Ok(Some(CacheMark { ttl: if hour { CacheTtl::Hour } else { CacheTtl::Usual } }))
}
