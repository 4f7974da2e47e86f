//! Amazon Bedrock's Converse. Members and bounds: the Bedrock API reference ("Converse",
//! "ConverseStream") and botocore's service model, November 2026. Unknown members are passed
//! over, as the service does.

use serde_json::{Value, json};

use super::check::{Kind, What, Wrong, check, may, must};
use super::script::{Asked, Must, Say};
use super::wire::{chunks, frame};

const SOURCE: Kind = Kind::Object(&[
    may("bytes", Kind::Some),
    may("s3Location", Kind::Map),
    may("text", Kind::Text),
    may("content", Kind::Any),
]);
const BLOCK: Kind = Kind::Object(&[
    // "The text field in the ContentBlock object is blank."
    may("text", Kind::Some),
    may(
        "image",
        Kind::Object(&[
            must("format", Kind::OneOf(&["png", "jpeg", "gif", "webp"])),
            must("source", SOURCE),
        ]),
    ),
    may(
        "document",
        Kind::Object(&[
            must("name", Kind::Some),
            may(
                "format",
                Kind::OneOf(&["pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"]),
            ),
            must("source", SOURCE),
        ]),
    ),
    may(
        "toolUse",
        Kind::Object(&[
            must("toolUseId", Kind::Name(64)),
            must("name", Kind::Name(64)),
            must("input", Kind::Map),
        ]),
    ),
    may(
        "toolResult",
        Kind::Object(&[
            must("toolUseId", Kind::Name(64)),
            must("content", Kind::Filled(&Kind::Map)),
            may("status", Kind::OneOf(&["success", "error"])),
        ]),
    ),
    may("reasoningContent", Kind::Map),
    may("cachePoint", Kind::Object(&[must("type", Kind::OneOf(&["default"]))])),
]);
const CONVERSE: Kind = Kind::Object(&[
    must(
        "messages",
        Kind::Filled(&Kind::Object(&[
            must("role", Kind::OneOf(&["user", "assistant"])),
            must("content", Kind::Filled(&BLOCK)),
        ])),
    ),
    may("system", Kind::List(&Kind::Map)),
    may(
        "inferenceConfig",
        Kind::Object(&[
            may("maxTokens", Kind::Whole(1)),
            may("temperature", Kind::Number(0.0, 1.0)),
            may("topP", Kind::Number(0.0, 1.0)),
            may("stopSequences", Kind::List(&Kind::Some)),
        ]),
    ),
    may(
        "toolConfig",
        Kind::Object(&[
            must(
                "tools",
                Kind::Filled(&Kind::Either(
                    &Kind::Object(&[must(
                        "toolSpec",
                        Kind::Object(&[
                            must("name", Kind::Name(64)),
                            may("description", Kind::Some),
                            must("inputSchema", Kind::Object(&[must("json", Kind::Map)])),
                        ]),
                    )]),
                    &Kind::Object(&[must("cachePoint", Kind::Map)]),
                )),
            ),
            may("toolChoice", Kind::Map),
        ]),
    ),
    may("additionalModelRequestFields", Kind::Map),
    may("outputConfig", Kind::Map),
    may("requestMetadata", Kind::Map),
]);

fn blocks(message: &Value) -> &[Value] {
    message["content"].as_array().map_or(&[], Vec::as_slice)
}

fn ids(message: Option<&Value>, kind: &str) -> Vec<String> {
    let blocks = message.into_iter().flat_map(blocks);
    blocks.filter_map(|block| Some(block[kind]["toolUseId"].as_str()?.to_owned())).collect()
}

/// Checks a request; `model` and `stream` stand in the path.
pub(crate) fn converse(body: &Value, model: &str, stream: bool) -> Result<Asked, Wrong> {
    check(body, &CONVERSE, "", false)?;
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    // "A conversation must start with a user message" and "must alternate between user and
    // assistant roles" (errors of the API itself).
    for (at, message) in messages.iter().enumerate() {
        let expected = if at % 2 == 0 { "user" } else { "assistant" };
        if message["role"] != expected {
            let what = format!("'{expected}': roles alternate, and the user begins");
            return Err(Wrong::must(format!("messages[{at}].role"), what));
        }
        let next = messages.get(at + 1);
        let answered = ids(next, "toolResult");
        let used = ids(Some(message), "toolUse");
        if let Some(id) = used.iter().find(|id| next.is_some() && !answered.contains(id)) {
            let what = format!("followed by a toolResult for {id}");
            return Err(Wrong::must(format!("messages[{at}]"), what));
        }
        let asked = ids(at.checked_sub(1).and_then(|before| messages.get(before)), "toolUse");
        let given = ids(Some(message), "toolResult");
        if let Some(id) = given.iter().find(|id| !asked.contains(id)) {
            let what = format!("such that toolUseId {id} is in the turn before");
            return Err(Wrong::must(format!("messages[{at}]"), what));
        }
        let has = |kind: &str| blocks(message).iter().any(|block| !block[kind].is_null());
        if has("document") && !has("text") {
            return Err(Wrong::must(format!("messages[{at}]"), "with a text beside a document"));
        }
    }
    let tools: Vec<_> = body["toolConfig"]["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tool| {
            let spec = &tool["toolSpec"];
            Some((spec["name"].as_str()?.to_owned(), spec["inputSchema"]["json"].clone()))
        })
        .collect();
    let uses = messages.iter().any(|message| !ids(Some(message), "toolUse").is_empty());
    if uses && tools.is_empty() {
        // "The toolConfig field must be defined when using toolUse and toolResult content
        // blocks."
        return Err(Wrong::must("toolConfig", "defined where there are toolUse blocks"));
    }
    let text = |message: &Value| {
        blocks(message).iter().filter_map(|block| block["text"].as_str()).collect::<String>()
    };
    let choice = &body["toolConfig"]["toolChoice"];
    let mut users = messages.iter().rev().filter(|message| message["role"] == "user").map(text);
    let results = messages.last().into_iter().flat_map(blocks).map(|block| &block["toolResult"]);
    let given =
        results.filter(|result| !result.is_null()).map(Value::to_string).collect::<String>();
    Ok(Asked {
        model: model.to_owned(),
        last: users.find(|text| !text.is_empty()).unwrap_or_default(),
        turns: messages.iter().filter(|message| message["role"] == "assistant").count(),
        results: !given.is_empty(),
        given,
        tools,
        must_call: match choice["tool"]["name"].as_str() {
            Some(name) => Must::This(name.to_owned()),
            None if !choice["any"].is_null() => Must::Any,
            None => Must::Free,
        },
        stream,
        include_usage: true,
        thinks: matches!(
            body["additionalModelRequestFields"]["thinking"]["type"].as_str(),
            Some("enabled" | "adaptive")
        ),
        max_tokens: body["inferenceConfig"]["maxTokens"].as_u64(),
        schema: body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
            .as_str()
            .and_then(|schema| serde_json::from_str(schema).ok()),
        prompt_bytes: body["messages"].to_string().len(),
    })
}

fn usage(say: &Say) -> Value {
    json!({
        "inputTokens": say.input, "outputTokens": say.output,
        "totalTokens": say.input + say.output,
    })
}

fn reason(say: &Say) -> &'static str {
    match (say.cut, say.calls.is_empty()) {
        (true, _) => "max_tokens",
        (_, false) => "tool_use",
        _ => "end_turn",
    }
}

/// A whole answer.
pub(crate) fn whole(say: &Say, id: &str) -> Value {
    let mut content = Vec::new();
    if let Some(text) = &say.thinking {
        let signature = format!("sim-signature-{id}");
        content.push(
            json!({"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}),
        );
    }
    if !say.text.is_empty() {
        content.push(json!({"text": say.text}));
    }
    content.extend(say.calls.iter().enumerate().map(|(at, call)| json!({
        "toolUse": {"toolUseId": format!("tooluse_{id}{at}"), "name": call.name, "input": call.arguments},
    })));
    json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": reason(say), "usage": usage(say), "metrics": {"latencyMs": 100},
    })
}

/// The frames of a streamed answer.
pub(crate) fn events(say: &Say, id: &str) -> Vec<Vec<u8>> {
    let mut out = vec![frame("event", "messageStart", &json!({"role": "assistant"}))];
    let mut index = 0;
    let mut block = |begin: Option<Value>, deltas: Vec<Value>| {
        let mut tell = |name: &str, mut body: Value| {
            body["contentBlockIndex"] = json!(index);
            out.push(frame("event", name, &body));
        };
        // Only calls are announced.
        begin.into_iter().for_each(|begin| tell("contentBlockStart", json!({"start": begin})));
        deltas.into_iter().for_each(|delta| tell("contentBlockDelta", json!({"delta": delta})));
        tell("contentBlockStop", json!({}));
        index += 1;
    };
    if let Some(thinking) = &say.thinking {
        let piece = |text| json!({"reasoningContent": {"text": text}});
        let mut deltas: Vec<_> = chunks(thinking).map(piece).collect();
        let signature = format!("sim-signature-{id}");
        deltas.push(json!({"reasoningContent": {"signature": signature}}));
        block(None, deltas);
    }
    if !say.text.is_empty() {
        block(None, chunks(&say.text).map(|text| json!({"text": text})).collect());
    }
    for (at, call) in say.calls.iter().enumerate() {
        let arguments = call.arguments.to_string();
        let begin =
            json!({"toolUse": {"toolUseId": format!("tooluse_{id}{at}"), "name": call.name}});
        let piece = |text| json!({"toolUse": {"input": text}});
        block(Some(begin), chunks(&arguments).map(piece).collect());
    }
    out.push(frame("event", "messageStop", &json!({"stopReason": reason(say)})));
    let metadata = json!({"usage": usage(say), "metrics": {"latencyMs": 100}});
    out.push(frame("event", "metadata", &metadata));
    out
}

/// What is wrong, in the words of the service.
pub(crate) fn wrong(wrong: &Wrong) -> String {
    let path = &wrong.path;
    match &wrong.what {
        What::Missing => format!(
            "1 validation error detected: Value at '{path}' failed to satisfy constraint: Member must not be null"
        ),
        What::Unknown | What::Must(_) => {
            format!("The value at {path} {}. Correct it and try your request again.", wrong.text())
        }
    }
}
