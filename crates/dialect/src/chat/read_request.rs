//! Reading a request.

use serde_json::{Value, json};

use super::messages::{self, cache_mark};
use super::thinking;
use crate::codec::PathFacts;
use crate::members::Members;
use crate::neutral::{Fault, Format, Request, Tool, ToolChoice};

type Extra = Vec<(String, Value)>;

/// Reads the body of `POST /v1/chat/completions`.
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
    if let Some(mut options) = body.object("stream_options")? {
        request.include_usage = options.flag("include_usage")?.unwrap_or(false);
        // Padding against listeners who measure the sizes of packets.
        options.flag("include_obfuscation")?;
        options.rest(&mut request.extra);
    }
    messages::read(&mut body, &mut request)?;
    request.tools = tools(&mut body, &mut request.extra)?;
    request.tool_choice = tool_choice(&mut body, &mut request.extra)?;
    request.parallel_tools = body.flag("parallel_tool_calls")?;
    // Of two limits that say the same, some clients send both.
    let (old, new) = (body.whole("max_tokens")?, body.whole("max_completion_tokens")?);
    request.max_tokens = old.max(new);
    request.temperature = body.number("temperature")?;
    request.top_p = body.number("top_p")?;
    request.top_k = top_k(&mut body)?;
    // Mistral's word.
    body.rename("random_seed", "seed");
    request.seed = body.integer("seed")?;
    request.presence_penalty = body.number("presence_penalty")?;
    request.frequency_penalty = body.number("frequency_penalty")?;
    request.stop = stop(&mut body)?;
    request.format = format(&mut body, &mut request.extra)?;
    request.reasoning = thinking::read(&mut body, &mut request.extra)?;
    labels(&mut body, &mut request)?;
    let user = body.text("user")?;
    request.user = body.text("safety_identifier")?.or(user);
    request.cache_key = body.text("prompt_cache_key")?;
    without_effect(&mut body, &mut request.extra)?;
    body.rest(&mut request.extra);
    Ok(request)
}

/// Reads `top_k`; vLLM's -1 and llama.cpp's 0 switch it off.
fn top_k(body: &mut Members) -> Result<Option<u64>, Fault> {
    match body.integer("top_k")? {
        None | Some(-1 | 0) => Ok(None),
        Some(top_k) => u64::try_from(top_k)
            .map(Some)
            .map_err(|_| body.fault("top_k", "must be a whole number of at least -1")),
    }
}

/// Takes what changes nothing about the answer: members that have their default, and those
/// that concern only where things are kept.
fn without_effect(body: &mut Members, extra: &mut Extra) -> Result<(), Fault> {
    body.flag("store")?;
    body.object("prompt_cache_options")?;
    body.text("prompt_cache_retention")?;
    let defaults = [
        ("n", json!(1)),
        ("logprobs", json!(false)),
        ("top_logprobs", json!(0)),
        ("logit_bias", json!({})),
        ("modalities", json!(["text"])),
        ("service_tier", json!("auto")),
        ("verbosity", json!("medium")),
        ("functions", json!([])),
    ];
    for (name, default) in defaults {
        if let Some(value) = body.take(name).filter(|value| *value != default) {
            extra.push((body.path(name), value));
        }
    }
    Ok(())
}

fn tools(body: &mut Members, extra: &mut Extra) -> Result<Vec<Tool>, Fault> {
    let mut tools = Vec::new();
    for (path, value) in body.list("tools")?.unwrap_or_default() {
        if value.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "function") {
            extra.push((path, value));
            continue;
        }
        let mut tool = Members::of(value, path)?;
        tool.required_text("type")?;
        let mut function =
            tool.object("function")?.ok_or_else(|| tool.fault("function", "is missing"))?;
        // What clients send for Claude behind compatible servers, in either place.
        let cache = cache_mark(&mut tool)?.or(cache_mark(&mut function)?);
        tools.push(Tool {
            name: function.required_text("name")?,
            description: function.text("description")?,
            schema: match function.take("parameters") {
                Some(schema @ Value::Object(_)) => Some(schema),
                Some(_) => return Err(function.fault("parameters", "must be an object")),
                None => None,
            },
            strict: function.flag("strict")?,
            cache,
        });
        function.rest(extra);
        tool.rest(extra);
    }
    Ok(tools)
}

fn tool_choice(body: &mut Members, extra: &mut Extra) -> Result<Option<ToolChoice>, Fault> {
    let path = body.path("tool_choice");
    let problem = "must be none, auto, required or an object with a type";
    let value = match body.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(mode)) => {
            return match &*mode {
                "none" => Ok(Some(ToolChoice::None)),
                "auto" => Ok(Some(ToolChoice::Auto)),
                // Mistral's word.
                "required" | "any" => Ok(Some(ToolChoice::Any)),
                _ => Err(Fault::new(path, problem)),
            };
        }
        Some(value) => value,
    };
    match value.get("type").and_then(Value::as_str) {
        Some("function") => {
            let mut choice = Members::of(value, path)?;
            choice.required_text("type")?;
            let name = named(&mut choice)?;
            choice.rest(extra);
            Ok(Some(ToolChoice::Named(name)))
        }
        Some("allowed_tools") => {
            let mut choice = Members::of(value, path)?;
            choice.required_text("type")?;
            let mut allowed = choice
                .object("allowed_tools")?
                .ok_or_else(|| choice.fault("allowed_tools", "is missing"))?;
            let required = match &*allowed.required_text("mode")? {
                "auto" => false,
                "required" => true,
                _ => return Err(allowed.fault("mode", "must be auto or required")),
            };
            let mut names = Vec::new();
            for (path, tool) in allowed.list("tools")?.unwrap_or_default() {
                names.push(named(&mut Members::of(tool, path)?)?);
            }
            choice.rest(extra);
            Ok(Some(ToolChoice::Among { names, required }))
        }
        Some(_) => {
            extra.push((path, value));
            Ok(None)
        }
        None => Err(Fault::new(path, problem)),
    }
}

fn named(choice: &mut Members) -> Result<String, Fault> {
    let function = choice.object("function")?;
    function.ok_or_else(|| choice.fault("function", "is missing"))?.required_text("name")
}

fn stop(body: &mut Members) -> Result<Vec<String>, Fault> {
    match body.take("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(texts)) => texts
            .into_iter()
            .enumerate()
            .map(|(at, text)| match text {
                Value::String(text) => Ok(text),
                _ => Err(Fault::new(format!("stop[{at}]"), "must be a text")),
            })
            .collect(),
        Some(_) => Err(body.fault("stop", "must be a text or a list of texts")),
    }
}

fn format(body: &mut Members, extra: &mut Extra) -> Result<Option<Format>, Fault> {
    let Some(mut format) = body.object("response_format")? else { return Ok(None) };
    let read = match &*format.required_text("type")? {
        "text" => None,
        "json_object" => Some(Format::Json),
        "json_schema" => {
            let mut schema = format
                .object("json_schema")?
                .ok_or_else(|| format.fault("json_schema", "is missing"))?;
            let read = Format::Schema {
                name: schema.text("name")?,
                description: schema.text("description")?,
                schema: match schema.take("schema") {
                    Some(schema @ Value::Object(_)) => schema,
                    Some(_) => return Err(schema.fault("schema", "must be an object")),
                    None => json!({}),
                },
                strict: schema.flag("strict")?,
            };
            schema.rest(extra);
            Some(read)
        }
        _ => return Err(format.fault("type", "must be text, json_object or json_schema")),
    };
    format.rest(extra);
    Ok(read)
}

fn labels(body: &mut Members, request: &mut Request) -> Result<(), Fault> {
    let path = body.path("metadata");
    let Some(metadata) = body.take("metadata") else { return Ok(()) };
    let Value::Object(metadata) = metadata else {
        return Err(Fault::new(path, "must be an object"));
    };
    for (name, value) in metadata {
        let Value::String(value) = value else {
            return Err(Fault::new(format!("{path}.{name}"), "must be a text"));
        };
        // These place the call in its run, and are Paceline's own.
        if !["paceline_run", "paceline_parent", "paceline_agent"].contains(&&*name) {
            request.labels.push((name, value));
        }
    }
    Ok(())
}
