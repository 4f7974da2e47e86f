//! What an answer says: its tokens, how many they are, and why they end.

use serde_json::{Map, Value};

use crate::api::{Chat, Form};
use crate::text::{Blocks, Vocabulary, mix, output_tokens};

/// The whole answer, decided before its first token is computed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) content: Content,
    /// Tokens that the engine generates.
    pub(crate) tokens: u32,
    pub(crate) finish: Finish,
}

/// The words of an answer.
#[derive(Debug)]
pub(crate) enum Content {
    /// Prose by seed; where a stop string cuts it, only so many bytes count.
    Prose { seed: u64, bytes: usize },
    /// A JSON document.
    Json(String),
    /// A tool call; its name takes the first tokens.
    Tool { id: String, name: String, name_tokens: u32, arguments: String },
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    ToolCalls,
}

impl Finish {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

impl Answer {
    /// Decides on an answer of at most `room` tokens. `seed` covers everything that it
    /// depends on; `median` is that of free output lengths.
    pub(crate) fn new(
        chat: &Chat,
        seed: u64,
        room: u32,
        median: u32,
        (words, token_bytes): (&Vocabulary, usize),
    ) -> Self {
        let limit = chat.max_tokens.map_or(room, |max| max.min(room));
        let count = |bytes: usize| u32::try_from(bytes.div_ceil(token_bytes)).unwrap_or(u32::MAX);
        let (content, tokens, finish) = match &chat.form {
            Form::Text => {
                let free = output_tokens(seed, median).max(chat.min_tokens);
                let tokens = if chat.ignore_eos { limit } else { free };
                let (tokens, finish) = match chat.ignore_eos || tokens > limit {
                    true => (limit, Finish::Length),
                    false => (tokens, Finish::Stop),
                };
                let bytes = tokens as usize * token_bytes;
                let stop = find_stop(chat, words, seed, tokens);
                let (bytes, tokens, finish) = match stop {
                    // The tokens that hold the stop string are generated, but not shown.
                    Some((at, end)) => (at, count(end), Finish::Stop),
                    None => (bytes, tokens, finish),
                };
                (Content::Prose { seed, bytes }, tokens, finish)
            }
            Form::Json(schema) => {
                let schema = if schema.is_null() { &default_schema() } else { schema };
                let text = instance(schema, schema, words, seed, 0).to_string();
                let tokens = count(text.len());
                (Content::Json(text), tokens, Finish::Stop)
            }
            Form::Tool { name, parameters } => {
                let mut arguments = instance(parameters, parameters, words, seed, 0);
                if !arguments.is_object() {
                    arguments = Value::Object(Map::new());
                }
                let arguments = arguments.to_string();
                let name_tokens = count(name.len() + 1);
                let tokens = name_tokens.saturating_add(count(arguments.len()));
                let id = format!("call_{:016x}", mix(seed));
                let content = Content::Tool { id, name: name.clone(), name_tokens, arguments };
                (content, tokens, Finish::ToolCalls)
            }
        };
        let finish = if tokens > limit { Finish::Length } else { finish };
        Self { content, tokens: tokens.min(limit).max(1), finish }
    }

    /// Adds what is generated to the prompt's hashes.
    pub(crate) fn push(&self, blocks: &mut Blocks, words: &Vocabulary) {
        match &self.content {
            Content::Prose { seed, .. } => {
                (0..self.tokens).for_each(|i| blocks.push(words.token(*seed, i).as_bytes()));
            }
            Content::Json(text) => {
                blocks.push(text.as_bytes());
                blocks.pad();
            }
            Content::Tool { name, arguments, .. } => blocks.tool_call(name, arguments),
        }
    }
}

/// The first stop string in the text: where it begins and ends.
fn find_stop(chat: &Chat, words: &Vocabulary, seed: u64, tokens: u32) -> Option<(usize, usize)> {
    if chat.stop.is_empty() {
        return None;
    }
    let text = words.text(seed, 0, tokens);
    let found = chat.stop.iter().filter_map(|stop| text.find(stop).map(|at| (at, at + stop.len())));
    found.min()
}

fn default_schema() -> Value {
    serde_json::json!({"properties": {"result": {"type": "string"}, "ok": {"type": "boolean"}}})
}

/// A small value that satisfies a JSON schema as far as tools and formats use them: types,
/// enums, constants, unions, local references, bounds of numbers, lengths and items.
pub(crate) fn instance(
    schema: &Value,
    root: &Value,
    words: &Vocabulary,
    seed: u64,
    depth: u32,
) -> Value {
    let next =
        |schema: &Value, salt: u64| instance(schema, root, words, mix(seed ^ mix(salt)), depth + 1);
    let Some(object) = schema.as_object().filter(|_| depth < DEPTH_MAX) else { return Value::Null };
    if let Some(value) = object.get("const") {
        return value.clone();
    }
    if let Some(values) = object.get("enum").and_then(Value::as_array)
        && !values.is_empty()
    {
        return values[seed as usize % values.len()].clone();
    }
    if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or(Value::Null, |target| next(target, 1));
    }
    for union in ["anyOf", "oneOf", "allOf"] {
        if let Some(schemas) = object.get(union).and_then(Value::as_array)
            && let Some(first) = schemas.first()
        {
            return next(first, 2);
        }
    }
    let bound = |key: &str| object.get(key).and_then(Value::as_f64);
    let length = |key: &str| object.get(key).and_then(Value::as_u64);
    let kind = match object.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or("null"),
        _ if object.contains_key("properties") => "object",
        _ if object.contains_key("items") => "array",
        _ => "string",
    };
    match kind {
        "object" => {
            let mut members = Map::new();
            let properties = object.get("properties").and_then(Value::as_object);
            for (i, (key, schema)) in properties.into_iter().flatten().enumerate() {
                // Optional members are there, except where a schema may contain itself.
                if depth < DEPTH_OPTIONAL || is_required(object, key) {
                    members.insert(key.clone(), next(schema, 16 + i as u64));
                }
            }
            Value::Object(members)
        }
        "array" => {
            let items = object.get("items").unwrap_or(&Value::Null);
            let wanted = if depth < DEPTH_OPTIONAL { 1 } else { 0 };
            let n = length("minItems").unwrap_or(wanted).min(ITEMS_MAX);
            Value::Array((0..n).map(|i| next(items, 1 << 16 | i)).collect())
        }
        "integer" | "number" => {
            let low = bound("minimum").or(bound("exclusiveMinimum").map(|low| low + 1.0));
            let high = bound("maximum").or(bound("exclusiveMaximum").map(|high| high - 1.0));
            let low = low.unwrap_or_else(|| high.map_or(0.0, |high| high.min(0.0)));
            let high = high.unwrap_or(low + 100.0).max(low);
            let number =
                low.ceil() + ((high - low.ceil()).max(0.0) * crate::text::uniform(seed)).floor();
            if kind == "integer" { Value::from(number as i64) } else { Value::from(number) }
        }
        "boolean" => Value::Bool(seed & 1 == 1),
        "null" => Value::Null,
        _ => {
            let mut text = words.text(seed, 0, 3).trim_end().to_owned();
            let min = length("minLength").unwrap_or(0).min(STRING_MAX) as usize;
            while text.len() < min {
                text.push('a');
            }
            if let Some(max) = length("maxLength") {
                text.truncate(usize::try_from(max).unwrap_or(usize::MAX));
            }
            Value::String(text)
        }
    }
}

fn is_required(object: &Map<String, Value>, key: &str) -> bool {
    let required = object.get("required").and_then(Value::as_array);
    required.is_some_and(|keys| keys.iter().any(|k| k == key))
}

const DEPTH_MAX: u32 = 32;
const DEPTH_OPTIONAL: u32 = 4;
const ITEMS_MAX: u64 = 64;
const STRING_MAX: u64 = 4096;
