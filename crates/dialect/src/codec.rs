//! What a dialect offers to the others: readers into the neutral form, writers out of it.

use http::HeaderMap;
use paceline_core::Endpoint;
use serde_json::Value;

use crate::names::NameRule;
use crate::neutral::{Event, Failure, Fault, Field, Request, Response, Unsupported, Written};

/// A wire format in which conversations are continued.
///
/// Readers take what any client or server of the dialect sends, writers write what the
/// strictest server or SDK of it accepts. All are pure.
pub trait Codec: Sync {
    /// Reads a request. `path` is what the URL says beside the body.
    ///
    /// # Errors
    /// [`Fault`] names the field that makes no sense in this dialect.
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault>;

    /// Writes a request for an upstream.
    ///
    /// # Errors
    /// [`Unsupported`] names what this dialect has no word for.
    fn write_request(&self, request: &Request, target: &Target) -> Result<Written, Unsupported>;

    /// The names of tools that the strictest server of the dialect takes. A request is told
    /// with such names: see [`Names::fit`](crate::names::Names::fit).
    fn tool_names(&self) -> NameRule {
        NameRule::STRICT
    }

    /// Path and query of a request, as an upstream of the dialect has them.
    fn path(&self, model: &str, stream: bool) -> String;

    /// The name of a field in this dialect, such as `generationConfig.topK`.
    fn field(&self, field: Field) -> &'static str;

    /// The path of a part of a message in this dialect, such as `messages[1].content[0]`,
    /// where the messages of `request` stand as they are numbered.
    fn part_path(&self, message: usize, part: usize) -> String;

    /// The path of a part of a message in the body that `request` was read from.
    fn path_of_part(&self, request: &Request, message: usize, part: usize) -> String {
        match request.places.0.get(message) {
            Some(place) => format!("{place}.content[{part}]"),
            None => self.part_path(message, part),
        }
    }

    /// Reads a whole answer of status 200.
    ///
    /// # Errors
    /// [`Fault`] when it is none; an answer that carries an error is [`Fault`] too.
    fn read_response(&self, body: Value) -> Result<Response, Fault>;

    /// Writes a whole answer to a caller who sent `request`.
    fn write_response(&self, response: &Response, request: &Request) -> Value;

    /// Reads a stream of status 200.
    fn event_reader(&self) -> Box<dyn EventReader>;

    /// Writes a stream to a caller who sent `request`.
    fn event_writer(&self, request: &Request) -> Box<dyn EventWriter>;

    /// Writes a stream to a caller who wants it as one JSON list that grows; only Gemini has
    /// that.
    fn list_writer(&self, request: &Request) -> Box<dyn EventWriter> {
        self.event_writer(request)
    }

    /// Reads an answer with an error status. `body` may be anything.
    fn read_failure(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failure;

    /// Writes an error as the dialect's vendor would: its status and its body.
    fn write_failure(&self, failure: &Failure) -> (u16, Value);
}

/// The codec of an operation, where it is a conversation.
pub fn of(endpoint: Endpoint) -> Option<&'static dyn Codec> {
    match endpoint {
        Endpoint::Chat => Some(&crate::Chat),
        Endpoint::Messages | Endpoint::CountTokens => Some(&crate::Anthropic),
        Endpoint::Completions => Some(&crate::Completions),
        Endpoint::Generate => Some(&crate::Gemini),
        Endpoint::Responses => Some(&crate::Responses),
        Endpoint::Converse => Some(&crate::Converse),
        _ => None,
    }
}

/// Reads the bytes of a stream as they come, cut anywhere.
pub trait EventReader: Send {
    /// Takes the next bytes and appends what they tell.
    ///
    /// # Errors
    /// [`Broken`] when they are no stream of this dialect.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<(), Broken>;

    /// Takes the end of the bytes. Appends [`Event::End`] unless that or an
    /// [`Event::Error`] has come, where the dialect ends its streams so.
    ///
    /// # Errors
    /// [`Broken`] when the stream was cut before its proper end.
    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Broken>;
}

/// Writes a stream, event by event.
pub trait EventWriter: Send {
    /// Appends the bytes of an event. After [`Event::End`] or [`Event::Error`] nothing
    /// more is written.
    fn write(&mut self, event: &Event, out: &mut Vec<u8>);
}

/// A stream that is none of its dialect, or was cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream {0}")]
pub struct Broken(pub String);

/// What the URL of a request says beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathFacts {
    /// The model, where it is in the path.
    pub model: Option<String>,
    /// Whether the path asks for a stream.
    pub stream: bool,
}

/// The upstream for which a request is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The upstream's own name of the model.
    pub model: String,
    /// How it differs from the dialect's first vendor.
    pub quirks: Quirks,
}

/// How an upstream differs from its dialect's first vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// It knows `max_tokens` only, not `max_completion_tokens` (Mistral, older servers).
    pub max_tokens_only: bool,
    /// It refuses `stream_options`, or sends usage without being asked (Mistral, Ollama).
    pub no_stream_options: bool,
    /// It gives `reasoning_content` and wants it back (DeepSeek).
    pub reasoning_content: bool,
    /// It gives thinking with its seals in `reasoning_details`, and wants them back there
    /// (OpenRouter).
    pub reasoning_details: bool,
    /// It is as strict about the order of turns, the last of them, and the identifiers of
    /// calls as Mistral. Identifiers of calls must have exactly 9 letters or digits (Mistral).
    pub short_call_ids: bool,
    /// It takes `top_k` (vLLM, SGLang, llama.cpp, Together, Fireworks, OpenRouter).
    pub top_k: bool,
    /// It knows the role `system` but not `developer`. (All but OpenAI and Azure.)
    pub no_developer_role: bool,
    /// Most tokens of an answer where the caller sets none and the dialect wants a number;
    /// 0 is the dialect's own default here.
    pub max_tokens_default: u64,
}
