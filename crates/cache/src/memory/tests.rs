use futures_util::{StreamExt, stream};
use paceline_core::clock::run_virtual;

use super::*;
use crate::key::tests::call;

const WHOLE: &str = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi."},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
const STREAM: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hi.\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

fn request(rest: &str) -> Arc<Call> {
    Arc::new(call(&format!(r#"{{"model":"m","temperature":0{rest}}}"#)))
}

fn memory(config: MemoryConfig, clock: Clock) -> Arc<Memory> {
    Memory::new(config, clock, Metrics::default())
}

fn answer(status: u16, body: &'static str) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: Body::Whole(Bytes::from_static(body.as_bytes())),
        cache: CacheStatus::Miss,
        deployment: None,
    }
}

fn streamed(parts: &[&'static str]) -> Reply {
    let parts: Vec<Result<Bytes>> =
        parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
    Reply { body: Body::Events(Box::pin(stream::iter(parts))), ..answer(200, "") }
}

async fn text(body: Body) -> String {
    let bytes = match body {
        Body::Whole(bytes) => bytes.to_vec(),
        Body::Events(chunks) | Body::Bytes(chunks, _) => {
            chunks.map(|chunk| chunk.unwrap()).collect::<Vec<_>>().await.concat()
        }
    };
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn whole_replies_and_streams_serve_each_other() {
    let memory = memory(MemoryConfig::default(), Clock::real());
    let whole = request("");
    let with_usage = request(r#","stream":true,"stream_options":{"include_usage":true}"#);
    let plain = request(r#","stream":true"#);
    let key = Key::of(&whole);
    assert_eq!(key, Key::of(&plain));
    assert!(memory.peek(&whole, key).is_none());
    drop(memory.keep(&whole, key, answer(200, WHOLE)));
    assert_eq!(text(memory.peek(&whole, key).unwrap().body).await, WHOLE);
    for (call, usage) in [(&with_usage, true), (&plain, false), (&plain, false)] {
        let hit = memory.peek(call, key).unwrap();
        assert_eq!(hit.cache, CacheStatus::Hit);
        let stream = text(hit.body).await;
        assert!(stream.contains("\"content\":\"Hi.\"") && stream.ends_with("data: [DONE]\n\n"));
        assert_eq!(stream.contains("prompt_tokens"), usage, "{stream}");
    }
}

#[tokio::test]
async fn a_stream_is_kept_when_it_is_complete() {
    let memory = memory(MemoryConfig::default(), Clock::real());
    let call = request(r#","stream":true"#);
    let key = Key::of(&call);
    let (first, second) = STREAM.split_at(STREAM.len() - 14);
    drop(text(memory.keep(&call, key, streamed(&[first])).body).await);
    assert!(memory.peek(&call, key).is_none(), "no [DONE]");
    drop(memory.keep(&call, key, streamed(&[first, second])).body);
    assert!(memory.peek(&call, key).is_none(), "not read to its end");
    assert_eq!(text(memory.keep(&call, key, streamed(&[first, second])).body).await, STREAM);
    assert_eq!(text(memory.peek(&call, key).unwrap().body).await, STREAM);
    // This stream told no usage, so a caller who wants it must ask upstream.
    assert!(memory.peek(&request(""), key).is_none());
}

#[tokio::test]
async fn what_is_no_answer_is_not_kept() {
    let memory =
        memory(MemoryConfig { entry_bytes_max: 600, ..MemoryConfig::default() }, Clock::real());
    let call = request("");
    let key = Key::of(&call);
    let long: &'static str = Box::leak(WHOLE.replace("Hi.", &"x".repeat(400)).into_boxed_str());
    for (status, body) in
        [(500, WHOLE), (200, r#"{"error":{"message":"x"}}"#), (200, ""), (200, long)]
    {
        drop(memory.keep(&call, key, answer(status, body)));
        assert!(memory.peek(&call, key).is_none(), "{status} {body}");
    }
}

#[test]
fn entries_expire() {
    run_virtual(|clock| async move {
        let ttl = Duration::from_secs(10);
        let memory = memory(MemoryConfig { ttl, ..MemoryConfig::default() }, clock.clone());
        let call = request("");
        let key = Key::of(&call);
        drop(memory.keep(&call, key, answer(200, WHOLE)));
        clock.sleep(Duration::from_millis(9_999)).await;
        assert!(memory.peek(&call, key).is_some());
        clock.sleep(Duration::from_millis(1)).await;
        assert!(memory.peek(&call, key).is_none());
        assert_eq!(memory.bytes(), 0);
    })
    .unwrap();
}

#[test]
fn bytes_are_bounded() {
    let config = MemoryConfig { bytes_max: 64 << 10, ..MemoryConfig::default() };
    let memory = memory(config, Clock::real());
    for n in 0..1000 {
        let call = request(&format!(",\"seed\":{n}"));
        drop(memory.keep(&call, Key::of(&call), answer(200, WHOLE)));
        assert!(memory.bytes() <= config.bytes_max);
    }
    assert!(memory.bytes() > config.bytes_max / 2, "and used");
}

#[test]
fn an_equal_hash_is_no_proof() {
    let memory = memory(MemoryConfig::default(), Clock::real());
    let (one, other) = (request(""), request(",\"seed\":1"));
    let key = Key::of(&one);
    drop(memory.keep(&one, key, answer(200, WHOLE)));
    assert!(memory.peek(&other, key).is_none(), "a forged or colliding key serves nothing");
}
