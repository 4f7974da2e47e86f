//! Real SDKs of other languages: the scripts under `tools/testkit/clients/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::tools;

/// A script that takes longer has hung.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// How variables begin that name an account, or where a vendor is.
const ACCOUNTS: [&str; 6] = ["OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "LANGCHAIN_", "AWS_"];

/// Runs a script of `clients/python/` with the pinned Python SDKs, and returns its output.
/// Panics with the output when the script fails.
pub fn python(script: &str, environment: &[(&str, &str)]) -> String {
    run(script, python_command(script), environment)
}

/// Starts such a script, and does not wait for its end.
pub fn start_python(script: &str, environment: &[(&str, String)]) -> Process {
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    start(script, python_command(script), &environment)
}

/// Runs a script of `clients/node/` with the pinned Node and SDKs, and returns its output.
/// Panics with the output when the script fails.
pub fn node(script: &str, environment: &[(&str, &str)]) -> String {
    let mut command = without_accounts(&tools::node());
    command.arg(folder("node").join(script));
    run(script, command, environment)
}

fn python_command(script: &str) -> Command {
    let mut command = without_accounts(&tools::python());
    // Byte code beside the sources would dirty the tree.
    command.arg("-B").arg(folder("python").join(script));
    command
}

/// The agent frameworks, each with a folder of its own in `clients/frameworks/`.
pub const FRAMEWORKS: [&str; 6] =
    ["adk", "autogen", "crewai", "langgraph", "llamaindex", "openai-agents"];

/// Runs `agent.py` of a framework with its pinned environment, and returns its output.
/// Panics with the output when the script fails.
pub fn framework(name: &str, environment: &[(&str, &str)]) -> String {
    let mut command = without_accounts(&tools::framework(name));
    let scripts = folder("frameworks");
    command.arg("-B").arg(scripts.join(name).join("agent.py"));
    command.env("PYTHONPATH", scripts.join("shared"));
    // Frameworks report what their users do unless they are told not to.
    for (variable, off) in NO_TELEMETRY {
        command.env(variable, off);
    }
    // What they keep of a run goes where nothing else is.
    let home = tempfile::tempdir().unwrap();
    for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CREWAI_STORAGE_DIR"] {
        command.env(variable, home.path());
    }
    command.current_dir(home.path());
    run(name, command, environment)
}

/// The switches of the frameworks' telemetry, and of the libraries that they bring.
const NO_TELEMETRY: [(&str, &str); 11] = [
    ("ANONYMIZED_TELEMETRY", "false"),
    ("AUTOGEN_DISABLE_RUNTIME_TRACING", "true"),
    ("CREWAI_DISABLE_TELEMETRY", "true"),
    ("CREWAI_DISABLE_TRACKING", "true"),
    ("CREWAI_TRACING_ENABLED", "false"),
    ("DO_NOT_TRACK", "1"),
    ("LANGSMITH_TRACING", "false"),
    ("LITELLM_LOCAL_MODEL_COST_MAP", "true"),
    ("OPENAI_AGENTS_DISABLE_TRACING", "1"),
    ("OTEL_SDK_DISABLED", "true"),
    ("OTEL_TRACES_EXPORTER", "none"),
];

/// A command that knows nothing of the developer's own accounts, which may decide no test.
fn without_accounts(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ACCOUNTS.iter().any(|account| text.starts_with(account)) {
            command.env_remove(&name);
        }
    }
    command
}

fn folder(language: &str) -> PathBuf {
    tools::repository().join("tools/testkit/clients").join(language)
}

fn start(script: &str, mut command: Command, environment: &[(&str, &str)]) -> Process {
    command.envs(environment.iter().copied());
    Process::start(script, command)
}

fn run(script: &str, command: Command, environment: &[(&str, &str)]) -> String {
    let mut process = start(script, command, environment);
    let status = process.wait(ENDS_WITHIN);
    if !status.success() {
        process.fail(&format!("failed ({status})"));
    }
    process.log()
}
