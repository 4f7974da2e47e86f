//! The command line and the configuration, as people use them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Gateway, chat, deployment};

/// A folder with this `paceline.toml`.
fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("paceline.toml"), config).unwrap();
    folder
}

/// Runs the binary in a folder, with nothing of the developer's own environment.
fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(testkit::tools::paceline());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PACELINE") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).args(arguments).envs(environment.iter().copied());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_help_has_an_example() {
    let here = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        let help = stdout(&run(here.path(), &[arguments, &["--help"]].concat(), &[]));
        assert!(help.contains("Usage: paceline"), "{help}");
        help
    };
    let top = check(&[]);
    let commands = ["serve", "sim", "replay", "demo", "limits", "config"];
    let listed: Vec<&str> = top
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, commands, "a command without a test of its help");
    for command in commands {
        let help = check(&[command]);
        assert!(help.contains("Example"), "{command} has no example:\n{help}");
        assert!(help.contains(&format!("  paceline {command}")), "{command}:\n{help}");
    }
    for command in ["check", "show", "schema"] {
        let help = check(&["config", command]);
        assert!(help.contains(&format!("paceline config {command}")), "{help}");
    }
    assert!(stdout(&run(here.path(), &["--version"], &[])).starts_with("paceline 0."));
}

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    let here = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], message: &str| {
        let output = run(here.path(), arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    };
    check(&[], "Usage");
    check(&["server"], "serve");
    check(&["serve", "--listen", "localhost"], "--listen");
    check(&["serve", "--upstream", "127.0.0.1:9"], "http://");
    check(&["serve", "--config", "missing.toml"], "missing.toml");
    check(&["sim", "--fault", "oops=1"], "no fault");
    check(&["replay", "x", "--against", "nobody"], "round-robin");
    check(&["replay", "x", "--rate", "0"], "above 0");
}

const BAD: &str = "\
[server]
listen = \"127.0.0.1:0\"
body_bytes_max = \"64 MiB\"
";

const DOUBTFUL: &str = "\
[[keys]]
tenant = \"\"
key = \"short\"

[[deployments]]
name = \"a b\"
url = \"127.0.0.1:9\"

[[deployments]]
name = \"c\"
url = \"http://127.0.0.1:9\"
api_key = \"${NOT_SET_ANYWHERE}\"
models = []
";

#[test]
fn a_wrong_configuration_is_shown_with_its_place() {
    let check = |config: &str, places: &[&str]| {
        let folder = folder(config);
        let output = run(folder.path(), &["config", "check"], &[]);
        assert_eq!(output.status.code(), Some(2));
        for place in places {
            assert!(stderr(&output).contains(place), "no {place} in:\n{}", stderr(&output));
        }
        let named = run(folder.path(), &["config", "check", "paceline.toml"], &[]);
        assert_eq!(stderr(&named), stderr(&output));
        let json = run(folder.path(), &["config", "check", "--json"], &[]);
        assert_eq!(json.status.code(), Some(2));
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["valid"], false);
        assert_eq!(json["message"].as_str(), Some(stderr(&output).trim_end()));
        // Nothing starts on it.
        let serve = run(folder.path(), &["serve"], &[]);
        assert_eq!(serve.status.code(), Some(2));
        assert_eq!(stderr(&serve), stderr(&output));
        stderr(&output)
    };
    insta::assert_snapshot!("bad", check(BAD, &["paceline.toml:3:18"]));
    let places =
        ["paceline.toml:2:10", "paceline.toml:3:7", "paceline.toml:6:8", "paceline.toml:7:7"];
    insta::assert_snapshot!("doubtful", check(DOUBTFUL, &places));
    check("[cache]\nttl = 1\n", &["paceline.toml:2:1", "`ttl_s`"]);
    check(
        "[[deployments]]\nname = \"a\"\nurl = \"http://x\"\nca_file = \"none.pem\"",
        &["paceline.toml:4:11", "none.pem"],
    );
    check("a = [", &["paceline.toml:1"]);
}

#[test]
fn a_good_configuration_is_told() {
    let folder = folder("[cache]\nttl_s = 5\n");
    let good = stdout(&run(folder.path(), &["config", "check"], &[]));
    assert!(good.contains("paceline.toml: good"), "{good}");
    let json = stdout(&run(folder.path(), &["config", "check", "--json"], &[]));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["valid"], true);
    let nothing = tempfile::tempdir().unwrap();
    assert!(stdout(&run(nothing.path(), &["config", "check"], &[])).contains("the defaults"));
}

#[test]
fn secrets_are_never_shown() {
    let config = "
[[keys]]
tenant = \"t\"
key = \"key-in-the-file-1234\"

[[keys]]
tenant = \"u\"
key = \"${TENANT_KEY}\"

[[deployments]]
name = \"a\"
url = \"http://127.0.0.1:9\"
api_key = \"sk-in-the-file\"

[[deployments]]
name = \"b\"
url = \"http://127.0.0.1:9\"
api_keys = [\"sk-one-of-several\"]

[[deployments]]
name = \"c\"
provider = \"bedrock\"

[deployments.aws]
region = \"us-east-1\"
access_key_id = \"AKIDEXAMPLE\"
secret_access_key = \"aws-secret-key\"
session_token = \"aws-session-token\"
";
    let folder = folder(config);
    let environment = [("TENANT_KEY", "key-in-the-environment")];
    for arguments in [&["config", "show"][..], &["config", "show", "--json"], &["config", "check"]]
    {
        let output = run(folder.path(), arguments, &environment);
        let text = stdout(&output) + &stderr(&output);
        for secret in [
            "key-in-the-file-1234",
            "sk-in-the-file",
            "key-in-the-environment",
            "sk-one-of-several",
            "aws-secret-key",
            "aws-session-token",
        ] {
            assert!(!text.contains(secret), "{arguments:?} shows {secret}:\n{text}");
        }
        assert!(arguments[1] == "check" || text.contains("***"), "{text}");
    }
}

#[test]
fn what_is_shown_is_a_configuration() {
    let folder = folder(
        "[cache]\nttl_s = 5\n\n[[deployments]]\nname = \"a\"\nurl = \"http://127.0.0.1:9\"\n",
    );
    let shown =
        stdout(&run(folder.path(), &["config", "show"], &[("PACELINE__CACHE__TTL_S", "7")]));
    assert!(shown.contains("ttl_s = 7"), "{shown}");
    let again = self::folder(&shown);
    let json = |folder: &TempDir| {
        let shown = stdout(&run(folder.path(), &["config", "show", "--json"], &[]));
        serde_json::from_str::<Value>(&shown).unwrap()
    };
    let (mut before, after) = (json(&folder), json(&again));
    assert_eq!(before["cache"]["ttl_s"], 5);
    before["cache"]["ttl_s"] = 7.into();
    assert_eq!(before, after);
}

#[test]
fn the_environment_overrides_the_file() {
    let upstream = testkit::Script::new().otherwise(testkit::Reply::json(200, "{}")).start();
    let config = deployment("up", upstream.url(), "") + "[server]\nbody_bytes_max = 10\n";
    let serve = crate::support::two_threads()
        .config(&config)
        .env("PACELINE__SERVER__BODY_BYTES_MAX", "100000");
    let gateway = Gateway::start(serve);
    assert_eq!(gateway.call(&[], chat("longer than ten bytes", "")).status, 200);
    let here = folder("");
    let check = |name: &str, value: &str, message: &str| {
        let output = run(here.path(), &["config", "check"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(2), "{name}={value}");
        let text = stderr(&output);
        assert!(text.contains(name) && text.contains(message), "{text}");
    };
    check("PACELINE__CACHE__TTL", "1", "unknown field");
    check("PACELINE__CACHE__TTL_S", "soon", "invalid type");
    check("PACELINE__NOWHERE__X", "1", "unknown field");
}

#[test]
fn the_schema_describes_every_field() {
    let here = tempfile::tempdir().unwrap();
    let text = stdout(&run(here.path(), &["config", "schema"], &[]));
    let schema: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let mut fields = 0;
    assert_described(&schema, "", &schema, &mut fields);
    assert!(fields > 40, "{fields}");
}

/// Checks that each property says what it is, and that each reference leads somewhere.
fn assert_described(root: &Value, path: &str, value: &Value, fields: &mut usize) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                for (name, property) in properties {
                    let described = property["description"].as_str().is_some_and(|d| d.len() > 3);
                    assert!(described, "{path}/{name} has no description: {property}");
                    *fields += 1;
                }
            }
            if let Some(Value::String(reference)) = object.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(root.pointer(pointer).is_some(), "{path}: {reference} leads nowhere");
            }
            for (name, value) in object {
                assert_described(root, &format!("{path}/{name}"), value, fields);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| assert_described(root, path, item, fields));
        }
        _ => {}
    }
}
