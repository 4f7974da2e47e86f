//! The commands of this repository: `cargo xtask --help`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod check;
mod generated;
mod install;
mod layers;
mod phases;
mod tidy;

/// The commands of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Format, lints, layers, dependency policy, and the rules of the tree.
    Check,
    /// All tests, after `check`; installs what they need into .cache/ first.
    Test {
        /// Only the tests with agent frameworks, which download about a gigabyte.
        #[arg(long)]
        frameworks: bool,
    },
    /// Builds Paceline and shows its main job on a simulated engine.
    Demo {
        /// Options of `paceline demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Writes the documents that are made from the binary.
    Generate,
    /// Whether every import points down through the layers.
    Layers,
    /// Measures Paceline beside a known quantity.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Installs what the tests need into .cache/, and nothing else.
    Install {
        /// Also what the benchmarks need.
        #[arg(long)]
        benches: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// CPU, latency and memory of the gateway beside nginx's.
    Gateway(bench::gateway::Options),
    /// Instructions of the functions that every call passes, beside their baselines.
    Instructions(bench::instructions::Options),
    /// Hidden limits: the learner in virtual time, or with --sockets the whole gateway.
    Limits(bench::limits::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let mut phases = phases::Phases::new();
    match command {
        Command::Check => {
            install::cargo_deny(&mut phases)?;
            check::all(&mut phases)?;
        }
        Command::Test { frameworks: true } => {
            install::for_frameworks(&mut phases)?;
            check::frameworks(&mut phases)?;
        }
        Command::Test { frameworks: false } => {
            install::for_tests(&mut phases)?;
            check::all(&mut phases)?;
            check::tests(&mut phases)?;
        }
        Command::Demo { options } => return check::demo(&options),
        Command::Bench { what: Bench::Gateway(options) } => return bench::gateway::bench(&options),
        Command::Bench { what: Bench::Instructions(options) } => {
            return bench::instructions::bench(&options);
        }
        Command::Bench { what: Bench::Limits(options) } => return bench::limits::bench(&options),
        Command::Generate => phases.run("generate", generated::write)?,
        Command::Layers => phases.run("layers", layers::check)?,
        Command::Install { benches } => {
            install::for_tests(&mut phases)?;
            if benches {
                install::for_benches(&mut phases)?;
            }
        }
    }
    phases.summary();
    Ok(())
}
