//! One session: its agents' calls in the order in which the recording ties them together.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use paceline_core::Instant;

use crate::trace::Session;

use super::Shared;

/// How far the agents of a session have come.
struct State<'a> {
    session: &'a Session,
    start: Instant,
    think_max: Duration,
    agents: Vec<AgentState>,
    /// When each call of the main agent ended.
    main_ends: Vec<Instant>,
}

#[derive(Clone, Copy)]
struct AgentState {
    /// The next call to start.
    next: usize,
    running: bool,
    ended: Instant,
}

impl Shared {
    /// Replays a session that starts at `start`; returns when it ended.
    pub(super) async fn session(&self, index: usize, start: Instant) -> Instant {
        let item = &self.plan.items[index];
        let session = &item.session;
        let agent = AgentState { next: 0, running: false, ended: start };
        let mut state = State {
            session,
            start,
            think_max: self.config.think_max,
            agents: vec![agent; session.agents.len()],
            main_ends: Vec::new(),
        };
        let mut running = FuturesUnordered::new();
        let (mut end, mut cut, mut failed) = (start, false, 0);
        loop {
            for agent in 0..session.agents.len() {
                let Some(at) = state.ready(agent) else { continue };
                if self.is_over(at) {
                    cut = true;
                    continue;
                }
                let call = state.agents[agent].next;
                state.agents[agent].next += 1;
                state.agents[agent].running = true;
                running.push(async move { (agent, self.call(index, agent, call, at).await) });
            }
            let Some((agent, (at, ok))) = running.next().await else { break };
            state.ended(agent, at);
            end = end.max(at);
            failed += usize::from(!ok);
        }
        self.collector.lock().run_ended(end.since(start), cut, failed > 0);
        end
    }
}

impl State<'_> {
    /// When an agent's next call is to be sent; `None` while that is open, or never.
    fn ready(&self, index: usize) -> Option<Instant> {
        let (agent, state) = (&self.session.agents[index], self.agents[index]);
        let call = agent.calls.get(state.next).filter(|_| !state.running)?;
        let (mut from, wait) = match (state.next, agent.after) {
            (0, None) => (self.start, agent.delay),
            (0, Some(main)) => (*self.main_ends.get(main)?, agent.delay),
            _ => (state.ended, call.think),
        };
        for join in &call.joins {
            let joined = self.agents[*join];
            if joined.running || joined.next < self.session.agents[*join].calls.len() {
                return None;
            }
            from = from.max(joined.ended);
        }
        Some(from.after(wait.min(self.think_max)))
    }

    fn ended(&mut self, agent: usize, at: Instant) {
        self.agents[agent].running = false;
        self.agents[agent].ended = at;
        if agent == 0 {
            self.main_ends.push(at);
        }
    }
}
