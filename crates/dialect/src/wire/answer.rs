//! Whether an answer is complete, and what the events of a stream tell.

use paceline_core::{Dialect, Endpoint, Usage};

use super::usage::usage;
use crate::scan;
use crate::sse::Facts;

/// Whether a body of status 200 is a finished answer: some providers report errors so.
pub fn is_answer(endpoint: Endpoint, body: &[u8]) -> bool {
    match endpoint {
        Endpoint::Chat | Endpoint::Completions => crate::openai::has_finished(body),
        Endpoint::Responses => top(body, b"status").is_some_and(|value| value == b"\"completed\""),
        Endpoint::Embeddings => top(body, b"data").is_some_and(|value| value.starts_with(b"[")),
        Endpoint::Messages => top(body, b"stop_reason").is_some_and(|v| v.starts_with(b"\"")),
        Endpoint::CountTokens => top(body, b"input_tokens").is_some(),
        Endpoint::Generate => finishes(body, b"\"finishReason\""),
        Endpoint::Converse => top(body, b"stopReason").is_some(),
        Endpoint::Other => false,
    }
}

/// The value of a top-level member.
fn top<'a>(body: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let members = scan::members(body).ok()?;
    let member = members.iter().find(|member| &body[member.key.range()] == name)?;
    Some(&body[member.value.range()])
}

/// Notes what whole events say: how many they are, whether the stream came to its end or
/// failed, and its usage.
pub fn read_events(endpoint: Endpoint, events: &[u8], facts: &mut Facts) {
    match endpoint.dialect() {
        Dialect::OpenAi if endpoint != Endpoint::Responses => {
            crate::openai::read_events(events, facts);
        }
        Dialect::Gemini => read_chunks(events, facts),
        _ => read_named(endpoint, events, facts),
    }
}

/// Events whose names tell what they are: Anthropic's and those of Responses.
fn read_named(endpoint: Endpoint, events: &[u8], facts: &mut Facts) {
    for line in lines(events) {
        if let Some(name) = line.strip_prefix(b"event:") {
            match name.trim_ascii() {
                b"message_stop" | b"response.completed" | b"response.incomplete" => {
                    facts.done = true;
                    facts.finished = true;
                }
                b"error" | b"response.failed" => facts.failed = true,
                _ => {}
            }
        } else if let Some(data) = line.strip_prefix(b"data:") {
            facts.events += 1;
            // Usage comes with few events, and these say so early.
            let early = &data[..data.len().min(64)];
            if [
                b"message_start".as_slice(),
                b"message_delta",
                b"response.completed",
                b"response.in",
            ]
            .iter()
            .any(|name| memchr::memmem::find(early, name).is_some())
                && let Some(found) = usage(endpoint, data)
            {
                facts.usage = Some(joined(facts.usage, found));
            }
        }
    }
}

/// Chunks that are answers of their own: Gemini's.
fn read_chunks(events: &[u8], facts: &mut Facts) {
    for line in lines(events) {
        let Some(data) = line.strip_prefix(b"data:") else {
            // An error breaks into the stream as a bare object.
            facts.failed |= line.trim_ascii_start().starts_with(b"{");
            continue;
        };
        let data = data.trim_ascii_start();
        facts.events += 1;
        facts.failed |= data.starts_with(b"{\"error\"");
        if finishes(data, b"\"finishReason\"") || finishes(data, b"\"blockReason\"") {
            facts.done = true;
            facts.finished = true;
        }
        if let Some(found) = usage(Endpoint::Generate, data) {
            facts.usage = Some(found);
        }
    }
}

/// Whether events say nothing of the answer yet, so that another upstream may still begin
/// anew: comments, and the events that only announce an answer.
pub fn is_preamble(endpoint: Endpoint, events: &[u8]) -> bool {
    const ANNOUNCED: [&[u8]; 5] = [
        b"message_start",
        b"ping",
        b"response.created",
        b"response.in_progress",
        b"response.queued",
    ];
    match endpoint {
        Endpoint::Messages | Endpoint::Responses => lines(events)
            .filter_map(|line| line.strip_prefix(b"event:"))
            .all(|name| ANNOUNCED.contains(&name.trim_ascii())),
        Endpoint::Chat => {
            let mut data = lines(events).filter(|line| line.starts_with(b"data:"));
            match (data.next(), data.next()) {
                (None, _) => true,
                (Some(first), None) => names_only_a_role(first),
                _ => false,
            }
        }
        _ => !lines(events).any(|line| line.starts_with(b"data:")),
    }
}

/// The first event of a chat stream mostly gives the role and an empty text.
fn names_only_a_role(event: &[u8]) -> bool {
    let has = |text: &[u8]| memchr::memmem::find(event, text).is_some();
    let texts = [b"\"content\"".as_slice(), b"\"reasoning_content\"", b"\"reasoning\""];
    let silent = texts.iter().all(|name| {
        memchr::memmem::find_iter(event, name).all(|at| {
            let value = super::member_value(&event[at + name.len()..]).unwrap_or_default();
            value.starts_with(b"\"\"") || value.starts_with(b"null")
        })
    });
    let other = [b"\"tool_calls\"".as_slice(), b"\"function_call\"", b"\"error\""];
    has(b"\"role\"")
        && silent
        && !other.iter().any(|name| has(name))
        && !crate::openai::has_finished(event)
}

/// A later usage replaces an earlier one; Anthropic's later one may leave the input out.
fn joined(earlier: Option<Usage>, later: Usage) -> Usage {
    match earlier {
        Some(earlier) if later.input == 0 => Usage { output: later.output, ..earlier },
        _ => later,
    }
}

/// Whether the name is there with a text as its value.
fn finishes(json: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find_iter(json, name).any(|at| {
        super::member_value(&json[at + name.len()..]).is_some_and(|v| v.starts_with(b"\""))
    })
}

fn lines(events: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_answers_are_told_from_others() {
        use Endpoint::{CountTokens, Embeddings, Generate, Messages, Responses};
        let check = |endpoint, body: &str, expected: bool| {
            assert_eq!(is_answer(endpoint, body.as_bytes()), expected, "{body}");
        };
        check(Responses, r#"{"status":"completed","output":[]}"#, true);
        check(Responses, r#"{"status":"incomplete","output":[{"status":"completed"}]}"#, false);
        check(Messages, r#"{"content":[],"stop_reason":"end_turn"}"#, true);
        check(Messages, r#"{"content":[{"stop_reason":"x"}],"stop_reason":null}"#, false);
        check(Embeddings, r#"{"object":"list","data":[]}"#, true);
        check(Embeddings, r#"{"error":{}}"#, false);
        check(CountTokens, r#"{"input_tokens":7}"#, true);
        check(Generate, r#"{"candidates":[{"finishReason": "STOP"}]}"#, true);
        check(Generate, r#"{"promptFeedback":{}}"#, false);
    }

    #[test]
    fn announcements_are_told_from_answers() {
        let check = |endpoint, events: &str, expected: bool| {
            assert_eq!(is_preamble(endpoint, events.as_bytes()), expected, "{events}");
        };
        let role = r#"data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
        check(Endpoint::Chat, ": wait\n\n", true);
        check(Endpoint::Chat, &format!("{role}\n\n"), true);
        check(Endpoint::Chat, &format!("{role}\n\n{role}\n\n"), false);
        check(
            Endpoint::Chat,
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"x\"}}]}\n\n",
            false,
        );
        check(Endpoint::Chat, "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", false);
        check(Endpoint::Chat, "data: {\"error\":{\"role\":1}}\n\n", false);
        check(
            Endpoint::Messages,
            "event: message_start\ndata: {}\n\nevent: ping\ndata: {}\n\n",
            true,
        );
        check(Endpoint::Messages, "event: content_block_start\ndata: {}\n\n", false);
        check(Endpoint::Responses, "event: response.created\ndata: {}\n\n", true);
        check(Endpoint::Responses, "event: response.output_item.added\ndata: {}\n\n", false);
        check(Endpoint::Generate, "data: {}\r\n\r\n", false);
    }

    #[test]
    fn streams_tell_their_end_and_their_usage() {
        let check = |endpoint, events: &str, done: bool, failed: bool, expected: (u64, u64)| {
            let mut facts = Facts::default();
            read_events(endpoint, events.as_bytes(), &mut facts);
            let usage = facts.usage.map_or((0, 0), |usage| (usage.input, usage.output));
            assert_eq!((facts.done, facts.failed, usage), (done, failed, expected), "{events}");
        };
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n";
        let delta = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\n";
        check(Endpoint::Messages, &format!("{start}{delta}"), false, false, (9, 5));
        let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
        check(Endpoint::Messages, &format!("{start}{delta}{stop}"), true, false, (9, 5));
        check(Endpoint::Messages, "event: error\ndata: {}\n\n", false, true, (0, 0));
        check(
            Endpoint::Responses,
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n",
            true,
            false,
            (3, 4),
        );
        check(
            Endpoint::Generate,
            "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":4}}\r\n\r\n",
            true,
            false,
            (3, 4),
        );
        check(Endpoint::Generate, "{\"error\":{\"code\":503}}\n", false, true, (0, 0));
    }
}
