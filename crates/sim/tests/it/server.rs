//! The OpenAI API, the engine's metrics and broken connections, as a client sees them.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use paceline_core::{Body, Clock};
use paceline_sim::{Config, Local, Server, Shape};
use paceline_telemetry::task;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Runs servers around a test and checks that they end.
async fn with_servers<F: Future>(config: Config, main: impl FnOnce(Vec<SocketAddr>) -> F) {
    let server =
        Server::bind(&Config { listen: "127.0.0.1:0".to_owned(), ..config }).await.unwrap();
    let addresses = server.addresses().to_vec();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = task::spawn(
        "test server",
        server.run(async {
            let _ = stopped.await;
        }),
    );
    main(addresses).await;
    drop(stop);
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    try_send(address, request).await.unwrap()
}

async fn try_send(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    task::spawn("test connection", async move {
        let _ = connection.await;
    });
    sender.send_request(request).await
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "sim").body(Full::default()).unwrap()
}

fn post(body: &Value, fault: &str) -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header("host", "sim")
        .header("x-sim-fault", fault)
        .body(Full::from(body.to_string()))
        .unwrap()
}

fn chat(stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream,
           "max_tokens": 20, "ignore_eos": true})
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn replicas_answer_on_their_own_ports() {
    let config = Config { replicas: 2, speed: 100.0, model: "tiny\"".into(), ..Config::default() };
    with_servers(config, async |addresses| {
        for (i, address) in addresses.iter().enumerate() {
            let response = send(*address, post(&chat(i == 0), "")).await;
            assert_eq!(
                (response.status(), &response.headers()["server"]),
                (StatusCode::OK, &"paceline-sim".parse().unwrap())
            );
            let body = text(response).await;
            assert!(body.contains("\"finish_reason\":\"length\""), "{body}");
            assert_eq!(body.ends_with("data: [DONE]\n\n"), i == 0);
            let models: Value =
                serde_json::from_str(&text(send(*address, get("/v1/models")).await).await).unwrap();
            assert_eq!(models["data"][0]["owned_by"], "paceline-sim");
            assert_eq!(send(*address, get("/health")).await.status(), StatusCode::OK);
            let metrics = text(send(*address, get("/metrics")).await).await;
            let labels = format!("model_name=\"tiny\\\"\",engine=\"{i}\"");
            for line in [
                format!("vllm:num_requests_running{{{labels}}} 0"),
                format!("vllm:num_requests_waiting{{{labels}}} 0"),
                format!("vllm:kv_cache_usage_perc{{{labels}}} 0"),
                format!("vllm:num_preemptions_total{{{labels}}} 0"),
                format!("vllm:prefix_cache_queries_total{{{labels}}} 10"),
                format!("vllm:prefix_cache_hits_total{{{labels}}} 0"),
                format!("vllm:prompt_tokens_total{{{labels}}} 10"),
                format!("vllm:generation_tokens_total{{{labels}}} 20"),
                format!("vllm:request_success_total{{{labels},finished_reason=\"length\"}} 1"),
                format!("vllm:time_to_first_token_seconds_count{{{labels}}} 1"),
                format!("vllm:inter_token_latency_seconds_count{{{labels}}} 19"),
                format!("vllm:e2e_request_latency_seconds_count{{{labels}}} 1"),
                format!("vllm:request_queue_time_seconds_bucket{{{labels},le=\"0.3\"}} 1"),
                format!("vllm:iteration_tokens_total_count{{{labels}}} 20"),
                format!("vllm:iteration_tokens_total_sum{{{labels}}} 29"),
            ] {
                assert!(metrics.lines().any(|l| l == line), "{line} is not in:\n{metrics}");
            }
            assert!(metrics.contains("kv_cache_size_tokens=\"426784\""), "{metrics}");
        }
    })
    .await;
}

#[tokio::test]
async fn errors_are_json() {
    with_servers(Config::default(), async |addresses| {
        let check = async |request: Request<Full<Bytes>>, status: u16| {
            let response = send(addresses[0], request).await;
            assert_eq!(response.status().as_u16(), status);
            let body: Value = serde_json::from_str(&text(response).await).unwrap();
            assert!(body["error"]["message"].is_string(), "{body}");
        };
        check(get("/v1/nothing"), 404).await;
        check(get("/v1/chat/completions"), 405).await;
        check(post(&json!({}), ""), 400).await;
        check(post(&chat(true), "429"), 429).await;
        let mut large = post(&json!({}), "");
        *large.body_mut() = Full::from(vec![b' '; (64 << 20) + 1]);
        // The server may answer or break off while the body is still on its way.
        if let Ok(response) = try_send(addresses[0], large).await {
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_breaks_the_connection() {
    with_servers(Config { speed: 100.0, ..Config::default() }, async |addresses| {
        for stream in [true, false] {
            // A document breaks before its head is out.
            match try_send(addresses[0], post(&chat(stream), "cut=2")).await {
                Ok(response) => assert!(response.into_body().collect().await.is_err()),
                Err(_) => assert!(!stream),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let server = Server::bind(&Config { listen: "127.0.0.1:0".to_owned(), ..Config::default() })
        .await
        .unwrap();
    let (address, local) = (server.addresses()[0], server.replicas()[0].clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = task::spawn(
        "test server",
        server.run(async {
            let _ = stopped.await;
        }),
    );
    for stream in [true, false] {
        let mut body = chat(stream);
        body["max_tokens"] = json!(100_000);
        let client = task::spawn("test client", async move {
            let response = send(address, post(&body, "")).await;
            let _ = response.into_body().collect().await;
        });
        eventually(|| local.engine().stats().running == 1).await;
        client.abort();
        let _ = client.await;
        eventually(|| local.engine().stats().kv_blocks_used == 0).await;
    }
    assert_eq!(local.engine().stats().cancelled, 2);
    drop((stop, local));
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

/// Waits for a condition on a server in real time, within five seconds.
async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..5000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not come about");
}

/// On several threads, with clients that come and go: no answer is lost or mixed up, and
/// all blocks come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_on_many_threads() {
    let config = Config { speed: 1000.0, kv_tokens: Some(4096), ..Config::default() };
    let local =
        Local::start(&config, &Shape::load("llama3.2-1b").unwrap(), &Clock::real(), 0).unwrap();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let local = local.clone();
            task::spawn("test client", async move {
                for i in 0..50u32 {
                    let text = format!("{client} {i} {}", "x".repeat(37 * i as usize));
                    let body = json!({"model": "m", "stream": true, "max_tokens": 1 + i * 3,
                        "messages": [{"role": "user", "content": text}], "ignore_eos": true,
                        "stream_options": {"include_usage": true}});
                    let reply = local.chat(&HeaderMap::new(), body.to_string().as_bytes()).await;
                    let Body::Events(mut events) = reply.unwrap().body else { panic!("no stream") };
                    let mut text = String::new();
                    while let Some(item) = events.next().await {
                        text.push_str(std::str::from_utf8(&item.unwrap()).unwrap());
                        if (client + i) % 4 == 0 {
                            break;
                        }
                    }
                    if (client + i) % 4 > 0 {
                        let usage = format!("\"completion_tokens\":{}", 1 + i * 3);
                        assert!(
                            text.contains(&usage) && text.ends_with("data: [DONE]\n\n"),
                            "{text}"
                        );
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    eventually(|| local.engine().stats().kv_blocks_used == 0).await;
    let stats = local.engine().stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert!(stats.finished >= 300, "{stats:?}");
}

#[tokio::test]
async fn http2_without_tls() {
    with_servers(Config { speed: 100.0, ..Config::default() }, async |addresses| {
        let stream = TcpStream::connect(addresses[0]).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        task::spawn("test connection", async move {
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}/v1/chat/completions", addresses[0]))
            .body(Full::<Bytes>::from(chat(true).to_string()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(text(response).await.ends_with("data: [DONE]\n\n"));
    })
    .await;
}

#[tokio::test]
async fn ports_follow_each_other_and_collisions_are_named() {
    let first =
        Server::bind(&Config { listen: "127.0.0.1:0".into(), ..Config::default() }).await.unwrap();
    let listen = first.addresses()[0].to_string();
    let error =
        Server::bind(&Config { listen: listen.clone(), ..Config::default() }).await.unwrap_err();
    assert!(error.to_string().contains(&listen), "{error}");
}
