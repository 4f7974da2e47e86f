//! Calls of a chat service: one JSON object a line, arriving whatever the server does.

use std::time::Duration;

use serde::Deserialize;

use super::{Agent, Kind, Lines, Parsed, Run, Session, TraceCall, TraceError};

/// Tokens of a block; the format's own constant.
const BLOCK_TOKENS: u32 = 512;

const FIELDS: &str = "`timestamp` (ms), `input_length`, `output_length` (tokens) and `hash_ids`";

#[derive(Deserialize)]
struct RawCall {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

pub(super) fn read(first: String, lines: &mut Lines<'_>) -> Result<Parsed, TraceError> {
    let mut calls = Vec::new();
    let mut next = Some(first);
    while let Some(line) = next {
        let raw: RawCall = lines.json(&line, FIELDS)?;
        if raw.input_length == 0 {
            return Err(lines.error("`input_length` is 0", "a prompt has at least one token"));
        }
        calls.push((lines.number, raw));
        next = lines.next()?;
    }
    let times: Vec<_> = calls.iter().map(|(_, raw)| raw.timestamp).collect();
    let tick = tick(times);
    // The session's name is its line, so a name in a report leads to the call.
    let mut sessions: Vec<_> = calls
        .into_iter()
        .map(|(line, raw)| {
            let call = TraceCall {
                at: Duration::from_millis(raw.timestamp),
                think: Duration::ZERO,
                joins: Vec::new(),
                input_tokens: raw.input_length,
                output_tokens: raw.output_length.max(1),
                blocks: runs(&raw.hash_ids),
            };
            single(format!("call-{line}"), 0, call)
        })
        .collect();
    sessions.sort_by_key(|session| session.agents[0].calls[0].at);
    Ok(Parsed { kind: Kind::Open { tick }, block_tokens: BLOCK_TOKENS, sessions })
}

/// A session that is one call.
pub(super) fn single(id: String, space: u64, call: TraceCall) -> Session {
    let agent = Agent { name: None, after: None, delay: Duration::ZERO, calls: vec![call] };
    Session { id, space, system_tokens: 0, agents: vec![agent] }
}

/// The step of the recording's clock: the median distance of different time stamps, where
/// so many calls share theirs that chance cannot explain it; else none.
fn tick(mut times: Vec<u64>) -> Duration {
    let calls = times.len();
    times.sort_unstable();
    times.dedup();
    if times.len() * 2 > calls || times.len() < 2 {
        return Duration::ZERO;
    }
    let mut steps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_unstable();
    Duration::from_millis(steps[steps.len() / 2])
}

/// Consecutive ids as runs.
fn runs(ids: &[u64]) -> Vec<Run> {
    ids.chunk_by(|a, b| a.checked_add(1) == Some(*b))
        .map(|ids| Run { start: ids[0], blocks: ids.len() as u32 })
        .collect()
}
