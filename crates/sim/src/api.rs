//! The OpenAI chat request: strict checks as a real server makes them, and the prompt.
//!
//! A body may have half a megabyte, so texts are borrowed from it and go straight into the
//! block hashes. Members are checked one by one, so that an error names the one at fault;
//! unknown members are ignored.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::text::Blocks;

/// An answer with an error status, in OpenAI's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            kind: "invalid_request_error",
            param: (!param.is_empty()).then(|| param.to_owned()),
            code: None,
        }
    }

    fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// A fault on the server's side.
    pub(crate) fn server(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind: if status == StatusCode::TOO_MANY_REQUESTS { "requests" } else { "server_error" },
            param: None,
            code: (status == StatusCode::TOO_MANY_REQUESTS).then_some("rate_limit_exceeded"),
        }
    }

    /// The prompt leaves no room.
    pub(crate) fn too_long(max: u64, prompt: u64, output: Option<u64>) -> Self {
        let asked = match output {
            Some(output) => format!("{prompt} in the messages and {output} in the completion"),
            None => format!("{prompt} in the messages"),
        };
        let message = format!(
            "This model's maximum context length is {max} tokens. However, you requested {asked}. \
             Please reduce the length of the messages or completion."
        );
        Self::invalid("messages", message).with_code("context_length_exceeded")
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Outer<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let (param, code) = (self.param.as_deref(), self.code);
        let error = Inner { message: &self.message, r#type: self.kind, param, code };
        serde_json::to_vec(&Outer { error }).unwrap_or_default()
    }
}

/// A checked request, without its messages, which live on as hashes only.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    pub(crate) model: String,
    /// The prompt, the reply's header included.
    pub(crate) prompt: Blocks,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
    /// Whether equal prompts may get different answers.
    pub(crate) random: bool,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) form: Form,
}

/// What the answer is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// Prose.
    Text,
    /// A call of this tool, with arguments after this schema.
    Tool { name: String, parameters: serde_json::Value },
    /// A JSON document after this schema.
    Json(serde_json::Value),
}

/// The members of a request that have an effect here.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    min_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    ignore_eos: Option<&'a RawValue>,
    #[serde(borrow)]
    temperature: Option<&'a RawValue>,
    #[serde(borrow)]
    top_p: Option<&'a RawValue>,
    #[serde(borrow)]
    seed: Option<&'a RawValue>,
    #[serde(borrow)]
    n: Option<&'a RawValue>,
    #[serde(borrow)]
    stop: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_salt: Option<&'a RawValue>,
}

impl Chat {
    /// Checks a request body.
    pub(crate) fn parse(body: &[u8], bytes_per_token: u8) -> Result<Self, ApiError> {
        let members: Members<'_> = serde_json::from_slice(body).map_err(|e| {
            ApiError::invalid("", format!("The body is not a valid JSON object: {e}"))
        })?;
        let m = &members;
        let model: String = required("model", m.model)?;
        let max_tokens = match m.max_completion_tokens {
            Some(raw) => number("max_completion_tokens", Some(raw), 1, u32::MAX)?,
            None => number("max_tokens", m.max_tokens, 1, u32::MAX)?,
        };
        let min_tokens = number("min_tokens", m.min_tokens, 0, u32::MAX)?.unwrap_or(0);
        if max_tokens.is_some_and(|max| min_tokens > max) {
            return Err(ApiError::invalid("min_tokens", "min_tokens must not exceed max_tokens."));
        }
        number("n", m.n, 1, 1)?;
        let temperature = ranged("temperature", m.temperature, 2.0)?;
        ranged("top_p", m.top_p, 1.0)?;
        let stream = value::<bool>("stream", m.stream)?.unwrap_or(false);
        let options: Option<StreamOptions> = value("stream_options", m.stream_options)?;
        if options.is_some() && !stream {
            let message = "The 'stream_options' parameter is only allowed when 'stream' is true.";
            return Err(ApiError::invalid("stream_options", message));
        }
        let salt: Option<String> = value("cache_salt", m.cache_salt)?;
        let salt = salt.map_or(0, |salt| xxh3_64(salt.as_bytes()));
        let mut prompt = Blocks::new(bytes_per_token, salt);
        let tools: Vec<Tool> = value("tools", m.tools)?.unwrap_or_default();
        if let Some(raw) = m.tools.filter(|_| !tools.is_empty()) {
            prompt.header("tools");
            // Written anew, because white space is no difference to a chat template.
            let all: serde_json::Value = parse("tools", raw)?;
            prompt.push(all.to_string().as_bytes());
            prompt.pad();
        }
        let last_user = push_messages(&mut prompt, m.messages)?;
        prompt.header("assistant");
        Ok(Self {
            model,
            prompt,
            max_tokens,
            min_tokens,
            ignore_eos: value("ignore_eos", m.ignore_eos)?.unwrap_or(false),
            random: temperature.is_none_or(|t| t > 0.0),
            seed: value("seed", m.seed)?,
            stop: parse_stop(m.stop)?,
            stream,
            include_usage: options.and_then(|options| options.include_usage).unwrap_or(false),
            form: choose_form(tools, m.tool_choice, m.response_format, &last_user)?,
        })
    }
}

/// Renders the messages; the text of the last one where a user wrote it.
fn push_messages<'a>(
    prompt: &mut Blocks,
    messages: Option<&'a RawValue>,
) -> Result<Cow<'a, str>, ApiError> {
    let messages: Vec<Message<'_>> = required("messages", messages)?;
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(ApiError::invalid("messages", message).with_code("empty_array"));
    }
    let mut last_user = Cow::Borrowed("");
    for (i, message) in messages.into_iter().enumerate() {
        let bad = |field: &str, text: String| {
            Err(ApiError::invalid(&format!("messages[{i}].{field}"), text))
        };
        let role = &*message.role;
        if !ROLES.contains(&role) {
            let roles = ROLES.join("', '");
            return bad(
                "role",
                format!("Invalid value: '{role}'. Supported values are: '{roles}'."),
            )
            .map_err(|e| e.with_code("invalid_value"));
        }
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        if !calls.is_empty() && role != "assistant" {
            return bad("tool_calls", format!("A message of role '{role}' calls no tools."));
        }
        if matches!(message.content, Content::None) && (role != "assistant" || calls.is_empty()) {
            let empty_ok = role == "assistant" && message.has_other;
            if !empty_ok {
                return bad("content", format!("A message of role '{role}' needs a content."));
            }
        }
        if role == "tool" && message.tool_call_id.is_none() {
            return bad(
                "tool_call_id",
                "A message of role 'tool' needs a tool_call_id.".to_owned(),
            );
        }
        prompt.header(role);
        push_content(prompt, &message.content);
        for call in calls {
            prompt.tool_call(&call.function.name, &call.function.arguments);
        }
        // Only a question asks for a tool by its name: after the tool's result comes prose.
        last_user = match message.content {
            Content::Text(text) if role == "user" => text,
            Content::Parts(parts) if role == "user" => parts.iter().map(Part::text).collect(),
            _ => Cow::Borrowed(""),
        };
    }
    Ok(last_user)
}

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

fn push_content(prompt: &mut Blocks, content: &Content<'_>) {
    match content {
        Content::None => {}
        Content::Text(text) => prompt.push(text.as_bytes()),
        Content::Parts(parts) => {
            for part in parts {
                match part {
                    Part::Text(text) => prompt.push(text.as_bytes()),
                    // As many tokens as a small image takes, told apart by their hash.
                    Part::Media(hash) => (0..MEDIA_WORDS).for_each(|i| {
                        prompt.push(&crate::text::mix(hash ^ i).to_le_bytes());
                    }),
                }
            }
        }
    }
    prompt.pad();
}

/// 1 KiB: 256 tokens of 4 bytes.
const MEDIA_WORDS: u64 = 128;

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Tool {
    r#type: String,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    parameters: Option<serde_json::Value>,
}

struct Message<'a> {
    role: Cow<'a, str>,
    content: Content<'a>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    /// A refusal or an older function call stands in place of a content.
    has_other: bool,
}

#[derive(Deserialize)]
struct ToolCall {
    function: CalledFunction,
}

#[derive(Deserialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

enum Content<'a> {
    None,
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

enum Part<'a> {
    Text(Cow<'a, str>),
    /// The hash of an image, a sound or a file.
    Media(u64),
}

impl Part<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Media(_) => "",
        }
    }
}

/// A text that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Message<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut role = None;
                let mut message = Message {
                    role: Cow::Borrowed(""),
                    content: Content::None,
                    tool_calls: None,
                    tool_call_id: None,
                    has_other: false,
                };
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "role" => role = Some(map.next_value::<Text<'de>>()?.0),
                        "content" => message.content = map.next_value()?,
                        "tool_calls" => message.tool_calls = map.next_value()?,
                        "tool_call_id" => message.tool_call_id = map.next_value()?,
                        "refusal" | "function_call" | "audio" => {
                            message.has_other |= map.next_value::<Option<IgnoredAny>>()?.is_some();
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                message.role = role.ok_or_else(|| de::Error::missing_field("role"))?;
                Ok(message)
            }
        }
        deserializer.deserialize_map(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of content parts, or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Content::None)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            #[serde(borrow)]
            text: Option<Cow<'a, str>>,
            #[serde(borrow)]
            refusal: Option<Cow<'a, str>>,
            #[serde(borrow)]
            image_url: Option<&'a RawValue>,
            #[serde(borrow)]
            input_audio: Option<&'a RawValue>,
            #[serde(borrow)]
            file: Option<&'a RawValue>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let media = match &*raw.r#type {
            "text" => {
                return raw.text.map(Self::Text).ok_or_else(|| de::Error::missing_field("text"));
            }
            "refusal" => {
                return raw
                    .refusal
                    .map(Self::Text)
                    .ok_or_else(|| de::Error::missing_field("refusal"));
            }
            "image_url" => raw.image_url.ok_or_else(|| de::Error::missing_field("image_url"))?,
            "input_audio" => {
                raw.input_audio.ok_or_else(|| de::Error::missing_field("input_audio"))?
            }
            "file" => raw.file.ok_or_else(|| de::Error::missing_field("file"))?,
            other => return Err(de::Error::custom(format_args!("unknown content part '{other}'"))),
        };
        Ok(Self::Media(xxh3_64(media.get().as_bytes())))
    }
}

fn parse<'a, T: Deserialize<'a>>(param: &str, raw: &'a RawValue) -> Result<T, ApiError> {
    serde_json::from_str(raw.get()).map_err(|e| {
        ApiError::invalid(param, format!("Invalid value for '{param}': {e}."))
            .with_code("invalid_type")
    })
}

fn value<T: DeserializeOwned>(param: &str, raw: Option<&RawValue>) -> Result<Option<T>, ApiError> {
    raw.map_or(Ok(None), |raw| parse(param, raw))
}

fn required<'a, T: Deserialize<'a>>(param: &str, raw: Option<&'a RawValue>) -> Result<T, ApiError> {
    let missing = || {
        ApiError::invalid(param, format!("Missing required parameter: '{param}'."))
            .with_code("missing_required_parameter")
    };
    parse(param, raw.ok_or_else(missing)?)
}

fn number(
    param: &str,
    raw: Option<&RawValue>,
    min: u32,
    max: u32,
) -> Result<Option<u32>, ApiError> {
    let number: Option<i64> = value(param, raw)?;
    let Some(number) = number else { return Ok(None) };
    let wrong = |rule: String| {
        let message = format!("Invalid '{param}': {number}. Expected {rule}.");
        ApiError::invalid(param, message).with_code("invalid_value")
    };
    if min == max && number != i64::from(min) {
        return Err(wrong(format!("{min}; this engine supports no other value")));
    }
    let checked = u32::try_from(number).ok().filter(|n| (min..=max).contains(n));
    checked.map(Some).ok_or_else(|| wrong(format!("a whole number from {min} to {max}")))
}

fn ranged(param: &str, raw: Option<&RawValue>, max: f64) -> Result<Option<f64>, ApiError> {
    let number: Option<f64> = value(param, raw)?;
    if number.is_some_and(|n| !(0.0..=max).contains(&n)) {
        let message = format!("Invalid '{param}': expected a number from 0 to {max}.");
        return Err(ApiError::invalid(param, message).with_code("invalid_value"));
    }
    Ok(number)
}

fn parse_stop(raw: Option<&RawValue>) -> Result<Vec<String>, ApiError> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(Vec::new()) };
    let stop =
        if raw.get().starts_with('"') { vec![parse("stop", raw)?] } else { parse("stop", raw)? };
    if stop.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "Stop strings must not be empty."));
    }
    Ok(stop)
}

/// Decides what the answer is: a tool call where one is asked for or the user names the
/// tool, JSON where the format asks for it, else prose.
fn choose_form(
    tools: Vec<Tool>,
    choice: Option<&RawValue>,
    format: Option<&RawValue>,
    last_user: &str,
) -> Result<Form, ApiError> {
    if tools.iter().any(|tool| tool.r#type != "function") {
        return Err(ApiError::invalid("tools", "Only tools of type 'function' are supported."));
    }
    let picked = match value::<serde_json::Value>("tool_choice", choice)? {
        None => by_name(&tools, last_user),
        Some(serde_json::Value::String(mode)) => match &*mode {
            "none" => None,
            "auto" => by_name(&tools, last_user),
            "required" if tools.is_empty() => {
                let message = "'tool_choice' is only allowed when 'tools' are specified.";
                return Err(ApiError::invalid("tool_choice", message));
            }
            "required" => by_name(&tools, last_user).or(Some(0)),
            other => {
                let message = format!(
                    "Invalid value: '{other}'. Supported values are: 'none', \
                                       'auto', 'required', and a named function."
                );
                return Err(ApiError::invalid("tool_choice", message).with_code("invalid_value"));
            }
        },
        Some(named) => {
            let name = named.pointer("/function/name").and_then(serde_json::Value::as_str);
            let position = tools.iter().position(|tool| Some(&*tool.function.name) == name);
            let missing = || {
                let message = format!("Tool {named} not found in 'tools' parameter.");
                ApiError::invalid("tool_choice", message)
            };
            Some(position.ok_or_else(missing)?)
        }
    };
    if let Some(tool) = picked.and_then(|i| tools.into_iter().nth(i)) {
        let parameters = tool.function.parameters.unwrap_or_default();
        return Ok(Form::Tool { name: tool.function.name, parameters });
    }
    let Some(format) = value::<serde_json::Value>("response_format", format)? else {
        return Ok(Form::Text);
    };
    match format.get("type").and_then(serde_json::Value::as_str) {
        Some("text") => Ok(Form::Text),
        Some("json_object") => Ok(Form::Json(serde_json::Value::Null)),
        Some("json_schema") => match format.pointer("/json_schema/schema") {
            Some(schema) => Ok(Form::Json(schema.clone())),
            None => {
                let message = "Missing required parameter: 'response_format.json_schema.schema'.";
                Err(ApiError::invalid("response_format", message))
            }
        },
        _ => {
            let message = "'response_format.type' must be 'text', 'json_object' or 'json_schema'.";
            Err(ApiError::invalid("response_format", message))
        }
    }
}

fn by_name(tools: &[Tool], text: &str) -> Option<usize> {
    tools.iter().position(|tool| text.contains(&tool.function.name))
}

#[cfg(test)]
mod tests;
