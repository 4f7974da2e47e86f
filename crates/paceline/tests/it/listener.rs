//! The listener: TLS, and the bounds of what clients may do to it.

use std::path::PathBuf;
use std::process::Command;

use testkit::http::{self, Connection};
use testkit::tls::Certificates;
use testkit::{Reply, Script, clients};

use crate::support::{Gateway, answer, chat, deployment, eventually, two_threads};

fn upstream() -> Script {
    Script::new().otherwise(Reply::json(200, &answer("safe"))).start()
}

fn start(upstream: &Script, server: &str) -> Gateway {
    let config = deployment("up", upstream.url(), "") + "[server]\n" + server;
    Gateway::start(two_threads().config(&config))
}

fn tls(certificates: &Certificates, more: &str) -> String {
    let shown = |path: PathBuf| path.display().to_string();
    let (certificate, key) = (shown(certificates.certificate()), shown(certificates.key()));
    format!("tls = {{ certificate = \"{certificate}\", key = \"{key}\"{more} }}\n")
}

/// What an OpenAI client gets that trusts an authority, and shows what it has.
fn called(gateway: &Gateway, trusted: &Certificates, shown: Option<&Certificates>) -> String {
    let path = |path: PathBuf| path.display().to_string();
    let mut environment =
        vec![("BASE_URL", gateway.url().to_owned()), ("CA", path(trusted.authority()))];
    if let Some(shown) = shown {
        environment.push(("CERT", path(shown.certificate())));
        environment.push(("KEY", path(shown.key())));
    }
    let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    clients::python("openai_tls.py", &environment).trim().to_owned()
}

#[test]
fn clients_may_call_over_tls() {
    let (upstream, own, other) = (upstream(), Certificates::new(), Certificates::new());
    let gateway = start(&upstream, &tls(&own, ""));
    assert!(gateway.url().starts_with("https://"), "{}", gateway.url());
    assert_eq!(called(&gateway, &own, None), "safe");
    assert_eq!(called(&gateway, &other, None), "refused");
}

#[test]
fn a_new_certificate_is_taken_up() {
    let (upstream, own, new) = (upstream(), Certificates::new(), Certificates::new());
    let gateway = start(&upstream, &tls(&own, ""));
    assert_eq!(called(&gateway, &own, None), "safe");
    // A key that does not belong to it changes nothing.
    std::fs::copy(new.certificate(), own.certificate()).unwrap();
    hang_up(&gateway);
    eventually("it is told that the files do not fit", || gateway.log().contains("keeps its old"));
    assert_eq!(called(&gateway, &own, None), "safe");
    std::fs::copy(new.key(), own.key()).unwrap();
    hang_up(&gateway);
    eventually("it is told that they were read", || gateway.log().contains("was read again"));
    assert_eq!(called(&gateway, &new, None), "safe");
    assert_eq!(called(&gateway, &own, None), "refused");
}

fn hang_up(gateway: &Gateway) {
    let status = Command::new("kill").arg("-HUP").arg(gateway.pid().to_string()).status();
    assert!(status.unwrap().success());
}

#[test]
fn clients_may_have_to_show_certificates() {
    let (upstream, own, clients, stranger) =
        (upstream(), Certificates::new(), Certificates::new(), Certificates::new());
    let ca = format!(", client_ca = \"{}\"", clients.authority().display());
    let gateway = start(&upstream, &tls(&own, &ca));
    assert_eq!(called(&gateway, &own, Some(&clients)), "safe");
    assert_eq!(called(&gateway, &own, Some(&stranger)), "refused");
    assert_eq!(called(&gateway, &own, None), "refused");
    assert!(upstream.count() == 1);
    let gateway = start(&upstream, &tls(&own, &format!("{ca}, client_required = false")));
    assert_eq!(called(&gateway, &own, None), "safe");
    assert_eq!(called(&gateway, &own, Some(&stranger)), "refused");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let (own, other) = (Certificates::new(), Certificates::new());
    let config = format!(
        "[server.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        own.certificate().display(),
        other.key().display()
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("paceline.toml");
    let check = |config: &str, expected: &str| {
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(testkit::tools::paceline());
        let output = command.args(["config", "check"]).arg(&path).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(expected), "{text}");
        assert!(text.contains("paceline.toml:"), "{text}");
    };
    check(&config, "the certificate");
    check(&config.replace("certificate.pem", "nothing.pem"), "nothing.pem");
}

#[test]
fn further_connections_are_closed_at_once() {
    let upstream = upstream();
    // Two threads have two each, and the kernel spreads them by chance.
    let gateway = start(&upstream, "connections_max = 4\n");
    let mut held: Vec<_> = (0..50).map(|_| Connection::to(gateway.url())).collect();
    eventually("those beyond four are closed", || {
        let soon = std::time::Duration::from_millis(2);
        held.retain_mut(|connection| !connection.closes_within(soon));
        held.len() <= 4
    });
    drop(held);
    eventually("there is room again", || {
        std::panic::catch_unwind(|| http::get(&gateway.at("/health")).status == 200)
            .unwrap_or(false)
    });
    assert!(gateway.metric(r#"paceline_refused_total{reason="connections"}"#) >= 1.0);
}

#[test]
fn what_is_turned_away_is_counted() {
    let upstream = upstream();
    let gateway = start(&upstream, "body_bytes_max = 1000\nhead_bytes_max = 8192\n");
    assert_eq!(gateway.call(&[], chat(&"x".repeat(2000), "")).status, 413);
    let refused =
        |reason: &str| gateway.metric(&format!("paceline_refused_total{{reason=\"{reason}\"}}"));
    assert_eq!(refused("body_too_large"), 1.0);
    let long = "x".repeat(10_000);
    let response = gateway.call(&[("x-long", &long)], chat("a", ""));
    assert_eq!(response.status, 431);
    assert_eq!(upstream.count(), 0);
}
