//! The commands, one file each, and how they fail.

pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod limits;
pub(crate) mod replay;
pub(crate) mod serve;
pub(crate) mod sim;

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Environment, Fault, Raw, Text};

/// Why a command ended without success.
pub(crate) enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// Anything else: exit code 1.
    Failed(anyhow::Error),
}

impl Failure {
    /// Faults of the configuration.
    pub(crate) fn config(text: &Text, faults: &[Fault]) -> Self {
        let colour = std::io::stderr().is_terminal();
        let shown: Vec<String> = faults.iter().map(|fault| fault.render(text, colour)).collect();
        Self::Usage(shown.join("\n\n"))
    }

    /// As people read it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Usage(shown) => shown.clone(),
            Self::Failed(error) => format!("error: {error:#}"),
        }
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Writes to standard output. Who has read enough, such as `head`, closes the pipe: that is
/// no failure.
pub(crate) fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.or_else(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// The result of a command.
pub(crate) type Result<T = ExitCode> = std::result::Result<T, Failure>;

/// The configuration of a command: its text, for error messages, and its fields.
pub(crate) struct Loaded {
    pub(crate) text: Text,
    pub(crate) raw: Raw,
    pub(crate) environment: Environment,
}

/// Reads the named file, else `paceline.toml` in this folder, else the defaults.
pub(crate) fn load(path: Option<&Path>) -> Result<Loaded> {
    let beside = PathBuf::from("paceline.toml");
    let path = path.or_else(|| beside.exists().then_some(beside.as_path()));
    let environment = Environment::process();
    let text = crate::config::read(path)
        .map_err(|fault| Failure::config(&Text { path: None, text: String::new() }, &[fault]))?;
    let raw = crate::config::parse(&text, &environment)
        .map_err(|fault| Failure::config(&text, &[fault]))?;
    Ok(Loaded { text, raw, environment })
}
