//! Google's Gemini API. Members and bounds: the reference of `generateContent` and the types
//! of Google's SDK for Python (`google.genai.types`), November 2026.

use serde_json::{Value, json};

use super::check::{Kind, What, Wrong, check, may, must};
use super::script::{Asked, Must, Say};
use super::wire::chunks;

const PART: Kind = Kind::Object(&[
    may("text", Kind::Text),
    may("thought", Kind::Flag),
    may("thoughtSignature", Kind::Text),
    may(
        "inlineData",
        Kind::Object(&[
            must("mimeType", Kind::Some),
            must("data", Kind::Some),
            may("displayName", Kind::Text),
        ]),
    ),
    may(
        "fileData",
        Kind::Object(&[
            must("fileUri", Kind::Some),
            may("mimeType", Kind::Text),
            may("displayName", Kind::Text),
        ]),
    ),
    may(
        "functionCall",
        Kind::Object(&[must("name", Kind::Some), may("args", Kind::Map), may("id", Kind::Text)]),
    ),
    may(
        "functionResponse",
        Kind::Object(&[
            must("name", Kind::Some),
            must("response", Kind::Map),
            may("id", Kind::Text),
            may("parts", Kind::List(&Kind::Map)),
            may("scheduling", Kind::Text),
            may("willContinue", Kind::Flag),
        ]),
    ),
    may("executableCode", Kind::Map),
    may("codeExecutionResult", Kind::Map),
    may("videoMetadata", Kind::Map),
    may("mediaResolution", Kind::Any),
    may("toolCall", Kind::Map),
    may("toolResponse", Kind::Map),
]);
const CONTENT: Kind = Kind::Object(&[
    may("role", Kind::OneOf(&["user", "model", "function"])),
    must("parts", Kind::Filled(&PART)),
]);
const FUNCTION: Kind = Kind::Object(&[
    must("name", Kind::Some),
    may("description", Kind::Text),
    may("parameters", Kind::Map),
    may("parametersJsonSchema", Kind::Any),
    may("response", Kind::Map),
    may("responseJsonSchema", Kind::Any),
    may("behavior", Kind::Text),
]);
const TOOL: Kind = Kind::Object(&[
    may("functionDeclarations", Kind::List(&FUNCTION)),
    may("googleSearch", Kind::Map),
    may("googleSearchRetrieval", Kind::Map),
    may("codeExecution", Kind::Map),
    may("urlContext", Kind::Map),
    may("googleMaps", Kind::Map),
    may("fileSearch", Kind::Map),
    may("computerUse", Kind::Map),
    may("mcpServers", Kind::Any),
]);
const MODES: Kind = Kind::OneOf(&["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"]);
const GENERATE: Kind = Kind::Object(&[
    must("contents", Kind::Filled(&CONTENT)),
    may("model", Kind::Text),
    may(
        "systemInstruction",
        Kind::Object(&[may("role", Kind::Text), must("parts", Kind::List(&PART))]),
    ),
    may("tools", Kind::List(&TOOL)),
    may(
        "toolConfig",
        Kind::Object(&[
            may(
                "functionCallingConfig",
                Kind::Object(&[
                    may("mode", MODES),
                    may("allowedFunctionNames", Kind::List(&Kind::Text)),
                    may("streamFunctionCallArguments", Kind::Flag),
                ]),
            ),
            may("retrievalConfig", Kind::Map),
            may("includeServerSideToolInvocations", Kind::Flag),
        ]),
    ),
    may("safetySettings", Kind::List(&Kind::Map)),
    may("cachedContent", Kind::Text),
    may("serviceTier", Kind::Text),
    may("store", Kind::Flag),
    may("labels", Kind::Map),
    may(
        "generationConfig",
        Kind::Object(&[
            may("temperature", Kind::Number(0.0, 2.0)),
            may("topP", Kind::Number(0.0, 1.0)),
            may("topK", Kind::Number(0.0, 1e9)),
            may("candidateCount", Kind::Whole(1)),
            may("maxOutputTokens", Kind::Whole(1)),
            may("stopSequences", Kind::List(&Kind::Text)),
            may("seed", Kind::Number(-2.2e9, 2.2e9)),
            may("presencePenalty", Kind::Number(-2.0, 2.0)),
            may("frequencyPenalty", Kind::Number(-2.0, 2.0)),
            may("responseMimeType", Kind::Text),
            may("responseSchema", Kind::Map),
            may("responseJsonSchema", Kind::Any),
            may("responseModalities", Kind::List(&Kind::Text)),
            may("responseLogprobs", Kind::Flag),
            may("logprobs", Kind::Whole(0)),
            may(
                "thinkingConfig",
                Kind::Object(&[
                    may("includeThoughts", Kind::Flag),
                    may("thinkingBudget", Kind::Number(-1.0, 1e6)),
                    may("thinkingLevel", Kind::Text),
                ]),
            ),
            may("mediaResolution", Kind::Text),
            may("speechConfig", Kind::Map),
            may("imageConfig", Kind::Map),
            may("enableEnhancedCivicAnswers", Kind::Flag),
        ]),
    ),
]);

/// The members of both spellings under the one that the reference gives.
pub(crate) fn camel(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(camel).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| {
                // What stands under these is the caller's own.
                let own = [
                    "args",
                    "response",
                    "parameters",
                    "parametersJsonSchema",
                    "responseSchema",
                    "responseJsonSchema",
                    "response_schema",
                    "response_json_schema",
                    "parameters_json_schema",
                    "labels",
                ];
                let mut parts = name.split('_');
                let first = parts.next().unwrap_or_default().to_owned();
                let joined = parts.fold(first, |joined, part| {
                    let mut letters = part.chars();
                    let first = letters.next().map(|c| c.to_ascii_uppercase());
                    joined + &first.into_iter().chain(letters).collect::<String>()
                });
                let value = if own.contains(&name.as_str()) { value.clone() } else { camel(value) };
                (joined, value)
            })
            .collect(),
        other => other.clone(),
    }
}

/// Checks a request; `model` and `stream` stand in the path.
pub(crate) fn generate(body: &Value, model: &str, stream: bool) -> Result<Asked, Wrong> {
    let body = &camel(body);
    check(body, &GENERATE, "", true)?;
    let contents = body["contents"].as_array().map_or(&[][..], Vec::as_slice);
    let parts = |content: &Value| content["parts"].as_array().cloned().unwrap_or_default();
    let has = |content: &Value, name: &str| {
        parts(content).iter().filter(|part| !part[name].is_null()).count()
    };
    // "Please ensure that function response turn comes immediately after a function call
    // turn", and that the numbers of both agree (errors of the API itself).
    for (at, content) in contents.iter().enumerate() {
        let given = has(content, "functionResponse");
        let before = at.checked_sub(1).map_or(0, |before| has(&contents[before], "functionCall"));
        if given > 0 && given != before {
            let what = format!("as many function responses as the {before} calls before");
            return Err(Wrong::must(format!("contents[{at}].parts"), what));
        }
        let next_responds =
            contents.get(at + 1).is_none_or(|next| has(next, "functionResponse") > 0);
        if has(content, "functionCall") > 0 && !next_responds {
            let what = "followed by a function response turn";
            return Err(Wrong::must(format!("contents[{at}]"), what));
        }
    }
    let text = |content: &Value| {
        parts(content).iter().filter_map(|part| part["text"].as_str()).collect::<String>()
    };
    let users = contents.iter().rev().filter(|content| content["role"] != "model").map(text);
    let calling = &body["toolConfig"]["functionCallingConfig"];
    let allowed = calling["allowedFunctionNames"][0].as_str();
    let config = &body["generationConfig"];
    let declared = body["tools"].as_array().into_iter().flatten();
    let declared =
        declared.flat_map(|tool| tool["functionDeclarations"].as_array().into_iter().flatten());
    let json_wanted = config["responseMimeType"] == "application/json";
    let schema = config.get("responseJsonSchema").or(config.get("responseSchema"));
    let results = contents.last().map(parts).unwrap_or_default();
    let results = results.iter().map(|part| &part["functionResponse"]);
    let given =
        results.filter(|result| !result.is_null()).map(Value::to_string).collect::<String>();
    Ok(Asked {
        model: model.to_owned(),
        last: users.clone().find(|text| !text.is_empty()).unwrap_or_default(),
        turns: contents.iter().filter(|content| content["role"] == "model").count(),
        results: !given.is_empty(),
        given,
        tools: declared
            .filter_map(|function| {
                let schema = function.get("parametersJsonSchema").or(function.get("parameters"));
                Some((
                    function["name"].as_str()?.to_owned(),
                    lowered(schema.cloned().unwrap_or_default()),
                ))
            })
            .collect(),
        must_call: match (calling["mode"].as_str(), allowed) {
            (Some("NONE"), _) => Must::Never,
            (Some("ANY"), Some(name)) => Must::This(name.to_owned()),
            (Some("ANY"), None) => Must::Any,
            _ => Must::Free,
        },
        stream,
        include_usage: true,
        thinks: config["thinkingConfig"]["includeThoughts"] == true,
        max_tokens: config["maxOutputTokens"].as_u64(),
        schema: json_wanted.then(|| lowered(schema.cloned().unwrap_or(json!({"type": "object"})))),
        prompt_bytes: body["contents"].to_string().len(),
    })
}

/// Types of the older form are in capitals.
fn lowered(schema: Value) -> Value {
    match schema {
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(kind) if name == "type" => (name, json!(kind.to_ascii_lowercase())),
                value => (name, lowered(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(lowered).collect(),
        other => other,
    }
}

fn usage(say: &Say) -> Value {
    json!({
        "promptTokenCount": say.input, "candidatesTokenCount": say.output,
        "totalTokenCount": say.input + say.output,
    })
}

fn reason(say: &Say) -> &'static str {
    if say.cut { "MAX_TOKENS" } else { "STOP" }
}

fn answer(say: &Say, asked: &Asked, id: &str, parts: Vec<Value>, last: bool) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
    if last {
        candidate["finishReason"] = json!(reason(say));
    }
    json!({
        "candidates": [candidate], "usageMetadata": usage(say), "modelVersion": asked.model,
        "responseId": id,
    })
}

fn calls(say: &Say, id: &str) -> Vec<Value> {
    let call = |(at, call): (usize, &super::script::Call)| {
        let mut part = json!({"functionCall": {"name": call.name, "args": call.arguments, "id": format!("{id}{at}")}});
        if at == 0 {
            part["thoughtSignature"] = json!(super::wire::base64(format!("sim-{id}").as_bytes()));
        }
        part
    };
    say.calls.iter().enumerate().map(call).collect()
}

/// A whole answer.
pub(crate) fn whole(say: &Say, asked: &Asked, id: &str) -> Value {
    let thought = say.thinking.iter().map(|text| json!({"text": text, "thought": true}));
    let text = (!say.text.is_empty()).then(|| json!({"text": say.text}));
    let parts = thought.chain(text).chain(calls(say, id)).collect();
    answer(say, asked, id, parts, true)
}

/// The chunks of a streamed answer: events, or with `as_list` the pieces of one JSON list.
pub(crate) fn events(say: &Say, asked: &Asked, id: &str, as_list: bool) -> Vec<Vec<u8>> {
    let mut parts: Vec<Value> = Vec::new();
    if let Some(thinking) = &say.thinking {
        parts.extend(chunks(thinking).map(|text| json!({"text": text, "thought": true})));
    }
    parts.extend(chunks(&say.text).map(|text| json!({"text": text})));
    parts.extend(calls(say, id));
    let last = parts.len().saturating_sub(1);
    if parts.is_empty() {
        parts.push(json!({"text": ""}));
    }
    let told = parts
        .into_iter()
        .enumerate()
        .map(|(at, part)| answer(say, asked, id, vec![part], at == last));
    let written = told.enumerate().map(|(at, chunk)| match (as_list, at) {
        (false, _) => format!("data: {chunk}\r\n\r\n"),
        (true, 0) => format!("[{chunk}"),
        (true, _) => format!(",\r\n{chunk}"),
    });
    let mut out: Vec<_> = written.map(String::into_bytes).collect();
    if as_list {
        out.push(b"]".to_vec());
    }
    out
}

/// What is wrong, in the words of the API.
pub(crate) fn wrong(wrong: &Wrong) -> String {
    let path = &wrong.path;
    match &wrong.what {
        What::Missing => format!("* GenerateContentRequest.{path}: {path} is not specified"),
        What::Unknown => {
            let (place, name) = path.rsplit_once('.').unwrap_or(("", path));
            format!(
                "Invalid JSON payload received. Unknown name \"{name}\" at '{place}': Cannot find field."
            )
        }
        What::Must(what) => format!("* GenerateContentRequest.{path}: must be {what}"),
    }
}
