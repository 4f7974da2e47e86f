use super::*;
use std::time::Duration;

use paceline_core::clock::run_virtual;

fn config() -> Config {
    Config { kv_tokens: Some(64 * 16), max_num_batched_tokens: 256, ..Config::default() }
}

fn work(prompt: u32, output: u32) -> Work {
    Work { prompt, output, hashes: Box::default() }
}

/// Runs `main` with an engine in virtual time.
fn with_engine<F: Future>(config: &Config, main: impl FnOnce(Clock, Engine) -> F) -> F::Output {
    let shape = Shape::load("llama3-8b").unwrap();
    run_virtual(|clock| async {
        let engine = Engine::start(config, &shape, &clock).unwrap();
        main(clock, engine).await
    })
    .unwrap()
}

/// All stamps of a request and its summary.
async fn drain(mut stream: TokenStream) -> (Vec<u64>, Summary) {
    let mut stamps = Vec::new();
    loop {
        let tokens = stream.next().await.expect("the engine lives");
        assert_eq!(tokens.first as usize, stamps.len());
        stamps.extend(tokens.at.iter().map(|at| at.as_nanos()));
        if let Some(summary) = tokens.summary {
            return (stamps, summary);
        }
    }
}

fn step(tokens: u64, decodes: u64, context: u64, prefill: u64) -> u64 {
    Timing::new(&Shape::load("llama3-8b").unwrap(), 1.0).step_ns(crate::shape::Load {
        tokens,
        decodes,
        context,
        prefill,
    })
}

#[test]
fn stamps_are_sums_of_step_times() {
    let (stamps, summary) = with_engine(&config(), |clock, engine| async move {
        clock.sleep(Duration::from_nanos(1_234_567)).await;
        drain(engine.submit(work(300, 3)).unwrap()).await
    });
    let mut at = 1_234_567 + step(256, 0, 0, 256 * 256);
    at += step(44, 0, 0, 44 * (512 + 44));
    let mut expected = vec![at];
    for context in [301, 302] {
        at += step(1, 1, context, 0);
        expected.push(at);
    }
    assert_eq!(stamps, expected);
    assert_eq!(summary.started.as_nanos(), 1_234_567);
    assert_eq!((summary.prefilled_tokens, summary.cached_tokens), (300, 0));
}

#[test]
fn a_newcomer_waits_for_the_step_under_way() {
    with_engine(&config(), |clock, engine| async move {
        let first = engine.submit(work(10, 3)).unwrap();
        // Equal arrivals start in one step.
        let second = engine.submit(work(20, 1)).unwrap();
        let prefill = step(30, 0, 0, 500);
        clock.sleep(Duration::from_nanos(prefill + 1)).await;
        let third = engine.submit(work(30, 1)).unwrap();
        let (first, _) = drain(first).await;
        let (third, summary) = drain(third).await;
        let decode = prefill + step(1, 1, 11, 0);
        let both = decode + step(31, 1, 12, 900);
        assert_eq!(first, [prefill, decode, both]);
        assert_eq!(drain(second).await.0, [prefill]);
        assert_eq!((summary.started.as_nanos(), third), (decode, vec![both]));
    });
}

#[test]
fn a_stream_that_is_dropped_frees_its_blocks() {
    // Before its arrival is seen, waiting, in prefill, decoding, and after its end.
    let check = |wait_ns: u64, ahead: u32| {
        with_engine(&Config { max_num_seqs: 1, ..config() }, |clock, engine| async move {
            let other = (ahead > 0).then(|| engine.submit(work(10, ahead)).unwrap());
            let stream = engine.submit(work(600, 3)).unwrap();
            clock.sleep(Duration::from_nanos(wait_ns)).await;
            drop(stream);
            if let Some(other) = other {
                drain(other).await;
            }
            clock.sleep(Duration::from_secs(5)).await;
            let stats = engine.stats();
            assert_eq!(
                (stats.running, stats.waiting, stats.kv_blocks_used),
                (0, 0, 0),
                "{wait_ns}"
            );
            assert_eq!(engine.0.0.core.lock().calls.len(), 0, "{wait_ns}");
            // The engine serves on.
            drain(engine.submit(work(600, 3)).unwrap()).await;
        });
    };
    for wait_ms in [0, 1, 20, 60, 5000] {
        check(wait_ms * 1_000_000, 0);
        check(wait_ms * 1_000_000, 5);
    }
}

#[test]
fn bounds_refuse() {
    with_engine(
        &Config { waiting_max: 2, max_num_seqs: 1, ..config() },
        |clock, engine| async move {
            let too_long = engine.submit(work(1000, 25)).unwrap_err();
            assert_eq!(too_long, Refused::TooLong { tokens: 1025, max: 1024 });
            let first = engine.submit(work(10, 5)).unwrap();
            clock.sleep(Duration::from_millis(1)).await;
            let waiting =
                [engine.submit(work(10, 5)).unwrap(), engine.submit(work(10, 5)).unwrap()];
            assert_eq!(engine.submit(work(10, 5)).unwrap_err(), Refused::QueueFull { max: 2 });
            drain(first).await;
            clock.sleep(Duration::from_millis(1)).await;
            engine.submit(work(10, 5)).unwrap();
            let stats = engine.stats();
            assert_eq!((stats.running, stats.waiting, stats.rejected), (1, 2, 1));
            drop(waiting);
        },
    );
}

#[test]
fn the_engine_ends_with_its_last_user() {
    let before = paceline_telemetry::task::live();
    with_engine(&config(), |clock, engine| async move {
        let stream = engine.submit(work(10, 5)).unwrap();
        drop(engine);
        drain(stream).await;
        clock.sleep(Duration::from_millis(1)).await;
    });
    // Other tests run engines at the same time, so only the bound is certain.
    assert!(paceline_telemetry::task::live() <= before + 64);
}

/// Joined or not: equal stamps, equal summaries, equal counts, on random loads that
/// preempt, hit the cache, queue, and cancel.
#[test]
fn joining_changes_nothing() {
    use proptest::prelude::*;
    let request = (1u32..300, 1u32..150, 0u64..6, 0u64..60_000_000, any::<u8>());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
    proptest!(config, |(
        requests in proptest::collection::vec(request, 1..40),
        seqs in 2u32..20,
        join_ms_max in prop_oneof![Just(5000u32), 1u32..100],
    )| {
        let run = |join_events| {
            let config = Config { join_events, join_ms_max, max_num_seqs: seqs, ..super::tests::config() };
            with_engine(&config, |clock, engine| {
                let requests = requests.clone();
                async move {
                    let mut tasks = Vec::new();
                    for (i, (prompt, output, family, gap, fate)) in requests.into_iter().enumerate() {
                        // Some arrive at the very same time.
                        if fate % 4 > 0 {
                            clock.sleep(Duration::from_nanos(gap)).await;
                        }
                        let shared = family * 2;
                        let hashes = (0..28)
                            .map(|b| if b < shared { family << 8 | b } else { (i as u64) << 32 | b })
                            .collect();
                        let stream = engine.submit(Work { prompt, output, hashes }).unwrap();
                        let clock = clock.clone();
                        tasks.push(paceline_telemetry::task::spawn("test", async move {
                            let patience = if fate > 200 { 300 * u64::from(fate - 200) } else { 1 << 40 };
                            let end = clock.now().after(Duration::from_micros(patience));
                            clock.timeout_at(end, drain(stream)).await
                        }));
                    }
                    let mut results = Vec::new();
                    for task in tasks {
                        results.push(task.await.unwrap());
                    }
                    clock.sleep(Duration::from_secs(1)).await;
                    (results, engine.stats())
                }
            })
        };
        let (joined, single) = (run(true), run(false));
        prop_assert_eq!(joined.0, single.0);
        prop_assert_eq!(joined.1, single.1);
        prop_assert_eq!((joined.1.kv_blocks_used, joined.1.running), (0, 0));
    });
}

#[test]
fn joining_wakes_less_often() {
    let check = |join_events, join_ms_max, items: usize| {
        let config = Config { join_events, join_ms_max, ..config() };
        with_engine(&config, |_, engine| async move {
            let mut stream = engine.submit(work(16, 500)).unwrap();
            let mut count = 0;
            while stream.next().await.is_some() {
                count += 1;
            }
            assert_eq!(count, items);
        });
    };
    check(false, 5000, 500);
    // 500 tokens take 3.3 s: the first one, the rest.
    check(true, 5000, 2);
    check(true, 1000, 5);
}
