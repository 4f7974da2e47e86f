//! What is read from a process, and what is made of several readings.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// CPU time of some processes, all threads of them, to the nanosecond.
pub(super) fn cpu(pids: &[u32]) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context("a process has ended")? {
            let path = entry?.path().join("schedstat");
            // A thread that has just ended is none of a server's.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
            total += Duration::from_nanos(nanos.context("the kernel keeps no schedstat")?);
        }
    }
    Ok(total)
}

/// Resident memory of some processes, in MB (10⁶ bytes).
pub(super) fn resident_mb(pids: &[u32]) -> Result<f64> {
    let mut kib = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let field = line.and_then(|line| line.split_whitespace().next());
        kib += field.and_then(|field| field.parse::<f64>().ok()).context("no VmRSS")?;
    }
    Ok(kib * 1024.0 / 1e6)
}

/// Median and quartiles of a sample.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Quartiles {
    pub(super) q1: f64,
    pub(super) median: f64,
    pub(super) q3: f64,
}

impl Quartiles {
    /// Of a sample that has at least one value.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { q1: at(&sorted, 0.25), median: at(&sorted, 0.5), q3: at(&sorted, 0.75) }
    }
}

/// The quantile of a sorted sample, interpolated between its neighbours.
pub(super) fn at(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = share * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let check = |values: &[f64], expected: [f64; 3]| {
            let found = Quartiles::of(values.iter().copied());
            assert_eq!([found.q1, found.median, found.q3], expected);
        };
        check(&[3.0], [3.0, 3.0, 3.0]);
        check(&[4.0, 1.0, 3.0, 2.0], [1.75, 2.5, 3.25]);
        check(&[5.0, 1.0, 2.0, 4.0, 3.0], [2.0, 3.0, 4.0]);
    }

    #[test]
    fn own_times_and_memory_are_readable() {
        let own = [std::process::id()];
        let before = cpu(&own).unwrap();
        let mut sum = 0_u64;
        for i in 0..3_000_000_u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        assert!(cpu(&own).unwrap() > before);
        assert!(resident_mb(&own).unwrap() > 1.0);
    }
}
