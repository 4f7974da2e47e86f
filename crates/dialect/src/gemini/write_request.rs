//! Writing a request.

use serde_json::{Map, Value, json};

use crate::neutral::{
    Effort, Format, Message, Part, Reasoning, Request, Role, Source, Tool, ToolChoice, Unsupported,
    Vendor, What, Written,
};

/// What Google takes in place of the signature of a call that no Gemini made, or whose
/// signature is lost (its guide "Thought signatures").
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// Writes the body. The model goes into the path.
pub(super) fn write(request: &Request, model: &str) -> Result<Written, Unsupported> {
    if let Some((path, _)) = request.extra.first() {
        let why = "it has no counterpart in the Gemini API; leave it out, or use a model that is \
                   served in your own API's format";
        return Err(Unsupported { what: What::Extra(path.clone()), why: why.to_owned() });
    }
    let mut warnings = Vec::new();
    let mut body = Map::new();
    let mut system = texts(&request.system);
    let mut contents: Vec<(Role, Vec<Value>, Vec<Value>)> = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        if message.role == Role::System {
            warn(&mut warnings, "instructions among the messages were moved to the beginning");
            system.extend(texts(&message.parts));
            continue;
        }
        if message.name.is_some() {
            warn(&mut warnings, "there are no names of speakers, so they were left out");
        }
        if contents.last().is_none_or(|(role, ..)| *role != message.role) {
            contents.push((message.role, Vec::new(), Vec::new()));
        }
        if let Some((_, first, rest)) = contents.last_mut() {
            turn(at, message, first, rest, &mut warnings)?;
        }
    }
    if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    let mut contents: Vec<_> = contents
        .into_iter()
        .map(|(role, mut first, rest)| {
            first.extend(rest);
            let role = if role == Role::Assistant { "model" } else { "user" };
            json!({"role": role, "parts": first})
        })
        .filter(|content| content["parts"].as_array().is_some_and(|parts| !parts.is_empty()))
        .collect();
    if contents.is_empty() {
        warn(&mut warnings, "the messages say nothing, which is refused, so `…` is sent");
        contents.push(json!({"role": "user", "parts": [{"text": "…"}]}));
    }
    if wants_signatures(model) {
        contents.iter_mut().for_each(|content| sign(content, &mut warnings));
    }
    body.insert("contents".to_owned(), Value::Array(contents));
    if !request.tools.is_empty() {
        let tools: Vec<_> = request.tools.iter().map(tool).collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": tools}]));
        if let Some(choice) = &request.tool_choice {
            body.insert("toolConfig".to_owned(), json!({"functionCallingConfig": calling(choice)}));
        }
        if request.parallel_tools == Some(false) {
            warn(&mut warnings, "Gemini cannot be kept from several calls in one turn");
        }
    }
    let config = config(request);
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    Ok(Written { body: Value::Object(body), warnings })
}

/// Whether a model refuses turns that call without a signature: Gemini's do from 3 on.
fn wants_signatures(model: &str) -> bool {
    let version = model.split("gemini-").nth(1).unwrap_or_default();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().is_ok_and(|major: u32| major >= 3)
}

/// Marks the first call of a turn that has no signature at all: other vendors' clients may not
/// keep them.
fn sign(content: &mut Value, warnings: &mut Vec<String>) {
    let Some(parts) = content["parts"].as_array_mut() else { return };
    let mut calls = parts.iter_mut().filter(|part| part.get("functionCall").is_some());
    let Some(first) = calls.next() else { return };
    let signed = |part: &Value| part.get("thoughtSignature").is_some();
    if signed(first) || calls.any(|part| signed(part)) {
        return;
    }
    first["thoughtSignature"] = json!(NO_SIGNATURE);
    warn(
        warnings,
        "calls came without Gemini's signature, so the model goes on without its thoughts",
    );
}

fn warn(warnings: &mut Vec<String>, text: &str) {
    if !warnings.iter().any(|known| known == text) {
        warnings.push(text.to_owned());
    }
}

fn texts(parts: &[Part]) -> Vec<Value> {
    let text = |part: &Part| match part {
        // Cache marks have no place here: Gemini caches long prompts by itself.
        Part::Text { text, .. } => Some(json!({"text": text})),
        _ => None,
    };
    parts.iter().filter_map(text).collect()
}

/// Writes a turn: results to `first`, what else there is to `rest`.
fn turn(
    at: usize,
    message: &Message,
    first: &mut Vec<Value>,
    rest: &mut Vec<Value>,
    warnings: &mut Vec<String>,
) -> Result<(), Unsupported> {
    for (place, part) in message.parts.iter().enumerate() {
        let refuse = |why: &str| Unsupported::part(at, place, why);
        match part {
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } | Part::Refusal { text } => rest.push(json!({"text": text})),
            Part::Image { source, .. } | Part::Audio { source } => {
                rest.push(media(source, None).map_err(refuse)?);
            }
            Part::File { source, name, .. } => {
                rest.push(media(source, name.as_deref()).map_err(refuse)?);
            }
            Part::ToolCall { id, name, arguments, seal, .. } => {
                let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
                let args = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object);
                let args =
                    args.ok_or_else(|| refuse("the arguments of the call are no JSON object"))?;
                let mut call = json!({"functionCall": {"id": id, "name": name, "args": args}});
                if let Some(seal) = seal.as_ref().filter(|seal| seal.vendor == Vendor::Google) {
                    call["thoughtSignature"] = json!(seal.data);
                }
                rest.push(call);
            }
            Part::ToolResult { id, name, content, error, .. } => {
                let mut said = Vec::new();
                for part in content {
                    match part {
                        Part::Text { text, .. } => said.push(text.as_str()),
                        Part::Image { source, .. } => {
                            warn(warnings, "images of a tool's result were sent beside it");
                            rest.push(media(source, None).map_err(refuse)?);
                        }
                        Part::File { source, name, .. } => {
                            warn(warnings, "images of a tool's result were sent beside it");
                            rest.push(media(source, name.as_deref()).map_err(refuse)?);
                        }
                        _ => return Err(refuse("a result holds text, images and files only")),
                    }
                }
                let response = response(&said.concat(), *error);
                first.push(
                    json!({"functionResponse": {"id": id, "name": name, "response": response}}),
                );
            }
            Part::Thinking { text, seal: Some(seal) } if seal.vendor == Vendor::Google => {
                let mut part = json!({"text": text});
                if !text.is_empty() {
                    part["thought"] = json!(true);
                }
                part["thoughtSignature"] = json!(seal.data);
                rest.push(part);
            }
            // Thinking of other vendors, which only they can open.
            Part::Thinking { .. } | Part::Hidden { .. } => {}
        }
    }
    Ok(())
}

/// What a function gave, as an object; a text that is JSON as just that.
fn response(said: &str, error: bool) -> Value {
    if error {
        return json!({"error": if said.is_empty() { "failed" } else { said }});
    }
    let value = serde_json::from_str::<Value>(said).ok();
    match value.filter(|value| value.is_object() || value.is_array()) {
        // The neutral form of what is neither output nor error.
        Some(Value::Object(map)) if map.contains_key("name") && map.contains_key("content") => {
            Value::Object(map)
        }
        Some(value) => json!({"output": value}),
        None => json!({"output": said}),
    }
}

fn media(source: &Source, name: Option<&str>) -> Result<Value, &'static str> {
    let mut written = match source {
        Source::Base64 { media_type, data } => {
            json!({"inlineData": {"mimeType": media_type, "data": data}})
        }
        Source::Url { url, media_type } => {
            let mut file = json!({"fileData": {"fileUri": url}});
            if let Some(media_type) = media_type.as_deref().or_else(|| kind_of(url)) {
                file["fileData"]["mimeType"] = json!(media_type);
            }
            file
        }
        Source::Uploaded { id, media_type } if id.contains("://") => {
            let mut file = json!({"fileData": {"fileUri": id}});
            if let Some(media_type) = media_type {
                file["fileData"]["mimeType"] = json!(media_type);
            }
            file
        }
        Source::Uploaded { .. } => {
            return Err("the file was uploaded to another provider; send its bytes instead");
        }
        Source::Text { text } => return Ok(json!({"text": text})),
    };
    if let (Some(name), Some(inline)) = (name, written.get_mut("inlineData")) {
        inline["displayName"] = json!(name);
    }
    Ok(written)
}

fn kind_of(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let end = path.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match &*end {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "pdf" => "application/pdf",
        _ => return None,
    })
}

fn tool(tool: &Tool) -> Value {
    let mut written = Map::new();
    written.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        written.insert("description".to_owned(), json!(description));
    }
    if let Some(schema) = &tool.schema {
        written.insert("parametersJsonSchema".to_owned(), schema.clone());
    }
    Value::Object(written)
}

fn calling(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({"mode": "AUTO"}),
        ToolChoice::None => json!({"mode": "NONE"}),
        ToolChoice::Any => json!({"mode": "ANY"}),
        ToolChoice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        ToolChoice::Among { names, required: true } => {
            json!({"mode": "ANY", "allowedFunctionNames": names})
        }
        ToolChoice::Among { names, required: false } => {
            json!({"mode": "VALIDATED", "allowedFunctionNames": names})
        }
    }
}

fn config(request: &Request) -> Map<String, Value> {
    let mut config = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    add("maxOutputTokens", request.max_tokens.map(|n| json!(n)));
    add("temperature", request.temperature.map(|n| json!(n)));
    add("topP", request.top_p.map(|n| json!(n)));
    add("topK", request.top_k.map(|n| json!(n)));
    add("stopSequences", (!request.stop.is_empty()).then(|| json!(request.stop)));
    add("seed", request.seed.map(|n| json!(n)));
    add("presencePenalty", request.presence_penalty.map(|n| json!(n)));
    add("frequencyPenalty", request.frequency_penalty.map(|n| json!(n)));
    match &request.format {
        None => {}
        Some(Format::Json) => add("responseMimeType", Some(json!("application/json"))),
        Some(Format::Schema { schema, .. }) => {
            add("responseMimeType", Some(json!("application/json")));
            add("responseJsonSchema", Some(schema.clone()));
        }
    }
    add("thinkingConfig", thinking(&request.reasoning));
    config
}

fn thinking(reasoning: &Reasoning) -> Option<Value> {
    let mut config = Map::new();
    if let Some(shown) = reasoning.shown {
        config.insert("includeThoughts".to_owned(), json!(shown));
    }
    let level = match reasoning.effort {
        None => None,
        Some(Effort::None) => {
            config.insert("thinkingBudget".to_owned(), json!(0));
            None
        }
        Some(Effort::Minimal) => Some("MINIMAL"),
        Some(Effort::Low) => Some("LOW"),
        Some(Effort::Medium) => Some("MEDIUM"),
        Some(Effort::High | Effort::XHigh | Effort::Max) => Some("HIGH"),
    };
    if let Some(level) = level {
        config.insert("thinkingLevel".to_owned(), json!(level));
    } else if reasoning.adaptive {
        config.insert("thinkingBudget".to_owned(), json!(-1));
    } else if let Some(budget) = reasoning.budget {
        config.insert("thinkingBudget".to_owned(), json!(budget));
    }
    (!config.is_empty()).then_some(Value::Object(config))
}
