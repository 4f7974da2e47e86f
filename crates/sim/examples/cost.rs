//! What a simulated call costs: CPU time of this process per call, parsing, hashing,
//! scheduling and writing events included, without a gateway.
//!
//! `zcat mooncake_conversation.jsonl.gz | cargo run --release --example cost` takes the
//! calls (`timestamp` in ms, `input_length`, `output_length`, `hash_ids` of 512 tokens) from
//! its input; without one, 4,000 calls of 12,000 tokens are made up. The first argument is
//! the number of replicas (4), the second speeds the arrivals up (1), the third sets the KV
//! tokens of a replica (those of the 8B shape).

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use http::HeaderMap;
use paceline_core::clock::run_virtual;
use paceline_core::{Body, Clock, Instant};
use paceline_sim::{Config, Local, Shape};

struct Call {
    at: Duration,
    input: usize,
    output: u64,
    blocks: Vec<u64>,
}

fn main() {
    let number = |n: usize, default: f64| {
        std::env::args().nth(n).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (replicas, speed) = (number(1, 4.0) as u32, number(2, 1.0));
    let kv_tokens = Some(number(3, 0.0) as u64).filter(|tokens| *tokens > 0);
    let calls = if std::io::stdin().is_terminal() { Vec::new() } else { read() };
    let mut calls = if calls.is_empty() { make_up() } else { calls };
    for call in &mut calls {
        call.at = call.at.div_f64(speed);
    }
    let count = calls.len();
    let start = std::time::Instant::now();
    let end = run_virtual(|clock| replay(clock, calls, replicas, kv_tokens))
        .expect("nothing waits for ever");
    let wall = start.elapsed();
    println!(
        "{count} calls, {:.0} s of virtual time in {:.2} s: {:.0} us a call",
        end.as_secs_f64(),
        wall.as_secs_f64(),
        wall.as_secs_f64() * 1e6 / count as f64
    );
}

async fn replay(clock: Clock, calls: Vec<Call>, replicas: u32, kv_tokens: Option<u64>) -> Instant {
    let config = Config { stamps: true, kv_tokens, ..Config::default() };
    let shape = Shape::load(&config.shape).expect("a preset");
    let engines: Vec<_> = (0..replicas)
        .map(|i| Local::start(&config, &shape, &clock, i).expect("the default is valid"))
        .collect();
    let mut tasks = Vec::new();
    for call in calls {
        clock.sleep_until(Instant::default().after(call.at)).await;
        let least = engines.iter().min_by_key(|engine| {
            let stats = engine.engine().stats();
            stats.running + stats.waiting
        });
        let engine = least.expect("at least one replica").clone();
        tasks.push(paceline_telemetry::task::spawn("call", ask(engine, call)));
    }
    let (mut bytes, mut items) = (0, 0);
    for task in tasks {
        let (b, i) = task.await.expect("no call panics");
        bytes += b;
        items += i;
    }
    for engine in &engines {
        println!("{:?}", engine.engine().stats());
    }
    println!("{bytes} bytes of events in {items} items");
    clock.now()
}

async fn ask(engine: Local, call: Call) -> (usize, usize) {
    let body = body(&call);
    let reply = engine.chat(&HeaderMap::new(), body.as_bytes()).await.expect("no faults");
    assert!(reply.status.is_success(), "{reply:?}");
    let Body::Events(mut events) = reply.body else { unreachable!("a stream was asked for") };
    let (mut bytes, mut items) = (0, 0);
    while let Some(item) = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await {
        bytes += item.expect("no faults").len();
        items += 1;
    }
    (bytes, items)
}

/// Text from block ids: equal ids, equal text.
fn body(call: &Call) -> String {
    let bytes = call.input * 4;
    let mut text = String::with_capacity(bytes + 512);
    text.push_str(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"#);
    text.push_str(&format!(r#""ignore_eos":true,"max_tokens":{},"#, call.output));
    text.push_str(r#""messages":[{"role":"user","content":""#);
    let end = text.len() + bytes;
    'all: for block in &call.blocks {
        for line in 0..64 {
            text.push_str(&format!("block {block:012} line {line:06} wor "));
            if text.len() >= end {
                break 'all;
            }
        }
    }
    text.truncate(end);
    text.push_str(r#""}]}"#);
    text
}

fn read() -> Vec<Call> {
    let lines = std::io::stdin().lock().lines().map_while(Result::ok);
    lines
        .filter_map(|line| {
            let json: serde_json::Value = serde_json::from_str(&line).ok()?;
            Some(Call {
                at: Duration::from_millis(json["timestamp"].as_u64()?),
                input: usize::try_from(json["input_length"].as_u64()?).ok()?,
                output: json["output_length"].as_u64()?.max(1),
                blocks: json["hash_ids"].as_array()?.iter().filter_map(|id| id.as_u64()).collect(),
            })
        })
        .collect()
}

fn make_up() -> Vec<Call> {
    (0..4000)
        .map(|i| Call {
            at: Duration::from_millis(i * 300),
            input: 12_000,
            output: 343,
            blocks: (0..24)
                .map(|b| if b < 9 { ((i % 50) << 8) | b } else { (i << 16) | b })
                .collect(),
        })
        .collect()
}
