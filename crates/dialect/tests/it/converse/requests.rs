//! What Bedrock is sent.

use paceline_dialect::codec::Target;
use paceline_dialect::neutral::{Request, Unsupported, What, Written};
use paceline_dialect::{Anthropic, Chat, Codec, Converse, Gemini};
use serde_json::{Value, json};

const CLAUDE: &str = "eu.anthropic.claude-sonnet-5-v1:0";

fn read(codec: &dyn Codec, body: Value) -> Request {
    codec.read_request(body, &Default::default()).unwrap()
}

fn written(codec: &dyn Codec, body: Value, model: &str) -> Result<Written, Unsupported> {
    let target = Target { model: model.to_owned(), ..Target::default() };
    Converse.write_request(&read(codec, body), &target)
}

/// What Claude is sent when a caller of Anthropic's says these messages.
fn messages(messages: Value) -> Value {
    let body = json!({"model": "m", "max_tokens": 9, "messages": messages});
    written(&Anthropic, body, CLAUDE).unwrap().body["messages"].clone()
}

/// What Claude is sent when a caller of Gemini's says this part beside a text.
fn part(part: Value) -> Result<Value, Unsupported> {
    let parts = json!([{"text": "What is this?"}, part]);
    let body = json!({"contents": [{"role": "user", "parts": parts}]});
    Ok(written(&Gemini, body, CLAUDE)?.body["messages"][0]["content"][1].clone())
}

#[test]
fn turns_alternate_where_one_between_says_nothing() {
    let told = messages(json!([
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}]},
        {"role": "user", "content": "Two."},
    ]));
    assert_eq!(told, json!([{"role": "user", "content": [{"text": "One."}, {"text": "Two."}]}]));
}

#[test]
fn cache_marks_within_a_result_stand_behind_it() {
    let told = messages(json!([
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [
            {"type": "text", "text": "Calm.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ]}]},
    ]));
    let expected = json!([
        {"toolResult": {"toolUseId": "t1", "content": [{"text": "Calm."}]}},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
    ]);
    assert_eq!(told[2]["content"], expected);
}

#[test]
fn calls_of_the_user_are_refused() {
    let call = json!({"type": "tool_use", "id": "t1", "name": "look", "input": {}});
    let body = json!({
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [call]}],
    });
    let refused = written(&Anthropic, body, CLAUDE).unwrap_err();
    assert_eq!(refused.what, What::Part { message: 0, part: 0 });
}

#[test]
fn results_keep_each_letter() {
    let check = |text: &str, expected: Value| {
        let told = messages(json!([
            {"role": "user", "content": "Look it up."},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": text},
            ]},
        ]));
        assert_eq!(told[2]["content"][0]["toolResult"]["content"], json!([expected]));
    };
    check(r#"{"height":3}"#, json!({"json": {"height": 3}}));
    // As numbers and members of JSON these would not come out the same.
    for text in [r#"{"id":123456789012345678901234567890}"#, r#"{"a":1,"a":2}"#, r#"{ "a": 1 }"#] {
        check(text, json!({"text": text}));
    }
}

#[test]
fn documents_of_one_name_are_told_apart() {
    let pdf = |title: Option<&str>| {
        let source = json!({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="});
        json!({"type": "document", "title": title, "source": source})
    };
    let told = messages(json!([
        {"role": "user", "content": [pdf(None), pdf(None), pdf(Some("Tides.pdf"))]},
        {"role": "assistant", "content": "Send more."},
        {"role": "user", "content": [pdf(None), pdf(Some("tides"))]},
    ]));
    let name = |turn: usize, at: usize| told[turn]["content"][at]["document"]["name"].clone();
    assert_eq!(
        [name(0, 0), name(0, 1), name(0, 2), name(2, 0), name(2, 1)],
        ["document", "document-2", "Tides", "document-3", "tides-2"].map(Value::from)
    );
}

#[test]
fn videos_and_sound_are_sent_as_such() {
    let inline = |kind: &str| part(json!({"inlineData": {"mimeType": kind, "data": "AAAA"}}));
    let source = json!({"bytes": "AAAA"});
    let video = |format: &str| json!({"video": {"format": format, "source": source}});
    assert_eq!(inline("video/mp4"), Ok(video("mp4")));
    assert_eq!(inline("video/quicktime"), Ok(video("mov")));
    assert_eq!(inline("video/3gpp"), Ok(video("three_gp")));
    assert_eq!(inline("audio/wav"), Ok(json!({"audio": {"format": "wav", "source": source}})));
    for kind in ["video/avi", "audio/midi", "application/zip"] {
        let refused = inline(kind).unwrap_err();
        assert_eq!(refused.what, What::Part { message: 0, part: 1 }, "{kind}");
    }
    let from_s3 = part(json!({"fileData": {"fileUri": "s3://bucket/tides.pdf"}})).unwrap();
    assert_eq!(from_s3["document"]["format"], "pdf");
}

#[test]
fn videos_and_sound_are_read_as_written() {
    let source = json!({"bytes": "AAAA"});
    let body = json!({"messages": [
        {"role": "user", "content": [
            {"text": "What is this?"},
            {"video": {"format": "three_gp", "source": source}},
            {"video": {"format": "mkv", "source": {"s3Location": {"uri": "s3://bucket/film"}}}},
            {"audio": {"format": "mp3", "source": source}},
            {"document": {"name": "tides", "source": {"text": "High at noon."}}},
        ]},
        {"role": "system", "content": [{"text": "Be brief."}]},
    ]});
    let mut request = read(&Converse, body.clone());
    assert_eq!(request.extra, []);
    let target = Target { model: CLAUDE.to_owned(), ..Target::default() };
    // Instructions in the midst are moved.
    request.messages.pop();
    let again = Converse.write_request(&request, &target).unwrap().body;
    let mut expected = body["messages"][0].clone();
    expected["content"][4]["document"]["format"] = json!("txt");
    assert_eq!(again["messages"], json!([expected]));
}

#[test]
fn what_goes_with_thinking_is_told() {
    let body = |top_k: Value| {
        json!({
            "model": "m", "max_tokens": 4000, "top_k": top_k,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "messages": [{"role": "user", "content": "Hi"}],
        })
    };
    assert_eq!(written(&Anthropic, body(json!(null)), CLAUDE).unwrap().warnings, [""; 0]);
    let told = written(&Anthropic, body(json!(5)), CLAUDE).unwrap();
    assert!(told.warnings.iter().any(|text| text.contains("top-k")), "{:?}", told.warnings);
    assert!(told.body["additionalModelRequestFields"].get("top_k").is_none());
    let off = json!({
        "model": "m", "max_tokens": 9, "top_k": 5, "thinking": {"type": "disabled"},
        "messages": [{"role": "user", "content": "Hi"}],
    });
    let told = written(&Anthropic, off, CLAUDE).unwrap();
    assert_eq!(told.body["additionalModelRequestFields"]["top_k"], 5);
}

#[test]
fn claude_is_asked_which_stop_text_came() {
    let body = json!({
        "model": "m", "stop": ["END"], "messages": [{"role": "user", "content": "Hi"}],
    });
    let told = |model: &str| {
        let body = written(&Chat, body.clone(), model).unwrap().body;
        assert_eq!(body["inferenceConfig"]["stopSequences"], json!(["END"]));
        assert_eq!(read(&Converse, body.clone()).extra, []);
        body.get("additionalModelResponseFieldPaths").cloned()
    };
    assert_eq!(told(CLAUDE), Some(json!(["/stop_sequence"])));
    assert_eq!(told("amazon.nova-pro-v1:0"), None);
}

#[test]
fn labels_that_are_not_taken_are_told() {
    let body = |metadata: Value| {
        json!({
            "model": "m", "metadata": metadata, "store": false,
            "messages": [{"role": "user", "content": "Hi"}],
        })
    };
    let told = written(&Chat, body(json!({"team": "tides @ 3"})), CLAUDE).unwrap();
    assert_eq!(told.body["requestMetadata"], json!({"team": "tides @ 3"}));
    assert_eq!(told.warnings, [""; 0]);
    let odd = body(json!({"team": "tides", "long": "x".repeat(300), "why": "\"quoted\""}));
    let told = written(&Chat, odd, CLAUDE).unwrap();
    assert_eq!(told.body["requestMetadata"], json!({"team": "tides"}));
    assert_eq!(told.warnings.len(), 1, "{:?}", told.warnings);
}
