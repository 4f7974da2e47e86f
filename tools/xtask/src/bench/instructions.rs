//! `cargo xtask bench instructions`: what each thing of the request path takes.
//!
//! Instructions do not depend on the load of the machine, so a change shows even where
//! times say nothing. They do depend on the compiler: baselines of another one are shown
//! and not judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use testkit::tools;

use crate::install;
use crate::phases::{Phases, cargo, output, run};

/// The two counts whose difference is taken: enough to drown what varies with addresses.
const FEW: u64 = 200;
const MANY: u64 = 1_200;

/// Growth that is no noise, as a share.
const TOLERANCE: f64 = 0.02;

/// Options of the counts.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Stores the counts as the new baseline.
    #[arg(long)]
    save: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    compiler: String,
    /// Instructions by thing.
    instructions: BTreeMap<String, u64>,
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let mut phases = Phases::new();
    install::for_benches(&mut phases)?;
    let build = ["build", "--locked", "--profile", "dist", "-p", "hotpath"];
    phases.run("build the things to count", || run(cargo().args(build)))?;
    let program = tools::target_dir().join("dist/hotpath");
    let now = Baseline { compiler: compiler()?, instructions: count_all(&program)? };
    let path = tools::repository().join("bench/instructions.json");
    let before = stored(&path)?;
    let grown = compare(&now, before.as_ref());
    if options.save {
        std::fs::write(&path, serde_json::to_string_pretty(&now)? + "\n")?;
        println!("written: bench/instructions.json");
    } else if !grown.is_empty() {
        bail!("more instructions than the baseline: {}; --save accepts them", grown.join(", "));
    }
    Ok(())
}

fn compiler() -> Result<String> {
    let text = output(Command::new("rustc").arg("--version"))?;
    Ok(format!("{}, {}", text.trim(), std::env::consts::ARCH))
}

fn count_all(program: &Path) -> Result<BTreeMap<String, u64>> {
    let names = output(&mut Command::new(program))?;
    let count = |name: &str| -> Result<(String, u64)> {
        let (few, many) = (counted(program, name, FEW)?, counted(program, name, MANY)?);
        Ok((name.to_owned(), (many - few) / (MANY - FEW)))
    };
    names.lines().map(count).collect()
}

/// All instructions of one run.
fn counted(program: &Path, name: &str, times: u64) -> Result<u64> {
    let mut valgrind = tools::debian("valgrind");
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    valgrind.arg(program).arg(name).arg(times.to_string());
    let found = valgrind.output().context("cannot start valgrind")?;
    let text = String::from_utf8_lossy(&found.stderr);
    if !found.status.success() {
        bail!("valgrind failed for {name}:\n{text}");
    }
    refs(&text).with_context(|| format!("valgrind counted nothing:\n{text}"))
}

/// The number behind `I refs:` in valgrind's summary.
fn refs(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("I ") && line.contains("refs:"))?;
    let digits: String = line.rsplit(':').next()?.chars().filter(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn stored(path: &PathBuf) -> Result<Option<Baseline>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Prints the counts beside the baseline; returns what has grown.
fn compare(now: &Baseline, before: Option<&Baseline>) -> Vec<String> {
    let comparable = before.is_some_and(|before| before.compiler == now.compiler);
    if let Some(before) = before.filter(|_| !comparable) {
        println!("the baseline is of another compiler ({}): shown, not judged", before.compiler);
    }
    println!("{:<28} {:>12} {:>12} {:>8}", "thing", "baseline", "now", "change");
    let mut grown = Vec::new();
    for (name, count) in &now.instructions {
        let old = before.and_then(|before| before.instructions.get(name));
        let Some(old) = old else {
            println!("{name:<28} {:>12} {count:>12}", "-");
            continue;
        };
        let change = *count as f64 / *old as f64 - 1.0;
        println!("{name:<28} {old:>12} {count:>12} {:>+7.1}%", change * 100.0);
        if comparable && change > TOLERANCE {
            grown.push(name.clone());
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_reads_the_summary_of_valgrind() {
        let check = |text: &str, expected| assert_eq!(refs(text), expected);
        check("==12== \n==12== I   refs:      1,234,567\n", Some(1_234_567));
        check("==12== I refs:        42", Some(42));
        check("error", None);
    }

    #[test]
    fn only_growth_under_the_same_compiler_counts() {
        let baseline = |compiler: &str, count| Baseline {
            compiler: compiler.to_owned(),
            instructions: BTreeMap::from([("scan".to_owned(), count)]),
        };
        let check = |before: Option<Baseline>, count, expected: &[&str]| {
            assert_eq!(compare(&baseline("a", count), before.as_ref()), expected);
        };
        check(None, 100, &[]);
        check(Some(baseline("a", 100)), 101, &[]);
        check(Some(baseline("a", 100)), 110, &["scan"]);
        check(Some(baseline("a", 100)), 50, &[]);
        check(Some(baseline("b", 100)), 110, &[]);
    }
}
