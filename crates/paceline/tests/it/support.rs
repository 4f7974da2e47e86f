//! What the tests of the binary share.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::http::{self, Connection, Response};
use testkit::{Paceline, Request, Running, Script};

/// The path of all calls.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// How long a test waits for something that shall happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running gateway whose log must stay free of panics.
pub(crate) struct Gateway(Running);

impl Gateway {
    /// A gateway on two threads before these upstreams.
    pub(crate) fn before(upstream: &Script) -> Self {
        Self::start(two_threads().upstream(upstream.url()))
    }

    /// A gateway with one deployment `up`, further fields of which are given; whole
    /// sections may follow them.
    pub(crate) fn configured(url: &str, more: &str) -> Self {
        Self::start(two_threads().config(&deployment("up", url, more)))
    }

    /// Starts what is prepared.
    pub(crate) fn start(serve: Paceline) -> Self {
        Self(serve.start())
    }

    /// The URL of a path.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// Sends a call on a connection of its own.
    pub(crate) fn call(&self, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
        http::post(&self.at(CHAT), headers, body)
    }

    /// The bytes of a call, for tests that send them in their own way.
    pub(crate) fn compose(&self, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
        http::compose("POST", &self.at(CHAT), headers, body.as_ref())
    }

    /// Sends a call and leaves its answer unread.
    pub(crate) fn begin(&self, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Connection {
        let mut connection = Connection::to(self.url());
        connection.send(&self.compose(headers, body));
        connection
    }

    /// All samples of `/metrics`.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        samples(&http::get(&self.at("/metrics")).text())
    }

    /// The value of one sample, name and labels as they stand in the text; 0 where there
    /// is none.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        self.metrics().get(sample).copied().unwrap_or_default()
    }

    /// Waits until a sample has this value.
    pub(crate) fn wait_for_metric(&self, sample: &str, expected: f64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.metric(sample);
            if found == expected {
                return;
            }
            assert!(Instant::now() < until, "{sample} is {found}, not {expected}");
            std::thread::yield_now();
        }
    }

    /// Waits until nothing is under way any more, here and at the upstreams.
    pub(crate) fn wait_until_idle(&self) {
        eventually("nothing is under way", || {
            let metrics = self.metrics();
            let under_way = |(name, value): (&String, &f64)| {
                let counts = name.starts_with("paceline_requests_in_flight")
                    || name.starts_with("paceline_flights_open")
                    || name.starts_with("paceline_upstream_in_flight");
                counts && *value != 0.0
            };
            !metrics.iter().any(under_way)
        });
    }
}

impl Deref for Gateway {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.0
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.0
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = self.log();
            assert!(!log.contains("panicked"), "the gateway panicked:\n{log}");
        }
    }
}

/// `paceline serve` on two threads.
pub(crate) fn two_threads() -> Paceline {
    Paceline::serve().arg("--threads").arg("2")
}

/// The same, where each call is sent once, however it ends.
pub(crate) fn once() -> Paceline {
    let once = two_threads().env("PACELINE__RETRY__ATTEMPTS_MAX", "1");
    once.env("PACELINE__QUEUE__LEARN", "false")
}

/// The TOML of one deployment.
pub(crate) fn deployment(name: &str, url: &str, more: &str) -> String {
    format!("[[deployments]]\nname = \"{name}\"\nurl = \"{url}\"\n{more}\n")
}

/// A request body with this text; `more` are further members, each with a comma before it.
pub(crate) fn chat(text: &str, more: &str) -> String {
    format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#,
        text = text.escape_default()
    )
}

/// A whole answer with this text.
pub(crate) fn answer(text: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"sim","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}}}"#
    )
}

/// The data of one event of a streamed answer.
pub(crate) fn piece(text: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}"#
    )
}

/// The data of the event with which a streamed answer finishes.
pub(crate) fn finish() -> String {
    r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#.to_owned()
}

/// The `error` object of an answer; what is not in the OpenAI shape fails the test.
pub(crate) fn error_of(response: &Response) -> Value {
    error_in(&response.body)
}

/// The same of a body, or of an event's data.
pub(crate) fn error_in(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    let value: Value =
        serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    let error = value["error"].clone();
    for field in ["message", "type", "code"] {
        assert!(error[field].is_string(), "no `{field}`: {text}");
    }
    assert!(error.get("param").is_some(), "no `param`: {text}");
    error
}

/// Asserts status and code of an answer that is an error of the gateway's.
pub(crate) fn assert_error(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(error_of(response)["code"], code);
}

/// Asserts that a request as the upstream got it is framed without any doubt, and that its
/// body is this one.
pub(crate) fn assert_framed(request: &Request, body: &[u8]) {
    let head = request.head();
    assert_eq!(request.headers("host").len(), 1, "{head}");
    assert_eq!(request.headers("content-length"), [body.len().to_string()], "{head}");
    assert_eq!(request.headers("transfer-encoding"), [""; 0], "{head}");
    assert_eq!(request.raw.len(), request.head_len + body.len(), "{head}");
    assert_eq!(&request.raw[request.head_len..], body, "{head}");
}

/// Waits until this holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "in vain waited until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A URL on which nobody listens: `tcpmux` is long dead, and its port is not given out.
pub(crate) fn refusing_url() -> String {
    "http://127.0.0.1:1".to_owned()
}

/// The samples of a page of metrics, by name and labels.
pub(crate) fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line:?}")))
        })
        .collect()
}
