//! Whole answers, read and written.

use serde::Deserialize;
use serde_json::Value;

use super::outgoing::{self, Answer, Content, Ids, Item, Summary, Tokens};
use super::{failure, incoming, seal};
use crate::neutral::{Fault, Part, Request, Response, Stop};

/// Reads a whole answer.
pub(super) fn read(body: Value) -> Result<Response, Fault> {
    if !body.is_object() {
        return Err(Fault::new("body", "must be an object"));
    }
    let answer = incoming::Answer::deserialize(body).map_err(|error| {
        Fault::new("body", format!("is no answer of the Responses API: {error}"))
    })?;
    if let Some(problem) = answer.error {
        let failure = failure::of_problem(None, problem);
        return Err(Fault::new("error", format!("says: {}", failure.message)));
    }
    match answer.status.as_deref() {
        Some(status @ ("failed" | "cancelled" | "queued" | "in_progress")) => {
            Err(Fault::new("status", format!("is {status}, so there is no answer")))
        }
        None if answer.id.is_none() => Err(Fault::new("id", "is missing")),
        _ => Ok(answer.into_response()),
    }
}

/// Writes a whole answer.
pub(super) fn write(response: &Response, request: &Request) -> Value {
    let ids = Ids::of(&response.id);
    let items = items(response, &ids);
    let items: Vec<_> = items.iter().collect();
    let (status, incomplete_details) = outgoing::status(response.stop);
    let answer = Answer {
        id: &ids.answer,
        object: "response",
        created_at: request.answered_s(response),
        status,
        error: None,
        incomplete_details,
        model: &response.model,
        output: &items,
        usage: Some(Tokens::of(&response.usage)),
    };
    let mut written = serde_json::to_value(answer).unwrap_or_default();
    if let Some(map) = written.as_object_mut() {
        map.extend(outgoing::echo(request));
    }
    written
}

/// The items of an answer. Texts and refusals that follow each other are one message, since
/// clients take the last message for the answer.
fn items(response: &Response, ids: &Ids) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for part in &response.parts {
        if let (Some(piece), Some(Item::Message { content, .. })) =
            (Content::of(part), items.last_mut())
        {
            content.push(piece);
            continue;
        }
        items.extend(item(part, ids, items.len()));
    }
    let refused = |item: &Item| {
        let Item::Message { content, .. } = item else { return false };
        content.iter().any(|piece| matches!(piece, Content::Refusal { .. }))
    };
    if response.stop == Stop::Refusal && !items.iter().any(refused) {
        let part = Part::Refusal { text: outgoing::DECLINED.to_owned() };
        items.extend(item(&part, ids, items.len()));
    }
    let (status, _) = outgoing::status(response.stop);
    let last = items.len().wrapping_sub(1);
    for (at, item) in items.iter_mut().enumerate() {
        item.end(status == "incomplete" && at == last);
    }
    items
}

fn item(part: &Part, ids: &Ids, at: usize) -> Option<Item> {
    let mut item = Item::begin(part, ids, at)?;
    match (&mut item, part) {
        (Item::Message { content, .. }, part) => content.extend(Content::of(part)),
        (Item::FunctionCall { arguments, .. }, Part::ToolCall { arguments: whole, .. }) => {
            arguments.push_str(whole);
        }
        (Item::Reasoning { id, summary, encrypted_content }, Part::Thinking { text, seal }) => {
            if !text.is_empty() {
                summary.push(Summary::SummaryText { text: text.clone() });
            }
            *encrypted_content = seal.as_ref().map(|seal| seal::text(seal, false, id));
        }
        (Item::Reasoning { id, encrypted_content, .. }, Part::Hidden { seal }) => {
            *encrypted_content = Some(seal::text(seal, true, id));
        }
        _ => {}
    }
    Some(item)
}
