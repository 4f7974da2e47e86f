//! The way to upstreams: proxies, certificates, and connections that are kept.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::tls::Certificates;
use testkit::{Gate, Nginx, Reply, Script};

use crate::http2::tls;
use crate::support::{
    Gateway, answer, assert_error, chat, deployment, eventually, piece, refusing_url, two_threads,
};

fn upstream() -> Script {
    Script::new().otherwise(Reply::json(200, &answer("there"))).start()
}

#[test]
fn plain_calls_go_through_a_proxy_with_their_whole_address() {
    let proxy = upstream();
    let address = proxy.url().replace("http://", "http://user:p%40ss@");
    let more = format!("proxy = \"{address}\"");
    let gateway = Gateway::configured("http://engine.invalid:9000/v1", &more);
    assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
    let seen = &proxy.requests()[0];
    let line = "POST http://engine.invalid:9000/v1/chat/completions HTTP/1.1";
    assert_eq!(seen.line(), line);
    assert_eq!(seen.header("host").as_deref(), Some("engine.invalid:9000"));
    assert_eq!(seen.header("proxy-authorization").as_deref(), Some("Basic dXNlcjpwQHNz"));
    assert!(!gateway.log().contains("p%40ss"), "{}", gateway.log());
}

/// A proxy that makes tunnels; gives the heads that it was sent, and its address.
fn tunnels() -> (Arc<Mutex<Vec<String>>>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, noted) = (client.unwrap(), Arc::clone(&noted));
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.extend_from_slice(&byte);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                noted.lock().unwrap().push(head);
                let Ok(server) = TcpStream::connect(&target) else {
                    client.write_all(b"HTTP/1.1 502 Bad\r\n\r\n").unwrap();
                    return;
                };
                client.write_all(b"HTTP/1.1 200 Fine\r\nVia: x\r\n\r\n").unwrap();
                let pipe = |mut from: TcpStream, mut to: TcpStream| {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                };
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || pipe(from, to));
                pipe(client, server);
            });
        }
    });
    (heads, address)
}

#[test]
fn calls_over_tls_go_through_a_tunnel() {
    let (upstream, certificates) = (upstream(), Certificates::new());
    let nginx = tls(&upstream, &certificates);
    let (heads, address) = tunnels();
    let port = nginx.ports()[0];
    let more = format!(
        "ca_file = \"{}\"\nproxy = \"{}\"",
        certificates.authority().display(),
        address.replace("http://", "http://u:p@")
    );
    let gateway = Gateway::configured(&format!("https://localhost:{port}"), &more);
    assert_eq!(gateway.call(&[], chat("a", "")).text(), answer("there"));
    let head = heads.lock().unwrap()[0].clone();
    let expected = format!(
        "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
    );
    assert_eq!(head, expected);
    // A proxy that cannot reach the upstream is named as what fails.
    let more = format!("proxy = \"{address}\"");
    let gateway = Gateway::configured("https://127.0.0.1:1", &more);
    let response = gateway.call(&[], chat("a", ""));
    assert_eq!(response.status, 502);
    assert!(response.text().contains("the proxy refuses a tunnel"), "{}", response.text());
}

#[test]
fn a_certificate_is_shown_to_an_upstream_that_asks_for_it() {
    let (upstream, server, client) = (upstream(), Certificates::new(), Certificates::new());
    let tls = format!(
        "[server]\ntls = {{ certificate = \"{}\", key = \"{}\", client_ca = \"{}\" }}\n",
        server.certificate().display(),
        server.key().display(),
        client.authority().display()
    );
    let config = deployment("engine", upstream.url(), "") + &tls;
    let strict = Gateway::start(two_threads().config(&config));
    let trusting = format!("ca_file = \"{}\"\n", server.authority().display());
    let showing = format!(
        "{trusting}client_certificate = \"{}\"\nclient_key = \"{}\"\n",
        client.certificate().display(),
        client.key().display()
    );
    let gateway = Gateway::configured(strict.url(), &showing);
    assert_eq!(gateway.call(&[], chat("a", "")).text(), answer("there"));
    let gateway = Gateway::configured(strict.url(), &trusting);
    assert_eq!(gateway.call(&[], chat("a", "")).status, 502);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn connections_are_there_before_the_first_call() {
    let upstream = upstream();
    let gateway = Gateway::configured(upstream.url(), "idle_connections_min = 6");
    eventually("six are open", || upstream.connections() == 6);
    eventually("and idle", || {
        gateway.metric(r#"paceline_upstream_connections_idle{upstream="up"}"#) == 6.0
    });
    assert_eq!(upstream.count(), 0);
    for _ in 0..10 {
        assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
    }
    assert_eq!(upstream.connections(), 6, "no call opened another");
}

#[test]
fn an_idle_connection_is_left_before_the_server_closes_it() {
    let head = [("Content-Type", "application/json"), ("Keep-Alive", "timeout=2, max=100")];
    let upstream = Script::new().otherwise(Reply::with_headers(200, &head, &answer("x"))).start();
    let gateway = Gateway::before(&upstream);
    let response = gateway.call(&[], chat("a", ""));
    assert_eq!((response.status, response.header("keep-alive")), (200, None));
    let idle = r#"paceline_upstream_connections_idle{upstream="upstream"}"#;
    let began = std::time::Instant::now();
    eventually("it is left", || gateway.metric(idle) == 0.0);
    assert!(began.elapsed().as_secs() < 20, "long before the usual 30 s");
}

#[test]
fn further_http2_connections_are_opened_when_streams_run_out() {
    let gate = Gate::new();
    let reply = Reply::new().wait_for(&gate).then(Reply::json(200, &answer("there")));
    let first = Reply::json(200, &answer("there"));
    let upstream = Script::new().reply(first).otherwise(reply).start();
    let certificates = Certificates::new();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let text = format!(
        "http2_max_concurrent_streams 2;
        server {{
            listen 127.0.0.1:{{port}} ssl http2;
            ssl_certificate {{dir}}/certificate.pem;
            ssl_certificate_key {{dir}}/key.pem;
            location / {{ proxy_pass {}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
        }}",
        upstream.url()
    );
    let nginx = Nginx::new(&text)
        .ports(1)
        .file("certificate.pem", read(certificates.certificate()))
        .file("key.pem", read(certificates.key()))
        .start();
    let url = format!("https://127.0.0.1:{}", nginx.ports()[0]);
    let ca = certificates.authority();
    let more = format!("ca_file = \"{}\"\nidle_expiry_ms = 200\n", ca.display());
    let gateway = Gateway::configured(&url, &more);
    assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
    std::thread::scope(|scope| {
        let call = || scope.spawn(|| gateway.call(&[], chat("a", "")).status);
        let calls: Vec<_> = (0..12).map(|_| call()).collect();
        // No call waits for the stream of another.
        upstream.wait_for_requests(13);
        gate.open();
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
    let opened = r#"paceline_upstream_connections_total{upstream="up",source="opened"}"#;
    assert!(gateway.metric(opened) >= 6.0, "{}", gateway.metric(opened));
    // What single calls do not need is closed: one for each of the two threads is left.
    let open = r#"paceline_upstream_connections_open{upstream="up"}"#;
    assert!(gateway.metric(open) >= 6.0);
    eventually("the others are closed", || {
        assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
        gateway.metric(open) <= 2.0
    });
}

#[test]
fn a_burst_opens_more_connections_and_closes_them_after() {
    let gate = Gate::new();
    let reply = Reply::new().wait_for(&gate).then(Reply::json(200, &answer("there")));
    let upstream = Script::new().otherwise(reply).start();
    let more = "idle_connections_max = 4\nidle_expiry_ms = 1500";
    let gateway = Gateway::configured(upstream.url(), more);
    let metric = |name: &str| {
        gateway.metric(&format!("paceline_upstream_connections_{name}{{upstream=\"up\"}}"))
    };
    std::thread::scope(|scope| {
        let call = || scope.spawn(|| gateway.call(&[], chat("a", "")).status);
        let calls: Vec<_> = (0..20).map(|_| call()).collect();
        upstream.wait_for_requests(20);
        assert_eq!((metric("open"), metric("idle")), (20.0, 0.0));
        gate.open();
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
    // Four of all threads together stay for the next calls, and these go when none come.
    eventually("the others are closed", || metric("open") <= 4.0);
    assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
    eventually("nothing is kept that is not used", || metric("open") == 0.0);
}

#[test]
fn a_server_that_does_not_finish_the_handshake_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let gateway = Gateway::configured(&url, "timeouts = { connect_ms = 200 }");
    let response = gateway.call(&[], chat("a", ""));
    assert_error(&response, 502, "upstream_unreachable");
    assert!(response.text().contains("in time"), "{}", response.text());
    gateway.wait_until_idle();
}

#[test]
fn an_answer_that_goes_on_for_ever_is_ended() {
    let event = format!("data: {}\n\n", piece("word"));
    let framed = format!("{:x}\r\n{event}\r\n", event.len());
    let reply = Reply::stream().for_ever(framed, Duration::from_millis(20));
    let upstream = Script::new().otherwise(reply).start();
    let more = "timeouts = { total_ms = 400, idle_ms = 300 }";
    let gateway = Gateway::configured(upstream.url(), more);
    let response = gateway.call(&[], chat("a", ",\"stream\":true"));
    let last = response.events().pop().unwrap();
    assert!(response.events().len() > 3, "it was heard until then");
    assert!(last.contains("upstream_timeout") && last.contains("took too long"), "{last}");
    upstream.wait_for_left(1);
    gateway.wait_until_idle();
}

#[test]
fn a_proxy_that_cannot_be_reached_is_the_failure_of_the_call() {
    let upstream = upstream();
    let proxy = refusing_url();
    let serve = two_threads().config(&deployment("up", "http://engine.invalid", ""));
    let serve = serve.env("HTTP_PROXY", &proxy).env("http_proxy", &proxy);
    let gateway = Gateway::start(serve);
    assert_error(&gateway.call(&[], chat("a", "")), 502, "upstream_unreachable");
    // What is named in NO_PROXY, and this machine, is reached all the same.
    let serve = two_threads().config(&deployment("up", upstream.url(), ""));
    let gateway = Gateway::start(serve.env("HTTP_PROXY", &proxy).env("http_proxy", &proxy));
    assert_eq!(gateway.call(&[], chat("a", "")).status, 200);
}
