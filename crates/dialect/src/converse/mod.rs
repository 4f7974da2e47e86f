//! Amazon Bedrock's Converse, `POST /model/{model}/converse` and `/converse-stream`.
//!
//! No client is served in it; its reader of requests and its writers are there so that every
//! pair of dialects can be tested, and for whoever plays Bedrock.

mod event_writer;
mod events;
mod failure;
mod frame;
mod media;
mod read_blocks;
mod read_request;
mod response;
mod write_messages;
mod write_request;

use http::HeaderMap;
use serde_json::Value;

use crate::codec::{Codec, EventReader, EventWriter, PathFacts, Target};
use crate::neutral::{Failure, Fault, Field, Request, Response, Unsupported, Written};
use crate::wire;

/// The dialect of Bedrock's Converse.
#[derive(Clone, Copy, Debug, Default)]
pub struct Converse;

impl Codec for Converse {
    fn read_request(&self, body: Value, path: &PathFacts) -> Result<Request, Fault> {
        read_request::read(body, path)
    }

    fn write_request(&self, request: &Request, target: &Target) -> Result<Written, Unsupported> {
        write_request::write(request, target)
    }

    fn path(&self, model: &str, stream: bool) -> String {
        let method = if stream { "converse-stream" } else { "converse" };
        format!("/model/{}/{method}", wire::path_segment(model))
    }

    fn field(&self, field: Field) -> &'static str {
        match field {
            Field::System => "system",
            Field::ToolChoice | Field::ParallelTools => "toolConfig.toolChoice",
            Field::Format => "outputConfig.textFormat",
            Field::Reasoning => "additionalModelRequestFields.thinking",
            Field::MaxTokens => "inferenceConfig.maxTokens",
            Field::Temperature => "inferenceConfig.temperature",
            Field::TopP => "inferenceConfig.topP",
            Field::TopK => "additionalModelRequestFields.top_k",
            Field::Stop => "inferenceConfig.stopSequences",
            Field::Labels | Field::User => "requestMetadata",
            // This dialect has none of these, so no caller of it meets their names.
            Field::CacheKey => "cachePoint",
            Field::Seed => "seed",
            Field::PresencePenalty => "presencePenalty",
            Field::FrequencyPenalty => "frequencyPenalty",
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
        failure::read(status, headers, body)
    }

    fn write_failure(&self, failure: &Failure) -> (u16, Value) {
        failure::write(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_models_are_escaped() {
        let path = Converse.path("anthropic.claude-v1:0", false);
        assert_eq!(path, "/model/anthropic.claude-v1%3A0/converse");
        let path = Converse.path("arn:aws:bedrock:eu-west-1:1:profile/eu.x", true);
        assert_eq!(
            path,
            "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Aprofile%2Feu.x/converse-stream"
        );
    }
}
