//! Whole answers and errors.

use super::{answer, call, read, read_stream, seal, stream, text};
use crate::golden::gather;
use http::HeaderMap;
use paceline_dialect::neutral::{
    Failure, FailureClass, Part, Request, Response, Seal, Stop, Vendor,
};
use paceline_dialect::{Codec, Responses};
use serde_json::{Value, json};

#[test]
fn an_answer_is_written_with_all_members() {
    let parts = vec![
        Part::Thinking { text: "Hm.".to_owned(), seal: Some(seal(Vendor::Anthropic)) },
        Part::Hidden { seal: seal(Vendor::Anthropic) },
        text("One "),
        text("moment."),
        call("toolu_1", "{\"port\": \"A\"}"),
    ];
    let request = read(json!({
        "model": "alias", "instructions": "Be brief.", "input": "Hi",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": true}],
        "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
        "metadata": {"run": "r1"}, "reasoning": {"effort": "low", "summary": "detailed"},
        "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 64, "safety_identifier": "u1",
        "text": {"format": {"type": "json_object"}}, "prompt_cache_key": "k",
    }));
    let written = Responses.write_response(&answer(parts, Stop::Tool), &request);
    let expected = json!({
        "id": "resp_msg_01",
        "object": "response",
        "created_at": 1_795_500_000,
        "status": "completed",
        "error": null,
        "incomplete_details": null,
        "model": "claude",
        "output": [
            {"type": "reasoning", "id": "rs_msg_01_0",
             "summary": [{"type": "summary_text", "text": "Hm."}],
             "encrypted_content": "paceline.anthropic.sealed"},
            {"type": "reasoning", "id": "rs_msg_01_1", "summary": [],
             "encrypted_content": "paceline.anthropic-hidden.sealed"},
            {"type": "message", "id": "msg_msg_01_2", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "One ", "annotations": [], "logprobs": []},
                {"type": "output_text", "text": "moment.", "annotations": [], "logprobs": []},
            ]},
            {"type": "function_call", "id": "fc_msg_01_3", "status": "completed", "call_id": "toolu_1",
             "name": "get_tide", "arguments": "{\"port\": \"A\"}"},
        ],
        "usage": {
            "input_tokens": 35,
            "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 5},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 42,
        },
        "background": false,
        "instructions": "Be brief.",
        "max_output_tokens": 64,
        "max_tool_calls": null,
        "metadata": {"run": "r1"},
        "parallel_tool_calls": false,
        "previous_response_id": null,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "u1",
        "service_tier": "default",
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}},
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": true}],
        "top_logprobs": 0,
        "top_p": 0.9,
        "truncation": "disabled",
        "user": null,
    });
    assert_eq!(written, expected);
}

/// The members of an answer, and its end, for each reason to end.
#[test]
fn answers_end_for_their_reason() {
    let check = |parts: Vec<Part>, stop: Stop, status: &str, reason: Value, kept: Stop| {
        let response = answer(parts, stop);
        let written = Responses.write_response(&response, &Request::default());
        assert_eq!(written["status"], status, "{stop:?}");
        assert_eq!(written["incomplete_details"]["reason"], reason, "{stop:?}");
        let again = Responses.read_response(written).unwrap();
        assert_eq!((again.stop, again.usage), (kept, response.usage), "{stop:?}");
        // A stream says the same.
        let stream = stream(&response);
        let (told, failed) = gather(&read_stream(&stream, stream.len()));
        assert_eq!(
            (&told.parts, told.stop, told.usage, failed),
            (&again.parts, kept, response.usage, None)
        );
        again
    };
    let it = || vec![text("It is")];
    check(it(), Stop::End, "completed", Value::Null, Stop::End);
    check(it(), Stop::Sequence, "completed", Value::Null, Stop::End);
    check(it(), Stop::Pause, "completed", Value::Null, Stop::End);
    check(it(), Stop::Length, "incomplete", json!("max_output_tokens"), Stop::Length);
    check(vec![], Stop::Length, "incomplete", json!("max_output_tokens"), Stop::Length);
    check(
        vec![call("c", "{\"a")],
        Stop::Length,
        "incomplete",
        json!("max_output_tokens"),
        Stop::Length,
    );
    check(it(), Stop::Filter, "incomplete", json!("content_filter"), Stop::Filter);
    check(vec![call("c", "{}")], Stop::Tool, "completed", Value::Null, Stop::Tool);
    // Models that stop for a call without saying so are understood by the call.
    check(vec![call("c", "{}")], Stop::End, "completed", Value::Null, Stop::Tool);
    let refusal = vec![Part::Refusal { text: "No.".to_owned() }];
    check(refusal, Stop::Refusal, "completed", Value::Null, Stop::Refusal);
    // A refusal without a word gets one, or it would look like an empty answer.
    let told = check(vec![], Stop::Refusal, "completed", Value::Null, Stop::Refusal);
    assert!(matches!(&told.parts[..], [Part::Refusal { text }] if !text.is_empty()));
}

#[test]
fn what_is_no_answer_is_a_fault() {
    let check = |body: Value, field: &str| {
        let fault = Responses.read_response(body.clone()).unwrap_err();
        assert_eq!(fault.field, field, "{body}: {fault}");
    };
    check(json!("<html>"), "body");
    check(json!({"output": 1}), "body");
    check(json!({}), "id");
    check(json!({"error": {"message": "No."}}), "error");
    check(
        json!({"id": "r", "status": "failed", "error": {"code": "server_error", "message": "x"}}),
        "error",
    );
    check(json!({"id": "r", "status": "queued"}), "status");
}

#[test]
fn identifiers_fit_what_servers_take() {
    let check = |upstream: &str, answer_id: &str, item_id: &str| {
        let response = Response { id: upstream.to_owned(), ..answer(vec![text("a")], Stop::End) };
        let written = Responses.write_response(&response, &Request::default());
        assert_eq!(written["id"], answer_id);
        assert_eq!(written["output"][0]["id"], item_id);
        assert!(item_id.len() <= 64);
    };
    check("resp_68a1", "resp_68a1", "msg_68a1_0");
    check("chatcmpl-9Z.x/y", "resp_chatcmpl-9Zxy", "msg_chatcmpl-9Zxy_0");
    check("", "resp_0", "msg_0_0");
    let long = "ab".repeat(40);
    check(&long, &format!("resp_{}", &long[..48]), &format!("msg_{}_0", &long[..48]));
    // An identifier of reasoning is kept, since its seal may be bound to it.
    let sealed = Seal { item: Some("rs_9".to_owned()), ..seal(Vendor::OpenAi) };
    let response = answer(vec![Part::Hidden { seal: sealed }], Stop::End);
    let written = Responses.write_response(&response, &Request::default());
    assert_eq!(written["output"][0]["id"], "rs_9");
}

#[test]
fn errors_are_told_apart() {
    let check = |status: u16, body: &str, class: FailureClass, message: &str| {
        let failure = Responses.read_failure(status, &HeaderMap::new(), body.as_bytes());
        assert_eq!(failure.class, class, "{status} {body}");
        assert!(failure.message.contains(message) && !failure.message.is_empty(), "{failure:?}");
        failure
    };
    use FailureClass::*;
    let error = |code: &str, message: &str| {
        json!({"error": {"message": message, "type": "invalid_request_error", "param": "input", "code": code}})
            .to_string()
    };
    let failure = check(400, &error("invalid_encrypted_content", "x"), Invalid, "x");
    // By this code the gateway knows to strip the seals and try again.
    assert_eq!(failure.code.as_deref(), Some("invalid_encrypted_content"));
    assert_eq!(failure.param.as_deref(), Some("input"));
    check(400, &error("context_length_exceeded", "x"), ContextTooLong, "x");
    check(400, &error("content_filter", "x"), Filtered, "x");
    check(400, &error("invalid_prompt", "it was flagged"), Filtered, "flagged");
    check(400, &error("invalid_prompt", "bad"), Invalid, "bad");
    check(429, &error("insufficient_quota", "You exceeded your current quota"), Quota, "quota");
    check(429, &error("rate_limit_exceeded", "see account/billing"), RateLimited, "billing");
    check(429, &error("", "You exceeded your current quota"), Quota, "quota");
    check(429, "", RateLimited, "429");
    check(400, r#"{"error":{"message":"Your credit balance is too low"}}"#, Quota, "balance");
    check(
        400,
        r#"{"object":"error","message":"maximum context length is 10"}"#,
        ContextTooLong,
        "10",
    );
    check(
        400,
        r#"{"error":{"code":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
        Filtered,
        "400",
    );
    check(401, r#"{"detail":"no"}"#, Unauthorized, "no");
    check(402, "Payment", Quota, "Payment");
    check(403, r#"{"error":"denied"}"#, Forbidden, "denied");
    check(404, &error("model_not_found", "x"), NotFound, "x");
    check(408, "", Timeout, "408");
    check(409, "{}", Server, "409");
    check(422, r#"{"detail":[{"loc":["body"]}]}"#, Invalid, "loc");
    check(500, "<html>oops</html>", Server, "500");
    check(502, "null", Server, "502");
    check(503, &error("slow_down", "x"), Overloaded, "x");
    check(504, "[1]", Timeout, "504");
    check(529, r#"{"error":{"message":1,"code":null}}"#, Overloaded, "529");
    check(400, r#"{"error":{"message":"x","code":404}}"#, Invalid, "x");
    check(502, "upstream connect error", Server, "connect");
}

#[test]
fn errors_are_written_as_the_vendor_would() {
    use FailureClass::*;
    let table = [
        (Invalid, 400, "invalid_request_error", json!("unknown_parameter")),
        (ContextTooLong, 400, "invalid_request_error", json!("context_length_exceeded")),
        (Filtered, 400, "invalid_request_error", json!("content_filter")),
        (Unauthorized, 401, "invalid_request_error", json!("invalid_api_key")),
        (Forbidden, 403, "invalid_request_error", json!("unknown_parameter")),
        (NotFound, 404, "invalid_request_error", json!("model_not_found")),
        (Quota, 429, "insufficient_quota", json!("insufficient_quota")),
        (RateLimited, 429, "rate_limit_error", json!("rate_limit_exceeded")),
        (Overloaded, 503, "server_error", json!("server_is_overloaded")),
        (Timeout, 504, "server_error", json!("timeout")),
        (Server, 500, "server_error", json!("server_error")),
    ];
    for (class, status, kind, code) in table {
        let failure = Failure {
            class,
            message: "No.".to_owned(),
            code: Some("unknown_parameter".to_owned()),
            param: Some("input".to_owned()),
        };
        let (written, body) = Responses.write_failure(&failure);
        let error = json!({"message": "No.", "type": kind, "param": "input", "code": code});
        assert_eq!((written, &body), (status, &json!({"error": error})), "{class:?}");
        let again = Responses.read_failure(written, &HeaderMap::new(), body.to_string().as_bytes());
        assert_eq!(again.class, class);
    }
}
