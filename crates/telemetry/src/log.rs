//! Logs: structured lines on standard error, coloured on a terminal only.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is a level or a list of `target=level`; an invalid one is
/// reported and replaced by `info`. Later calls change nothing.
pub fn init(filter: &str) {
    let parsed = EnvFilter::try_new(filter);
    let invalid = parsed.is_err();
    let started = tracing_subscriber::fmt()
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if invalid && started.is_ok() {
        tracing::warn!(filter, "the log filter cannot be read; using `info`");
    }
}
