//! Progress: a line when a phase starts, one when it ends, and a table at the end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The phases of one command so far.
#[derive(Debug)]
pub(crate) struct Phases {
    started: Instant,
    done: Vec<(String, Duration)>,
}

impl Phases {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Runs one phase, and says what it is, how it went, and how long it took.
    pub(crate) fn run(&mut self, name: &str, phase: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("==> {name}");
        let started = Instant::now();
        let result = phase();
        let took = started.elapsed();
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        eprintln!("    {name}: {outcome} in {:.1} s", took.as_secs_f64());
        self.done.push((name.to_owned(), took));
        result.with_context(|| format!("{name} failed"))
    }

    /// Prints what was done and how long each phase took.
    pub(crate) fn summary(&self) {
        eprintln!();
        for (name, took) in &self.done {
            eprintln!("{:8.1} s  {name}", took.as_secs_f64());
        }
        eprintln!("{:8.1} s  in all; everything passed", self.started.elapsed().as_secs_f64());
    }
}

/// Runs a command in the repository's folder, with its output on ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command
        .current_dir(testkit::tools::repository())
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs a command that says nothing unless it fails; returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}):\n{text}{errors}", output.status);
    }
    Ok(text)
}

/// The cargo that runs this command.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(testkit::tools::repository());
    command
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}
