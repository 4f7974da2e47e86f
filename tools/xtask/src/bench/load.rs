//! Load by wrk from one thread, every request different from every other.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use testkit::{http, tools};

use super::CLIENT_CORE;
use super::servers::{KEY, MODEL, MODEL_STREAMED, STREAM_QUERY};
use crate::phases::output;

/// One run of wrk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// The length of the request's body.
    pub(super) body_bytes: usize,
    pub(super) connections: usize,
    pub(super) streamed: bool,
    /// Asked in Anthropic's words, so that a gateway before the mock translates.
    pub(super) translated: bool,
    /// Whether all requests are the same, so that a cache answers them.
    pub(super) repeated: bool,
    /// 0 switches flights and the cache on; with 1, a gateway only forwards.
    pub(super) temperature: u8,
}

/// What wrk tells.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) requests: u64,
    pub(super) duration_us: f64,
    errors: u64,
}

impl Outcome {
    pub(super) fn per_second(&self) -> f64 {
        self.requests as f64 / self.duration_us * 1e6
    }
}

impl Load {
    /// Requests of this size over so many connections, each of them another.
    pub(super) fn distinct(body_bytes: usize, connections: usize) -> Self {
        let (streamed, translated, repeated) = (false, false, false);
        Self { body_bytes, connections, streamed, translated, repeated, temperature: 0 }
    }

    /// Sends for so long. `first` is the number of the first request; no two runs may use
    /// the same numbers.
    pub(super) fn run(&self, base: &str, first: u64, time: Duration) -> Result<Outcome> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("load.lua");
        std::fs::write(&script, self.script(first))?;
        let url = format!("{base}{}", self.path());
        let text = output(&mut self.command(&script, time, &url))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
        let outcome: Outcome = serde_json::from_str(line.context("wrk told no result")?)?;
        if outcome.errors > 0 || outcome.requests == 0 {
            bail!("{} of {} requests failed:\n{text}", outcome.errors, outcome.requests);
        }
        Ok(outcome)
    }

    /// The body of one request.
    pub(super) fn message(&self, number: u64) -> String {
        let (before, after) = self.body();
        format!("{before}{number:012}{after}")
    }

    /// The bytes of one whole request, for a client of our own.
    pub(super) fn request(&self, base: &str, number: u64) -> Vec<u8> {
        let url = format!("{base}/v1/chat/completions");
        let key = format!("Bearer {KEY}");
        let headers = [("Accept", "application/json"), ("Authorization", key.as_str())];
        http::compose("POST", &url, &headers, self.message(number).as_bytes())
    }

    fn path(&self) -> String {
        let path = if self.translated { "/v1/messages" } else { "/v1/chat/completions" };
        let query = if self.streamed { STREAM_QUERY } else { "" };
        format!("{path}{query}")
    }

    fn command(&self, script: &Path, time: Duration, url: &str) -> Command {
        let wrk = tools::debian("wrk");
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &CLIENT_CORE.to_string()]);
        command.arg(wrk.get_program());
        for (name, value) in wrk.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        // wrk takes whole seconds.
        let seconds = time.as_secs().max(1);
        command.args(["--threads", "1", "--timeout", "10s", "--connections"]);
        command.args([&self.connections.to_string(), "--duration", &format!("{seconds}s")]);
        command.arg("--script").arg(script).arg(url);
        command
    }

    fn script(&self, first: u64) -> String {
        let (before, after) = self.body();
        let path = self.path();
        let step = u64::from(!self.repeated);
        format!(
            "local before = 'POST {path} HTTP/1.1\\r\\nHost: bench.local\\r\\n' ..
               'Accept: application/json\\r\\nAuthorization: Bearer {KEY}\\r\\n' ..
               'Content-Type: application/json\\r\\nUser-Agent: bench/1\\r\\n' ..
               'Content-Length: {length}\\r\\n\\r\\n' .. [==[{before}]==]
             local after = [==[{after}]==]
             local number = {first}
             function request()
               number = number + {step}
               return before .. string.format('%012d', number) .. after
             end
             function done(summary)
               local errors = summary.errors
               io.write(string.format(
                 'RESULT {{\"requests\":%d,\"duration_us\":%d,\"errors\":%d}}\\n',
                 summary.requests, summary.duration,
                 errors.connect + errors.read + errors.write + errors.status + errors.timeout))
             end\n",
            length = self.body_bytes,
        )
    }

    /// The body before and after its number, which has 12 digits.
    fn body(&self) -> (String, String) {
        let (model, stream) =
            if self.streamed { (MODEL_STREAMED, "\"stream\":true,") } else { (MODEL, "") };
        let tokens = if self.translated { "\"max_tokens\":64," } else { "" };
        let before = format!(
            "{{\"model\":\"{model}\",\"temperature\":{temperature},{tokens}{stream}\"messages\":[{{\"role\":\"user\",\
             \"content\":\"call ",
            temperature = self.temperature,
        );
        let end = "\"}]}";
        let room = self.body_bytes - before.len() - 12 - end.len();
        (before, format!("{}{end}", filler(room)))
    }
}

/// A part of a JSON string that looks like what agents send: words and code, so that the
/// quotes and line breaks are escaped. Exactly `length` bytes.
fn filler(length: usize) -> String {
    const TEXT: &str = ": read the file and say what it does.\\n\\n    fn main() {\\n        \
        println!(\\\"hello, {name}\\\");\\n        let total: u64 = items.iter().sum();\\n    }\\n\
        The tool returned 17 rows, of which three differ from the day before. ";
    let mut text: String = TEXT.chars().cycle().take(length).collect();
    // A cut behind an odd number of backslashes would escape the closing quote.
    if text.ends_with('\\') {
        text.pop();
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_valid_json_of_the_promised_length() {
        for streamed in [false, true] {
            for body_bytes in (200..400).chain([1024, 32 * 1024]) {
                let load = Load { streamed, ..Load::distinct(body_bytes, 1) };
                let (before, after) = load.body();
                let body = format!("{before}{:012}{after}", 7);
                assert_eq!(body.len(), body_bytes);
                let value: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(value["temperature"], 0);
            }
        }
    }
}
