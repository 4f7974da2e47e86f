//! An engine's counts, and their text in the Prometheus format under vLLM's names.

use std::fmt::Write;

/// What an engine has counted and measured. One engine writes it, under its lock.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) generated: u64,
    pub(crate) ended_by_stop: u64,
    pub(crate) ended_by_length: u64,
    pub(crate) cancelled: u64,
    pub(crate) rejected: u64,
    pub(crate) busy_ns: u64,
    pub(crate) first_token: Histogram,
    pub(crate) inter_token: Histogram,
    pub(crate) whole: Histogram,
    pub(crate) queued: Histogram,
    pub(crate) step_tokens: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            generated: 0,
            ended_by_stop: 0,
            ended_by_length: 0,
            cancelled: 0,
            rejected: 0,
            busy_ns: 0,
            first_token: Histogram::new(FIRST_TOKEN_MS),
            inter_token: Histogram::new(INTER_TOKEN_MS),
            whole: Histogram::new(REQUEST_MS),
            queued: Histogram::new(REQUEST_MS),
            step_tokens: Histogram::new(STEP_TOKENS),
        }
    }
}

/// Values in fixed buckets. Times are recorded in nanoseconds against bounds in
/// milliseconds; numbers as they are.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [u64],
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Records a number.
    pub(crate) fn record(&mut self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Records a time.
    pub(crate) fn record_ns(&mut self, ns: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound * 1_000_000 < ns);
        self.counts[bucket] += 1;
        self.sum += ns;
    }

    /// How many values were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn write(&self, text: &mut String, name: &str, labels: &str, seconds: bool) {
        let mut below = 0;
        for (i, count) in self.counts.iter().enumerate() {
            below += count;
            let bound = match self.bounds.get(i) {
                Some(bound) if seconds => (*bound as f64 / 1e3).to_string(),
                Some(bound) => bound.to_string(),
                None => "+Inf".to_owned(),
            };
            put(text, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {below}"));
        }
        let sum = if seconds { self.sum as f64 / 1e9 } else { self.sum as f64 };
        put(text, format_args!("{name}_sum{{{labels}}} {sum}"));
        put(text, format_args!("{name}_count{{{labels}}} {below}"));
    }
}

// The buckets are those of vLLM.
const FIRST_TOKEN_MS: &[u64] = &[
    1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000, 20_000, 40_000,
    80_000, 160_000, 640_000, 2_560_000,
];
const INTER_TOKEN_MS: &[u64] = &[
    10, 25, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1000, 2500, 5000, 7500, 10_000, 20_000,
    40_000, 80_000,
];
const REQUEST_MS: &[u64] = &[
    300, 500, 800, 1000, 1500, 2000, 2500, 5000, 10_000, 15_000, 20_000, 30_000, 40_000, 50_000,
    60_000, 120_000, 240_000, 480_000, 960_000, 1_920_000, 7_680_000,
];
const STEP_TOKENS: &[u64] = &[1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384];

/// The state of one engine at a point in time, and its counts since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait for admission.
    pub waiting: usize,
    /// KV-cache blocks that requests hold.
    pub kv_blocks_used: u32,
    /// All KV-cache blocks.
    pub kv_blocks: u32,
    /// Prompt tokens of the requests admitted so far.
    pub prompt_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Of those, tokens that it held.
    pub prefix_hit_tokens: u64,
    /// Generated tokens.
    pub generated_tokens: u64,
    /// How often a running request lost its blocks.
    pub preemptions: u64,
    /// Requests that ended by themselves.
    pub finished: u64,
    /// Requests whose caller went away.
    pub cancelled: u64,
    /// Requests refused because the queue was full.
    pub rejected: u64,
    /// Engine steps.
    pub steps: u64,
    /// Time spent in steps, in nanoseconds.
    pub busy_ns: u64,
}

impl Stats {
    /// Share of the KV cache that requests hold, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        f64::from(self.kv_blocks_used) / f64::from(self.kv_blocks.max(1))
    }
}

/// Writes all metrics of one engine in the Prometheus text format.
pub(crate) fn render(metrics: &Metrics, stats: &Stats, model: &str, engine: usize) -> String {
    let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = format!("model_name=\"{model}\",engine=\"{engine}\"");
    let mut text = String::with_capacity(12 * 1024);
    let mut single = |kind: &str, name: &str, help: &str, value: f64| {
        head(&mut text, name, kind, help);
        put(&mut text, format_args!("vllm:{name}{{{labels}}} {value}"));
    };
    single("gauge", "num_requests_running", "Requests that run.", stats.running as f64);
    single("gauge", "num_requests_waiting", "Requests that wait.", stats.waiting as f64);
    single("gauge", "kv_cache_usage_perc", "KV cache in use; 1 is all.", stats.kv_usage());
    let counters = [
        ("num_preemptions_total", "Preemptions.", stats.preemptions),
        ("prefix_cache_queries_total", "Tokens looked up.", stats.prefix_query_tokens),
        ("prefix_cache_hits_total", "Tokens found.", stats.prefix_hit_tokens),
        ("prompt_tokens_total", "Prompt tokens.", stats.prompt_tokens),
        ("generation_tokens_total", "Generated tokens.", stats.generated_tokens),
    ];
    for (name, help, value) in counters {
        single("counter", name, help, value as f64);
    }
    head(&mut text, "request_success_total", "counter", "Requests that ended.");
    let reasons = [
        ("stop", metrics.ended_by_stop),
        ("length", metrics.ended_by_length),
        ("abort", metrics.cancelled),
    ];
    for (reason, n) in reasons {
        put(
            &mut text,
            format_args!("vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {n}"),
        );
    }
    let histograms = [
        ("time_to_first_token_seconds", "Time to first token.", &metrics.first_token, true),
        ("inter_token_latency_seconds", "Time between tokens.", &metrics.inter_token, true),
        ("e2e_request_latency_seconds", "Whole requests.", &metrics.whole, true),
        ("request_queue_time_seconds", "Time before admission.", &metrics.queued, true),
        ("iteration_tokens_total", "Tokens of a step.", &metrics.step_tokens, false),
    ];
    for (name, help, histogram, seconds) in histograms {
        head(&mut text, name, "histogram", help);
        histogram.write(&mut text, &format!("vllm:{name}"), &labels, seconds);
    }
    head(&mut text, "cache_config_info", "gauge", "The KV cache.");
    let (blocks, size) = (stats.kv_blocks, crate::shape::BLOCK_TOKENS);
    let tokens = u64::from(blocks) * u64::from(size);
    put(
        &mut text,
        format_args!(
            "vllm:cache_config_info{{{labels},block_size=\"{size}\",\
             kv_cache_size_tokens=\"{tokens}\",num_gpu_blocks=\"{blocks}\",simulated=\"true\"}} 1"
        ),
    );
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    put(text, format_args!("# HELP vllm:{name} {help} Simulated.\n# TYPE vllm:{name} {kind}"));
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
