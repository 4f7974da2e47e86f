//! HTTP/2 on both sides, and TLS to upstreams.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use testkit::tls::Certificates;
use testkit::{Gate, Nginx, Reply, Script, Sim};

use crate::support::{
    CHAT, Gateway, PATIENCE, answer, assert_error, chat, deployment, error_of, finish, piece,
    two_threads,
};

/// Starts hyper's tasks on the test's runtime.
#[derive(Clone)]
struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        paceline_telemetry::task::spawn("test.http2_stream", future);
    }
}

type Client = SendRequest<Full<Bytes>>;

fn on_a_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
}

/// Connects with prior knowledge.
async fn connect(gateway: &Gateway) -> Client {
    let tcp = tokio::net::TcpStream::connect(gateway.addr()).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(Tasks, TokioIo::new(tcp)).await.unwrap();
    paceline_telemetry::task::spawn("test.http2", async move {
        let _ = connection.await;
    });
    client
}

fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://gateway{CHAT}"))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn clients_may_speak_http2() {
    let upstream = Script::new()
        .respond(|request| {
            if request.text().contains("\"stream\":true") {
                return Reply::sse(&[&piece("one"), &finish()]);
            }
            Reply::json(200, &request.text())
        })
        .start();
    let gateway = Gateway::before(&upstream);
    on_a_runtime(async {
        let mut client = connect(&gateway).await;
        // Many at once on one connection.
        let calls: Vec<_> = (0..100)
            .map(|n| {
                let body = chat(&format!("number {n}"), "");
                (client.send_request(post(body.clone())), body)
            })
            .collect();
        for (response, body) in calls {
            let response = response.await.unwrap();
            assert_eq!(
                (response.status().as_u16(), response.version()),
                (200, http::Version::HTTP_2)
            );
            assert!(response.headers().contains_key("x-paceline-call"));
            assert!(!response.headers().contains_key("connection"));
            assert_eq!(text(response).await, body);
        }
        let streamed = client.send_request(post(chat("a", ",\"stream\":true"))).await.unwrap();
        let expected = [piece("one"), finish(), "[DONE]".to_owned()];
        let expected: String = expected.iter().map(|data| format!("data: {data}\n\n")).collect();
        assert_eq!(text(streamed).await, expected);
        let wrong = client.send_request(post("no json")).await.unwrap();
        assert_eq!(wrong.status(), 400);
        let nowhere = Request::builder().uri("http://gateway/nowhere").body(Full::default());
        assert_eq!(client.send_request(nowhere.unwrap()).await.unwrap().status(), 404);
    });
    for request in upstream.requests() {
        crate::support::assert_framed(&request, &request.body);
        assert_eq!(request.header("host"), Some(upstream.addr().to_string()));
    }
    assert_eq!(upstream.count(), 101);
    gateway.wait_until_idle();
}

#[test]
fn a_body_over_the_limit_ends_one_stream_only() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let config = deployment("up", upstream.url(), "") + "[server]\nbody_bytes_max = 1000\n";
    let gateway = Gateway::start(two_threads().config(&config));
    on_a_runtime(async {
        let mut client = connect(&gateway).await;
        let refused = client.send_request(post(vec![b' '; 1001])).await.unwrap();
        assert_eq!(refused.status(), 413);
        assert!(text(refused).await.contains("body_too_large"));
        let good = client.send_request(post(chat("a", ""))).await.unwrap();
        assert_eq!(good.status(), 200);
    });
}

#[test]
fn a_stream_that_the_client_resets_is_cancelled_alone() {
    let gate = Gate::new();
    let endless = Reply::stream().event(&piece("one")).wait_for(&Gate::new());
    let other = Reply::stream().event(&piece("one")).wait_for(&gate).event(&finish()).end();
    let waiting = Reply::new().wait_for(&Gate::new());
    let upstream = Script::new().reply(endless).reply(other).reply(waiting).start();
    let gateway = Gateway::before(&upstream);
    on_a_runtime(async {
        let mut client = connect(&gateway).await;
        let body = chat("a", ",\"stream\":true");
        let first = client.send_request(post(body.clone())).await.unwrap();
        let second = client.send_request(post(body)).await.unwrap();
        let third = client.send_request(post(chat("b", "")));
        let mut body = first.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let wait = tokio::task::spawn_blocking(move || (upstream.wait_for_requests(3), upstream).1);
        let upstream = wait.await.unwrap();
        drop((body, third));
        let wait = tokio::task::spawn_blocking(move || (upstream.wait_for_left(2), upstream).1);
        let _upstream = wait.await.unwrap();
        gate.open();
        assert!(text(second).await.contains("stop"));
    });
    gateway.wait_for_metric(r#"paceline_requests_total{outcome="cancelled"}"#, 2.0);
    gateway.wait_for_metric(r#"paceline_requests_total{outcome="answered"}"#, 1.0);
    gateway.wait_until_idle();
}

#[test]
fn an_upstream_may_speak_http2_without_tls() {
    let sim = Sim::new().arg("--speed").arg("1000").start();
    let gateway = Gateway::configured(sim.url(), "http2 = \"always\"");
    let calls: Vec<_> = (0..50)
        .map(|n| gateway.begin(&[], chat(&format!("{n}"), ",\"max_tokens\":20,\"stream\":true")))
        .collect();
    for mut call in calls {
        let response = call.response();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    }
    let whole = gateway.call(&[], chat("x", ",\"max_tokens\":5"));
    assert_eq!(whole.status, 200, "{}", whole.text());
    let bad = gateway.call(&[], chat("x", ",\"temperature\":9"));
    assert_eq!(bad.status, 400);
    // One connection a thread carries them all.
    let open = gateway.metric(r#"paceline_upstream_connections_open{upstream="up"}"#);
    assert!((1.0..=2.0).contains(&open), "{open}");
    let cut =
        gateway.call(&[("x-sim-fault", "cut=3")], chat("x", ",\"max_tokens\":20,\"stream\":true"));
    assert!(cut.text().contains("upstream_broken"), "{}", cut.text());
    gateway.wait_until_idle();
}

#[test]
fn an_upstream_that_speaks_http1_only_is_told_apart() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let gateway = Gateway::configured(upstream.url(), "http2 = \"always\"");
    let response = gateway.call(&[], chat("a", ""));
    assert_eq!(response.status, 502, "{}", response.text());
    gateway.wait_until_idle();
}

/// nginx with TLS before a scripted upstream: HTTP/2 on its first port, HTTP/1.1 on the
/// second one.
pub(crate) fn tls(upstream: &Script, certificates: &Certificates) -> Nginx {
    let read = |path: std::path::PathBuf| std::fs::read(path).unwrap();
    let text = format!(
        "server {{
            listen 127.0.0.1:{{port}} ssl http2;
            listen 127.0.0.1:{{port2}} ssl;
            ssl_certificate {{dir}}/certificate.pem;
            ssl_certificate_key {{dir}}/key.pem;
            location / {{
                add_header x-protocol $server_protocol always;
                proxy_pass {};
                proxy_http_version 1.1;
                proxy_set_header Connection \"\";
                proxy_buffering off;
            }}
        }}",
        upstream.url()
    );
    Nginx::new(&text)
        .ports(2)
        .file("certificate.pem", read(certificates.certificate()))
        .file("key.pem", read(certificates.key()))
        .start()
}

#[test]
fn tls_takes_the_version_that_both_speak() {
    let upstream = Script::new().otherwise(Reply::json(200, &answer("safe"))).start();
    let certificates = Certificates::new();
    let nginx = tls(&upstream, &certificates);
    let ca = format!("ca_file = \"{}\"\n", certificates.authority().display());
    let check = |host: &str, port: usize, http2: &str, expected: &str| {
        let url = format!("https://{host}:{}", nginx.ports()[port]);
        let gateway = Gateway::configured(&url, &format!("{ca}http2 = \"{http2}\""));
        for _ in 0..3 {
            let response = gateway.call(&[], chat("a", ""));
            assert_eq!((response.status, response.text()), (200, answer("safe")), "{http2}");
            assert_eq!(response.header("x-protocol"), Some(expected), "{host} {port} {http2}");
        }
    };
    check("127.0.0.1", 0, "auto", "HTTP/2.0");
    check("localhost", 0, "auto", "HTTP/2.0");
    check("127.0.0.1", 0, "never", "HTTP/1.1");
    check("127.0.0.1", 0, "always", "HTTP/2.0");
    check("127.0.0.1", 1, "auto", "HTTP/1.1");
    check("127.0.0.1", 1, "never", "HTTP/1.1");
}

#[test]
fn streams_and_disconnects_pass_through_tls() {
    let upstream = Script::new()
        .reply(Reply::sse(&[&piece("one"), &finish()]))
        .otherwise(Reply::stream().event(&piece("one")).wait_for(&Gate::new()))
        .start();
    let certificates = Certificates::new();
    let nginx = tls(&upstream, &certificates);
    let ca = format!("ca_file = \"{}\"\n", certificates.authority().display());
    let url = format!("https://127.0.0.1:{}", nginx.ports()[0]);
    let gateway = Gateway::configured(&url, &ca);
    let response = gateway.call(&[], chat("a", ",\"stream\":true"));
    assert_eq!(response.header("x-protocol"), Some("HTTP/2.0"));
    assert_eq!(response.events(), [piece("one"), finish(), "[DONE]".to_owned()]);
    let mut call = gateway.begin(&[], chat("a", ",\"stream\":true"));
    assert_eq!(call.head().status, 200);
    assert!(call.piece().is_some());
    drop(call);
    upstream.wait_for_left(1);
    gateway.wait_until_idle();
}

#[test]
fn a_certificate_that_is_not_trusted_is_named() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let certificates = Certificates::new();
    let nginx = tls(&upstream, &certificates);
    let url = format!("https://127.0.0.1:{}", nginx.ports()[0]);
    let other = Certificates::new();
    for ca in [String::new(), format!("ca_file = \"{}\"", other.authority().display())] {
        let gateway = Gateway::configured(&url, &ca);
        let response = gateway.call(&[], chat("a", ""));
        assert_error(&response, 502, "upstream_unreachable");
        let message = error_of(&response)["message"].as_str().unwrap().to_owned();
        assert!(message.contains("certificate"), "{message}");
        assert!(message.contains("ca_file"), "{message}");
    }
    // A name that the certificate does not have.
    let ca = format!("ca_file = \"{}\"", certificates.authority().display());
    let url = format!("https://127.0.0.2:{}", nginx.ports()[0]);
    let gateway = Gateway::configured(&url, &format!("{ca}\ntimeouts = {{ connect_ms = 3000 }}"));
    assert_error(&gateway.call(&[], chat("a", "")), 502, "upstream_unreachable");
    // Plain HTTP on the other side.
    let plain = format!("https://{}", upstream.addr());
    let gateway = Gateway::configured(&plain, "");
    assert_error(&gateway.call(&[], chat("a", "")), 502, "upstream_unreachable");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn http2_is_not_forced_upon_a_server_without_it() {
    let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
    let certificates = Certificates::new();
    let nginx = tls(&upstream, &certificates);
    let url = format!("https://127.0.0.1:{}", nginx.ports()[1]);
    let more = format!("ca_file = \"{}\"\nhttp2 = \"always\"", certificates.authority().display());
    let gateway = Gateway::configured(&url, &more);
    let response = gateway.call(&[], chat("a", ""));
    assert_eq!(response.status, 502, "{}", response.text());
    gateway.wait_until_idle();
}
