//! What of a trace can be replayed at all: prompts too long for a replica.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Kind, Session, Trace};

/// Which sessions, and how much of them, are replayed. By default all of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fit {
    /// Tokens that one replica can hold. Sessions with a call whose prompt and answer
    /// exceed it are left out, since no replica could ever serve them. Default: none.
    pub replica_tokens: Option<u64>,
    /// Leaves out sessions with a prompt longer than this, in tokens. Default: none.
    pub prompt_tokens_max: Option<u64>,
    /// Ends sessions before their first prompt longer than this, in tokens; those that
    /// begin with one are left out. Default: none.
    pub prompt_tokens_cut: Option<u64>,
    /// Ends sessions after this many calls. Default: none.
    pub calls_per_session_max: Option<usize>,
}

/// What [`Trace::fit`] took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Sessions that are not replayed.
    pub sessions: usize,
    /// Their calls.
    pub calls: usize,
    /// Sessions that end earlier than recorded.
    pub sessions_cut: usize,
    /// The calls that they lost.
    pub calls_cut: usize,
}

impl Trace {
    /// Takes away what cannot or shall not be replayed, and says how much that was.
    pub fn fit(&mut self, fit: &Fit) -> LeftOut {
        let mut left = LeftOut::default();
        self.sessions.retain_mut(|session| {
            let before = session.calls();
            let end = session.end(fit);
            if let Some(end) = end {
                session.end_before(end);
            }
            if session.calls() == 0 || session.exceeds(fit) {
                left.sessions += 1;
                left.calls += before;
                return false;
            }
            left.sessions_cut += usize::from(session.calls() < before);
            left.calls_cut += before - session.calls();
            true
        });
        if let Kind::Open { .. } = self.kind {
            // One call a session: what is cut is left out.
            debug_assert_eq!(left.sessions_cut, 0, "an open session has one call");
        }
        left
    }
}

impl Session {
    fn exceeds(&self, fit: &Fit) -> bool {
        self.agents.iter().flat_map(|agent| &agent.calls).any(|call| {
            let prompt = u64::from(call.input_tokens);
            fit.replica_tokens.is_some_and(|max| prompt + u64::from(call.output_tokens) > max)
                || fit.prompt_tokens_max.is_some_and(|max| prompt > max)
        })
    }

    /// When the session ends by the rules that cut; `None` where they do not.
    fn end(&self, fit: &Fit) -> Option<Duration> {
        let calls = || self.agents.iter().flat_map(|agent| &agent.calls);
        let long = fit.prompt_tokens_cut.and_then(|max| {
            calls().filter(|call| u64::from(call.input_tokens) > max).map(|call| call.at).min()
        });
        let many = fit.calls_per_session_max.and_then(|max| self.time_of(max));
        long.into_iter().chain(many).min()
    }

    /// The recorded time of the call that comes after `calls` others; `None` where there is
    /// none.
    fn time_of(&self, calls: usize) -> Option<Duration> {
        let mut times: Vec<_> =
            self.agents.iter().flat_map(|agent| &agent.calls).map(|call| call.at).collect();
        times.sort_unstable();
        times.get(calls).copied()
    }

    /// Drops all but the first `calls` calls; those that share their time with a dropped one
    /// go too.
    pub(crate) fn keep_first(&mut self, calls: usize) {
        if let Some(end) = self.time_of(calls) {
            self.end_before(end);
        }
    }

    /// Drops all calls from `end` of the recording's time on, and what depends on them.
    pub(crate) fn end_before(&mut self, end: Duration) {
        for agent in &mut self.agents {
            agent.calls.retain(|call| call.at < end);
        }
        let main_calls = self.agents[0].calls.len();
        // Agents keep their places, since calls refer to them by index; an agent without
        // calls never starts.
        let whole: Vec<_> = self
            .agents
            .iter()
            .enumerate()
            .map(|(index, agent)| index == 0 || agent.after.is_none_or(|call| call < main_calls))
            .collect();
        for (agent, whole) in self.agents.iter_mut().zip(&whole) {
            if !whole {
                agent.calls.clear();
            }
        }
        let alive: Vec<_> = self.agents.iter().map(|agent| !agent.calls.is_empty()).collect();
        for call in &mut self.agents[0].calls {
            call.joins.retain(|agent| alive[*agent]);
        }
    }
}
