//! OpenAI's Responses API, `POST /v1/responses`.

mod event_writer;
mod events;
pub(crate) mod failure;
pub(crate) mod incoming;
mod input;
mod items;
pub(crate) mod media;
mod outgoing;
mod read_request;
mod response;
mod seal;
mod tools;
pub(crate) mod write_request;

use http::HeaderMap;
use serde_json::Value;

pub use self::items::{continue_from, input_items_of, resolve_references};
use crate::codec::{Codec, EventReader, EventWriter, PathFacts, Target};
use crate::neutral::{Failure, Fault, Field, Request, Response, Unsupported, Written};

/// The dialect of OpenAI's Responses API.
#[derive(Clone, Copy, Debug, Default)]
pub struct Responses;

impl Codec for Responses {
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault> {
        read_request::read(body, path)
    }

    fn write_request(&self, request: &Request, target: &Target) -> Result<Written, Unsupported> {
        write_request::write(request, target)
    }

    fn path(&self, _model: &str, _stream: bool) -> String {
        "/v1/responses".to_owned()
    }

    fn field(&self, field: Field) -> &'static str {
        match field {
            Field::System => "instructions",
            Field::ToolChoice => "tool_choice",
            Field::ParallelTools => "parallel_tool_calls",
            Field::Format => "text.format",
            Field::Reasoning => "reasoning",
            Field::MaxTokens => "max_output_tokens",
            Field::Temperature => "temperature",
            Field::TopP => "top_p",
            Field::User => "safety_identifier",
            Field::Labels => "metadata",
            Field::CacheKey => "prompt_cache_key",
            // This dialect has none of these, so no caller of it meets their names.
            Field::TopK => "top_k",
            Field::Stop => "stop",
            Field::Seed => "seed",
            Field::PresencePenalty => "presence_penalty",
            Field::FrequencyPenalty => "frequency_penalty",
        }
    }

    fn part_path(&self, message: usize, part: usize) -> String {
        // Each item is a message of its own.
        format!("input[{message}].content[{part}]")
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
