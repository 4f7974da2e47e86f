//! The `paceline` binary as a server of a test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, READY_WITHIN};

/// The line by which each listener of the binary says that it is ready.
const LISTENING: &str = "listening on ";

/// A `paceline` command that is about to start.
#[derive(Debug)]
pub struct Paceline {
    command: Command,
    listen: Option<String>,
    listeners: usize,
    config: Option<String>,
}

impl Paceline {
    /// `paceline serve` on a free port.
    pub fn serve() -> Self {
        Self::command("serve")
    }

    /// `paceline COMMAND` on a free port.
    pub fn command(name: &str) -> Self {
        Self::from_command(Command::new(crate::tools::paceline()), name)
    }

    /// `paceline COMMAND` of another build, on a free port.
    pub fn of(program: &Path, name: &str) -> Self {
        Self::from_command(Command::new(program), name)
    }

    /// `paceline serve` of another build, on one core and a free port.
    pub fn serve_pinned(program: &Path, core: usize) -> Self {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string()]).arg(program);
        Self::from_command(command, "serve")
    }

    fn from_command(mut command: Command, name: &str) -> Self {
        command.arg(name);
        Self { command, listen: Some("127.0.0.1:0".to_owned()), listeners: 1, config: None }
    }

    /// Adds `--upstream URL`.
    pub fn upstream(self, url: &str) -> Self {
        self.arg("--upstream").arg(url)
    }

    /// Writes this text to a `paceline.toml` and adds `--config FILE`.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Listens here instead of on a free loopback port.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Adds no `--listen`: the configuration file has it.
    pub fn listen_as_configured(mut self) -> Self {
        self.listen = None;
        self
    }

    /// How many listeners must be ready before `start` returns.
    pub fn listeners(mut self, count: usize) -> Self {
        self.listeners = count;
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the server and waits until every listener is ready.
    pub fn start(mut self) -> Running {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = &self.config {
            let path = folder.path().join("paceline.toml");
            std::fs::write(&path, text).unwrap();
            self.command.arg("--config").arg(path);
        }
        if let Some(address) = &self.listen {
            self.command.args(["--listen", address]);
        }
        let mut process = Process::start("paceline", self.command);
        let urls = process.wait_for_log(READY_WITHIN, |log| {
            let urls = listening(log);
            (urls.len() >= self.listeners).then_some(urls)
        });
        Running { process, urls, folder }
    }
}

/// A `paceline sim` that is about to start: simulated engines, one listener a replica.
#[derive(Debug)]
pub struct Sim(Paceline);

impl Sim {
    /// One replica without faults.
    pub fn new() -> Self {
        Self(Paceline::command("sim"))
    }

    /// So many replicas, each on its own port.
    pub fn replicas(self, count: usize) -> Self {
        Self(self.0.arg("--replicas").arg(&count.to_string()).listeners(count))
    }

    /// Adds `--fault SPEC`.
    pub fn fault(self, spec: &str) -> Self {
        Self(self.0.arg("--fault").arg(spec))
    }

    /// Adds one argument.
    pub fn arg(self, argument: &str) -> Self {
        Self(self.0.arg(argument))
    }

    /// Starts the engines and waits until all are ready.
    pub fn start(self) -> Running {
        self.0.start()
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    process: Process,
    urls: Vec<String>,
    folder: TempDir,
}

impl Running {
    /// The base URL of the first listener, for example `http://127.0.0.1:40123`.
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// The base URLs of all listeners, in the order in which they were announced.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The address of the first listener.
    pub fn addr(&self) -> SocketAddr {
        crate::http::address(self.url())
    }

    /// The process identifier.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All that the server has written so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log holds this text.
    pub fn wait_for_log(&mut self, text: &str) {
        self.process.wait_for_log(READY_WITHIN, |log| log.contains(text).then_some(()));
    }

    /// The folder that holds the configuration file, if there is one.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the server to end by itself.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        self.process.wait(within)
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.process.terminate(within)
    }
}

fn listening(log: &str) -> Vec<String> {
    let complete = log.rfind('\n').map_or("", |end| &log[..end]);
    complete
        .lines()
        .filter_map(|line| line.strip_prefix(LISTENING))
        .map(|url| url.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_reads_whole_lines_only() {
        let check = |log: &str, expected: &[&str]| assert_eq!(listening(log), expected);
        check("", &[]);
        check("listening on http://127.0.0.1:4", &[]);
        check("hello\nlistening on http://127.0.0.1:41\n", &["http://127.0.0.1:41"]);
        check(
            "listening on http://127.0.0.1:1\nlistening on http://127.0.0.1:2\n",
            &["http://127.0.0.1:1", "http://127.0.0.1:2"],
        );
    }
}
