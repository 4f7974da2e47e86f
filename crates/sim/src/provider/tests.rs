//! The checks: what real clients send is taken, and what is wrong is named.

use super::*;

/// The golden requests of `crates/dialect`, which vendors' SDKs have been held against.
fn golden() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dialect/testdata/cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .collect()
}

fn ask(vendor: Vendor, path: &str, body: &Value) -> Result<Asked, Refusal> {
    let operation = Operation::of(vendor, &Method::POST, &path.parse().unwrap())?;
    operation.ask(body).map_err(|wrong| Refusal::wrong(vendor, &wrong))
}

#[test]
fn golden_requests_are_taken() {
    let mut taken = HashMap::new();
    for case in golden() {
        let vendor = match case["dialect"].as_str().unwrap() {
            "openai-chat" | "openai-responses" | "openai-embeddings" => Vendor::OpenAi,
            "anthropic" => Vendor::Anthropic,
            "gemini" => Vendor::Gemini,
            "bedrock-converse" => Vendor::Bedrock,
            _ => continue,
        };
        if case["response"].is_null() {
            continue;
        }
        let path = case["request"]["path"].as_str().unwrap();
        let asked = ask(vendor, path, &case["request"]["body"]);
        assert!(asked.is_ok(), "{}: {asked:?}", case["name"]);
        *taken.entry(format!("{vendor:?}")).or_insert(0) += 1;
    }
    assert!(taken.len() == 4 && taken.values().all(|count| *count >= 8), "{taken:?}");
}

#[test]
fn what_is_wrong_is_named() {
    let check = |vendor, path: &str, body: Value, expected: &str| {
        let shown = format!("{:?}", ask(vendor, path, &body).expect_err(expected));
        assert!(shown.contains(expected), "{shown}");
    };
    let user = json!({"role": "user", "content": "x"});
    let chat = |more: Value| {
        let mut body = json!({"model": "m", "messages": [user]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let openai = |body, expected| check(Vendor::OpenAi, "/v1/chat/completions", body, expected);
    openai(json!({"model": "m"}), "Missing required parameter: 'messages'");
    openai(chat(json!({"robot": 1})), "Unknown parameter: 'robot'");
    openai(chat(json!({"temperature": 3})), "'temperature': expected a number from 0 to 2");
    openai(chat(json!({"messages": [{"role": "robot", "content": ""}]})), "messages[0].role");
    let orphan = json!({"role": "tool", "tool_call_id": "c", "content": "x"});
    openai(chat(json!({"messages": [user, orphan]})), "preceding message with 'tool_calls'");
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let open = json!({"role": "assistant", "tool_calls": [call]});
    openai(chat(json!({"messages": [user, open, user]})), "followed by tool messages");
    let tool = json!({"type": "function", "function": {"name": "no spaces"}});
    openai(chat(json!({"tools": [tool]})), "tools[0].function.name");
    let responses = |body, expected| check(Vendor::OpenAi, "/v1/responses", body, expected);
    responses(json!({"model": "m"}), "Missing required parameter: 'input'");
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
    responses(json!({"model": "m", "input": [output]}), "input[0].call_id");

    let claude = |body, expected| check(Vendor::Anthropic, "/v1/messages", body, expected);
    let messages = |messages: Value| json!({"model": "m", "max_tokens": 9, "messages": messages});
    claude(json!({"model": "m", "messages": [user]}), "max_tokens: Field required");
    claude(
        messages(json!([{"role": "system", "content": "x"}])),
        "messages.0.role: Input should be",
    );
    claude(
        messages(json!([{"role": "assistant", "content": "x"}])),
        "the first message is the user's",
    );
    claude(messages(json!([{"role": "user", "content": ""}])), "messages.0.content");
    let used = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    let answer = json!({"role": "assistant", "content": [used]});
    claude(messages(json!([user, answer, user])), "followed by a `tool_result` block for t");
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": "x"});
    claude(messages(json!([{"role": "user", "content": [result]}])), "in the previous message");
    let mut cold = messages(json!([user]));
    cold["temperature"] = json!(1.5);
    claude(cold, "temperature: Input should be a number from 0 to 1");
    let mut thinking = messages(json!([user]));
    thinking["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    claude(thinking.clone(), "greater than `thinking.budget_tokens`");
    thinking["max_tokens"] = json!(2000);
    thinking["messages"] = json!([user, answer, {"role": "user", "content": [result]}]);
    thinking["tools"] = json!([{"name": "f", "input_schema": {}}]);
    claude(thinking.clone(), "messages.1.content.0.type: Input should be `thinking`");
    thinking["tool_choice"] = json!({"type": "any"});
    claude(thinking, "tool_choice: Input should be 'auto' or 'none'");

    let path = "/v1beta/models/g:generateContent";
    let gemini = |body, expected| check(Vendor::Gemini, path, body, expected);
    gemini(json!({"contents": []}), "contents: must be a list that is not empty");
    gemini(
        json!({"contents": [{"parts": [{"text": "x"}]}], "robot": 1}),
        "Unknown name \\\"robot\\\"",
    );
    let called = json!({"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]});
    let text = json!({"role": "user", "parts": [{"text": "x"}]});
    gemini(json!({"contents": [text, called, text]}), "followed by a function response turn");

    let bedrock = |body, expected| check(Vendor::Bedrock, "/model/m/converse", body, expected);
    let said = |role: &str| json!({"role": role, "content": [{"text": "x"}]});
    bedrock(json!({}), "Member must not be null");
    bedrock(json!({"messages": [said("assistant")]}), "the user begins");
    bedrock(json!({"messages": [said("user"), said("user")]}), "roles alternate");
    bedrock(json!({"messages": [{"role": "user", "content": [{"text": ""}]}]}), "not empty");
    let used = json!({"toolUse": {"toolUseId": "t", "name": "f", "input": {}}});
    let turns = json!([said("user"), {"role": "assistant", "content": [used]}]);
    bedrock(json!({"messages": turns}), "toolConfig");
}

#[test]
fn a_stored_answer_goes_on_with_its_conversation() {
    let answer = json!({"output": [
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    ]});
    let result = json!({"type": "function_call_output", "call_id": "c", "output": "rain"});
    let body = json!({"model": "m", "previous_response_id": "r", "input": [result]});
    let body = openai::continued(&body, &json!("The weather?"), &answer);
    let asked = ask(Vendor::OpenAi, "/v1/responses", &body).unwrap();
    assert_eq!((asked.last.as_str(), asked.turns, asked.results), ("The weather?", 1, true));
}
