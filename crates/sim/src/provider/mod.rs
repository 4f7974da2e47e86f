//! A simulated provider: one vendor's API with its own formats, checks and errors, its limits
//! hidden or shown, and replies that are scripted or made up. It is for tests of whatever
//! calls that vendor, and never a model.
//!
//! It shares no code with the translators of `paceline-dialect`: a rule that both had wrong
//! would hold in every test.

mod anthropic;
mod bedrock;
mod check;
mod error;
mod gemini;
mod limit;
mod metrics;
mod openai;
mod operation;
mod script;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::response::Response;
use axum::serve::ListenerExt;
use paceline_core::Clock;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::config::{Config, ConfigError};
use crate::fault::{FAULT_HEADER, Faults, Mishap};
use crate::text::{Vocabulary, mix};
use limit::{Limit, Limits};
use operation::Operation;
use script::{Asked, Say, Script};

/// Whose API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// OpenAI's: chat completions, responses, embeddings, completions, models.
    OpenAi,
    /// Anthropic's: messages, count_tokens, models.
    Anthropic,
    /// Google's Gemini API: generateContent, streamGenerateContent, models.
    Gemini,
    /// Amazon Bedrock's: converse, converse-stream.
    Bedrock,
}

impl Vendor {
    /// All, with their names.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::OpenAi, "openai"),
        (Self::Anthropic, "anthropic"),
        (Self::Gemini, "gemini"),
        (Self::Bedrock, "bedrock"),
    ];
}

/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Answers of responses that are stored.
const STORED_MAX: usize = 1000;

/// A provider that listens but does not answer yet; [`run`](Self::run) makes it.
pub struct Provider {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<Simulated>,
}

struct Simulated {
    vendor: Vendor,
    config: Config,
    script: Script,
    faults: Faults,
    limits: Arc<Mutex<Limits>>,
    words: Vocabulary,
    clock: Clock,
    number: AtomicU64,
    stored: Mutex<HashMap<String, (Value, Value)>>,
    answers: metrics::Answers,
}

impl Provider {
    /// Opens the port.
    ///
    /// # Errors
    /// When the script, a limit or a fault is not understood, or the port is taken.
    pub async fn bind(vendor: Vendor, config: &Config) -> Result<Self, ConfigError> {
        let script = match &config.script {
            None => Script::default(),
            Some(path) => Script::load(Path::new(path))
                .map_err(|why| ConfigError::Script { path: path.clone(), why })?,
        };
        let read = |text: &String| {
            Limit::parse(text).map_err(|why| ConfigError::Limit { limit: text.clone(), why })
        };
        let limits = config.limits.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let clock = Clock::real();
        let listener = TcpListener::bind(&config.listen).await;
        let bad = |source| ConfigError::Listen { address: config.listen.clone(), source };
        let listener = listener.map_err(bad)?;
        let address = listener.local_addr().map_err(bad)?;
        let state = Arc::new(Simulated {
            vendor,
            script,
            faults: Faults::parse(&config.faults)?,
            limits: Arc::new(Mutex::new(Limits::new(limits, clock.now()))),
            words: Vocabulary::new(4),
            clock,
            number: AtomicU64::new(0),
            stored: Mutex::default(),
            answers: metrics::Answers::default(),
            config: config.clone(),
        });
        Ok(Self { listener, address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready; open answers may then go on for a second.
    ///
    /// # Cancel safety
    /// Dropping the future stops it.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self.state);
        let listener = self.listener.tap_io(|socket| {
            // Tokens are small and must not wait for more to be sent.
            let _ = socket.set_nodelay(true);
        });
        let served = async move {
            // It ends only with its task.
            let _ = axum::serve(listener, router).await;
        };
        tokio::select! {
            () = served => {}
            () = shutdown => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What a request gets.
enum Outcome {
    /// JSON at once.
    Whole(Value),
    /// Pieces, each after its time; `cut` breaks the connection in their place.
    Pieces { kind: &'static str, pieces: Vec<Vec<u8>> },
}

async fn answer(
    State(provider): State<Arc<Simulated>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let vendor = provider.vendor;
    // No vendor has this path.
    if method == Method::GET && uri.path() == "/metrics" {
        return provider.answers.response();
    }
    let mut response = match provider.respond(&method, &uri, &headers, &body).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(vendor),
    };
    provider.answers.count(response.status());
    let id = HeaderValue::try_from(provider.id()).unwrap_or(HeaderValue::from_static("0"));
    let name = match vendor {
        Vendor::Anthropic => "request-id",
        Vendor::Bedrock => "x-amzn-requestid",
        _ => "x-request-id",
    };
    response.headers_mut().insert(HeaderName::from_static(name), id);
    // Nobody must take this for the vendor.
    response.headers_mut().insert(SERVER, HeaderValue::from_static("paceline-sim"));
    response
}

use error::Refusal;

impl Simulated {
    fn id(&self) -> String {
        format!("{:016x}", mix(self.config.seed ^ self.number.load(Ordering::Relaxed)))
    }

    async fn respond(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let operation = Operation::of(self.vendor, method, uri)?;
        let key = self.check_key(uri, headers)?;
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let id = self.id();
        match &operation {
            Operation::Models => {
                let models = Operation::models(self.vendor, &self.config.model);
                return Ok(json_response(&models));
            }
            Operation::Stored { id, items } => return self.stored(method, id, *items),
            _ => {}
        }
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::invalid(format!("could not parse the JSON body: {error}")))?;
        let body = self.continued(&operation, body)?;
        let asked = operation.ask(&body).map_err(|wrong| Refusal::wrong(self.vendor, &wrong))?;
        let mut mishap = self.faults.draw(self.config.seed, number);
        if let Some(fault) = headers.get(FAULT_HEADER).and_then(|fault| fault.to_str().ok()) {
            mishap.add_header(fault).map_err(|error| Refusal::invalid(error.to_string()))?;
        }
        if let Some(status) = mishap.status {
            return Err(Refusal::status(status));
        }
        let tokens = asked.prompt_bytes as f64 / 4.0 + asked.max_tokens.unwrap_or(512) as f64;
        let (left, permit) = self.enter(&key, &asked.model, tokens)?;
        let seed = mix(self.config.seed ^ xxhash_rust::xxh3::xxh3_64(body.to_string().as_bytes()));
        let say = self.script.reply(&asked, seed, &self.words);
        self.store(&operation, &body, &say, &asked, &id);
        let outcome = operation.tell(&body, &say, &asked, &id);
        let mut response = self.timed(outcome, &say, mishap, permit).await;
        error::show(self.vendor, &left, response.headers_mut());
        Ok(response)
    }

    /// The key of a request, as it is told apart from others.
    fn check_key(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let query = uri.query().unwrap_or_default();
        let in_query = query.split('&').find_map(|pair| pair.strip_prefix("key="));
        let key = match self.vendor {
            Vendor::OpenAi => bearer,
            Vendor::Anthropic => text("x-api-key").or(bearer),
            Vendor::Gemini => text("x-goog-api-key").or(in_query).or(bearer),
            Vendor::Bedrock => {
                let signed = text("authorization").filter(|value| {
                    value.starts_with("AWS4-HMAC-SHA256 ") && value.contains("Signature=")
                });
                let credential = signed.and_then(|value| value.split("Credential=").nth(1));
                let dated = text("x-amz-date").is_some();
                credential.and_then(|value| value.split('/').next()).filter(|_| dated).or(bearer)
            }
        };
        let key = key.filter(|key| !key.is_empty()).ok_or_else(Refusal::no_key)?;
        if self.config.key.as_ref().is_some_and(|expected| expected != key) {
            return Err(Refusal::wrong_key());
        }
        if self.vendor == Vendor::Anthropic && text("anthropic-version").is_none() {
            return Err(Refusal::invalid("anthropic-version: header is required".to_owned()));
        }
        Ok(key.to_owned())
    }

    fn enter(
        &self,
        key: &str,
        model: &str,
        tokens: f64,
    ) -> Result<(Vec<limit::Left>, Permit), Refusal> {
        let now = self.clock.now();
        let mut limits = self.limits.lock();
        let left = limits.enter((key, model), tokens, now).map_err(Refusal::limited)?;
        let who = (key.to_owned(), model.to_owned());
        Ok((left, Permit { limits: Arc::clone(&self.limits), who }))
    }

    /// A request of responses with the stored conversation that it continues.
    fn continued(&self, operation: &Operation, body: Value) -> Result<Value, Refusal> {
        let Some(id) = body["previous_response_id"].as_str() else { return Ok(body) };
        if !matches!(operation, Operation::Responses) {
            return Ok(body);
        }
        match self.stored.lock().get(id) {
            Some((answer, input)) => Ok(openai::continued(&body, input, answer)),
            None => Err(Refusal::not_stored(id)),
        }
    }

    /// Keeps an answer of responses, where that is not forbidden.
    fn store(&self, operation: &Operation, body: &Value, say: &Say, asked: &Asked, id: &str) {
        if !matches!(operation, Operation::Responses) || body["store"] == false {
            return;
        }
        let answer = openai::responses_whole(say, asked, id);
        let mut stored = self.stored.lock();
        if stored.len() >= STORED_MAX {
            stored.clear();
        }
        stored.insert(format!("resp_{id}"), (answer, body["input"].clone()));
    }

    fn stored(&self, method: &Method, id: &str, items: bool) -> Result<Response, Refusal> {
        let mut stored = self.stored.lock();
        let Some((answer, input)) = stored.get(id) else {
            return Err(Refusal::not_found(format!("Response with id '{id}' not found.")));
        };
        let told = if method == Method::DELETE {
            stored.remove(id);
            json!({"id": id, "object": "response", "deleted": true})
        } else if items {
            let items = match input {
                Value::String(text) => json!([{
                    "id": "msg_in_0", "type": "message", "role": "user",
                    "content": [{"type": "input_text", "text": text}],
                }]),
                items => items.clone(),
            };
            json!({"object": "list", "data": items, "first_id": null, "last_id": null, "has_more": false})
        } else {
            answer.clone()
        };
        Ok(json_response(&told))
    }

    /// The answer at the pace of a model.
    async fn timed(&self, outcome: Outcome, say: &Say, mishap: Mishap, permit: Permit) -> Response {
        let config = &self.config;
        let pace =
            |ms: f64| Duration::from_secs_f64((ms / 1000.0 / config.speed).clamp(0.0, 3600.0));
        let each = pace(1000.0 / config.tokens_per_s.max(0.001));
        let first = pace(f64::from(config.first_token_ms)) + mishap.slow_first.unwrap_or_default();
        let (kind, mut pieces) = match outcome {
            Outcome::Whole(value) => {
                let tokens = u32::try_from(say.output).unwrap_or(u32::MAX);
                tokio::time::sleep(first + each * tokens).await;
                drop(permit);
                if mishap.cut.is_some() {
                    return broken(Vec::new());
                }
                return json_response(&value);
            }
            Outcome::Pieces { kind, pieces } => (kind, pieces),
        };
        if mishap.malformed && pieces.len() > 1 {
            pieces[1] = b"data: {\"no\": JSON\n\n".to_vec();
        }
        let cut = mishap.cut.map(|tokens| tokens as usize + 1);
        let mut at = 0;
        let stream = async_pieces(move || {
            let piece = if cut == Some(at) { Err(()) } else { Ok(pieces.get(at)?.clone()) };
            let stall = mishap.stall.filter(|_| at == 2).unwrap_or_default();
            let wait = if at == 0 { first } else { each } + stall;
            at += 1;
            // It counts as under way until its last piece.
            let _ = &permit;
            Some((wait, piece))
        });
        let mut response = Response::new(HttpBody::from_stream(stream));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

/// Pieces, each after its time; an error breaks the connection.
fn async_pieces(
    next: impl FnMut() -> Option<(Duration, Result<Vec<u8>, ()>)> + Send + 'static,
) -> impl futures_core::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    futures_util::stream::unfold(next, |mut next| async move {
        let (wait, piece) = next()?;
        tokio::time::sleep(wait).await;
        let piece = piece.map(Bytes::from).map_err(|()| std::io::Error::other("cut on demand"));
        Some((piece, next))
    })
}

fn broken(before: Vec<u8>) -> Response {
    let pieces = vec![Ok(Bytes::from(before)), Err(std::io::Error::other("cut on demand"))];
    Response::new(HttpBody::from_stream(futures_util::stream::iter(pieces)))
}

fn json_response(body: &Value) -> Response {
    let mut response = Response::new(HttpBody::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The place of a call among those at a time.
struct Permit {
    limits: Arc<Mutex<Limits>>,
    who: (String, String),
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.lock().leave((&self.who.0, &self.who.1));
    }
}

#[cfg(test)]
mod tests;
