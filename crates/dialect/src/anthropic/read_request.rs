//! Reading a request.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::blocks::{Blocks, cache_mark};
use crate::codec::PathFacts;
use crate::members::Members;
use crate::neutral::{
    Effort, Fault, Format, Message, Part, Reasoning, Request, Role, Tool, ToolChoice,
};

type Extra = Vec<(String, Value)>;

/// Claude Code's first system block, which holds a number that is another in each call; any
/// other vendor's prompt cache would never hit (trap 6 of our dialect notes).
const BILLING: &str = "x-anthropic-billing-header";

/// Reads the body of `POST /v1/messages`; that of `count_tokens` has no `max_tokens`.
pub(super) fn read(body: Value, path: &PathFacts) -> Result<Request, Fault> {
    if !body.is_object() {
        return Err(Fault::new("body", "must be an object"));
    }
    let mut body = Members::of(body, "")?;
    let mut request = Request::default();
    let model = body.text("model")?.or_else(|| path.model.clone());
    request.model =
        model.filter(|m| !m.is_empty()).ok_or_else(|| body.fault("model", "is missing"))?;
    request.stream = body.flag("stream")?.unwrap_or(path.stream);
    request.include_usage = request.stream;
    request.max_tokens = body.whole("max_tokens")?;
    messages(&mut body, &mut request)?;
    request.tools = tools(&mut body, &mut request.extra)?;
    tool_choice(&mut body, &mut request)?;
    request.temperature = body.number("temperature")?;
    request.top_p = body.number("top_p")?;
    request.top_k = body.whole("top_k")?;
    request.stop = body.texts("stop_sequences")?.unwrap_or_default();
    request.reasoning = thinking(&mut body, &mut request.extra)?;
    if let Some(mut config) = body.object("output_config")? {
        if let Some(effort) = config.text("effort")? {
            let unknown = || config.fault("effort", "must be low, medium, high, xhigh or max");
            request.reasoning.effort = Some(Effort::parse(&effort).ok_or_else(unknown)?);
        }
        request.format = format(&mut config, &mut request.extra)?;
        config.rest(&mut request.extra);
    }
    if let Some(mut metadata) = body.object("metadata")? {
        request.user = metadata.text("user_id")?;
        metadata.rest(&mut request.extra);
    }
    without_effect(&mut body, &mut request.extra)?;
    body.rest(&mut request.extra);
    Ok(request)
}

/// Takes what changes nothing about another vendor's answer.
fn without_effect(body: &mut Members, extra: &mut Extra) -> Result<(), Fault> {
    // Where to cache is a matter of cost.
    cache_mark(body)?;
    // Who may serve the call at which price.
    body.text("service_tier")?;
    if let Some(management) = body.take("context_management") {
        // Old thinking is cleared by itself where thinking does not travel.
        let edits = management.get("edits").and_then(Value::as_array);
        let harmless = edits.is_some_and(|edits| {
            edits.iter().all(|edit| {
                edit.get("type")
                    .and_then(Value::as_str)
                    .is_some_and(|t| t.starts_with("clear_thinking"))
            })
        });
        if !harmless {
            extra.push((body.path("context_management"), management));
        }
    }
    Ok(())
}

fn messages(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let system_path = body.path("system");
    let system = body.take("system");
    let list = body.list("messages")?.ok_or_else(|| body.fault("messages", "is missing"))?;
    if list.is_empty() {
        return Err(body.fault("messages", "must not be empty"));
    }
    let mut blocks = Blocks { extra: &mut request.extra, called: HashMap::new() };
    match system {
        None => {}
        Some(Value::String(text)) => request.system.push(Part::Text { text, cache: None }),
        Some(Value::Array(items)) => {
            for (at, item) in items.into_iter().enumerate() {
                let mut block = Members::of(item, format!("{system_path}[{at}]"))?;
                let cache = cache_mark(&mut block)?;
                block.required_text("type")?;
                let text = block.required_text("text")?;
                block.take("citations");
                block.rest(blocks.extra);
                if !text.starts_with(BILLING) {
                    request.system.push(Part::Text { text, cache });
                }
            }
        }
        Some(_) => return Err(Fault::new(system_path, "must be a text or a list of blocks")),
    }
    for (path, value) in list {
        let mut message = Members::of(value, path)?;
        let role = match &*message.required_text("role")? {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(message.fault("role", "must be user, assistant or system")),
        };
        let parts = blocks.content(&mut message)?;
        if role == Role::System {
            message.check_instructions("content", &parts)?;
        }
        message.rest(blocks.extra);
        request.messages.push(Message { role, parts, name: None });
    }
    Ok(())
}

fn tools(body: &mut Members, extra: &mut Extra) -> Result<Vec<Tool>, Fault> {
    let mut tools = Vec::new();
    for (path, value) in body.list("tools")?.unwrap_or_default() {
        if value.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "custom") {
            // A tool that Anthropic itself runs or defines.
            extra.push((path, value));
            continue;
        }
        let mut tool = Members::of(value, path)?;
        tool.text("type")?;
        let cache = cache_mark(&mut tool)?;
        tools.push(Tool {
            name: tool.required_text("name")?,
            description: tool.text("description")?,
            schema: match tool.take("input_schema") {
                Some(schema @ Value::Object(_)) => Some(schema),
                Some(_) => return Err(tool.fault("input_schema", "must be an object")),
                None => return Err(tool.fault("input_schema", "is missing")),
            },
            strict: tool.flag("strict")?,
            cache,
        });
        // How arguments are streamed.
        tool.flag("eager_input_streaming")?;
        for (name, default) in
            [("defer_loading", json!(false)), ("allowed_callers", json!(["direct"]))]
        {
            if let Some(value) = tool.take(name).filter(|value| *value != default) {
                extra.push((tool.path(name), value));
            }
        }
        tool.rest(extra);
    }
    Ok(tools)
}

fn tool_choice(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let Some(mut choice) = body.object("tool_choice")? else { return Ok(()) };
    request.tool_choice = Some(match &*choice.required_text("type")? {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Any,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.required_text("name")?),
        _ => return Err(choice.fault("type", "must be auto, any, tool or none")),
    });
    request.parallel_tools = choice.flag("disable_parallel_tool_use")?.map(|off| !off);
    choice.rest(&mut request.extra);
    Ok(())
}

fn thinking(body: &mut Members, extra: &mut Extra) -> Result<Reasoning, Fault> {
    let mut read = Reasoning::default();
    let Some(mut thinking) = body.object("thinking")? else { return Ok(read) };
    match &*thinking.required_text("type")? {
        "enabled" => {
            let budget = thinking.whole("budget_tokens")?;
            let missing = || thinking.fault("budget_tokens", "is missing");
            read.budget = Some(budget.ok_or_else(missing)?);
        }
        "adaptive" => read.adaptive = true,
        "disabled" => read.budget = Some(0),
        _ => return Err(thinking.fault("type", "must be enabled, adaptive or disabled")),
    }
    read.shown = thinking.text("display")?.map(|display| display != "omitted");
    thinking.rest(extra);
    Ok(read)
}

fn format(config: &mut Members, extra: &mut Extra) -> Result<Option<Format>, Fault> {
    let Some(mut format) = config.object("format")? else { return Ok(None) };
    let schema = match &*format.required_text("type")? {
        "json_schema" => match format.take("schema") {
            Some(schema @ Value::Object(_)) => schema,
            Some(_) => return Err(format.fault("schema", "must be an object")),
            None => return Err(format.fault("schema", "is missing")),
        },
        _ => return Err(format.fault("type", "must be json_schema")),
    };
    format.rest(extra);
    Ok(Some(Format::Schema { name: None, description: None, schema, strict: None }))
}
