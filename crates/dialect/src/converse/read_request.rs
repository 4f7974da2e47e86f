//! Reading a request.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::read_blocks::{blocks, mark, parts};
use super::response::SEQUENCE;
use crate::codec::PathFacts;
use crate::members::Members;
use crate::neutral::{
    Effort, Fault, Format, Message, Part, Reasoning, Request, Role, Tool, ToolChoice,
};

/// Reads the body; the model stands in the path.
pub(super) fn read(body: Value, path: &PathFacts) -> Result<Request, Fault> {
    let mut body = Members::of(body, "")?;
    let mut request = Request {
        model: path.model.clone().unwrap_or_default(),
        stream: path.stream,
        include_usage: path.stream,
        ..Request::default()
    };
    request.system = blocks(&mut body, "system", &mut request.extra)?;
    body.check_instructions("system", &request.system)?;
    let messages = body.list("messages")?.ok_or_else(|| body.fault("messages", "is missing"))?;
    for (path, value) in messages {
        let mut message = Members::of(value, path)?;
        let role = match message.required_text("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(message.fault("role", "must be user, assistant or system")),
        };
        let parts = parts(&mut message, &mut request.extra)?;
        check_owners(&message, role, &parts)?;
        message.rest(&mut request.extra);
        if role == Role::System && request.messages.is_empty() {
            request.system.extend(parts);
        } else if !parts.is_empty() {
            request.messages.push(Message { role, parts, name: None });
        }
    }
    name_results(&mut request.messages)?;
    tool_config(&mut body, &mut request)?;
    inference(&mut body, &mut request)?;
    more_fields(&mut body, &mut request)?;
    output_config(&mut body, &mut request)?;
    if let Some(Value::Object(labels)) = body.take("requestMetadata") {
        let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
        request.labels = labels.into_iter().filter_map(text).collect();
    }
    // What the writer asks for, and the answer's reader understands.
    if let Some(paths) =
        body.take("additionalModelResponseFieldPaths").filter(|paths| *paths != json!([SEQUENCE]))
    {
        request.extra.push(("additionalModelResponseFieldPaths".to_owned(), paths));
    }
    if let Some(tier) = body.take("serviceTier").filter(|tier| *tier != json!({"type": "default"}))
    {
        request.extra.push(("serviceTier".to_owned(), tier));
    }
    body.rest(&mut request.extra);
    Ok(request)
}

/// Calls are the model's, results the user's, and instructions text.
fn check_owners(message: &Members, role: Role, parts: &[Part]) -> Result<(), Fault> {
    if role == Role::System {
        return message.check_instructions("content", parts);
    }
    let others = |part: &Part| match part {
        Part::ToolCall { .. } => role != Role::Assistant,
        Part::ToolResult { .. } => role != Role::User,
        _ => false,
    };
    parts.iter().position(others).map_or(Ok(()), |at| {
        let problem = "is a call in a turn of the user, or a result in one of the model";
        Err(message.fault(&format!("content[{at}]"), problem))
    })
}

/// Results name the call only; other dialects want the function.
///
/// # Errors
/// Where a result is of no call before it.
fn name_results(messages: &mut [Message]) -> Result<(), Fault> {
    let mut names = HashMap::new();
    for (at, message) in messages.iter_mut().enumerate() {
        for part in &mut message.parts {
            match part {
                Part::ToolCall { id, name, .. } => {
                    names.insert(id.clone(), name.clone());
                }
                Part::ToolResult { id, name, .. } => {
                    let fault = || Fault::new(format!("messages[{at}]"), "has a result of no call");
                    *name = names.get(id).cloned().ok_or_else(fault)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn tool_config(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let Some(mut config) = body.object("toolConfig")? else { return Ok(()) };
    for (path, value) in config.list("tools")?.unwrap_or_default() {
        let mut tool = Members::of(value, path)?;
        if let Some(point) = tool.object("cachePoint")? {
            if let Some(last) = request.tools.last_mut() {
                last.cache = Some(mark(point)?);
            }
            continue;
        }
        let Some(mut spec) = tool.object("toolSpec")? else {
            // Tools of Bedrock's own.
            tool.rest(&mut request.extra);
            continue;
        };
        let schema = spec.object("inputSchema")?.and_then(|mut schema| schema.take("json"));
        if schema.as_ref().is_some_and(|schema: &Value| !schema.is_object()) {
            return Err(spec.fault("inputSchema.json", "must be an object"));
        }
        request.tools.push(Tool {
            name: spec.required_text("name")?,
            description: spec.text("description")?,
            schema,
            strict: spec.flag("strict")?,
            cache: None,
        });
    }
    if let Some(mut choice) = config.object("toolChoice")? {
        request.tool_choice = Some(if choice.has("any") {
            ToolChoice::Any
        } else if let Some(mut tool) = choice.object("tool")? {
            ToolChoice::Named(tool.required_text("name")?)
        } else {
            ToolChoice::Auto
        });
    }
    config.rest(&mut request.extra);
    Ok(())
}

fn inference(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let Some(mut config) = body.object("inferenceConfig")? else { return Ok(()) };
    request.max_tokens = config.whole("maxTokens")?;
    request.temperature = config.number("temperature")?;
    request.top_p = config.number("topP")?;
    request.stop = config.texts("stopSequences")?.unwrap_or_default();
    config.rest(&mut request.extra);
    Ok(())
}

fn more_fields(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let Some(mut fields) = body.object("additionalModelRequestFields")? else { return Ok(()) };
    request.top_k = fields.whole("top_k")?;
    if let Some(mut thinking) = fields.object("thinking")? {
        let budget = thinking.whole("budget_tokens")?;
        request.reasoning = match thinking.text("type")?.as_deref() {
            Some("adaptive") => Reasoning { adaptive: true, ..Reasoning::default() },
            Some("disabled") => Reasoning { budget: Some(0), ..Reasoning::default() },
            _ => Reasoning { budget, ..Reasoning::default() },
        };
        thinking.rest(&mut request.extra);
    }
    fields.rest(&mut request.extra);
    Ok(())
}

fn output_config(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let Some(mut config) = body.object("outputConfig")? else { return Ok(()) };
    if let Some(effort) = config.text("effort")? {
        let effort = Effort::parse(&effort);
        request.reasoning.effort =
            Some(effort.ok_or_else(|| config.fault("effort", "is no level of effort"))?);
    }
    if let Some(mut format) = config.object("textFormat")? {
        let structure = format.object("structure")?;
        let schema = structure.map(|mut structure| structure.object("jsonSchema")).transpose()?;
        let Some(mut written) = schema.flatten() else {
            return Err(format.fault("structure", "must have a jsonSchema"));
        };
        let text = written.required_text("schema")?;
        let schema = serde_json::from_str(&text)
            .map_err(|error| written.fault("schema", format!("is no JSON: {error}")))?;
        let (name, description) = (written.text("name")?, written.text("description")?);
        request.format = Some(Format::Schema { name, description, schema, strict: None });
    }
    config.rest(&mut request.extra);
    Ok(())
}
