use super::compare::{Arm, CompareError, Comparison, Metric, Verdict};
use super::html::{Page, page};
use super::table::{Look, table};
use super::*;

/// A report of one seed whose times are all `ms`, with `failed` failed calls.
fn report(seed: u64, ms: f64, failed: usize) -> Report {
    let latency = |value: f64| Latency::of_samples(vec![value / 2.0, value], 1.0);
    let series = |level: f64| Series {
        step_s: 10.0,
        mean: vec![Some(level), None, Some(level / 2.0)],
        max: vec![Some(level), None, Some(level)],
    };
    Report {
        version: Report::VERSION,
        meta: Meta {
            arm: "x".to_owned(),
            command: "paceline replay <trace>".to_owned(),
            facts: vec![("Replicas".to_owned(), "2".to_owned())],
            simulated: true,
            left_out: LeftOut::default(),
        },
        trace: TraceInfo {
            name: "trace".to_owned(),
            sha256: "ab".repeat(32),
            left_out: LeftOut { sessions: 3, calls: 40, sessions_cut: 2, calls_cut: 9 },
        },
        load: Load {
            kind: "closed".to_owned(),
            seed,
            sessions: 2,
            active: Some(2),
            rate: None,
            think_max_s: 60.0,
            spread_ticks: false,
        },
        valid: true,
        invalid: Vec::new(),
        calls: Calls {
            planned: 1234,
            completed: 1234 - failed,
            failed,
            failures: (failed > 0)
                .then(|| FailureCount {
                    kind: FailureKind::Broken,
                    count: failed,
                    example: "it <broke>".to_owned(),
                })
                .into_iter()
                .collect(),
            upstream: 1234 - failed,
            saved_hit: 0,
            saved_joined: 0,
        },
        tokens: Tokens { input: 1000, cached: 250, output: 99 },
        prefix_hit_ratio: Some(0.25),
        ttft_ms: latency(ms),
        inter_token_ms: latency(7.0),
        end_to_end_ms: latency(ms * 100.0),
        runs: Runs {
            completed: 2,
            cut: 0,
            with_failures: 0,
            completion_s: latency(ms),
            completion_mean_s_95: None,
        },
        throughput: Throughput { makespan_s: 100.0, calls_per_s: 12.34, output_tokens_per_s: 1.0 },
        prefix_hit_over_time: series(0.5),
        replicas: vec![ReplicaReport {
            name: "r0".to_owned(),
            calls: 1234,
            running: series(4.0),
            waiting: series(7.0),
            kv_usage: series(0.5),
        }],
        lag: Lag { p99_ms: 0.0, max_ms: 0.0, limit_ms: 1.0, achieved_rate: 1.0 },
    }
}

fn arm(name: &str, baseline: bool, ms: [f64; 3], failed: usize) -> Arm {
    let reports = (1..).zip(ms).map(|(seed, ms)| report(seed, ms, failed)).collect();
    Arm { name: name.to_owned(), baseline, reports }
}

fn comparison() -> Comparison {
    let arms = vec![
        arm("fixed", true, [100.0, 200.0, 400.0], 0),
        arm("round robin", true, [300.0, 100.0, 200.0], 2),
        arm("Paceline", false, [50.0, 60.0, 90.0], 0),
    ];
    Comparison::new("Agents & <co>", arms).unwrap()
}

#[test]
fn a_comparison_by_hand() {
    let comparison = comparison();
    let row = comparison.row(Metric::TtftP99).unwrap();
    assert_eq!(row.means, [Some(700.0 / 3.0), Some(200.0), Some(200.0 / 3.0)]);
    // The better mean decides, though the other baseline is better in two of three seeds.
    assert_eq!(row.better_baseline, Some(1));
    let ratio = row.ratios[2].unwrap();
    let expected = (50.0 / 300.0 * 60.0 / 100.0 * 90.0 / 200.0f64).cbrt();
    assert!((ratio.ratio - expected).abs() < 1e-9, "{ratio:?}");
    // Logs −1.7918, −0.5108, −0.7985: mean −1.0337, deviation 0.6722, t 4.3027, √3.
    let interval = ratio.interval.unwrap();
    assert!((interval.low - (-1.0337f64 - 1.6699).exp()).abs() < 1e-3, "{interval:?}");
    assert!((interval.high - (-1.0337f64 + 1.6699).exp()).abs() < 1e-3, "{interval:?}");
    assert_eq!(ratio.verdict, Verdict::Open);
    assert_eq!(row.ratios[0], None);
    // Equal values: an interval without width that holds 1.
    let same = comparison.row(Metric::InterTokenP50).unwrap().ratios[2].unwrap();
    assert_eq!((same.ratio, same.verdict), (1.0, Verdict::Open));
    // Nothing divides by zero failures.
    assert_eq!(comparison.row(Metric::CallsFailed).unwrap().ratios[2], None);
}

#[test]
fn verdicts_know_which_way_is_better() {
    let check = |ours: [f64; 3], metric: Metric, expected: Verdict| {
        let arms = vec![arm("a", true, [100.0, 101.0, 99.0], 0), arm("b", false, ours, 0)];
        let comparison = Comparison::new("t", arms).unwrap();
        let ratio = comparison.row(metric).unwrap().ratios[1].unwrap();
        assert_eq!(ratio.verdict, expected, "{metric:?} {ours:?} {ratio:?}");
    };
    check([50.0, 51.0, 49.0], Metric::TtftP50, Verdict::Better);
    check([150.0, 151.0, 149.0], Metric::TtftP50, Verdict::Worse);
    check([50.0, 151.0, 149.0], Metric::TtftP50, Verdict::Open);
    check([50.0, 51.0, 49.0], Metric::CallsPerS, Verdict::Open);
}

#[test]
fn unequal_work_is_refused() {
    let first = arm("a", true, [1.0, 2.0, 3.0], 0);
    let mut seeds = arm("b", false, [1.0, 2.0, 3.0], 0);
    seeds.reports.reverse();
    let mut fewer = arm("b", false, [1.0, 2.0, 3.0], 0);
    fewer.reports.pop();
    for odd in [seeds, fewer] {
        let error = Comparison::new("t", vec![first.clone(), odd]).unwrap_err();
        assert!(error.to_string().contains("`b` replayed other work than `a`"), "{error}");
    }
    assert!(matches!(Comparison::new("t", Vec::new()), Err(CompareError::Empty)));
    let many = vec![first; 7];
    assert!(matches!(Comparison::new("t", many), Err(CompareError::TooMany(7))));
}

#[test]
fn the_table_lines_up() {
    let text = table(&[comparison()], Look::default());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "Agents & <co> (seeds 1, 2, 3)");
    for expected in [
        "                        fixed  round robin  Paceline  Paceline / better baseline (95 % CI)",
        "Time to first token",
        "  p50 (ms)                117          100      33.3  0.356 (0.067 to 1.889) of round robin",
        "  p99 (ms)             23,333       20,000     6,667  0.356 (0.067 to 1.889) of round robin",
        "  prefix-hit ratio     25.0 %       25.0 %    25.0 %  1.00 (1.00 to 1.00) of fixed",
        "  completed             1,234        1,232     1,234",
        "  failed                    0            2         0  -",
        "failed: round robin, seed 1: 2 × Broken: it <broke>",
        "trace trace (sha256 abababababab); 3 sessions with 40 calls left out since they do not \
         fit; 2 sessions cut by 9 calls; engines are simulated",
    ] {
        assert!(lines.contains(&expected), "{expected:?} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(table(&[comparison()], Look { colour: true }).contains("\x1b[1m"));
}

#[test]
fn one_arm_has_intervals_over_seeds() {
    let only = Comparison::new("t", vec![arm("only", false, [100.0, 110.0, 120.0], 0)]).unwrap();
    let text = table(std::slice::from_ref(&only), Look::default());
    assert!(text.contains("  p99 (ms)                     110 (85.2 to 135)\n"), "{text}");
    assert!(!text.contains("baseline"));
    let html = page(&Page::default(), &[only]);
    assert!(!html.contains("baseline</th>") && html.contains("<svg"));
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let mut invalid = comparison();
    invalid.arms[0].reports[1].invalid = vec!["the client lagged".to_owned()];
    let head =
        Page { title: "A <b> & c".to_owned(), lead: "lead".to_owned(), version: "1".to_owned() };
    let html = page(&head, &[comparison(), invalid]);
    for part in [
        "<title>A &lt;b&gt; &amp; c</title>",
        "Agents &amp; &lt;co&gt;",
        "The engines are simulated",
        "paceline replay &lt;trace&gt;",
        "3 sessions with 40 calls",
        "<b>Invalid:</b> fixed, seed 2: the client lagged.",
        "prefers-color-scheme: dark",
        "1,234 calls, 2 active at once",
        "Queue depth per replica",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for part in ["http:", "https:", "<script", "src=", "@import", "NaN", "inf ", "<co>", "<b> &"] {
        assert!(!html.contains(part), "{part}");
    }
    // Every element that is opened is closed, in order.
    let mut open = Vec::new();
    let body = html.replace(STYLE, "");
    for tag in body.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        if tag.starts_with('!')
            || tag.starts_with("meta")
            || tag.starts_with("br")
            || tag.ends_with('/')
        {
            continue;
        }
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            None => open.push(name),
            Some(name) => assert_eq!(open.pop(), Some(name)),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

const STYLE: &str = include_str!("style.css");

#[test]
fn distributions_keep_their_tail() {
    let latency = Latency::of_samples((1..=1000).map(f64::from).collect(), 1.0);
    assert_eq!((latency.p50, latency.p95, latency.p99, latency.max), (500.0, 950.0, 990.0, 1000.0));
    assert_eq!(latency.mean, 500.5);
    assert_eq!(latency.cdf.first(), Some(&[1.0, 0.0]));
    assert_eq!(latency.cdf.last(), Some(&[1000.0, 1.0]));
    assert!(latency.cdf.iter().all(|[value, share]| (value / 1000.0 - share).abs() < 0.002));
    assert_eq!(Latency::of_samples(Vec::new(), 1.0), Latency::default());
    for (value, expected) in [(0.0, 0.0), (1.234_567_89, 1.234_57), (98_765_432.1, 98_765_432.0)] {
        assert_eq!(rounded(value), expected);
    }
}

#[test]
fn a_client_that_lags_is_invalid() {
    let judge = |lag_us: u64, ttft_p50_ms: f64, rate: f64| {
        let mut lag = Summary::default();
        lag.record_many(Duration::from_micros(lag_us), 100);
        Lag::judge(&lag, ttft_p50_ms, rate).invalid()
    };
    assert!(judge(990, 50.0, 1.0).is_empty());
    assert!(judge(2000, 300.0, 1.0).is_empty());
    assert!(judge(1100, 50.0, 1.0)[0].contains("1.1 ms late, and 1 ms is allowed"));
    assert!(judge(100, 50.0, 0.99)[0].contains("99.0 %"));
}
