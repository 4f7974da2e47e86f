//! The SDKs of OpenAI, Anthropic and Vercel, unchanged, against a whole gateway.

use testkit::{Paceline, Reply, Script, Sim, clients};

use crate::support::{Gateway, deployment, finish, once, piece, two_threads};

const KEY: &str = "key-of-the-sdk-tests";

/// Runs both SDKs; each script ends at the first point that does not hold.
fn both(gateway: &Gateway, environment: &[(&str, &str)]) {
    let all = [&[("BASE_URL", gateway.url())], environment].concat();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let output = clients::python("openai_chat.py", &all);
            assert!(output.matches("ok ").count() >= 10, "{output}");
        });
        let output = clients::node("openai_chat.mjs", &all);
        assert!(output.matches("ok ").count() >= 8, "{output}");
    });
    gateway.wait_until_idle();
}

#[test]
fn before_the_embedded_engine() {
    let gateway = Gateway::start(Paceline::serve().arg("--threads").arg("1"));
    both(&gateway, &[("EMBEDDED", "yes")]);
}

#[test]
fn before_an_engine_with_keys_and_named_models() {
    let sim = Sim::new().replicas(2).arg("--speed").arg("50").start();
    let replica = |at: usize| {
        deployment(&format!("r{at}"), &sim.urls()[at], "models = [\"sim\"]\nkind = \"engine\"")
    };
    let keys = format!("[[keys]]\ntenant = \"t\"\nkey = \"{KEY}\"\n");
    let config = [replica(0), replica(1), keys].concat();
    let gateway = Gateway::start(two_threads().config(&config));
    both(&gateway, &[("API_KEY", KEY), ("UNKNOWN_MODEL", "no-such-model")]);
}

#[test]
fn before_an_engine_that_speaks_http2() {
    let sim = Sim::new().arg("--speed").arg("50").start();
    let gateway = Gateway::configured(sim.url(), "http2 = \"always\"");
    both(&gateway, &[]);
}

/// Anthropic's SDKs, OpenAI's other endpoints and Vercel's AI SDK, before an engine that speaks
/// chat alone.
#[test]
fn in_dialects_that_the_engine_does_not_speak() {
    let sim = Sim::new().arg("--speed").arg("50").start();
    let gateway = Gateway::configured(sim.url(), "provider = \"paceline-sim\"");
    let environment = [("BASE_URL", gateway.url())];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let output = clients::python("dialects.py", &environment);
            assert_eq!(output.matches("ok ").count(), 17, "{output}");
        });
        let output = clients::node("dialects.mjs", &environment);
        assert_eq!(output.matches("ok ").count(), 11, "{output}");
    });
    gateway.wait_until_idle();
}

#[test]
fn errors_are_those_that_the_sdks_know() {
    let upstream = Script::new()
        .respond(|request| {
            let case = request.header("x-case").unwrap_or_default();
            let body = format!(
                r#"{{"error":{{"message":"case {case}","type":"of_the_upstream","param":"p","code":"c"}}}}"#
            );
            match case.parse::<u16>() {
                Ok(status) => Reply::json(status, &body),
                Err(_) if case == "cut" => Reply::stream().event(&piece("one")).close(),
                Err(_) if case == "told" => Reply::stream().event(&piece("one")).event(&body).end(),
                Err(_) if case == "good" => Reply::sse(&[&piece("one"), &finish()]),
                Err(_) => Reply::new().close(),
            }
        })
        .start();
    // Nothing is sent again, so that each client sees what the upstream said.
    let gateway = Gateway::start(once().upstream(upstream.url()));
    let environment = [("BASE_URL", gateway.url())];
    std::thread::scope(|scope| {
        scope.spawn(|| clients::python("openai_errors.py", &environment));
        clients::node("openai_errors.mjs", &environment);
    });
}
