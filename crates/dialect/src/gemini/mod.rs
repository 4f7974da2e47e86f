//! Google's Gemini API, `POST /v1beta/models/{model}:generateContent` and
//! `:streamGenerateContent`.

mod event_writer;
mod events;
mod failure;
mod incoming;
mod read_parts;
mod read_request;
mod response;
mod write_request;

use http::HeaderMap;
use serde_json::Value;

use crate::codec::{Codec, EventReader, EventWriter, PathFacts, Target};
use crate::names::NameRule;
use crate::neutral::{Failure, Fault, Field, Request, Response, Unsupported, Written};

/// The dialect of the Gemini API.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gemini;

impl Codec for Gemini {
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault> {
        read_request::read(body, path)
    }

    fn write_request(&self, request: &Request, target: &Target) -> Result<Written, Unsupported> {
        write_request::write(request, &target.model)
    }

    fn path(&self, model: &str, stream: bool) -> String {
        let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
        format!("/v1beta/models/{model}:{method}")
    }

    fn tool_names(&self) -> NameRule {
        NameRule::GEMINI
    }

    fn field(&self, field: Field) -> &'static str {
        match field {
            Field::System => "systemInstruction",
            Field::ToolChoice => "toolConfig",
            Field::Format => "generationConfig.responseMimeType",
            Field::Reasoning => "generationConfig.thinkingConfig",
            Field::MaxTokens => "generationConfig.maxOutputTokens",
            Field::Temperature => "generationConfig.temperature",
            Field::TopP => "generationConfig.topP",
            Field::TopK => "generationConfig.topK",
            Field::Stop => "generationConfig.stopSequences",
            Field::Seed => "generationConfig.seed",
            Field::PresencePenalty => "generationConfig.presencePenalty",
            Field::FrequencyPenalty => "generationConfig.frequencyPenalty",
            Field::Labels => "labels",
            // This dialect has none of these, so no caller of it meets their names.
            Field::ParallelTools => "toolConfig",
            Field::User => "labels",
            Field::CacheKey => "cachedContent",
        }
    }

    fn part_path(&self, message: usize, part: usize) -> String {
        format!("contents[{message}].parts[{part}]")
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
        Box::new(event_writer::Writer::new(false))
    }

    fn list_writer(&self, _request: &Request) -> Box<dyn EventWriter> {
        Box::new(event_writer::Writer::new(true))
    }

    fn read_failure(&self, status: u16, _headers: &HeaderMap, body: &[u8]) -> Failure {
        failure::read(Some(status), body)
    }

    fn write_failure(&self, failure: &Failure) -> (u16, Value) {
        failure::write(failure)
    }
}
