//! What a user sets: `[sim]` of `paceline.toml`, and the flags of `paceline sim`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::FaultError;
use crate::provider::Vendor;
use crate::scheduler::Limits;
use crate::shape::{BLOCK_TOKENS, Shape, ShapeError};

/// The simulated engines: how many, how large, how fast, and how they fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Engine shape: a preset (`llama3-8b`, `llama3-8b-fp8`, `llama3.2-1b`) or the path of a
    /// TOML file in the same form. Default: `llama3-8b`.
    pub shape: String,
    /// Model name in `/v1/models` and in metrics; calls may name any model. Default: `sim`.
    pub model: String,
    /// Seed of texts, output lengths and faults. Default: 0.
    pub seed: u64,
    /// Requests that run at a time, vLLM's `--max-num-seqs`. Default: 1024.
    pub max_num_seqs: u32,
    /// Tokens that one step computes at most, vLLM's `--max-num-batched-tokens`.
    /// Default: 8192.
    pub max_num_batched_tokens: u32,
    /// Share of the GPU's memory for weights and KV cache, above 0 and at most 1.
    /// Default: 0.9.
    pub gpu_memory_utilization: f64,
    /// KV-cache tokens of one replica, in place of what the shape's memory gives. Rounded
    /// down to whole blocks of 16.
    pub kv_tokens: Option<u64>,
    /// Longest prompt and output together, in tokens. Default: what the KV cache holds.
    pub max_model_len: Option<u32>,
    /// Whether unused KV blocks serve as a prefix cache. Default: true.
    pub prefix_caching: bool,
    /// Requests that wait for admission at most; beyond, a call gets 503. Default: 16384.
    pub waiting_max: u32,
    /// Bytes of one token, since there is no tokenizer; 1 to 16. Default: 4.
    pub bytes_per_token: u8,
    /// Median of the output length where a call does not fix it, in tokens. Default: 200.
    pub output_tokens_median: u32,
    /// In virtual time, hand a request's tokens over together between its changes of state
    /// (first and last token), each with its exact stamp. Schedules and stamps are the same
    /// either way. In real time each token goes out at its time. Default: true.
    pub join_events: bool,
    /// Longest virtual time that a joined token waits for its successors, in milliseconds.
    /// Default: 5000.
    pub join_ms_max: u32,
    /// How many times faster than the shape's GPU the engine runs. Default: 1.
    pub speed: f64,
    /// Faults on demand, such as `rate=10/s`, `concurrency=4`, `error500=0.1`,
    /// `stall=0.05:30s`, `cut=0.1`, `malformed=every3`, `slow-first=0.1:5s`. Default: none.
    pub faults: Vec<String>,
    /// Whether answers carry the exact times of their tokens (`sim_ns`, `sim`), for replays
    /// in virtual time; these members are no part of the OpenAI format. Default: false.
    pub stamps: bool,
    /// In place of engines, one simulated provider with its own API: `openai`, `anthropic`,
    /// `gemini` or `bedrock`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Vendor>,
    /// The one key that the provider takes (for `bedrock` the access key's id). Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Path of a TOML or JSON file with the provider's replies. Default: they are made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Limits of the provider, such as `requests=60/m`, `requests=60/m:window:headers`,
    /// `tokens=90000/m`, `concurrency=8`; options `burst=N`, `rolling`, `overloaded`,
    /// `silent`, `then=60s*0.5`. Default: none.
    pub limits: Vec<String>,
    /// The provider's time to the first token, in milliseconds. Default: 200.
    pub first_token_ms: u32,
    /// The provider's tokens a second. Default: 100.
    pub tokens_per_s: f64,
    /// Address of the first replica's server; the others take the ports that follow, or
    /// any when the port is 0. Default: `127.0.0.1:9000`.
    pub listen: String,
    /// Replicas, each with its own KV cache and port; 1 to 1000. Default: 1.
    pub replicas: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shape: "llama3-8b".to_owned(),
            model: "sim".to_owned(),
            seed: 0,
            max_num_seqs: 1024,
            max_num_batched_tokens: 8192,
            gpu_memory_utilization: 0.9,
            kv_tokens: None,
            max_model_len: None,
            prefix_caching: true,
            waiting_max: 16_384,
            bytes_per_token: 4,
            output_tokens_median: 200,
            join_events: true,
            join_ms_max: 5000,
            speed: 1.0,
            faults: Vec::new(),
            stamps: false,
            provider: None,
            key: None,
            script: None,
            limits: Vec::new(),
            first_token_ms: 200,
            tokens_per_s: 100.0,
            listen: "127.0.0.1:9000".to_owned(),
            replicas: 1,
        }
    }
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The shape cannot be used.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A fault is not understood.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A field is out of its range.
    #[error("`{field}` must be {rule}")]
    Value {
        /// The field at fault.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A file of replies is not understood.
    #[error("the script {path} cannot be used: {why}")]
    Script {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A limit is not understood.
    #[error(
        "the limit `{limit}` is not understood: {why}; write for example requests=60/m:window, tokens=90000/m:headers or concurrency=8"
    )]
    Limit {
        /// What was written.
        limit: String,
        /// What is wrong with it.
        why: String,
    },
    /// The weights leave no room.
    #[error(
        "the weights of {shape} leave no room for a KV block in {utilization} of its GPU's memory; \
         raise `gpu_memory_utilization` or set `kv_tokens`"
    )]
    NoRoom {
        /// The shape's name.
        shape: String,
        /// The share that may be used.
        utilization: f64,
    },
    /// A port cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Config {
    /// Tokens that the KV cache of one replica holds.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub fn replica_tokens(&self, shape: &Shape) -> Result<u64, ConfigError> {
        Ok(u64::from(self.limits(shape)?.blocks) * u64::from(BLOCK_TOKENS))
    }

    /// Checks the numbers and turns them into an engine's bounds.
    pub(crate) fn limits(&self, shape: &Shape) -> Result<Limits, ConfigError> {
        let check =
            |ok: bool, field, rule| ok.then_some(()).ok_or(ConfigError::Value { field, rule });
        check(self.max_num_seqs > 0, "max_num_seqs", "at least 1")?;
        check(self.max_num_batched_tokens > 0, "max_num_batched_tokens", "at least 1")?;
        let share = self.gpu_memory_utilization;
        check(share > 0.0 && share <= 1.0, "gpu_memory_utilization", "above 0 and at most 1")?;
        check(self.speed.is_finite() && self.speed > 0.0, "speed", "a number above 0")?;
        check((1..=16).contains(&self.bytes_per_token), "bytes_per_token", "from 1 to 16")?;
        check(self.output_tokens_median > 0, "output_tokens_median", "at least 1")?;
        check(self.waiting_max > 0, "waiting_max", "at least 1")?;
        check((1..=1000).contains(&self.replicas), "replicas", "from 1 to 1000")?;
        check(self.max_model_len != Some(0), "max_model_len", "at least 1")?;
        let tokens = self.kv_tokens.unwrap_or_else(|| shape.kv_tokens(share));
        let blocks = tokens / u64::from(BLOCK_TOKENS);
        if blocks == 0 && self.kv_tokens.is_none() {
            return Err(ConfigError::NoRoom { shape: shape.name.clone(), utilization: share });
        }
        check((1..=BLOCKS_MAX).contains(&blocks), "kv_tokens", "from 16 to 1,073,741,824")?;
        Ok(Limits {
            seqs: self.max_num_seqs as usize,
            step_tokens: self.max_num_batched_tokens,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            prefix_cache: self.prefix_caching,
        })
    }
}

/// Keeps token counts within 32 bits and the pool within a few GB.
const BLOCKS_MAX: u64 = 1 << 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let shape = Shape::load("llama3-8b").unwrap();
        let check = |change: fn(&mut Config), expected: &str| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.limits(&shape).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|c| c.speed = 0.0, "`speed`");
        check(|c| c.kv_tokens = Some(15), "`kv_tokens`");
        check(|c| c.kv_tokens = Some(u64::MAX), "`kv_tokens`");
        check(|c| c.gpu_memory_utilization = 0.1, "no room");
        check(|c| c.bytes_per_token = 17, "`bytes_per_token`");
        assert_eq!(Config::default().limits(&shape).unwrap().blocks, 26_674);
    }

    #[test]
    fn toml_fields_are_checked() {
        let config: Config = toml::from_str("replicas = 4\nfaults = [\"cut=0.1\"]").unwrap();
        assert_eq!((config.replicas, config.faults.len()), (4, 1));
        let error = toml::from_str::<Config>("replica = 4").unwrap_err().to_string();
        assert!(error.contains("unknown field `replica`"), "{error}");
    }
}
