//! Tools and which of them is to be called, read and written.

use serde_json::{Map, Value, json};

use crate::members::Members;
use crate::neutral::{Fault, Tool, ToolChoice};

type Extra = Vec<(String, Value)>;

/// Reads `tools`. What OpenAI itself runs (web search, code, MCP servers), and tools whose
/// input is free text, have no word in other dialects.
pub(super) fn read(body: &mut Members, extra: &mut Extra) -> Result<Vec<Tool>, Fault> {
    let mut tools = Vec::new();
    for (path, value) in body.list("tools")?.unwrap_or_default() {
        if value.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "function") {
            extra.push((path, value));
            continue;
        }
        let mut tool = Members::of(value, path)?;
        tool.required_text("type")?;
        tools.push(Tool {
            name: tool.required_text("name")?,
            description: tool.text("description")?,
            schema: match tool.take("parameters") {
                Some(Value::Object(schema)) => Some(Value::Object(schema)),
                Some(_) => return Err(tool.fault("parameters", "must be an object")),
                None => None,
            },
            // Without it OpenAI tries whether the schema can be followed exactly; the caller
            // has not asked for that, and other vendors refuse more schemas then.
            strict: tool.flag("strict")?,
            cache: None,
        });
        let defaults = [
            ("defer_loading", json!(false)),
            ("async", json!(false)),
            ("allowed_callers", json!(["direct"])),
        ];
        for (name, default) in defaults {
            if let Some(value) = tool.take(name).filter(|value| *value != default) {
                extra.push((tool.path(name), value));
            }
        }
        tool.rest(extra);
    }
    Ok(tools)
}

/// Reads `tool_choice`.
pub(super) fn read_choice(
    body: &mut Members,
    extra: &mut Extra,
) -> Result<Option<ToolChoice>, Fault> {
    let path = body.path("tool_choice");
    let problem = "must be none, auto, required or an object with a type";
    let value = match body.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(mode)) => {
            return match &*mode {
                "none" => Ok(Some(ToolChoice::None)),
                "auto" => Ok(Some(ToolChoice::Auto)),
                "required" => Ok(Some(ToolChoice::Any)),
                _ => Err(Fault::new(path, problem)),
            };
        }
        Some(value) => value,
    };
    match value.get("type").and_then(Value::as_str) {
        Some("function") => {
            let mut choice = Members::of(value, path)?;
            choice.required_text("type")?;
            let name = choice.required_text("name")?;
            choice.rest(extra);
            Ok(Some(ToolChoice::Named(name)))
        }
        Some("allowed_tools") => {
            let mut choice = Members::of(value, path)?;
            choice.required_text("type")?;
            let required = match &*choice.required_text("mode")? {
                "auto" => false,
                "required" => true,
                _ => return Err(choice.fault("mode", "must be auto or required")),
            };
            let mut names = Vec::new();
            for (path, tool) in choice.list("tools")?.unwrap_or_default() {
                if tool.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "function") {
                    extra.push((path, tool));
                    continue;
                }
                names.push(Members::of(tool, path)?.required_text("name")?);
            }
            choice.rest(extra);
            Ok(Some(ToolChoice::Among { names, required }))
        }
        // One of OpenAI's own tools.
        Some(_) => {
            extra.push((path, value));
            Ok(None)
        }
        None => Err(Fault::new(path, problem)),
    }
}

/// A tool, as a request or an answer's echo has it.
pub(super) fn write(tool: &Tool) -> Value {
    let mut written = Map::new();
    written.insert("type".to_owned(), json!("function"));
    written.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        written.insert("description".to_owned(), json!(description));
    }
    written.insert("parameters".to_owned(), parameters(tool.schema.as_ref()));
    // Without it OpenAI would follow the schema exactly, and refuse many that other dialects
    // allow; a caller who says nothing has not asked for that.
    written.insert("strict".to_owned(), json!(tool.strict.unwrap_or(false)));
    Value::Object(written)
}

/// A schema of arguments as OpenAI takes it: it refuses objects that do not say so, or that
/// list no members. Tools without arguments often come so.
fn parameters(schema: Option<&Value>) -> Value {
    let mut schema = schema.and_then(Value::as_object).cloned().unwrap_or_default();
    if schema.is_empty() {
        schema.insert("type".to_owned(), json!("object"));
    }
    if schema.get("type").is_some_and(|kind| kind == "object") && !schema.contains_key("properties")
    {
        schema.insert("properties".to_owned(), json!({}));
    }
    Value::Object(schema)
}

/// A choice, as a request or an answer's echo has it.
pub(super) fn write_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Any => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "name": name}),
        ToolChoice::Among { names, required } => {
            let tools: Vec<_> =
                names.iter().map(|name| json!({"type": "function", "name": name})).collect();
            let mode = if *required { "required" } else { "auto" };
            json!({"type": "allowed_tools", "mode": mode, "tools": tools})
        }
    }
}
