//! Comparisons as one page that needs nothing but itself: style and plots are inline.

mod figures;

use std::fmt::Write as _;

use super::compare::{Arm, Comparison, Metric};
use super::svg::{self, Curve, escape};
use super::table::number;
use super::{Latency, Report, Series};

const STYLE: &str = include_str!("style.css");

/// Points of a pooled distribution.
const POOL_POINTS: usize = 180;

/// Replicas of an arm whose queues are drawn.
const REPLICAS_MAX: usize = 8;

/// What heads the page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The heading, in plain text.
    pub title: String,
    /// One or two sentences below it, in plain text: what was run and why.
    pub lead: String,
    /// The version of the program, for the footer.
    pub version: String,
}

/// Writes the page: for each comparison its verdicts, its table and its plots.
pub fn page(page: &Page, comparisons: &[Comparison]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{0}</title><style>{STYLE}</style></head><body><header>\
         <p class=\"brand\">Paceline</p><h1>{0}</h1><p class=\"lead\">{1}</p></header><main>",
        escape(&page.title),
        escape(&page.lead)
    );
    for comparison in comparisons {
        section(&mut out, comparison);
    }
    out.push_str("</main>");
    footer(&mut out, page, comparisons);
    out.push_str("</body></html>\n");
    out
}

fn section(out: &mut String, comparison: &Comparison) {
    let Some(first) = comparison.arms.first().and_then(|arm| arm.reports.first()) else { return };
    let _ = write!(
        out,
        "<section><h2>{}</h2><p class=\"about\">{}</p>",
        escape(&comparison.title),
        escape(&about(comparison, first))
    );
    alerts(out, comparison);
    figures::tiles(out, comparison);
    figures::table(out, comparison);
    let classes = classes(&comparison.arms);
    let seeds = if first_reports(comparison).count() == 0 || comparison.seeds().count() == 1 {
        "One seed.".to_owned()
    } else {
        "All seeds together.".to_owned()
    };
    out.push_str("<div class=\"plots\">");
    let mut drawn = 0;
    type Of = fn(&Report) -> &Latency;
    let plots: [(&str, Of, f64); 4] = [
        ("Time to first token", |r| &r.ttft_ms, 1e-3),
        ("End to end, from send to last token", |r| &r.end_to_end_ms, 1e-3),
        ("Between two tokens of an answer", |r| &r.inter_token_ms, 1e-3),
        ("Completion of a run", |r| &r.runs.completion_s, 1.0),
    ];
    for (title, of, unit_s) in plots {
        // A run of open arrivals is one call, which the second plot shows.
        if unit_s == 1.0 && first.load.active.is_none() {
            continue;
        }
        let curves = pooled(comparison, &classes, of);
        if curves.iter().all(|curve| curve.pieces.iter().all(Vec::is_empty)) {
            continue;
        }
        let note = format!("Share of samples at or below a value; left is faster. {seeds}");
        let plot = svg::distributions(&curves, title, unit_s);
        figure(out, "card", title, &note, &legend(&comparison.arms, &classes), &plot);
        drawn += 1;
    }
    let curves: Vec<_> = first_reports(comparison)
        .zip(&classes)
        .map(|((arm, report), class)| {
            let mut curve = curve(&arm.name, class, &report.prefix_hit_over_time, |s| &s.mean);
            // Where nobody called, the ratio did not change: no gap.
            curve.pieces = vec![curve.pieces.concat()];
            curve
        })
        .collect();
    if curves.iter().flat_map(|curve| &curve.pieces).any(|piece| !piece.is_empty()) {
        // It fills its row.
        let wide = drawn % 2 == 0;
        let note = format!(
            "Share of prompt tokens that the engines had in their prefix caches, by the time of \
             the send. Seed {}.",
            first.load.seed
        );
        let plot = svg::shares_over_time(&curves, "Time since the start", wide);
        let class = if wide { "card wide" } else { "card" };
        figure(out, class, "Prefix-hit ratio", &note, &legend(&comparison.arms, &classes), &plot);
    }
    out.push_str("</div>");
    queues(out, comparison, &classes);
    out.push_str("</section>");
}

/// What was replayed, in a sentence or two.
fn about(comparison: &Comparison, first: &Report) -> String {
    let load = &first.load;
    let calls = number(Metric::CallsCompleted, first.calls.planned as f64);
    let mut text = match (load.active, load.rate) {
        (Some(active), _) => format!(
            "{} sessions with {calls} calls, {active} active at once: an agent waits for its answer, \
             thinks as long as recorded (at most {}), and goes on.",
            load.sessions,
            svg::duration(load.think_max_s)
        ),
        (_, rate) => {
            let pace = match rate {
                Some(rate) if rate != 1.0 => format!(", {rate} times as fast"),
                _ => String::new(),
            };
            format!(
                "{calls} calls that arrive as recorded{pace}, whatever the state of the servers."
            )
        }
    };
    for (name, value) in &first.meta.facts {
        let _ = write!(text, " {name}: {value}.");
    }
    let seeds: Vec<_> = comparison.seeds().map(|seed| seed.to_string()).collect();
    let plural = if seeds.len() == 1 { "Seed" } else { "Seeds" };
    let _ = write!(text, " {plural} {}, equal for all.", seeds.join(", "));
    text
}

fn alerts(out: &mut String, comparison: &Comparison) {
    for arm in &comparison.arms {
        for report in &arm.reports {
            for reason in &report.invalid {
                let _ = write!(
                    out,
                    "<p class=\"alert\"><b>Invalid:</b> {}, seed {}: {}. Do not use its figures.</p>",
                    escape(&arm.name),
                    report.load.seed,
                    escape(reason)
                );
            }
        }
    }
}

/// A class for each arm, which gives it its colour: the first that is no baseline has the
/// strongest, and each arm the same in all plots.
fn classes(arms: &[Arm]) -> Vec<String> {
    let compared = arms.iter().any(|arm| arm.baseline);
    let (mut ours, mut theirs) = (0, usize::from(arms.iter().any(|arm| !arm.baseline)));
    let mut next_of_ours = arms.iter().filter(|arm| arm.baseline).count();
    arms.iter()
        .map(|arm| {
            let colour = if compared && arm.baseline {
                theirs += 1;
                theirs - 1
            } else if ours == 0 {
                ours = 1;
                0
            } else {
                next_of_ours += 1;
                next_of_ours
            };
            format!("arm-{}", colour % Comparison::ARMS_MAX)
        })
        .collect()
}

fn swatch(class: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 26 8\" aria-hidden=\"true\"><path class=\"line {class}\" d=\"M2 4L24 4\"/></svg>"
    )
}

fn legend(arms: &[Arm], classes: &[String]) -> String {
    let mut out = "<ul class=\"legend\">".to_owned();
    for (arm, class) in arms.iter().zip(classes) {
        let _ = write!(out, "<li>{}{}</li>", swatch(class), escape(&arm.name));
    }
    out + "</ul>"
}

fn figure(out: &mut String, class: &str, title: &str, note: &str, legend: &str, plot: &str) {
    let _ = write!(
        out,
        "<figure class=\"{class}\"><figcaption><h3>{}</h3><p class=\"note\">{}</p></figcaption>\
         {legend}{plot}</figure>",
        escape(title),
        escape(note)
    );
}

/// The distribution over the samples of all seeds: at each value the mean of their shares.
fn pooled<'a>(
    comparison: &'a Comparison,
    classes: &[String],
    of: fn(&Report) -> &Latency,
) -> Vec<Curve<'a>> {
    comparison
        .arms
        .iter()
        .zip(classes)
        .map(|(arm, class)| {
            let seeds: Vec<_> = arm
                .reports
                .iter()
                .map(|report| &of(report).cdf)
                .filter(|c| !c.is_empty())
                .collect();
            let points = || seeds.iter().flat_map(|cdf| cdf.iter()).map(|point| point[0]);
            let high = points().fold(0.0, f64::max);
            let low = points().filter(|value| *value > 0.0).fold(high, f64::min).max(high / 1e6);
            let mut line = Vec::new();
            if high > 0.0 {
                let steps = POOL_POINTS as f64;
                line.extend((0..=POOL_POINTS).map(|step| {
                    let value = low * (high / low).powf(step as f64 / steps);
                    let shares = seeds.iter().map(|cdf| share_at(cdf, value * (1.0 + 1e-9)));
                    [value, shares.sum::<f64>() / seeds.len() as f64]
                }));
                line.insert(0, [low, 0.0]);
            }
            Curve { name: &arm.name, class: class.clone(), pieces: vec![line] }
        })
        .collect()
}

/// The share at or below a value, between two known points on the straight line.
fn share_at(cdf: &[[f64; 2]], value: f64) -> f64 {
    let after = cdf.partition_point(|point| point[0] <= value);
    match (after.checked_sub(1).map(|index| cdf[index]), cdf.get(after)) {
        (None, _) => 0.0,
        (Some(before), None) => before[1],
        (Some(before), Some(next)) => {
            let way = (value - before[0]) / (next[0] - before[0]);
            before[1] + way * (next[1] - before[1])
        }
    }
}

fn first_reports(comparison: &Comparison) -> impl Iterator<Item = (&Arm, &Report)> {
    comparison.arms.iter().filter_map(|arm| Some((arm, arm.reports.first()?)))
}

/// A series as pieces between the times at which nothing was seen.
fn curve<'a>(
    name: &'a str,
    class: &str,
    series: &Series,
    values: fn(&Series) -> &Vec<Option<f64>>,
) -> Curve<'a> {
    let mut pieces: Vec<Vec<[f64; 2]>> = Vec::new();
    let mut gap = true;
    for (index, value) in values(series).iter().enumerate() {
        let Some(value) = value else {
            gap = true;
            continue;
        };
        if gap {
            pieces.push(Vec::new());
        }
        gap = false;
        if let Some(piece) = pieces.last_mut() {
            piece.push([(index as f64 + 0.5) * series.step_s, *value]);
        }
    }
    Curve { name, class: class.to_owned(), pieces }
}

fn queues(out: &mut String, comparison: &Comparison, classes: &[String]) {
    let replicas =
        || first_reports(comparison).flat_map(|(_, report)| &report.replicas).map(|r| &r.waiting);
    let level_max = replicas().flat_map(|s| s.mean.iter().flatten()).fold(0.0f64, |m, v| m.max(*v));
    let end = replicas().fold(0.0f64, |m, s| m.max(s.step_s * s.mean.len() as f64));
    if end == 0.0 {
        return;
    }
    let (level_max, seed) =
        (round_up(level_max.max(2.0)), comparison.seeds().next().unwrap_or_default());
    let _ = write!(
        out,
        "<div class=\"queues card\"><h3>Queue depth per replica</h3><p class=\"about\">Calls that \
         wait for a replica, over time; all on one scale. Seed {seed}.</p>"
    );
    for ((arm, report), class) in first_reports(comparison).zip(classes) {
        let _ = write!(
            out,
            "<p class=\"who\">{}{}</p><div class=\"row\">",
            swatch(class),
            escape(&arm.name)
        );
        for replica in report.replicas.iter().take(REPLICAS_MAX) {
            let line = curve(&replica.name, class, &replica.waiting, |s| &s.mean);
            let most = replica.waiting.max.iter().flatten().fold(0.0f64, |m, v| m.max(*v));
            let _ = write!(
                out,
                "<div><b>{}</b> {} calls, up to {most:.0} waiting{}</div>",
                escape(&replica.name),
                number(Metric::CallsCompleted, replica.calls as f64),
                svg::small_area(&line, end, level_max)
            );
        }
        out.push_str("</div>");
        if report.replicas.len() > REPLICAS_MAX {
            let more = report.replicas.len() - REPLICAS_MAX;
            let _ = write!(out, "<p class=\"about\">{more} more replicas are not drawn.</p>");
        }
    }
    out.push_str("</div>");
}

/// The next round number, at least 1.
fn round_up(value: f64) -> f64 {
    let value = value.max(1.0);
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * decade)
        .into_iter()
        .find(|v| *v >= value)
        .unwrap_or(value)
}

fn footer(out: &mut String, page: &Page, comparisons: &[Comparison]) {
    let reports = || comparisons.iter().flat_map(|c| c.arms.iter().flat_map(|arm| &arm.reports));
    let (simulated, all) = (reports().filter(|r| r.meta.simulated).count(), reports().count());
    out.push_str("<footer>");
    if simulated > 0 {
        let which = if simulated == all { "" } else { " in some of the replays" };
        let _ = write!(
            out,
            "<p>The engines are simulated{which}: their step times, batching, prefix caches and queues \
             are models of published measurements, and time is virtual. The calls, their \
             lengths and their shared prefixes are recorded ones; the text is made up.</p>"
        );
    }
    out.push_str(
        "<p>Latencies count from the time at which a call was to be sent, and hold completed \
         calls only. A ratio is the geometric mean over seeds of one arm over the baseline with \
         the better mean, metric by metric, with a two-sided 95 % t interval over pairs of equal \
         seeds; green and red mark intervals that do not hold 1. Many ratios are shown, and of \
         twenty without any difference one would be marked.</p><dl>",
    );
    let mut commands: Vec<&str> = Vec::new();
    for command in reports().map(|report| report.meta.command.as_str()) {
        if !command.is_empty() && !commands.contains(&command) {
            commands.push(command);
        }
    }
    for command in commands.iter().take(12) {
        let _ = write!(out, "<dt>Command</dt><dd><code>{}</code></dd>", escape(command));
    }
    let mut traces: Vec<_> = reports().map(|r| &r.trace).collect();
    traces.dedup();
    for trace in traces {
        let left = trace.left_out;
        let _ = write!(
            out,
            "<dt>Trace</dt><dd>{}, sha256 <code>{}</code>; left out since they do not fit: {} \
             sessions with {} calls; cut short: {} sessions by {} calls</dd>",
            escape(&trace.name),
            trace.sha256,
            left.sessions,
            left.calls,
            left.sessions_cut,
            left.calls_cut
        );
    }
    if !page.version.is_empty() {
        let _ = write!(out, "<dt>Made by</dt><dd>Paceline {}</dd>", escape(&page.version));
    }
    out.push_str("</dl></footer>");
}
