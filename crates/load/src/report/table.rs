//! Comparisons as a table for the terminal.

use std::fmt::Write as _;

use super::compare::{Comparison, Metric, Ratio, Row, Verdict};

/// How a table looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Marks verdicts and headings with ANSI colours. Default: false.
    pub colour: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// All comparisons below one another, with columns that line up: each metric, its mean over
/// seeds in each arm, and for what is no baseline the ratio to the better baseline.
pub fn table(comparisons: &[Comparison], look: Look) -> String {
    let mut lines = Vec::new();
    for comparison in comparisons {
        section(comparison, &mut lines);
    }
    render(&lines, look)
}

/// One line of the table.
enum Line {
    /// A heading over the whole width.
    Heading(String),
    /// A remark over the whole width.
    Note(String),
    /// Cells; the first is set to the left, the others to the right.
    Cells(Vec<Cell>),
}

#[derive(Default)]
struct Cell {
    text: String,
    style: Option<&'static str>,
    left: bool,
}

impl Cell {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    fn left(text: impl Into<String>) -> Self {
        Self { left: true, ..Self::new(text) }
    }

    fn style(self, style: Option<&'static str>) -> Self {
        Self { style, ..self }
    }
}

fn section(comparison: &Comparison, lines: &mut Vec<Line>) {
    let seeds: Vec<_> = comparison.seeds().map(|seed| seed.to_string()).collect();
    let plural = if seeds.len() == 1 { "seed" } else { "seeds" };
    lines.push(Line::Heading(format!("{} ({plural} {})", comparison.title, seeds.join(", "))));
    let mut head = vec![Cell::left("")];
    head.extend(comparison.arms.iter().map(|arm| Cell::new(&arm.name)));
    for arm in comparison.arms.iter().filter(|arm| !arm.baseline && has_baseline(comparison)) {
        head.push(Cell::left(format!("{} / better baseline (95 % CI)", arm.name)));
    }
    head.iter_mut().for_each(|cell| cell.style = Some(BOLD));
    lines.push(Line::Cells(head));
    let mut group = "";
    for row in &comparison.rows {
        let about = row.metric.about();
        if about.group != group {
            group = about.group;
            lines.push(Line::Cells(vec![Cell::left(group).style(Some(DIM))]));
        }
        lines.push(Line::Cells(cells(comparison, row)));
    }
    for arm in &comparison.arms {
        for report in &arm.reports {
            for reason in &report.invalid {
                lines.push(Line::Note(format!(
                    "INVALID: {}, seed {}: {reason}",
                    arm.name, report.load.seed
                )));
            }
            for failure in &report.calls.failures {
                lines.push(Line::Note(format!(
                    "failed: {}, seed {}: {} × {:?}: {}",
                    arm.name, report.load.seed, failure.count, failure.kind, failure.example
                )));
            }
        }
    }
    lines.push(Line::Note(left_out(comparison)));
}

fn has_baseline(comparison: &Comparison) -> bool {
    comparison.arms.iter().any(|arm| arm.baseline)
}

fn cells(comparison: &Comparison, row: &Row) -> Vec<Cell> {
    let about = row.metric.about();
    let (unit, factor) = unit(row);
    let name = match unit {
        "" => format!("  {}", about.name),
        unit => format!("  {} ({unit})", about.name),
    };
    let mut cells = vec![Cell::left(name)];
    cells.extend(row.means.iter().zip(&row.intervals).map(|(mean, interval)| {
        let text = mean.map_or("-".to_owned(), |mean| number(row.metric, mean * factor));
        // Without another arm to compare with, the spread over seeds is of interest.
        match interval.filter(|_| comparison.arms.len() == 1) {
            Some(i) => Cell::new(format!(
                "{text} ({} to {})",
                number(row.metric, i.low * factor),
                number(row.metric, i.high * factor)
            )),
            None => Cell::new(text),
        }
    }));
    for (arm, ratio) in comparison.arms.iter().zip(&row.ratios) {
        if arm.baseline || !has_baseline(comparison) {
            continue;
        }
        let (Some(ratio), Some(baseline)) = (ratio, row.better_baseline) else {
            cells.push(Cell::left(if about.better.is_some() { "-" } else { "" }));
            continue;
        };
        let style = match ratio.verdict {
            Verdict::Better => Some(GREEN),
            Verdict::Worse => Some(RED),
            Verdict::Open => None,
        };
        let name = &comparison.arms[baseline].name;
        cells.push(Cell::left(format!("{} of {name}", ratio_text(ratio))).style(style));
    }
    cells
}

fn left_out(comparison: &Comparison) -> String {
    let Some(report) = comparison.arms.first().and_then(|arm| arm.reports.first()) else {
        return String::new();
    };
    let left = report.trace.left_out;
    let mut text = format!("trace {} (sha256 {:.12})", report.trace.name, report.trace.sha256);
    if left.sessions > 0 {
        let _ = write!(
            text,
            "; {} sessions with {} calls left out since they do not fit",
            left.sessions, left.calls
        );
    }
    if left.sessions_cut > 0 {
        let _ = write!(text, "; {} sessions cut by {} calls", left.sessions_cut, left.calls_cut);
    }
    if report.meta.simulated {
        text.push_str("; engines are simulated");
    }
    text
}

/// `0.63 (0.58 to 0.69)`, with a word where it is sure.
fn ratio_text(ratio: &Ratio) -> String {
    let (mut text, interval) = ratio_texts(ratio);
    if let Some(interval) = interval {
        let _ = write!(text, " ({interval})");
    }
    text.push_str(match ratio.verdict {
        Verdict::Better => " better",
        Verdict::Worse => " worse",
        Verdict::Open => "",
    });
    text
}

/// A ratio and its interval, with two decimals, or three where two would hide on which side
/// of 1 it lies.
pub(super) fn ratio_texts(ratio: &Ratio) -> (String, Option<String>) {
    let ends = ratio.interval.map(|interval| [interval.low, interval.high]);
    let sure = ratio.verdict != Verdict::Open;
    let fine = std::iter::once(ratio.ratio)
        .chain(ends.into_iter().flatten())
        .any(|value| value < 0.0995 || (sure && (value - 1.0).abs() < 0.015));
    let decimals = if fine { 3 } else { 2 };
    let text = |value: f64| format!("{value:.decimals$}");
    (text(ratio.ratio), ends.map(|[low, high]| format!("{} to {}", text(low), text(high))))
}

/// The unit in which a row is shown, and by how much its values are multiplied: long times
/// are seconds.
pub(super) fn unit(row: &Row) -> (&'static str, f64) {
    let unit = row.metric.about().unit;
    let least = row.means.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    if unit == "ms" && least >= 10_000.0 { ("s", 1e-3) } else { (unit, 1.0) }
}

/// A value as people read it: three significant digits, thousands parted, shares in percent.
pub(super) fn number(metric: Metric, value: f64) -> String {
    if metric == Metric::PrefixHit {
        return format!("{:.1} %", value * 100.0);
    }
    let counted = metric.about().unit.is_empty();
    let decimals = match value.abs() {
        v if v >= 100.0 || (counted && v == v.trunc()) => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(w, f)| (w, f));
    let mut out = String::new();
    let digits = whole.trim_start_matches('-').len();
    for (index, digit) in whole.trim_start_matches('-').chars().enumerate() {
        if index > 0 && (digits - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    let sign = if whole.starts_with('-') { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{out}") } else { format!("{sign}{out}.{fraction}") }
}

fn render(lines: &[Line], look: Look) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        let Line::Cells(cells) = line else { continue };
        // A group's heading may run over the columns to its right, which are empty.
        for (index, cell) in cells.iter().enumerate().filter(|_| cells.len() > 1) {
            if widths.len() <= index {
                widths.push(0);
            }
            widths[index] = widths[index].max(cell.text.chars().count());
        }
    }
    let paint = |text: &str, style: Option<&str>| match style.filter(|_| look.colour) {
        Some(style) => format!("\x1b[{style}m{text}\x1b[0m"),
        None => text.to_owned(),
    };
    let mut out = String::new();
    for line in lines {
        match line {
            Line::Heading(text) => {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(&paint(text, Some(BOLD)));
            }
            Line::Note(text) => out.push_str(&paint(text, Some(DIM))),
            Line::Cells(cells) => {
                let mut row = String::new();
                for (index, cell) in cells.iter().enumerate() {
                    let width = widths.get(index).copied().unwrap_or_default();
                    let pad = " ".repeat(width.saturating_sub(cell.text.chars().count()));
                    let text = paint(&cell.text, cell.style);
                    row.push_str(if index > 0 { "  " } else { "" });
                    row.push_str(&if cell.left { text + &pad } else { pad + &text });
                }
                out.push_str(row.trim_end());
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (value, expected) in [
            (0.0, "0.000"),
            (7.0, "7.00"),
            (0.1234, "0.123"),
            (4.567, "4.57"),
            (45.67, "45.7"),
            (456.7, "457"),
            (12_345_678.0, "12,345,678"),
            (-1234.0, "-1,234"),
            (1000.4, "1,000"),
        ] {
            assert_eq!(number(Metric::TtftP50, value), expected);
        }
        assert_eq!(number(Metric::CallsFailed, 7.0), "7");
        assert_eq!(number(Metric::PrefixHit, 0.7351), "73.5 %");
    }
}
