//! Traces of real fleets in one neutral form: who calls when, with how many tokens, and
//! which blocks of a prompt equal which.
//!
//! A trace holds no text. Equal block ids stand for equal text, and [`crate::text`] makes
//! text from them, so that prefixes repeat in a replay exactly where they did in life.

mod azure;
mod claude_code;
mod fit;
mod mooncake;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;

pub use fit::{Fit, LeftOut};

/// Longest line of a trace, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A recorded load.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The file's name without its directories and endings.
    pub name: String,
    /// SHA-256 of the file's bytes as they lie on the disk, in lowercase hex.
    pub sha256: String,
    /// How calls come about.
    pub kind: Kind,
    /// Tokens of one block of a prompt.
    pub block_tokens: u32,
    /// In the trace's order; for [`Kind::Open`] by arrival, each with a single call.
    pub sessions: Vec<Session>,
}

/// How calls come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An agent waits for an answer, thinks, and calls again: slow answers slow it down.
    Closed,
    /// Calls arrive whatever the state of the server, at [`TraceCall::at`].
    Open {
        /// The step of the recording's clock. Arrivals within one step share a time stamp
        /// though they came one after another.
        tick: Duration,
    },
}

/// One agent job: the calls of a main agent and of the sub-agents that it started.
#[derive(Clone, Debug)]
pub struct Session {
    /// Unique within the trace, except that open arrivals of one conversation share theirs.
    pub id: String,
    /// Block ids of equal spaces are comparable: a number of the session's own, or zero
    /// where ids are global.
    pub space: u64,
    /// Tokens of tool definitions and system prompt at the start of every prompt of the
    /// main agent, in whole blocks; zero where unknown.
    pub system_tokens: u32,
    /// The main agent first.
    pub agents: Vec<Agent>,
}

/// Calls that follow one another.
#[derive(Clone, Debug)]
pub struct Agent {
    /// `None` for the main agent.
    pub name: Option<String>,
    /// The call of the main agent after whose answer this one starts; `None`: it starts
    /// with the session.
    pub after: Option<usize>,
    /// Time from there to the first call.
    pub delay: Duration,
    /// In order. The first call's `think` is zero.
    pub calls: Vec<TraceCall>,
}

/// One request to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceCall {
    /// When it was sent, since the start of the session (closed) or of the trace (open).
    pub at: Duration,
    /// Time from the end of what it waits for (the agent's previous answer and
    /// [`Self::joins`]) to this call; not capped.
    pub think: Duration,
    /// Sub-agents, as indices into [`Session::agents`], whose results this call needs.
    pub joins: Vec<usize>,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Tokens of the answer, at least 1.
    pub output_tokens: u32,
    /// The prompt's blocks in order. They may cover up to a block more than the prompt
    /// (the last is then cut) or less (the rest is text of this call alone).
    pub blocks: Vec<Run>,
}

/// Blocks with consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Id of the first block.
    pub start: u64,
    /// How many blocks.
    pub blocks: u32,
}

/// A trace cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}{}: {problem}; {hint}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct TraceError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// What is wrong, with the field.
    pub problem: String,
    /// How to mend it.
    pub hint: String,
}

impl Trace {
    /// Reads a trace, plain or gzip, of any known format; the content tells which.
    ///
    /// # Errors
    /// When the file cannot be read, is of no known format, or has a bad line.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let bytes = std::fs::read(path).map_err(|error| TraceError {
            file: path.display().to_string(),
            line: None,
            problem: format!("cannot read the trace: {error}"),
            hint: "check the path and its permissions".to_owned(),
        })?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// Reads a trace from the bytes of a file, plain or gzip; `file` names it in errors.
    ///
    /// # Errors
    /// When the bytes are of no known format or have a bad line.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, TraceError> {
        let reader: Box<dyn Read + '_> = if bytes.starts_with(&[0x1f, 0x8b]) {
            Box::new(MultiGzDecoder::new(bytes))
        } else {
            Box::new(bytes)
        };
        let mut lines = Lines { file, reader: BufReader::new(reader), number: 0 };
        let Some(first) = lines.next()? else {
            return Err(lines.error("the trace is empty", "give a trace with at least one call"));
        };
        let parsed = match format_of(&first) {
            Some(Format::ClaudeCode) => claude_code::read(first, &mut lines),
            Some(Format::Mooncake) => mooncake::read(first, &mut lines),
            Some(Format::Azure) => azure::read(&first, &mut lines),
            None => Err(lines.error(
                "the format of the trace is unknown",
                "known are Claude Code sessions (JSON lines with `reqs`), Mooncake (JSON lines \
                 with `hash_ids`) and Azure LLM (CSV with the head \
                 `TIMESTAMP,ContextTokens,GeneratedTokens`)",
            )),
        }?;
        if parsed.sessions.is_empty() {
            return Err(lines.error("the trace holds no call", "give one with at least one call"));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Ok(Self {
            name: stem(file).to_owned(),
            sha256: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            kind: parsed.kind,
            block_tokens: parsed.block_tokens,
            sessions: parsed.sessions,
        })
    }

    /// Calls of all sessions.
    pub fn calls(&self) -> usize {
        self.sessions.iter().map(Session::calls).sum()
    }
}

impl Session {
    /// Calls of all agents.
    pub fn calls(&self) -> usize {
        self.agents.iter().map(|agent| agent.calls.len()).sum()
    }
}

/// What a format's reader returns.
struct Parsed {
    kind: Kind,
    block_tokens: u32,
    sessions: Vec<Session>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    ClaudeCode,
    Mooncake,
    Azure,
}

fn format_of(line: &str) -> Option<Format> {
    if line.starts_with('{') && line.contains("\"reqs\"") {
        Some(Format::ClaudeCode)
    } else if line.starts_with('{') && line.contains("\"hash_ids\"") {
        Some(Format::Mooncake)
    } else if line.to_ascii_lowercase().starts_with("timestamp,") {
        Some(Format::Azure)
    } else {
        None
    }
}

/// The file's name without directories and known endings.
fn stem(file: &str) -> &str {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The lines of a trace that hold something, with their numbers.
struct Lines<'a> {
    file: &'a str,
    reader: BufReader<Box<dyn Read + 'a>>,
    number: usize,
}

impl Lines<'_> {
    fn next(&mut self) -> Result<Option<String>, TraceError> {
        loop {
            let mut line = String::new();
            self.number += 1;
            let read = (&mut self.reader).take(LINE_BYTES_MAX).read_line(&mut line);
            match read {
                Err(error) => {
                    let problem = format!("cannot read the line: {error}");
                    return Err(self.error(problem, "check that the file is whole and UTF-8"));
                }
                Ok(0) => return Ok(None),
                Ok(bytes) if bytes as u64 == LINE_BYTES_MAX => {
                    return Err(self.error("the line exceeds 64 MiB", "cut the session"));
                }
                Ok(_) => {}
            }
            // A byte order mark is no part of the first line.
            let text = line.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() {
                return Ok(Some(text.to_owned()));
            }
        }
    }

    /// An error at the present line.
    fn error(&self, problem: impl Into<String>, hint: impl Into<String>) -> TraceError {
        TraceError {
            file: self.file.to_owned(),
            line: Some(self.number),
            problem: problem.into(),
            hint: hint.into(),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        line: &str,
        fields: &str,
    ) -> Result<T, TraceError> {
        serde_json::from_str(line).map_err(|error| {
            // Its "at line 1" would be the line within the line.
            let problem = error.to_string().replace("at line 1 column", "at column");
            self.error(problem, format!("a line holds {fields}"))
        })
    }
}
