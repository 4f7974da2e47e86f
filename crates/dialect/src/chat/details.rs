//! Thinking with its seals, as OpenRouter's `reasoning_details` tells it: the one place in this
//! dialect where clients give a seal of thinking back. A call's seal of Google's stands on the
//! call, in `extra_content`, as at Google's own servers of this dialect.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::neutral::{Part, Seal, Vendor};

/// The vendors, by the formats that OpenRouter names.
const FORMATS: [(Vendor, &str); 3] = [
    (Vendor::Anthropic, "anthropic-claude-v1"),
    (Vendor::OpenAi, "openai-responses-v1"),
    (Vendor::Google, "google-gemini-v1"),
];

/// An entry of `reasoning_details`.
pub(super) struct Detail<'a> {
    /// What is shown.
    pub(super) text: &'a str,
    /// What must come back.
    pub(super) seal: Option<Seal>,
    /// Whether nothing is ever shown of it.
    pub(super) hidden: bool,
    /// The identifier of the item or of the call that it belongs to.
    pub(super) id: Option<&'a str>,
    /// Which of the thoughts it is a piece of.
    index: Option<u64>,
}

/// Reads an entry; `None` where it is of no known type.
pub(super) fn read_entry(entry: &Value) -> Option<Detail<'_>> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let id = entry.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let index = entry.get("index").and_then(Value::as_u64);
    let (shown, sealed, hidden) = match text("type") {
        "reasoning.text" => (text("text"), text("signature"), false),
        "reasoning.summary" => (text("summary"), "", false),
        "reasoning.encrypted" => ("", text("data"), true),
        _ => return None,
    };
    let seal = (!sealed.is_empty()).then(|| Seal {
        vendor: vendor(text("format"), id),
        data: sealed.to_owned(),
        item: id.filter(|id| id.starts_with("rs_")).map(str::to_owned),
    });
    Some(Detail { text: shown, seal, hidden, id, index })
}

fn vendor(format: &str, id: Option<&str>) -> Vendor {
    let named = FORMATS.iter().find(|(_, name)| {
        // A later version of a format is its vendor's too.
        format.split('-').next() == name.split('-').next()
    });
    match named {
        Some((vendor, _)) => *vendor,
        None if id.is_some_and(|id| id.starts_with("rs_")) => Vendor::OpenAi,
        None => Vendor::Anthropic,
    }
}

/// Reads a whole list: the thoughts, and the seals of calls by the call's identifier.
pub(super) fn read(details: &[Value]) -> (Vec<Part>, HashMap<String, Seal>) {
    let (mut parts, mut of_calls) = (Vec::new(), HashMap::new());
    // The number of the last thought, to which more of its pieces may come: clients collect
    // what a stream sends them one by one.
    let mut last = None;
    for detail in details.iter().filter_map(read_entry) {
        let Detail { text, seal, hidden, id, index } = detail;
        let same = index.is_none() || last == Some(index);
        if hidden {
            match (seal, id, parts.last_mut()) {
                // OpenAI's seal follows what is shown of it.
                (Some(found), _, Some(Part::Thinking { seal: seal @ None, .. }))
                    if found.vendor == Vendor::OpenAi && same =>
                {
                    *seal = Some(found);
                }
                (Some(seal), Some(id), _) if seal.vendor == Vendor::Google => {
                    of_calls.insert(id.to_owned(), seal);
                }
                (Some(seal), ..) => parts.push(Part::Hidden { seal }),
                (None, ..) => {}
            }
        } else if let Some(Part::Thinking { text: all, seal: open @ None }) = parts.last_mut()
            && same
        {
            all.push_str(text);
            *open = seal;
        } else if !text.is_empty() || seal.is_some() {
            parts.push(Part::Thinking { text: text.to_owned(), seal });
        }
        last = Some(index);
    }
    (parts, of_calls)
}

/// The entry of a sealed thought; `None` of every other part.
pub(super) fn write(part: &Part, index: usize) -> Option<Value> {
    match part {
        Part::Thinking { text, seal: Some(seal) } => Some(thought(text, seal, index)),
        Part::Hidden { seal } => {
            let mut entry = Map::new();
            entry.insert("type".to_owned(), json!("reasoning.encrypted"));
            entry.insert("data".to_owned(), json!(seal.data));
            Some(finish(entry, seal, index))
        }
        _ => None,
    }
}

/// The entry of a sealed part as OpenRouter itself writes it, which has Google's seals of
/// calls here too, by the call's identifier.
pub(super) fn write_back(part: &Part, index: usize) -> Option<Value> {
    let Part::ToolCall { id, seal: Some(seal), .. } = part else { return write(part, index) };
    let mut entry = write(&Part::Hidden { seal: seal.clone() }, index)?;
    entry["id"] = json!(id);
    Some(entry)
}

/// The entry of a thought of which something is shown.
pub(super) fn thought(text: &str, seal: &Seal, index: usize) -> Value {
    let mut entry = Map::new();
    entry.insert("type".to_owned(), json!("reasoning.text"));
    entry.insert("text".to_owned(), json!(text));
    entry.insert("signature".to_owned(), json!(seal.data));
    finish(entry, seal, index)
}

fn finish(mut entry: Map<String, Value>, seal: &Seal, index: usize) -> Value {
    if let Some(item) = &seal.item {
        entry.insert("id".to_owned(), json!(item));
    }
    let format = FORMATS.iter().find(|(vendor, _)| *vendor == seal.vendor);
    entry.insert("format".to_owned(), json!(format.map(|(_, name)| *name)));
    entry.insert("index".to_owned(), json!(index));
    Value::Object(entry)
}

/// The seal of a call as Google's servers of this dialect write it.
pub(super) fn extra_content(seal: Option<&Seal>) -> Option<Value> {
    let seal = seal.filter(|seal| seal.vendor == Vendor::Google)?;
    Some(json!({"google": {"thought_signature": seal.data}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(vendor: Vendor, item: Option<&str>) -> Seal {
        Seal { vendor, data: "x=".to_owned(), item: item.map(str::to_owned) }
    }

    #[test]
    fn thoughts_come_back_as_they_went() {
        let thinking =
            |text: &str, seal| Part::Thinking { text: text.to_owned(), seal: Some(seal) };
        let parts = vec![
            thinking("So.", seal(Vendor::Anthropic, None)),
            Part::Hidden { seal: seal(Vendor::Anthropic, None) },
            thinking("", seal(Vendor::Google, None)),
            thinking("Hm.", seal(Vendor::OpenAi, Some("rs_1"))),
            Part::Hidden { seal: seal(Vendor::OpenAi, Some("rs_2")) },
        ];
        let written: Vec<_> =
            parts.iter().enumerate().filter_map(|(at, part)| write(part, at)).collect();
        assert_eq!(read(&written), (parts, HashMap::new()));
    }

    #[test]
    fn pieces_of_a_stream_are_joined() {
        let pieces = json!([
            {"type": "reasoning.text", "text": "I ", "format": "anthropic-claude-v1", "index": 0},
            {"type": "reasoning.text", "text": "see.", "index": 0},
            {"type": "reasoning.text", "signature": "x=", "format": "anthropic-claude-v1", "index": 0},
            {"type": "reasoning.summary", "summary": "Hm.", "index": 1},
            {"type": "reasoning.encrypted", "data": "x=", "id": "rs_1", "index": 1},
            {"type": "reasoning.encrypted", "data": "x=", "id": "call_1", "format": "google-gemini-v1"},
            {"type": "of tomorrow"}, 7,
        ]);
        let (parts, calls) = read(pieces.as_array().unwrap());
        let thinking =
            |text: &str, seal| Part::Thinking { text: text.to_owned(), seal: Some(seal) };
        assert_eq!(
            parts,
            [
                thinking("I see.", seal(Vendor::Anthropic, None)),
                thinking("Hm.", seal(Vendor::OpenAi, Some("rs_1"))),
            ]
        );
        assert_eq!(calls["call_1"], seal(Vendor::Google, None));
    }
}
