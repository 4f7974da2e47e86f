//! Whole answers, read and written.

use serde::Deserialize;
use serde_json::{Value, json};

use super::incoming::{self, Incoming, Piece, minted};
use crate::neutral::{Fault, Part, Response, Seal, Stop, Usage, Vendor};

/// Reads a whole answer; of several candidates the first.
pub(super) fn read(body: Value) -> Result<Response, Fault> {
    let mut incoming = Incoming::deserialize(&body)
        .map_err(|error| Fault::new("body", format!("is no answer of Gemini: {error}")))?;
    if let Some(error) = incoming.error.take() {
        let message = error.get("message").and_then(Value::as_str).unwrap_or("an error");
        return Err(Fault::new("error", format!("reports {message}")));
    }
    let blocked = incoming.blocked();
    let id = incoming.response_id.take().unwrap_or_default().into_owned();
    let candidate = incoming.candidates.take().unwrap_or_default().into_iter().next();
    if candidate.is_none() && !blocked {
        return Err(Fault::new("candidates", "is missing"));
    }
    let mut parts = Vec::new();
    let mut reason = String::new();
    if let Some(candidate) = candidate {
        reason = candidate.finish_reason.unwrap_or_default().into_owned();
        for piece in candidate.content.and_then(|content| content.parts).unwrap_or_default() {
            push(piece, &id, &mut parts);
        }
    }
    let calls = parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
    Ok(Response {
        id,
        model: incoming.model_version.take().unwrap_or_default().into_owned(),
        created: 0,
        parts,
        stop: if blocked { Stop::Filter } else { incoming::stop(&reason, calls) },
        stop_sequence: None,
        usage: incoming.usage_metadata.unwrap_or_default().usage(),
    })
}

fn push(piece: Piece<'_>, id: &str, parts: &mut Vec<Part>) {
    let data = piece.thought_signature;
    let seal =
        data.map(|data| Seal { vendor: Vendor::Google, data: data.into_owned(), item: None });
    if let Some(mut call) = piece.function_call {
        let count = parts.iter().filter(|part| matches!(part, Part::ToolCall { .. })).count();
        parts.push(Part::ToolCall {
            id: call.id.take().map_or_else(|| minted(id, count), |id| id.into_owned()),
            name: call.name.take().unwrap_or_default().into_owned(),
            arguments: call.arguments(),
            seal,
            cache: None,
        });
        return;
    }
    let text = piece.text.unwrap_or_default().into_owned();
    if piece.thought {
        parts.push(Part::Thinking { text, seal });
        return;
    }
    if !text.is_empty() {
        parts.push(Part::Text { text, cache: None });
    }
    // A seal beside a text stands alone behind it.
    parts.extend(seal.map(|seal| Part::Thinking { text: String::new(), seal: Some(seal) }));
}

/// Writes a whole answer.
pub(super) fn write(response: &Response) -> Value {
    let parts: Vec<_> = response.parts.iter().filter_map(piece).collect();
    answer(&response.id, &response.model, parts, Some(response.stop), Some(&response.usage))
}

/// The object that a whole answer and a chunk are.
pub(super) fn answer(
    id: &str,
    model: &str,
    parts: Vec<Value>,
    stop: Option<Stop>,
    usage: Option<&Usage>,
) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}});
    if let Some(stop) = stop {
        candidate["finishReason"] = json!(incoming::reason(stop));
    }
    candidate["index"] = json!(0);
    let mut answer = json!({"candidates": [candidate]});
    if let Some(usage) = usage {
        answer["usageMetadata"] = tokens(usage);
    }
    answer["modelVersion"] = json!(model);
    answer["responseId"] = json!(id);
    answer
}

/// The piece that a part is told by; hidden thinking of other vendors has none.
pub(super) fn piece(part: &Part) -> Option<Value> {
    let google = |seal: &Option<Seal>| {
        seal.as_ref().filter(|seal| seal.vendor == Vendor::Google).map(|seal| seal.data.clone())
    };
    let mut piece = match part {
        Part::Text { text, .. } | Part::Refusal { text } => json!({"text": text}),
        Part::Thinking { text, seal } if text.is_empty() && google(seal).is_none() => return None,
        Part::Thinking { text, .. } if text.is_empty() => json!({"text": ""}),
        Part::Thinking { text, .. } => json!({"text": text, "thought": true}),
        Part::ToolCall { id, name, arguments, .. } => {
            let args = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object);
            let args = args.unwrap_or_else(|| json!({}));
            json!({"functionCall": {"id": id, "name": name, "args": args}})
        }
        _ => return None,
    };
    if let Part::Thinking { seal, .. } | Part::ToolCall { seal, .. } = part
        && let Some(data) = google(seal)
    {
        piece["thoughtSignature"] = json!(data);
    }
    Some(piece)
}

fn tokens(usage: &Usage) -> Value {
    json!({
        "promptTokenCount": usage.input(),
        "candidatesTokenCount": usage.output.saturating_sub(usage.reasoning),
        "thoughtsTokenCount": usage.reasoning,
        "cachedContentTokenCount": usage.cache_read,
        "totalTokenCount": usage.total(),
    })
}
