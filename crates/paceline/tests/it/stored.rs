//! Answers of Responses that are asked for again, or continued.

use serde_json::{Value, json};
use testkit::http::{self, Response};
use testkit::{Reply, Script};

use crate::support::{Gateway, answer, finish, piece, two_threads};

const STORED: &str = "/v1/responses/";

/// An upstream that stores answers named after it.
fn storing(name: &'static str) -> Script {
    Script::new()
        .respond(move |request| {
            let body = format!(
                r#"{{"id":"resp_{name}","object":"response","output":[{{"id":"msg_{name}"}}]}}"#
            );
            let has = |text: &str| request.line().contains(text);
            match &*request.line() {
                _ if has("POST") && request.text().contains("\"stream\":true") => {
                    let event = |name: &str| {
                        format!(
                            "event: {name}\ndata: {{\"type\":\"{name}\",\"response\":{body}}}\n\n"
                        )
                    };
                    let created = Reply::stream().chunk(event("response.created"));
                    created.chunk(event("response.completed")).end()
                }
                _ if has("POST") => Reply::json(200, &body),
                _ if has(&format!("resp_{name}")) => Reply::json(200, &body),
                _ => Reply::json(404, r#"{"error":{"message":"not here"}}"#),
            }
        })
        .start()
}

fn deployment(name: &str, provider: &str, url: &str) -> String {
    format!("[[deployments]]\nname = \"{name}\"\nprovider = \"{provider}\"\nurl = \"{url}\"\n")
}

fn create(gateway: &Gateway, headers: &[(&str, &str)], body: &Value) -> Response {
    http::post(&gateway.at("/v1/responses"), headers, body.to_string())
}

fn asked(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    http::request(method, &gateway.at(&format!("{STORED}{path}")), headers, b"")
}

fn json_of(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_str(&response.text()).unwrap()
}

#[test]
fn whoever_stores_an_answer_is_asked_for_it() {
    // Noted afresh, of whole answers and of streams.
    let [_, (gateway, a, b)] = [false, true].map(|stream| {
        let (a, b) = (storing("a"), storing("b"));
        let config = deployment("a", "openai", a.url()) + &deployment("b", "openai", b.url());
        let gateway = Gateway::start(two_threads().config(&config));
        whoever_stored_it(&gateway, &a, &b, stream);
        (gateway, a, b)
    });
    // Of another key, nothing is noted: both are asked.
    let before = (a.count(), b.count());
    let other = [("authorization", "Bearer another")];
    assert_eq!(asked(&gateway, "GET", "resp_b", &other).status, 200);
    assert_eq!((a.count(), b.count()), (before.0 + 1, before.1 + 1));
    assert_eq!(asked(&gateway, "GET", "resp_c", &[]).status, 404);
}

fn whoever_stored_it(gateway: &Gateway, a: &Script, b: &Script, stream: bool) {
    let (had_a, had_b) = (a.count(), b.count());
    while a.count() == had_a || b.count() == had_b {
        let created = create(gateway, &[], &json!({"model": "m", "input": "x", "stream": stream}));
        assert_eq!(created.status, 200, "{}", created.text());
    }
    for (id, upstream, name) in [("resp_a", a, "a"), ("resp_b", b, "b")] {
        let before = (a.count() + b.count(), upstream.count());
        let found = asked(gateway, "GET", &format!("{id}?include=x"), &[]);
        assert_eq!(json_of(&found)["id"], id);
        assert_eq!(found.header("x-paceline-deployment"), Some(name));
        let line = upstream.requests().last().unwrap().line();
        assert!(line.contains(&format!("{STORED}{id}?include=x")), "{line}");
        for _ in 0..10 {
            let next = json!({"model": "m", "input": "y", "previous_response_id": id});
            let next = create(gateway, &[], &next);
            assert_eq!(next.header("x-paceline-deployment"), Some(name));
        }
        let refers = json!([{"type": "item_reference", "id": format!("msg_{name}")}]);
        for _ in 0..10 {
            let next = create(gateway, &[], &json!({"model": "m", "input": refers}));
            assert_eq!(next.header("x-paceline-deployment"), Some(name));
        }
        // Nobody else was asked.
        assert_eq!(a.count() + b.count() - before.0, upstream.count() - before.1);
    }
}

#[test]
fn what_was_translated_is_kept_here() {
    for stream in [false, true] {
        let reply = match stream {
            false => Reply::json(200, &answer("First.")),
            true => Reply::sse(&[&piece("First."), &finish()]),
        };
        let upstream = Script::new()
            .reply(reply)
            .otherwise(Reply::json(200, &answer("Next.").replace("chatcmpl-1", "chatcmpl-2")))
            .start();
        let config = deployment("up", "openai-compatible", upstream.url());
        let gateway = Gateway::start(two_threads().config(&config));
        let first = json!({"model": "m", "input": "Hi", "stream": stream, "instructions": "Old."});
        let response = create(&gateway, &[], &first);
        let text = response.text();
        let at = text.rfind("\"id\":\"resp_").or(text.find("\"id\":\"resp_")).unwrap() + 6;
        let id = text[at..].split('"').next().unwrap();
        let kept = json_of(&asked(&gateway, "GET", id, &[]));
        assert_eq!(kept["output"][0]["content"][0]["text"], "First.");
        let input = json_of(&asked(&gateway, "GET", &format!("{id}/input_items"), &[]));
        assert_eq!(input["data"][0]["content"], "Hi");
        // The next call has the whole conversation, but for the instructions.
        let next = json!({"model": "m", "input": "And?", "previous_response_id": id});
        json_of(&create(&gateway, &[], &next));
        let sent: Value = serde_json::from_str(&upstream.requests()[1].text()).unwrap();
        let messages = sent["messages"].as_array().unwrap();
        let texts: Vec<_> = messages.iter().map(|message| text_of(&message["content"])).collect();
        assert_eq!(texts, ["Hi", "First.", "And?"], "{sent}");
        // So has one that refers to an item.
        let item = &kept["output"][0]["id"];
        let refers =
            json!([{"type": "item_reference", "id": item}, {"role": "user", "content": "Z"}]);
        json_of(&create(&gateway, &[], &json!({"model": "m", "input": refers})));
        let sent: Value = serde_json::from_str(&upstream.requests()[2].text()).unwrap();
        assert_eq!(text_of(&sent["messages"][0]["content"]), "First.", "{sent}");
        // Another key finds nothing of it.
        let other = [("authorization", "Bearer another")];
        assert_eq!(asked(&gateway, "GET", id, &other).status, 404);
        assert_eq!(asked(&gateway, "POST", &format!("{id}/cancel"), &[]).status, 400);
        assert_eq!(json_of(&asked(&gateway, "DELETE", id, &[]))["deleted"], true);
        assert_eq!(asked(&gateway, "GET", id, &[]).status, 404);
    }
}

fn text_of(content: &Value) -> &str {
    content.as_str().or(content[0]["text"].as_str()).unwrap_or_default()
}

#[test]
fn what_is_not_to_be_stored_is_not() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("Once."))).start();
    let config = deployment("up", "openai-compatible", upstream.url());
    let gateway = Gateway::start(two_threads().config(&config));
    let body = json!({"model": "m", "input": "Hi", "store": false});
    let told = json_of(&create(&gateway, &[], &body));
    assert_eq!(asked(&gateway, "GET", told["id"].as_str().unwrap(), &[]).status, 404);
    let unknown = json!({"model": "m", "input": "Hi", "previous_response_id": "resp_none"});
    let refused = create(&gateway, &[], &unknown);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("previous_response_id"), "{}", refused.text());
}

#[test]
fn a_tenant_finds_only_its_own() {
    let a = storing("a");
    let keys = "[[keys]]\ntenant = \"t\"\nkey = \"key-of-the-tenant-t\"\n\
                [[keys]]\ntenant = \"u\"\nkey = \"key-of-the-tenant-u\"\n";
    let config = deployment("a", "openai", a.url()) + keys;
    let gateway = Gateway::start(two_threads().config(&config));
    let key = |name: &str| format!("Bearer key-of-the-tenant-{name}");
    let (t, u) = (key("t"), key("u"));
    let body = json!({"model": "m", "input": "x"});
    json_of(&create(&gateway, &[("authorization", &t)], &body));
    assert_eq!(asked(&gateway, "GET", "resp_a", &[("authorization", &t)]).status, 200);
    let before = a.count();
    assert_eq!(asked(&gateway, "GET", "resp_a", &[("authorization", &u)]).status, 404);
    assert_eq!(asked(&gateway, "GET", "resp_a", &[]).status, 401);
    assert_eq!(a.count(), before, "and the upstream is not asked");
}
