//! Whole answers, read and written.

use serde::Deserialize;
use serde_json::{Value, json};

use super::incoming::{self, Block, Message};
use super::seal;
use super::write_messages::foreign;
use crate::neutral::{Fault, Part, Response, Seal, Usage, Vendor};

/// Reads a whole answer.
pub(super) fn read(body: Value) -> Result<Response, Fault> {
    if body.get("type").is_some_and(|kind| kind == "error") {
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or("an error");
        return Err(Fault::new("error", format!("reports {message}")));
    }
    let message = Message::deserialize(&body)
        .map_err(|error| Fault::new("body", format!("is no message: {error}")))?;
    let content = message.content.ok_or_else(|| Fault::new("content", "is missing"))?;
    Ok(Response {
        id: message.id.unwrap_or_default().into_owned(),
        model: message.model.unwrap_or_default().into_owned(),
        created: 0,
        parts: content.into_iter().filter_map(part).collect(),
        stop: incoming::stop(message.stop_reason.as_deref().unwrap_or_default()),
        stop_sequence: message.stop_sequence.map(|text| text.into_owned()),
        usage: message.usage.unwrap_or_default().over(Usage::default()),
    })
}

/// The part that a block is, or begins; `None` for what Anthropic's own tools did.
pub(super) fn part(block: Block<'_>) -> Option<Part> {
    Some(match block.kind.as_deref()? {
        "text" => Part::Text { text: block.text.unwrap_or_default().into_owned(), cache: None },
        "thinking" => Part::Thinking {
            text: block.thinking.unwrap_or_default().into_owned(),
            seal: seal::read(block.signature.as_deref().unwrap_or_default()).map(|(seal, _)| seal),
        },
        "redacted_thinking" => {
            let data = block.data.unwrap_or_default().into_owned();
            Part::Hidden { seal: Seal { vendor: Vendor::Anthropic, data, item: None } }
        }
        "tool_use" => Part::ToolCall {
            id: block.id.unwrap_or_default().into_owned(),
            name: block.name.unwrap_or_default().into_owned(),
            arguments: block.input.map_or_else(|| "{}".to_owned(), |input| input.to_string()),
            seal: None,
            cache: None,
        },
        _ => return None,
    })
}

/// Writes a whole answer.
pub(super) fn write(response: &Response) -> Value {
    let mut content = Vec::new();
    for part in &response.parts {
        blocks(part, &mut content);
    }
    json!({
        "id": response.id, "type": "message", "role": "assistant", "model": response.model,
        "content": content, "stop_reason": incoming::reason(response.stop),
        "stop_sequence": response.stop_sequence, "usage": tokens(&response.usage),
    })
}

/// Appends the blocks that a part is told by.
pub(super) fn blocks(part: &Part, out: &mut Vec<Value>) {
    match part {
        Part::Text { text, .. } | Part::Refusal { text } => {
            out.push(json!({"type": "text", "text": text}));
        }
        Part::Thinking { text, seal } => out.push(foreign(text, seal.as_ref(), false)),
        Part::Hidden { seal } if seal.vendor == Vendor::Anthropic => {
            out.push(json!({"type": "redacted_thinking", "data": seal.data}));
        }
        Part::Hidden { seal } => out.push(foreign("", Some(seal), false)),
        Part::ToolCall { id, name, arguments, seal, .. } => {
            if seal.is_some() {
                out.push(foreign("", seal.as_ref(), true));
            }
            // A model's arguments are mostly JSON; what is not is shown as it is.
            let input = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object);
            let input = input.unwrap_or_else(|| match arguments.trim() {
                "" => json!({}),
                text => json!({"arguments": text}),
            });
            out.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
        }
        _ => {}
    }
}

/// The usage as this dialect counts it.
pub(super) fn tokens(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input_uncached,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    })
}
