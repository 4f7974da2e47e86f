//! Anthropic's messages, `POST /v1/messages`.

mod blocks;
mod event_writer;
mod events;
mod failure;
mod incoming;
mod read_request;
mod response;
mod seal;
mod tokens;
mod write_messages;
mod write_request;

use http::HeaderMap;
use serde_json::Value;

pub use self::tokens::estimated_tokens;
pub(crate) use self::write_request::{lacks_thinking, used_tools};
use crate::codec::{Codec, EventReader, EventWriter, PathFacts, Target};
use crate::neutral::{Failure, Fault, Field, Request, Response, Unsupported, Written};

/// The dialect of Anthropic's messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anthropic;

impl Codec for Anthropic {
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault> {
        read_request::read(body, path)
    }

    fn write_request(&self, request: &Request, target: &Target) -> Result<Written, Unsupported> {
        write_request::write(request, target)
    }

    fn path(&self, _model: &str, _stream: bool) -> String {
        "/v1/messages".to_owned()
    }

    fn field(&self, field: Field) -> &'static str {
        match field {
            Field::System => "system",
            Field::ToolChoice => "tool_choice",
            Field::ParallelTools => "tool_choice.disable_parallel_tool_use",
            Field::Format => "output_config.format",
            Field::Reasoning => "thinking",
            Field::MaxTokens => "max_tokens",
            Field::Temperature => "temperature",
            Field::TopP => "top_p",
            Field::TopK => "top_k",
            Field::Stop => "stop_sequences",
            Field::User | Field::Labels => "metadata",
            Field::CacheKey => "cache_control",
            // This dialect has none of these, so no caller of it meets their names.
            Field::Seed => "seed",
            Field::PresencePenalty => "presence_penalty",
            Field::FrequencyPenalty => "frequency_penalty",
        }
    }

    fn part_path(&self, message: usize, part: usize) -> String {
        format!("messages[{message}].content[{part}]")
    }

    fn read_response(&self, body: Value) -> Result<Response, Fault> {
        response::read(body)
    }

    fn write_response(&self, response: &Response, _request: &Request) -> Value {
        response::write(response)
    }

    fn event_reader(&self) -> Box<dyn EventReader> {
        Box::<events::Reader>::default()
    }

    fn event_writer(&self, _request: &Request) -> Box<dyn EventWriter> {
        Box::<event_writer::Writer>::default()
    }

    fn read_failure(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
        crate::responses::failure::read(status, headers, body)
    }

    fn write_failure(&self, failure: &Failure) -> (u16, Value) {
        failure::write(failure)
    }
}
