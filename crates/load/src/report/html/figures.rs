//! What sets the arms apart, in figures: the tiles that head a comparison, and its table.

use std::fmt::Write as _;

use crate::report::compare::{Better, Comparison, Metric, Row, Verdict};
use crate::report::svg::{self, escape};
use crate::report::table::{number, ratio_texts, unit};

/// The few figures that a reader takes away.
pub(super) fn tiles(out: &mut String, comparison: &Comparison) {
    let Some(index) = comparison.arms.iter().position(|arm| !arm.baseline) else { return };
    let chosen =
        [Metric::TtftP50, Metric::TtftP95, Metric::RunMean, Metric::EndToEndP95, Metric::PrefixHit];
    let tiles: Vec<_> = chosen
        .into_iter()
        .filter_map(|metric| tile(comparison, comparison.row(metric)?, index))
        .take(4)
        .collect();
    if !tiles.is_empty() {
        let _ = write!(out, "<div class=\"tiles\">{}</div>", tiles.concat());
    }
}

fn tile(comparison: &Comparison, row: &Row, index: usize) -> Option<String> {
    let about = row.metric.about();
    let (ratio, baseline) = (row.ratios[index]?, row.better_baseline?);
    let with_unit = |value: f64| match about.unit {
        "ms" => svg::duration(value / 1e3),
        "s" => svg::duration(value),
        _ => number(row.metric, value),
    };
    let interval = ratio.interval.map_or("one seed, so no interval".to_owned(), |interval| {
        format!("95 % interval {} to {}", change(interval.low), change(interval.high))
    });
    Some(format!(
        "<div class=\"tile {}\"><div class=\"what\">{}</div><div class=\"big\">{}</div>\
         <div class=\"how\">{} instead of {} with {}<br>{interval}</div></div>",
        class_of(ratio.verdict),
        escape(&heading(row.metric)),
        change(ratio.ratio),
        with_unit(row.means[index]?),
        with_unit(row.means[baseline]?),
        escape(&comparison.arms[baseline].name),
    ))
}

fn heading(metric: Metric) -> String {
    let about = metric.about();
    match metric {
        Metric::PrefixHit => "Prefix-hit ratio".to_owned(),
        _ => format!("{}, {}", about.group, about.name),
    }
}

/// A ratio as a change: `−37 %`, `+12 %`, or `×3.1` where it is large.
fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    if ratio >= 2.0 {
        format!("×{ratio:.1}")
    } else if percent.abs() < 0.05 {
        "±0 %".to_owned()
    } else {
        let decimals = usize::from(percent.abs() < 9.95 || ratio < 0.1);
        let sign = if percent < 0.0 { "−" } else { "+" };
        format!("{sign}{:.decimals$} %", percent.abs())
    }
}

const fn class_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Open => "open",
    }
}

/// All metrics in all arms, with their ratios.
pub(super) fn table(out: &mut String, comparison: &Comparison) {
    let compared = comparison.arms.iter().any(|arm| arm.baseline);
    let ours: Vec<_> = comparison.arms.iter().map(|arm| compared && !arm.baseline).collect();
    let reach = reach(&comparison.rows);
    out.push_str("<div class=\"scroll card\"><table><thead><tr><th></th>");
    for arm in &comparison.arms {
        let _ = write!(out, "<th>{}</th>", escape(&arm.name));
    }
    for (arm, _) in comparison.arms.iter().zip(&ours).filter(|(_, ours)| **ours) {
        let _ = write!(
            out,
            "<th class=\"left\">{} / better baseline\
             <span class=\"sub\">95 % interval; the better baseline is underlined</span></th>\
             <th class=\"left scale\"><span><i>{:.2}</i><i>1</i><i>{reach:.1}</i></span></th>",
            escape(&arm.name),
            1.0 / reach
        );
    }
    out.push_str("</tr></thead><tbody>");
    let columns = 1 + ours.len() + 2 * ours.iter().filter(|ours| **ours).count();
    let mut group = "";
    for row in &comparison.rows {
        let about = row.metric.about();
        if about.group != group {
            group = about.group;
            let _ = write!(
                out,
                "<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{columns}\">{group}</th></tr>"
            );
        }
        let (unit, factor) = unit(row);
        let unit = match unit {
            "" => String::new(),
            unit => format!(" <span class=\"unit\">{unit}</span>"),
        };
        let _ = write!(out, "<tr><th scope=\"row\">{}{unit}</th>", about.name);
        for (index, mean) in row.means.iter().enumerate() {
            let class = match (ours[index], row.better_baseline == Some(index)) {
                (true, _) => " class=\"ours\"",
                (_, true) if row.ratios.iter().any(Option::is_some) => " class=\"best\"",
                _ => "",
            };
            let mut text = mean.map_or("–".to_owned(), |mean| number(row.metric, mean * factor));
            if let (Some(i), false) = (row.intervals[index], compared) {
                let [low, high] = [i.low, i.high].map(|end| number(row.metric, end * factor));
                let _ = write!(text, " <span class=\"unit\">{low} to {high}</span>");
            }
            let _ = write!(out, "<td{class}>{text}</td>");
        }
        for index in (0..ours.len()).filter(|index| ours[*index]) {
            ratio_cells(out, row, index, reach);
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

fn ratio_cells(out: &mut String, row: &Row, index: usize, reach: f64) {
    let Some(ratio) = row.ratios[index] else {
        let none = if row.metric.about().better.is_some() { "–" } else { "" };
        let _ = write!(out, "<td class=\"left\">{none}</td><td></td>");
        return;
    };
    let class = class_of(ratio.verdict);
    let ends = ratio.interval.map(|interval| (interval.low, interval.high));
    let (text, interval) = ratio_texts(&ratio);
    let interval =
        interval.map_or(String::new(), |interval| format!(" <span class=\"ci\">{interval}</span>"));
    let better = match row.metric.about().better {
        Some(Better::Lower) => "lower is better",
        _ => "higher is better",
    };
    let _ = write!(
        out,
        "<td class=\"left {class}\" title=\"{better}\">{}{interval}</td><td class=\"left\">{}</td>",
        text,
        svg::whisker(ratio.ratio, ends, reach, class)
    );
}

/// How far the axis of all ratios goes to both sides of 1: far enough for all of them, but
/// at most to 10, since one wild interval would flatten the others.
fn reach(rows: &[Row]) -> f64 {
    let far = rows
        .iter()
        .flat_map(|row| row.ratios.iter().flatten())
        .flat_map(|ratio| {
            let ends = ratio.interval.map_or([ratio.ratio; 2], |i| [i.low, i.high]);
            [ratio.ratio, ends[0], ends[1]]
        })
        .fold(1.0f64, |far, value| far.max(value).max(1.0 / value.max(1e-9)));
    (far * 1.1).clamp(1.25, 10.0)
}
