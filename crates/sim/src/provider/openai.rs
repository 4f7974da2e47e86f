//! OpenAI's API. Members and bounds: OpenAI's API reference and the types of its SDK for
//! Python, November 2026 (`chat.completion_create_params`, `responses.response_create_params`,
//! `embedding_create_params`, `completion_create_params`).

use serde_json::{Value, json};

use super::check::{Kind, Member, Wrong, check, may, must};
use super::script::{Asked, Must, Say};
use super::wire::{chunks, data, event};

const CACHE: Member = may("prompt_cache_breakpoint", Kind::Map);
const TEXT: Kind =
    Kind::Object(&[must("type", Kind::OneOf(&["text"])), must("text", Kind::Text), CACHE]);
const PART: Kind = Kind::Tagged(
    "type",
    &[
        ("text", &[must("type", Kind::Any), must("text", Kind::Text), CACHE]),
        (
            "image_url",
            &[
                must("type", Kind::Any),
                must(
                    "image_url",
                    Kind::Object(&[
                        must("url", Kind::Some),
                        may("detail", Kind::OneOf(&["auto", "low", "high", "original"])),
                    ]),
                ),
                CACHE,
            ],
        ),
        ("input_audio", &[must("type", Kind::Any), must("input_audio", Kind::Map)]),
        ("file", &[must("type", Kind::Any), must("file", Kind::Map), CACHE]),
        ("refusal", &[must("type", Kind::Any), must("refusal", Kind::Text)]),
    ],
);
const CALL: Kind = Kind::Tagged(
    "type",
    &[
        (
            "function",
            &[
                must("id", Kind::Some),
                must("type", Kind::Any),
                must(
                    "function",
                    Kind::Object(&[must("name", Kind::Some), must("arguments", Kind::Text)]),
                ),
                may("extra_content", Kind::Map),
            ],
        ),
        ("custom", &[must("id", Kind::Some), must("type", Kind::Any), must("custom", Kind::Map)]),
    ],
);
const INSTRUCTION: &[Member] = &[
    must("role", Kind::Any),
    must("content", Kind::TextOr(&Kind::Filled(&TEXT))),
    may("name", Kind::Text),
];
const MESSAGE: Kind = Kind::Tagged(
    "role",
    &[
        ("system", INSTRUCTION),
        ("developer", INSTRUCTION),
        (
            "user",
            &[
                must("role", Kind::Any),
                must("content", Kind::TextOr(&Kind::Filled(&PART))),
                may("name", Kind::Text),
            ],
        ),
        (
            "assistant",
            &[
                must("role", Kind::Any),
                may("content", Kind::TextOr(&Kind::List(&PART))),
                may("refusal", Kind::Text),
                may("name", Kind::Text),
                may("audio", Kind::Map),
                may("tool_calls", Kind::Filled(&CALL)),
                may("function_call", Kind::Map),
                // The SDKs send answers back as they came.
                may("annotations", Kind::Any),
            ],
        ),
        (
            "tool",
            &[
                must("role", Kind::Any),
                must("content", Kind::TextOr(&Kind::List(&TEXT))),
                must("tool_call_id", Kind::Some),
                may("name", Kind::Text),
            ],
        ),
    ],
);
const TOOL: Kind = Kind::Tagged(
    "type",
    &[
        (
            "function",
            &[
                must("type", Kind::Any),
                must(
                    "function",
                    Kind::Object(&[
                        must("name", Kind::Name(64)),
                        may("description", Kind::Text),
                        may("parameters", Kind::Map),
                        may("strict", Kind::Flag),
                    ]),
                ),
            ],
        ),
        ("custom", &[must("type", Kind::Any), must("custom", Kind::Map)]),
    ],
);
const CHAT: Kind = Kind::Object(&[
    must("model", Kind::Some),
    must("messages", Kind::Filled(&MESSAGE)),
    may("tools", Kind::Filled(&TOOL)),
    may("tool_choice", Kind::TextOr(&Kind::Map)),
    may("parallel_tool_calls", Kind::Flag),
    may("temperature", Kind::Number(0.0, 2.0)),
    may("top_p", Kind::Number(0.0, 1.0)),
    may("frequency_penalty", Kind::Number(-2.0, 2.0)),
    may("presence_penalty", Kind::Number(-2.0, 2.0)),
    may("max_tokens", Kind::Whole(1)),
    may("max_completion_tokens", Kind::Whole(1)),
    may("n", Kind::Whole(1)),
    may("stop", Kind::TextOr(&Kind::List(&Kind::Text))),
    may("seed", Kind::Number(-9.3e18, 9.3e18)),
    may("stream", Kind::Flag),
    may(
        "stream_options",
        Kind::Object(&[may("include_usage", Kind::Flag), may("include_obfuscation", Kind::Flag)]),
    ),
    may(
        "response_format",
        Kind::Tagged(
            "type",
            &[
                ("text", &[must("type", Kind::Any)]),
                ("json_object", &[must("type", Kind::Any)]),
                (
                    "json_schema",
                    &[
                        must("type", Kind::Any),
                        must(
                            "json_schema",
                            Kind::Object(&[
                                must("name", Kind::Name(64)),
                                may("description", Kind::Text),
                                may("schema", Kind::Map),
                                may("strict", Kind::Flag),
                            ]),
                        ),
                    ],
                ),
            ],
        ),
    ),
    may(
        "reasoning_effort",
        Kind::OneOf(&["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
    ),
    may("verbosity", Kind::OneOf(&["low", "medium", "high"])),
    may("logprobs", Kind::Flag),
    may("top_logprobs", Kind::Whole(0)),
    may("logit_bias", Kind::Map),
    may("metadata", Kind::Map),
    may("store", Kind::Flag),
    may("user", Kind::Text),
    may("safety_identifier", Kind::Text),
    may("prompt_cache_key", Kind::Text),
    may("prompt_cache_retention", Kind::Text),
    may("prompt_cache_options", Kind::Map),
    may("service_tier", Kind::Text),
    may("modalities", Kind::List(&Kind::Text)),
    may("audio", Kind::Map),
    may("prediction", Kind::Map),
    may("web_search_options", Kind::Map),
    may("functions", Kind::List(&Kind::Map)),
    may("function_call", Kind::TextOr(&Kind::Map)),
]);

const RESPONSES: Kind = Kind::Object(&[
    must("model", Kind::Some),
    may("input", Kind::TextOr(&Kind::List(&Kind::Map))),
    may("instructions", Kind::TextOr(&Kind::List(&Kind::Map))),
    may("tools", Kind::List(&Kind::Map)),
    may("tool_choice", Kind::TextOr(&Kind::Map)),
    may("parallel_tool_calls", Kind::Flag),
    may("max_output_tokens", Kind::Whole(1)),
    may("max_tool_calls", Kind::Whole(1)),
    may("temperature", Kind::Number(0.0, 2.0)),
    may("top_p", Kind::Number(0.0, 1.0)),
    may("top_logprobs", Kind::Whole(0)),
    may("text", Kind::Map),
    may("reasoning", Kind::Map),
    may("include", Kind::List(&Kind::Text)),
    may("stream", Kind::Flag),
    may("stream_options", Kind::Map),
    may("store", Kind::Flag),
    may("previous_response_id", Kind::Text),
    may("conversation", Kind::TextOr(&Kind::Map)),
    may("background", Kind::Flag),
    may("truncation", Kind::OneOf(&["auto", "disabled"])),
    may("metadata", Kind::Map),
    may("user", Kind::Text),
    may("safety_identifier", Kind::Text),
    may("prompt", Kind::Map),
    may("prompt_cache_key", Kind::Text),
    may("prompt_cache_retention", Kind::Text),
    may("prompt_cache_options", Kind::Map),
    may("context_management", Kind::Any),
    may("service_tier", Kind::Text),
]);
const FUNCTION: Kind = Kind::Object(&[
    must("type", Kind::Any),
    must("name", Kind::Name(64)),
    may("description", Kind::Text),
    may("parameters", Kind::Map),
    may("strict", Kind::Flag),
]);

const EMBEDDINGS: Kind = Kind::Object(&[
    must("model", Kind::Some),
    must("input", Kind::TextOr(&Kind::Filled(&Kind::Any))),
    may("dimensions", Kind::Whole(1)),
    may("encoding_format", Kind::OneOf(&["float", "base64"])),
    may("user", Kind::Text),
]);

const COMPLETIONS: Kind = Kind::Object(&[
    must("model", Kind::Some),
    must("prompt", Kind::TextOr(&Kind::Filled(&Kind::Any))),
    may("suffix", Kind::Text),
    may("max_tokens", Kind::Whole(0)),
    may("temperature", Kind::Number(0.0, 2.0)),
    may("top_p", Kind::Number(0.0, 1.0)),
    may("frequency_penalty", Kind::Number(-2.0, 2.0)),
    may("presence_penalty", Kind::Number(-2.0, 2.0)),
    may("n", Kind::Whole(1)),
    may("best_of", Kind::Whole(1)),
    may("logprobs", Kind::Whole(0)),
    may("logit_bias", Kind::Map),
    may("echo", Kind::Flag),
    may("seed", Kind::Number(-9.3e18, 9.3e18)),
    may("stop", Kind::TextOr(&Kind::List(&Kind::Text))),
    may("stream", Kind::Flag),
    may("stream_options", Kind::Map),
    may("user", Kind::Text),
]);

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn flag(body: &Value, name: &str) -> bool {
    body[name].as_bool().unwrap_or(false)
}

fn must_call(choice: &Value) -> Must {
    match choice.as_str() {
        Some("none") => Must::Never,
        Some("required") => Must::Any,
        Some(_) => Must::Free,
        None => match choice["function"]["name"].as_str().or(choice["name"].as_str()) {
            Some(name) => Must::This(name.to_owned()),
            None => Must::Free,
        },
    }
}

/// Checks a request of chat completions.
pub(crate) fn chat(body: &Value) -> Result<Asked, Wrong> {
    check(body, &CHAT, "", true)?;
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    // "An assistant message with 'tool_calls' must be followed by tool messages", and the
    // other way round (errors of the API itself).
    let mut open: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            let Some(place) = open.iter().position(|known| *known == id) else {
                let what = "a response to a preceding message with 'tool_calls'";
                return Err(Wrong::must(format!("messages[{at}].role"), what));
            };
            open.remove(place);
            continue;
        }
        if let Some(id) = open.first() {
            let what = format!("followed by tool messages for each 'tool_call_id', as {id}");
            return Err(Wrong::must(format!("messages[{at}]"), what));
        }
        if message["role"] == "assistant" && message["content"].is_null() {
            let says = ["tool_calls", "function_call", "refusal", "audio"];
            if says.iter().all(|name| message[*name].is_null()) {
                return Err(Wrong::must(format!("messages[{at}].content"), "a string"));
            }
        }
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        open = calls.filter_map(|call| call["id"].as_str()).collect();
    }
    let last = messages.iter().rev().find(|message| message["role"] == "user");
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools = tools.filter_map(|tool| {
        let function = &tool["function"];
        Some((function["name"].as_str()?.to_owned(), function["parameters"].clone()))
    });
    let format = &body["response_format"];
    let schema = match format["type"].as_str() {
        Some("json_schema") => Some(format["json_schema"]["schema"].clone()),
        Some("json_object") => Some(json!({"type": "object"})),
        _ => None,
    };
    let results = messages.iter().rev().take_while(|message| message["role"] == "tool");
    let given: String = results.map(Value::to_string).collect();
    Ok(Asked {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        last: last.map(|message| text_of(&message["content"])).unwrap_or_default(),
        turns: messages.iter().filter(|message| message["role"] == "assistant").count(),
        results: !given.is_empty(),
        given,
        tools: tools.collect(),
        must_call: must_call(&body["tool_choice"]),
        stream: flag(body, "stream"),
        include_usage: flag(&body["stream_options"], "include_usage"),
        max_tokens: body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64()),
        schema,
        prompt_bytes: body["messages"].to_string().len(),
        ..Asked::default()
    })
}

fn chat_usage(say: &Say) -> Value {
    json!({
        "prompt_tokens": say.input, "completion_tokens": say.output,
        "total_tokens": say.input + say.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn chat_reason(say: &Say) -> &'static str {
    match (say.cut, say.calls.is_empty()) {
        (true, _) => "length",
        (_, false) => "tool_calls",
        _ => "stop",
    }
}

fn call_id(id: &str, at: usize) -> String {
    format!("call_{id}{at}")
}

/// A whole answer of chat completions.
pub(crate) fn chat_whole(say: &Say, asked: &Asked, id: &str) -> Value {
    let calls: Vec<_> = say
        .calls
        .iter()
        .enumerate()
        .map(|(at, call)| {
            json!({
                "id": call_id(id, at), "type": "function",
                "function": {"name": call.name, "arguments": call.arguments.to_string()},
            })
        })
        .collect();
    let content = (!say.text.is_empty() || calls.is_empty()).then_some(&say.text);
    let mut message =
        json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    json!({
        "id": format!("chatcmpl-{id}"), "object": "chat.completion", "created": 1_790_000_000,
        "model": asked.model, "usage": chat_usage(say), "service_tier": "default",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": chat_reason(say)}],
    })
}

/// The events of a streamed answer of chat completions.
pub(crate) fn chat_events(say: &Say, asked: &Asked, id: &str) -> Vec<Vec<u8>> {
    let chunk = |delta: Value, reason: Value| {
        data(&json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk",
            "created": 1_790_000_000, "model": asked.model, "service_tier": "default",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}],
        }))
    };
    let mut out = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    out.extend(chunks(&say.text).map(|text| chunk(json!({"content": text}), Value::Null)));
    for (at, call) in say.calls.iter().enumerate() {
        let head = json!({"index": at, "id": call_id(id, at), "type": "function",
            "function": {"name": call.name, "arguments": ""}});
        out.push(chunk(json!({"tool_calls": [head]}), Value::Null));
        let arguments = call.arguments.to_string();
        out.extend(chunks(&arguments).map(|text| {
            let piece = json!({"index": at, "function": {"arguments": text}});
            chunk(json!({"tool_calls": [piece]}), Value::Null)
        }));
    }
    out.push(chunk(json!({}), json!(chat_reason(say))));
    if asked.include_usage {
        out.push(data(&json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk",
            "created": 1_790_000_000, "model": asked.model, "choices": [],
            "usage": chat_usage(say),
        })));
    }
    out.push(b"data: [DONE]\n\n".to_vec());
    out
}

/// A request of responses as if it came with what was asked and answered before it.
pub(crate) fn continued(body: &Value, asked: &Value, answer: &Value) -> Value {
    let list = |input: &Value| match input {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        items => items.as_array().cloned().unwrap_or_default(),
    };
    let mut body = body.clone();
    body["input"] = [list(asked), list(&answer["output"]), list(&body["input"])].concat().into();
    body
}

/// Checks a request of responses.
pub(crate) fn responses(body: &Value) -> Result<Asked, Wrong> {
    check(body, &RESPONSES, "", true)?;
    let stored = ["previous_response_id", "conversation", "prompt"];
    let goes_on = stored.iter().any(|name| !body[*name].is_null());
    let items = match &body["input"] {
        Value::Null if goes_on => Vec::new(),
        Value::Null => {
            return Err(Wrong { path: "input".to_owned(), what: super::check::What::Missing });
        }
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        items => items.as_array().cloned().unwrap_or_default(),
    };
    let mut calls: Vec<String> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let path = |name: &str| format!("input[{at}].{name}");
        match item["type"].as_str().unwrap_or("message") {
            "message" => {
                let roles = Kind::OneOf(&["user", "assistant", "system", "developer"]);
                check(&item["role"], &roles, &path("role"), true)?;
            }
            "function_call" => {
                check(&item["call_id"], &Kind::Some, &path("call_id"), true)?;
                check(&item["name"], &Kind::Some, &path("name"), true)?;
                check(&item["arguments"], &Kind::Text, &path("arguments"), true)?;
                calls.extend(item["call_id"].as_str().map(str::to_owned));
            }
            // "No tool call found for function call output with call_id …".
            "function_call_output" => {
                let id = item["call_id"].as_str().unwrap_or_default();
                if !goes_on && !calls.iter().any(|known| known == id) {
                    return Err(Wrong::must(path("call_id"), "that of a function call before it"));
                }
            }
            _ => {}
        }
    }
    let mut tools = Vec::new();
    for (at, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        if tool["type"] == "function" {
            check(tool, &FUNCTION, &format!("tools[{at}]"), false)?;
            let name = tool["name"].as_str().unwrap_or_default().to_owned();
            tools.push((name, tool["parameters"].clone()));
        }
    }
    let last = items.iter().rev().find(|item| item["role"] == "user");
    let format = &body["text"]["format"];
    let schema = match format["type"].as_str() {
        Some("json_schema") => Some(format["schema"].clone()),
        Some("json_object") => Some(json!({"type": "object"})),
        _ => None,
    };
    let results = items.iter().rev().take_while(|item| item["type"] == "function_call_output");
    let given: String = results.map(Value::to_string).collect();
    Ok(Asked {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        last: last.map(|item| text_of(&item["content"])).unwrap_or_default(),
        turns: items
            .iter()
            .filter(|item| item["role"] == "assistant" || item["type"] == "function_call")
            .count(),
        results: !given.is_empty(),
        given,
        tools,
        must_call: must_call(&body["tool_choice"]),
        stream: flag(body, "stream"),
        max_tokens: body["max_output_tokens"].as_u64(),
        schema,
        prompt_bytes: body["input"].to_string().len(),
        ..Asked::default()
    })
}

fn response(say: &Say, asked: &Asked, id: &str, output: Vec<Value>, status: &str) -> Value {
    let details = say.cut.then(|| json!({"reason": "max_output_tokens"}));
    let usage = (status != "in_progress").then(|| {
        json!({
            "input_tokens": say.input, "output_tokens": say.output,
            "total_tokens": say.input + say.output,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        })
    });
    json!({
        "id": format!("resp_{id}"), "object": "response", "created_at": 1_790_000_000,
        "status": status, "error": null, "incomplete_details": details, "instructions": null,
        "metadata": {}, "model": asked.model, "output": output, "parallel_tool_calls": true,
        "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [],
        "usage": usage, "text": {"format": {"type": "text"}}, "truncation": "disabled",
    })
}

fn items(say: &Say, id: &str) -> Vec<Value> {
    let mut items = Vec::new();
    if !say.text.is_empty() || say.calls.is_empty() {
        items.push(json!({
            "id": format!("msg_{id}"), "type": "message", "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": say.text, "annotations": [], "logprobs": []}],
        }));
    }
    items.extend(say.calls.iter().enumerate().map(|(at, call)| {
        json!({
            "id": format!("fc_{id}{at}"), "type": "function_call", "status": "completed",
            "call_id": call_id(id, at), "name": call.name, "arguments": call.arguments.to_string(),
        })
    }));
    items
}

fn response_status(say: &Say) -> &'static str {
    if say.cut { "incomplete" } else { "completed" }
}

/// A whole answer of responses.
pub(crate) fn responses_whole(say: &Say, asked: &Asked, id: &str) -> Value {
    response(say, asked, id, items(say, id), response_status(say))
}

/// The events of a streamed answer of responses.
pub(crate) fn responses_events(say: &Say, asked: &Asked, id: &str) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut tell = |kind: &str, mut body: Value| {
        body["type"] = json!(kind);
        body["sequence_number"] = json!(out.len());
        out.push(event(kind, &body));
    };
    let begun = response(say, asked, id, Vec::new(), "in_progress");
    tell("response.created", json!({"response": begun}));
    tell("response.in_progress", json!({"response": begun}));
    for (at, item) in items(say, id).into_iter().enumerate() {
        let mut open = item.clone();
        open["status"] = json!("in_progress");
        let item_id = item["id"].clone();
        let place = |more: Value| {
            let mut body = json!({"item_id": item_id, "output_index": at});
            body.as_object_mut().into_iter().for_each(|map| {
                map.extend(more.as_object().cloned().unwrap_or_default());
            });
            body
        };
        if item["type"] == "message" {
            open["content"] = json!([]);
            tell("response.output_item.added", json!({"output_index": at, "item": open}));
            let part = &item["content"][0];
            let empty =
                json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
            tell("response.content_part.added", place(json!({"content_index": 0, "part": empty})));
            for text in chunks(&say.text) {
                let more = json!({"content_index": 0, "delta": text, "logprobs": []});
                tell("response.output_text.delta", place(more));
            }
            let done = json!({"content_index": 0, "text": say.text, "logprobs": []});
            tell("response.output_text.done", place(done));
            tell("response.content_part.done", place(json!({"content_index": 0, "part": part})));
        } else {
            open["arguments"] = json!("");
            tell("response.output_item.added", json!({"output_index": at, "item": open}));
            let arguments = item["arguments"].as_str().unwrap_or_default();
            for text in chunks(arguments) {
                tell("response.function_call_arguments.delta", place(json!({"delta": text})));
            }
            let done = json!({"arguments": arguments, "name": item["name"]});
            tell("response.function_call_arguments.done", place(done));
        }
        tell("response.output_item.done", json!({"output_index": at, "item": item}));
    }
    let kind = if say.cut { "response.incomplete" } else { "response.completed" };
    tell(kind, json!({"response": responses_whole(say, asked, id)}));
    out
}

/// Checks a request of embeddings.
pub(crate) fn embeddings(body: &Value) -> Result<Asked, Wrong> {
    check(body, &EMBEDDINGS, "", true)?;
    Ok(Asked {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        prompt_bytes: body["input"].to_string().len(),
        ..Asked::default()
    })
}

/// Embeddings: numbers that follow from the text, of length 1.
pub(crate) fn embeddings_whole(body: &Value, say: &Say, asked: &Asked) -> Value {
    let texts = match &body["input"] {
        Value::Array(items) if items.iter().any(|item| !item.is_number()) => items.clone(),
        one => vec![one.clone()],
    };
    let size = body["dimensions"].as_u64().unwrap_or(64).min(4096);
    let embedding = |text: &Value| {
        let seed = xxhash_rust::xxh3::xxh3_64(text.to_string().as_bytes());
        let raw: Vec<f64> =
            (0..size).map(|at| crate::text::uniform(crate::text::mix(seed ^ at)) - 0.5).collect();
        let length = raw.iter().map(|number| number * number).sum::<f64>().sqrt().max(1e-9);
        raw.into_iter().map(|number| (number / length) as f32).collect::<Vec<f32>>()
    };
    let packed = body["encoding_format"] == "base64";
    let data: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let numbers = embedding(text);
            let numbers = if packed {
                json!(super::wire::base64(
                    &numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()
                ))
            } else {
                json!(numbers)
            };
            json!({"object": "embedding", "index": at, "embedding": numbers})
        })
        .collect();
    json!({
        "object": "list", "data": data, "model": asked.model,
        "usage": {"prompt_tokens": say.input, "total_tokens": say.input},
    })
}

/// Checks a request of text completions.
pub(crate) fn completions(body: &Value) -> Result<Asked, Wrong> {
    check(body, &COMPLETIONS, "", true)?;
    Ok(Asked {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        last: body["prompt"].as_str().unwrap_or_default().to_owned(),
        stream: flag(body, "stream"),
        include_usage: flag(&body["stream_options"], "include_usage"),
        // The one API with a limit of its own where none is given.
        max_tokens: Some(body["max_tokens"].as_u64().unwrap_or(16).max(1)),
        prompt_bytes: body["prompt"].to_string().len(),
        ..Asked::default()
    })
}

fn completion(say: &Say, asked: &Asked, id: &str, text: &str, reason: Value) -> Value {
    let mut usage = chat_usage(say);
    if let Some(usage) = usage.as_object_mut() {
        usage.retain(|name, _| !name.ends_with("details"));
    }
    json!({
        "id": format!("cmpl-{id}"), "object": "text_completion", "created": 1_790_000_000,
        "model": asked.model, "usage": usage,
        "choices": [{"text": text, "index": 0, "logprobs": null, "finish_reason": reason}],
    })
}

/// A whole answer of text completions.
pub(crate) fn completions_whole(say: &Say, asked: &Asked, id: &str) -> Value {
    completion(say, asked, id, &say.text, json!(chat_reason(say)))
}

/// The events of a streamed answer of text completions.
pub(crate) fn completions_events(say: &Say, asked: &Asked, id: &str) -> Vec<Vec<u8>> {
    let told = |text: &str, reason: Value| {
        let mut chunk = completion(say, asked, id, text, reason);
        chunk["usage"] = Value::Null;
        data(&chunk)
    };
    let mut out: Vec<_> = chunks(&say.text).map(|text| told(text, Value::Null)).collect();
    out.push(told("", json!(chat_reason(say))));
    if asked.include_usage {
        let mut last = completion(say, asked, id, "", Value::Null);
        last["choices"] = json!([]);
        out.push(data(&last));
    }
    out.push(b"data: [DONE]\n\n".to_vec());
    out
}
