//! Simulated replicas as servers, one port each, for anything that speaks HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use paceline_core::{Body, Clock, Reply};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::ApiError;
use crate::config::{Config, ConfigError};
use crate::local::Local;
use crate::shape::Shape;

/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How long open answers may go on after the end has been asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// Replicas that listen but do not answer yet; [`run`](Self::run) makes them.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    replicas: Vec<Local>,
}

impl Server {
    /// Opens the ports of all replicas and starts their engines, in real time.
    ///
    /// # Errors
    /// When the configuration is not valid or a port is taken.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and timers.
    pub async fn bind(config: &Config) -> Result<Self, ConfigError> {
        let shape = Shape::load(&config.shape)?;
        config.limits(&shape)?;
        let mut server =
            Self { listeners: Vec::new(), addresses: Vec::new(), replicas: Vec::new() };
        for i in 0..config.replicas {
            let (listener, address) = listen(&config.listen, i).await?;
            server.listeners.push(listener);
            server.addresses.push(address);
            server.replicas.push(Local::start(config, &shape, &Clock::real(), i)?);
        }
        Ok(server)
    }

    /// Where the replicas listen, in their order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The replicas, for their state.
    pub fn replicas(&self) -> &[Local] {
        &self.replicas
    }

    /// Serves until `shutdown` is ready; open answers may then go on for ten seconds.
    ///
    /// # Cancel safety
    /// Dropping the future stops accepting.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(());
        let servers: Vec<_> = self
            .listeners
            .into_iter()
            .zip(self.replicas)
            .enumerate()
            .map(|(i, (listener, local))| {
                let mut stopped = stopped.clone();
                let stopped = async move {
                    // An error means that the sender is gone, which says the same.
                    let _ = stopped.changed().await;
                };
                let listener = listener.tap_io(|socket| {
                    // Tokens are small and must not wait for more to be sent.
                    let _ = socket.set_nodelay(true);
                });
                let serve = axum::serve(listener, router(Replica { local, number: i }));
                paceline_telemetry::task::spawn("sim server", async move {
                    serve.with_graceful_shutdown(stopped).await
                })
            })
            .collect();
        shutdown.await;
        drop(stop);
        let all = async {
            for server in servers {
                // A server's task ends without an error, and a panic has been logged.
                let _ = server.await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, all).await;
    }
}

async fn listen(base: &str, replica: u32) -> Result<(TcpListener, SocketAddr), ConfigError> {
    let bad = |source| ConfigError::Listen { address: base.to_owned(), source };
    let mut address: SocketAddr = match tokio::net::lookup_host(base).await.map_err(bad)?.next() {
        Some(address) => address,
        None => return Err(bad(std::io::ErrorKind::AddrNotAvailable.into())),
    };
    if address.port() != 0 {
        let port = u32::from(address.port()) + replica;
        let port = u16::try_from(port).map_err(|_| {
            bad(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the ports go beyond 65535"))
        })?;
        address.set_port(port);
    }
    let bad = |source| ConfigError::Listen { address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(bad)?;
    let bound = listener.local_addr().map_err(bad)?;
    Ok((listener, bound))
}

#[derive(Clone, Debug)]
struct Replica {
    local: Local,
    number: usize,
}

fn router(replica: Replica) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/health", get(async || StatusCode::OK))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::map_response(sign))
        .with_state(replica)
}

/// Nobody must take this for a real engine.
async fn sign(mut response: Response) -> Response {
    response.headers_mut().insert(SERVER, HeaderValue::from_static("paceline-sim"));
    response
}

async fn chat(
    State(replica): State<Replica>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let mut error = ApiError::invalid("", rejection.body_text());
            error.status = rejection.status();
            return error_response(&error);
        }
    };
    match replica.local.chat(&headers, &body).await {
        Ok(Reply { status, headers, body, .. }) => {
            let body = match body {
                Body::Whole(bytes) => HttpBody::from(bytes),
                Body::Events(chunks) | Body::Bytes(chunks, _) => HttpBody::from_stream(chunks),
            };
            let mut response = Response::new(body);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        }
        // A body that fails breaks the connection.
        Err(error) => {
            let broken = futures_util::stream::once(std::future::ready(Err::<Bytes, _>(error)));
            Response::new(HttpBody::from_stream(broken))
        }
    }
}

async fn models(State(replica): State<Replica>) -> Response {
    let model = serde_json::json!({
        "id": replica.local.model(),
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "paceline-sim",
        "max_model_len": replica.local.engine().tokens_max(),
        "note": "a simulated engine: times follow a model of an engine, texts mean nothing",
    });
    json_response(serde_json::json!({"object": "list", "data": [model]}).to_string())
}

async fn metrics(State(replica): State<Replica>) -> Response {
    let text = replica.local.engine().metrics_text(replica.local.model(), replica.number);
    let mut response = Response::new(HttpBody::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn not_found(uri: Uri) -> Response {
    let mut error = ApiError::invalid("", format!("There is no path {}.", uri.path()));
    error.status = StatusCode::NOT_FOUND;
    error_response(&error)
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let mut error = ApiError::invalid("", format!("{method} is not allowed on {}.", uri.path()));
    error.status = StatusCode::METHOD_NOT_ALLOWED;
    error_response(&error)
}

fn error_response(error: &ApiError) -> Response {
    let body = String::from_utf8(error.body()).unwrap_or_default();
    let mut response = json_response(body);
    *response.status_mut() = error.status;
    response
}

fn json_response(body: String) -> Response {
    let mut response = Response::new(HttpBody::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
