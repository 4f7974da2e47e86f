//! The configuration: read from a file and the environment, checked, and resolved once.

mod deployments;
mod diagnostic;
mod raw;
mod resolve;

use std::path::{Path, PathBuf};

pub(crate) use diagnostic::Fault;
pub(crate) use raw::{Deployment as RawDeployment, Kind, Raw};
pub(crate) use resolve::{Resolved, ResolvedDeployment, Source, resolve};

/// Environment variables of this form override fields of the file:
/// `PACELINE__CACHE__TTL_S=60` sets `ttl_s` in `[cache]`.
const OVERRIDE_PREFIX: &str = "PACELINE__";

/// A configuration's text and where it came from, for error messages.
pub(crate) struct Text {
    pub(crate) path: Option<PathBuf>,
    pub(crate) text: String,
}

/// The environment as the configuration sees it.
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// The process's own.
    pub(crate) fn process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn overrides(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(OVERRIDE_PREFIX)?, value.as_str())))
    }
}

/// Reads a file; the built-in defaults when there is none.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn read(path: Option<&Path>) -> Result<Text, Fault> {
    let Some(path) = path else { return Ok(Text { path: None, text: String::new() }) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Fault::plain(
            format!("cannot read {}: {error}", path.display()),
            "give the path of a TOML file, or none to run on the defaults",
        )
    })?;
    Ok(Text { path: Some(path.to_owned()), text })
}

/// Parses the text and lays the environment's overrides over it.
///
/// # Errors
/// Unknown fields and wrong types, with their line; overrides by the variable's name.
pub(crate) fn parse(text: &Text, environment: &Environment) -> Result<Raw, Fault> {
    let raw: Raw = toml::from_str(&text.text).map_err(|error| Fault::toml(&error))?;
    let mut overrides: Vec<_> = environment.overrides().collect();
    if overrides.is_empty() {
        return Ok(raw);
    }
    overrides.sort_unstable();
    let mut document: toml_edit::DocumentMut = text
        .text
        .parse()
        .map_err(|error: toml_edit::TomlError| Fault::plain(error.to_string(), ""))?;
    let mut merged = raw;
    for (name, value) in overrides {
        set(&mut document, name, value).map_err(|what| by_variable(name, &what))?;
        merged = toml::from_str(&document.to_string())
            .map_err(|error| by_variable(name, error.message()))?;
    }
    Ok(merged)
}

fn by_variable(name: &str, what: &str) -> Fault {
    Fault::plain(
        format!("environment variable {OVERRIDE_PREFIX}{name}: {what}"),
        "its name must be that of a field, as in PACELINE__CACHE__TTL_S=60 for `ttl_s` in [cache]",
    )
}

fn set(document: &mut toml_edit::DocumentMut, name: &str, value: &str) -> Result<(), String> {
    let path: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
    let (last, tables) = path.split_last().ok_or("it names no field")?;
    let mut table = document.as_table_mut();
    for key in tables {
        let item = table.entry(key).or_insert_with(toml_edit::table);
        table = item
            .as_table_mut()
            .ok_or_else(|| format!("`{key}` is no table that a variable can change"))?;
    }
    // What is no TOML value is a text, so that URLs and names need no quotes.
    let value = value.parse::<toml_edit::Value>().unwrap_or_else(|_| value.into());
    table.insert(last, toml_edit::Item::Value(value));
    Ok(())
}

#[cfg(test)]
mod tests;
