//! Which operation a path asks for.

use axum::http::{Method, Uri};
use serde_json::{Value, json};

use super::check::Wrong;
use super::error::Refusal;
use super::script::{Asked, Say};
use super::{Outcome, Vendor, anthropic, bedrock, gemini, openai};

/// An operation of a vendor's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    Responses,
    /// An answer that was stored, or its input.
    Stored {
        id: String,
        items: bool,
    },
    Completions,
    Embeddings,
    Messages,
    CountTokens,
    Generate {
        model: String,
        stream: bool,
        as_list: bool,
    },
    Converse {
        model: String,
        stream: bool,
    },
    Models,
}

impl Operation {
    pub(crate) fn of(vendor: Vendor, method: &Method, uri: &Uri) -> Result<Self, Refusal> {
        let path = uri.path();
        let found = match vendor {
            Vendor::OpenAi => Self::of_openai(path),
            Vendor::Anthropic => match path {
                "/v1/messages" => Some(Self::Messages),
                "/v1/messages/count_tokens" => Some(Self::CountTokens),
                "/v1/models" => Some(Self::Models),
                _ => None,
            },
            Vendor::Gemini => Self::of_gemini(path, uri.query().unwrap_or_default()),
            Vendor::Bedrock => path.strip_prefix("/model/").and_then(|rest| {
                let (model, what) = rest.rsplit_once('/')?;
                let stream = match what {
                    "converse" => false,
                    "converse-stream" => true,
                    _ => return None,
                };
                Some(Self::Converse { model: model.replace("%3A", ":"), stream })
            }),
        };
        let operation = found.ok_or_else(|| Refusal::not_found(format!("no such path: {path}")))?;
        let expected = match &operation {
            Self::Models => &[Method::GET][..],
            Self::Stored { items: true, .. } => &[Method::GET],
            Self::Stored { .. } => &[Method::GET, Method::DELETE],
            _ => &[Method::POST],
        };
        if expected.contains(method) { Ok(operation) } else { Err(Refusal::not_allowed(method)) }
    }

    fn of_openai(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/responses" => Self::Responses,
            "/v1/completions" => Self::Completions,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/models" => Self::Models,
            _ => {
                let rest = path.strip_prefix("/v1/responses/")?;
                let items = rest.ends_with("/input_items");
                let id = rest.trim_end_matches("/input_items").to_owned();
                if id.contains('/') {
                    return None;
                }
                Self::Stored { id, items }
            }
        })
    }

    fn of_gemini(path: &str, query: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v1beta/models").or(path.strip_prefix("/v1/models"))?;
        if rest.is_empty() {
            return Some(Self::Models);
        }
        let (model, method) = rest.strip_prefix('/')?.rsplit_once(':')?;
        let stream = match method {
            "generateContent" => false,
            "streamGenerateContent" => true,
            _ => return None,
        };
        let as_list = stream && !query.split('&').any(|pair| pair == "alt=sse");
        Some(Self::Generate { model: model.to_owned(), stream, as_list })
    }

    /// Checks a body, and gives what it asks.
    pub(crate) fn ask(&self, body: &Value) -> Result<Asked, Wrong> {
        match self {
            Self::Chat => openai::chat(body),
            Self::Responses => openai::responses(body),
            Self::Completions => openai::completions(body),
            Self::Embeddings => openai::embeddings(body),
            Self::Messages => anthropic::messages(body),
            Self::CountTokens => anthropic::count_tokens(body),
            Self::Generate { model, stream, .. } => gemini::generate(body, model, *stream),
            Self::Converse { model, stream } => bedrock::converse(body, model, *stream),
            Self::Models | Self::Stored { .. } => Ok(Asked::default()),
        }
    }

    /// Tells what is said in the words of the operation.
    pub(crate) fn tell(&self, body: &Value, say: &Say, asked: &Asked, id: &str) -> Outcome {
        let events = |pieces| Outcome::Pieces { kind: "text/event-stream", pieces };
        match self {
            Self::Chat if asked.stream => events(openai::chat_events(say, asked, id)),
            Self::Chat => Outcome::Whole(openai::chat_whole(say, asked, id)),
            Self::Responses if asked.stream => events(openai::responses_events(say, asked, id)),
            Self::Responses => Outcome::Whole(openai::responses_whole(say, asked, id)),
            Self::Completions if asked.stream => events(openai::completions_events(say, asked, id)),
            Self::Completions => Outcome::Whole(openai::completions_whole(say, asked, id)),
            Self::Embeddings => Outcome::Whole(openai::embeddings_whole(body, say, asked)),
            Self::Messages if asked.stream => events(anthropic::events(say, asked, id)),
            Self::Messages => Outcome::Whole(anthropic::whole(say, asked, id)),
            Self::CountTokens => Outcome::Whole(anthropic::count_whole(say)),
            Self::Generate { stream: true, as_list, .. } => {
                let pieces = gemini::events(say, asked, id, *as_list);
                let kind = if *as_list { "application/json" } else { "text/event-stream" };
                Outcome::Pieces { kind, pieces }
            }
            Self::Generate { .. } => Outcome::Whole(gemini::whole(say, asked, id)),
            Self::Converse { stream: true, .. } => Outcome::Pieces {
                kind: "application/vnd.amazon.eventstream",
                pieces: bedrock::events(say, id),
            },
            Self::Converse { .. } => Outcome::Whole(bedrock::whole(say, id)),
            Self::Models | Self::Stored { .. } => Outcome::Whole(Value::Null),
        }
    }

    /// The list of a vendor's models.
    pub(crate) fn models(vendor: Vendor, model: &str) -> Value {
        let note = "a simulated provider: texts mean nothing";
        match vendor {
            Vendor::OpenAi | Vendor::Bedrock => json!({
                "object": "list",
                "data": [{
                    "id": model, "object": "model", "created": 1_790_000_000,
                    "owned_by": "paceline-sim",
                }],
            }),
            Vendor::Anthropic => json!({
                "has_more": false, "first_id": model, "last_id": model,
                "data": [{
                    "type": "model", "id": model, "display_name": note,
                    "created_at": "2026-09-21T00:00:00Z",
                }],
            }),
            Vendor::Gemini => json!({
                "models": [{
                    "name": format!("models/{model}"), "displayName": note, "version": "1",
                    "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
                }],
            }),
        }
    }
}
