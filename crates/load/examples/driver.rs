//! What the replay itself costs: it replays a slice against made-up replicas that cost next
//! to nothing, on several seeds and arms, prints the cost per call, and writes the page.
//!
//! `cargo run --release -p paceline-load --example driver -- TRACE [CALLS] [PAGE.html]`
//!
//! The replicas are no model of an engine: slots, a prefill rate, and a memory of sessions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paceline_core::clock::run_virtual;
use paceline_core::{BoxFuture, Clock, Instant};
use paceline_load::report::html::{Page, page};
use paceline_load::report::table::{Look, table};
use paceline_load::{
    Arm, Comparison, Config, Cost, Failure, Fit, Kind, Meta, Outcome, Probe, Replay, ReplicaStats,
    Request, Response, Target, Trace,
};
use parking_lot::Mutex;

/// Slots of a replica: few for sessions that think, so that queues show; many for a stream
/// of arrivals, so that the replicas keep up.
const fn slots(kind: Kind) -> usize {
    match kind {
        Kind::Closed => 2,
        Kind::Open { .. } => 128,
    }
}

const REPLICAS: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Fixed,
    RoundRobin,
    LeastWaiting,
}

struct Fake {
    clock: Clock,
    way: Way,
    slots: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    turn: usize,
    /// For each replica the times at which its slots are free.
    slots: Vec<Vec<u64>>,
    /// For each replica the calls that it has taken on: start and end.
    calls: Vec<Vec<(u64, u64)>>,
    /// For each session the replica of its last call, and its tokens.
    last: std::collections::HashMap<usize, (usize, u64)>,
}

impl Fake {
    fn answer(&self, request: &Request) -> Response {
        let now = self.clock.now().as_nanos();
        let tokens = request.body.len() as u64 / 4;
        let text = &request.body[request.body.len() - 140..];
        let at = memchr::memmem::find(text, b"max_tokens\":").map_or(0, |at| at + 12);
        let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit());
        let output = digits.fold(0, |n, digit| n * 10 + u64::from(digit - b'0')).max(1);
        let mut state = self.state.lock();
        let State { turn, slots, calls, last } = &mut *state;
        slots.resize(REPLICAS, vec![0; self.slots]);
        calls.resize(REPLICAS, Vec::new());
        *turn += 1;
        let free = |replica: usize| slots[replica].iter().copied().min().unwrap_or(0);
        let held = last.get(&request.session).copied();
        let replica = match self.way {
            Way::Fixed => request.session % REPLICAS,
            Way::RoundRobin => *turn % REPLICAS,
            Way::LeastWaiting => match held {
                Some((replica, _)) if free(replica) < now + 2_000_000_000 => replica,
                _ => (0..REPLICAS).min_by_key(|r| free(*r)).unwrap_or(0),
            },
        };
        let cached =
            held.filter(|held| held.0 == replica).map_or(0, |held| held.1.min(tokens) / 16 * 16);
        last.insert(request.session, (replica, tokens));
        let busy = calls[replica].iter().filter(|call| call.1 > now).count() as u64;
        let slot = slots[replica].iter_mut().min().expect("a replica has slots");
        let start = now.max(*slot);
        let (prefill, step) = ((tokens - cached) * 45_000, 7_000_000 + 250_000 * busy);
        let first = start + 15_000_000 + prefill;
        *slot = first + step * output;
        calls[replica].push((start, *slot));
        if calls[replica].len() > 4000 {
            calls[replica].retain(|call| call.1 > now);
        }
        drop(state);
        let clock = self.clock.clone();
        let events = futures_util::stream::unfold(0, move |token| {
            let clock = clock.clone();
            async move {
                if token > output {
                    return None;
                }
                let at = first + token.min(output - 1) * step;
                clock.sleep_until(Instant::from_nanos(at)).await;
                let text = if token < output {
                    format!(
                        "data: {{\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"sim\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word\"}},\"finish_reason\":null}}],\"sim_ns\":{at}}}\n\n"
                    )
                } else {
                    format!(
                        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{tokens},\"completion_tokens\":{output},\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}},\"sim_ns\":{at}}}\n\ndata: [DONE]\n\n"
                    )
                };
                Some((Ok(Bytes::from(text)), token + 1))
            }
        });
        Response {
            status: 200,
            replica: Some(format!("replica-{replica}").into()),
            cache: None,
            body: Box::pin(events),
        }
    }
}

impl Target for Fake {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Failure>> {
        Box::pin(async move { Ok(self.answer(&request)) })
    }
}

impl Probe for Fake {
    fn sample(&self) -> Vec<ReplicaStats> {
        let (now, state) = (self.clock.now().as_nanos(), self.state.lock());
        let of = |replica: usize| {
            let calls = state.calls.get(replica).map_or(&[][..], |calls| calls);
            let running = calls.iter().filter(|c| c.0 <= now && now < c.1).count();
            let waiting = calls.iter().filter(|c| c.0 > now).count();
            let kv_usage = running as f64 / self.slots as f64;
            ReplicaStats { name: format!("replica-{replica}").into(), running, waiting, kv_usage }
        };
        (0..REPLICAS).map(of).collect()
    }
}

fn run(
    trace: &Arc<Trace>,
    config: &Config,
    way: Way,
    arm: &str,
    fit: paceline_load::LeftOut,
) -> Outcome {
    let (trace, config) = (Arc::clone(trace), config.clone());
    let meta = Meta {
        arm: arm.to_owned(),
        command: format!("driver --seed {}", config.seed),
        facts: vec![("Replicas".to_owned(), format!("{REPLICAS}, made up"))],
        simulated: true,
        left_out: fit,
    };
    run_virtual(|clock| async move {
        let fake = Arc::new(Fake {
            clock: clock.clone(),
            way,
            slots: slots(trace.kind),
            state: Mutex::default(),
        });
        let probe = Arc::clone(&fake) as Arc<dyn Probe>;
        let replay = Replay {
            trace,
            config,
            target: fake,
            probe: Some(probe),
            clock,
            on_progress: None,
            meta,
        };
        replay.run().await
    })
    .expect("the replay goes on")
}

fn main() {
    let mut args = std::env::args().skip(1);
    let file = PathBuf::from(args.next().expect("a trace"));
    let calls = args.next().map_or(2000, |calls| calls.parse().expect("a number of calls"));
    let out = args.next();
    let read = std::time::Instant::now();
    let mut trace = Trace::read(&file).expect("a trace");
    println!("read {} calls in {:?}", trace.calls(), read.elapsed());
    let left = trace.fit(&Fit { replica_tokens: Some(427_000), ..Fit::default() });
    let trace = Arc::new(trace);
    let ways = [
        ("fixed replica", Way::Fixed, true),
        ("round robin", Way::RoundRobin, true),
        ("Paceline", Way::LeastWaiting, false),
    ];
    let mut cost = Cost::default();
    let mut arms = Vec::new();
    for (name, way, baseline) in ways {
        let mut reports = Vec::new();
        for seed in 1..=4 {
            let config = Config {
                seed,
                calls_max: Some(calls),
                active: 32,
                call_timeout: Duration::from_secs(7200),
                ..Config::default()
            };
            let outcome = run(&trace, &config, way, name, left);
            cost.wall += outcome.cost.wall;
            cost.text += outcome.cost.text;
            cost.scan += outcome.cost.scan;
            cost.body_bytes += outcome.cost.body_bytes;
            cost.stream_bytes += outcome.cost.stream_bytes;
            cost.calls += outcome.cost.calls;
            reports.push(outcome.report);
        }
        arms.push(Arm { name: name.to_owned(), baseline, reports });
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / cost.calls as f64;
    println!(
        "{} calls, {:.1} s: {:.0} µs a call, of which text {:.0} µs ({:.2} GB/s), scan {:.0} µs ({:.2} GB/s)",
        cost.calls,
        cost.wall.as_secs_f64(),
        each(cost.wall),
        each(cost.text),
        cost.body_bytes as f64 / cost.text.as_secs_f64() / 1e9,
        each(cost.scan),
        cost.stream_bytes as f64 / cost.scan.as_secs_f64() / 1e9,
    );
    let kind = if trace.kind == Kind::Closed { "Coding-agent sessions" } else { "Chat service" };
    let comparison = Comparison::new(kind, arms).expect("arms with equal work");
    println!("{}", table(std::slice::from_ref(&comparison), Look::default()));
    if let Some(out) = out {
        let head = Page {
            title: "The same fleet with and without Paceline".to_owned(),
            lead:
                "Recorded agent sessions, replayed in virtual time against four made-up replicas: \
                   straight to a fixed replica, round robin, and through Paceline."
                    .to_owned(),
            version: "0.1.0".to_owned(),
        };
        std::fs::write(out, page(&head, &[comparison])).expect("the page can be written");
    }
}
