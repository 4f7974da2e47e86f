//! Calls of a chat service: one JSON object a line, arriving whatever the server does.
//!
//! The trace does not say which calls belong together, but its block ids do: a prompt that
//! begins with all whole blocks of an earlier prompt goes on with that conversation, and is
//! given its name. (In the recording at hand a third of the calls do, and that explains 31
//! of the 37 % of blocks that repeat.)

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
    calls.sort_by_key(|(line, raw)| (raw.timestamp, *line));
    let mut conversations = Conversations::default();
    let sessions = calls
        .into_iter()
        .map(|(line, raw)| {
            // The name is a line, so a name in a report leads to the call.
            let name = format!("call-{}", conversations.line_of(line, &raw));
            let call = TraceCall {
                at: Duration::from_millis(raw.timestamp),
                think: Duration::ZERO,
                joins: Vec::new(),
                input_tokens: raw.input_length,
                output_tokens: raw.output_length.max(1),
                blocks: runs(&raw.hash_ids),
            };
            single(name, 0, call)
        })
        .collect();
    Ok(Parsed { kind: Kind::Open { tick }, block_tokens: BLOCK_TOKENS, sessions })
}

/// Fewest blocks that make a conversation: calls that share only the first are taken to
/// share no more than a system prompt.
const CONVERSATION_BLOCKS_MIN: usize = 2;

/// The whole blocks of each prompt so far, as a hash, with the line that began its
/// conversation.
#[derive(Default)]
struct Conversations(HashMap<u64, usize>);

impl Conversations {
    /// The line of the first call of the conversation that this call goes on with, or
    /// begins.
    fn line_of(&mut self, line: usize, call: &RawCall) -> usize {
        let (mut chain, mut first) = (0, line);
        let mut whole = None;
        for (index, id) in call.hash_ids.iter().enumerate() {
            chain = xxh3_64_with_seed(&id.to_le_bytes(), chain);
            let blocks = index + 1;
            if blocks < CONVERSATION_BLOCKS_MIN {
                continue;
            }
            // The deepest one counts: a conversation may have branched off another.
            if let Some(known) = self.0.get(&chain) {
                first = *known;
            }
            if blocks == (call.input_length / BLOCK_TOKENS) as usize {
                whole = Some(chain);
            }
        }
        if let Some(whole) = whole {
            self.0.insert(whole, first);
        }
        first
    }
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
