//! Prompt text from block ids: equal ids give equal text, so that prefixes, token counts
//! and cache hits of a replay are real though traces hold no text.
//!
//! The text is common words of three letters, each with a space: 4 bytes, and one token in
//! the vocabularies of common models, so that real engines count nearly what the trace says.

use bytes::Bytes;

use crate::trace::{Run, Session, Trace, TraceCall};

/// 256 different words, so that one byte of a hash picks one.
const WORDS: &str = concat!(
    "the and for are but not you all any can had her was one our out ",
    "day get has him his how man new now old see two way who boy did ",
    "its let put say she too use dad mom act add age ago aid aim air ",
    "arm art ask bad bag bar bat bay bed bee bet big bit box bug bus ",
    "buy cab cap car cat cow cry cup cut die dig dog dot dry due ear ",
    "eat egg end eye fan far fat fed fee few fig fit fix fly fog fox ",
    "fun fur gap gas gem gun guy gym hat hay hen hid hip hit hop hot ",
    "hub hug ice ill ink inn jam jar jet job joy key kid kit lab lap ",
    "law lay led leg lid lie lip log lot low map mat may mix mob mud ",
    "net nod nor nut oak odd off oil own pad pan pat paw pay pen pet ",
    "pie pig pin pit pop pot raw ray red rib rid rim rob rod row rub ",
    "rug run sad sat saw sea set sew shy sin sir sit six ski sky son ",
    "spy sum sun tag tan tap tax tea ten tie tin tip toe ton top toy ",
    "try tub van via vet war wax web wet win won yes yet zoo ace ape ",
    "arc ash awe axe ban bow bud bun cod cop cub den dip elf elm era ",
    "eve fin flu gel god gut ham hut icy ion ivy jaw jog lad mad met ",
);

const WORD_BYTES: usize = 4;

/// Words that one hash picks, in bytes.
const GROUP_BYTES: usize = 8 * WORD_BYTES;

const _: () = assert!(WORDS.len() == 256 * WORD_BYTES, "a byte picks a word");

/// How request bodies are written.
#[derive(Clone, Debug)]
pub struct Style {
    /// The model's name. Default: `sim`.
    pub model: String,
    /// Bytes of text that count as one token. Default: 4, as the simulated engine counts,
    /// and as the words are in real vocabularies.
    pub bytes_per_token: u32,
    /// Bytes that an engine's template puts before the content of each message. The text is
    /// shorter by as much, so that a prompt has the trace's number of tokens and its
    /// blocks stay aligned. Default: 16, as the simulated engine does.
    pub header_bytes: u32,
    /// Asks the engine to go on to `max_tokens` whatever it says (`ignore_eos`, known to
    /// vLLM and SGLang), so that answers are as long as recorded. Default: true.
    pub ignore_eos: bool,
    /// `temperature`, where it is to be set; agents leave it unset. Default: none.
    pub temperature: Option<f64>,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            model: "sim".to_owned(),
            bytes_per_token: 4,
            header_bytes: 16,
            ignore_eos: true,
            temperature: None,
        }
    }
}

/// Writes request bodies.
#[derive(Debug)]
pub struct Writer {
    words: [[u8; WORD_BYTES]; 256],
    /// Up to the first message's role.
    head: String,
    /// From `max_tokens`' value on.
    tail: String,
    bytes_per_token: usize,
    header_bytes: usize,
    block_tokens: usize,
}

impl Writer {
    /// A writer for the calls of a trace.
    pub fn new(style: &Style, trace: &Trace) -> Self {
        let mut words = [[0; WORD_BYTES]; 256];
        for (word, bytes) in words.iter_mut().zip(WORDS.as_bytes().as_chunks().0) {
            *word = *bytes;
        }
        let model = serde_json::Value::from(style.model.as_str());
        let mut tail = String::new();
        if let Some(temperature) = style.temperature {
            tail += &format!(",\"temperature\":{temperature}");
        }
        if style.ignore_eos {
            tail += ",\"ignore_eos\":true";
        }
        tail += ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}";
        Self {
            words,
            head: format!("{{\"model\":{model},\"messages\":[{{\"role\":\""),
            tail,
            bytes_per_token: style.bytes_per_token.max(1) as usize,
            header_bytes: style.header_bytes as usize,
            block_tokens: trace.block_tokens as usize,
        }
    }

    /// The body of an OpenAI chat completion for one call.
    ///
    /// A prompt is one byte string, block after block. The main agent's system prompt goes
    /// into a `system` message where its length is known, and all else into one `user`
    /// message; an engine's header stands in for the first bytes of each, so no block moves.
    /// `unique` numbers the call, for the text behind its last block that no other has.
    pub fn body(&self, session: &Session, agent: usize, call: &TraceCall, unique: u64) -> Bytes {
        let prompt = call.input_tokens as usize * self.bytes_per_token;
        let system =
            if agent == 0 { session.system_tokens as usize * self.bytes_per_token } else { 0 };
        let mut out = Vec::with_capacity(prompt + self.head.len() + self.tail.len() + 128);
        out.extend_from_slice(self.head.as_bytes());
        let mut text = Text::new(self, session.space, &call.blocks, unique);
        if system > 0 {
            out.extend_from_slice(b"system\",\"content\":\"");
            text.append(&mut out, system);
            out.extend_from_slice(b"\"},{\"role\":\"");
        }
        out.extend_from_slice(b"user\",\"content\":\"");
        text.append(&mut out, prompt.max(text.at + self.header_bytes + WORD_BYTES));
        out.extend_from_slice(b"\"}],\"max_tokens\":");
        out.extend_from_slice(itoa::Buffer::new().format(call.output_tokens).as_bytes());
        out.extend_from_slice(self.tail.as_bytes());
        Bytes::from(out)
    }

    /// Appends bytes `from..to` of the text that `key` stands for.
    fn words(&self, out: &mut Vec<u8>, key: u64, from: usize, to: usize) {
        let (mut group, mut skip, mut left) = (from / GROUP_BYTES, from % GROUP_BYTES, to - from);
        while left > 0 {
            let picks = mix(key.wrapping_add((group as u64).wrapping_mul(STEP))).to_le_bytes();
            let mut text = [0; GROUP_BYTES];
            for (word, pick) in text.as_chunks_mut().0.iter_mut().zip(picks) {
                *word = self.words[usize::from(pick)];
            }
            if skip == 0 && left >= GROUP_BYTES {
                out.extend_from_slice(&text);
                left -= GROUP_BYTES;
            } else {
                let take = left.min(GROUP_BYTES - skip);
                out.extend_from_slice(&text[skip..skip + take]);
                left -= take;
                skip = 0;
            }
            group += 1;
        }
    }
}

/// The text of one prompt, written from its start to its end.
struct Text<'a> {
    writer: &'a Writer,
    space: u64,
    runs: std::slice::Iter<'a, Run>,
    run: Run,
    unique: u64,
    /// Bytes of the prompt so far, headers included.
    at: usize,
}

impl<'a> Text<'a> {
    fn new(writer: &'a Writer, space: u64, runs: &'a [Run], unique: u64) -> Self {
        Self { writer, space, runs: runs.iter(), run: Run { start: 0, blocks: 0 }, unique, at: 0 }
    }

    /// Appends the text up to byte `end` of the prompt, without the bytes that the
    /// message's header stands for.
    fn append(&mut self, out: &mut Vec<u8>, end: usize) {
        let block_bytes = self.writer.block_tokens * self.writer.bytes_per_token;
        let visible = self.at + self.writer.header_bytes;
        while self.at < end {
            let offset = self.at % block_bytes;
            let Some(id) = self.block() else {
                let from = visible.max(self.at);
                if from < end {
                    self.writer.words(out, key(!self.space, self.unique), from, end);
                }
                self.at = end;
                return;
            };
            let stop = end.min(self.at - offset + block_bytes);
            let from = visible.max(self.at);
            if from < stop {
                let start = self.at - offset;
                self.writer.words(out, key(self.space, id), from - start, stop - start);
            }
            if stop - self.at + offset == block_bytes {
                self.run.start += 1;
                self.run.blocks -= 1;
            }
            self.at = stop;
        }
    }

    /// The id of the block at hand.
    fn block(&mut self) -> Option<u64> {
        while self.run.blocks == 0 {
            self.run = *self.runs.next()?;
        }
        Some(self.run.start)
    }
}

/// An odd number without pattern: the fractional part of the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn key(space: u64, id: u64) -> u64 {
    mix(space ^ mix(id.wrapping_add(STEP)))
}

/// A bijection that spreads every bit (the finaliser of SplitMix64, public domain).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::trace::Kind;

    fn trace(block_tokens: u32) -> Trace {
        Trace {
            name: String::new(),
            sha256: String::new(),
            kind: Kind::Closed,
            block_tokens,
            sessions: Vec::new(),
        }
    }

    /// The prompt as an engine sees it: a header and the content of each message.
    fn rendered(style: &Style, body: &[u8]) -> Vec<u8> {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        let mut out = Vec::new();
        for message in body["messages"].as_array().unwrap() {
            out.extend(vec![b'#'; style.header_bytes as usize]);
            out.extend_from_slice(message["content"].as_str().unwrap().as_bytes());
        }
        out
    }

    fn prompt(
        style: &Style,
        system: u32,
        space: u64,
        blocks: &[(u64, u32)],
        tokens: u32,
        unique: u64,
    ) -> Vec<u8> {
        let session =
            Session { id: String::new(), space, system_tokens: system, agents: Vec::new() };
        let call = TraceCall {
            at: Duration::ZERO,
            think: Duration::ZERO,
            joins: Vec::new(),
            input_tokens: tokens,
            output_tokens: 7,
            blocks: blocks
                .iter()
                .map(|(start, blocks)| Run { start: *start, blocks: *blocks })
                .collect(),
        };
        let body = Writer::new(style, &trace(64)).body(&session, 0, &call, unique);
        assert!(body.iter().all(|byte| (0x20..0x7f).contains(byte)));
        rendered(style, &body)
    }

    #[test]
    fn a_body_by_hand() {
        let style = Style { model: "a\"b".to_owned(), temperature: Some(0.5), ..Style::default() };
        let session = Session { id: String::new(), space: 0, system_tokens: 0, agents: Vec::new() };
        let call = TraceCall {
            at: Duration::ZERO,
            think: Duration::ZERO,
            joins: Vec::new(),
            input_tokens: 6,
            output_tokens: 9,
            blocks: Vec::new(),
        };
        let body = Writer::new(&style, &trace(64)).body(&session, 0, &call, 3);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["model"], "a\"b");
        assert_eq!(value["max_tokens"], 9);
        assert_eq!(value["temperature"], 0.5);
        assert_eq!(value["stream_options"]["include_usage"], true);
        assert_eq!(value["messages"][0]["role"], "user");
        assert_eq!(value["messages"][0]["content"].as_str().unwrap().len(), 8);
    }

    #[test]
    fn words_are_different() {
        let words: std::collections::HashSet<_> = WORDS.split_whitespace().collect();
        assert_eq!(words.len(), 256);
    }

    proptest::proptest! {
        #[test]
        fn tokens_and_prefixes_are_the_traces(
            bytes_per_token in 1u32..9, system_blocks in 0u32..3,
            shared in 0u32..5, more in 1u32..5, rest in 0u32..64,
        ) {
            let style = Style { bytes_per_token, ..Style::default() };
            let system = system_blocks * 64;
            let (one_blocks, tokens) = ((system_blocks + shared + more), rest + 64 * (system_blocks + shared + more));
            let common = system_blocks + shared;
            let one = prompt(&style, system, 5, &[(1, one_blocks)], tokens, 1);
            let two = prompt(&style, system, 5, &[(1, common), (900, more)], tokens, 2);
            let per_token = bytes_per_token as usize;
            // Too short for its header, a message keeps one word.
            proptest::prop_assert!(one.len() == tokens as usize * per_token || one.len() < (system as usize + 24) * per_token + 24);
            let equal = one.iter().zip(&two).take_while(|(a, b)| a == b).count();
            let expected = common as usize * 64 * per_token;
            // Behind the common blocks chance, or a header, may lengthen the prefix.
            proptest::prop_assert!(equal >= expected.min(one.len()));
            proptest::prop_assert!(equal <= expected + 16 + 24 || equal == one.len());
            // Another space has other text, another tail parts equal blocks.
            let other = prompt(&style, system, 6, &[(1, one_blocks)], tokens, 1);
            proptest::prop_assert_ne!(&one[..one.len().min(64 * per_token)], &other[..other.len().min(64 * per_token)]);
            let tail = prompt(&style, system, 5, &[(1, one_blocks)], tokens, 9);
            let equal = one.iter().zip(&tail).take_while(|(a, b)| a == b).count();
            proptest::prop_assert!(equal >= one_blocks as usize * 64 * per_token);
        }
    }

    #[test]
    fn a_block_has_the_same_text_wherever_it_stands() {
        let style = Style::default();
        let here = prompt(&style, 0, 5, &[(1, 1), (7, 1)], 128, 1);
        let there = prompt(&style, 0, 5, &[(3, 4), (7, 2)], 384, 2);
        assert_eq!(here[256..512], there[1024..1280]);
        assert_ne!(here[256..512], there[1280..1536]);
    }

    /// An endless prefix cache finds in the texts what the block ids promise.
    #[test]
    fn prefix_hits_of_the_text_are_those_of_the_ids() {
        use std::collections::HashSet;
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/traces");
        for (file, sessions) in
            [("mooncake_slice.jsonl.gz", 300), ("claude_code_slice.jsonl.gz", 3)]
        {
            let trace = Trace::read(&dir.join(file)).unwrap();
            let style = Style::default();
            let writer = Writer::new(&style, &trace);
            let (mut text_seen, mut ids_seen) = (HashSet::new(), HashSet::new());
            let (mut tokens, mut text_hits, mut ids_hits) = (0, 0, 0);
            let mut unique = 0;
            for session in trace.sessions.iter().take(sessions) {
                for (index, agent) in session.agents.iter().enumerate() {
                    for call in &agent.calls {
                        unique += 1;
                        tokens += u64::from(call.input_tokens);
                        let text = rendered(&style, &writer.body(session, index, call, unique));
                        assert_eq!(text.len(), call.input_tokens as usize * 4);
                        // An engine's blocks of 16 tokens.
                        let (mut chain, mut hit) = (0, true);
                        for block in text.chunks_exact(64) {
                            chain = xxhash_rust::xxh3::xxh3_64_with_seed(block, chain);
                            hit &= !text_seen.insert(chain);
                            text_hits += if hit { 16 } else { 0 };
                        }
                        let ids =
                            call.blocks.iter().flat_map(|r| r.start..r.start + u64::from(r.blocks));
                        let (mut chain, mut hit) = (session.space, true);
                        for id in ids.take(call.input_tokens as usize / trace.block_tokens as usize)
                        {
                            chain = mix(chain ^ mix(id));
                            hit &= !ids_seen.insert(chain);
                            ids_hits += if hit { u64::from(trace.block_tokens) } else { 0 };
                        }
                    }
                }
            }
            let (text, ids) = (text_hits as f64 / tokens as f64, ids_hits as f64 / tokens as f64);
            // A last block that is not whole counts in part, and main and sub-agents of a
            // session differ by their headers.
            assert!((text - ids).abs() < 0.01, "{file}: {text} by text, {ids} by ids");
        }
    }
}
