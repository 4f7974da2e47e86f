//! The figures of all contenders, for the terminal and as JSON.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use super::CONTENDERS;
use super::measure::{self, Figures};
use super::scenario::Scenario;
use crate::phases::output;

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    command: String,
    contenders: Vec<&'static str>,
    seeds: u64,
    random_from: u64,
    shares: Vec<(String, String, Share)>,
    pub(crate) named: Vec<Row>,
    pub(crate) random: Vec<Row>,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    group: &'static str,
    name: String,
    agents: usize,
    /// The period of its window, where it has one.
    window_s: Option<f64>,
    /// Other clients or random refusals blur the limit: no bar holds.
    is_blurred: bool,
    has_headers: bool,
    /// One for each contender.
    figures: Vec<Figures>,
}

/// How one contender did over many scenarios.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Share {
    scenarios: usize,
    floor: usize,
    goal: usize,
    throughput_mean: f64,
    throughput_worst: f64,
    refused_mean: f64,
    refused_worst: f64,
    wait_median: f64,
    failed_worst: f64,
    jain_worst: f64,
}

/// The learner without one rule.
#[derive(Debug, Serialize)]
pub(crate) struct Ablated {
    pub(crate) without: String,
    pub(crate) named: Share,
    pub(crate) blurred: Share,
    pub(crate) random: Share,
}

/// The bars of the issue: throughput, and of windows; refused in per cent; seconds to come
/// back after a halved and a doubled limit, in windows where there are some; Jain's index.
struct Bars {
    throughput: f64,
    throughput_window: f64,
    refused: f64,
    wait: f64,
    halved_s: f64,
    doubled_s: f64,
    windows: f64,
}

const FLOOR: Bars = Bars {
    throughput: 0.90,
    throughput_window: 0.80,
    refused: 3.0,
    wait: 1.5,
    halved_s: 30.0,
    doubled_s: 60.0,
    windows: 2.0,
};

const GOAL: Bars = Bars {
    throughput: 0.98,
    throughput_window: 0.95,
    refused: 1.0,
    wait: 1.1,
    halved_s: 10.0,
    doubled_s: 30.0,
    windows: 1.0,
};

const JAIN: f64 = 0.98;

impl Row {
    pub(crate) fn new(scenario: &Scenario, figures: Vec<Figures>) -> Self {
        Self {
            group: scenario.group,
            name: scenario.name.clone(),
            agents: scenario.agents,
            window_s: scenario.window_s(),
            is_blurred: scenario.is_blurred(),
            has_headers: scenario.provider.manners.headers,
            figures,
        }
    }

    fn meets(&self, bars: &Bars, at: usize) -> bool {
        let figures = &self.figures[at];
        let throughput =
            if self.window_s.is_some() { bars.throughput_window } else { bars.throughput };
        let within = |found: Option<f64>, most: f64| {
            let most = self.window_s.map_or(most, |window| most.max(window * bars.windows));
            found.is_none_or(|found| found <= most)
        };
        figures.throughput >= throughput
            && figures.refused <= bars.refused
            && figures.wait <= bars.wait
            && figures.failed == 0.0
            && figures.jain >= JAIN
            && within(figures.halved_s, bars.halved_s)
            && within(figures.doubled_s, bars.doubled_s)
    }
}

impl Share {
    /// Over the scenarios that bars are for, or over those where other clients or random
    /// refusals blur the limit.
    pub(crate) fn of(rows: &[Row], at: usize, is_blurred: bool) -> Self {
        let rows: Vec<&Row> = rows
            .iter()
            .filter(|row| row.is_blurred == is_blurred && row.figures.len() > at)
            .collect();
        if rows.is_empty() {
            return Self::default();
        }
        let of = |value: fn(&Figures) -> f64| rows.iter().map(move |row| value(&row.figures[at]));
        let count = rows.len() as f64;
        let mut waits: Vec<f64> = of(|figures| figures.wait).collect();
        waits.sort_by(f64::total_cmp);
        Self {
            scenarios: rows.len(),
            floor: rows.iter().filter(|row| row.meets(&FLOOR, at)).count(),
            goal: rows.iter().filter(|row| row.meets(&GOAL, at)).count(),
            throughput_mean: of(|figures| figures.throughput).sum::<f64>() / count,
            throughput_worst: of(|figures| figures.throughput).fold(f64::INFINITY, f64::min),
            refused_mean: of(|figures| figures.refused).sum::<f64>() / count,
            refused_worst: of(|figures| figures.refused).fold(0.0, f64::max),
            wait_median: waits[waits.len() / 2],
            failed_worst: of(|figures| figures.failed).fold(0.0, f64::max),
            jain_worst: of(|figures| figures.jain).fold(1.0, f64::min),
        }
        .rounded()
    }
}

impl Share {
    fn rounded(mut self) -> Self {
        let values = [
            &mut self.throughput_mean,
            &mut self.throughput_worst,
            &mut self.refused_mean,
            &mut self.refused_worst,
            &mut self.wait_median,
            &mut self.failed_worst,
            &mut self.jain_worst,
        ];
        for value in values {
            *value = measure::rounded(*value);
        }
        self
    }
}

impl Report {
    pub(crate) fn new(seeds: u64, random_from: u64) -> Self {
        let command: Vec<String> = std::env::args().skip(1).collect();
        Self {
            command: format!("cargo xtask {}", command.join(" ")),
            contenders: CONTENDERS.to_vec(),
            seeds,
            random_from,
            shares: Vec::new(),
            named: Vec::new(),
            random: Vec::new(),
        }
    }

    pub(crate) fn print(&mut self) {
        println!(
            "throughput by the oracle's; refused after minute 1; p99 wait by the oracle's; \
             seconds to 90 % after the limit halved, doubled\n\
             a line begins with * at the goal, . at the floor, ! below; others: throughput refused %\n"
        );
        print!("  {:<66} thr   ref%  wait  half  dbl  fail%  Jain", "scenario");
        for name in self.contenders.iter().skip(1) {
            print!("  {name:>13.13}");
        }
        println!();
        let mut group = "";
        for row in self.named.iter().chain(&self.random) {
            if row.group != group {
                group = row.group;
                println!("{group}");
            }
            print_row(row);
        }
        println!();
        for (kind, rows) in [("named", &self.named), ("random", &self.random)] {
            for (at, name) in self.contenders.iter().enumerate() {
                let share = Share::of(rows, at, false);
                if share.scenarios > 0 {
                    self.shares.push((kind.to_owned(), (*name).to_owned(), share));
                }
            }
        }
        println!("without sharing and random refusals:");
        for (kind, name, share) in &self.shares {
            print!("{kind:<8} {name:<22} ");
            print_share(share);
        }
        let told = self.named.iter().chain(&self.random).filter(|row| row.has_headers);
        let refused: Vec<f64> = told.map(|row| row.figures[0].refused).collect();
        if !refused.is_empty() {
            let none = refused.iter().filter(|refused| **refused == 0.0).count();
            println!("with truthful headers: {none} of {} without any refusal", refused.len());
        }
    }

    /// Writes all figures, one scenario a line.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let lines = |rows: &[Row]| -> Result<String> {
            let rows: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
            Ok(rows?.join(",\n    "))
        };
        let shares: Result<Vec<String>, _> =
            self.shares.iter().map(serde_json::to_string).collect();
        let text = format!(
            "{{\n  \"command\": {},\n  \"revision\": {},\n  \"contenders\": {},\n  \
             \"seeds\": {},\n  \"random_from\": {},\n  \"shares\": [\n    {}\n  ],\n  \
             \"named\": [\n    {}\n  ],\n  \"random\": [\n    {}\n  ]\n}}\n",
            serde_json::to_string(&self.command)?,
            serde_json::to_string(&revision()?)?,
            serde_json::to_string(&self.contenders)?,
            self.seeds,
            self.random_from,
            shares?.join(",\n    "),
            lines(&self.named)?,
            lines(&self.random)?,
        );
        std::fs::write(path, text)?;
        println!("written: {}", path.display());
        Ok(())
    }
}

fn revision() -> Result<String> {
    let found = output(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]))?;
    Ok(found.trim().to_owned())
}

pub(crate) fn print_ablation(found: &[Ablated]) {
    for ablated in found {
        print!("{:<12} named   ", ablated.without);
        print_share(&ablated.named);
        for (kind, share) in [("random ", &ablated.random), ("blurred", &ablated.blurred)] {
            if share.scenarios > 0 {
                print!("{:<12} {kind} ", "");
                print_share(share);
            }
        }
    }
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")?;
    println!("written: {}", path.display());
    Ok(())
}

fn print_row(row: &Row) {
    let mark = match () {
        () if row.is_blurred => ' ',
        () if row.meets(&GOAL, 0) => '*',
        () if row.meets(&FLOOR, 0) => '.',
        () => '!',
    };
    let Some((ours, others)) = row.figures.split_first() else { return };
    let seconds = |found: Option<f64>| found.map_or("-".to_owned(), |s| format!("{s:.0}"));
    print!(
        "{mark} {:<66.66} {:.2} {:6.2} {:5.2} {:>5} {:>4} {:6.1} {:5.2}",
        row.name,
        ours.throughput,
        ours.refused,
        ours.wait,
        seconds(ours.halved_s),
        seconds(ours.doubled_s),
        ours.failed,
        ours.jain,
    );
    for other in others {
        print!("  {:6.2} {:6.1}", other.throughput, other.refused);
    }
    println!();
}

fn print_share(share: &Share) {
    println!(
        "floor {:3} goal {:3} of {:3}; throughput {:.3}, worst {:.2}; refused {:.2} %, worst \
         {:.1}; wait {:.2}; failed {:.1} %; Jain {:.3}",
        share.floor,
        share.goal,
        share.scenarios,
        share.throughput_mean,
        share.throughput_worst,
        share.refused_mean,
        share.refused_worst,
        share.wait_median,
        share.failed_worst,
        share.jain_worst,
    );
}
