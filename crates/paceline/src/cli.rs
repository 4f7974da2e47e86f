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
    /// Show what a running gateway believes of the limits of its providers
    Limits(LimitsArgs),
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
  paceline sim --provider anthropic --limit requests=50/m:headers --script replies.toml

These are simulated: the engines' timing follows measured GPUs, a provider checks requests as
its vendor does, and all texts are made up.")]
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
    /// In place of engines, one provider with its own API: openai, anthropic, gemini, bedrock
    #[arg(long, value_name = "VENDOR", value_parser = vendor)]
    pub(crate) provider: Option<paceline_sim::Vendor>,
    /// The one key that the provider takes
    #[arg(long, value_name = "KEY", requires = "provider")]
    pub(crate) key: Option<String>,
    /// The provider's replies: a TOML or JSON file
    #[arg(long, value_name = "FILE", requires = "provider")]
    pub(crate) script: Option<String>,
    /// A limit of the provider, such as requests=60/m:window, tokens=90000/m:headers,
    /// concurrency=8
    #[arg(long = "limit", value_name = "LIMIT", requires = "provider")]
    pub(crate) limits: Vec<String>,
    /// How many times faster than the shape's GPU, or the provider's usual pace
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

/// A vendor by its name.
fn vendor(name: &str) -> Result<paceline_sim::Vendor, String> {
    let all = paceline_sim::Vendor::ALL;
    let found = all.iter().find(|(_, known)| *known == name).map(|(vendor, _)| *vendor);
    found.ok_or_else(|| format!("one of {}", all.map(|(_, name)| name).join(", ")))
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paceline limits                                of the gateway on this machine
  paceline limits --url http://10.0.0.7:8000 --json

Limits are learned from the first refusal, or the first answer that shows them, on.")]
pub(crate) struct LimitsArgs {
    /// Base URL of the gateway
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub(crate) url: String,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
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
#[command(after_help = "\
Examples:
  paceline replay bench/traces/claude_code_slice.jsonl.gz
  paceline replay TRACE --against fixed --against round-robin --against paceline --seeds 5 --report out.html
  paceline replay TRACE --against http://127.0.0.1:8000 --active 8 --model my-model

Against `paceline`, `fixed` and `round-robin` it runs in virtual time on SIMULATED replicas; against
a URL in real time. Traces: Claude Code sessions (jsonl), Mooncake (jsonl), Azure (csv), each also as .gz.
Exit code 3: the run does not count, because this client lagged behind its plan.")]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) source: ConfigSource,
    /// The trace
    #[arg(value_name = "TRACE")]
    pub(crate) trace: PathBuf,
    /// paceline, fixed (replica per agent), round-robin, or a URL; several are compared
    #[arg(long, value_name = "WHAT", default_value = "paceline")]
    pub(crate) against: Vec<String>,
    /// Simulated replicas
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) replicas: u32,
    /// Engine shape: llama3-8b, llama3-8b-fp8, llama3.2-1b, or the path of a TOML file
    #[arg(long, value_name = "SHAPE")]
    pub(crate) shape: Option<String>,
    /// The first seed: it draws which sessions, their order and offsets
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many seeds, from the first one on
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seeds: u64,
    /// Sessions active at once (traces of sessions)
    #[arg(long, value_name = "N")]
    pub(crate) active: Option<usize>,
    /// Sessions drawn from the trace [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) sessions: Option<usize>,
    /// Calls drawn from the trace [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) calls: Option<usize>,
    /// How many times as fast calls arrive (traces of arrivals)
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) rate: f64,
    /// Longest think time, in seconds
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub(crate) think_max: f64,
    /// No call starts later than this many seconds after the start [default: none]
    #[arg(long, value_name = "S")]
    pub(crate) time_max: Option<f64>,
    /// Tokens that a replica can hold; sessions that need more are left out [default: those
    /// of the simulated replica; with a URL none]
    #[arg(long, value_name = "N")]
    pub(crate) replica_tokens: Option<u64>,
    /// The model's name in calls
    #[arg(long, value_name = "NAME", default_value = "sim")]
    pub(crate) model: String,
    /// Environment variable that holds the key for a URL
    #[arg(long, value_name = "NAME")]
    pub(crate) api_key_env: Option<String>,
    /// Write the report as a page
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paceline demo
  paceline demo --report /tmp/paceline-report.html --json

The engines are SIMULATED (their timing follows measured GPUs), the traces are real, and nothing
is scripted: `--config` with a bad configuration shows a bad result.")]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) source: ConfigSource,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "paceline-report.html")]
    pub(crate) report: PathBuf,
    /// Seeds, each a replay of every way to serve the fleet
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) seeds: u64,
    /// Simulated replicas
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) replicas: u32,
    /// Print the comparisons as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
