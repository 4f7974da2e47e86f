//! What a server sends: whole answers and the chunks of a stream.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::neutral::{Failure, Stop, Usage};
use crate::responses::failure;
use crate::responses::incoming::Problem;

/// A whole answer, or a chunk of a stream.
#[derive(Deserialize)]
pub(super) struct Incoming<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) model: Option<Cow<'a, str>>,
    pub(super) created: Option<f64>,
    #[serde(borrow)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    pub(super) usage: Option<Tokens>,
    pub(super) error: Option<Value>,
    /// Groq's usage, where none was asked for, and its errors.
    pub(super) x_groq: Option<Groq>,
}

#[derive(Deserialize)]
pub(super) struct Groq {
    usage: Option<Tokens>,
    error: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    pub(super) index: Option<u64>,
    /// A chunk has a delta, a whole answer a message. Azure's filter chunks have neither.
    #[serde(borrow, alias = "message")]
    pub(super) delta: Option<Delta<'a>>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Content<'a>>,
    #[serde(borrow)]
    pub(super) reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reasoning: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<Call<'a>>>,
    /// The older form of one call.
    #[serde(borrow)]
    pub(super) function_call: Option<Function<'a>>,
}

/// A text, or Mistral's list of pieces.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Content<'a> {
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Pieces(Vec<Value>),
}

#[derive(Deserialize)]
pub(super) struct Call<'a> {
    pub(super) index: Option<u64>,
    #[serde(borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Cow<'a, str>>,
    /// A text; some servers give the object itself.
    pub(super) arguments: Option<Value>,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Tokens {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name of the cached ones.
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Tokens {
    pub(super) fn usage(self) -> Usage {
        let details = self.prompt_tokens_details.unwrap_or_default();
        let cache_read = details.cached_tokens.or(self.prompt_cache_hit_tokens).unwrap_or(0);
        let cache_write = details.cache_write_tokens.unwrap_or(0);
        // The cached ones are counted inside the prompt here.
        let prompt = self.prompt_tokens.unwrap_or(0);
        let reasoning = self.completion_tokens_details.and_then(|d| d.reasoning_tokens);
        Usage {
            input_uncached: prompt.saturating_sub(cache_read).saturating_sub(cache_write),
            cache_read,
            cache_write,
            output: self.completion_tokens.unwrap_or(0),
            reasoning: reasoning.unwrap_or(0),
        }
    }
}

impl Incoming<'_> {
    pub(super) fn usage(&self) -> Option<Usage> {
        let groq = self.x_groq.as_ref().and_then(|groq| groq.usage);
        self.usage.or(groq).map(Tokens::usage)
    }

    /// The error that it carries instead of, or beside, an answer.
    pub(super) fn failure(&mut self) -> Option<Failure> {
        let groq = self.x_groq.as_mut().and_then(|groq| groq.error.take());
        let error = self.error.take().or(groq).filter(|error| !error.is_null())?;
        let problem = match error {
            Value::String(message) => Problem { message: Some(message), ..Problem::default() },
            error => Problem::deserialize(failure::lenient(error)).unwrap_or_default(),
        };
        Some(failure::of_problem(None, problem))
    }
}

impl Content<'_> {
    /// What is thought and what is said.
    pub(super) fn split(self) -> (String, String) {
        match self {
            Self::Text(text) => (String::new(), text.into_owned()),
            Self::Pieces(pieces) => {
                let (mut thought, mut said) = (String::new(), String::new());
                for piece in &pieces {
                    if let Some(inner) = piece.get("thinking").and_then(Value::as_array) {
                        inner
                            .iter()
                            .filter_map(|piece| piece.get("text")?.as_str())
                            .for_each(|text| thought.push_str(text));
                    } else if let Some(text) = piece.get("text").and_then(Value::as_str) {
                        said.push_str(text);
                    }
                }
                (thought, said)
            }
        }
    }
}

impl Function<'_> {
    pub(super) fn arguments(&mut self) -> String {
        match self.arguments.take() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(object) => object.to_string(),
        }
    }
}

/// Why an answer ended, given whether it calls and whether it only refuses. A named choice of
/// a tool ends with `stop` at OpenAI, so the calls decide.
pub(super) fn stop(reason: &str, calls: bool, refuses: bool) -> Stop {
    match reason {
        "length" | "model_length" => Stop::Length,
        "content_filter" => Stop::Filter,
        _ if calls => Stop::Tool,
        _ if refuses => Stop::Refusal,
        _ => Stop::End,
    }
}
