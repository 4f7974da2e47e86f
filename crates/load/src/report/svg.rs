//! Plots as inline SVG. Colours and fonts come from the page's style sheet, so they follow
//! its light and dark form.

use std::fmt::Write as _;

/// A line of a plot.
pub(super) struct Curve<'a> {
    /// For the tooltip.
    pub(super) name: &'a str,
    /// The class that gives it its colour.
    pub(super) class: String,
    /// Pieces between gaps; each in ascending x.
    pub(super) pieces: Vec<Vec<[f64; 2]>>,
}

/// Size of a plot, in its own units; it scales with the page.
const WIDTH: f64 = 520.0;
/// Width of a plot over the whole page.
const WIDE: f64 = 1090.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// Distributions: shares over values on a logarithmic axis. `unit_s` is the length of the
/// values' unit in seconds.
pub(super) fn distributions(curves: &[Curve<'_>], axis: &str, unit_s: f64) -> String {
    let points = || curves.iter().flat_map(|c| c.pieces.iter().flatten());
    let values = || points().map(|p| p[0]);
    // One outlier in a million tokens would squeeze all others into a corner.
    let most = points().filter(|p| p[1] <= 0.9995).map(|p| p[0]);
    let high = most.fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let low = values().filter(|v| *v > 0.0).fold(high, f64::min);
    // Six decades are more than a reader takes in; what is below stands at the edge.
    let low = low.max(high / 1e6).min(high / 2.0) / 1.05;
    let x = Scale { low: low.ln(), high: high.ln(), from: LEFT, to: WIDTH - RIGHT };
    let y = Scale { low: 0.0, high: 1.0, from: HEIGHT - BOTTOM, to: TOP };
    let mut svg = open(WIDTH, HEIGHT, &format!("{axis}: share of samples at or below a value"));
    for share in [0.0, 0.25, 0.5, 0.75, 0.95, 1.0] {
        let class = if share == 0.0 { "axis" } else { "grid" };
        horizontal(&mut svg, WIDTH, y.at(share), class);
        // 100 and 95 would touch.
        if share != 1.0 {
            label(
                &mut svg,
                LEFT - 8.0,
                y.at(share) + 4.0,
                "end",
                &format!("{:.0} %", share * 100.0),
            );
        }
    }
    for tick in log_ticks(low, high, unit_s) {
        vertical(&mut svg, x.at(tick.ln()));
        label(
            &mut svg,
            x.at(tick.ln()),
            HEIGHT - BOTTOM + 18.0,
            "middle",
            &duration(tick * unit_s),
        );
    }
    title(&mut svg, WIDTH, axis);
    draw(&mut svg, curves, |p| [x.at(p[0].max(low).ln()), y.at(p[1])]);
    svg.push_str("</svg>");
    svg
}

/// Shares over time, in seconds.
pub(super) fn shares_over_time(curves: &[Curve<'_>], axis: &str, wide: bool) -> String {
    let width = if wide { WIDE } else { WIDTH };
    let end = curves.iter().flat_map(|c| c.pieces.iter().flatten()).fold(1.0, |m, p| p[0].max(m));
    let x = Scale { low: 0.0, high: end, from: LEFT, to: width - RIGHT };
    let y = Scale { low: 0.0, high: 1.0, from: HEIGHT - BOTTOM, to: TOP };
    let mut svg = open(width, HEIGHT, axis);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        horizontal(&mut svg, width, y.at(share), if share == 0.0 { "axis" } else { "grid" });
        label(&mut svg, LEFT - 8.0, y.at(share) + 4.0, "end", &format!("{:.0} %", share * 100.0));
    }
    for tick in time_ticks(end, width / 85.0) {
        vertical(&mut svg, x.at(tick));
        label(&mut svg, x.at(tick), HEIGHT - BOTTOM + 18.0, "middle", &duration(tick));
    }
    title(&mut svg, width, axis);
    draw(&mut svg, curves, |p| [x.at(p[0]), y.at(p[1])]);
    svg.push_str("</svg>");
    svg
}

/// A small plot of a level over time, filled, on the scale that its neighbours share.
pub(super) fn small_area(curve: &Curve<'_>, end: f64, level_max: f64) -> String {
    const W: f64 = 260.0;
    const H: f64 = 96.0;
    let x = Scale { low: 0.0, high: end.max(1.0), from: 30.0, to: W - 12.0 };
    let y = Scale { low: 0.0, high: level_max, from: H - 20.0, to: 8.0 };
    let mut svg = open(W, H, curve.name);
    for level in [0.0, level_max] {
        let class = if level == 0.0 { "axis" } else { "grid" };
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"30\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            W - 12.0,
            y.at(level),
            y.at(level)
        );
        label(&mut svg, 25.0, y.at(level) + 4.0, "end", &format!("{level:.0}"));
    }
    for piece in &curve.pieces {
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
        let line = path(piece.iter().map(|p| [x.at(p[0]), y.at(p[1])]));
        let (from, to, base) = (x.at(first[0]), x.at(last[0]), y.at(0.0));
        let _ = write!(
            svg,
            "<path class=\"area {0}\" d=\"{line}L{to:.1} {base:.1}L{from:.1} {base:.1}Z\"/>\
             <path class=\"line thin {0}\" d=\"{line}\"/>",
            curve.class
        );
    }
    label(&mut svg, 30.0, H - 5.0, "start", "0");
    label(&mut svg, W - 12.0, H - 5.0, "end", &duration(end));
    svg.push_str("</svg>");
    svg
}

/// A ratio with its interval on a logarithmic axis from 1/`reach` to `reach`.
pub(super) fn whisker(ratio: f64, interval: Option<(f64, f64)>, reach: f64, class: &str) -> String {
    const W: f64 = 132.0;
    const H: f64 = 18.0;
    let x = Scale { low: -reach.ln(), high: reach.ln(), from: 5.0, to: W - 5.0 };
    let at = |value: f64| x.at(value.ln().clamp(-reach.ln(), reach.ln()));
    let mut svg = format!(
        "<svg class=\"whisker {class}\" viewBox=\"0 0 {W} {H}\" aria-hidden=\"true\">\
         <line class=\"grid\" x1=\"5\" x2=\"{:.1}\" y1=\"9\" y2=\"9\"/>\
         <line class=\"one\" x1=\"{1:.1}\" x2=\"{1:.1}\" y1=\"1\" y2=\"17\"/>",
        W - 5.0,
        at(1.0)
    );
    if let Some((low, high)) = interval {
        let _ = write!(
            svg,
            "<line class=\"span\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"9\" y2=\"9\"/>",
            at(low),
            at(high)
        );
    }
    let _ = write!(svg, "<circle cx=\"{:.1}\" cy=\"9\" r=\"4\"/></svg>", at(ratio));
    svg
}

/// Text that may stand in HTML and SVG, also in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// A duration with its unit, as short as an axis needs it.
pub(super) fn duration(s: f64) -> String {
    let (value, unit) = match s {
        s if s <= 0.0 => return "0".to_owned(),
        s if s < 0.9995e-3 => (s * 1e6, "µs"),
        s if s < 0.9995 => (s * 1e3, "ms"),
        s if s < 120.0 => (s, "s"),
        s if s < 7200.0 => (s / 60.0, "min"),
        s => (s / 3600.0, "h"),
    };
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{} {unit}", text.trim_end_matches(".0"))
}

/// A linear map from values to places.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// Round durations between two values of a unit: of several sets of steps the finest whose
/// labels do not touch; above a minute the steps of a clock.
fn log_ticks(low: f64, high: f64, unit_s: f64) -> Vec<f64> {
    const CLOCK_S: [f64; 12] = [
        60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 18_000.0, 36_000.0, 180_000.0,
        360_000.0,
    ];
    const STEPS: [&[f64]; 5] = [
        &[1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
        &[1.0, 2.0, 3.0, 5.0],
        &[1.0, 2.0, 5.0],
        &[1.0],
    ];
    // The room of a label where the page is narrow and letters are large.
    let apart = |a: f64, b: f64| (b / a).log10() > (high / low).log10() / 7.0;
    let mut ticks = Vec::new();
    for steps in STEPS {
        let below = (-6..2).flat_map(|decade| steps.iter().map(move |s| s * 10f64.powi(decade)));
        let all = below.filter(|s| *s < CLOCK_S[0]).chain(CLOCK_S);
        ticks = all.map(|s| s / unit_s).filter(|v| (low..=high).contains(v)).collect();
        if ticks.windows(2).all(|pair| apart(pair[0], pair[1])) {
            return ticks;
        }
    }
    let mut last = None;
    ticks.retain(|tick| {
        let keep = last.is_none_or(|last| apart(last, *tick));
        last = if keep { Some(*tick) } else { last };
        keep
    });
    ticks
}

/// Round times from zero to `end`, about `count` of them.
fn time_ticks(end: f64, count: f64) -> Vec<f64> {
    const STEPS_S: [f64; 17] = [
        0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0,
        7200.0, 14_400.0, 28_800.0,
    ];
    let step = STEPS_S.into_iter().find(|step| end / step <= count).unwrap_or(end / count);
    (0..).map(|index| f64::from(index) * step).take_while(|tick| *tick <= end).collect()
}

fn open(width: f64, height: f64, what: &str) -> String {
    let what = escape(what);
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{what}\">")
}

fn horizontal(svg: &mut String, width: f64, y: f64, class: &str) {
    let to = width - RIGHT;
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{to}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
    );
}

fn vertical(svg: &mut String, x: f64) {
    let to = HEIGHT - BOTTOM;
    let _ =
        write!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{to}\"/>");
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn title(svg: &mut String, width: f64, text: &str) {
    let (x, y, text) = ((LEFT + width - RIGHT) / 2.0, HEIGHT - 6.0, escape(text));
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"
    );
}

fn draw(svg: &mut String, curves: &[Curve<'_>], place: impl Fn(&[f64; 2]) -> [f64; 2]) {
    for curve in curves {
        for piece in curve.pieces.iter().filter(|piece| !piece.is_empty()) {
            let _ = write!(
                svg,
                "<path class=\"line {}\" d=\"{}\"><title>{}</title></path>",
                curve.class,
                path(piece.iter().map(&place)),
                escape(curve.name)
            );
        }
    }
}

fn path(points: impl Iterator<Item = [f64; 2]>) -> String {
    let mut out = String::new();
    for (index, [x, y]) in points.enumerate() {
        let _ = write!(out, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_ticks() {
        for (s, text) in [
            (0.0, "0"),
            (0.000_02, "20 µs"),
            (0.001, "1 ms"),
            (0.0125, "12.5 ms"),
            (1.0, "1 s"),
            (60.0, "60 s"),
            (300.0, "5 min"),
            (7200.0, "2 h"),
        ] {
            assert_eq!(duration(s), text);
        }
        assert_eq!(time_ticks(100.0, 6.0), [0.0, 30.0, 60.0, 90.0]);
        let ticks = log_ticks(1.0, 1e6, 1e-3);
        assert_eq!(ticks, [1.0, 10.0, 100.0, 1000.0, 10_000.0, 120_000.0]);
        assert_eq!(log_ticks(5.5, 19.0, 1e-3), [7.0, 10.0, 15.0]);
        for (low, high) in [(3.0, 11.0), (80.0, 90_000.0), (5.0, 5.5), (1.0, 1e9)] {
            let ticks = log_ticks(low, high, 1e-3);
            assert!(ticks.len() <= 10 && ticks.is_sorted(), "{low} {high}: {ticks:?}");
        }
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        let none = [Curve { name: "a<b", class: "arm-0".to_owned(), pieces: vec![Vec::new()] }];
        for svg in [
            distributions(&none, "x", 1.0),
            shares_over_time(&none, "x", true),
            small_area(&none[0], 0.0, 1.0),
            whisker(1.0, None, 2.0, "open"),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b"), "{svg}");
        }
    }
}
