//! An estimate of a prompt's tokens, where no provider can be asked.

use serde_json::Value;

use crate::neutral::{Part, Request, Source, Tool};

/// Bytes of English text and code a token, on average (OpenAI's tokenizer guide says 4
/// characters; Anthropic's, 3.5).
const TOKEN_BYTES: u64 = 4;

/// Tokens of an image, where its size is not known: Anthropic's guide gives 1,590 for a
/// picture of 1092 × 1092, which larger ones are scaled down to.
const IMAGE_TOKENS: u64 = 1590;

/// Tokens of a page of a document, and bytes of PDF a page: Anthropic's guide gives 1,500 to
/// 3,000 tokens a page.
const PAGE_TOKENS: u64 = 2000;
const PAGE_BYTES: u64 = 50_000;

/// Tokens that each message costs beside its content.
const MESSAGE_TOKENS: u64 = 4;

/// About how many tokens a prompt has. An estimate: languages other than English, and long
/// numbers, take more.
pub fn estimated_tokens(request: &Request) -> u64 {
    let system: u64 = request.system.iter().map(part).sum();
    let messages: u64 = request
        .messages
        .iter()
        .map(|message| MESSAGE_TOKENS + message.parts.iter().map(part).sum::<u64>())
        .sum();
    let tools: u64 = request.tools.iter().map(tool).sum();
    (system + messages + tools).max(1)
}

fn text(text: &str) -> u64 {
    (text.len() as u64).div_ceil(TOKEN_BYTES)
}

fn tool(tool: &Tool) -> u64 {
    let schema = tool.schema.as_ref().map(Value::to_string).unwrap_or_default();
    MESSAGE_TOKENS
        + text(&tool.name)
        + text(tool.description.as_deref().unwrap_or_default())
        + text(&schema)
}

fn part(part: &Part) -> u64 {
    match part {
        Part::Text { text: said, .. } | Part::Refusal { text: said } => text(said),
        Part::Thinking { text: thought, .. } => text(thought),
        Part::Hidden { seal } => text(&seal.data),
        Part::Image { .. } => IMAGE_TOKENS,
        Part::Audio { source } | Part::File { source, .. } => match source {
            Source::Text { text: said } => text(said),
            Source::Base64 { data, .. } => {
                (data.len() as u64 * 3 / 4).div_ceil(PAGE_BYTES) * PAGE_TOKENS
            }
            Source::Url { .. } | Source::Uploaded { .. } => PAGE_TOKENS,
        },
        Part::ToolCall { name, arguments, .. } => MESSAGE_TOKENS + text(name) + text(arguments),
        Part::ToolResult { content, .. } => {
            MESSAGE_TOKENS + content.iter().map(self::part).sum::<u64>()
        }
    }
}
