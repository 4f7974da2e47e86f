//! Several arms on equal seeds: which is better, by how much, and how sure that is.

use paceline_stats::{mean, mean_interval, paired_ratio};
use serde::{Deserialize, Serialize};

use super::{Interval, Latency, Report};

/// Confidence of all intervals.
const LEVEL: f64 = 0.95;

/// Arms that replayed the same work, seed by seed, and what sets them apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was replayed, for a heading.
    pub title: String,
    /// The arms in the order of their columns; at most [`Comparison::ARMS_MAX`].
    pub arms: Vec<Arm>,
    /// One for each metric that some arm has.
    pub rows: Vec<Row>,
}

/// One way to serve the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Its name, for a column.
    pub name: String,
    /// Whether the others are measured against it.
    pub baseline: bool,
    /// One report for each seed, in the same order of seeds in all arms.
    pub reports: Vec<Report>,
}

/// One metric in all arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is measured.
    pub metric: Metric,
    /// The mean over seeds for each arm; null where an arm has none.
    pub means: Vec<Option<f64>>,
    /// 95 % t intervals of the means; null with one seed.
    pub intervals: Vec<Option<Interval>>,
    /// The baseline with the better mean, as an index of arms.
    pub better_baseline: Option<usize>,
    /// For each arm that is no baseline how it compares with that one.
    pub ratios: Vec<Option<Ratio>>,
}

/// An arm against the better baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Geometric mean over seeds of arm / baseline.
    pub ratio: f64,
    /// Its 95 % t interval over pairs of equal seeds; null with one seed.
    pub interval: Option<Interval>,
    /// What that says.
    pub verdict: Verdict,
}

/// What a ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies on the better side of 1.
    Better,
    /// The interval lies on the worse side of 1.
    Worse,
    /// The interval holds 1, or there is none.
    Open,
}

/// What reports are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "`Metric::about` says what each is")]
pub enum Metric {
    TtftMean,
    TtftP50,
    TtftP95,
    TtftP99,
    InterTokenP50,
    InterTokenP95,
    InterTokenP99,
    EndToEndP50,
    EndToEndP95,
    EndToEndP99,
    RunMean,
    RunP50,
    RunP95,
    RunP99,
    Makespan,
    CallsPerS,
    OutputTokensPerS,
    PrefixHit,
    CallsCompleted,
    CallsFailed,
    CallsSaved,
    TokensInput,
    TokensOutput,
}

/// How a metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its group, for headings: `Time to first token`.
    pub group: &'static str,
    /// Its name within the group: `p95`.
    pub name: &'static str,
    /// Its unit; empty for counts and shares.
    pub unit: &'static str,
    /// Which way is better; `None` where neither is.
    pub better: Option<Better>,
}

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Lower ones.
    Lower,
    /// Higher ones.
    Higher,
}

/// Arms that cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// No arm, or one without reports.
    #[error("a comparison needs at least one arm, and each arm at least one report")]
    Empty,
    /// More than [`Comparison::ARMS_MAX`].
    #[error("a comparison has at most {max} arms, not {0}", max = Comparison::ARMS_MAX)]
    TooMany(usize),
    /// Their seeds, or what was replayed, differ.
    #[error("`{arm}` replayed other work than `{first}`: seeds, trace and load must be equal")]
    Unequal {
        /// The arm at fault.
        arm: String,
        /// The arm that it was compared with.
        first: String,
    },
}

impl Comparison {
    /// More columns and colours than this no reader tells apart.
    pub const ARMS_MAX: usize = 6;

    /// Compares arms. The better baseline is chosen metric by metric.
    ///
    /// # Errors
    /// [`CompareError`] when the arms did not replay the same work.
    pub fn new(title: impl Into<String>, arms: Vec<Arm>) -> Result<Self, CompareError> {
        let Some(first) = arms.first().filter(|arm| !arm.reports.is_empty()) else {
            return Err(CompareError::Empty);
        };
        if arms.len() > Self::ARMS_MAX {
            return Err(CompareError::TooMany(arms.len()));
        }
        if let Some(odd) = arms.iter().find(|arm| !arm.did_the_work_of(first)) {
            return Err(CompareError::Unequal { arm: odd.name.clone(), first: first.name.clone() });
        }
        let rows = Metric::ALL.into_iter().filter_map(|metric| Row::of(metric, &arms)).collect();
        Ok(Self { title: title.into(), arms, rows })
    }

    /// The seeds, in the order of the reports.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + '_ {
        self.arms.iter().take(1).flat_map(|arm| &arm.reports).map(|report| report.load.seed)
    }

    /// The row of a metric.
    pub fn row(&self, metric: Metric) -> Option<&Row> {
        self.rows.iter().find(|row| row.metric == metric)
    }

    /// Whether all replays are valid; the reports say why not.
    pub fn valid(&self) -> bool {
        self.arms.iter().flat_map(|arm| &arm.reports).all(|report| report.valid)
    }

    /// The comparison as indented JSON, all reports included.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("its keys are strings, so it has a JSON form")
    }
}

impl Arm {
    fn did_the_work_of(&self, other: &Self) -> bool {
        self.reports.len() == other.reports.len()
            && self.reports.iter().zip(&other.reports).all(|(a, b)| {
                a.load == b.load && a.trace == b.trace && a.calls.planned == b.calls.planned
            })
    }
}

impl Row {
    fn of(metric: Metric, arms: &[Arm]) -> Option<Self> {
        let values: Vec<Option<Vec<f64>>> =
            arms.iter().map(|arm| arm.reports.iter().map(|r| metric.of(r)).collect()).collect();
        let means: Vec<_> = values.iter().map(|values| values.as_deref().and_then(mean)).collect();
        means.iter().flatten().next()?;
        let intervals = values
            .iter()
            .map(|values| mean_interval(values.as_deref()?, LEVEL).map(Interval::from))
            .collect();
        let better = metric.about().better;
        let better_baseline = better.and_then(|better| {
            let baselines = arms.iter().zip(&means).enumerate();
            baselines
                .filter_map(|(index, (arm, mean))| Some((index, mean.filter(|_| arm.baseline)?)))
                .min_by(|(_, a), (_, b)| match better {
                    Better::Lower => a.total_cmp(b),
                    Better::Higher => b.total_cmp(a),
                })
                .map(|(index, _)| index)
        });
        let baseline = better_baseline.and_then(|index| values[index].as_deref());
        let ratios = arms
            .iter()
            .zip(&values)
            .map(|(arm, values)| match (arm.baseline, baseline, values, better) {
                (false, Some(baseline), Some(values), Some(better)) => {
                    let pairs: Vec<_> =
                        baseline.iter().copied().zip(values.iter().copied()).collect();
                    Ratio::of(&pairs, better)
                }
                _ => None,
            })
            .collect();
        Some(Self { metric, means, intervals, better_baseline, ratios })
    }
}

impl Ratio {
    fn of(pairs: &[(f64, f64)], better: Better) -> Option<Self> {
        let found = paired_ratio(pairs, LEVEL)?;
        let verdict = match (found.interval, better) {
            (Some(i), Better::Lower) if i.high < 1.0 => Verdict::Better,
            (Some(i), Better::Higher) if i.low > 1.0 => Verdict::Better,
            (Some(i), Better::Lower) if i.low > 1.0 => Verdict::Worse,
            (Some(i), Better::Higher) if i.high < 1.0 => Verdict::Worse,
            _ => Verdict::Open,
        };
        Some(Self { ratio: found.ratio, interval: found.interval.map(Interval::from), verdict })
    }
}

impl From<paceline_stats::Interval> for Interval {
    fn from(interval: paceline_stats::Interval) -> Self {
        Self { low: interval.low, high: interval.high }
    }
}

impl Metric {
    /// All of them, in the order of a table.
    pub const ALL: [Self; 23] = [
        Self::TtftMean,
        Self::TtftP50,
        Self::TtftP95,
        Self::TtftP99,
        Self::InterTokenP50,
        Self::InterTokenP95,
        Self::InterTokenP99,
        Self::EndToEndP50,
        Self::EndToEndP95,
        Self::EndToEndP99,
        Self::RunMean,
        Self::RunP50,
        Self::RunP95,
        Self::RunP99,
        Self::Makespan,
        Self::CallsPerS,
        Self::OutputTokensPerS,
        Self::CallsCompleted,
        Self::CallsFailed,
        Self::CallsSaved,
        Self::PrefixHit,
        Self::TokensInput,
        Self::TokensOutput,
    ];

    /// How it is read.
    pub fn about(self) -> About {
        const TTFT: &str = "Time to first token";
        const INTER_TOKEN: &str = "Between tokens";
        const END_TO_END: &str = "End to end";
        const RUN: &str = "Run completion";
        const WORK: &str = "Throughput";
        const CALLS: &str = "Calls";
        const TOKENS: &str = "Tokens";
        let (lower, higher) = (Some(Better::Lower), Some(Better::Higher));
        let (group, name, unit, better) = match self {
            Self::TtftMean => (TTFT, "mean", "ms", lower),
            Self::TtftP50 => (TTFT, "p50", "ms", lower),
            Self::TtftP95 => (TTFT, "p95", "ms", lower),
            Self::TtftP99 => (TTFT, "p99", "ms", lower),
            Self::InterTokenP50 => (INTER_TOKEN, "p50", "ms", lower),
            Self::InterTokenP95 => (INTER_TOKEN, "p95", "ms", lower),
            Self::InterTokenP99 => (INTER_TOKEN, "p99", "ms", lower),
            Self::EndToEndP50 => (END_TO_END, "p50", "ms", lower),
            Self::EndToEndP95 => (END_TO_END, "p95", "ms", lower),
            Self::EndToEndP99 => (END_TO_END, "p99", "ms", lower),
            Self::RunMean => (RUN, "mean", "s", lower),
            Self::RunP50 => (RUN, "p50", "s", lower),
            Self::RunP95 => (RUN, "p95", "s", lower),
            Self::RunP99 => (RUN, "p99", "s", lower),
            Self::Makespan => (WORK, "makespan", "s", lower),
            Self::CallsPerS => (WORK, "calls", "1/s", higher),
            Self::OutputTokensPerS => (WORK, "output tokens", "1/s", higher),
            Self::PrefixHit => (TOKENS, "prefix-hit ratio", "", higher),
            Self::CallsCompleted => (CALLS, "completed", "", None),
            Self::CallsFailed => (CALLS, "failed", "", lower),
            Self::CallsSaved => (CALLS, "saved upstream", "", higher),
            Self::TokensInput => (TOKENS, "prompt", "", None),
            Self::TokensOutput => (TOKENS, "output", "", None),
        };
        About { group, name, unit, better }
    }

    /// Its value in a report; `None` where the report has no sample of it, or where it says
    /// nothing (a run of open arrivals is a call).
    pub fn of(self, report: &Report) -> Option<f64> {
        let seen = |latency: &Latency, value: f64| (latency.count > 0).then_some(value);
        let (ttft, gaps, whole) = (&report.ttft_ms, &report.inter_token_ms, &report.end_to_end_ms);
        let runs = &report.runs.completion_s;
        let of_run = |value: f64| seen(runs, value).filter(|_| report.load.active.is_some());
        match self {
            Self::TtftMean => seen(ttft, ttft.mean),
            Self::TtftP50 => seen(ttft, ttft.p50),
            Self::TtftP95 => seen(ttft, ttft.p95),
            Self::TtftP99 => seen(ttft, ttft.p99),
            Self::InterTokenP50 => seen(gaps, gaps.p50),
            Self::InterTokenP95 => seen(gaps, gaps.p95),
            Self::InterTokenP99 => seen(gaps, gaps.p99),
            Self::EndToEndP50 => seen(whole, whole.p50),
            Self::EndToEndP95 => seen(whole, whole.p95),
            Self::EndToEndP99 => seen(whole, whole.p99),
            Self::RunMean => of_run(runs.mean),
            Self::RunP50 => of_run(runs.p50),
            Self::RunP95 => of_run(runs.p95),
            Self::RunP99 => of_run(runs.p99),
            Self::Makespan => Some(report.throughput.makespan_s),
            Self::CallsPerS => Some(report.throughput.calls_per_s),
            Self::OutputTokensPerS => Some(report.throughput.output_tokens_per_s),
            Self::PrefixHit => report.prefix_hit_ratio,
            Self::CallsCompleted => Some(report.calls.completed as f64),
            Self::CallsFailed => Some(report.calls.failed as f64),
            Self::CallsSaved => Some((report.calls.saved_hit + report.calls.saved_joined) as f64),
            Self::TokensInput => Some(report.tokens.input as f64),
            Self::TokensOutput => Some(report.tokens.output as f64),
        }
    }
}
