//! Rules of the tree that no other tool knows.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use testkit::tools;

use crate::phases::output;

/// Lines of a Rust file without its tests. STYLE.md asks for fewer; this is the end.
const LINES_MAX: usize = 1_000;

/// Crates whose code touches neither files nor sockets nor processes, so that their tests
/// need no server. ARCHITECTURE.md promises it.
const WITHOUT_IO: &[&str] = &["crates/core/", "crates/stats/", "crates/dialect/", "crates/route/"];

/// What such a crate would have to name.
const IO: &[&str] = &["std::fs", "std::net", "std::process", "tokio::fs", "tokio::net"];

/// Folders of somebody's own machine.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];

/// A file of the tree, with its path from the repository's folder.
struct Source {
    path: String,
    text: String,
}

/// Checks every file that is tracked, or new and not ignored.
pub(crate) fn check() -> Result<()> {
    let sources = sources()?;
    let mut found: Vec<String> = sources.iter().flat_map(problems).collect();
    found.extend(sources.iter().flat_map(dead_links));
    for problem in &found {
        eprintln!("    {problem}");
    }
    if !found.is_empty() {
        bail!("untidy: {}", found.len());
    }
    eprintln!("    {} files", sources.len());
    Ok(())
}

fn sources() -> Result<Vec<Source>> {
    let root = tools::repository();
    let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let paths = output(Command::new("git").args(listed).current_dir(&root))?;
    // A file that is deleted but still tracked, or no text, has no rules.
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some(Source { path: path.to_owned(), text })
    };
    Ok(paths.split('\0').filter(|path| !path.is_empty()).filter_map(read).collect())
}

/// What is wrong with one file, judged by its path and text alone.
fn problems(source: &Source) -> Vec<String> {
    let Source { path, text } = source;
    let mut found = Vec::new();
    let lines = code_lines(path, text);
    if lines > LINES_MAX {
        found.push(format!("{path}: {lines} lines without its tests; at most {LINES_MAX}"));
    }
    for part in MACHINE_PATHS {
        if let Some(line) = line_with(text, part) {
            found.push(format!("{path}:{line}: names a folder of somebody's machine ({part})"));
        }
    }
    let checkout = tools::repository().display().to_string();
    if let Some(line) = line_with(text, &checkout) {
        found.push(format!("{path}:{line}: names the folder of this checkout"));
    }
    if WITHOUT_IO.iter().any(|folder| path.starts_with(folder)) && path.contains("/src/") {
        for name in IO {
            if let Some(line) = line_with(production(text), name) {
                found.push(format!("{path}:{line}: {name} in a crate that performs no I/O"));
            }
        }
    }
    if path.ends_with("/Cargo.toml") && !text.contains("[workspace]") && !has_lints(text) {
        found.push(format!("{path}: lacks `[lints] workspace = true`"));
    }
    if path == "CHANGELOG.md" && !text.contains("\n## Unreleased\n") {
        found.push(format!("{path}: lacks the part `## Unreleased`"));
    }
    found
}

/// Relative links of a Markdown file that lead nowhere.
fn dead_links(source: &Source) -> Vec<String> {
    if !source.path.ends_with(".md") {
        return Vec::new();
    }
    let root = tools::repository();
    let folder = root.join(&source.path).parent().map(Path::to_owned).unwrap_or(root);
    links(&source.text)
        .filter(|link| !folder.join(link).exists())
        .map(|link| format!("{}: the link to {link} leads nowhere", source.path))
        .collect()
}

/// The targets of `](target)` that are paths, without their anchors.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .filter(|target| !target.starts_with("mailto:"))
}

/// Lines of a Rust file that are no tests; 0 for other files and for files of tests.
fn code_lines(path: &str, text: &str) -> usize {
    let is_code = path.ends_with(".rs") && !path.ends_with("tests.rs") && !path.contains("/tests/");
    if is_code { production(text).lines().count() } else { 0 }
}

/// The text before the unit tests.
fn production(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn has_lints(manifest: &str) -> bool {
    manifest.contains("[lints]\nworkspace = true")
}

/// The number of the first line with this part, from 1.
fn line_with(text: &str, part: &str) -> Option<usize> {
    let at = text.find(part)?;
    Some(text[..at].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &[&str]) {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(problems(&source), expected);
    }

    #[test]
    fn long_files_are_found_without_their_tests() {
        let code = "fn f() {}\n".repeat(LINES_MAX);
        check("crates/a/src/lib.rs", &code, &[]);
        check("crates/a/src/lib.rs", &format!("{code}#[cfg(test)]\nmod tests {{\n}}\n"), &[]);
        let longer = format!("{code}fn g() {{}}\n");
        check(
            "crates/a/src/lib.rs",
            &longer,
            &["crates/a/src/lib.rs: 1001 lines without its tests; at most 1000"],
        );
        check("crates/a/tests/it/main.rs", &longer, &[]);
    }

    #[test]
    fn machine_paths_are_found() {
        let text = format!("a\nsee {}somebody/x\n", MACHINE_PATHS[0]);
        let expected =
            format!("README.md:2: names a folder of somebody's machine ({})", MACHINE_PATHS[0]);
        check("README.md", &text, &[&expected]);
        let here = format!("cd {}", tools::repository().display());
        check("a.md", &here, &["a.md:1: names the folder of this checkout"]);
    }

    #[test]
    fn io_is_found_where_none_is_allowed() {
        let text = "use std::fs;\n";
        check(
            "crates/core/src/a.rs",
            text,
            &["crates/core/src/a.rs:1: std::fs in a crate that performs no I/O"],
        );
        check("crates/core/src/a.rs", &format!("\n#[cfg(test)]\nmod tests {{\n{text}}}\n"), &[]);
        check("crates/upstream/src/a.rs", text, &[]);
    }

    #[test]
    fn manifests_and_the_changelog_are_complete() {
        check(
            "crates/a/Cargo.toml",
            "[package]\n",
            &["crates/a/Cargo.toml: lacks `[lints] workspace = true`"],
        );
        check("crates/a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n", &[]);
        check("CHANGELOG.md", "# Changes\n", &["CHANGELOG.md: lacks the part `## Unreleased`"]);
        check("CHANGELOG.md", "# Changes\n\n## Unreleased\n", &[]);
    }

    #[test]
    fn links_are_paths_only() {
        let text = "[a](A.md#part) [b](https://x/y) [c](#here) `[d](d.md)`";
        assert_eq!(links(text).collect::<Vec<_>>(), ["A.md", "d.md"]);
    }
}
