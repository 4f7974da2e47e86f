//! The OpenAI chat request: strict checks as a real server makes them, and the prompt.
//!
//! A body may have half a megabyte, so texts are borrowed from it and go straight into the
//! block hashes. Members are checked one by one, so that an error names the one at fault;
//! unknown members are ignored.

use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::text::Blocks;

mod message;

use message::push_messages;

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
