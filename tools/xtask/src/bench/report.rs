//! The results as a table and as JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use testkit::tools;

use super::measure::Quartiles;
use super::servers::LITELLM;
use crate::phases::output;

/// Which run it was.
#[derive(Debug, Serialize)]
pub(super) struct Origin {
    command: String,
    date: String,
    revision: String,
}

impl Origin {
    /// Of this run, today.
    pub(super) fn new() -> Result<Self> {
        let git = |arguments: &[&str]| {
            output(Command::new("git").args(arguments).current_dir(tools::repository()))
        };
        let is_clean = git(&["status", "--porcelain", "--", "crates"])?.is_empty();
        let changed = if is_clean { "" } else { ", with changes" };
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let date = output(Command::new("date").args(["--utc", "+%F"]))?;
        Ok(Self {
            command: format!("cargo xtask {}", arguments.join(" ")),
            date: date.trim().to_owned(),
            revision: format!("{}{changed}", git(&["rev-parse", "--short=12", "HEAD"])?.trim()),
        })
    }
}

/// All that a run found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) origin: Origin,
    pub(super) hardware: String,
    pub(super) versions: Vec<String>,
    pub(super) method: Vec<String>,
    /// What was asserted while measuring, in numbers.
    pub(super) asserted: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// One figure of each gateway.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// What `measured` counts, for example `µs CPU per request`.
    pub(super) unit: String,
    /// By gateway, over the rounds.
    pub(super) measured: BTreeMap<String, Quartiles>,
    /// By gateway: requests per second, where the load was closed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) per_second: BTreeMap<String, Quartiles>,
    /// By gateway: its figure set against nginx's of the same round.
    pub(super) against_nginx: BTreeMap<String, Quartiles>,
    pub(super) comparison: Comparison,
    /// The worst and the wished for figure against nginx.
    pub(super) bar: Option<Bar>,
    pub(super) rounds: usize,
}

/// How a figure is set against nginx's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Comparison {
    /// Divided by nginx's of the same round.
    Ratio,
    /// Nginx's of the same round subtracted.
    Difference,
    /// Nginx's is only shown: the figure stands for itself.
    Alone,
}

/// What a figure must stay below, and what it should.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Bar {
    pub(super) floor: f64,
    pub(super) goal: f64,
}

/// Nginx's name in every table.
pub(super) const NGINX: &str = "nginx";

impl Row {
    /// Sets the samples of every gateway, in the order of the rounds, against nginx's.
    pub(super) fn new(
        name: &str,
        unit: &str,
        samples: &BTreeMap<String, Vec<f64>>,
        comparison: Comparison,
        bar: Option<Bar>,
    ) -> Result<Self> {
        let base = samples.get(NGINX).context("nginx was not measured")?;
        let against = |values: &[f64]| {
            let pairs = values.iter().zip(base);
            Quartiles::of(pairs.map(|(value, base)| match comparison {
                Comparison::Ratio => value / base,
                Comparison::Difference => value - base,
                Comparison::Alone => *value,
            }))
        };
        let measured = samples
            .iter()
            .map(|(name, values)| (name.clone(), Quartiles::of(values.iter().copied())));
        let others = samples.iter().filter(|(name, _)| *name != NGINX);
        Ok(Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            measured: measured.collect(),
            per_second: BTreeMap::new(),
            against_nginx: others.map(|(name, values)| (name.clone(), against(values))).collect(),
            comparison,
            bar,
            rounds: base.len(),
        })
    }

    /// The line of each gateway other than nginx.
    fn lines(&self) -> Vec<String> {
        let nginx = self.measured[NGINX].median;
        let sign = match self.comparison {
            Comparison::Ratio => "×",
            Comparison::Difference => "+",
            Comparison::Alone => "=",
        };
        let line = |(name, against): (&String, &Quartiles)| {
            let Quartiles { q1, median, q3 } = against;
            let measured = self.measured[name].median;
            // A bar is for Paceline.
            let (bar, verdict) = match self.bar.filter(|_| name != LITELLM) {
                Some(Bar { floor, goal }) => {
                    (format!("{floor:>6.2} {goal:>6.2}"), verdict(*median, floor, goal))
                }
                None => (format!("{:>6} {:>6}", "", ""), ""),
            };
            format!(
                "{:<26} {:<10} {:<22} {nginx:>9.2} {measured:>9.2}  {sign}{median:>6.2} ({q1:.2}–{q3:.2})  {bar}  {verdict}",
                self.name, name, self.unit,
            )
        };
        self.against_nginx.iter().map(line).collect()
    }
}

fn verdict(value: f64, floor: f64, goal: f64) -> &'static str {
    if value <= goal {
        "goal"
    } else if value <= floor {
        "ok"
    } else {
        "MISSED"
    }
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:<26} {:<10} {:<22} {:>9} {:>9}  {:<20} {:>6} {:>6}\n",
            "figure", "gateway", "unit", "nginx", "gateway", "against nginx", "floor", "goal"
        );
        for line in self.rows.iter().flat_map(Row::lines) {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The first line that a program writes, for its version.
pub(super) fn first_line(command: &mut Command) -> Result<String> {
    let found = command.output()?;
    let text = [found.stdout, found.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

/// The processor and the memory, as the kernel tells them.
pub(super) fn hardware() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").to_owned()
    };
    let cores = std::thread::available_parallelism()?;
    let kernel = output(Command::new("uname").arg("-r"))?;
    let (model, mhz) = (field("model name"), field("cpu MHz"));
    Ok(format!("{cores} cores of {model} at {mhz} MHz, Linux {}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_pairs_the_rounds() {
        let samples = BTreeMap::from([
            (NGINX.to_owned(), vec![10.0, 20.0, 40.0]),
            ("other".to_owned(), vec![20.0, 20.0, 20.0]),
        ]);
        let median = |comparison| {
            let row = Row::new("row", "µs", &samples, comparison, None).unwrap();
            row.against_nginx["other"].median
        };
        assert_eq!(median(Comparison::Ratio), 1.0);
        assert_eq!(median(Comparison::Difference), 0.0);
        assert_eq!(median(Comparison::Alone), 20.0);
    }

    #[test]
    fn verdicts() {
        assert_eq!(verdict(0.9, 1.4, 0.95), "goal");
        assert_eq!(verdict(1.0, 1.4, 0.95), "ok");
        assert_eq!(verdict(1.5, 1.4, 0.95), "MISSED");
    }
}
