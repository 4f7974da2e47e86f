//! Writing a request.

use serde_json::{Map, Value, json};

use super::response::SEQUENCE;
use super::write_messages::{self, block, point, warn};
use crate::anthropic::{lacks_thinking, used_tools};
use crate::codec::Target;
use crate::neutral::{
    Effort, Field, Format, Part, Request, Tool, ToolChoice, Unsupported, What, Written,
};

/// Writes the body. The model goes into the path.
pub(super) fn write(request: &Request, target: &Target) -> Result<Written, Unsupported> {
    let is_claude = target.model.contains("claude") || target.model.contains("anthropic");
    refuse(request, is_claude)?;
    let mut warnings = Vec::new();
    let (messages, late) = write_messages::write(&request.messages, &mut warnings)?;
    let mut body = Map::new();
    let mut add = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    let mut system = request.system.clone();
    system.extend(late);
    if matches!(request.format, Some(Format::Json)) {
        warn(
            &mut warnings,
            "there is no JSON mode without a schema, so the model is asked for JSON",
        );
        let text = "Answer with one JSON object and nothing else.".to_owned();
        system.push(Part::Text { text, cache: None });
    }
    let system: Vec<_> = system.iter().filter_map(|part| block(part).ok()).flatten().collect();
    if !system.is_empty() {
        add("system", Value::Array(system));
    }
    add("messages", Value::Array(messages));
    if let Some(config) = tool_config(request, &mut warnings) {
        add("toolConfig", config);
    }
    let thinking = thinking(request, is_claude, &mut warnings);
    let inference = inference(request, thinking.as_ref(), &mut warnings);
    if !inference.is_empty() {
        add("inferenceConfig", Value::Object(inference));
    }
    let output = output_config(request);
    if !output.is_empty() {
        add("outputConfig", Value::Object(output));
    }
    let more = more_fields(request, thinking, &mut warnings);
    if !more.is_empty() {
        add("additionalModelRequestFields", Value::Object(more));
    }
    if is_claude && !request.stop.is_empty() {
        add("additionalModelResponseFieldPaths", json!([SEQUENCE]));
    }
    let labels = metadata(request, &mut warnings);
    if !labels.is_empty() {
        add("requestMetadata", Value::Object(labels));
    }
    Ok(Written { body: Value::Object(body), warnings })
}

fn refuse(request: &Request, is_claude: bool) -> Result<(), Unsupported> {
    if let Some((path, _)) = request.extra.first() {
        let why = "it has no counterpart in Bedrock's Converse; leave it out, or use a model that \
                   is served in your own API's format";
        return Err(Unsupported { what: What::Extra(path.clone()), why: why.to_owned() });
    }
    let given = |penalty: Option<f64>| penalty.is_some_and(|penalty| penalty != 0.0);
    let lacking = [
        (Field::Seed, request.seed.is_some(), "seed"),
        (Field::PresencePenalty, given(request.presence_penalty), "penalties"),
        (Field::FrequencyPenalty, given(request.frequency_penalty), "penalties"),
        (Field::TopK, request.top_k.is_some() && !is_claude, "top-k for this model"),
    ];
    match lacking.into_iter().find(|(_, given, _)| *given) {
        Some((field, _, what)) => {
            Err(Unsupported::field(field, format!("Converse has no {what}; leave it out")))
        }
        None => Ok(()),
    }
}

fn tool_config(request: &Request, warnings: &mut Vec<String>) -> Option<Value> {
    let offered = |tool: &&Tool| match &request.tool_choice {
        // There is no choice among some, so only these are offered.
        Some(ToolChoice::Among { names, .. }) => names.contains(&tool.name),
        _ => true,
    };
    let used = used_tools(request);
    let none = request.tool_choice == Some(ToolChoice::None);
    let mut tools = Vec::new();
    if !none || !used.is_empty() {
        for tool in request.tools.iter().filter(offered) {
            tools.push(write_tool(tool));
            tools.extend(tool.cache.map(point));
        }
    }
    if tools.is_empty() {
        // Calls in the history want their tools to be declared.
        let bare = |name: &&str| json!({"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}});
        tools = used.iter().map(bare).collect();
    }
    if tools.is_empty() {
        return None;
    }
    if none {
        warn(warnings, "Converse cannot forbid calls while the history has some");
    }
    if request.parallel_tools == Some(false) {
        warn(warnings, "Converse cannot be kept from several calls in one turn");
    }
    let choice = match &request.tool_choice {
        None | Some(ToolChoice::None | ToolChoice::Among { required: false, .. }) => None,
        Some(ToolChoice::Auto) => Some(json!({"auto": {}})),
        Some(ToolChoice::Any | ToolChoice::Among { .. }) => Some(json!({"any": {}})),
        Some(ToolChoice::Named(name)) => Some(json!({"tool": {"name": name}})),
    };
    let mut config = json!({"tools": tools});
    if let Some(choice) = choice {
        config["toolChoice"] = choice;
    }
    Some(config)
}

fn write_tool(tool: &Tool) -> Value {
    let mut schema = tool.schema.clone().unwrap_or_else(|| json!({}));
    if let Some(schema) = schema.as_object_mut().filter(|schema| !schema.contains_key("type")) {
        schema.insert("type".to_owned(), json!("object"));
    }
    let mut spec = json!({"name": tool.name});
    // A blank description is refused.
    if let Some(text) = tool.description.as_ref().filter(|text| !text.trim().is_empty()) {
        spec["description"] = json!(text);
    }
    spec["inputSchema"] = json!({"json": schema});
    if let Some(strict) = tool.strict {
        spec["strict"] = json!(strict);
    }
    json!({"toolSpec": spec})
}

/// Claude's thinking, where it is switched on or off.
fn thinking(request: &Request, is_claude: bool, warnings: &mut Vec<String>) -> Option<Value> {
    /// Least tokens of thinking that are taken.
    const BUDGET_MIN: u64 = 1024;
    let reasoning = &request.reasoning;
    if !is_claude {
        if reasoning.budget.is_some() {
            warn(warnings, "this model takes no budget of thinking, so it was left out");
        }
        return None;
    }
    match reasoning.budget {
        _ if reasoning.adaptive => Some(json!({"type": "adaptive"})),
        Some(0) => Some(json!({"type": "disabled"})),
        Some(_) if lacks_thinking(request) => {
            let text = "the calls under way were made without thinking, so it is off for this turn";
            warn(warnings, text);
            None
        }
        Some(budget) => Some(json!({"type": "enabled", "budget_tokens": budget.max(BUDGET_MIN)})),
        None => None,
    }
}

/// What only the model itself knows.
fn more_fields(
    request: &Request,
    thinking: Option<Value>,
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut more = Map::new();
    match request.top_k {
        Some(_) if thinks(thinking.as_ref()) => {
            warn(warnings, "thinking goes without top-k, so it was left out");
        }
        Some(top_k) => drop(more.insert("top_k".to_owned(), json!(top_k))),
        None => {}
    }
    if let Some(thinking) = thinking {
        more.insert("thinking".to_owned(), thinking);
    }
    more
}

fn thinks(thinking: Option<&Value>) -> bool {
    thinking.is_some_and(|thinking| thinking["type"] != "disabled")
}

/// The labels that are taken: at most 16, of 1 to 256 and up to 256 letters (API reference,
/// `requestMetadata`).
fn metadata(request: &Request, warnings: &mut Vec<String>) -> Map<String, Value> {
    const LABELS_MAX: usize = 16;
    const LETTERS_MAX: usize = 256;
    let letter =
        |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":_@$#=/+,-.".contains(c);
    let fits = |text: &str| text.len() <= LETTERS_MAX && text.chars().all(letter);
    let taken = request
        .labels
        .iter()
        .filter(|(key, value)| !key.is_empty() && fits(key) && fits(value))
        .take(LABELS_MAX)
        .map(|(key, value)| (key.clone(), json!(value)));
    let labels: Map<_, _> = taken.collect();
    if labels.len() < request.labels.len() {
        warn(warnings, "Bedrock takes no such labels, so some were left out");
    }
    labels
}

fn inference(
    request: &Request,
    thinking: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut config = Map::new();
    let mut add = |name: &str, value: Value| drop(config.insert(name.to_owned(), value));
    let budget = thinking.and_then(|thinking| thinking["budget_tokens"].as_u64()).unwrap_or(0);
    if let Some(max) = request.max_tokens {
        // The budget counts within the limit here.
        add("maxTokens", json!(if max > budget { max } else { budget + max }));
    } else if budget > 0 {
        add("maxTokens", json!(budget + 4096));
    }
    let thinks = thinks(thinking);
    match request.temperature {
        Some(temperature) if thinks && temperature != 1.0 => {
            warn(warnings, "thinking goes without a temperature, so it was left out");
        }
        Some(temperature) => {
            if temperature > 1.0 {
                warn(warnings, "the temperature goes up to 1 only, and was set to that");
            }
            add("temperature", json!(temperature.min(1.0)));
        }
        None => {}
    }
    match (request.top_p, request.temperature) {
        (Some(_), Some(_)) if !thinks => {
            let text = "newer models take temperature or top-p, so top-p was left out";
            warn(warnings, text);
        }
        (Some(top_p), _) => add("topP", json!(top_p)),
        (None, _) => {}
    }
    if !request.stop.is_empty() {
        add("stopSequences", json!(request.stop));
    }
    config
}

fn output_config(request: &Request) -> Map<String, Value> {
    let mut config = Map::new();
    let effort = match request.reasoning.effort {
        None | Some(Effort::None) => None,
        Some(Effort::Minimal) => Some(Effort::Low),
        effort => effort,
    };
    if let Some(effort) = effort {
        config.insert("effort".to_owned(), json!(effort.as_str()));
    }
    if let Some(Format::Schema { name, description, schema, .. }) = &request.format {
        let mut written = json!({"schema": schema.to_string()});
        written["name"] = json!(name.as_deref().unwrap_or("answer"));
        if let Some(description) = description {
            written["description"] = json!(description);
        }
        let format = json!({"type": "json_schema", "structure": {"jsonSchema": written}});
        config.insert("textFormat".to_owned(), format);
    }
    config
}
