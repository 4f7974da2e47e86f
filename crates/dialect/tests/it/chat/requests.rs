//! Requests: what clients send beside the golden cases, and what strict servers take.

use paceline_dialect::codec::{PathFacts, Quirks, Target};
use paceline_dialect::neutral::{
    CacheMark, CacheTtl, Effort, Event, Fault, Message, Part, Reasoning, Request, Response, Role,
    Seal, Stop, Unsupported, Vendor, What, Written,
};
use paceline_dialect::{Anthropic, Chat, Codec, Completions, Converse, Responses};
use serde_json::{Value, json};

/// Reads a question with further members.
fn read(more: Value) -> Result<Request, Fault> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Chat.read_request(body, &PathFacts::default())
}

fn write(messages: Value, quirks: Quirks, model: &str) -> Written {
    let request = read(json!({"messages": messages})).unwrap();
    Chat.write_request(&request, &Target { model: model.to_owned(), quirks }).unwrap()
}

#[test]
fn thinking_is_asked_for_in_each_vendors_words() {
    let none = Reasoning::default();
    for (members, expected) in [
        (
            json!({"reasoning_effort": "low"}),
            Reasoning { effort: Some(Effort::Low), ..none.clone() },
        ),
        (
            json!({"reasoning": {"effort": "high"}}),
            Reasoning { effort: Some(Effort::High), adaptive: true, ..none.clone() },
        ),
        (
            json!({"reasoning": {"max_tokens": 2000, "exclude": true}}),
            Reasoning { budget: Some(2000), shown: Some(false), ..none.clone() },
        ),
        (json!({"reasoning": {"enabled": true}}), Reasoning { adaptive: true, ..none.clone() }),
        (
            json!({"reasoning": {"enabled": false}}),
            Reasoning { effort: Some(Effort::None), ..none.clone() },
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            Reasoning { budget: Some(1024), ..none.clone() },
        ),
        (json!({"thinking": {"type": "enabled"}}), Reasoning { adaptive: true, ..none.clone() }),
        (json!({"thinking": {"type": "disabled"}}), Reasoning { budget: Some(0), ..none.clone() }),
    ] {
        let read = read(members.clone()).unwrap();
        assert_eq!(read.reasoning, expected, "{members}");
        assert_eq!(read.extra, [], "{members}");
    }
    for (members, field) in [
        (json!({"reasoning": {"effort": "huge"}}), "reasoning.effort"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort"),
        (json!({"thinking": {"type": "on"}}), "thinking.type"),
    ] {
        assert_eq!(read(members).unwrap_err().field, field);
    }
}

#[test]
fn sampling_that_is_switched_off_is_off() {
    for top_k in [-1, 0] {
        assert_eq!(read(json!({"top_k": top_k})).unwrap().top_k, None);
    }
    assert_eq!(read(json!({"top_k": 40})).unwrap().top_k, Some(40));
    assert_eq!(read(json!({"random_seed": 7})).unwrap().seed, Some(7));
    assert_eq!(read(json!({"top_k": -2})).unwrap_err().field, "top_k");
}

#[test]
fn cache_marks_are_read_wherever_clients_put_them() {
    let mark = Some(CacheMark { ttl: CacheTtl::Usual });
    let control = json!({"type": "ephemeral"});
    let function = json!({"name": "f", "parameters": {"type": "object"}});
    let mut inside = function.clone();
    inside["cache_control"] = control.clone();
    let request = read(json!({
        "messages": [
            {"role": "system", "content": "Be short.", "cache_control": control},
            {"role": "user", "content": "Hi", "cache_control": control},
        ],
        "tools": [
            {"type": "function", "function": function, "cache_control": control},
            {"type": "function", "function": inside},
        ],
    }))
    .unwrap();
    assert_eq!(request.system, [Part::Text { text: "Be short.".to_owned(), cache: mark }]);
    assert_eq!(request.messages[0].parts, [Part::Text { text: "Hi".to_owned(), cache: mark }]);
    assert!(request.tools.iter().all(|tool| tool.cache == mark), "{:?}", request.tools);
    assert_eq!(request.extra, []);
    let written = Anthropic.write_request(&request, &Target::default()).unwrap();
    assert_eq!(written.body["system"][0]["cache_control"], control);
}

#[test]
fn what_cannot_be_told_is_named() {
    for (members, path) in [
        (json!({"n": 2}), "n"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"audio": {"voice": "x"}}), "audio"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"prediction": {"type": "content", "content": "x"}}), "prediction"),
    ] {
        let request = read(members).unwrap();
        let refused = Anthropic.write_request(&request, &Target::default()).unwrap_err();
        assert_eq!(refused.what, What::Extra(path.to_owned()));
    }
    // Instructions are text; a picture among them would be lost.
    let image = json!({"type": "image_url", "image_url": {"url": "https://x/y.png"}});
    let messages =
        json!([{"role": "system", "content": [image]}, {"role": "user", "content": "Hi"}]);
    let fault = read(json!({"messages": messages})).unwrap_err();
    assert_eq!(fault.field, "messages[0].content[0]");
}

const MISTRAL: Quirks = Quirks {
    max_tokens_only: true,
    no_stream_options: true,
    reasoning_content: false,
    reasoning_details: false,
    short_call_ids: true,
    top_k: false,
    no_developer_role: true,
    max_tokens_default: 0,
};

fn roles(written: &Written) -> Vec<&str> {
    let messages = written.body["messages"].as_array().unwrap();
    messages.iter().map(|message| message["role"].as_str().unwrap()).collect()
}

#[test]
fn mistral_gets_its_turns_in_the_order_that_it_takes() {
    let call = json!({"role": "assistant", "tool_calls": [
        {"id": "call_abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "call_abc", "content": "1"});
    let (user, system) =
        (json!({"role": "user", "content": "Go on"}), json!({"role": "system", "content": "Hush"}));
    let behind_result = write(json!([user, call, result, user]), MISTRAL, "m");
    assert_eq!(roles(&behind_result), ["user", "assistant", "tool", "assistant", "user"]);
    assert_eq!(behind_result.warnings.len(), 1);
    let id = &behind_result.body["messages"][1]["tool_calls"][0]["id"];
    assert_eq!(id.as_str().unwrap().len(), 9);
    assert_eq!(&behind_result.body["messages"][2]["tool_call_id"], id);
    let late = write(json!([user, call, result, system]), MISTRAL, "m");
    assert_eq!(roles(&late), ["user", "assistant", "tool", "assistant", "user"]);
    let early = write(json!([user, system, user]), MISTRAL, "m");
    assert_eq!(roles(&early), ["user", "system", "user"]);
    // Nothing is put between where nothing is refused.
    let plain = write(json!([user, call, result]), MISTRAL, "m");
    assert_eq!((roles(&plain), plain.warnings.len()), (vec!["user", "assistant", "tool"], 0));
    let others = write(json!([user, call, result, user]), Quirks::default(), "m");
    assert_eq!(roles(&others), ["user", "assistant", "tool", "user"]);
}

#[test]
fn mistral_goes_on_with_a_last_turn_that_says_so() {
    let messages = json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once", "prefix": true},
    ]);
    let written = write(messages.clone(), MISTRAL, "m");
    assert_eq!(written.body["messages"][1]["prefix"], true);
    let others = write(messages, Quirks::default(), "m");
    assert_eq!(others.body["messages"][1].get("prefix"), None);
}

#[test]
fn seals_go_to_servers_that_want_them_back_only() {
    let seal = |vendor| Some(Seal { vendor, data: "S=".to_owned(), item: None });
    let parts = vec![
        Part::Thinking { text: "Hm.".to_owned(), seal: seal(Vendor::Anthropic) },
        Part::ToolCall {
            id: "x".to_owned(),
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
            seal: seal(Vendor::Google),
            cache: None,
        },
    ];
    let turn = Message { role: Role::Assistant, parts, name: None };
    let mut request = read(json!({})).unwrap();
    request.messages.push(turn.clone());
    let write = |model: &str, quirks| -> Result<Value, Unsupported> {
        let target = Target { model: model.to_owned(), quirks };
        let mut written = Chat.write_request(&request, &target)?;
        Ok(written.body["messages"][1].take())
    };
    let openrouter = Quirks { reasoning_details: true, ..Quirks::default() };
    let sealed = write("anthropic/claude", openrouter).unwrap();
    assert_eq!(sealed["reasoning_details"][0]["signature"], "S=");
    assert_eq!(sealed["reasoning_details"][1]["id"], "x");
    let body = json!({"model": "m", "messages": [sealed]});
    let again = Chat.read_request(body, &PathFacts::default()).unwrap();
    assert_eq!(again.messages, [turn]);
    let google = write("google/gemini-3-pro", Quirks::default()).unwrap();
    assert_eq!(google["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "S=");
    let plain = write("gpt-5", Quirks::default()).unwrap();
    for name in ["reasoning_details", "extra_content"] {
        assert!(!plain.to_string().contains(name), "{plain}");
    }
}

/// With a budget, Anthropic refuses calls under way that began without thinking of its own.
#[test]
fn thinking_goes_on_while_the_calls_under_way_began_with_it() {
    let user = json!({"role": "user", "content": "Hi"});
    let call = |id: &str, thought: bool| {
        let function = json!({"name": "f", "arguments": "{}"});
        let mut turn = json!({"role": "assistant", "content": null,
            "tool_calls": [{"id": id, "type": "function", "function": function}]});
        if thought {
            turn["reasoning_details"] = json!([{"type": "reasoning.text", "text": "Hm.",
                "signature": "S=", "format": "anthropic-claude-v1", "index": 0}]);
        }
        turn
    };
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
    let said = json!({"role": "assistant", "content": "Yes."});
    let check = |messages: Value, on: bool| {
        let thinking = json!({"type": "enabled", "budget_tokens": 1024});
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let asked = json!({"messages": messages, "thinking": thinking, "tools": tools,
            "max_tokens": 2000});
        let request = read(asked).unwrap();
        for codec in [&Anthropic as &dyn Codec, &Converse] {
            let model = "claude-sonnet-4-5".to_owned();
            let target = Target { model, quirks: Quirks::default() };
            let body = codec.write_request(&request, &target).unwrap().body;
            assert_eq!(body.to_string().contains("1024"), on, "{body}");
        }
    };
    check(json!([user, call("a", true), result("a")]), true);
    check(json!([user, call("a", true), result("a"), call("b", false), result("b")]), true);
    check(json!([user, call("a", false), result("a")]), false);
    check(json!([user, call("a", false), result("a"), user]), false);
    check(json!([user, call("a", false), result("a"), call("b", true), result("b")]), false);
    check(json!([user, call("a", false), result("a"), said, user]), true);
    check(json!([user, said, user, call("a", true), result("a")]), true);
}

#[test]
fn a_seal_of_a_call_comes_back_in_litellms_words_too() {
    let sealed = json!({"thought_signature": "S="});
    let check = |call: Value, function: Value, seal: Option<&str>, extra: &[&str]| {
        let mut call = call;
        let named = json!({"name": "f", "arguments": "{}", "provider_specific_fields": function});
        (call["id"], call["type"], call["function"]) = (json!("x"), json!("function"), named);
        let answer = json!({"role": "assistant", "content": null, "tool_calls": [call],
            "provider_specific_fields": {"refusal": null}});
        let user = json!({"role": "user", "content": "Hi"});
        let result = json!({"role": "tool", "tool_call_id": "x", "content": "1"});
        let read = read(json!({"messages": [user, answer, result]})).unwrap();
        let Part::ToolCall { seal: found, .. } = &read.messages[1].parts[0] else { panic!() };
        assert_eq!(
            found.as_ref().map(|seal| (seal.vendor, seal.data.as_str())),
            seal.map(|data| (Vendor::Google, data))
        );
        let left: Vec<_> = read.extra.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(left, extra);
    };
    let google = json!({"google": {"thought_signature": "G="}});
    check(json!({"provider_specific_fields": sealed}), Value::Null, Some("S="), &[]);
    check(json!({}), sealed.clone(), Some("S="), &[]);
    check(json!({"extra_content": google}), sealed, Some("G="), &[]);
    check(json!({"provider_specific_fields": {}}), Value::Null, None, &[]);
    let other = json!({"caller": "y"});
    let left = "messages[1].tool_calls[0].provider_specific_fields.caller";
    check(json!({"provider_specific_fields": other}), Value::Null, None, &[left]);
}

#[test]
fn answers_tell_when_the_call_came_where_their_dialect_tells_no_time() {
    let claude = json!({"id": "m", "content": [{"type": "text", "text": "Hi"}], "usage": {}});
    let told = Anthropic.read_response(claude).unwrap();
    let request = Request { asked_s: 1_800_000_000, ..read(json!({})).unwrap() };
    let start = Event::Start { id: "m".to_owned(), model: "c".to_owned(), usage: None };
    let end = Event::Stop { stop: Stop::End, sequence: None };
    let text = Part::Text { text: "Hi".to_owned(), cache: None };
    for (codec, name) in
        [(&Chat as &dyn Codec, "created"), (&Completions, "created"), (&Responses, "created_at")]
    {
        assert_eq!(codec.write_response(&told, &request)[name], 1_800_000_000);
        let (mut writer, mut out) = (codec.event_writer(&request), Vec::new());
        for event in [&start, &Event::PartStart { index: 0, part: text.clone() }, &end, &Event::End]
        {
            writer.write(event, &mut out);
        }
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(&format!("\"{name}\":1800000000")), "{out}");
        assert!(!out.contains(&format!("\"{name}\":0")), "{out}");
        let known = Response { created: 7, ..told.clone() };
        assert_eq!(codec.write_response(&known, &request)[name], 7);
    }
}

#[test]
fn a_part_that_cannot_be_told_is_named_where_it_stands() {
    let audio = json!({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}});
    let request = read(json!({"messages": [
        {"role": "system", "content": "Be short."},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "Hear"}, audio]},
    ]}))
    .unwrap();
    let refused = Anthropic.write_request(&request, &Target::default()).unwrap_err();
    let What::Part { message, part } = refused.what else { panic!("{refused:?}") };
    assert_eq!(Chat.path_of_part(&request, message, part), "messages[2].content[1]");
}
