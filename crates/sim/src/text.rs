//! Text without a tokenizer: every token is a fixed number of bytes.
//!
//! A prompt is rendered as one row of bytes: each message is a role header of 16 bytes (as
//! many more as fill its last token) and its content, padded with spaces to whole tokens;
//! the header of the reply ends it. What a model generates follows in the same form, so the
//! next turn of a conversation, which repeats the reply, finds its blocks in the cache.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::shape::BLOCK_TOKENS;

/// Bytes of a role header before it is padded to whole tokens.
pub const HEADER_BYTES: usize = 16;

/// Prompt tokens besides the content: one header a message and one for the reply.
/// With 4 bytes a token that is 4 tokens each.
pub fn overhead_tokens(messages: usize, bytes_per_token: u8) -> usize {
    (messages + 1) * HEADER_BYTES.div_ceil(usize::from(bytes_per_token).max(1))
}

/// Chained block hashes of a text that is fed in pieces of any size, without keeping it.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    token_bytes: usize,
    /// The last, incomplete block.
    rest: Vec<u8>,
    hashes: Vec<u64>,
    parent: u64,
}

impl Blocks {
    /// `salt` parts texts that must not share blocks.
    pub(crate) fn new(token_bytes: u8, salt: u64) -> Self {
        let token_bytes = usize::from(token_bytes);
        let rest = Vec::with_capacity(token_bytes * BLOCK_TOKENS as usize);
        Self { token_bytes, rest, hashes: Vec::new(), parent: salt }
    }

    fn block_bytes(&self) -> usize {
        self.token_bytes * BLOCK_TOKENS as usize
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        let size = self.block_bytes();
        if !self.rest.is_empty() {
            let missing = (size - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < size {
                return;
            }
            self.parent = xxh3_64_with_seed(&self.rest, self.parent);
            self.hashes.push(self.parent);
            self.rest.clear();
        }
        let mut blocks = bytes.chunks_exact(size);
        for block in &mut blocks {
            self.parent = xxh3_64_with_seed(block, self.parent);
            self.hashes.push(self.parent);
        }
        self.rest.extend_from_slice(blocks.remainder());
    }

    /// Fills the last token with spaces.
    pub(crate) fn pad(&mut self) {
        let over = self.rest.len() % self.token_bytes;
        if over > 0 {
            const SPACES: [u8; 16] = [b' '; 16];
            self.push(&SPACES[..self.token_bytes - over]);
        }
    }

    /// A message's header.
    pub(crate) fn header(&mut self, role: &str) {
        let mut header = [b' '; HEADER_BYTES];
        header[..2].copy_from_slice(b"<|");
        let len = role.len().min(HEADER_BYTES - 4);
        header[2..2 + len].copy_from_slice(&role.as_bytes()[..len]);
        header[HEADER_BYTES - 2..].copy_from_slice(b"|>");
        self.push(&header);
        self.pad();
    }

    /// A tool call, as it is generated and as a later prompt repeats it.
    pub(crate) fn tool_call(&mut self, name: &str, arguments: &str) {
        self.push(name.as_bytes());
        self.push(b"\n");
        self.pad();
        self.push(arguments.as_bytes());
        self.pad();
    }

    /// Whole tokens so far.
    pub(crate) fn tokens(&self) -> u64 {
        let bytes = self.hashes.len() * self.block_bytes() + self.rest.len();
        bytes.div_ceil(self.token_bytes) as u64
    }

    /// A hash of everything so far.
    pub(crate) fn digest(&self) -> u64 {
        xxh3_64_with_seed(&self.rest, self.parent)
    }

    pub(crate) fn into_hashes(self) -> Box<[u64]> {
        self.hashes.into_boxed_slice()
    }
}

/// The tokens that generated prose is made of: short words that fill a token with the space
/// after them.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    token_bytes: usize,
    /// All tokens in a row.
    bytes: String,
}

/// A power of two, so that a hash picks one by its low bits.
const VOCABULARY: usize = 256;

impl Vocabulary {
    pub(crate) fn new(token_bytes: u8) -> Self {
        let token_bytes = usize::from(token_bytes);
        let mut bytes = String::with_capacity(VOCABULARY * token_bytes);
        for token in 0..VOCABULARY as u64 {
            let mut rest = token_bytes;
            let mut word = 0;
            while rest > 0 {
                // A word and its space fill the token or leave room for another such pair.
                // One letter is a word only where nothing else fits.
                let fits = |size: &usize| *size == rest || size + 2 <= rest;
                let mut fitting: Vec<usize> = [3, 4, 5, 6].into_iter().filter(fits).collect();
                if fitting.is_empty() {
                    fitting.extend([2].iter().filter(|size| fits(size)));
                }
                let draw = mix(token << 8 | word);
                let Some(size) = fitting.get(draw as usize % fitting.len().max(1)) else {
                    bytes.push(char::from(b'a' + (draw % 26) as u8));
                    rest -= 1;
                    continue;
                };
                let words = WORDS[size - 2];
                bytes.push_str(words[(draw >> 16) as usize % words.len()]);
                bytes.push(' ');
                rest -= size;
                word += 1;
            }
        }
        Self { token_bytes, bytes }
    }

    /// The token at `position` of the text with that `seed`.
    pub(crate) fn token(&self, seed: u64, position: u32) -> &str {
        let draw = mix(seed ^ (u64::from(position) << 32 | 0x5eed)) as usize % VOCABULARY;
        &self.bytes[draw * self.token_bytes..(draw + 1) * self.token_bytes]
    }

    /// Tokens `from..to` of a text.
    pub(crate) fn text(&self, seed: u64, from: u32, to: u32) -> String {
        let mut text = String::with_capacity((to - from) as usize * self.token_bytes);
        for position in from..to {
            text.push_str(self.token(seed, position));
        }
        text
    }
}

/// Words of one to five letters.
const WORDS: [&[&str]; 5] = [
    &["a", "I"],
    &["of", "to", "in", "is", "it", "as", "at", "on", "we", "be", "by", "or", "so", "up", "if"],
    &[
        "the", "and", "for", "you", "are", "was", "one", "all", "can", "had", "her", "out", "day",
        "get", "has", "him", "how", "man", "new", "now", "old", "see", "two", "way", "who", "oil",
        "sea", "run", "set", "sun", "map", "net", "key", "log", "cup", "dog", "red", "sky", "ice",
        "air", "arm", "box", "bus", "car", "cow", "ear", "egg", "end", "fly", "fun", "gas", "hat",
        "hot", "ink", "jar", "joy", "kit", "lab", "leg", "lot", "mix", "mud", "nut", "oak", "own",
        "pan", "pen", "pie", "pot", "raw", "row", "sad", "sit", "ski", "tea", "ten", "tie", "toy",
        "use", "van", "war", "web", "win", "yes", "zoo", "but", "not", "its", "may", "any", "few",
    ],
    &["time", "year", "work", "life", "part", "long", "same", "even", "such", "wind", "rain"],
    &["water", "place", "world", "house", "group", "light", "point", "order", "field", "plain"],
];

/// A well-mixed number from any other (the finaliser of SplitMix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from 0 up to, and without, 1.
pub(crate) fn uniform(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}

/// An output length from a log-normal distribution, at least 1: the median is given, and
/// 16 % of the lengths are above 2.2 times that, as many below its inverse.
pub(crate) fn output_tokens(seed: u64, median: u32) -> u32 {
    // The sum of twelve uniform numbers is normal enough and the same on every machine.
    let normal: f64 = (0..12).map(|i| uniform(mix(seed ^ mix(0x1e57 + i)))).sum::<f64>() - 6.0;
    let tokens = f64::from(median) * (0.8 * normal).exp();
    (tokens.round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_equal_hashes() {
        let text: Vec<u8> = (0..1000u32).map(|i| (i * 7 % 251) as u8).collect();
        let hashes = |size: usize| {
            let mut blocks = Blocks::new(4, 0);
            text.chunks(size).for_each(|piece| blocks.push(piece));
            (blocks.tokens(), blocks.digest(), blocks.into_hashes())
        };
        let whole = hashes(1000);
        assert_eq!((whole.0, whole.2.len()), (250, 15));
        for size in [1, 3, 63, 64, 65, 200] {
            assert_eq!(hashes(size), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_hash_stands_for_all_before_it() {
        let hashes = |salt: u64, text: &str| {
            let mut blocks = Blocks::new(1, salt);
            blocks.push(text.as_bytes());
            blocks.into_hashes()
        };
        let (a, b) = (hashes(0, &"a".repeat(48)), hashes(0, &("b".repeat(16) + &"a".repeat(32))));
        assert_eq!(a[..2], hashes(0, &"a".repeat(32))[..]);
        assert!(a.iter().zip(&b).all(|(a, b)| a != b));
        assert_ne!(a[0], a[1]);
        assert_ne!(a[0], hashes(1, &"a".repeat(16))[0]);
    }

    #[test]
    fn messages_take_whole_tokens() {
        let check = |token_bytes: u8, content: &str, expected: u64| {
            let mut blocks = Blocks::new(token_bytes, 0);
            blocks.header("user");
            blocks.push(content.as_bytes());
            blocks.pad();
            blocks.header("assistant");
            assert_eq!(blocks.tokens(), expected);
            let content = content.len().div_ceil(token_bytes.into()) as u64;
            assert_eq!(expected, content + overhead_tokens(1, token_bytes) as u64);
        };
        check(4, "", 8);
        check(4, "hello", 10);
        check(3, "hello", 14);
        check(16, "hello", 3);
    }

    #[test]
    fn tokens_have_their_size_and_read_like_words() {
        for size in 1..=16 {
            let words = Vocabulary::new(size);
            let text = words.text(7, 0, 100);
            assert_eq!(text.len(), 100 * usize::from(size));
            assert!(text.bytes().all(|b| b.is_ascii_alphabetic() || b == b' '), "{text}");
            assert_eq!(words.text(7, 40, 60), text[40 * usize::from(size)..60 * usize::from(size)]);
            assert_ne!(words.text(8, 0, 100), text);
        }
    }

    #[test]
    fn output_lengths_lie_around_the_median() {
        let mut lengths: Vec<u32> = (0..999).map(|seed| output_tokens(seed, 200)).collect();
        lengths.sort_unstable();
        assert!((180..220).contains(&lengths[499]), "{}", lengths[499]);
        assert!((380..520).contains(&lengths[841]), "{}", lengths[841]);
    }
}
