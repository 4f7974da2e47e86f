//! The one binary: serve, sim, replay, demo, limits, config.

/// The system's allocator costs about a tenth of a call's CPU time more, since hyper's read
/// buffers are too large for its caches; mimalloc keeps twice the memory.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod assemble;
mod cli;
mod commands;
mod config;
mod fleet;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let result = match cli.command {
        cli::Command::Serve(args) => commands::serve::run(args),
        cli::Command::Sim(args) => commands::sim::run(args),
        cli::Command::Replay(args) => commands::replay::run(&args),
        cli::Command::Demo(args) => commands::demo::run(&args),
        cli::Command::Limits(args) => commands::limits::run(&args),
        cli::Command::Config(args) => commands::config::run(args),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{}", failure.shown());
            failure.code()
        }
    }
}
