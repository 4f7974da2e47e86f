//! Taking up a stored answer: what a request's `previous_response_id` and references mean,
//! for a server that keeps the answers which it has translated.

use serde_json::{Map, Value, json};

/// The items of a request's input, to be kept with its answer's `output`.
pub fn input_items_of(body: &Value) -> Vec<Value> {
    match body.get("input") {
        Some(Value::String(text)) => {
            vec![json!({"type": "message", "role": "user", "content": text})]
        }
        Some(Value::Array(items)) => items.clone(),
        _ => Vec::new(),
    }
}

/// A request with what its `previous_response_id` stands for: that answer's input and output
/// come before its own input. The instructions of that request do not, as with OpenAI.
///
/// `stored_input` is what [`input_items_of`] gave for the request (itself continued so, where
/// it went on from another), `stored_output` is the `output` of the answer.
pub fn continue_from(
    stored_input: Vec<Value>,
    stored_output: Vec<Value>,
    mut body: Value,
) -> Value {
    let mut items = stored_input;
    items.extend(stored_output);
    items.extend(input_items_of(&body));
    if let Some(map) = body.as_object_mut() {
        map.shift_remove("previous_response_id");
        map.insert("input".to_owned(), Value::Array(items));
    }
    body
}

/// A request with each `item_reference` in its input replaced by the item that `find` knows
/// of that identifier. The others are left, and reading the request leaves them over.
pub fn resolve_references(mut body: Value, mut find: impl FnMut(&str) -> Option<Value>) -> Value {
    if let Some(items) = body.get_mut("input").and_then(Value::as_array_mut) {
        for item in items {
            if let Some(found) = item.as_object().and_then(reference).and_then(&mut find) {
                *item = found;
            }
        }
    }
    body
}

/// The identifier that a reference names; its type may be left out.
fn reference(item: &Map<String, Value>) -> Option<&str> {
    let kind = item.get("type").filter(|kind| !kind.is_null());
    let refers = match kind {
        Some(kind) => kind == "item_reference",
        None => !item.contains_key("role"),
    };
    item.get("id").filter(|_| refers)?.as_str()
}
