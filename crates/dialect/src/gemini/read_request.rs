//! Reading a request.

use serde_json::{Value, json};

use super::read_parts::{Contents, take};
use crate::codec::PathFacts;
use crate::members::Members;
use crate::neutral::{Effort, Fault, Format, Reasoning, Request, Tool, ToolChoice};

type Extra = Vec<(String, Value)>;

/// Reads the body; the model stands in the path.
pub(super) fn read(body: Value, path: &PathFacts) -> Result<Request, Fault> {
    if !body.is_object() {
        return Err(Fault::new("body", "must be an object"));
    }
    let mut body = Members::of(body, "")?;
    let mut request = Request {
        model: path.model.clone().unwrap_or_default(),
        stream: path.stream,
        include_usage: path.stream,
        ..Request::default()
    };
    // Some clients send it in the body too.
    body.text("model")?;
    let mut contents = Contents::new(&mut request.extra);
    match take(&mut body, "systemInstruction", "system_instruction") {
        None => {}
        Some(Value::String(text)) => {
            request.system.push(crate::neutral::Part::Text { text, cache: None });
        }
        Some(value) => {
            let mut system = Members::of(value, "systemInstruction")?;
            system.text("role")?;
            request.system = contents.parts(&mut system)?;
        }
    }
    let turns = body.list("contents")?.ok_or_else(|| body.fault("contents", "is missing"))?;
    if turns.is_empty() {
        return Err(body.fault("contents", "must not be empty"));
    }
    for (path, turn) in turns {
        request.messages.push(contents.message(turn, path)?);
    }
    tools(&mut body, &mut request)?;
    request.tool_choice = tool_choice(&mut body, &mut request.extra)?;
    if let Some(value) = take(&mut body, "generationConfig", "generation_config") {
        config(Members::of(value, "generationConfig")?, &mut request)?;
    }
    if let Some(mut labels) = body.object("labels")? {
        let mut left = Vec::new();
        std::mem::replace(&mut labels, Members::of(json!({}), "labels")?).rest(&mut left);
        let label = |(path, value): (String, Value)| {
            let name = path.trim_start_matches("labels.").to_owned();
            Some((name, value.as_str()?.to_owned()))
        };
        request.labels = left.into_iter().filter_map(label).collect();
    }
    body.rest(&mut request.extra);
    Ok(request)
}

fn tools(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    for (path, value) in body.list("tools")?.unwrap_or_default() {
        let mut tool = Members::of(value, path)?;
        let declared = match take(&mut tool, "functionDeclarations", "function_declarations") {
            Some(Value::Array(items)) => items,
            Some(_) => return Err(tool.fault("functionDeclarations", "must be a list")),
            None => Vec::new(),
        };
        let path = tool.path("functionDeclarations");
        for (at, value) in declared.into_iter().enumerate() {
            let mut function = Members::of(value, format!("{path}[{at}]"))?;
            let new = take(&mut function, "parametersJsonSchema", "parameters_json_schema");
            let schema = new.or_else(|| function.take("parameters").map(lowered));
            if schema.as_ref().is_some_and(|schema| !schema.is_object()) {
                return Err(function.fault("parameters", "must be an object"));
            }
            request.tools.push(Tool {
                name: function.required_text("name")?,
                description: function.text("description")?,
                schema,
                strict: None,
                cache: None,
            });
            // What a function gives has no word elsewhere, and binds nobody.
            take(&mut function, "response", "response");
            take(&mut function, "responseJsonSchema", "response_json_schema");
            function.rest(&mut request.extra);
        }
        // Google's own tools.
        tool.rest(&mut request.extra);
    }
    Ok(())
}

/// A schema of the older form, whose types are in capitals, as JSON Schema.
fn lowered(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match value {
                    Value::String(kind) if name == "type" => *kind = kind.to_ascii_lowercase(),
                    // The names of members are no keywords.
                    Value::Object(members) if name == "properties" => {
                        for member in members.values_mut() {
                            *member = lowered(member.take());
                        }
                    }
                    Value::Object(_) | Value::Array(_) if name != "enum" => {
                        *value = lowered(value.take());
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = lowered(item.take());
            }
        }
        _ => {}
    }
    schema
}

fn tool_choice(body: &mut Members, extra: &mut Extra) -> Result<Option<ToolChoice>, Fault> {
    let Some(value) = take(body, "toolConfig", "tool_config") else { return Ok(None) };
    let mut config = Members::of(value, "toolConfig")?;
    let calling = take(&mut config, "functionCallingConfig", "function_calling_config");
    config.rest(extra);
    let Some(value) = calling else { return Ok(None) };
    let mut calling = Members::of(value, "toolConfig.functionCallingConfig")?;
    let mode = calling.text("mode")?.unwrap_or_default().to_ascii_uppercase();
    let allowed = take(&mut calling, "allowedFunctionNames", "allowed_function_names");
    let names: Vec<String> = match allowed {
        None => Vec::new(),
        Some(value) => serde_json::from_value(value)
            .map_err(|_| calling.fault("allowedFunctionNames", "must be a list of texts"))?,
    };
    let choice = match (&*mode, &*names) {
        ("NONE", _) => ToolChoice::None,
        ("ANY", []) => ToolChoice::Any,
        ("ANY", [name]) => ToolChoice::Named(name.clone()),
        ("ANY", _) => ToolChoice::Among { names, required: true },
        ("" | "AUTO" | "VALIDATED" | "MODE_UNSPECIFIED", []) => ToolChoice::Auto,
        ("" | "AUTO" | "VALIDATED" | "MODE_UNSPECIFIED", _) => {
            ToolChoice::Among { names, required: false }
        }
        _ => return Err(calling.fault("mode", "must be AUTO, ANY, NONE or VALIDATED")),
    };
    calling.rest(extra);
    Ok(Some(choice))
}

fn config(mut config: Members, request: &mut Request) -> Result<(), Fault> {
    for (snake, camel) in [
        ("max_output_tokens", "maxOutputTokens"),
        ("top_p", "topP"),
        ("top_k", "topK"),
        ("stop_sequences", "stopSequences"),
        ("presence_penalty", "presencePenalty"),
        ("frequency_penalty", "frequencyPenalty"),
    ] {
        config.rename(snake, camel);
    }
    request.max_tokens = config.whole("maxOutputTokens")?;
    request.temperature = config.number("temperature")?;
    request.top_p = config.number("topP")?;
    request.top_k = config.whole("topK")?;
    request.seed = config.integer("seed")?;
    request.stop = config.texts("stopSequences")?.unwrap_or_default();
    request.presence_penalty = config.number("presencePenalty")?;
    request.frequency_penalty = config.number("frequencyPenalty")?;
    request.format = format(&mut config)?;
    if let Some(value) = take(&mut config, "thinkingConfig", "thinking_config") {
        let thinking = Members::of(value, "generationConfig.thinkingConfig")?;
        request.reasoning = thinking_of(thinking, &mut request.extra)?;
    }
    let defaults = [
        ("candidateCount", json!(1)),
        ("candidate_count", json!(1)),
        ("responseModalities", json!(["TEXT"])),
        ("response_modalities", json!(["TEXT"])),
        ("responseLogprobs", json!(false)),
    ];
    for (name, default) in defaults {
        if let Some(value) = config.take(name).filter(|value| *value != default) {
            request.extra.push((config.path(name), value));
        }
    }
    config.rest(&mut request.extra);
    Ok(())
}

fn format(config: &mut Members) -> Result<Option<Format>, Fault> {
    let mime = take(config, "responseMimeType", "response_mime_type");
    let new = take(config, "responseJsonSchema", "response_json_schema");
    let schema = new.or_else(|| take(config, "responseSchema", "response_schema").map(lowered));
    match (mime.as_ref().and_then(Value::as_str), schema) {
        (_, Some(schema)) => {
            Ok(Some(Format::Schema { name: None, description: None, schema, strict: None }))
        }
        (None | Some("text/plain"), None) => Ok(None),
        (Some("application/json"), None) => Ok(Some(Format::Json)),
        _ => Err(config.fault("responseMimeType", "must be text/plain or application/json")),
    }
}

fn thinking_of(mut thinking: Members, extra: &mut Extra) -> Result<Reasoning, Fault> {
    let mut read = Reasoning::default();
    for (snake, camel) in [
        ("thinking_level", "thinkingLevel"),
        ("thinking_budget", "thinkingBudget"),
        ("include_thoughts", "includeThoughts"),
    ] {
        thinking.rename(snake, camel);
    }
    if let Some(level) = thinking.text("thinkingLevel")? {
        let unknown = || thinking.fault("thinkingLevel", "must be MINIMAL, LOW, MEDIUM or HIGH");
        let effort = Effort::parse(&level.to_ascii_lowercase());
        read.effort = Some(effort.ok_or_else(unknown)?);
    }
    match thinking.integer("thinkingBudget")? {
        None => {}
        Some(-1) => read.adaptive = true,
        Some(budget) => {
            let wrong = |_| thinking.fault("thinkingBudget", "must be at least -1");
            read.budget = Some(u64::try_from(budget).map_err(wrong)?);
        }
    }
    read.shown = thinking.flag("includeThoughts")?;
    thinking.rest(extra);
    Ok(read)
}
