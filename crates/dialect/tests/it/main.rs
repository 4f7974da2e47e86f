//! The parsers of untrusted bytes, on the corpus of the fuzz targets and on changed copies.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod golden;
mod pairs;
#[path = "../../../../fuzz/properties.rs"]
mod properties;
mod responses;

use std::path::Path;

use properties::Random;

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

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut paths: Vec<_> = std::fs::read_dir(root.join("fuzz/corpus").join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 20, "the corpus of {target} has {} files", paths.len());
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
    let corpus = corpus(target);
    corpus.iter().for_each(|bytes| holds(bytes));
    let mut random = Random::new(1);
    for round in 0..MUTATIONS {
        let bytes = mutated(&mut random, &corpus);
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
