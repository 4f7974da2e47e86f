//! Sessions of a coding agent: one JSON object a line, in closed loop.
//!
//! The calls of sub-agents overlap those of the main agent. Each agent becomes a thread of
//! its own, tied to the main one where the recording shows a tie: it starts after the last
//! answer that the main agent had by then, and where it ended before the main agent's next
//! call, that call is taken to have waited for it. (In the recordings at hand 8 of 48
//! sub-agents ran so; the others ran beside several calls of the main agent.)

use std::time::Duration;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use super::{Agent, Kind, Lines, Parsed, Run, Session, TraceCall, TraceError};

const FIELDS: &str = "`id`, `block`, `tool`, `sys` and `reqs`, and each request `t` (s), `a` \
    (agent or null), `i`, `o` (tokens), `h` (runs [start, blocks]), `api` and `think` (s or null)";

#[derive(Deserialize)]
struct RawSession {
    id: String,
    block: u32,
    #[serde(default)]
    tool: u32,
    #[serde(default)]
    sys: u32,
    reqs: Vec<RawCall>,
}

#[derive(Deserialize)]
struct RawCall {
    t: f64,
    #[serde(default)]
    a: Option<String>,
    i: u32,
    #[serde(default)]
    o: Option<u32>,
    #[serde(default)]
    h: Vec<(u64, u32)>,
    #[serde(default)]
    api: Option<f64>,
    #[serde(default)]
    think: Option<f64>,
}

pub(super) fn read(first: String, lines: &mut Lines<'_>) -> Result<Parsed, TraceError> {
    let mut sessions = Vec::new();
    let mut block_tokens = None;
    let mut next = Some(first);
    while let Some(line) = next {
        let raw: RawSession = lines.json(&line, FIELDS)?;
        if raw.block == 0 || *block_tokens.get_or_insert(raw.block) != raw.block {
            let problem = format!("`block` is {}", raw.block);
            return Err(lines.error(problem, "all sessions have one block size above 0"));
        }
        if let Some((at, bad)) = raw.reqs.iter().enumerate().find(|(_, call)| !call.is_sound()) {
            let problem = format!("request {at} has `t` {}, `i` {}", bad.t, bad.i);
            return Err(lines.error(problem, "times are seconds from 0 to 1e9, and `i` is above 0"));
        }
        if !raw.reqs.is_empty() {
            sessions.push(session(raw));
        }
        next = lines.next()?;
    }
    Ok(Parsed { kind: Kind::Closed, block_tokens: block_tokens.unwrap_or(1), sessions })
}

impl RawCall {
    fn is_sound(&self) -> bool {
        let time = |s: f64| (0.0..=1e9).contains(&s);
        time(self.t) && self.i > 0 && self.api.is_none_or(time) && self.think.is_none_or(time)
    }

    fn end(&self) -> f64 {
        self.t + self.api.unwrap_or_default()
    }
}

fn session(mut raw: RawSession) -> Session {
    raw.reqs.sort_by(|a, b| a.t.total_cmp(&b.t));
    // The recording may begin with a sub-agent; whoever calls first and has no name is main.
    let mut threads: Vec<(Option<String>, Vec<RawCall>)> = vec![(None, Vec::new())];
    for mut call in raw.reqs {
        let name = call.a.take();
        match threads.iter_mut().find(|(known, _)| *known == name) {
            Some((_, calls)) => calls.push(call),
            None => threads.push((name, vec![call])),
        }
    }
    if threads[0].1.is_empty() {
        threads.remove(0);
    }
    let joins = joins(&threads);
    let main: Vec<(f64, f64)> = threads[0].1.iter().map(|call| (call.t, call.end())).collect();
    let block = raw.block;
    let system_tokens = (raw.tool + raw.sys) / block * block;
    // One boundary for all prompts of the main agent, or none: a boundary that moves would
    // part equal prefixes.
    let parted = threads[0].1.iter().all(|call| call.i >= system_tokens + block);
    let agents = threads
        .into_iter()
        .enumerate()
        .map(|(index, (name, calls))| {
            let starts = calls[0].t;
            let after =
                if index == 0 { None } else { main.iter().rposition(|(_, end)| *end <= starts) };
            let delay = starts - after.map_or(main[0].0.min(starts), |call| main[call].1);
            let calls = calls.into_iter().enumerate();
            let calls = calls
                .map(|(at, call)| {
                    let joins = joins.get(at).filter(|_| index == 0).cloned().unwrap_or_default();
                    neutral(call, at == 0, joins)
                })
                .collect();
            Agent { name, after, delay: seconds(delay), calls }
        })
        .collect();
    Session {
        space: xxh3_64(raw.id.as_bytes()),
        id: raw.id,
        system_tokens: if parted { system_tokens } else { 0 },
        agents,
    }
}

/// For each call of the main agent the sub-agents that it waits for, with the time at
/// which the last of them ended.
type Joins = Vec<(Vec<usize>, f64)>;

fn joins(threads: &[(Option<String>, Vec<RawCall>)]) -> Joins {
    let main = &threads[0].1;
    let mut joins = vec![(Vec::new(), 0.0f64); main.len()];
    for (index, (_, calls)) in threads.iter().enumerate().skip(1) {
        let (starts, ends) = (calls[0].t, calls.iter().map(RawCall::end).fold(0.0, f64::max));
        let Some(next) = main.iter().position(|call| call.t >= starts) else { continue };
        // The first call has nothing before it to start a sub-agent.
        if next > 0 && ends <= main[next].t {
            joins[next].0.push(index);
            joins[next].1 = joins[next].1.max(ends);
        }
    }
    joins
}

fn neutral(call: RawCall, first: bool, (joins, joined_at): (Vec<usize>, f64)) -> TraceCall {
    let think = match call.think {
        _ if first => 0.0,
        Some(think) if joins.is_empty() => think,
        None if joins.is_empty() => 0.0,
        _ => call.t - joined_at,
    };
    TraceCall {
        at: seconds(call.t),
        think: seconds(think),
        joins,
        input_tokens: call.i,
        output_tokens: call.o.unwrap_or_default().max(1),
        blocks: call.h.into_iter().map(|(start, blocks)| Run { start, blocks }).collect(),
    }
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or_default()
}
