//! Secrets and prompts are planted in all that comes in, and looked for in all that is said.

use std::fmt::Write as _;

use testkit::{Reply, Script, http};

use crate::support::{CHAT, Gateway, answer, deployment, finish, piece, two_threads};

/// Each is in one place of the traffic below, and in no word of the gateway's own.
const PLANTED: &[&str] = &[
    "tenantkey-5d0c71",
    "wrongkey-81fe",
    "upstreamkey-93aa",
    "severalkey-17bc",
    "awssecret-60d1",
    "awstoken-2b7f",
    "proxypassword-44ec",
    "prompt-words-7e21",
    "tool-words-0c9d",
    "answer-words-b5a3",
    "upstream-words-f3c8",
    "query-words-6a10",
    "header-words-d94e",
];

/// What the caller of a call may see again: what the upstream answered, and no more.
const ANSWERED: &[&str] = &["answer-words-b5a3", "upstream-words-f3c8"];

fn upstream() -> Script {
    let failing = r#"{"error":{"message":"upstream-words-f3c8","type":"server_error"}}"#;
    Script::new()
        .respond(move |request| match request.header("x-case").as_deref() {
            Some("500") => Reply::json(500, failing),
            Some("401") => Reply::json(401, failing),
            Some("429") => Reply::json(429, failing),
            Some("garbage") => Reply::json(200, "upstream-words-f3c8 {"),
            Some("close") => Reply::new().close(),
            Some("stream") => Reply::sse(&[&piece("answer-words-b5a3"), &finish()]),
            Some("cut") => Reply::stream().event(&piece("answer-words-b5a3")).close(),
            Some("told") => Reply::stream().event(&piece("answer-words-b5a3")).event(failing).end(),
            _ => Reply::json(200, &answer("answer-words-b5a3")),
        })
        .start()
}

fn config(upstream: &Script) -> String {
    let model = |name: &str, more: &str| format!("models = [\"{name}\"]\n{more}");
    let url = upstream.url();
    let mut config = deployment("a", url, &model("sim", "api_key = \"upstreamkey-93aa\""));
    config += &deployment("b", url, &model("two", "api_keys = [\"severalkey-17bc\"]"));
    config += &deployment(
        "c",
        url,
        &model("claude", "provider = \"anthropic\"\napi_key = \"upstreamkey-93aa\""),
    );
    config += &deployment(
        "d",
        "http://127.0.0.1:9",
        &model("proxied", "proxy = \"http://user:proxypassword-44ec@127.0.0.1:9\""),
    );
    config += &deployment("e", url, &model("aws", "provider = \"bedrock\""));
    config += "[deployments.aws]\nregion = \"us-east-1\"\naccess_key_id = \"AKIDEXAMPLE\"\n\
        secret_access_key = \"awssecret-60d1\"\nsession_token = \"awstoken-2b7f\"\n";
    config + "[[keys]]\ntenant = \"t\"\nkey = \"tenantkey-5d0c71\"\n"
}

/// Bodies that are answered, and bodies that are refused for many reasons.
fn bodies() -> Vec<String> {
    let words = "prompt-words-7e21";
    let message = format!(r#"{{"role":"user","content":"{words}"}}"#);
    let call = |model: &str, more: &str| {
        format!(r#"{{"model":"{model}","messages":[{message}],"max_tokens":9{more}}}"#)
    };
    let tool = r#","tools":[{"type":"function","function":{"name":"tool-words-0c9d","parameters":{"type":"object"}}}]"#;
    let mut bodies = vec![
        call("sim", ""),
        call("sim", r#","stream":true"#),
        call("sim", tool),
        call("two", ""),
        call("claude", tool),
        call("claude", r#","stream":true"#),
        call("proxied", ""),
        call("aws", ""),
        // No such model; a field of a wrong kind; a role that nobody knows; what cannot be
        // translated; bytes that are no JSON.
        call("no-such-model", ""),
        call("claude", r#","temperature":"prompt-words-7e21""#),
        call("claude", r#","logit_bias":{"prompt-words-7e21":1}"#),
        call("claude", r#","unknown":"prompt-words-7e21""#),
        call("sim", "").replace("\"user\"", "\"tool-words-0c9d\""),
        call("claude", "").replace("\"user\"", "\"prompt-words-7e21\""),
        format!("{{\"model\":\"sim\",\"messages\":[{words}"),
        format!("{words}"),
        format!("{{\"model\":{{\"{words}\":1}},\"messages\":[]}}"),
        format!("{}{words}", "[".repeat(5000)),
    ];
    bodies.push(String::new());
    bodies
}

/// The headers and the body of an answer.
fn told(response: &http::Response) -> String {
    format!("{:?}\n{}", response.head.headers, response.text())
}

#[test]
fn nothing_planted_is_said() {
    let upstream = upstream();
    let serve = two_threads()
        .env("PACELINE__LOG__LEVEL", "trace")
        .env("PACELINE__RETRY__BACKOFF_MS", "1")
        .env("PACELINE__QUEUE__WAIT_MS_MAX", "50");
    let gateway = Gateway::start(serve.config(&config(&upstream)));
    let mut said = String::new();
    let cases =
        ["good", "stream", "cut", "told", "garbage", "close", "500", "401", "429"].map(Some);
    let mut answered = 0;
    for body in bodies() {
        for (case, bad) in cases.into_iter().map(|case| (case, false)).chain([(None, true)]) {
            let headers = [
                ("authorization", "Bearer tenantkey-5d0c71"),
                ("x-case", case.unwrap_or_default()),
                ("x-paceline-deadline-ms", if bad { "header-words-d94e" } else { "20000" }),
                ("content-type", "application/json"),
            ];
            let path = format!("{CHAT}?q=query-words-6a10");
            let response = http::post(&gateway.at(&path), &headers, &body);
            answered += u32::from(response.status == 200);
            let shown = told(&response);
            let rest = ANSWERED.iter().fold(shown, |text, words| text.replace(words, ""));
            writeln!(said, "{rest}").unwrap();
        }
    }
    for key in ["wrongkey-81fe", "wrongkey-81fe\u{e9}"] {
        for path in [CHAT, "/v1/messages", "/v1/responses", "/v1/models"] {
            let headers = [("authorization", format!("Bearer {key}"))];
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            let response = http::post(&gateway.at(path), &headers, &bodies()[0]);
            assert!(response.status >= 400, "{path}: {}", response.status);
            writeln!(said, "{}", told(&response)).unwrap();
        }
    }
    gateway.wait_until_idle();
    let metrics = http::get(&gateway.at("/metrics")).text();
    assert!(metrics.contains("paceline_requests"), "{metrics}");
    let log = gateway.log();
    assert!(log.contains("keeps failing") && log.contains("broke off"), "{log}");
    assert!(answered > 9, "only {answered} calls were answered");
    for (place, text) in [("an answer", &said), ("the metrics", &metrics), ("the log", &log)] {
        for secret in PLANTED {
            if let Some(at) = text.find(secret) {
                let from = text[..at].char_indices().rev().nth(400).map_or(0, |(at, _)| at);
                let to = text.len().min(at + 100);
                panic!(
                    "{secret} is in {place}: …{}…",
                    String::from_utf8_lossy(&text.as_bytes()[from..to])
                );
            }
        }
    }
}
