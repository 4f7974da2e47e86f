//! OpenAI's chat completions, `POST /v1/chat/completions`, and everybody who copies them.

mod calls;
mod details;
mod event_writer;
mod events;
mod incoming;
mod messages;
mod read_request;
mod response;
mod thinking;
mod write_messages;
mod write_request;

use http::HeaderMap;
use serde_json::Value;

use crate::codec::{Codec, EventReader, EventWriter, PathFacts, Target};
use crate::neutral::{Failure, Fault, Field, Request, Response, Unsupported, Written};
use crate::responses::failure;

pub(crate) use self::response::{reason, tokens};

/// The dialect of OpenAI's chat completions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chat;

impl Codec for Chat {
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault> {
        read_request::read(body, path)
    }

    fn write_request(&self, request: &Request, target: &Target) -> Result<Written, Unsupported> {
        write_request::write(request, target)
    }

    fn path(&self, _model: &str, _stream: bool) -> String {
        "/v1/chat/completions".to_owned()
    }

    fn field(&self, field: Field) -> &'static str {
        match field {
            Field::System => "messages",
            Field::ToolChoice => "tool_choice",
            Field::ParallelTools => "parallel_tool_calls",
            Field::Format => "response_format",
            Field::Reasoning => "reasoning_effort",
            Field::MaxTokens => "max_completion_tokens",
            Field::Temperature => "temperature",
            Field::TopP => "top_p",
            Field::TopK => "top_k",
            Field::Stop => "stop",
            Field::Seed => "seed",
            Field::PresencePenalty => "presence_penalty",
            Field::FrequencyPenalty => "frequency_penalty",
            Field::User => "safety_identifier",
            Field::Labels => "metadata",
            Field::CacheKey => "prompt_cache_key",
        }
    }

    fn part_path(&self, message: usize, part: usize) -> String {
        format!("messages[{message}].content[{part}]")
    }

    fn read_response(&self, body: Value) -> Result<Response, Fault> {
        response::read(body)
    }

    fn write_response(&self, response: &Response, request: &Request) -> Value {
        response::write(response, request)
    }

    fn event_reader(&self) -> Box<dyn EventReader> {
        Box::<events::Reader>::default()
    }

    fn event_writer(&self, request: &Request) -> Box<dyn EventWriter> {
        Box::new(event_writer::Writer::new(request))
    }

    fn read_failure(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
        failure::read(status, headers, body)
    }

    fn write_failure(&self, failure: &Failure) -> (u16, Value) {
        failure::write(failure)
    }
}
