//! Engine shapes as data: what a model weighs, and how long a step takes on its GPU.
//!
//! A shape is a TOML file, so a user replaces the constants with those of his own hardware.
//! The presets are fitted to published kernel timings of an H100; the test below compares
//! them with all 1,768 points.

use serde::Deserialize;

/// Tokens in one KV-cache block, vLLM's default.
pub const BLOCK_TOKENS: u32 = 16;

/// A model on a GPU.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What the shape is called in reports.
    pub name: String,
    /// The model's dimensions.
    pub model: Model,
    /// The GPU's memory and rates with this model.
    pub gpu: Gpu,
}

/// Dimensions of a decoder-only transformer with grouped-query attention and a gated
/// feed-forward layer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub ff: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Bytes of one weight of the linear layers.
    pub weight_bytes: f64,
    /// Bytes of one weight of the output head and of the embeddings.
    pub head_bytes: f64,
    /// Bytes of one key or value element in the cache.
    pub kv_bytes: f64,
    /// Whether the output head and the embeddings are one matrix.
    pub tied_embeddings: bool,
}

/// Rates and fixed costs of a GPU, as fitted for one kind of weights.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Memory, in GB (1e9 bytes).
    pub memory_gb: f64,
    /// Rate at which weights are read, in TB/s.
    pub weight_read_tb_s: f64,
    /// Rate of the linear layers, in TFLOP/s.
    pub linear_tflop_s: f64,
    /// How sharply reading-bound turns into compute-bound: the exponent of a p-norm.
    pub knee: f64,
    /// Fixed cost of element-wise kernels, in microseconds a layer.
    pub elementwise_us_per_layer: f64,
    /// Rate of element-wise kernels, in TB/s.
    pub elementwise_tb_s: f64,
    /// Fixed cost of decode attention, in microseconds a layer.
    pub decode_us_per_layer: f64,
    /// Cost of decode attention, in microseconds a sequence and layer.
    pub decode_us_per_seq_layer: f64,
    /// Rate at which decode attention reads the KV cache, in TB/s.
    pub kv_read_tb_s: f64,
    /// Fixed cost of prefill attention, in microseconds a layer.
    pub prefill_us_per_layer: f64,
    /// Rate of prefill attention, in TFLOP/s.
    pub prefill_tflop_s: f64,
}

/// Why a shape cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The name is no preset and no file.
    #[error("cannot read the shape {name:?}: {source}; presets are {presets}")]
    Read {
        /// The preset or path that was asked for.
        name: String,
        /// All presets.
        presets: String,
        /// Why the file cannot be read.
        source: std::io::Error,
    },
    /// The text is no shape.
    #[error("the shape {name:?} is not valid: {source}")]
    Parse {
        /// The preset or path.
        name: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A number is out of its range.
    #[error("the shape {name:?}: {field} must be {rule}")]
    Value {
        /// The shape's name.
        name: String,
        /// The field at fault.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

const PRESETS: [(&str, &str); 3] = [
    ("llama3-8b", include_str!("../shapes/llama3-8b.toml")),
    ("llama3-8b-fp8", include_str!("../shapes/llama3-8b-fp8.toml")),
    ("llama3.2-1b", include_str!("../shapes/llama3.2-1b.toml")),
];

impl Shape {
    /// The names of the built-in shapes.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.into_iter().map(|(name, _)| name)
    }

    /// A preset by name, or else the TOML file at that path.
    ///
    /// # Errors
    /// When it is neither, or when it is not valid.
    pub fn load(name: &str) -> Result<Self, ShapeError> {
        if let Some((_, text)) = PRESETS.into_iter().find(|(preset, _)| *preset == name) {
            return Self::parse(name, text);
        }
        let text = std::fs::read_to_string(name).map_err(|source| ShapeError::Read {
            name: name.to_owned(),
            presets: Self::presets().collect::<Vec<_>>().join(", "),
            source,
        })?;
        Self::parse(name, &text)
    }

    /// Reads a shape from TOML text; `name` is for error messages.
    ///
    /// # Errors
    /// When the text is no TOML, lacks a field, has an unknown one, or a number is out of
    /// its range.
    pub fn parse(name: &str, text: &str) -> Result<Self, ShapeError> {
        let shape: Self = toml::from_str(text)
            .map_err(|e| ShapeError::Parse { name: name.to_owned(), source: Box::new(e) })?;
        let (m, g) = (&shape.model, &shape.gpu);
        let positive = [
            ("model.layers", f64::from(m.layers)),
            ("model.hidden", f64::from(m.hidden)),
            ("model.heads", f64::from(m.heads)),
            ("model.kv_heads", f64::from(m.kv_heads)),
            ("model.head_dim", f64::from(m.head_dim)),
            ("model.ff", f64::from(m.ff)),
            ("model.vocab", f64::from(m.vocab)),
            ("model.weight_bytes", m.weight_bytes),
            ("model.head_bytes", m.head_bytes),
            ("model.kv_bytes", m.kv_bytes),
            ("gpu.memory_gb", g.memory_gb),
            ("gpu.weight_read_tb_s", g.weight_read_tb_s),
            ("gpu.linear_tflop_s", g.linear_tflop_s),
            ("gpu.knee", g.knee),
            ("gpu.elementwise_tb_s", g.elementwise_tb_s),
            ("gpu.kv_read_tb_s", g.kv_read_tb_s),
            ("gpu.prefill_tflop_s", g.prefill_tflop_s),
        ];
        let not_negative = [
            ("gpu.elementwise_us_per_layer", g.elementwise_us_per_layer),
            ("gpu.decode_us_per_layer", g.decode_us_per_layer),
            ("gpu.decode_us_per_seq_layer", g.decode_us_per_seq_layer),
            ("gpu.prefill_us_per_layer", g.prefill_us_per_layer),
        ];
        let bad = |field, rule| ShapeError::Value { name: name.to_owned(), field, rule };
        if let Some((field, _)) = positive.iter().find(|(_, v)| !(v.is_finite() && *v > 0.0)) {
            return Err(bad(field, "a number above 0"));
        }
        if let Some((field, _)) = not_negative.iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            return Err(bad(field, "a number of at least 0"));
        }
        Ok(shape)
    }

    /// Bytes that one token takes in the KV cache.
    pub fn kv_bytes_per_token(&self) -> f64 {
        let m = &self.model;
        2.0 * f64::from(m.layers) * f64::from(m.kv_heads) * f64::from(m.head_dim) * m.kv_bytes
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> f64 {
        let copies = if self.model.tied_embeddings { 1.0 } else { 2.0 };
        self.linear_weights() * self.model.weight_bytes + copies * self.head_read_bytes()
    }

    /// KV-cache tokens that fit beside the weights when `memory_share` of the memory is
    /// used, as whole blocks. 8B bf16 with a share of 0.9: 426,784.
    pub fn kv_tokens(&self, memory_share: f64) -> u64 {
        let free = memory_share * self.gpu.memory_gb * 1e9 - self.weight_bytes();
        let blocks = free / (self.kv_bytes_per_token() * f64::from(BLOCK_TOKENS));
        blocks.max(0.0) as u64 * u64::from(BLOCK_TOKENS)
    }

    fn linear_weights(&self) -> f64 {
        let m = &self.model;
        let (d, hd) = (f64::from(m.hidden), f64::from(m.head_dim));
        let (h, kv, ff) = (f64::from(m.heads), f64::from(m.kv_heads), f64::from(m.ff));
        let attention = d * (h + 2.0 * kv) * hd + h * hd * d;
        f64::from(m.layers) * (attention + 3.0 * d * ff)
    }

    fn head_read_bytes(&self) -> f64 {
        f64::from(self.model.vocab) * f64::from(self.model.hidden) * self.model.head_bytes
    }
}

/// What one engine step computes, as far as its duration depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// All tokens of the step.
    pub tokens: u64,
    /// Sequences that compute one token each.
    pub decodes: u64,
    /// Sum of the contexts of those, the new tokens included.
    pub context: u64,
    /// Twice the attention work of the longer chunks: the sum of new · (2 · offset + new).
    pub prefill: u64,
}

/// The duration of a step as a function of its [`Load`]; all coefficients in nanoseconds.
///
/// `head + elementwise + (read^p + compute^p)^(1/p)` + decode attention + prefill
/// attention. Sums of floating-point numbers are always built in the same order, so that
/// equal loads take equal time.
#[derive(Clone, Debug)]
pub struct Timing {
    fixed: f64,
    read: f64,
    compute_per_token: f64,
    knee: f64,
    elementwise_per_token: f64,
    decode: f64,
    decode_per_seq: f64,
    per_context: f64,
    prefill: f64,
    prefill_per_work: f64,
    per_speed: f64,
}

impl Timing {
    /// The step times of a shape, divided by `speed` (1 = the GPU's own).
    pub fn new(shape: &Shape, speed: f64) -> Self {
        let (m, g) = (&shape.model, &shape.gpu);
        let layers = f64::from(m.layers);
        let (h, kv, hd) = (f64::from(m.heads), f64::from(m.kv_heads), f64::from(m.head_dim));
        let linear = shape.linear_weights();
        let elementwise_bytes =
            2.0 * (10.0 * f64::from(m.hidden) + 2.0 * (h + kv) * hd + 3.0 * f64::from(m.ff));
        // Bytes over TB/s and FLOPs over TFLOP/s are ns when divided by a thousand.
        let per = |amount: f64, tera: f64| amount / (tera * 1e3);
        Self {
            fixed: per(shape.head_read_bytes(), g.weight_read_tb_s)
                + layers * g.elementwise_us_per_layer * 1e3,
            read: per(linear * m.weight_bytes, g.weight_read_tb_s),
            compute_per_token: per(2.0 * linear, g.linear_tflop_s),
            knee: g.knee,
            elementwise_per_token: per(layers * elementwise_bytes, g.elementwise_tb_s),
            decode: layers * g.decode_us_per_layer * 1e3,
            decode_per_seq: layers * g.decode_us_per_seq_layer * 1e3,
            per_context: per(shape.kv_bytes_per_token(), g.kv_read_tb_s),
            prefill: layers * g.prefill_us_per_layer * 1e3,
            prefill_per_work: per(2.0 * layers * h * hd, g.prefill_tflop_s),
            per_speed: 1.0 / speed,
        }
    }

    /// Duration of a step, in nanoseconds, at least 1.
    pub fn step_ns(&self, load: Load) -> u64 {
        self.with_context(self.without_context(load), load.context)
    }

    /// The part of a step's duration that does not depend on the decoders' contexts. Over a
    /// row of decode steps it stays the same.
    pub(crate) fn without_context(&self, load: Load) -> f64 {
        let tokens = load.tokens as f64;
        let compute = self.compute_per_token * tokens;
        let linear = (self.read.powf(self.knee) + compute.powf(self.knee)).powf(1.0 / self.knee);
        let mut ns = self.fixed + linear + self.elementwise_per_token * tokens;
        if load.decodes > 0 {
            ns += self.decode + self.decode_per_seq * load.decodes as f64;
        }
        if load.prefill > 0 {
            ns += self.prefill + self.prefill_per_work * load.prefill as f64;
        }
        ns
    }

    pub(crate) fn with_context(&self, rest: f64, context: u64) -> u64 {
        (((rest + self.per_context * context as f64) * self.per_speed).round() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_8b_formula_is_the_published_one() {
        let timing = Timing::new(&Shape::load("llama3-8b").unwrap(), 1.0);
        let check = |tokens: u64, decodes: u64, context: u64, new: u64, offset: u64| {
            let prefill = new * (2 * offset + new);
            let ns = timing.step_ns(Load { tokens, decodes, context, prefill });
            let t = tokens as f64;
            let mut ms =
                0.88 + (5.44f64.powf(3.2) + (0.0176 * t).powf(3.2)).powf(1.0 / 3.2) + 0.0030 * t;
            if decodes > 0 {
                ms += 0.45 + 0.0021 * decodes as f64 + 4.32e-5 * context as f64;
            }
            if new > 0 {
                ms += 0.58 + 7.72e-7 * prefill as f64 / 2.0;
            }
            assert!((ns as f64 / 1e6 / ms - 1.0).abs() < 0.01, "{ns} ns, {ms} ms");
        };
        check(1, 1, 512, 0, 0);
        check(64, 64, 64 * 2048, 0, 0);
        check(8192, 0, 0, 8192, 0);
        check(2048, 128, 128 * 1024, 1920, 8192);
    }

    #[test]
    fn step_times_match_the_published_kernels() {
        let csv = include_str!("../testdata/h100_llama_published_kernels.csv");
        let check = |shape: &str, key: [&str; 3], count: usize| {
            let timing = Timing::new(&Shape::load(shape).unwrap(), 1.0);
            let mut errors: Vec<f64> = csv
                .lines()
                .skip(1)
                .map(|line| line.split(',').collect::<Vec<_>>())
                .filter(|row| row[..3] == key)
                .map(|row| {
                    let n = |i: usize| row[i].parse::<u64>().unwrap();
                    let (chunk, offset, chunks) = (n(6), n(7), n(8));
                    let load = Load {
                        tokens: n(9),
                        decodes: n(4),
                        context: n(4) * n(5),
                        prefill: chunks * chunk * (2 * offset + chunk),
                    };
                    let published_ms: f64 = row[15].parse().unwrap();
                    100.0 * (timing.step_ns(load) as f64 / 1e6 / published_ms - 1.0).abs()
                })
                .collect();
            assert_eq!(errors.len(), count);
            errors.sort_by(f64::total_cmp);
            let (median, p95) = (errors[count / 2], errors[count * 95 / 100]);
            println!("{shape}: {count} steps, error median {median:.2} %, p95 {p95:.2} %");
            assert!(median <= 3.0, "{shape}: median error {median} %");
        };
        check("llama3-8b", ["llama3-8b", "bfloat16", "bfloat16"], 411);
        check("llama3-8b-fp8", ["llama3-8b", "fp8", "fp8"], 457);
        check("llama3.2-1b", ["llama3.2-1b", "bfloat16", "bfloat16"], 489);
    }

    #[test]
    fn kv_capacity_follows_from_the_memory() {
        let check = |shape: &str, expected: std::ops::Range<u64>| {
            let tokens = Shape::load(shape).unwrap().kv_tokens(0.9);
            assert!(expected.contains(&tokens) && tokens.is_multiple_of(16), "{shape}: {tokens}");
        };
        check("llama3-8b", 426_000..428_000);
        check("llama3-8b-fp8", 959_000..961_000);
        check("llama3.2-1b", 2_100_000..2_150_000);
    }

    #[test]
    fn errors_say_what_to_mend() {
        let text = PRESETS[0].1;
        let check = |text: &str, expected: &str| {
            let error = Shape::parse("mine.toml", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&text.replace("knee", "kneee"), "unknown field `kneee`");
        check(&text.replace("memory_gb = 80.0", ""), "missing field `memory_gb`");
        check(&text.replace("layers = 32", "layers = 0"), "model.layers must be a number above 0");
        check(&text.replace("= 2.57", "= nan"), "gpu.weight_read_tb_s must be");
        let missing = Shape::load("no-such-shape").unwrap_err().to_string();
        assert!(missing.contains("presets are llama3-8b,"), "{missing}");
    }
}
