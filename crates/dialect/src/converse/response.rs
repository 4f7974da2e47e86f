//! Whole answers, read and written, and what they share with streams.

use serde_json::{Value, json};

use super::read_blocks;
use super::write_messages::answer_block;
use crate::members::Members;
use crate::neutral::{Fault, Response, Stop, Usage};

/// Reads a whole answer.
pub(super) fn read(body: Value) -> Result<Response, Fault> {
    let mut body = Members::of(body, "")?;
    let reason = body.required_text("stopReason")?;
    let stop =
        stop(&reason).ok_or_else(|| Fault::new("stopReason", format!("reports {reason}")))?;
    let mut output = body.object("output")?.ok_or_else(|| Fault::new("output", "is missing"))?;
    let mut message =
        output.object("message")?.ok_or_else(|| Fault::new("output.message", "is missing"))?;
    let usage = body.take("usage").unwrap_or_default();
    let parts = read_blocks::parts(&mut message, &mut Vec::new())?;
    let more = body.take("additionalModelResponseFields").unwrap_or_default();
    Ok(Response {
        parts,
        stop,
        stop_sequence: stop_sequence(&more),
        usage: read_usage(&usage),
        ..Response::default()
    })
}

/// Writes a whole answer.
pub(super) fn write(response: &Response) -> Value {
    let content: Vec<_> = response.parts.iter().filter_map(answer_block).collect();
    let mut body = json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": reason(response.stop),
        "usage": write_usage(response.usage),
        "metrics": {"latencyMs": 0},
    });
    tell_sequence(&mut body, response.stop_sequence.as_deref());
    body
}

/// Where Claude tells which stop text came.
pub(super) const SEQUENCE: &str = "/stop_sequence";

/// Which stop text came, from `additionalModelResponseFields`: Claude tells it where it is
/// asked for [`SEQUENCE`].
pub(super) fn stop_sequence(more: &Value) -> Option<String> {
    more["stop_sequence"].as_str().map(str::to_owned)
}

/// Tells which stop text came, as Claude does.
pub(super) fn tell_sequence(told: &mut Value, sequence: Option<&str>) {
    if let Some(sequence) = sequence {
        told["additionalModelResponseFields"] = json!({"stop_sequence": sequence});
    }
}

/// Why an answer ended; `None` where the model's output could not be used.
pub(super) fn stop(reason: &str) -> Option<Stop> {
    Some(match reason {
        "tool_use" => Stop::Tool,
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "stop_sequence" => Stop::Sequence,
        "guardrail_intervened" | "content_filtered" => Stop::Filter,
        "malformed_model_output" | "malformed_tool_use" => return None,
        _ => Stop::End,
    })
}

/// The word for why an answer ended.
pub(super) const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End | Stop::Pause => "end_turn",
        Stop::Tool => "tool_use",
        Stop::Length => "max_tokens",
        Stop::Sequence => "stop_sequence",
        Stop::Refusal | Stop::Filter => "content_filtered",
    }
}

/// Reads a usage. Some models (OpenAI's) count cached tokens in `inputTokens`, Anthropic's do
/// not; the sum tells.
pub(super) fn read_usage(usage: &Value) -> Usage {
    let of = |name: &str| usage[name].as_u64().unwrap_or(0);
    let (input, output) = (of("inputTokens"), of("outputTokens"));
    let (read, write) = (of("cacheReadInputTokens"), of("cacheWriteInputTokens"));
    let cached = read.saturating_add(write);
    let inside = cached > 0 && of("totalTokens") == input.saturating_add(output);
    Usage {
        input_uncached: if inside { input.saturating_sub(cached) } else { input },
        cache_read: read,
        cache_write: write,
        output,
        reasoning: 0,
    }
}

/// Writes a usage as for Anthropic's models.
pub(super) fn write_usage(usage: Usage) -> Value {
    json!({
        "inputTokens": usage.input_uncached,
        "outputTokens": usage.output,
        "totalTokens": usage.total(),
        "cacheReadInputTokens": usage.cache_read,
        "cacheWriteInputTokens": usage.cache_write,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_counted_once() {
        let check = |usage: Value, expected: (u64, u64)| {
            let usage = read_usage(&usage);
            assert_eq!((usage.input_uncached, usage.cache_read), expected);
        };
        let cached = |total: u64| {
            json!({
                "inputTokens": 100, "outputTokens": 5, "totalTokens": total,
                "cacheReadInputTokens": 60,
            })
        };
        check(cached(165), (100, 60));
        check(cached(105), (40, 60));
    }

    #[test]
    fn an_output_that_cannot_be_used_is_no_answer() {
        let body = json!({
            "stopReason": "malformed_tool_use",
            "output": {"message": {"role": "assistant", "content": []}},
        });
        assert!(read(body).unwrap_err().to_string().contains("malformed_tool_use"));
    }
}
