//! Gathers what the calls of a replay found, and makes the report of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use paceline_core::{CacheStatus, Instant};
use paceline_stats::{Summary, Timeline, bootstrap, mean};

use crate::report::{
    Calls, FailureCount, Interval, Lag, Latency, Load, Meta, ReplicaReport, Report, Runs, Series,
    Throughput, Tokens, TraceInfo,
};
use crate::target::{Failure, FailureKind, ReplicaStats};
use crate::trace::{Kind, Trace};

use super::call::{CallCost, Done};
use super::{Config, Cost, Plan, Progress};

/// First width of a bucket of queue depths, and how many there are at most.
const BUCKET: Duration = Duration::from_secs(1);
const BUCKETS_MAX: usize = 240;

/// The same for prefix hits, which need many calls in a bucket to be more than noise.
const HIT_BUCKET: Duration = Duration::from_secs(10);
const HIT_BUCKETS_MAX: usize = 60;

/// Draws of the bootstrap for intervals of a single replay.
const RESAMPLES: usize = 1000;

/// The counters and samples of a replay. Memory: 16 bytes a call, and bounded series.
#[derive(Default)]
pub(super) struct Collector {
    ttft_s: Vec<f64>,
    e2e_s: Vec<f64>,
    completion_s: Vec<f64>,
    inter_token: Summary,
    lag: Summary,
    first_sent_ns: Option<u64>,
    last_sent_ns: u64,
    last_intended_ns: u64,
    sent: usize,
    failures: BTreeMap<FailureKind, (usize, String)>,
    failed: usize,
    runs_cut: usize,
    runs_failed: usize,
    hits: usize,
    joined: usize,
    tokens: Tokens,
    /// End of the last answer, in nanoseconds since the start.
    end_ns: u64,
    hit_ratio: Option<Timeline>,
    replicas: Vec<Replica>,
    calls_by_replica: BTreeMap<Arc<str>, usize>,
    pub(super) cost: Cost,
}

struct Replica {
    name: Arc<str>,
    running: Timeline,
    waiting: Timeline,
    kv_usage: Timeline,
}

impl Collector {
    pub(super) fn new(calls: usize) -> Self {
        Self {
            ttft_s: Vec::with_capacity(calls),
            e2e_s: Vec::with_capacity(calls),
            hit_ratio: Some(timeline(HIT_BUCKET, HIT_BUCKETS_MAX)),
            ..Self::default()
        }
    }

    /// Notes when a call left and when it was to leave.
    pub(super) fn sent(&mut self, sent: Instant, intended: Instant) {
        self.lag.record(sent.since(intended));
        self.sent += 1;
        self.first_sent_ns.get_or_insert(sent.as_nanos());
        self.last_sent_ns = self.last_sent_ns.max(sent.as_nanos());
        self.last_intended_ns = self.last_intended_ns.max(intended.as_nanos());
    }

    pub(super) fn spent(&mut self, cost: &CallCost) {
        self.cost.text += cost.text;
        self.cost.scan += cost.scan;
        self.cost.body_bytes += cost.body_bytes;
        self.cost.stream_bytes += cost.stream_bytes;
    }

    pub(super) fn done(&mut self, done: &Done, start: Instant) {
        let intended = done.intended.as_nanos();
        let first = done.stamps.iter().min().copied().unwrap_or(intended);
        self.ttft_s.push(first.saturating_sub(intended) as f64 / 1e9);
        self.e2e_s.push(done.ended.since(done.intended).as_secs_f64());
        for (gap, count) in gaps(&done.stamps) {
            self.inter_token.record_many(gap, count);
        }
        self.end_ns = self.end_ns.max(done.ended.since(start).as_nanos() as u64);
        self.tokens.output += done.usage.output;
        match done.cache {
            Some(CacheStatus::Hit) => self.hits += 1,
            Some(CacheStatus::Joined) => self.joined += 1,
            Some(CacheStatus::Miss | CacheStatus::Bypass) | None => {
                self.tokens.input += done.usage.input;
                self.tokens.cached += done.usage.cached;
                let at = done.intended.since(start).as_nanos() as u64;
                if let Some(line) = &mut self.hit_ratio {
                    line.add(at, done.usage.cached as f64, done.usage.input as f64);
                }
            }
        }
        if let Some(replica) = &done.replica {
            *self.calls_by_replica.entry(Arc::clone(replica)).or_default() += 1;
        }
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.failed += 1;
        let entry = self.failures.entry(failure.kind);
        entry.or_insert_with(|| (0, failure.message.clone())).0 += 1;
    }

    /// Notes the end of a run: `cut` by the time limit, or with failed calls, it has no
    /// completion time that could be compared.
    pub(super) fn run_ended(&mut self, completion: Duration, cut: bool, failed: bool) {
        if cut {
            self.runs_cut += 1;
        } else if failed {
            self.runs_failed += 1;
        } else {
            self.completion_s.push(completion.as_secs_f64());
        }
    }

    pub(super) fn sample(&mut self, at: Duration, replicas: &[ReplicaStats]) {
        let at = at.as_nanos() as u64;
        for (index, stats) in replicas.iter().enumerate() {
            if index >= self.replicas.len() {
                self.replicas.push(Replica {
                    name: Arc::clone(&stats.name),
                    running: timeline(BUCKET, BUCKETS_MAX),
                    waiting: timeline(BUCKET, BUCKETS_MAX),
                    kv_usage: timeline(BUCKET, BUCKETS_MAX),
                });
            }
            let replica = &mut self.replicas[index];
            replica.running.add(at, stats.running as f64, 1.0);
            replica.waiting.add(at, stats.waiting as f64, 1.0);
            replica.kv_usage.add(at, stats.kv_usage, 1.0);
        }
    }

    pub(super) fn progress(&mut self, calls_total: usize, elapsed: Duration) -> Progress {
        let calls_done = self.e2e_s.len() + self.failed;
        self.cost.calls = calls_done;
        Progress { calls_done, calls_total, calls_failed: self.failed, elapsed }
    }

    pub(super) fn report(self, trace: &Trace, config: &Config, plan: &Plan, meta: Meta) -> Report {
        let elapsed_s = self.end_ns as f64 / 1e9;
        let rate = |count: f64| if elapsed_s > 0.0 { count / elapsed_s } else { 0.0 };
        let completed = self.e2e_s.len();
        let closed = trace.kind == Kind::Closed;
        let achieved_rate = self.achieved(plan, closed);
        let ttft_ms = Latency::of_samples(self.ttft_s, 1e3);
        let lag = Lag::judge(&self.lag, ttft_ms.p50, achieved_rate);
        let dropped = self.failures.get(&FailureKind::Dropped).map_or(0, |dropped| dropped.0);
        let mut invalid = lag.invalid();
        if dropped > 0 {
            invalid.push(format!("{dropped} calls were dropped at the bound of calls in flight"));
        }
        Report {
            version: Report::VERSION,
            trace: TraceInfo {
                name: trace.name.clone(),
                sha256: trace.sha256.clone(),
                left_out: meta.left_out,
            },
            load: Load::of(config, plan, closed),
            calls: Calls {
                planned: plan.calls,
                completed,
                failed: self.failed,
                failures: self
                    .failures
                    .into_iter()
                    .map(|(kind, (count, example))| FailureCount { kind, count, example })
                    .collect(),
                upstream: completed - self.hits - self.joined,
                saved_hit: self.hits,
                saved_joined: self.joined,
            },
            tokens: self.tokens,
            prefix_hit_ratio: (self.tokens.input > 0)
                .then(|| self.tokens.cached as f64 / self.tokens.input as f64),
            ttft_ms,
            inter_token_ms: Latency::of_summary(&self.inter_token, 1e3),
            end_to_end_ms: Latency::of_samples(self.e2e_s, 1e3),
            runs: Runs {
                completed: self.completion_s.len(),
                cut: self.runs_cut,
                with_failures: self.runs_failed,
                completion_mean_s_95: completion_interval(&self.completion_s, closed, config.seed),
                completion_s: Latency::of_samples(self.completion_s, 1.0),
            },
            throughput: Throughput {
                makespan_s: elapsed_s,
                calls_per_s: rate(completed as f64),
                output_tokens_per_s: rate(self.tokens.output as f64),
            },
            prefix_hit_over_time: self
                .hit_ratio
                .map(|line| Series::ratio(&line))
                .unwrap_or_default(),
            replicas: replicas(&self.replicas, self.calls_by_replica),
            valid: invalid.is_empty(),
            invalid,
            lag,
            meta,
        }
    }

    /// The rate at which calls left over the planned one; 1 in closed loop, where the
    /// answers set the pace.
    fn achieved(&self, plan: &Plan, closed: bool) -> f64 {
        let Some(first) = self.first_sent_ns.filter(|_| !closed && self.sent > 1) else {
            return 1.0;
        };
        let planned = plan.items.last().map_or(0, |last| last.at.as_nanos() as u64)
            - plan.items.first().map_or(0, |first| first.at.as_nanos() as u64);
        let took = (self.last_sent_ns - first).max(1) as f64;
        // A time limit ends the plan early; it is met if its last call left in time.
        let planned = (planned as f64).min((self.last_intended_ns.saturating_sub(first)) as f64);
        (planned / took).min(1.0)
    }
}

fn timeline(bucket: Duration, count_max: usize) -> Timeline {
    Timeline::new(bucket.as_nanos() as u64, count_max)
}

/// The gaps between tokens, with how many times each counts. Tokens that came together
/// share the gap before them evenly; those that came with the first one have none.
fn gaps(stamps: &[u64]) -> impl Iterator<Item = (Duration, u64)> {
    stamps.chunk_by(|a, b| a == b).zip(stamps.chunk_by(|a, b| a == b).skip(1)).map(
        |(before, group)| {
            let (gap, count) = (group[0].saturating_sub(before[0]), group.len() as u64);
            (Duration::from_nanos(gap / count), count)
        },
    )
}

/// The 95 % bootstrap interval of the mean completion over runs, for closed loops.
fn completion_interval(completion_s: &[f64], closed: bool, seed: u64) -> Option<Interval> {
    if !closed || completion_s.len() < 2 {
        return None;
    }
    let statistic = |runs: &[f64]| mean(runs).unwrap_or_default();
    bootstrap(completion_s, statistic, RESAMPLES, 0.95, seed)
        .map(|interval| Interval { low: interval.low, high: interval.high })
}

fn replicas(sampled: &[Replica], mut calls: BTreeMap<Arc<str>, usize>) -> Vec<ReplicaReport> {
    let mut reports: Vec<_> = sampled
        .iter()
        .map(|replica| ReplicaReport {
            name: replica.name.to_string(),
            calls: calls.remove(&replica.name).unwrap_or_default(),
            running: Series::ratio(&replica.running),
            waiting: Series::ratio(&replica.waiting),
            kv_usage: Series::ratio(&replica.kv_usage),
        })
        .collect();
    // Replicas that answered but could not be looked into.
    reports.extend(calls.into_iter().map(|(name, calls)| ReplicaReport {
        name: name.to_string(),
        calls,
        running: Series::default(),
        waiting: Series::default(),
        kv_usage: Series::default(),
    }));
    reports
}
