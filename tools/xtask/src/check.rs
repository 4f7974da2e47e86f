//! What `check`, `test` and `demo` run.

use std::process::Command;

use anyhow::{Context, Result};

use crate::phases::{Phases, cargo, run};
use crate::{generated, install, layers, tidy};

/// Everything but the tests, the cheapest first.
pub(crate) fn all(phases: &mut Phases) -> Result<()> {
    phases.run("rustfmt", || run(cargo().args(["fmt", "--all", "--check"])))?;
    phases.run("tidy", tidy::check)?;
    phases.run("layers", layers::check)?;
    phases.run("cargo deny: licences, bans, sources", || {
        run(cargo_deny().args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))
    })?;
    advisories(phases)?;
    phases.run("clippy", || {
        let lints = ["--", "-D", "warnings"];
        run(cargo().args(["clippy", "--locked", "--workspace", "--all-targets"]).args(lints))
    })?;
    phases.run("generated documents", generated::check)
}

/// Builds and runs the tests of the workspace.
pub(crate) fn tests(phases: &mut Phases) -> Result<()> {
    phases.run("build the tests", || {
        run(cargo().args(["test", "--locked", "--workspace", "--no-run"]))
    })?;
    phases.run("tests", || run(cargo().args(["test", "--locked", "--workspace", "--no-fail-fast"])))
}

/// Builds and runs the tests with agent frameworks, which `tests` leaves out.
pub(crate) fn frameworks(phases: &mut Phases) -> Result<()> {
    let it = ["test", "--locked", "-p", "paceline", "--test", "it"];
    phases.run("build the tests", || run(cargo().args(it).arg("--no-run")))?;
    let only = ["frameworks::", "--", "--ignored"];
    phases.run("agent frameworks", || run(cargo().args(it).args(["--no-fail-fast"]).args(only)))
}

/// Builds and runs `paceline demo`.
pub(crate) fn demo(options: &[String]) -> Result<()> {
    eprintln!("==> building Paceline (a release build; some minutes the first time)");
    run(cargo().args(["build", "--locked", "--release", "-p", "paceline"]))?;
    eprintln!("==> paceline demo {}", options.join(" "));
    let demo = ["run", "--quiet", "--locked", "--release", "-p", "paceline", "--", "demo"];
    run(cargo().args(demo).args(options))
}

/// The advisories are in a Git repository of their own, which not every machine reaches.
/// Where it is out of reach, the check says so and goes on.
fn advisories(phases: &mut Phases) -> Result<()> {
    phases.run("cargo deny: advisories", || {
        let fetched = Command::new("timeout")
            .args(["--kill-after=5", "60"])
            .arg(install::cargo_deny_path())
            .args(["fetch", "db"])
            .current_dir(testkit::tools::repository())
            .output()
            .context("cannot start timeout")?;
        if !fetched.status.success() {
            eprintln!("    skipped: the advisory database cannot be reached from here");
            return Ok(());
        }
        run(cargo_deny().args(["check", "--disable-fetch", "advisories"]))
    })
}

fn cargo_deny() -> Command {
    Command::new(install::cargo_deny_path())
}
