use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use paceline_core::clock::run_virtual;
use paceline_core::{BoxFuture, CacheStatus, Error, ErrorKind, Origin, Retry};

use super::*;
use crate::target::{ReplicaStats, Request, Response};
use crate::trace::{Agent, Run, Session, TraceCall};

/// A call that arrived: its run, its agent, and when, in ms.
type Seen = (String, Option<String>, u64);

/// An engine without queues: the first token after `ttft`, then one each `step`, and one
/// chunk for every `per_chunk` tokens.
struct Fake {
    clock: Clock,
    ttft: Duration,
    step: Duration,
    per_chunk: u64,
    /// What happens to the calls with these numbers, in the order of their arrival.
    faults: Vec<(usize, Fault)>,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Clone, Copy)]
enum Fault {
    Refuse,
    Status,
    ErrorEvent,
    NoDone,
    Hang,
    Hit,
}

impl Fake {
    fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            ttft: Duration::from_secs(1),
            step: Duration::from_millis(10),
            per_chunk: 1,
            faults: Vec::new(),
            seen: Mutex::default(),
        }
    }

    async fn answer(&self, request: Request) -> Result<Response, Failure> {
        let now = self.clock.now().as_nanos();
        let number = {
            let mut seen = self.seen.lock();
            seen.push((request.run.clone(), request.agent.clone(), now / 1_000_000));
            seen.len() - 1
        };
        let fault = self.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
        let tokens = max_tokens(&request.body);
        let mut status = 200;
        let mut events = Vec::new();
        let (clock, ttft, step) = (self.clock.clone(), self.ttft, self.step);
        match fault {
            Some(Fault::Refuse) => {
                let retry = Retry::Never;
                return Err(
                    Error::new(ErrorKind::Overloaded, Origin::Paceline, retry, "full").into()
                );
            }
            Some(Fault::Status) => {
                status = 500;
                events.push((0, "it broke".to_owned()));
            }
            Some(Fault::ErrorEvent) => events.push((0, "data: {\"error\":{}}\n\n".to_owned())),
            Some(Fault::Hang) => clock.sleep(Duration::from_secs(1_000_000)).await,
            // A kept answer has the stamps of the call that made it.
            Some(Fault::Hit) => events.push((0, stream(0..tokens, |at| at, tokens, true))),
            Some(Fault::NoDone) | None => {
                let at =
                    move |token: u64| now + ttft.as_nanos() as u64 + token * step.as_nanos() as u64;
                let mut token = 0;
                while token < tokens {
                    let end = (token + self.per_chunk).min(tokens);
                    let done = end == tokens && fault.is_none();
                    events.push((at(end - 1), stream(token..end, at, tokens, done)));
                    token = end;
                }
            }
        }
        let events = futures_util::stream::iter(events);
        let body = futures_util::StreamExt::then(events, move |(at, text)| {
            let clock = clock.clone();
            async move {
                clock.sleep_until(Instant::from_nanos(at)).await;
                Ok(Bytes::from(text))
            }
        });
        let cache =
            if matches!(fault, Some(Fault::Hit)) { CacheStatus::Hit } else { CacheStatus::Miss };
        Ok(Response {
            status,
            replica: (cache == CacheStatus::Miss)
                .then(|| format!("r{}", request.session % 2).into()),
            cache: Some(cache),
            body: Box::pin(body),
        })
    }
}

impl Target for Fake {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Failure>> {
        Box::pin(self.answer(request))
    }
}

impl Probe for Fake {
    fn sample(&self) -> Vec<ReplicaStats> {
        let waiting = self.seen.lock().len();
        ["r0", "r1"]
            .map(|name| ReplicaStats { name: name.into(), running: 1, waiting, kv_usage: 0.5 })
            .into()
    }
}

fn stream(tokens: std::ops::Range<u64>, at: impl Fn(u64) -> u64, all: u64, done: bool) -> String {
    let mut text = String::new();
    for token in tokens {
        let stamp = at(token);
        text += &format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"x\"}}}}],\"sim_ns\":{stamp}}}\n\n"
        );
    }
    if done {
        text += &format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":100,\"completion_tokens\":{all},\
             \"prompt_tokens_details\":{{\"cached_tokens\":25}}}},\"sim_ns\":1}}\n\ndata: [DONE]\n\n"
        );
    }
    text
}

fn max_tokens(body: &[u8]) -> u64 {
    serde_json::from_slice::<serde_json::Value>(body).unwrap()["max_tokens"].as_u64().unwrap()
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn call(at: f64, think: f64, output_tokens: u32) -> TraceCall {
    TraceCall {
        at: secs(at),
        think: secs(think),
        joins: Vec::new(),
        input_tokens: 100,
        output_tokens,
        blocks: vec![Run { start: 1, blocks: 1 }],
    }
}

fn agent(name: Option<&str>, after: Option<usize>, delay: f64, calls: Vec<TraceCall>) -> Agent {
    Agent { name: name.map(str::to_owned), after, delay: secs(delay), calls }
}

fn trace(kind: Kind, sessions: Vec<Vec<Agent>>) -> Arc<Trace> {
    let sessions = sessions
        .into_iter()
        .enumerate()
        .map(|(index, agents)| Session {
            id: format!("s{index}"),
            space: index as u64,
            system_tokens: 0,
            agents,
        })
        .collect();
    Arc::new(Trace {
        name: "t".to_owned(),
        sha256: String::new(),
        kind,
        block_tokens: 64,
        sessions,
    })
}

/// Three sessions of two calls with 101 tokens, so 2 s each: think times 1, 2 and 100 s.
fn three() -> Arc<Trace> {
    let session =
        |think| vec![agent(None, None, 0.0, vec![call(0.0, 0.0, 101), call(9.0, think, 101)])];
    trace(Kind::Closed, vec![session(1.0), session(2.0), session(100.0)])
}

fn config() -> Config {
    Config { active: 1, start_spread: Duration::ZERO, ..Config::default() }
}

fn replay(trace: &Arc<Trace>, config: Config, fake: fn(&mut Fake)) -> (Report, Vec<Seen>) {
    let trace = Arc::clone(trace);
    run_virtual(|clock| async move {
        let mut target = Fake::new(&clock);
        fake(&mut target);
        let target = Arc::new(target);
        let replay = Replay {
            trace,
            config,
            target: Arc::clone(&target) as Arc<dyn Target>,
            probe: Some(Arc::clone(&target) as Arc<dyn Probe>),
            clock,
            on_progress: None,
            meta: Meta::default(),
        };
        let report = replay.run().await.report;
        let seen = target.seen.lock().clone();
        (report, seen)
    })
    .unwrap()
}

#[test]
fn a_closed_loop_by_hand() {
    let (report, seen) = replay(&three(), config(), |_| {});
    // Each session takes 2 + think + 2 s, the long think capped at 60 s; they follow at once.
    let thinks = |run: &str| match run {
        "s0.1" => 1000,
        "s1.1" => 2000,
        _ => 60_000,
    };
    let mut now = 0;
    for pair in seen.chunks(2) {
        assert_eq!(pair[0].0, pair[1].0);
        assert_eq!((pair[0].2, pair[1].2), (now, now + 2000 + thinks(&pair[0].0)));
        now = pair[1].2 + 2000;
    }
    assert_eq!(report.throughput.makespan_s, 75.0);
    assert_eq!(report.calls.completed, 6);
    let ttft = &report.ttft_ms;
    assert_eq!(
        (ttft.count, ttft.mean, ttft.p50, ttft.p99, ttft.max),
        (6, 1000.0, 1000.0, 1000.0, 1000.0)
    );
    assert_eq!((report.end_to_end_ms.p50, report.end_to_end_ms.max), (2000.0, 2000.0));
    assert_eq!((report.inter_token_ms.count, report.inter_token_ms.mean), (600, 10.0));
    let runs = &report.runs.completion_s;
    assert_eq!((runs.count, runs.p50, runs.max, runs.mean), (3, 6.0, 64.0, 25.0));
    assert_eq!(report.tokens.output, 606);
    assert_eq!(report.prefix_hit_ratio, Some(0.25));
    assert_eq!(report.calls.upstream, 6);
    assert_eq!(report.replicas.iter().map(|r| r.calls).sum::<usize>(), 6);
    assert_eq!(report.replicas[0].running.mean[0], Some(1.0));
    assert_eq!(report.prefix_hit_over_time.mean[0], Some(0.25));
    assert!(report.valid, "{:?}", report.invalid);
}

#[test]
fn coalesced_chunks_change_nothing() {
    let (one, seen) = replay(&three(), config(), |_| {});
    let (many, seen_many) = replay(&three(), config(), |fake| fake.per_chunk = 40);
    assert_eq!(seen, seen_many);
    assert_eq!(one.to_json(), many.to_json());
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_do_not() {
    let config = |seed| Config { seed, active: 2, ..Config::default() };
    let json = |seed| replay(&three(), config(seed), |_| {}).0.to_json();
    assert_eq!(json(5), json(5));
    assert_ne!(json(5), json(6).replace("\"seed\": 6", "\"seed\": 5"));
    let report: Report = serde_json::from_str(&json(5)).unwrap();
    assert_eq!(report.to_json(), json(5));
}

#[test]
fn active_sessions_run_at_once() {
    let (report, _) = replay(&three(), Config { active: 3, ..config() }, |_| {});
    assert_eq!(report.throughput.makespan_s, 64.0);
    let (report, seen) = replay(&three(), Config { active: 9, ..Config::default() }, |_| {});
    assert_eq!(report.load.active, Some(3));
    // Starts are spread over a minute.
    let starts: Vec<_> = seen.iter().map(|seen| seen.2).collect();
    assert!(starts.iter().any(|at| *at > 1000 && *at < 60_000), "{starts:?}");
}

#[test]
fn sub_agents_start_and_are_waited_for() {
    let mut joined = call(20.0, 3.0, 101);
    joined.joins = vec![1];
    let agents = vec![
        agent(None, None, 0.0, vec![call(0.0, 0.0, 101), joined, call(30.0, 1.0, 101)]),
        agent(Some("sub"), Some(0), 5.0, vec![call(5.0, 0.0, 201), call(9.0, 1.0, 101)]),
        agent(Some("late"), Some(1), 70.0, vec![call(25.0, 0.0, 101)]),
    ];
    let (report, seen) = replay(&trace(Kind::Closed, vec![agents]), config(), |_| {});
    let seen: Vec<_> = seen.iter().map(|(_, agent, at)| (agent.as_deref(), *at)).collect();
    // main 0-2, sub 7-10 and 11-13, main 16-18, main 19-21, late (capped) 78-80.
    assert_eq!(
        seen,
        [
            (None, 0),
            (Some("sub"), 7000),
            (Some("sub"), 11_000),
            (None, 16_000),
            (None, 19_000),
            (Some("late"), 78_000)
        ]
    );
    assert_eq!(report.runs.completion_s.max, 80.0);
}

fn arrivals() -> Arc<Trace> {
    let single = |at| vec![agent(None, None, 0.0, vec![call(at, 0.0, 101)])];
    let tick = secs(3.0);
    trace(Kind::Open { tick }, [0.0, 0.0, 3.0, 3.0, 6.0].map(single).into())
}

#[test]
fn open_arrivals_keep_their_times() {
    let plain = Config { spread_ticks: false, rate: 2.0, ..Config::default() };
    let (report, seen) = replay(&arrivals(), plain.clone(), |_| {});
    assert_eq!(seen.iter().map(|seen| seen.2).collect::<Vec<_>>(), [0, 0, 1500, 1500, 3000]);
    assert_eq!(report.throughput.makespan_s, 5.0);
    assert_eq!(report.load.rate, Some(2.0));
    let (_, seen) = replay(&arrivals(), Config { calls_max: Some(2), ..plain }, |_| {});
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].2, 0);
    let (_, seen) = replay(&arrivals(), Config::default(), |_| {});
    let times: Vec<_> = seen.iter().map(|seen| seen.2).collect();
    assert!(times.is_sorted() && times[0] > 0 && times[1] < 3000, "{times:?}");
    assert!((3000..6000).contains(&times[3]), "{times:?}");
}

#[test]
fn bounds_of_calls_and_time() {
    let check = |config: Config, calls: usize, completed: usize, cut: usize| {
        let (report, seen) = replay(&three(), config.clone(), |_| {});
        assert_eq!(seen.len(), calls, "{config:?}");
        assert_eq!((report.runs.completed, report.runs.cut), (completed, cut), "{config:?}");
    };
    check(Config { calls_max: Some(3), ..config() }, 3, 2, 0);
    check(Config { sessions_max: Some(2), ..config() }, 4, 2, 0);
    check(Config { time_max: Some(secs(1.0)), ..config() }, 1, 0, 1);
}

#[test]
fn failures_are_counted_and_the_agent_goes_on() {
    for (fault, kind, message, lasts_s) in [
        (Fault::Refuse, FailureKind::Rejected, "full", 0),
        (Fault::Status, FailureKind::Rejected, "status 500: it broke", 0),
        (Fault::ErrorEvent, FailureKind::Error, "{\"error\":{}}", 0),
        (Fault::NoDone, FailureKind::Broken, "the stream ended without `[DONE]`", 2),
        (Fault::Hang, FailureKind::Timeout, "no end within 30 s", 30),
    ] {
        let calls = vec![call(0.0, 0.0, 101), call(1.0, 5.0, 101), call(2.0, 5.0, 101)];
        let trace = trace(Kind::Closed, vec![vec![agent(None, None, 0.0, calls)]]);
        let config = Config { call_timeout: secs(30.0), ..config() };
        static FAULT: Mutex<Option<Fault>> = Mutex::new(None);
        *FAULT.lock() = Some(fault);
        let (report, seen) = replay(&trace, config, |fake| {
            fake.faults = FAULT.lock().iter().map(|fault| (1, *fault)).collect();
        });
        let times: Vec<_> = seen.iter().map(|seen| seen.2 / 1000).collect();
        assert_eq!(times, [0, 7, 12 + lasts_s], "{message}");
        assert_eq!((report.calls.completed, report.calls.failed), (2, 1), "{message}");
        let [found] = &report.calls.failures[..] else { panic!("{:?}", report.calls) };
        assert_eq!((found.kind, found.count, found.example.as_str()), (kind, 1, message));
        assert_eq!(report.ttft_ms.count, 2);
        assert_eq!((report.runs.completed, report.runs.with_failures), (0, 1));
    }
}

#[test]
fn kept_answers_are_saved_calls_and_have_no_stale_stamps() {
    let (report, seen) = replay(&three(), config(), |fake| {
        fake.faults = vec![(1, Fault::Hit), (2, Fault::Hit)];
    });
    assert_eq!(seen.len(), 6);
    assert_eq!((report.calls.saved_hit, report.calls.upstream), (2, 4));
    assert_eq!((report.tokens.input, report.tokens.cached), (400, 100));
    // A hit takes no time, and its tokens came together: no gaps between them.
    assert_eq!(report.ttft_ms.p50, 1000.0);
    assert_eq!(report.ttft_ms.cdf[0], [0.0, 0.33]);
    assert_eq!((report.inter_token_ms.count, report.inter_token_ms.p50), (400, 10.0));
}

#[test]
fn progress_is_told() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    run_virtual(|clock| async move {
        let replay = Replay {
            trace: three(),
            config: config(),
            target: Arc::new(Fake::new(&clock)),
            probe: None,
            clock,
            on_progress: Some(Arc::new(|progress| {
                if progress.calls_done == 6 {
                    assert_eq!((progress.calls_total, progress.calls_failed), (6, 0));
                    assert_eq!(progress.elapsed, secs(75.0));
                    TOLD.store(true, Ordering::Relaxed);
                }
            })),
            meta: Meta::default(),
        };
        replay.run().await
    })
    .unwrap();
    assert!(TOLD.load(Ordering::Relaxed));
}
