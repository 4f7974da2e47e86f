//! Writing a request.

use serde_json::{Map, Value, json};

use super::write_messages::{self, marked};
use crate::codec::Target;
use crate::neutral::{
    Effort, Field, Format, Message, Part, Reasoning, Request, Role, Tool, ToolChoice, Unsupported,
    Vendor, What, Written,
};

/// Most tokens of an answer where the caller sets none: what every Claude model since 3.5 can
/// give, and more than agents' answers need (recorded ones have 444 on average).
const MAX_TOKENS_DEFAULT: u64 = 8192;

/// Least tokens of thinking that are taken.
const BUDGET_MIN: u64 = 1024;

/// Writes the body of `POST /v1/messages`.
pub(super) fn write(request: &Request, target: &Target) -> Result<Written, Unsupported> {
    refuse(request)?;
    let mut warnings = Vec::new();
    let (messages, late) = write_messages::write(&request.messages, &mut warnings)?;
    let mut body = Map::new();
    let mut add = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    add("model", json!(target.model));
    let default = match target.quirks.max_tokens_default {
        0 => MAX_TOKENS_DEFAULT,
        tokens => tokens,
    };
    let thinking = thinking(request, &mut warnings);
    let budget = thinking.as_ref().and_then(|t| t["budget_tokens"].as_u64()).unwrap_or(0);
    let max_tokens = request.max_tokens.unwrap_or(default.max(budget + default / 2));
    // The budget counts within the limit here.
    add("max_tokens", json!(if max_tokens > budget { max_tokens } else { budget + max_tokens }));
    let mut system = request.system.clone();
    system.extend(late);
    if matches!(request.format, Some(Format::Json)) {
        warnings.push(
            "there is no JSON mode without a schema, so the model is asked for JSON".to_owned(),
        );
        let text = "Answer with one JSON object and nothing else.".to_owned();
        system.push(Part::Text { text, cache: None });
    }
    if let Some(system) = write_system(&system) {
        add("system", system);
    }
    add("messages", Value::Array(messages));
    let (tools, choice) = write_tools(request);
    if !tools.is_empty() {
        add("tools", Value::Array(tools));
        if let Some(choice) = choice {
            add("tool_choice", choice);
        }
    }
    sampling(request, thinking.is_some(), &mut warnings, &mut add);
    if !request.stop.is_empty() {
        add("stop_sequences", json!(request.stop));
    }
    if let Some(thinking) = thinking.or_else(|| off(&request.reasoning)) {
        add("thinking", thinking);
    }
    if let Some(config) = output_config(request) {
        add("output_config", config);
    }
    if let Some(user) = &request.user {
        add("metadata", json!({"user_id": user}));
    }
    if request.stream {
        add("stream", json!(true));
    }
    Ok(Written { body: Value::Object(body), warnings })
}

fn refuse(request: &Request) -> Result<(), Unsupported> {
    if let Some((path, _)) = request.extra.first() {
        let why = "it has no counterpart in Anthropic's API; leave it out, or use a model that is \
                   served in your own API's format";
        return Err(Unsupported { what: What::Extra(path.clone()), why: why.to_owned() });
    }
    let given = |penalty: Option<f64>| penalty.is_some_and(|penalty| penalty != 0.0);
    let lacking = [
        (Field::Seed, request.seed.is_some(), "seed"),
        (Field::PresencePenalty, given(request.presence_penalty), "penalties"),
        (Field::FrequencyPenalty, given(request.frequency_penalty), "penalties"),
    ];
    match lacking.into_iter().find(|(_, given, _)| *given) {
        Some((field, _, what)) => {
            Err(Unsupported::field(field, format!("Anthropic has no {what}; leave it out")))
        }
        None => Ok(()),
    }
}

fn write_system(parts: &[Part]) -> Option<Value> {
    let texts: Vec<_> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Text { text, cache } if !text.trim().is_empty() => Some((text, *cache)),
            _ => None,
        })
        .collect();
    match *texts {
        [] => None,
        [(text, None)] => Some(json!(text)),
        _ => Some(
            texts
                .iter()
                .map(|(text, cache)| marked(json!({"type": "text", "text": text}), *cache))
                .collect(),
        ),
    }
}

/// The tools and the choice among them.
fn write_tools(request: &Request) -> (Vec<Value>, Option<Value>) {
    let mut choice = request.tool_choice.clone();
    let among = match &choice {
        // There is no choice among some, so only these are offered.
        Some(ToolChoice::Among { names, required }) => {
            let names = names.clone();
            choice = Some(if *required { ToolChoice::Any } else { ToolChoice::Auto });
            Some(names)
        }
        _ => None,
    };
    let offered = |tool: &&Tool| among.as_ref().is_none_or(|names| names.contains(&tool.name));
    let mut tools: Vec<_> = request.tools.iter().filter(offered).map(write_tool).collect();
    if tools.is_empty() {
        // Calls in the history want their tools to be declared.
        tools = used_tools(request)
            .into_iter()
            .map(|name| json!({"name": name, "input_schema": {"type": "object"}}))
            .collect();
    }
    let mut written = match &choice {
        None if request.parallel_tools == Some(false) => json!({"type": "auto"}),
        None => return (tools, None),
        Some(ToolChoice::Auto | ToolChoice::Among { .. }) => json!({"type": "auto"}),
        Some(ToolChoice::Any) => json!({"type": "any"}),
        Some(ToolChoice::None) => json!({"type": "none"}),
        Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if let Some(parallel) = request.parallel_tools.filter(|_| choice != Some(ToolChoice::None)) {
        written["disable_parallel_tool_use"] = json!(!parallel);
    }
    (tools, Some(written))
}

/// The functions that are called in the conversation, each once.
pub(crate) fn used_tools(request: &Request) -> Vec<&str> {
    let mut names = Vec::new();
    for part in request.messages.iter().flat_map(|message| &message.parts) {
        if let Part::ToolCall { name, .. } = part
            && !names.contains(&name.as_str())
        {
            names.push(name);
        }
    }
    names
}

fn write_tool(tool: &Tool) -> Value {
    let mut written = Map::new();
    written.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        written.insert("description".to_owned(), json!(description));
    }
    let mut schema = tool.schema.clone().unwrap_or_else(|| json!({}));
    if let Some(schema) = schema.as_object_mut().filter(|schema| !schema.contains_key("type")) {
        schema.insert("type".to_owned(), json!("object"));
    }
    written.insert("input_schema".to_owned(), schema);
    if let Some(strict) = tool.strict {
        written.insert("strict".to_owned(), json!(strict));
    }
    marked(Value::Object(written), tool.cache)
}

fn sampling(
    request: &Request,
    thinks: bool,
    warnings: &mut Vec<String>,
    add: &mut impl FnMut(&str, Value),
) {
    if thinks {
        // Anthropic's guide: thinking goes with neither of these.
        if request.temperature.is_some_and(|t| t != 1.0) || request.top_k.is_some() {
            warnings.push(
                "thinking goes without temperature and top-k, so they were left out".to_owned(),
            );
        }
    } else {
        if let Some(temperature) = request.temperature {
            if temperature > 1.0 {
                warnings.push("the temperature goes up to 1 only, and was set to that".to_owned());
            }
            add("temperature", json!(temperature.min(1.0)));
        }
        if let Some(top_k) = request.top_k {
            add("top_k", json!(top_k));
        }
    }
    match (request.top_p, request.temperature) {
        (Some(_), Some(_)) if !thinks => {
            let text = "newer models take temperature or top-p, so top-p was left out";
            warnings.push(text.to_owned());
        }
        (Some(top_p), _) => add("top_p", json!(top_p)),
        (None, _) => {}
    }
}

/// Thinking that is switched on.
fn thinking(request: &Request, warnings: &mut Vec<String>) -> Option<Value> {
    let Reasoning { budget, adaptive, shown, .. } = &request.reasoning;
    let mut thinking = match budget {
        _ if *adaptive => json!({"type": "adaptive"}),
        Some(budget) if *budget > 0 => {
            if lacks_thinking(request) {
                let text = "the calls under way were made without Anthropic's thinking, so it is off for this turn";
                warnings.push(text.to_owned());
                return None;
            }
            json!({"type": "enabled", "budget_tokens": (*budget).max(BUDGET_MIN)})
        }
        _ => return None,
    };
    if let Some(shown) = shown {
        thinking["display"] = json!(if *shown { "summarized" } else { "omitted" });
    }
    Some(thinking)
}

fn off(reasoning: &Reasoning) -> Option<Value> {
    let off = reasoning.budget == Some(0) || reasoning.effort == Some(Effort::None);
    off.then(|| json!({"type": "disabled"}))
}

/// Whether the calls under way began without thinking of Anthropic's own: with a budget of
/// thinking that is refused. What the model says between two of its calls need have none
/// (Anthropic's guide, "Extended thinking with tool use").
pub(crate) fn lacks_thinking(request: &Request) -> bool {
    let of_model = |message: &Message| message.role == Role::Assistant;
    let result = |part: &Part| matches!(part, Part::ToolResult { .. });
    let mut first: &[Message] = &[];
    // Messages of one side that follow each other are one turn to Anthropic.
    for turn in request.messages.chunk_by(|a, b| of_model(a) == of_model(b)).rev() {
        if of_model(&turn[0]) {
            first = turn;
        } else if !turn.iter().flat_map(|message| &message.parts).any(result) {
            break;
        }
    }
    let mut parts = first.iter().flat_map(|message| &message.parts);
    let calls = parts.clone().any(|part| matches!(part, Part::ToolCall { .. }));
    let own = |part: &Part| match part {
        Part::Thinking { seal, .. } => {
            seal.as_ref().is_some_and(|seal| seal.vendor == Vendor::Anthropic)
        }
        Part::Hidden { seal } => seal.vendor == Vendor::Anthropic,
        _ => false,
    };
    calls && !parts.any(own)
}

fn output_config(request: &Request) -> Option<Value> {
    let mut config = Map::new();
    let effort = match request.reasoning.effort {
        None | Some(Effort::None) => None,
        Some(Effort::Minimal) => Some(Effort::Low),
        effort => effort,
    };
    if let Some(effort) = effort {
        config.insert("effort".to_owned(), json!(effort.as_str()));
    }
    if let Some(Format::Schema { schema, .. }) = &request.format {
        config.insert("format".to_owned(), json!({"type": "json_schema", "schema": schema}));
    }
    (!config.is_empty()).then_some(Value::Object(config))
}
