//! What a server sends: whole answers and the chunks of a stream.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor, value};
use serde_json::Value;

use crate::lenient;
use crate::neutral::{Failure, FailureClass, Seal, Stop, Usage, Vendor};
use crate::responses::failure;
use crate::responses::incoming::Problem;

/// A whole answer, or a chunk of a stream.
#[derive(Deserialize)]
pub(super) struct Incoming<'a> {
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) model: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "lenient::count")]
    pub(super) created: Option<u64>,
    #[serde(borrow)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    pub(super) usage: Option<Tokens>,
    pub(super) error: Option<Value>,
    /// Groq's usage, where none was asked for, and its errors.
    pub(super) x_groq: Option<Groq>,
    /// `error` where the whole object is one (vLLM, Mistral).
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) object: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Groq {
    usage: Option<Tokens>,
    error: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default, deserialize_with = "lenient::count")]
    pub(super) index: Option<u64>,
    /// What a chunk adds. Azure's filter chunks have none.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// The whole so far; Perplexity's chunks have it beside the delta.
    #[serde(borrow)]
    message: Option<Box<Delta<'a>>>,
    /// What a text completion says, in place of both.
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    text: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) finish_reason: Option<Cow<'a, str>>,
}

impl<'a> Choice<'a> {
    /// What it says; a choice that has both a delta and a message adds the delta only.
    pub(super) fn said(&mut self) -> Option<Delta<'a>> {
        let told = self.delta.take().or_else(|| self.message.take().map(|message| *message));
        told.or_else(|| {
            let content = Content::Text(self.text.take()?);
            Some(Delta { content: Some(content), ..Delta::default() })
        })
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Content<'a>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    reasoning: Option<Cow<'a, str>>,
    /// OpenRouter's list of thoughts with their seals.
    pub(super) reasoning_details: Option<Vec<Value>>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<Call<'a>>>,
    /// The older form of one call.
    #[serde(borrow)]
    pub(super) function_call: Option<Function<'a>>,
}

impl Delta<'_> {
    /// What is thought: DeepSeek's and vLLM's name of it. Some servers send both, alike.
    pub(super) fn thought(&mut self) -> String {
        let named = [self.reasoning_content.take(), self.reasoning.take()];
        let said = named.into_iter().flatten().find(|text| !text.is_empty());
        said.unwrap_or_default().into_owned()
    }
}

/// A text, or Mistral's list of pieces.
pub(super) enum Content<'a> {
    Text(Cow<'a, str>),
    Pieces(Vec<Value>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of pieces")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(value::SeqAccessDeserializer::new(items)).map(Content::Pieces)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        let piece = Value::deserialize(value::MapAccessDeserializer::new(members))?;
        Ok(Content::Pieces(vec![piece]))
    }
}

#[derive(Deserialize)]
pub(super) struct Call<'a> {
    #[serde(default, deserialize_with = "lenient::count")]
    pub(super) index: Option<u64>,
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
    /// Where Google's servers of this dialect put their seals.
    extra_content: Option<Value>,
}

impl<'a> Call<'a> {
    /// The older form of one call.
    pub(super) fn old(function: Function<'a>) -> Self {
        Self { index: Some(0), id: None, function: Some(function), extra_content: None }
    }

    pub(super) fn seal(&self) -> Option<Seal> {
        google_seal(self.extra_content.as_ref()?)
    }
}

/// The seal of a call in `extra_content`.
pub(super) fn google_seal(extra_content: &Value) -> Option<Seal> {
    let data = extra_content.pointer("/google/thought_signature")?.as_str()?;
    Some(Seal { vendor: Vendor::Google, data: data.to_owned(), item: None })
}

#[derive(Deserialize)]
pub(super) struct Function<'a> {
    #[serde(default, borrow, deserialize_with = "lenient::text")]
    pub(super) name: Option<Cow<'a, str>>,
    /// A text; some servers give the object itself.
    pub(super) arguments: Option<Value>,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Tokens {
    #[serde(default, deserialize_with = "lenient::count")]
    prompt_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient::count")]
    completion_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient::count")]
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name of the cached ones.
    #[serde(default, deserialize_with = "lenient::count")]
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PromptDetails {
    #[serde(default, deserialize_with = "lenient::count")]
    cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lenient::count")]
    cache_write_tokens: Option<u64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct CompletionDetails {
    #[serde(default, deserialize_with = "lenient::count")]
    reasoning_tokens: Option<u64>,
}

impl Tokens {
    pub(super) fn usage(self) -> Usage {
        let details = self.prompt_tokens_details.unwrap_or_default();
        let cache_read = details.cached_tokens.or(self.prompt_cache_hit_tokens).unwrap_or(0);
        let cache_write = details.cache_write_tokens.unwrap_or(0);
        // The cached ones are counted inside the prompt here.
        let prompt = self.prompt_tokens.unwrap_or(0);
        let said = self.completion_tokens.unwrap_or(0);
        // Google's and xAI's servers of this dialect count thinking in the total alone.
        let total = self.total_tokens.unwrap_or(0);
        let beside = total.saturating_sub(prompt).saturating_sub(said);
        let reasoning = self.completion_tokens_details.and_then(|d| d.reasoning_tokens);
        Usage {
            input_uncached: prompt.saturating_sub(cache_read).saturating_sub(cache_write),
            cache_read,
            cache_write,
            output: said.saturating_add(beside),
            reasoning: reasoning.unwrap_or(beside),
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

    /// Whether the object itself is an error.
    pub(super) fn is_failure(&self) -> bool {
        self.choices.is_none() && self.object.as_deref() == Some("error")
    }
}

/// The failure that a whole object is; its status stands in `code`, where it has one.
pub(super) fn whole_failure(object: &[u8]) -> Failure {
    let code = serde_json::from_slice::<Value>(object).ok();
    let code = code.as_ref().and_then(|object| object.get("code")?.as_u64());
    let status = code.and_then(|code| u16::try_from(code).ok()).filter(|c| (400..600).contains(c));
    failure::read(status.unwrap_or(500), &http::HeaderMap::new(), object)
}

impl Content<'_> {
    /// What is thought and what is said.
    pub(super) fn split(self) -> (String, String) {
        match self {
            Self::Text(text) => (String::new(), text.into_owned()),
            Self::Pieces(pieces) => {
                let (mut thought, mut said) = (String::new(), String::new());
                for piece in &pieces {
                    if let Some(inner) = piece.get("thinking") {
                        add_texts(inner, &mut thought);
                    } else {
                        add_texts(piece, &mut said);
                    }
                }
                (thought, said)
            }
        }
    }
}

/// Appends the texts of a piece: itself, its `text`, or those of its own pieces.
fn add_texts(piece: &Value, out: &mut String) {
    match piece {
        Value::String(text) => out.push_str(text),
        Value::Array(pieces) => {
            let texts = pieces.iter().filter_map(|piece| piece.get("text")?.as_str());
            texts.for_each(|text| out.push_str(text));
        }
        piece => out.push_str(piece.get("text").and_then(Value::as_str).unwrap_or_default()),
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
        "length" | "model_length" | "max_tokens" => Stop::Length,
        "content_filter" | "safety" | "SAFETY" => Stop::Filter,
        _ if calls => Stop::Tool,
        _ if refuses => Stop::Refusal,
        _ => Stop::End,
    }
}

/// The failure that a reason of the end is: the server gave up.
pub(super) fn given_up(reason: &str) -> Option<Failure> {
    let class = match reason {
        // OpenRouter, Mistral; SGLang and vLLM.
        "error" | "abort" => FailureClass::Server,
        // DeepSeek.
        "insufficient_system_resource" => FailureClass::Overloaded,
        _ => return None,
    };
    let message = format!("the upstream ended its answer with the reason `{reason}`");
    Some(Failure { class, message, code: Some(reason.to_owned()), param: None })
}
