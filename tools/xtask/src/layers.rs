//! The layer rule: an import points down, never up and never sideways.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// The layers from the bottom. A crate of `crates/` that is not here fails the check, and
/// so does an import of a crate of the same or a higher layer. ARCHITECTURE.md draws it.
const LAYERS: &[&[&str]] = &[
    &["paceline-core", "paceline-stats"],
    &["paceline-telemetry", "paceline-dialect"],
    &["paceline-upstream", "paceline-cache", "paceline-route"],
    &["paceline-gateway", "paceline-load", "paceline-sim"],
    &["paceline"],
];

/// Packages that never ship. They import what they like, and nothing imports them but
/// tests and each other.
const TOOLS: &[&str] = &["xtask", "testkit", "hotpath"];

/// A package of the workspace and its imports within it, dev-dependencies left out.
#[derive(Debug)]
struct Package {
    name: String,
    imports: Vec<String>,
}

/// A breach of the rule.
#[derive(Debug, PartialEq, Eq)]
enum Violation {
    /// The crate is in no layer.
    Unknown { name: String },
    /// The crate imports one of the same or a higher layer, or a tool.
    Import { name: String, import: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "{name} is in no layer: add it to tools/xtask/src/layers.rs")
            }
            Self::Import { name, import } => {
                write!(f, "{name} ({}) must not import {import} ({})", place(name), place(import))
            }
        }
    }
}

/// Checks the workspace as it is.
pub(crate) fn check() -> Result<()> {
    let packages = workspace()?;
    let violations = violations(&packages);
    for violation in &violations {
        eprintln!("    {violation}");
    }
    if !violations.is_empty() {
        bail!("imports against the layers: {}; they may only point down", violations.len());
    }
    eprintln!("    {} packages, every import points down", packages.len());
    Ok(())
}

fn violations(packages: &[Package]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in packages {
        let name = &package.name;
        if is_tool(name) {
            continue;
        }
        let Some(own) = layer(name) else {
            found.push(Violation::Unknown { name: name.clone() });
            continue;
        };
        for import in &package.imports {
            // An import in no layer is told once, for itself.
            let allowed = layer(import).is_none_or(|layer| layer < own) && !is_tool(import);
            if !allowed {
                found.push(Violation::Import { name: name.clone(), import: import.clone() });
            }
        }
    }
    found
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn is_tool(name: &str) -> bool {
    TOOLS.contains(&name)
}

fn place(name: &str) -> String {
    layer(name).map_or_else(|| "a tool".to_owned(), |layer| format!("layer {layer}"))
}

fn workspace() -> Result<Vec<Package>> {
    packages_of(&testkit::tools::repository().join("Cargo.toml"))
}

/// The packages of a workspace. Needs no network: nothing is resolved.
fn packages_of(manifest: &Path) -> Result<Vec<Package>> {
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec()?;
    let members = metadata.workspace_packages();
    let is_member = |name: &str| members.iter().any(|member| member.name.as_str() == name);
    let packages = members.iter().map(|member| Package {
        name: member.name.to_string(),
        imports: member
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.clone())
            .filter(|name| is_member(name))
            .collect(),
    });
    Ok(packages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, imports: &[&str], expected: &[&str]) {
        let imports = imports.iter().map(|import| (*import).to_owned()).collect();
        let packages = [Package { name: name.to_owned(), imports }];
        let found: Vec<String> =
            violations(&packages).iter().map(|violation| violation.to_string()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn down_is_allowed_and_may_skip_layers() {
        check("paceline-gateway", &["paceline-cache", "paceline-core"], &[]);
        check("paceline", &["paceline-gateway", "paceline-sim", "paceline-stats"], &[]);
        check("paceline-core", &[], &[]);
    }

    #[test]
    fn up_is_refused() {
        check(
            "paceline-core",
            &["paceline-gateway"],
            &["paceline-core (layer 0) must not import paceline-gateway (layer 3)"],
        );
    }

    #[test]
    fn sideways_is_refused() {
        check(
            "paceline-cache",
            &["paceline-core", "paceline-route"],
            &["paceline-cache (layer 2) must not import paceline-route (layer 2)"],
        );
    }

    #[test]
    fn an_unknown_crate_is_refused() {
        check(
            "paceline-new",
            &["paceline-core"],
            &["paceline-new is in no layer: add it to tools/xtask/src/layers.rs"],
        );
    }

    #[test]
    fn tools_import_what_they_like_and_only_tests_import_them() {
        check("xtask", &["testkit", "paceline"], &[]);
        check("paceline", &["testkit"], &["paceline (layer 4) must not import testkit (a tool)"]);
    }

    #[test]
    fn this_workspace_keeps_the_rule() {
        let packages = workspace().unwrap();
        assert!(packages.iter().any(|package| package.name == "paceline-core"));
        // Without imports, the rule would be kept by accident.
        assert!(packages.iter().any(|package| !package.imports.is_empty()));
        assert_eq!(violations(&packages), []);
    }

    /// A real workspace with a real wrong import, read as cargo reads it.
    #[test]
    fn a_wrong_import_in_a_manifest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let package = |name: &str, rest: &str| {
            format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n{rest}")
        };
        write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"core\", \"cache\"]\n");
        let up = "[dependencies]\npaceline-cache = { path = \"../cache\" }\n";
        write("core/Cargo.toml", &package("paceline-core", up));
        write("core/src/lib.rs", "");
        let dev = "[dev-dependencies]\npaceline-core = { path = \"../core\" }\n";
        write("cache/Cargo.toml", &package("paceline-cache", dev));
        write("cache/src/lib.rs", "");
        let packages = packages_of(&folder.path().join("Cargo.toml")).unwrap();
        let found = violations(&packages);
        let expected = Violation::Import {
            name: "paceline-core".to_owned(),
            import: "paceline-cache".to_owned(),
        };
        assert_eq!(found, [expected]);
    }
}
