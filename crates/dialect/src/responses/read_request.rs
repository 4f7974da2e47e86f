//! Reading a request.

use serde_json::{Value, json};

use super::{input, tools};
use crate::codec::PathFacts;
use crate::members::Members;
use crate::neutral::{Effort, Fault, Format, Part, Reasoning, Request};

/// Reads the body of `POST /v1/responses`.
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
    // This dialect ends every stream with usage, so another's upstream is asked for it.
    request.include_usage = request.stream;
    if let Some(text) = body.text("instructions")?.filter(|text| !text.is_empty()) {
        request.system.push(Part::Text { text, cache: None });
    }
    input::read(&mut body, &mut request)?;
    request.tools = tools::read(&mut body, &mut request.extra)?;
    request.tool_choice = tools::read_choice(&mut body, &mut request.extra)?;
    request.parallel_tools = body.flag("parallel_tool_calls")?;
    request.max_tokens = body.whole("max_output_tokens")?;
    request.temperature = body.number("temperature")?;
    request.top_p = body.number("top_p")?;
    request.format = text(&mut body, &mut request.extra)?;
    request.reasoning = reasoning(&mut body, &mut request.extra)?;
    request.reasoning.sealed = include(&mut body, &mut request.extra)?;
    labels(&mut body, &mut request)?;
    // `user` is the old name of `safety_identifier`.
    let user = body.text("user")?;
    request.user = body.text("safety_identifier")?.or(user);
    request.cache_key = body.text("prompt_cache_key")?;
    without_effect(&mut body, &mut request.extra)?;
    body.rest(&mut request.extra);
    Ok(request)
}

/// Takes what changes nothing about the answer: members that have their default, and those
/// that concern only where things are kept.
fn without_effect(body: &mut Members, extra: &mut Vec<(String, Value)>) -> Result<(), Fault> {
    // Whether the answer can be fetched or continued later is between the caller and
    // Paceline, which keeps translated answers itself.
    body.flag("store")?;
    // How a provider caches the prompt is a matter of cost; marks are read with their parts.
    body.object("prompt_cache_options")?;
    body.text("prompt_cache_retention")?;
    if let Some(mut options) = body.object("stream_options")? {
        // Padding against listeners who measure the sizes of packets.
        options.flag("include_obfuscation")?;
        options.rest(extra);
    }
    let defaults = [
        ("background", json!(false)),
        ("truncation", json!("disabled")),
        ("service_tier", json!("auto")),
        ("top_logprobs", json!(0)),
    ];
    for (name, default) in defaults {
        if let Some(value) = body.take(name).filter(|value| *value != default) {
            extra.push((body.path(name), value));
        }
    }
    Ok(())
}

fn text(body: &mut Members, extra: &mut Vec<(String, Value)>) -> Result<Option<Format>, Fault> {
    let Some(mut text) = body.object("text")? else { return Ok(None) };
    let format = text.object("format")?;
    if let Some(verbosity) = text.text("verbosity")?.filter(|verbosity| verbosity != "medium") {
        extra.push((text.path("verbosity"), Value::String(verbosity)));
    }
    text.rest(extra);
    let Some(mut format) = format else { return Ok(None) };
    let read = match &*format.required_text("type")? {
        "text" => None,
        "json_object" => Some(Format::Json),
        "json_schema" => Some(Format::Schema {
            name: format.text("name")?,
            description: format.text("description")?,
            schema: match format.take("schema") {
                Some(schema @ Value::Object(_)) => schema,
                Some(_) => return Err(format.fault("schema", "must be an object")),
                None => return Err(format.fault("schema", "is missing")),
            },
            strict: format.flag("strict")?,
        }),
        _ => return Err(format.fault("type", "must be text, json_object or json_schema")),
    };
    format.rest(extra);
    Ok(read)
}

fn reasoning(body: &mut Members, extra: &mut Vec<(String, Value)>) -> Result<Reasoning, Fault> {
    let mut read = Reasoning::default();
    let Some(mut reasoning) = body.object("reasoning")? else { return Ok(read) };
    if let Some(effort) = reasoning.text("effort")? {
        let known = Effort::parse(&effort);
        let unknown =
            || reasoning.fault("effort", "must be none, minimal, low, medium, high, xhigh or max");
        read.effort = Some(known.ok_or_else(unknown)?);
    }
    // How long the summary is (auto, concise, detailed) has no word elsewhere, and whether
    // there is one is what matters. `generate_summary` is its old name.
    let old = reasoning.text("generate_summary")?;
    read.shown = reasoning.text("summary")?.or(old).map(|_| true);
    reasoning.rest(extra);
    Ok(read)
}

/// Whether sealed thinking is asked for.
fn include(body: &mut Members, extra: &mut Vec<(String, Value)>) -> Result<bool, Fault> {
    let mut sealed = false;
    for (path, value) in body.list("include")?.unwrap_or_default() {
        match value.as_str() {
            None => return Err(Fault::new(path, "must be a text")),
            Some("reasoning.encrypted_content") => sealed = true,
            Some(_) => extra.push((path, value)),
        }
    }
    Ok(sealed)
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
