//! What a caller is sent: the objects of answers, with all members that the SDKs read.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{tools, write_request};
use crate::neutral::{Part, Request, Seal, Stop, Usage};

/// An answer without the echo of its request.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created_at: u64,
    pub(super) status: &'static str,
    pub(super) error: Option<Problem<'a>>,
    pub(super) incomplete_details: Option<Details>,
    pub(super) model: &'a str,
    pub(super) output: &'a [&'a Item],
    pub(super) usage: Option<Tokens>,
}

#[derive(Serialize)]
pub(super) struct Problem<'a> {
    pub(super) code: &'a str,
    pub(super) message: &'a str,
}

#[derive(Serialize)]
pub(super) struct Details {
    reason: &'static str,
}

#[derive(Serialize)]
pub(super) struct Tokens {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

/// An item of the output.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Item {
    Message {
        id: String,
        role: &'static str,
        status: &'static str,
        content: Vec<Content>,
    },
    FunctionCall {
        id: String,
        status: &'static str,
        call_id: String,
        name: String,
        arguments: String,
    },
    Reasoning {
        id: String,
        summary: Vec<Summary>,
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
    },
}

/// A piece of a message.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Content {
    OutputText { text: String, annotations: [(); 0], logprobs: [(); 0] },
    Refusal { refusal: String },
}

/// A piece of shown thinking.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Summary {
    SummaryText { text: String },
}

impl Tokens {
    pub(super) fn of(usage: &Usage) -> Self {
        Self {
            input_tokens: usage.input(),
            input_tokens_details: InputDetails {
                cached_tokens: usage.cache_read,
                cache_write_tokens: usage.cache_write,
            },
            output_tokens: usage.output,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning },
            total_tokens: usage.total(),
        }
    }
}

impl Content {
    pub(super) fn text(text: String) -> Self {
        Self::OutputText { text, annotations: [], logprobs: [] }
    }

    /// The piece that a text or a refusal is.
    pub(super) fn of(part: &Part) -> Option<Self> {
        match part {
            Part::Text { text, .. } => Some(Self::text(text.clone())),
            Part::Refusal { text } => Some(Self::Refusal { refusal: text.clone() }),
            _ => None,
        }
    }
}

impl Item {
    /// An item for a part, with nothing in it yet but what a call is named.
    pub(super) fn begin(part: &Part, ids: &Ids, at: usize) -> Option<Self> {
        Some(match part {
            Part::Text { .. } | Part::Refusal { .. } => Self::Message {
                id: ids.item("msg", at),
                role: "assistant",
                status: "in_progress",
                content: Vec::new(),
            },
            Part::ToolCall { id, name, .. } => Self::FunctionCall {
                id: ids.item("fc", at),
                status: "in_progress",
                call_id: id.clone(),
                name: name.clone(),
                arguments: String::new(),
            },
            Part::Thinking { seal, .. } => Self::reasoning(seal.as_ref(), ids, at),
            Part::Hidden { seal } => Self::reasoning(Some(seal), ids, at),
            // An answer of this dialect holds nothing else that a model makes by itself.
            Part::Image { .. }
            | Part::File { .. }
            | Part::Audio { .. }
            | Part::ToolResult { .. } => return None,
        })
    }

    fn reasoning(seal: Option<&Seal>, ids: &Ids, at: usize) -> Self {
        let own = seal.and_then(|seal| seal.item.clone()).filter(|id| id.starts_with("rs_"));
        let id = own.unwrap_or_else(|| ids.item("rs", at));
        Self::Reasoning { id, summary: Vec::new(), encrypted_content: None }
    }

    /// Marks it as complete, or a message as cut off.
    pub(super) fn end(&mut self, cut: bool) {
        match self {
            Self::Message { status, .. } => *status = if cut { "incomplete" } else { "completed" },
            Self::FunctionCall { status, .. } => {
                *status = if cut { "incomplete" } else { "completed" }
            }
            Self::Reasoning { .. } => {}
        }
    }
}

/// The identifiers of an answer and its items: minted once, from the upstream's.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    /// The answer's.
    pub(super) answer: String,
    /// What the items' are made of.
    base: String,
}

/// OpenAI takes identifiers of items of at most 64 characters.
const BASE_MAX: usize = 48;

impl Ids {
    pub(super) fn of(upstream: &str) -> Self {
        let own = upstream.strip_prefix("resp_").unwrap_or(upstream);
        let takes = |c: &char| c.is_ascii_alphanumeric() || *c == '_' || *c == '-';
        let mut base: String = own.chars().filter(takes).collect();
        if base.len() > BASE_MAX {
            // What tells identifiers apart is mostly at their end.
            base.drain(..base.len() - BASE_MAX);
        }
        if base.is_empty() {
            base.push('0');
        }
        let kept = upstream.starts_with("resp_") && upstream.len() > 5;
        let answer = if kept { upstream.to_owned() } else { format!("resp_{base}") };
        Self { answer, base }
    }

    fn item(&self, prefix: &str, at: usize) -> String {
        format!("{prefix}_{}_{at}", self.base)
    }
}

/// The state of an answer that ended for a reason, and what cut it off.
pub(super) fn status(stop: Stop) -> (&'static str, Option<Details>) {
    match stop {
        Stop::Length => ("incomplete", Some(Details { reason: "max_output_tokens" })),
        Stop::Filter => ("incomplete", Some(Details { reason: "content_filter" })),
        // There is no word for a pause: what there is is complete, and may be continued.
        Stop::End | Stop::Tool | Stop::Sequence | Stop::Refusal | Stop::Pause => {
            ("completed", None)
        }
    }
}

/// What is said where a model declined without a word.
pub(super) const DECLINED: &str = "The model declined to answer.";

/// What an answer repeats of its request. Whether it is kept (`store`) is for the gateway
/// to say; no SDK reads it.
pub(super) fn echo(request: &Request) -> Map<String, Value> {
    let text = |part: &Part| match part {
        Part::Text { text, .. } => Some(text.clone()),
        _ => None,
    };
    let instructions: Vec<_> = request.system.iter().filter_map(text).collect();
    let instructions = (!instructions.is_empty()).then(|| instructions.join("\n\n"));
    let format = request
        .format
        .as_ref()
        .map_or_else(|| json!({"type": "text"}), write_request::write_format);
    let labels: Map<_, _> =
        request.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let summary = request.reasoning.shown.filter(|shown| *shown).map(|_| "auto");
    let effort = request.reasoning.effort.map(|effort| effort.as_str());
    let choice = request.tool_choice.as_ref().map_or_else(|| json!("auto"), tools::write_choice);
    let echo = json!({
        "background": false,
        "instructions": instructions,
        "max_output_tokens": request.max_tokens,
        "max_tool_calls": null,
        "metadata": labels,
        "parallel_tool_calls": request.parallel_tools.unwrap_or(true),
        "previous_response_id": null,
        "prompt_cache_key": request.cache_key,
        "reasoning": {"effort": effort, "summary": summary},
        "safety_identifier": request.user,
        "service_tier": "default",
        "temperature": request.temperature.unwrap_or(1.0),
        "text": {"format": format},
        "tool_choice": choice,
        "tools": request.tools.iter().map(tools::write).collect::<Vec<_>>(),
        "top_logprobs": 0,
        "top_p": request.top_p.unwrap_or(1.0),
        "truncation": "disabled",
        "user": null,
    });
    match echo {
        Value::Object(echo) => echo,
        _ => Map::new(),
    }
}
