//! Simulated providers, which check requests as their vendors do: the vendors' SDKs against
//! them, and every caller against every one of them through the gateway.

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::http::{self, Response};
use testkit::{Running, Sim, clients};

use crate::support::{Gateway, two_threads};

const SCRIPT: &str = "\
[[replies]]
when = { results = true }
text = \"It rains in Oslo.\"

[[replies]]
when = { contains = \"weather\" }
calls = [{ name = \"look\", arguments = { city = \"Oslo\" } }]

[[replies]]
text = \"Hello yourself.\"
";

pub(crate) const VENDORS: [&str; 4] = ["openai", "anthropic", "gemini", "bedrock"];

fn scripted(folder: &TempDir, vendor: &str, more: &[&str]) -> Running {
    let path = folder.path().join("script.toml");
    std::fs::write(&path, SCRIPT).unwrap();
    let path = path.display().to_string();
    let arguments = ["--provider", vendor, "--script", &path, "--speed", "200"];
    let all = arguments.iter().chain(more);
    all.fold(Sim::new(), |sim, argument| sim.arg(argument)).start()
}

/// A gateway before a provider.
pub(crate) fn before(vendor: &str, url: &str, more: &str) -> Gateway {
    let key = if vendor == "bedrock" {
        "[deployments.aws]\nregion = \"eu-west-1\"\naccess_key_id = \"the-key\"\nsecret_access_key = \"s\"\n"
    } else {
        "api_key = \"the-key\"\n"
    };
    let config = format!(
        "[[deployments]]\nname = \"{vendor}\"\nprovider = \"{vendor}\"\nurl = \"{url}\"\n\
         idle_connections_min = 0\n{key}{more}"
    );
    Gateway::start(two_threads().config(&config))
}

#[test]
fn sdks_take_them_for_their_vendors() {
    let folder = tempfile::tempdir().unwrap();
    for (vendor, said) in [("openai", 5), ("anthropic", 5), ("gemini", 4)] {
        let sim = scripted(&folder, vendor, &["--key", "the-key"]);
        let environment = [("BASE_URL", sim.urls()[0].as_str()), ("VENDOR", vendor)];
        let output = clients::python("providers.py", &environment);
        assert_eq!(output.matches("ok ").count(), said, "{vendor}: {output}");
    }
}

/// A request of each dialect: its path, its body for the first turn, and for the turn with the
/// result of the call.
fn turns(dialect: &str, stream: bool) -> (String, Value, Value) {
    let schema = json!({
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    });
    let ask = "How is the weather?";
    match dialect {
        "chat" => {
            let function = json!({"name": "look", "description": "Looks.", "parameters": schema});
            let tools = json!([{"type": "function", "function": function}]);
            let user = json!({"role": "user", "content": ask});
            let call = json!({"id": "call_1", "type": "function",
                "function": {"name": "look", "arguments": "{\"city\":\"Oslo\"}"}});
            let called = json!({"role": "assistant", "content": null, "tool_calls": [call]});
            let result = json!({"role": "tool", "tool_call_id": "call_1", "content": "rain"});
            let body = |messages: Value| {
                json!({"model": "m", "messages": messages, "tools": tools, "stream": stream,
                    "max_tokens": 500})
            };
            let path = "/v1/chat/completions".to_owned();
            (path, body(json!([user])), body(json!([user, called, result])))
        }
        "responses" => {
            let tools = json!([{"type": "function", "name": "look", "parameters": schema}]);
            let user = json!({"role": "user", "content": ask});
            let call = json!({"type": "function_call", "call_id": "call_1", "name": "look",
                "arguments": "{\"city\":\"Oslo\"}"});
            let result =
                json!({"type": "function_call_output", "call_id": "call_1", "output": "rain"});
            let body = |input: Value| json!({"model": "m", "input": input, "tools": tools, "stream": stream});
            ("/v1/responses".to_owned(), body(json!([user])), body(json!([user, call, result])))
        }
        "messages" => {
            let tools = json!([{"name": "look", "input_schema": schema}]);
            let user = json!({"role": "user", "content": ask});
            let call = json!({"type": "tool_use", "id": "t1", "name": "look",
                "input": {"city": "Oslo"}});
            let called = json!({"role": "assistant", "content": [call]});
            let result = json!({"type": "tool_result", "tool_use_id": "t1", "content": "rain"});
            let answered = json!({"role": "user", "content": [result]});
            let body = |messages: Value| {
                json!({"model": "m", "max_tokens": 500, "messages": messages, "tools": tools,
                    "stream": stream, "system": "Be brief."})
            };
            let path = "/v1/messages".to_owned();
            (path, body(json!([user])), body(json!([user, called, answered])))
        }
        _ => {
            let declared = json!({"name": "look", "parametersJsonSchema": schema});
            let tools = json!([{"functionDeclarations": [declared]}]);
            let user = json!({"role": "user", "parts": [{"text": ask}]});
            let call = json!({"functionCall": {"name": "look", "args": {"city": "Oslo"}}});
            let called = json!({"role": "model", "parts": [call]});
            let response = json!({"name": "look", "response": {"output": "rain"}});
            let answered = json!({"role": "user", "parts": [{"functionResponse": response}]});
            let body = |contents: Value| json!({"contents": contents, "tools": tools});
            let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
            let path = format!("/v1beta/models/m:{method}");
            (path, body(json!([user])), body(json!([user, called, answered])))
        }
    }
}

fn said(response: &Response, what: &str, name: &str) {
    let text = response.text();
    assert_eq!(response.status, 200, "{name}: {text}");
    // A stream cuts it in pieces, so that the pieces are joined first.
    let joined: String = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).ok())
        .map(|value: Value| strings(&value))
        .collect();
    let bare =
        |text: &str| -> String { text.chars().filter(|c| c.is_ascii_alphanumeric()).collect() };
    assert!(bare(&joined).contains(&bare(what)), "{name}: {text}");
    assert!(!text.contains("\"error\":{"), "{name}: {text}");
}

/// The texts that tell something, one after the other.
fn strings(value: &Value) -> String {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| match value {
                Value::String(text)
                    if [
                        "content",
                        "text",
                        "delta",
                        "partial_json",
                        "arguments",
                        "name",
                        "city",
                    ]
                    .contains(&name.as_str()) =>
                {
                    text.clone()
                }
                Value::String(_) => String::new(),
                other => strings(other),
            })
            .collect(),
        Value::Array(items) => items.iter().map(strings).collect(),
        _ => String::new(),
    }
}

#[test]
fn every_caller_is_served_by_every_provider() {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = 0;
    for vendor in VENDORS {
        let sim = scripted(&folder, vendor, &["--key", "the-key"]);
        let gateway = before(vendor, &sim.urls()[0], "");
        for dialect in ["chat", "responses", "messages", "gemini"] {
            for stream in [false, true] {
                let name = format!("{dialect} to {vendor}, stream {stream}");
                let (path, first, second) = turns(dialect, stream);
                let url = gateway.at(&path);
                // As Anthropic's SDKs send it.
                let version = [("anthropic-version", "2023-06-01")];
                let headers = if dialect == "messages" { &version[..] } else { &[] };
                let ask = |body: &Value| http::post(&url, headers, body.to_string());
                said(&ask(&first), "Oslo", &name);
                said(&ask(&second), "It rains in Oslo.", &name);
                pairs += 1;
            }
        }
    }
    assert_eq!(pairs, 32);
}

#[test]
fn models_are_listed_in_every_callers_words() {
    let folder = tempfile::tempdir().unwrap();
    for vendor in VENDORS {
        let sim = scripted(&folder, vendor, &["--key", "the-key"]);
        let gateway = before(vendor, &sim.urls()[0], "");
        let list = |path: &str, headers: &[(&str, &str)]| {
            let response = http::request("GET", &gateway.at(path), headers, b"");
            let body: Value = serde_json::from_slice(&response.body).unwrap();
            (response.status, body)
        };
        let (status, openai) = list("/v1/models", &[]);
        if vendor == "bedrock" {
            let why = openai["error"]["message"].as_str().unwrap();
            assert!(status == 404 && why.contains("`models`"), "{openai}");
            continue;
        }
        let found = (&openai["data"][0]["id"], &openai["data"][0]["object"]);
        assert_eq!((status, found), (200, (&json!("sim"), &json!("model"))), "{vendor}: {openai}");
        let (status, claude) = list("/v1/models", &[("anthropic-version", "2023-06-01")]);
        assert_eq!((status, &claude["data"][0]["id"]), (200, &json!("sim")), "{vendor}");
        let (status, gemini) = list("/v1beta/models", &[]);
        assert_eq!((status, &gemini["models"][0]["name"]), (200, &json!("models/sim")), "{vendor}");
    }
}

#[test]
fn hidden_limits_of_each_provider_reach_no_caller() {
    let folder = tempfile::tempdir().unwrap();
    for vendor in VENDORS {
        let limits = ["--key", "the-key", "--limit", "requests=40/s:burst=5"];
        let sim = scripted(&folder, vendor, &limits);
        let gateway = before(vendor, &sim.urls()[0], "");
        let (path, first, _) = turns("chat", false);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let response = http::post(&gateway.at(&path), &[], first.to_string());
                        assert_eq!(response.status, 200, "{vendor}: {}", response.text());
                    }
                });
            }
        });
    }
}
