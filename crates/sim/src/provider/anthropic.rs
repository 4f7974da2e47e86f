//! Anthropic's API. Members and bounds: Anthropic's API reference ("Messages") and the types
//! of its SDK for Python (`message_create_params`), November 2026.

use serde_json::{Value, json};

use super::check::{Kind, Member, What, Wrong, check, may, must};
use super::script::{Asked, Must, Say};
use super::wire::{chunks, event};

const CACHE: Member = may(
    "cache_control",
    Kind::Object(&[
        must("type", Kind::OneOf(&["ephemeral"])),
        may("ttl", Kind::OneOf(&["5m", "1h"])),
    ]),
);
const TEXT: &[Member] = &[
    must("type", Kind::Any),
    // "text content blocks must be non-empty".
    must("text", Kind::Some),
    may("citations", Kind::Any),
    CACHE,
];
const SOURCE: Kind = Kind::Tagged(
    "type",
    &[
        (
            "base64",
            &[must("type", Kind::Any), must("media_type", Kind::Some), must("data", Kind::Some)],
        ),
        ("url", &[must("type", Kind::Any), must("url", Kind::Some)]),
        ("file", &[must("type", Kind::Any), must("file_id", Kind::Some)]),
        (
            "text",
            &[
                must("type", Kind::Any),
                must("media_type", Kind::OneOf(&["text/plain"])),
                must("data", Kind::Text),
            ],
        ),
        ("content", &[must("type", Kind::Any), must("content", Kind::Any)]),
    ],
);
const IMAGE: &[Member] = &[must("type", Kind::Any), must("source", SOURCE), CACHE];
const DOCUMENT: &[Member] = &[
    must("type", Kind::Any),
    must("source", SOURCE),
    may("title", Kind::Text),
    may("context", Kind::Text),
    may("citations", Kind::Map),
    CACHE,
];
const RESULT_PART: Kind = Kind::Tagged(
    "type",
    &[
        ("text", TEXT),
        ("image", IMAGE),
        ("document", DOCUMENT),
        (
            "search_result",
            &[
                must("type", Kind::Any),
                must("source", Kind::Text),
                must("title", Kind::Text),
                must("content", Kind::Any),
                CACHE,
            ],
        ),
        ("tool_reference", &[must("type", Kind::Any), must("tool_name", Kind::Some), CACHE]),
    ],
);
const BLOCK: Kind = Kind::Tagged(
    "type",
    &[
        ("text", TEXT),
        ("image", IMAGE),
        ("document", DOCUMENT),
        (
            "thinking",
            &[must("type", Kind::Any), must("thinking", Kind::Text), must("signature", Kind::Some)],
        ),
        ("redacted_thinking", &[must("type", Kind::Any), must("data", Kind::Some)]),
        (
            "tool_use",
            &[
                must("type", Kind::Any),
                must("id", Kind::Name(256)),
                must("name", Kind::Name(200)),
                must("input", Kind::Map),
                may("caller", Kind::Map),
                CACHE,
            ],
        ),
        (
            "tool_result",
            &[
                must("type", Kind::Any),
                must("tool_use_id", Kind::Name(256)),
                may("content", Kind::TextOr(&Kind::List(&RESULT_PART))),
                may("is_error", Kind::Flag),
                CACHE,
            ],
        ),
    ],
);
const TOOL: Kind = Kind::Object(&[
    must("name", Kind::Name(128)),
    may("type", Kind::Text),
    may("description", Kind::Text),
    must("input_schema", Kind::Map),
    may("strict", Kind::Flag),
    may("defer_loading", Kind::Flag),
    may("eager_input_streaming", Kind::Flag),
    may("allowed_callers", Kind::Any),
    may("input_examples", Kind::Any),
    CACHE,
]);
const MESSAGE: Kind = Kind::Object(&[
    must("role", Kind::OneOf(&["user", "assistant"])),
    must("content", Kind::Either(&Kind::Some, &Kind::Filled(&BLOCK))),
]);
const SYSTEM: Kind = Kind::TextOr(&Kind::List(&Kind::Tagged("type", &[("text", TEXT)])));
const CHOICE: Kind = Kind::Tagged(
    "type",
    &[
        ("auto", &[must("type", Kind::Any), may("disable_parallel_tool_use", Kind::Flag)]),
        ("any", &[must("type", Kind::Any), may("disable_parallel_tool_use", Kind::Flag)]),
        ("none", &[must("type", Kind::Any)]),
        (
            "tool",
            &[
                must("type", Kind::Any),
                must("name", Kind::Some),
                may("disable_parallel_tool_use", Kind::Flag),
            ],
        ),
    ],
);
const THINKING: Kind = Kind::Tagged(
    "type",
    &[
        (
            "enabled",
            &[
                must("type", Kind::Any),
                must("budget_tokens", Kind::Whole(1024)),
                may("display", Kind::OneOf(&["summarized", "omitted"])),
            ],
        ),
        (
            "adaptive",
            &[must("type", Kind::Any), may("display", Kind::OneOf(&["summarized", "omitted"]))],
        ),
        ("disabled", &[must("type", Kind::Any)]),
    ],
);
const OUTPUT: Kind = Kind::Object(&[
    may("effort", Kind::OneOf(&["low", "medium", "high", "xhigh", "max"])),
    may(
        "format",
        Kind::Object(&[must("type", Kind::OneOf(&["json_schema"])), must("schema", Kind::Map)]),
    ),
    may("task_budget", Kind::Map),
]);

const MESSAGES: Kind = Kind::Object(&[
    must("model", Kind::Some),
    must("max_tokens", Kind::Whole(1)),
    must("messages", Kind::Filled(&MESSAGE)),
    may("system", SYSTEM),
    may("tools", Kind::List(&TOOL)),
    may("tool_choice", CHOICE),
    may("temperature", Kind::Number(0.0, 1.0)),
    may("top_p", Kind::Number(0.0, 1.0)),
    may("top_k", Kind::Whole(0)),
    may("stop_sequences", Kind::List(&Kind::Text)),
    may("stream", Kind::Flag),
    may("thinking", THINKING),
    may("output_config", OUTPUT),
    may("metadata", Kind::Object(&[may("user_id", Kind::Text)])),
    may("service_tier", Kind::OneOf(&["auto", "standard_only"])),
    may("container", Kind::Any),
    may("context_management", Kind::Map),
    may("mcp_servers", Kind::List(&Kind::Map)),
    may("inference_geo", Kind::Text),
    may("speed", Kind::Text),
    may("cache_control", Kind::Map),
]);
const COUNT: Kind = Kind::Object(&[
    must("model", Kind::Some),
    must("messages", Kind::Filled(&MESSAGE)),
    may("system", SYSTEM),
    may("tools", Kind::List(&TOOL)),
    may("tool_choice", CHOICE),
    may("thinking", THINKING),
    may("output_config", OUTPUT),
    may("context_management", Kind::Map),
    may("mcp_servers", Kind::List(&Kind::Map)),
    may("cache_control", Kind::Map),
]);

/// Checks a request of messages.
pub(crate) fn messages(body: &Value) -> Result<Asked, Wrong> {
    check(body, &MESSAGES, "", true)?;
    asked(body)
}

/// Checks a request of count_tokens.
pub(crate) fn count_tokens(body: &Value) -> Result<Asked, Wrong> {
    check(body, &COUNT, "", true)?;
    asked(body)
}

fn blocks(message: &Value) -> &[Value] {
    message["content"].as_array().map_or(&[], Vec::as_slice)
}

fn of<'a>(message: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    blocks(message).iter().filter(move |block| block["type"] == kind)
}

fn asked(body: &Value) -> Result<Asked, Wrong> {
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    if messages[0]["role"] != "user" {
        return Err(Wrong::must("messages[0].role", "'user': the first message is the user's"));
    }
    pairs(messages)?;
    let budget = body["thinking"]["budget_tokens"].as_u64().unwrap_or(0);
    let max_tokens = body["max_tokens"].as_u64();
    if max_tokens.is_some_and(|max| max <= budget) {
        let what = "greater than `thinking.budget_tokens`";
        return Err(Wrong::must("max_tokens", what));
    }
    let thinks = matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive"));
    if thinks && body["temperature"].as_f64().is_some_and(|temperature| temperature != 1.0) {
        return Err(Wrong::must("temperature", "1 when thinking is enabled"));
    }
    let forced = matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool"));
    if thinks && forced {
        // "Thinking may not be enabled when tool_choice forces tool use."
        return Err(Wrong::must("tool_choice", "'auto' or 'none' when thinking is enabled"));
    }
    if budget > 0 {
        thought_first(messages)?;
    }
    if !body["temperature"].is_null() && !body["top_p"].is_null() {
        return Err(Wrong::must("top_p", "left out where `temperature` is set"));
    }
    let choice = &body["tool_choice"];
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools: Vec<_> = tools
        .filter_map(|tool| Some((tool["name"].as_str()?.to_owned(), tool["input_schema"].clone())))
        .collect();
    if !choice.is_null() && tools.is_empty() {
        return Err(Wrong::must("tool_choice", "left out where there are no `tools`"));
    }
    let users = messages.iter().rev().filter(|message| message["role"] == "user");
    let text = |message: &Value| match message["content"].as_str() {
        Some(text) => text.to_owned(),
        None => of(message, "text").filter_map(|block| block["text"].as_str()).collect(),
    };
    let results = messages.last().into_iter().flat_map(|message| of(message, "tool_result"));
    let given: String = results.map(Value::to_string).collect();
    Ok(Asked {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        last: users.map(text).find(|text: &String| !text.is_empty()).unwrap_or_default(),
        turns: messages.iter().filter(|message| message["role"] == "assistant").count(),
        results: !given.is_empty(),
        given,
        tools,
        must_call: match choice["type"].as_str() {
            Some("none") => Must::Never,
            Some("any") => Must::Any,
            Some("tool") => Must::This(choice["name"].as_str().unwrap_or_default().to_owned()),
            _ => Must::Free,
        },
        stream: body["stream"].as_bool().unwrap_or(false),
        include_usage: true,
        thinks,
        max_tokens,
        schema: body["output_config"]["format"].get("schema").cloned(),
        prompt_bytes: body["messages"].to_string().len() + body["system"].to_string().len(),
    })
}

/// "Each `tool_use` block must have a corresponding `tool_result` block in the next message",
/// and each `tool_result` a `tool_use` in the previous one (errors of the API itself).
fn pairs(messages: &[Value]) -> Result<(), Wrong> {
    let ids = |message: Option<&Value>, kind: &'static str, name: &str| -> Vec<String> {
        let blocks = message.into_iter().flat_map(|message| of(message, kind));
        blocks.filter_map(|block| Some(block[name].as_str()?.to_owned())).collect()
    };
    for (at, message) in messages.iter().enumerate() {
        let used = ids(Some(message), "tool_use", "id");
        let next = messages.get(at + 1);
        let answered = ids(next, "tool_result", "tool_use_id");
        if let Some(id) = used.iter().find(|id| next.is_some() && !answered.contains(id)) {
            let what = format!("followed by a `tool_result` block for {id} in the next message");
            return Err(Wrong::must(format!("messages[{at}]"), what));
        }
        let given = ids(Some(message), "tool_result", "tool_use_id");
        let before = at.checked_sub(1).and_then(|before| messages.get(before));
        let asked = ids(before, "tool_use", "id");
        if let Some(id) = given.iter().find(|id| !asked.contains(id)) {
            let what = format!("such that `tool_use_id` {id} is in the previous message");
            return Err(Wrong::must(format!("messages[{at}]"), what));
        }
    }
    Ok(())
}

/// "When `thinking` is enabled, a final `assistant` message must start with a thinking block
/// (preceding the lastmost set of `tool_use` and `tool_result` blocks)" (an error of the API
/// itself). It holds for budgets only.
fn thought_first(messages: &[Value]) -> Result<(), Wrong> {
    let under_way = messages.last().is_some_and(|message| of(message, "tool_result").count() > 0);
    let at = messages.iter().rposition(|message| message["role"] == "assistant");
    let Some(at) = at.filter(|_| under_way) else { return Ok(()) };
    // The turn may have gone on over several results.
    let plain =
        |message: &Value| message["role"] == "user" && of(message, "tool_result").count() == 0;
    let begin = messages[..at].iter().rposition(plain).map_or(0, |before| before + 1);
    let first = messages[begin..=at].iter().find(|message| message["role"] == "assistant");
    let kind = first.and_then(|message| blocks(message).first()?["type"].as_str());
    if matches!(kind, Some("thinking" | "redacted_thinking")) {
        return Ok(());
    }
    let what = "`thinking` or `redacted_thinking` when thinking is enabled";
    Err(Wrong::must(format!("messages[{begin}].content[0].type"), what))
}

/// The answer of count_tokens.
pub(crate) fn count_whole(say: &Say) -> Value {
    json!({"input_tokens": say.input})
}

fn reason(say: &Say) -> &'static str {
    match (say.cut, say.calls.is_empty()) {
        (true, _) => "max_tokens",
        (_, false) => "tool_use",
        _ => "end_turn",
    }
}

fn signature(id: &str) -> String {
    format!("sim-signature-{id}")
}

fn usage(say: &Say, output: u64) -> Value {
    json!({
        "input_tokens": say.input, "output_tokens": output,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    })
}

fn message(asked: &Asked, id: &str, content: Vec<Value>, stop: Value, usage: Value) -> Value {
    json!({
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": asked.model,
        "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage,
    })
}

fn call(at: usize, say: &Say, id: &str, input: Value) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{id}{at}"), "name": say.calls[at].name,
        "input": input})
}

/// A whole answer.
pub(crate) fn whole(say: &Say, asked: &Asked, id: &str) -> Value {
    let mut content = Vec::new();
    if let Some(thinking) = &say.thinking {
        let signature = signature(id);
        content.push(json!({"type": "thinking", "thinking": thinking, "signature": signature}));
    }
    if !say.text.is_empty() {
        content.push(json!({"type": "text", "text": say.text}));
    }
    for at in 0..say.calls.len() {
        content.push(call(at, say, id, say.calls[at].arguments.clone()));
    }
    message(asked, id, content, json!(reason(say)), usage(say, say.output))
}

/// The events of a streamed answer.
pub(crate) fn events(say: &Say, asked: &Asked, id: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut tell = |kind: &str, mut body: Value| {
        body["type"] = json!(kind);
        out.push(event(kind, &body));
    };
    let start = message(asked, id, Vec::new(), Value::Null, usage(say, 1));
    tell("message_start", json!({"message": start}));
    tell("ping", json!({}));
    let mut index = 0;
    let mut block = |begin: Value, deltas: Vec<Value>| {
        tell("content_block_start", json!({"index": index, "content_block": begin}));
        for delta in deltas {
            tell("content_block_delta", json!({"index": index, "delta": delta}));
        }
        tell("content_block_stop", json!({"index": index}));
        index += 1;
    };
    if let Some(thinking) = &say.thinking {
        let piece = |text| json!({"type": "thinking_delta", "thinking": text});
        let mut deltas: Vec<_> = chunks(thinking).map(piece).collect();
        deltas.push(json!({"type": "signature_delta", "signature": signature(id)}));
        block(json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    if !say.text.is_empty() {
        let piece = |text| json!({"type": "text_delta", "text": text});
        block(json!({"type": "text", "text": ""}), chunks(&say.text).map(piece).collect());
    }
    for at in 0..say.calls.len() {
        let arguments = say.calls[at].arguments.to_string();
        let piece = |text| json!({"type": "input_json_delta", "partial_json": text});
        block(call(at, say, id, json!({})), chunks(&arguments).map(piece).collect());
    }
    let delta = json!({"stop_reason": reason(say), "stop_sequence": null});
    tell("message_delta", json!({"delta": delta, "usage": usage(say, say.output)}));
    tell("message_stop", json!({}));
    out
}

/// What is wrong, in the words of the API: `messages.0.role: Input should be …`.
pub(crate) fn wrong(wrong: &Wrong) -> String {
    let path = wrong.path.replace('[', ".").replace(']', "");
    match &wrong.what {
        What::Missing => format!("{path}: Field required"),
        What::Unknown => format!("{path}: Extra inputs are not permitted"),
        What::Must(what) => format!("{path}: Input should be {what}"),
    }
}
