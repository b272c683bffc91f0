//! `RINGFENCE__SECTION__KEY=value` overrides one value of the file.
//!
//! Parts are separated by two underscores, upper or lower case. In lists of
//! tables the part after the list names the entry by its `id` or `name`, `_`
//! standing for `-`: `RINGFENCE__SITE__CLOUD__ENDPOINT=https://…`. A value is
//! read as TOML if it is TOML, else as plain text.

use std::ops::Range;
use std::path::Path;

use toml::{Table, Value};

use super::check::{Step, Wrong};
use super::{Config, ConfigError};

const PREFIX: &str = "RINGFENCE__";

/// A configuration and which of its values the environment set.
pub(super) struct Overridden {
    pub(super) config: Config,
    set: Vec<(String, Vec<String>)>,
}

/// Applies one variable after the other, so that the one to blame is known.
pub(super) fn apply(
    file: &Path,
    text: &str,
    typed: Config,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Overridden, ConfigError> {
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    let mut done = Overridden { config: typed, set: vec![] };
    if variables.is_empty() {
        return Ok(done);
    }
    let mut table: Table = toml::from_str(text).map_err(|e| ConfigError::from_toml(file, text, &e))?;
    for (variable, value) in variables {
        let path: Vec<String> = variable[PREFIX.len()..].to_lowercase().split("__").map(str::to_owned).collect();
        insert(&mut table, &path, parse_value(&value)).map_err(|m| ConfigError::in_environment(&variable, &m))?;
        done.config =
            Config::deserialize_table(&table).map_err(|e| ConfigError::in_environment(&variable, e.message()))?;
        done.set.push((variable, path));
    }
    Ok(done)
}

impl Overridden {
    /// The error for what [`super::check`] found, at the place it comes from.
    pub(super) fn blame(&self, file: &Path, text: &str, wrong: Wrong) -> ConfigError {
        let plain = wrong.as_variable(&self.config);
        if let Some((variable, _)) = self.set.iter().find(|(_, path)| same_path(path, &plain)) {
            return ConfigError::in_environment(variable, &wrong.message);
        }
        ConfigError::in_file(file, text, locate(text, &wrong.path), wrong.message, wrong.help)
    }
}

impl Config {
    fn deserialize_table(table: &Table) -> Result<Self, toml::de::Error> {
        serde::Deserialize::deserialize(table.clone())
    }
}

/// An element of a list of tables is one step, by id, in a variable and in a path.
fn same_path(variable: &[String], path: &[String]) -> bool {
    variable.len() >= path.len()
        && variable.iter().zip(path).all(|(a, b)| *a == b.to_lowercase() || *a == b.replace('-', "_"))
}

fn parse_value(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn insert(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    match path {
        [] => Err("names nothing: write RINGFENCE__SECTION__KEY".to_owned()),
        [last] => {
            table.insert(known_spelling(table, last), value);
            Ok(())
        }
        [first, rest @ ..] => {
            let name = known_spelling(table, first);
            match table.entry(name).or_insert_with(|| Value::Table(Table::new())) {
                Value::Table(inner) => insert(inner, rest, value),
                Value::Array(list) => insert(entry_of(list, &rest[0])?, &rest[1..], value),
                _ => Err(format!("`{first}` is a value, not a section")),
            }
        }
    }
}

fn known_spelling(table: &Table, part: &str) -> String {
    table.keys().find(|k| k.replace('-', "_") == part).cloned().unwrap_or_else(|| part.to_owned())
}

fn entry_of<'a>(list: &'a mut [Value], id: &str) -> Result<&'a mut Table, String> {
    let called = |table: &Table| {
        ["id", "name"].iter().any(|k| table.get(*k).and_then(Value::as_str).is_some_and(|v| v.replace('-', "_") == id))
    };
    list.iter_mut()
        .filter_map(Value::as_table_mut)
        .find(|table| called(table))
        .ok_or_else(|| format!("no entry has the id or name `{id}`: add it to the file first"))
}

/// Where in the text a path lies: the last step that exists.
fn locate(text: &str, path: &[Step]) -> Option<Range<usize>> {
    let root = toml::de::DeTable::parse(text).ok()?;
    let mut span = None;
    let mut at = toml::de::DeValue::Table(root.into_inner());
    for step in path {
        let next = match step {
            Step::Key(key) => at.get(key.as_str()),
            Step::Index(index) => at.get(*index),
        };
        let Some(next) = next else { break };
        span = Some(next.span());
        at = next.get_ref().clone();
    }
    span
}
