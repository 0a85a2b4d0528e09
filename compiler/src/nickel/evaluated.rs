//! What an evaluation comes back with.

use super::{definitions::Definitions, errors::covers};
use crate::diagnostics::{Label, Place, Problem, SourceText};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// What a configuration says, as far as it can be evaluated.
#[derive(Default)]
pub struct Evaluated {
    pub value: Value,
    pub problems: Vec<Problem>,
    /// Fields that have a problem: what else is found of them is a consequence.
    pub poisoned: BTreeSet<Vec<String>>,
    pub sources: Vec<SourceText>,
    pub places: BTreeMap<Vec<String>, Written>,
    /// Where the name of each field was written.
    pub names: BTreeMap<Vec<String>, Place>,
    /// Every file that was read, with what it held.
    pub reads: Vec<(PathBuf, String)>,
    /// Every place that defines a field.
    pub definitions: Definitions,
}

/// Where a field was written.
#[derive(Debug, Clone)]
pub struct Written {
    pub place: Place,
    /// Where it was asked for, if it was made elsewhere: the call of a function, the use of a name.
    pub via: Option<Place>,
    /// Whether it is a value of its own, and neither a record nor a part of an array.
    pub leaf: bool,
}

impl Evaluated {
    /// Where a field was written, or the nearest field around it that is in one of the user's
    /// files.
    pub fn written(&self, path: &[String]) -> Option<&Written> {
        (0..=path.len())
            .rev()
            .find_map(|length| self.places.get(&path[..length]))
    }

    /// What to point at of a field: as [`Evaluated::written`] has it, but the name of one that is an empty
    /// record, of which `{}` says nothing.
    pub fn pointed(&self, path: &[String]) -> Option<&Place> {
        let (length, written) = (0..=path.len())
            .rev()
            .find_map(|length| Some((length, self.places.get(&path[..length])?)))?;
        let place = &written.place;
        let name = self.names.get(&path[..length]);
        let name = name.filter(|name| name.source == place.source);
        Some(
            name.filter(|_| self.is_empty_record(place))
                .unwrap_or(place),
        )
    }

    fn is_empty_record(&self, place: &Place) -> bool {
        let source = self.sources.get(place.source);
        let text = source.and_then(|source| source.text.get(place.range.clone()));
        let inside = text.and_then(|text| text.strip_prefix('{')?.strip_suffix('}'));
        inside.is_some_and(|inside| inside.trim().is_empty())
    }

    /// The name of the file a field was written in.
    pub fn file(&self, path: &[String]) -> Option<&str> {
        self.sources
            .get(self.written(path)?.place.source)
            .map(|source| source.name.as_str())
    }

    /// A problem with a field, at the place it was written and with the call that made it.
    pub fn problem(
        &self,
        code: &str,
        path: &[String],
        message: String,
        help: Option<String>,
    ) -> Problem {
        let mut labels = Vec::new();
        if let Some(place) = self.pointed(path) {
            labels.push(Label {
                place: place.clone(),
                text: "here".to_owned(),
            });
        }
        // The nearest field around it that was made elsewhere than it is asked for.
        let via = (0..=path.len())
            .rev()
            .find_map(|length| self.places.get(&path[..length])?.via.clone());
        if let (Some(via), Some(first)) = (via, labels.first())
            && !covers(&via, &first.place)
        {
            labels.push(Label {
                place: via,
                text: "asked for here".to_owned(),
            });
        }
        Problem {
            code: code.to_owned(),
            path: path.to_vec(),
            message,
            help,
            labels,
        }
    }

    /// Whether something at or around a field, or below it, has a problem already.
    pub fn is_poisoned(&self, path: &[String]) -> bool {
        self.poisoned
            .iter()
            .any(|poisoned| path.starts_with(poisoned) || poisoned.starts_with(path))
    }
}
