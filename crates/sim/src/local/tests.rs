use super::*;
use paceline_core::clock::run_virtual;
use serde_json::{Value, json};

/// Runs `main` with a replica in virtual time.
fn with_local<F: Future>(config: &Config, main: impl FnOnce(Clock, Local) -> F) -> F::Output {
    let shape = Shape::load("llama3-8b").unwrap();
    run_virtual(|clock| async {
        let local = Local::start(config, &shape, &clock, 0).unwrap();
        main(clock, local).await
    })
    .unwrap()
}

/// What came back of one call.
#[derive(Clone, Debug, Default, PartialEq)]
struct Got {
    status: u16,
    headers: HeaderMap,
    /// The document, or the events; an event that is no JSON is a string.
    events: Vec<Value>,
    done: bool,
    broken: bool,
}

impl Got {
    fn text(&self) -> String {
        self.collect("/choices/0/delta/content") + &self.collect("/choices/0/message/content")
    }

    fn arguments(&self) -> Value {
        let text = self.collect("/choices/0/delta/tool_calls/0/function/arguments")
            + &self.collect("/choices/0/message/tool_calls/0/function/arguments");
        serde_json::from_str(&text).unwrap()
    }

    fn tool(&self) -> String {
        self.collect("/choices/0/delta/tool_calls/0/function/name")
            + &self.collect("/choices/0/message/tool_calls/0/function/name")
    }

    fn collect(&self, pointer: &str) -> String {
        self.events.iter().filter_map(|e| e.pointer(pointer)?.as_str()).collect()
    }

    fn finish(&self) -> String {
        self.collect("/choices/0/finish_reason")
    }

    fn usage(&self) -> [u64; 3] {
        let usage = self.events.iter().filter_map(|e| e.get("usage")).find(|u| !u.is_null());
        let usage = usage.expect("usage was asked for");
        ["/prompt_tokens", "/completion_tokens", "/prompt_tokens_details/cached_tokens"]
            .map(|field| usage.pointer(field).unwrap().as_u64().unwrap())
    }
}

async fn ask_with(local: &Local, fault: &str, body: Value) -> Got {
    let mut headers = HeaderMap::new();
    if !fault.is_empty() {
        headers.insert(FAULT_HEADER, fault.parse().unwrap());
    }
    let mut got = Got::default();
    let reply = match local.chat(&headers, body.to_string().as_bytes()).await {
        Ok(reply) => reply,
        Err(_) => return Got { broken: true, ..got },
    };
    got.status = reply.status.as_u16();
    got.headers = reply.headers;
    match reply.body {
        Body::Whole(bytes) => got.events.push(parse(&bytes)),
        Body::Events(mut chunks) => {
            while let Some(item) = std::future::poll_fn(|cx| chunks.as_mut().poll_next(cx)).await {
                let Ok(item) = item else {
                    got.broken = true;
                    continue;
                };
                let text = std::str::from_utf8(&item).unwrap();
                for event in text.strip_suffix("\n\n").expect("events are whole").split("\n\n") {
                    match event.strip_prefix("data: ").unwrap() {
                        "[DONE]" => got.done = true,
                        data => got.events.push(parse(data.as_bytes())),
                    }
                }
            }
        }
        Body::Bytes(..) => panic!("the engine sends no other bytes"),
    }
    got
}

fn parse(data: &[u8]) -> Value {
    serde_json::from_slice(data)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(data).into_owned()))
}

async fn ask(local: &Local, body: Value) -> Got {
    ask_with(local, "", body).await
}

/// A request with more members than the usual ones.
fn chat(text: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "m", "temperature": 0, "messages": [{"role": "user", "content": text}],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn streamed(text: &str, more: Value) -> Value {
    let mut body = chat(text, json!({"stream": true, "stream_options": {"include_usage": true}}));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_stream_and_a_document_say_the_same() {
    with_local(&Config::default(), |_, local| async move {
        let more = json!({"max_tokens": 20, "ignore_eos": true});
        let whole = ask(&local, chat("hello", more.clone())).await;
        let stream = ask(&local, streamed("hello", more)).await;
        assert_eq!((whole.status, stream.status, stream.done), (200, 200, true));
        assert_eq!(whole.text(), stream.text());
        assert_eq!(whole.text().len(), 80);
        assert_eq!((whole.finish(), stream.finish()), ("length".into(), "length".into()));
        // Header, "hello" in two tokens, and the reply's header.
        assert_eq!((whole.usage(), stream.usage()), ([10, 20, 0], [10, 20, 0]));
        // The role, 20 tokens, the reason, the usage.
        assert_eq!(stream.events.len(), 23);
        let first = &stream.events[0];
        assert_eq!(first.pointer("/choices/0/delta/role").unwrap(), "assistant");
        assert_eq!(first["system_fingerprint"], "paceline-sim");
        assert_eq!((first["model"].as_str(), &first["usage"]), (Some("m"), &Value::Null));
        assert!(first.get("sim_ns").is_none() && whole.events[0].get("sim").is_none());
        assert_eq!(stream.events[22]["choices"], json!([]));
    });
}

#[test]
fn the_next_turn_hits_what_was_generated() {
    with_local(&Config::default(), |_, local| async move {
        let question = "q".repeat(100);
        let more = json!({"max_tokens": 64, "ignore_eos": true});
        let first = ask(&local, chat(&question, more.clone())).await;
        let [prompt, output, cached] = first.usage();
        assert_eq!((prompt, output, cached), (33, 64, 0));
        let messages = json!([
            {"role": "user", "content": question},
            {"role": "assistant", "content": first.text()},
            {"role": "user", "content": "and then?"},
        ]);
        let second = ask(&local, chat("", json!({"messages": messages, "max_tokens": 1}))).await;
        // Of 97 tokens all but the last are computed: six whole blocks.
        assert_eq!(second.usage(), [33 + 64 + 7 + 4, 1, 96]);
        // Another tenant's salt shares nothing.
        let salted = json!({"messages": messages, "max_tokens": 1, "cache_salt": "b"});
        assert_eq!(ask(&local, chat("", salted)).await.usage()[2], 0);
    });
}

#[test]
fn texts_follow_the_seed_and_the_temperature() {
    let texts = |seed: u64, more: Value| {
        with_local(&Config { seed, ..Config::default() }, |_, local| async move {
            let one = ask(&local, chat("tell me", more.clone())).await;
            let two = ask(&local, chat("tell me", more)).await;
            (one.text(), two.text())
        })
    };
    let (a, b) = texts(1, json!({}));
    assert!(a == b && !a.is_empty());
    assert_ne!(texts(2, json!({})).0, a);
    let (c, d) = texts(1, json!({"temperature": 0.7}));
    assert_ne!(c, d);
    assert_eq!(texts(1, json!({"temperature": 0.7})), (c, d));
    let (e, f) = texts(1, json!({"temperature": 0.7, "seed": 5}));
    assert_eq!(e, f);
}

#[test]
fn lengths_and_stops_are_kept() {
    with_local(&Config::default(), |_, local| async move {
        let full = ask(&local, chat("hello", json!({}))).await;
        let tokens = full.usage()[1];
        assert_eq!((full.finish(), full.text().len() as u64), ("stop".into(), tokens * 4));
        let cut = ask(&local, chat("hello", json!({"max_completion_tokens": 7}))).await;
        assert_eq!((cut.finish(), cut.usage()[1]), ("length".into(), 7));
        assert!(full.text().starts_with(&cut.text()));
        let long = ask(&local, chat("hello", json!({"min_tokens": 3000}))).await;
        assert_eq!(long.usage()[1], 3000);
        // A stop string from the middle of the text.
        let stop = &full.text()[37..44];
        let at = full.text().find(stop).unwrap();
        for more in [json!({"stop": stop}), json!({"stop": ["@", stop]})] {
            let stopped = ask(&local, streamed("hello", more.clone())).await;
            assert_eq!(
                (stopped.text().as_str(), stopped.finish()),
                (&full.text()[..at], "stop".into())
            );
            assert_eq!(stopped.usage()[1], (at as u64 + 7).div_ceil(4));
            assert_eq!(ask(&local, chat("hello", more)).await.text(), stopped.text());
        }
    });
}

#[test]
fn tools_are_called_as_their_schema_says() {
    let parameters = json!({"type": "object", "required": ["port"], "properties": {
        "port": {"type": "string"}, "day": {"enum": ["today", "möglich"]},
        "n": {"type": "integer", "minimum": 3, "maximum": 4}, "deep": {"type": "boolean"},
        "list": {"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 2},
    }, "$defs": {"x": {"type": "number"}}});
    let tool = |name: &str| {
        json!({"type": "function",
        "function": {"name": name, "parameters": parameters}})
    };
    let tools = json!([tool("get_tide"), tool("get_ferry")]);
    with_local(&Config::default(), |_, local| async move {
        let check = async |text: &str, choice: Value, expected: &str| {
            let more = json!({"tools": tools, "tool_choice": choice, "max_tokens": 900});
            let whole = ask(&local, chat(text, more.clone())).await;
            let stream = ask(&local, streamed(text, more)).await;
            assert_eq!((whole.tool().as_str(), stream.tool()), (expected, expected.to_owned()));
            let reason = if expected.is_empty() { "stop" } else { "tool_calls" };
            assert_eq!((whole.finish(), stream.finish()), (reason.into(), reason.into()));
            assert_eq!(whole.usage()[..2], stream.usage()[..2]);
            if !expected.is_empty() {
                let arguments = stream.arguments();
                assert_eq!(whole.arguments(), arguments);
                assert!(arguments["port"].is_string() && arguments["deep"].is_boolean());
                assert!(["today", "möglich"].contains(&arguments["day"].as_str().unwrap()));
                assert!((3..=4).contains(&arguments["n"].as_i64().unwrap()));
                assert_eq!(arguments["list"].as_array().unwrap().len(), 2);
                assert!(arguments["list"][0].is_number());
            }
        };
        check("hello", json!("auto"), "").await;
        check("use get_ferry", json!("auto"), "get_ferry").await;
        check("use get_ferry", json!("none"), "").await;
        check("hello", json!("required"), "get_tide").await;
        let named = json!({"type": "function", "function": {"name": "get_ferry"}});
        check("get_tide", named, "get_ferry").await;
    });
}

#[test]
fn formats_give_valid_documents() {
    with_local(&Config::default(), |_, local| async move {
        let schema = json!({"type": "object", "properties": {"a": {"type": "array",
            "items": {"type": "string", "maxLength": 2}}}, "required": ["a"]});
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let got = ask(&local, streamed("x", json!({"response_format": format}))).await;
        let document: Value = serde_json::from_str(&got.text()).unwrap();
        assert!(document["a"][0].as_str().unwrap().len() <= 2);
        let format = json!({"response_format": {"type": "json_object"}});
        let got = ask(&local, chat("x", format)).await;
        assert!(serde_json::from_str::<Value>(&got.text()).unwrap().is_object());
        // Cut off, it says so.
        let short = json!({"response_format": {"type": "json_object"}, "max_tokens": 1});
        assert_eq!(ask(&local, chat("x", short)).await.finish(), "length");
    });
}

#[test]
fn stamps_are_exact() {
    let check = |join_events: bool| {
        let config = Config { stamps: true, join_events, ..Config::default() };
        with_local(&config, |clock, local| async move {
            clock.sleep(Duration::from_nanos(77)).await;
            let more = json!({"max_tokens": 30, "ignore_eos": true});
            let got = ask(&local, streamed("hello", more.clone())).await;
            let end = clock.now().as_nanos();
            let whole = ask(&local, chat("hello", more)).await;
            assert_eq!(whole.events[0]["sim"]["arrived_ns"], end);
            let stamps: Vec<u64> =
                got.events.iter().map(|e| e["sim_ns"].as_u64().unwrap()).collect();
            assert_eq!(stamps.last(), Some(&end));
            assert!(stamps.is_sorted());
            let sim = &got.events.last().unwrap()["sim"];
            assert_eq!(
                (sim["arrived_ns"].as_u64(), sim["queued_ns"].as_u64()),
                (Some(77), Some(0))
            );
            assert_eq!(sim["first_token_ns"], stamps[0]);
            stamps
        })
    };
    assert_eq!(check(true), check(false));
}

#[test]
fn faults_by_header() {
    with_local(&Config { stamps: true, ..Config::default() }, |clock, local| async move {
        let more = json!({"max_tokens": 10, "ignore_eos": true});
        let stream = async |fault: &str| {
            let start = clock.now();
            let got = ask_with(&local, fault, streamed("hello", more.clone())).await;
            (got, clock.now().since(start).as_secs())
        };
        let whole = async |fault: &str| ask_with(&local, fault, chat("hello", more.clone())).await;
        for status in [429u16, 500, 503] {
            let (got, _) = stream(&status.to_string()).await;
            assert_eq!(got.status, status);
            assert!(got.events[0]["error"]["message"].is_string());
            assert_eq!(got.headers.contains_key("retry-after"), status == 429);
        }
        let (got, _) = stream("cut=3").await;
        assert!(got.broken && !got.done && got.text().len() == 12);
        assert!(whole("cut").await.broken);
        let (got, _) = stream("malformed").await;
        assert!(got.done && got.events.iter().filter(|e| e.is_string()).count() == 1);
        assert!(whole("malformed").await.events[0].is_string());
        let (got, seconds) = stream("stall=7s").await;
        assert!(got.done && got.text().len() == 40 && seconds == 7);
        let stamps = |got: &Got, i: usize| got.events[i]["sim_ns"].as_u64().unwrap();
        assert!(stamps(&got, 2) - stamps(&got, 1) > 6_900_000_000);
        let (got, seconds) = stream("slow-first=3s, stall=2s").await;
        assert!(got.done && got.text().len() == 40 && seconds == 5, "{seconds}");
        let (got, _) = stream("huge=1m").await;
        assert_eq!(got.text().len(), (1 << 20) + 36);
        assert_eq!(whole("huge=1m").await.text().len(), 1 << 20);
        let (got, _) = stream("nonsense").await;
        assert_eq!((got.status, &got.events[0]["error"]["param"]), (400, &json!("x-sim-fault")));
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(local.engine().stats().kv_blocks_used, 0);
    });
}

#[test]
fn limits_answer_429() {
    let faults = vec!["rate=2/s,concurrency=1".to_owned()];
    with_local(&Config { faults, ..Config::default() }, |clock, local| async move {
        let body = || streamed("hello", json!({"max_tokens": 10, "ignore_eos": true}));
        let open = local.chat(&HeaderMap::new(), body().to_string().as_bytes()).await.unwrap();
        let got = ask(&local, body()).await;
        assert_eq!((got.status, &got.headers["retry-after"]), (429, &"1".parse().unwrap()));
        drop(open);
        let got = ask(&local, body()).await;
        assert_eq!(got.status, 429, "the bucket is empty");
        assert_eq!(got.events[0]["error"]["code"], "rate_limit_exceeded");
        assert_eq!(got.headers["x-ratelimit-remaining-requests"], "0");
        let wait: u64 = got.headers["retry-after-ms"].to_str().unwrap().parse().unwrap();
        clock.sleep(Duration::from_millis(wait)).await;
        let got = ask(&local, body()).await;
        assert_eq!(
            (got.status, &got.headers["x-ratelimit-limit-requests"]),
            (200, &"2".parse().unwrap())
        );
    });
}

#[test]
fn what_cannot_fit_is_refused() {
    let config = Config { kv_tokens: Some(64), waiting_max: 1, ..Config::default() };
    with_local(&config, |_, local| async move {
        let check = async |body: Value, status: u16, code: Value| {
            let got = ask(&local, body).await;
            assert_eq!((got.status, &got.events[0]["error"]["code"]), (status, &code));
        };
        let long = json!("context_length_exceeded");
        check(chat(&"x".repeat(300), json!({})), 400, long.clone()).await;
        check(chat("hello", json!({"max_tokens": 55})), 400, long).await;
        // Without a limit the answer ends where the context does.
        let got = ask(&local, chat("hello", json!({"ignore_eos": true}))).await;
        assert_eq!((got.usage(), got.finish()), ([10, 54, 0], "length".into()));
        let _open =
            local.chat(&HeaderMap::new(), streamed("hi", json!({})).to_string().as_bytes()).await;
        check(chat("hello", json!({})), 503, Value::Null).await;
    });
}

/// Many calls at once on small replicas, with all kinds of faults: the same seed gives the
/// same bytes at the same times, another one does not, and nothing leaks.
#[test]
fn a_run_is_repeatable() {
    let run = |seed: u64| {
        let faults = vec![
            "rate=60/s:150,concurrency=120,error500=0.03,stall=0.03:2s,cut=0.05:4".to_owned(),
            "malformed=0.05,slow-first=every7:500ms,huge=0.01:100k".to_owned(),
        ];
        let kv_tokens = Some(8_000);
        let config = Config { seed, faults, kv_tokens, stamps: true, ..Config::default() };
        with_local(&config, |clock, local| async move {
            let mut tasks = Vec::new();
            for i in 0..300u32 {
                clock.sleep(Duration::from_micros(u64::from(i * 7919 % 30_000))).await;
                let text = format!("{} {i}", "shared ".repeat(40 * (i as usize % 50)));
                let (local, clock) = (local.clone(), clock.clone());
                tasks.push(paceline_telemetry::task::spawn("test", async move {
                    let body = if i % 3 == 0 {
                        chat(&text, json!({}))
                    } else {
                        streamed(&text, json!({}))
                    };
                    // Some callers lose their patience.
                    let end = clock.now().after(Duration::from_millis(if i % 5 == 0 {
                        900
                    } else {
                        90_000
                    }));
                    clock.timeout_at(end, ask(&local, body)).await
                }));
            }
            let mut results = Vec::new();
            for task in tasks {
                results.push(task.await.unwrap());
            }
            clock.sleep(Duration::from_secs(5)).await;
            let stats = local.engine().stats();
            assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
            assert_eq!(local.0.open.load(Ordering::Relaxed), 0);
            assert!(
                stats.cancelled > 10 && stats.finished > 100 && stats.preemptions > 0,
                "{stats:?}"
            );
            (results, stats)
        })
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.1, run(2).1);
    let statuses: std::collections::HashSet<u16> =
        first.0.iter().flatten().map(|got| got.status).collect();
    assert!([200, 429, 500].iter().all(|status| statuses.contains(status)), "{statuses:?}");
}
