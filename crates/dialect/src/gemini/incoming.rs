//! What a server sends: whole answers, and the chunks of a stream, which look the same.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::neutral::{Stop, Usage};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Incoming<'a> {
    #[serde(borrow)]
    pub(super) candidates: Option<Vec<Candidate<'a>>>,
    #[serde(borrow)]
    pub(super) model_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) response_id: Option<Cow<'a, str>>,
    pub(super) usage_metadata: Option<Tokens>,
    pub(super) prompt_feedback: Option<Feedback>,
    pub(super) error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Content<'a>>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Cow<'a, str>>,
    pub(super) index: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Content<'a> {
    #[serde(borrow)]
    pub(super) parts: Option<Vec<Piece<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Piece<'a> {
    #[serde(borrow)]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) thought: bool,
    #[serde(borrow)]
    pub(super) thought_signature: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) function_call: Option<Call<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) args: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Feedback {
    pub(super) block_reason: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Tokens {
    prompt_token_count: u64,
    tool_use_prompt_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
    cached_content_token_count: u64,
}

impl Tokens {
    pub(super) fn usage(self) -> Usage {
        // The cached ones are counted inside the prompt, thoughts beside the answer.
        let prompt = self.prompt_token_count.saturating_add(self.tool_use_prompt_token_count);
        Usage {
            input_uncached: prompt.saturating_sub(self.cached_content_token_count),
            cache_read: self.cached_content_token_count,
            cache_write: 0,
            output: self.candidates_token_count.saturating_add(self.thoughts_token_count),
            reasoning: self.thoughts_token_count,
        }
    }
}

impl Incoming<'_> {
    /// Why a prompt was refused, where there is no candidate.
    pub(super) fn blocked(&self) -> bool {
        let reason =
            self.prompt_feedback.as_ref().and_then(|feedback| feedback.block_reason.as_ref());
        reason.is_some()
    }
}

impl Call<'_> {
    pub(super) fn arguments(&mut self) -> String {
        self.args.take().map_or_else(|| "{}".to_owned(), |args| args.to_string())
    }
}

/// Why an answer ended, given whether it calls.
pub(super) fn stop(reason: &str, calls: bool) -> Stop {
    match reason {
        "MAX_TOKENS" => Stop::Length,
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY"
        | "MODEL_ARMOR" => Stop::Filter,
        _ if calls => Stop::Tool,
        _ => Stop::End,
    }
}

/// The word for why an answer ended.
pub(super) const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::Length => "MAX_TOKENS",
        Stop::Filter => "SAFETY",
        _ => "STOP",
    }
}

/// An identifier for a call that has none.
pub(super) fn minted(id: &str, at: usize) -> String {
    format!("call_{id}_{at}")
}
