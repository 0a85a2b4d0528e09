//! Which line set a field, and what it overrode.

use crate::nickel::Evaluated;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use tank_model::Config;

/// The most characters that are kept of a definition's text.
const MAX_TEXT: usize = 60;

/// The origin of every value of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Names of the files, as they are shown.
    pub files: Vec<String>,
    /// By field, as [`field`] writes it.
    pub fields: BTreeMap<String, Origin>,
}

/// Where one value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    #[serde(flatten)]
    pub line: Line,
    /// Where it was asked for, when a function made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Line>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrode: Vec<Overridden>,
}

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which of the files.
    pub file: u32,
    /// From 1.
    pub line: u32,
}

/// A definition that another one won over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overridden {
    #[serde(flatten)]
    pub line: Line,
    /// Its text, shortened.
    pub text: String,
    /// `default`, `force` or `priority N`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub priority: String,
}

/// A path as Nickel writes it: parts joined by dots, quoted where they have to be.
pub fn field(path: &[String]) -> String {
    let plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'\''))
            && !part.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    };
    let write = |part: &String| if plain(part) { part.clone() } else { format!("{part:?}") };
    path.iter().map(write).collect::<Vec<_>>().join(".")
}

impl Provenance {
    pub(crate) fn of(evaluated: &Evaluated, config: &Config) -> Self {
        let starts: Vec<Vec<usize>> = evaluated.sources.iter().map(|source| line_starts(&source.text)).collect();
        let line = |place: &crate::diagnostics::Place| -> Option<Line> {
            let starts = starts.get(place.source)?;
            let line = starts.partition_point(|start| *start <= place.range.start);
            Some(Line { file: u32::try_from(place.source).ok()?, line: u32::try_from(line).ok()? })
        };
        let mut fields = BTreeMap::new();
        let value = serde_json::to_value(config).unwrap_or_default();
        leaves(&value, &mut Vec::new(), &mut |path| {
            let Some(written) = evaluated.places.get(path) else { return };
            let Some(at) = line(&written.place) else { return };
            let definitions = evaluated.definitions.get(path).map(Vec::as_slice).unwrap_or_default();
            let others = definitions.iter().filter(|definition| {
                definition.place != written.place && Some(&definition.place) != written.via.as_ref()
            });
            let overrode = others.filter_map(|definition| {
                let text = evaluated.sources.get(definition.place.source)?.text.get(definition.place.range.clone())?;
                let text: String =
                    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_TEXT).collect();
                Some(Overridden { line: line(&definition.place)?, text, priority: definition.priority.clone() })
            });
            let origin = Origin { line: at, via: written.via.as_ref().and_then(line), overrode: overrode.collect() };
            fields.insert(field(path), origin);
        });
        Self { files: evaluated.sources.iter().map(|source| source.name.clone()).collect(), fields }
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Calls `each` with the path of every value that is no record.
fn leaves(value: &Value, path: &mut Vec<String>, each: &mut impl FnMut(&Vec<String>)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                path.push(name.clone());
                leaves(field, path, each);
                path.pop();
            }
        }
        _ => each(path),
    }
}
