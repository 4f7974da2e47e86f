//! Writing a request.

use serde_json::{Map, Value, json};

use super::write_messages::Messages;
use crate::codec::Target;
use crate::neutral::{
    Effort, Field, Format, Request, Tool, ToolChoice, Unsupported, What, Written,
};
use crate::responses::write_request::{effort_of, format_name, takes_breakpoints};

/// Longest name of a function (OpenAI's API reference, `tools[].function.name`).
const TOOL_NAME_MAX: usize = 64;

/// OpenAI takes so many stop texts.
const STOPS_MAX: usize = 4;

/// Writes the body of `POST /v1/chat/completions`.
pub(super) fn write(request: &Request, target: &Target) -> Result<Written, Unsupported> {
    let quirks = &target.quirks;
    refuse(request, target)?;
    let mut messages = Messages::new(target, takes_breakpoints(&target.model));
    messages.system(&request.system);
    for (at, message) in request.messages.iter().enumerate() {
        messages.message(at, message)?;
    }
    let (mut messages, mut warnings) = messages.end();
    let mut body = Map::new();
    let mut add = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    add("model", json!(target.model));
    if messages.is_empty() {
        // Turns without parts leave none, and a list of none is refused.
        messages.push(json!({"role": "user", "content": ""}));
    }
    add("messages", Value::Array(messages));
    if !request.tools.is_empty() {
        let tools: Result<Vec<_>, _> = request.tools.iter().enumerate().map(write_tool).collect();
        add("tools", Value::Array(tools?));
        if let Some(choice) = &request.tool_choice {
            add("tool_choice", tool_choice(choice, quirks.short_call_ids));
        }
        if let Some(parallel) = request.parallel_tools {
            add("parallel_tool_calls", json!(parallel));
        }
    }
    if let Some(max_tokens) = request.max_tokens {
        let name = if quirks.max_tokens_only { "max_tokens" } else { "max_completion_tokens" };
        add(name, json!(max_tokens));
    }
    for (name, value) in [
        ("temperature", request.temperature),
        ("top_p", request.top_p),
        ("presence_penalty", request.presence_penalty.filter(|penalty| *penalty != 0.0)),
        ("frequency_penalty", request.frequency_penalty.filter(|penalty| *penalty != 0.0)),
    ] {
        if let Some(value) = value {
            add(name, json!(value));
        }
    }
    if let Some(top_k) = request.top_k {
        add("top_k", json!(top_k));
    }
    if !request.stop.is_empty() {
        add("stop", json!(request.stop));
    }
    if let Some(seed) = request.seed {
        add(if quirks.short_call_ids { "random_seed" } else { "seed" }, json!(seed));
    }
    if let Some(format) = &request.format {
        add("response_format", response_format(format));
    }
    let effort = request.reasoning.effort.or_else(|| {
        let effort = effort_of(request.reasoning.budget?);
        if effort != Effort::None {
            let text = "there is no budget of thinking tokens, so the nearest effort was set";
            warnings.push(text.to_owned());
        }
        Some(effort)
    });
    if let Some(effort) = effort {
        add("reasoning_effort", json!(effort.as_str()));
    }
    keep_books(request, quirks.max_tokens_only, &mut add);
    if request.stream {
        add("stream", json!(true));
        if !quirks.no_stream_options {
            // Usage comes only when asked for, and is needed for limits and costs; the writer
            // of the caller's stream leaves it out where the caller did not ask.
            add("stream_options", json!({"include_usage": true}));
        }
    }
    Ok(Written { body: Value::Object(body), warnings })
}

fn refuse(request: &Request, target: &Target) -> Result<(), Unsupported> {
    if let Some((path, _)) = request.extra.first() {
        let why = "it has no counterpart in OpenAI's chat completions; leave it out, or use a \
                   model that is served in your own API's format";
        return Err(Unsupported { what: What::Extra(path.clone()), why: why.to_owned() });
    }
    if request.top_k.is_some() && !target.quirks.top_k {
        return Err(Unsupported::field(Field::TopK, "there is no top-k sampling; leave it out"));
    }
    if request.stop.len() > STOPS_MAX {
        return Err(Unsupported::field(Field::Stop, "at most 4 stop texts are taken"));
    }
    Ok(())
}

/// Adds what does not change the answer, for OpenAI alone: others refuse what they do not
/// know, and its loss is harmless.
fn keep_books(request: &Request, other: bool, add: &mut impl FnMut(&str, Value)) {
    let fits = |text: &str, max: usize| text.chars().count() <= max;
    if other {
        if let Some(user) = &request.user {
            add("user", json!(user));
        }
        return;
    }
    let fit = |(key, value): &&(String, String)| fits(key, 64) && fits(value, 512);
    let labels: Map<_, _> = request
        .labels
        .iter()
        .filter(fit)
        .take(16)
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !labels.is_empty() {
        add("metadata", Value::Object(labels));
    }
    let names = [("safety_identifier", &request.user), ("prompt_cache_key", &request.cache_key)];
    for (name, value) in names {
        if let Some(value) = value.as_ref().filter(|value| fits(value, 64)) {
            add(name, json!(value));
        }
    }
}

fn write_tool((at, tool): (usize, &Tool)) -> Result<Value, Unsupported> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if tool.name.len() > TOOL_NAME_MAX || !tool.name.chars().all(valid) {
        let why = "a function's name has at most 64 letters, digits, `_` and `-`";
        return Err(Unsupported { what: What::Tool(at), why: why.to_owned() });
    }
    let mut function = Map::new();
    function.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), json!(description));
    }
    if let Some(schema) = &tool.schema {
        function.insert("parameters".to_owned(), schema.clone());
    }
    if let Some(strict) = tool.strict {
        function.insert("strict".to_owned(), json!(strict));
    }
    Ok(json!({"type": "function", "function": function}))
}

fn tool_choice(choice: &ToolChoice, mistral: bool) -> Value {
    let named = |name: &String| json!({"type": "function", "function": {"name": name}});
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Any if mistral => json!("any"),
        ToolChoice::Any => json!("required"),
        ToolChoice::Named(name) => named(name),
        ToolChoice::Among { names, required } => {
            let tools: Vec<_> = names.iter().map(named).collect();
            let mode = if *required { "required" } else { "auto" };
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
        }
    }
}

fn response_format(format: &Format) -> Value {
    match format {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema { name, description, schema, strict } => {
            let mut written = Map::new();
            written.insert("name".to_owned(), json!(format_name(name.as_deref())));
            if let Some(description) = description {
                written.insert("description".to_owned(), json!(description));
            }
            written.insert("schema".to_owned(), schema.clone());
            if let Some(strict) = strict {
                written.insert("strict".to_owned(), json!(strict));
            }
            json!({"type": "json_schema", "json_schema": written})
        }
    }
}
