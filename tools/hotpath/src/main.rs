//! `hotpath NAME COUNT` does one thing of the request path COUNT times, and nothing else.
//!
//! `cargo xtask bench instructions` runs it under valgrind with two counts; the difference
//! is what the thing takes, without its preparation. `hotpath` alone lists the names.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use paceline_cache::{Key, Memory, MemoryConfig};
use paceline_core::{
    Body, CacheMode, CacheStatus, Call, CallId, Caller, Clock, Deadline, Endpoint, RawRequest,
    Reply,
};
use paceline_dialect::{sse, wire};
use paceline_route::{Affinity, Ask, HealthConfig, LeastOfTwo, Outcome, Policy, Pool, Target};
use paceline_telemetry::metrics::{Histogram, Registry};

/// A thing of the request path: its name, and what does it so many times.
type Thing = (&'static str, fn(u32));

const THINGS: &[Thing] = &[
    ("scan a body of 1 KiB", |count| scan(1 << 10, count)),
    ("scan a body of 32 KiB", |count| scan(32 << 10, count)),
    ("key of a call of 1 KiB", |count| key(1 << 10, count)),
    ("key of a call of 32 KiB", |count| key(32 << 10, count)),
    ("memory hit of 1 KiB", |count| hit(1 << 10, count)),
    ("memory hit of 32 KiB", |count| hit(32 << 10, count)),
    ("split 52 events", split),
    ("usage of a whole reply", usage),
    ("identifiers of a call", identifiers),
    ("least loaded of 8", |count| route(Box::new(LeastOfTwo), count)),
    ("affinity among 8", |count| route(Box::<Affinity>::default(), count)),
    ("record a latency", record),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, _) in THINGS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let count = arguments.next().and_then(|count| count.parse().ok());
    let thing = THINGS.iter().find(|(known, _)| *known == name);
    let (Some(count), Some((_, run))) = (count, thing) else {
        eprintln!("usage: hotpath [NAME COUNT]");
        return ExitCode::FAILURE;
    };
    run(count);
    ExitCode::SUCCESS
}

fn scan(bytes: usize, count: u32) {
    let (path, body) = (Bytes::new(), body(bytes));
    for _ in 0..count {
        black_box(wire::fields(Endpoint::Chat, &path, black_box(&body)))
            .expect("the body is a valid request");
    }
}

fn key(bytes: usize, count: u32) {
    let call = call(bytes);
    for _ in 0..count {
        black_box(Key::of(black_box(&call)));
    }
}

fn hit(bytes: usize, count: u32) {
    let call = Arc::new(call(bytes));
    let mut registry = Registry::default();
    let metrics = paceline_cache::Metrics::register(&mut registry);
    let memory = Memory::new(MemoryConfig::default(), Clock::real(), metrics);
    let key = Key::of(&call);
    memory.keep(&call, key, reply());
    for _ in 0..count {
        black_box(memory.peek(black_box(&call), key)).expect("the reply was kept");
    }
}

fn split(count: u32) {
    let event = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\
                 \"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
    let burst = Bytes::from(event.repeat(51) + "data: [DONE]\n\n");
    for _ in 0..count {
        let mut splitter = sse::Splitter::default();
        black_box(splitter.push(black_box(burst.clone()))).expect("no event is long");
    }
}

fn usage(count: u32) {
    let Body::Whole(body) = reply().body else { return };
    for _ in 0..count {
        black_box(wire::usage(Endpoint::Chat, black_box(&body)))
            .expect("the reply tells its usage");
    }
}

fn identifiers(count: u32) {
    for _ in 0..count {
        black_box(CallId::fresh(black_box(None)));
    }
}

fn route(policy: Box<dyn Policy>, count: u32) {
    let target =
        |number| Arc::new(Target::new(format!("replica-{number}"), HealthConfig::default()));
    let pool = Pool::new((0..8).map(target).collect(), policy, Clock::real());
    let ask = Ask { tenant: None, run: Some("run-17"), agent: None, bytes: 4096 };
    for _ in 0..count {
        let mut lease = pool.lease(black_box(&ask), 0).expect("all are usable");
        lease.report(Outcome::Answered);
    }
}

fn record(count: u32) {
    let histogram = Histogram::new(&[1_000_000, 10_000_000, 100_000_000, 1_000_000_000]);
    for _ in 0..count {
        histogram.record(black_box(Duration::from_millis(37)));
    }
}

/// A request of so many bytes, with words and escaped code as agents send them.
fn body(bytes: usize) -> Bytes {
    let before =
        "{\"model\":\"bench\",\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":\"";
    let after = "\"}],\"stream\":false,\"metadata\":{\"paceline_run\":\"run-17\"}}";
    let text = "read the file and say what it does.\\n    fn main() { println!(\\\"hello\\\") } ";
    let room = bytes - before.len() - after.len();
    // Whole repetitions only, so that no escape is cut.
    let content = text.repeat(room / text.len());
    let rest = ".".repeat(room - content.len());
    Bytes::from(format!("{before}{content}{rest}{after}"))
}

fn call(bytes: usize) -> Call {
    let body = body(bytes);
    let fields =
        wire::fields(Endpoint::Chat, &Bytes::new(), &body).expect("the body is a valid request");
    let (run, id) = CallId::fresh(None);
    let clock = Clock::real();
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::AUTHORIZATION, HeaderValue::from_static("Bearer key")),
        (header::USER_AGENT, HeaderValue::from_static("bench/1")),
    ]);
    Call {
        id,
        run,
        run_named: false,
        parent: None,
        agent: None,
        caller: Caller { tenant: None, credential: [7; 32] },
        deadline: Deadline(None),
        cache: CacheMode::Auto,
        priority: 5,
        arrived: clock.now(),
        request: RawRequest {
            endpoint: Endpoint::Chat,
            method: Method::POST,
            path: Bytes::from_static(b"/v1/chat/completions"),
            headers,
            body,
            fields,
        },
    }
}

fn reply() -> Reply {
    let body = format!(
        "{{\"id\":\"c\",\"object\":\"chat.completion\",\"model\":\"bench\",\"choices\":[{{\"index\":0,\
         \"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}},\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":7,\"total_tokens\":16}}}}",
        "words ".repeat(128)
    );
    let json = HeaderValue::from_static("application/json");
    Reply {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, json)]),
        body: Body::Whole(Bytes::from(body)),
        cache: CacheStatus::Miss,
        deployment: None,
    }
}
