//! `paceline limits`: what a running gateway believes of the limits of its providers.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::cli::LimitsArgs;
use crate::commands::{Failure, Result, say};

/// Longest wait for the gateway.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn run(args: &LimitsArgs) -> Result {
    let text = get(&args.url, "/limits")?;
    if args.json {
        say(&(text + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let limits: Value =
        serde_json::from_str(&text).context("the answer is no JSON; is this Paceline?")?;
    say(&table(&limits))?;
    Ok(ExitCode::SUCCESS)
}

fn get(url: &str, path: &str) -> Result<String> {
    let usage = || Failure::Usage(format!("error: --url {url}: as in http://127.0.0.1:8000"));
    let host = url.strip_prefix("http://").ok_or_else(usage)?.trim_end_matches('/');
    let address = host.to_socket_addrs().map_err(|_| usage())?.next().ok_or_else(usage)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no gateway answers at {url}; start one with `paceline serve`"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).context("the answer broke off")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or("?");
    if status != "200" {
        return Err(anyhow::anyhow!("{url}{path} answered with status {status}: {body}").into());
    }
    Ok(body.to_owned())
}

/// The beliefs as a table; a line for each deployment of each model.
fn table(limits: &Value) -> String {
    let heads = ["model", "deployment", "kind", "rate", "cap", "in flight", "waiting", "why"];
    let mut rows = vec![heads.map(str::to_owned)];
    for line in limits["models"].as_array().into_iter().flatten() {
        let model = line["model"].as_str().unwrap_or("(any other)");
        for known in line["deployments"].as_array().into_iter().flatten() {
            let beliefs = &known["limits"];
            let rate = beliefs["rate"]["per_min"].as_f64().map(|rate| {
                let unit = match beliefs["rate"]["dimension"].as_str() {
                    Some("requests") => "calls",
                    _ => "tokens",
                };
                format!("{rate:.0} {unit}/min")
            });
            let number = |value: &Value| value.as_u64().map_or("–".to_owned(), |n| n.to_string());
            rows.push([
                model.to_owned(),
                known["deployment"].as_str().unwrap_or_default().to_owned(),
                beliefs["kind"].as_str().unwrap_or_default().to_owned(),
                rate.unwrap_or_else(|| "–".to_owned()),
                number(&beliefs["cap"]),
                number(&beliefs["in_flight"]),
                number(&line["waiting"]),
                beliefs["reason"].as_str().unwrap_or_default().to_owned(),
            ]);
        }
    }
    if rows.len() == 1 {
        return "No provider has refused a call or shown a limit yet; all calls pass.\n".to_owned();
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn beliefs_are_a_table() {
        assert!(table(&json!({"models": []})).contains("all calls pass"));
        let limits = json!({"models": [{"model": "gpt", "waiting": 3, "deployments": [{
            "deployment": "openai/1",
            "limits": {
                "kind": "rate", "rate": {"dimension": "requests", "per_min": 59.7}, "cap": null,
                "in_flight": 2, "reason": "at an even pace",
            },
        }]}]});
        insta::assert_snapshot!(table(&limits), @r"
        model  deployment  kind  rate          cap  in flight  waiting  why
        gpt    openai/1    rate  60 calls/min  –    2          3        at an even pace
        ");
    }
}
