//! The parsers of untrusted bytes, on the corpus of the fuzz targets and on changed copies.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod chat;
mod codecs;
mod converse;
mod golden;
mod pairs;
#[path = "../../../../fuzz/properties.rs"]
mod properties;
mod responses;

use std::path::Path;

use properties::Random;
use serde_json::{Value, json};

/// The codecs, with the dialects of the golden cases that each reads.
pub(crate) const CODECS: &[(&[&str], &dyn paceline_dialect::Codec)] = &[
    (
        &["openai-chat", "azure-openai", "groq", "mistral", "deepseek", "openrouter", "vllm"],
        &paceline_dialect::Chat,
    ),
    (&["openai-responses"], &paceline_dialect::Responses),
    (&["anthropic"], &paceline_dialect::Anthropic),
    (&["gemini"], &paceline_dialect::Gemini),
    (&["bedrock-converse"], &paceline_dialect::Converse),
];

/// Changed copies of each target.
const MUTATIONS: usize = 10_000;

/// Longest changed copy: short ones are quick, and go wrong as well as long ones.
const MUTATION_BYTES_MAX: usize = 300;

/// What is put into changed copies, since it means something to a parser.
const WORDS: [&[u8]; 20] = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\r\r\n",
    b"data:",
    b"data: [DONE]",
    b"data: {\"error\"",
    b":",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\"usage\":{\"prompt_tokens\":1}",
    b"\"finish_reason\":\"stop\"",
    b"\"model\":\"m\",",
    b"0",
];

fn corpus(target: &str, files_min: usize) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut paths: Vec<_> = std::fs::read_dir(root.join("fuzz/corpus").join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= files_min, "the corpus of {target} has {} files", paths.len());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let base = &corpus[random.below(corpus.len())];
    let start = if random.below(2) == 0 { 0 } else { random.below(base.len()) };
    let end = base.len().min(start + random.below(MUTATION_BYTES_MAX));
    let mut bytes = base[start..end].to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            1 => bytes.truncate(at),
            2 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            _ => {
                let end = bytes.len().min(at + random.below(20));
                drop(bytes.drain(at..end));
            }
        }
    }
    bytes
}

fn check(target: &str, holds: fn(&[u8])) {
    check_changed(target, &corpus(target, 20), mutated, holds);
}

fn check_changed(
    target: &str,
    corpus: &[Vec<u8>],
    change: fn(&mut Random, &[Vec<u8>]) -> Vec<u8>,
    holds: fn(&[u8]),
) {
    corpus.iter().for_each(|bytes| holds(bytes));
    let mut random = Random::new(1);
    for round in 0..MUTATIONS {
        let bytes = change(&mut random, corpus);
        let result = std::panic::catch_unwind(|| holds(&bytes));
        assert!(result.is_ok(), "round {round} of {target}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn every_split_of_a_stream_is_the_same() {
    check("sse_splitter", properties::sse_splitter);
}

#[test]
fn the_scanner_reads_what_a_full_parser_reads() {
    check("request_scanner", properties::request_scanner);
}

/// What the golden cases send, behind the byte that chooses their codec.
fn golden_corpus(of: impl Fn(&golden::Case) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let endpoint = |case: &golden::Case| match &*case.dialect {
        "openai-responses" => 2,
        "anthropic" => 3,
        "gemini" => 4,
        "bedrock-converse" => 5,
        _ => 0,
    };
    let cases = golden::cases();
    let read = cases.iter().filter(|case| golden::codec(&case.dialect).is_some());
    let corpus: Vec<_> = read
        .flat_map(|case| of(case).into_iter().map(|bytes| [vec![endpoint(case)], bytes].concat()))
        .collect();
    assert!(corpus.len() >= 15, "{}", corpus.len());
    corpus
}

/// A stream with some bytes changed, taken out or doubled anywhere. Changed frames have a
/// true checksum only by chance, so that most of them are refused.
fn changed(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = 1 + random.below(bytes.len().saturating_sub(1));
        let end = bytes.len().min(at + random.below(60));
        match random.below(5) {
            0 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            3 if at < end => bytes.extend_from_within(at..end),
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

/// A body with some values changed for others, so that it stays JSON.
fn changed_json(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let bytes = &corpus[random.below(corpus.len())];
    let mut value: Value = serde_json::from_slice(&bytes[1..]).unwrap();
    for _ in 0..1 + random.below(3) {
        change_value(random, &mut value);
    }
    [&bytes[..1], value.to_string().as_bytes()].concat()
}

fn change_value(random: &mut Random, value: &mut Value) {
    let others = [
        Value::Null,
        json!(""),
        json!([]),
        json!({}),
        json!(-1),
        json!(1e300),
        json!(true),
        json!([null]),
        json!({"type": "text"}),
        json!("\u{0}\u{1f6a8}"),
    ];
    let inner = match value {
        Value::Array(items) if !items.is_empty() => {
            let at = random.below(items.len());
            items.get_mut(at)
        }
        Value::Object(map) if !map.is_empty() => {
            let at = random.below(map.len());
            map.values_mut().nth(at)
        }
        _ => None,
    };
    match inner {
        Some(inner) if random.below(4) > 0 => change_value(random, inner),
        _ => *value = others[random.below(others.len())].clone(),
    }
}

#[test]
fn every_cut_of_a_dialects_stream_tells_the_same() {
    let corpus = golden_corpus(|case| case.wire().into_iter().collect());
    check_changed("codec_streams", &corpus, changed, properties::codec_streams);
}

#[test]
fn every_body_is_read_or_refused() {
    let corpus = golden_corpus(|case| {
        let bodies = [case.request.get("body"), case.response.get("body")];
        let bodies = bodies.into_iter().flatten().filter(|body| body.is_object());
        bodies.map(|body| body.to_string().into_bytes()).collect()
    });
    check_changed("codec_bodies", &corpus, changed_json, properties::codec_bodies);
}
