//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The performance layer for systems of many LLM agents.
#[derive(Debug, Parser)]
#[command(
    name = "paceline",
    version,
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 3 a run that does not count (its client lagged)."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway
    Serve(ServeArgs),
    /// Run simulated inference engines as servers
    Sim(SimArgs),
    /// Replay a trace of real calls, against simulated engines or any server
    Replay(ReplayArgs),
    /// Show what Paceline brings, on real traces and simulated engines, in two minutes
    Demo(DemoArgs),
    /// Check, show and describe the configuration
    Config(ConfigArgs),
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigSource {
    /// Configuration file; `paceline.toml` in this folder when there is one
    #[arg(long, value_name = "FILE", env = "PACELINE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paceline serve                                          an embedded simulated engine answers
  paceline serve --upstream http://127.0.0.1:8001         before any OpenAI-compatible server
  paceline serve --config paceline.toml --listen 0.0.0.0:8000

Every field of the file can be set in the environment: PACELINE__CACHE__TTL_S=60.
SIGTERM ends it when the open answers have ended; a second one ends it at once.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) source: ConfigSource,
    /// Address and port [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Base URL of an OpenAI-compatible server; several are replicas of one model
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Vec<String>,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Log level, or a list such as info,paceline_upstream=debug
    #[arg(long, value_name = "LEVEL", env = "PACELINE_LOG")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paceline sim                                   one replica on 127.0.0.1:9000
  paceline sim --replicas 4 --shape llama3-8b-fp8
  paceline sim --fault rate=10/s --fault cut=0.05

These are simulated engines: their timing follows measured GPUs, their texts are made up.")]
pub(crate) struct SimArgs {
    #[command(flatten)]
    pub(crate) source: ConfigSource,
    /// Address of the first replica; the others take the ports that follow
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Replicas, each with its own KV cache and port
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Engine shape: llama3-8b, llama3-8b-fp8, llama3.2-1b, or the path of a TOML file
    #[arg(long, value_name = "SHAPE")]
    pub(crate) shape: Option<String>,
    /// Model name in /v1/models
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Seed of texts, lengths and faults
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How many times faster than the shape's GPU
    #[arg(long, value_name = "FACTOR")]
    pub(crate) speed: Option<f64>,
    /// A fault on demand, such as rate=10/s, concurrency=4, error500=0.1, stall=0.05:30s,
    /// cut=0.1, malformed=every3, slow-first=0.1:5s
    #[arg(long = "fault", value_name = "FAULT")]
    pub(crate) faults: Vec<String>,
    /// Log level
    #[arg(long, value_name = "LEVEL", env = "PACELINE_LOG")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paceline config check paceline.toml
  paceline config show --json
  paceline config schema > paceline.schema.json")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with a configuration, where, and how to mend it
    #[command(after_help = "Example:\n  paceline config check paceline.toml")]
    Check {
        /// The file; `paceline.toml` in this folder when none is named
        file: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the configuration with its defaults and overrides; secrets are masked
    #[command(after_help = "Example:\n  PACELINE__CACHE__TTL_S=60 paceline config show")]
    Show {
        /// The file; `paceline.toml` in this folder when none is named
        file: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the file
    #[command(after_help = "Example:\n  paceline config schema > paceline.schema.json")]
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {}
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {}
