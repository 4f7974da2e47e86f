//! Real SDKs of other languages: the scripts under `tools/testkit/clients/`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::tools;

/// A script that takes longer has hung.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

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
    let mut command = Command::new(tools::node());
    command.arg(folder("node").join(script));
    run(script, command, environment)
}

fn python_command(script: &str) -> Command {
    let mut command = Command::new(tools::python());
    // Byte code beside the sources would dirty the tree.
    command.arg("-B").arg(folder("python").join(script));
    command
}

fn folder(language: &str) -> PathBuf {
    tools::repository().join("tools/testkit/clients").join(language)
}

fn start(script: &str, mut command: Command, environment: &[(&str, &str)]) -> Process {
    // Nothing of the developer's own account may decide a test.
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"] {
        command.env_remove(name);
    }
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
