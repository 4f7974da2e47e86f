//! A whole reply as a stream, and a stream as a whole reply, so that a kept answer serves
//! both kinds of caller.
//!
//! Unknown fields survive: deltas are merged, and messages taken apart, by the rules that
//! the OpenAI SDKs use for any field, not by a list of known ones.

use serde_json::{Map, Value, json};

use crate::sse;

/// Characters of text in one event of a replayed stream, about six tokens.
const PIECE_CHARS: usize = 24;

/// Turns a whole chat completion into the events of a stream, `[DONE]` included.
/// `None` when it is no chat completion.
pub fn to_stream(whole: &[u8], include_usage: bool) -> Option<Vec<u8>> {
    let Ok(Value::Object(mut head)) = serde_json::from_slice(whole) else { return None };
    let Some(Value::Array(choices)) = head.remove("choices") else { return None };
    let usage = head.remove("usage");
    head.insert("object".into(), json!("chat.completion.chunk"));
    let mut out = Vec::with_capacity(whole.len() * 2);
    let mut write = |choices: Value, usage: Option<&Value>| {
        let mut event = head.clone();
        event.insert("choices".into(), choices);
        if include_usage {
            event.insert("usage".into(), usage.cloned().unwrap_or(Value::Null));
        }
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(Value::Object(event).to_string().as_bytes());
        out.extend_from_slice(b"\n\n");
    };
    for (at, choice) in choices.into_iter().enumerate() {
        let Value::Object(mut choice) = choice else { return None };
        let Some(Value::Object(message)) = choice.remove("message") else { return None };
        let index = choice.remove("index").unwrap_or_else(|| json!(at));
        let finish = choice.remove("finish_reason").unwrap_or(Value::Null);
        for delta in deltas(message) {
            write(json!([{"index": index, "delta": delta, "finish_reason": null}]), None);
        }
        // What else stands on the choice, such as logprobs, goes with its last event.
        let mut last = Map::from_iter([
            ("index".to_owned(), index),
            ("delta".to_owned(), json!({})),
            ("finish_reason".to_owned(), finish),
        ]);
        last.extend(choice);
        write(json!([last]), None);
    }
    if include_usage {
        write(json!([]), Some(usage.as_ref()?));
    }
    out.extend_from_slice(b"data: [DONE]\n\n");
    Some(out)
}

/// Puts the events of a complete stream together into a whole chat completion. `None`
/// when they are no chat stream, tell no usage, or report an error.
pub fn to_whole(events: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Map::new();
    let mut choices: Vec<Map<String, Value>> = Vec::new();
    for data in sse::data(events) {
        if &*data == b"[DONE]" {
            break;
        }
        let Ok(Value::Object(mut event)) = serde_json::from_slice(&data) else { return None };
        if event.contains_key("error") {
            return None;
        }
        if let Some(Value::Array(parts)) = event.remove("choices") {
            for part in parts {
                add_choice(&mut choices, part)?;
            }
        }
        for (key, value) in event {
            if !value.is_null() || !whole.contains_key(&key) {
                whole.insert(key, value);
            }
        }
    }
    if choices.is_empty() || !whole.get("usage").is_some_and(Value::is_object) {
        return None;
    }
    let finished = |choice: &Map<_, _>| choice.get("finish_reason").is_some_and(Value::is_string);
    if !choices.iter().all(finished) {
        return None;
    }
    for choice in &mut choices {
        drop_indexes(choice);
    }
    whole.insert("object".into(), json!("chat.completion"));
    let usage = whole.remove("usage");
    whole.insert("choices".into(), Value::Array(choices.into_iter().map(Value::Object).collect()));
    whole.extend(usage.map(|usage| ("usage".to_owned(), usage)));
    serde_json::to_vec(&Value::Object(whole)).ok()
}

/// The events without the usage event that the caller did not ask for, and without the
/// null `usage` that goes with it.
pub fn without_usage(events: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.len());
    for data in sse::data(events) {
        let parsed = serde_json::from_slice::<Map<String, Value>>(&data);
        let mut text = None;
        if let Ok(mut event) = parsed {
            let no_choice =
                event.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty);
            if event.remove("usage").is_some() {
                if no_choice {
                    continue;
                }
                text = Some(Value::Object(event).to_string());
            }
        }
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(text.as_ref().map_or(&data, |text| text.as_bytes()));
        out.extend_from_slice(b"\n\n");
    }
    out
}

/// The deltas that build a message up again: its role, its texts in pieces, the rest whole.
fn deltas(message: Map<String, Value>) -> Vec<Value> {
    let mut first = Map::new();
    let mut rest = Vec::new();
    for (key, value) in message {
        match value {
            Value::String(text) if key != "role" => {
                first.insert(key.clone(), json!(""));
                rest.extend(pieces(&text).map(|piece| json!({ &key: piece })));
            }
            Value::Array(items) if key == "tool_calls" => {
                rest.extend(items.into_iter().enumerate().map(|(index, mut item)| {
                    if let Some(item) = item.as_object_mut() {
                        item.insert("index".into(), json!(index));
                    }
                    json!({"tool_calls": [item]})
                }));
            }
            value => {
                first.insert(key, value);
            }
        }
    }
    std::iter::once(Value::Object(first)).chain(rest).collect()
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(PIECE_CHARS).map_or(rest.len(), |(at, _)| at);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn add_choice(choices: &mut Vec<Map<String, Value>>, part: Value) -> Option<()> {
    let Value::Object(mut part) = part else { return None };
    let index = part.get("index").and_then(Value::as_u64).unwrap_or(0);
    // Choices are few (`n` is at most 128); what a stream says beyond that is no chat.
    let index = usize::try_from(index).ok().filter(|index| *index < 128)?;
    while choices.len() <= index {
        let index = choices.len();
        choices.push(Map::from_iter([
            ("index".to_owned(), json!(index)),
            ("message".to_owned(), json!({})),
        ]));
    }
    let choice = &mut choices[index];
    if let Some(delta) = part.remove("delta") {
        merge(choice.get_mut("message")?, delta);
    }
    part.remove("index");
    for (key, value) in part {
        let slot = choice.entry(key).or_insert(Value::Null);
        match value {
            Value::Null => {}
            // Log probabilities come in pieces; everything else is said once.
            Value::Object(_) => merge(slot, value),
            value => *slot = value,
        }
    }
    Some(())
}

/// Takes out the `index` of each tool call: it belongs to the stream's form, where later
/// deltas refer to it.
fn drop_indexes(choice: &mut Map<String, Value>) {
    let calls = choice.get_mut("message").and_then(|message| message.get_mut("tool_calls"));
    for call in calls.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(call) = call.as_object_mut() {
            call.shift_remove("index");
        }
    }
}

/// Adds a delta: texts are joined, lists merged by their items' `index`, objects by key;
/// what cannot be joined is replaced.
fn merge(into: &mut Value, delta: Value) {
    match (into, delta) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(delta)) => {
            for (key, value) in delta {
                match into.get_mut(&key) {
                    Some(slot) if value.is_null() || !said_once(&key) => merge(slot, value),
                    _ => {
                        into.insert(key, value);
                    }
                }
            }
        }
        (Value::String(into), Value::String(delta)) => into.push_str(&delta),
        (Value::Array(into), Value::Array(delta)) => {
            for item in delta {
                let at = |item: &Value| item.get("index").and_then(Value::as_u64);
                let same = at(&item).and_then(|n| into.iter().position(|old| at(old) == Some(n)));
                match same {
                    Some(same) => merge(&mut into[same], item),
                    None => into.push(item),
                }
            }
        }
        (into, delta) => *into = delta,
    }
}

/// Text fields that are repeated, not continued.
fn said_once(key: &str) -> bool {
    matches!(key, "role" | "type" | "id" | "index")
}

#[cfg(test)]
mod tests;
