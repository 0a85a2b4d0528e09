//! Compose files, Kubernetes manifests and Quadlet units as Nickel.
//!
//! Each dialect is read into a configuration as plain data, with a [`Note`] for every key that has
//! no counterpart: nothing is dropped in silence. The module `write` prints the data as Nickel, its
//! fields in the order of the contracts.
//!
//! What a dialect takes from its surroundings (`${TAG}` of Compose) becomes a Nickel variable at
//! the top of the file.
//!
//! It reads the files it is given and whether the paths they name exist; it writes nothing and
//! evaluates nothing. The contracts come in as data, a [`Schema`]: this crate knows no evaluator.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod compose;
mod kubernetes;
mod logging;
mod networks;
mod quadlet;
mod refused;
mod shared;
mod write;

use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};
use tank_model::{Name, schema::Schema};

/// The most bytes of one file that is read.
const MAX_FILE: u64 = 4 << 20;

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The Compose specification (compose-spec.io).
    Compose,
    /// Manifests of Kubernetes: pods, what makes pods, ConfigMaps, Services.
    Kubernetes,
    /// Units of Podman (podman-systemd.unit(5)).
    Quadlet,
}

/// A key that could not be mapped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// As the source has it: `services.web.privileged`.
    pub key: String,
    /// What that means, and what to do instead.
    pub why: String,
}

/// What was made of the files.
#[derive(Debug, Default)]
pub struct Imported {
    /// The configuration, with its notes as comments.
    pub nickel: String,
    /// Sorted by key.
    pub notes: Vec<Note>,
    /// How many pods the configuration has.
    pub pods: usize,
}

/// Why files can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file can't be opened or read, or is no UTF-8.
    #[error("can't read {0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file has more than 4 MiB.
    #[error("can't read {0}: it has more than {MAX_FILE} bytes")]
    TooLarge(PathBuf),
    /// The first line of the parser's message says why.
    #[error("{0} is no YAML: {1}")]
    Yaml(PathBuf, String),
    /// It is YAML, or a unit, and not one of its dialect, or keys of it say what can't be read.
    #[error("{0}: {1}")]
    Shape(PathBuf, String),
    /// The dialect was not given, and neither name nor content of the file tells it.
    #[error("can't tell what {0} is")]
    Dialect(PathBuf),
}

/// A configuration as it grows.
#[derive(Debug, Default)]
struct Draft {
    /// What is at `pods`, in the shape of the contracts.
    pods: BTreeMap<String, Value>,
    /// What is at `networks`.
    networks: BTreeMap<String, Value>,
    /// Volumes that several pods have.
    shared: shared::Shared,
    /// Which addresses of which networks pods have.
    taken: BTreeSet<(String, IpAddr)>,
    /// The stack, where the source names one.
    stack: Option<String>,
    /// Variables and their values, where they have one.
    variables: BTreeMap<String, Option<String>>,
    notes: Vec<Note>,
    /// What can't be read, and can't be left out either.
    refused: Vec<Note>,
    /// For the first lines of the file.
    remarks: Vec<String>,
}

impl Draft {
    fn note(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.notes.push(Note {
            key: key.into(),
            why: why.into(),
        });
    }

    /// Nothing is imported: whatever stood in for this would be something else.
    fn refuse(&mut self, key: impl Into<String>, why: impl Into<String>) {
        let (key, why) = (key.into(), why.into());
        self.refused.push(Note { key, why });
    }
}

/// Reads files of one dialect, guessed from their names and contents unless it is given. `schema`
/// gives the order of the fields in what is written, `stack` a stack in place of the source's own.
///
/// # Errors
/// When one can't be read or makes no sense at all.
pub fn import(
    files: &[PathBuf],
    dialect: Option<Dialect>,
    schema: &Schema,
    stack: Option<&Name>,
) -> Result<Imported, ImportError> {
    let mut draft = Draft::default();
    let mut texts = Vec::new();
    for file in files {
        texts.push((file.as_path(), read(file)?));
    }
    let Some((first, text)) = texts.first() else {
        return Ok(Imported::default());
    };
    let dialect = match dialect {
        Some(dialect) => dialect,
        None => guess(first, text).ok_or_else(|| ImportError::Dialect(first.to_path_buf()))?,
    };
    match dialect {
        Dialect::Compose => compose::read(&texts, &mut draft)?,
        Dialect::Kubernetes => kubernetes::read(&texts, &mut draft)?,
        Dialect::Quadlet => quadlet::read(&texts, &mut draft)?,
    }
    if !draft.refused.is_empty() {
        draft.refused.sort();
        draft.refused.dedup();
        let all = draft.refused.iter();
        let all = all.map(|note| format!("{}: {}", note.key, note.why));
        let all = all.collect::<Vec<_>>().join("; ");
        return Err(ImportError::Shape(first.to_path_buf(), all));
    }
    if let Some(stack) = stack {
        draft.stack = Some(stack.to_string());
        draft.notes.retain(|note| note.key != "name");
    }
    refused::take_out(&mut draft);
    draft.notes.sort();
    draft.notes.dedup();
    let names: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let nickel = write::nickel(&draft, &names, schema);
    Ok(Imported {
        nickel,
        pods: draft.pods.len(),
        notes: draft.notes,
    })
}

fn read(file: &Path) -> Result<String, ImportError> {
    use std::io::Read;
    let failed = |error| ImportError::Read(file.to_owned(), error);
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        Err(ImportError::TooLarge(file.to_owned()))
    } else {
        Ok(text)
    }
}

fn guess(file: &Path, text: &str) -> Option<Dialect> {
    let extension = file
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    if matches!(
        extension,
        "container" | "pod" | "volume" | "network" | "kube" | "image" | "build"
    ) {
        return Some(Dialect::Quadlet);
    }
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    if has("apiVersion:") && has("kind:") {
        return Some(Dialect::Kubernetes);
    }
    if has("[Container]") {
        return Some(Dialect::Quadlet);
    }
    has("services:").then_some(Dialect::Compose)
}

/// Which words YAML has for booleans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Booleans {
    /// `true` and `false`: others are texts (YAML 1.2), such as `yes` in an environment.
    Strict,
    /// `yes`, `on` and their like as well (YAML 1.1).
    Words,
}

/// The documents of a YAML text, with merge keys applied.
fn documents(file: &Path, text: &str, booleans: Booleans) -> Result<Vec<Value>, ImportError> {
    let strict = booleans == Booleans::Strict;
    // Compose and Kubernetes read `0750` as YAML 1.1 has it: octal.
    let options = serde_saphyr::options! { strict_booleans: strict, legacy_octal_numbers: true };
    let parsed: Result<Vec<Value>, _> = serde_saphyr::from_multiple_with_options(text, options);
    let documents = parsed.map_err(|e| {
        let why = e.to_string();
        ImportError::Yaml(
            file.to_owned(),
            why.lines().next().unwrap_or_default().to_owned(),
        )
    })?;
    Ok(documents.into_iter().map(merged).collect())
}

/// YAML's merge key, `<<`: the fields of another record, under those that are given.
fn merged(value: Value) -> Value {
    match value {
        Value::Object(mut fields) => {
            let below = fields.remove("<<");
            let mut out: Map<String, Value> = fields
                .into_iter()
                .map(|(name, value)| (name, merged(value)))
                .collect();
            let parents = match below {
                Some(Value::Array(parents)) => parents,
                Some(parent) => vec![parent],
                None => Vec::new(),
            };
            for parent in parents {
                if let Value::Object(parent) = merged(parent) {
                    for (name, value) in parent {
                        out.entry(name).or_insert(value);
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(merged).collect()),
        scalar => scalar,
    }
}

/// A scalar as a text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

/// The nearest name that Tank takes.
fn name_of(text: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = text.chars().map(legal).take(63).collect();
    let name = name.trim_matches('-').to_owned();
    if Name::new(&name).is_ok() {
        name
    } else {
        "unnamed".to_owned()
    }
}

/// A name that is not taken in `fields` yet.
fn fresh(fields: &Map<String, Value>, wanted: &str) -> String {
    if !fields.contains_key(wanted) {
        return wanted.to_owned();
    }
    (2..)
        .map(|n| format!("{wanted}-{n}"))
        .find(|name| !fields.contains_key(name))
        .unwrap_or_else(|| wanted.to_owned())
}

/// The record at `key`, made if there is none.
fn record<'a>(fields: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = fields.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made a record"),
    }
}

/// Puts a volume into a pod and a mount of it into a container, which is given back; the volume keeps
/// its name if it can.
fn mount<'p>(
    pod: &'p mut Map<String, Value>,
    container: &str,
    name: &str,
    volume: Value,
    path: &str,
    read_only: bool,
) -> &'p mut Value {
    let volumes = record(pod, "volumes");
    let name = name_of(name);
    let name = if volumes.get(&name).is_none_or(|known| *known == volume) {
        name
    } else {
        fresh(volumes, &name)
    };
    volumes.insert(name.clone(), volume);
    let container = record(record(pod, "containers"), container);
    let mounts = record(container, "mounts");
    let mut entry = json!({ "volume": name, "path": normal(path) });
    if read_only {
        entry["read_only"] = true.into();
    }
    let key = fresh(mounts, &name);
    mounts.entry(key).or_insert(entry)
}

/// The path of a directory inside of a volume as Tank has it; none if it leads out.
fn sub_path(path: &str) -> Option<String> {
    let path = normal(path).trim_start_matches('/').to_owned();
    tank_model::spec::is_sub_path(&path).then_some(path)
}

/// A path without a trailing `/`, doubled ones and `.` parts.
fn normal(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    format!("/{}", parts.join("/"))
}

/// Go's `1m30s`, or a number of seconds, as one of Tank's times.
fn time_of(text: &str) -> Option<String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(format!("{seconds}s"));
    }
    let mut rest = text;
    let mut millis = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        millis += number
            * match &rest[..unit] {
                "us" | "µs" => 0.001,
                "ms" => 1.0,
                "s" | "sec" => 1_000.0,
                "m" | "min" => 60_000.0,
                "h" => 3_600_000.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Some(tank_model::units::Millis(millis.round() as u64).to_string())
}

/// Docker's `512m`, or a number of bytes, as one of Tank's sizes.
fn size_of(text: &str) -> Option<Value> {
    if let Ok(bytes) = text.parse::<u64>() {
        return Some(tank_model::units::Bytes(bytes).to_string().into());
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "b" => "B",
        "k" | "kb" | "ki" | "kib" => "KiB",
        "m" | "mb" | "mi" | "mib" => "MiB",
        "g" | "gb" | "gi" | "gib" => "GiB",
        "t" | "tb" | "ti" | "tib" => "TiB",
        _ => return None,
    };
    Some(format!("{number}{unit}").into())
}

/// `NET_ADMIN` as `CAP_NET_ADMIN`.
fn capability_of(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    }
}

/// `TERM`, `15` or `SIGTERM` as `SIGTERM`.
fn signal_of(text: &str) -> String {
    if let Some(name) = text
        .parse::<usize>()
        .ok()
        .and_then(|n| tank_model::spec::SIGNALS.get(n.wrapping_sub(1)))
    {
        return (*name).to_owned();
    }
    let upper = text.to_ascii_uppercase();
    if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    }
}

/// Words as a shell splits them.
fn words(text: &str) -> Vec<String> {
    shell_words::split(text)
        .unwrap_or_else(|_| text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_others() {
        assert_eq!(time_of("1m30s").as_deref(), Some("90s"));
        assert_eq!(time_of("10").as_deref(), Some("10s"));
        assert_eq!(time_of("1.5s").as_deref(), Some("1500ms"));
        assert_eq!(time_of("soon"), None);
        assert_eq!(size_of("512m"), Some("512MiB".into()));
        assert_eq!(size_of("1048576"), Some("1MiB".into()));
        assert_eq!(signal_of("15"), "SIGTERM");
        assert_eq!(signal_of("quit"), "SIGQUIT");
        assert_eq!(name_of("My_App.1"), "my-app-1");
    }
}
