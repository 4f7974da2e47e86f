//! What Bedrock answers, whole.

use http::HeaderMap;
use paceline_dialect::neutral::{FailureClass, Part, Response, Stop};
use paceline_dialect::{Codec, Converse};
use serde_json::{Value, json};

fn read(content: Value, more: Value) -> Response {
    let body = json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "stop_sequence", "additionalModelResponseFields": more,
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    });
    Converse.read_response(body).unwrap()
}

#[test]
fn the_stop_text_is_told() {
    let text = json!([{"text": "It is."}]);
    let told = read(text.clone(), json!({"stop_sequence": "END"}));
    assert_eq!((told.stop, told.stop_sequence.as_deref()), (Stop::Sequence, Some("END")));
    let again = Converse.read_response(Converse.write_response(&told, &Default::default()));
    assert_eq!(again.unwrap().stop_sequence.as_deref(), Some("END"));
    assert_eq!(read(text.clone(), json!({"stop_sequence": null})).stop_sequence, None);
    assert_eq!(read(text, Value::Null).stop_sequence, None);
}

#[test]
fn cited_text_is_text() {
    let told = read(
        json!([{"citationsContent": {
            "content": [{"text": "High "}, {"text": "at noon."}],
            "citations": [{"title": "Tides", "location": {"documentPage": {"documentIndex": 0}}}],
        }}]),
        Value::Null,
    );
    assert_eq!(told.parts, [Part::Text { text: "High at noon.".to_owned(), cache: None }]);
}

#[test]
fn kinds_of_errors_are_told_apart() {
    use FailureClass as C;
    let check = |status: u16, kind: &str, message: &str, expected: C| {
        let mut headers = HeaderMap::new();
        headers.insert("x-amzn-errortype", kind.parse().unwrap());
        let body = json!({"message": message}).to_string();
        let told = Converse.read_failure(status, &headers, body.as_bytes());
        assert_eq!((told.class, &*told.message), (expected, message), "{kind}: {message}");
        // Older front ends tell the kind in the body.
        let body =
            json!({"__type": format!("com.amazon.coral.service#{kind}"), "Message": message});
        let told = Converse.read_failure(status, &HeaderMap::new(), body.to_string().as_bytes());
        assert_eq!((told.class, &*told.message), (expected, message), "{kind}: {message}");
    };
    let validation = "ValidationException:http://internal.amazon.com/coral/";
    check(400, validation, "Input is too long for requested model.", C::ContextTooLong);
    let many = "Too many input tokens. Max input tokens: 8192, request input token count: 9000";
    check(400, validation, many, C::ContextTooLong);
    check(400, validation, "The text field in the ContentBlock object is blank.", C::Invalid);
    check(429, "ThrottlingException", "Too many tokens, please wait.", C::RateLimited);
    check(400, "ServiceQuotaExceededException", "Over the quota.", C::Quota);
    check(429, "ModelNotReadyException", "Not yet.", C::Overloaded);
    check(424, "ModelErrorException", "It broke.", C::Server);
    check(408, "ModelTimeoutException", "Late.", C::Timeout);
    check(403, "ExpiredTokenException", "The token has expired.", C::Unauthorized);
    check(400, "IncompleteSignatureException", "No date.", C::Unauthorized);
    check(403, "AccessDeniedException", "Not yours.", C::Forbidden);
    check(404, "ResourceNotFoundException", "No such model.", C::NotFound);
    check(503, "ServiceUnavailableException", "Busy.", C::Overloaded);
}
