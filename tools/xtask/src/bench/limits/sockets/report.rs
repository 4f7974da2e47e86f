//! The figures of all contenders over sockets, as a table and as JSON.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::super::super::report::Origin;
use super::figures::Figures;

/// All that a run found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) origin: Origin,
    pub(super) hardware: String,
    pub(super) versions: Vec<String>,
    pub(super) method: Vec<String>,
    pub(super) scenarios: Vec<Row>,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// As `paceline sim --limit` has it.
    pub(super) limit: String,
    /// What who knows the limit gets through in a second.
    pub(super) ideal_per_s: f64,
    pub(super) unit: &'static str,
    /// Seconds before the count, and counted.
    pub(super) warm_up_s: u32,
    pub(super) counted_s: u32,
    /// Share of the machine's cores that were busy, with whatever else ran on it.
    pub(super) machine_busy: f64,
    pub(super) contenders: Vec<Contender>,
}

/// One contender in one scenario.
#[derive(Debug, Serialize)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// Of the provider's answers, those with 429 or 529.
    pub(super) refused: u64,
    pub(super) provider_answers: u64,
    /// Cores that each process took in the mean.
    pub(super) cores: Cores,
}

/// CPU time by wall time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cores {
    pub(super) gateway: f64,
    pub(super) fleet: f64,
    pub(super) provider: f64,
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        for row in &self.scenarios {
            text += &row.table();
        }
        text
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Row {
    fn table(&self) -> String {
        let mut text = format!(
            "\n{}: {}; ideal {} {}/s; {} s after {} s; machine {:.0} % busy\n\
             {:<10} {:>8} {:>7} {:>7} {:>8} {:>9} {:>10} {:>9} {:>9} {:>6} {:>8}\n",
            self.name,
            self.limit,
            self.ideal_per_s,
            self.unit,
            self.counted_s,
            self.warm_up_s,
            self.machine_busy * 100.0,
            "",
            "answered",
            "failed",
            "fail %",
            "refused",
            "refused %",
            "throughput",
            "wait p50",
            "wait p99",
            "Jain",
            "CPU",
        );
        for contender in &self.contenders {
            text += &contender.line();
        }
        text
    }
}

impl Contender {
    fn line(&self) -> String {
        let figures = &self.figures;
        let percent = |part: f64, whole: f64| if whole > 0.0 { 100.0 * part / whole } else { 0.0 };
        let calls = (figures.answered + figures.failed) as f64;
        format!(
            "{:<10} {:>8} {:>7} {:>7.1} {:>8} {:>9.1} {:>10.3} {:>7.1} s {:>7.1} s {:>6.3} {:>6.1} %\n",
            self.name,
            figures.answered,
            figures.failed,
            percent(figures.failed as f64, calls),
            self.refused,
            percent(self.refused as f64, self.provider_answers as f64),
            figures.throughput,
            figures.wait_p50_s,
            figures.wait_p99_s,
            figures.jain,
            self.cores.gateway * 100.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let figures = Figures {
            answered: 900,
            failed: 1500,
            failed_by_status: BTreeMap::from([(429, 1500)]),
            throughput: 0.993,
            wait_p50_s: 0.0,
            wait_p99_s: 12.3,
            jain: 0.912,
        };
        let cores = Cores { gateway: 0.5, fleet: 0.1, provider: 0.0 };
        let contender = |name| Contender {
            name,
            figures: figures.clone(),
            refused: 5400,
            provider_answers: 6300,
            cores,
        };
        let row = Row {
            name: "a limit".to_owned(),
            limit: "requests=300/m".to_owned(),
            ideal_per_s: 5.0,
            unit: "calls",
            warm_up_s: 60,
            counted_s: 180,
            machine_busy: 0.5,
            contenders: vec![contender("SDK alone"), contender("Paceline")],
        };
        let text = row.table();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert_eq!(
            (widths.len(), widths[0] == widths[1], widths[1] == widths[2]),
            (3, true, true),
            "{text}"
        );
        assert!(lines[1].contains("    62.5     5400      85.7      0.993"), "{text}");
    }
}
