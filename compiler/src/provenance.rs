//! Which line set a field, and what it overrode.

use crate::nickel::Evaluated;
use serde_json::Value;
use std::collections::BTreeMap;
use tank_model::{
    Config,
    provenance::{Line, Origin, Overridden, Provenance, field},
};

/// The most characters that are kept of a definition's text.
const MAX_TEXT: usize = 60;

/// The origin of every value of a configuration.
pub(crate) fn of(evaluated: &Evaluated, config: &Config) -> Provenance {
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
        let others = definitions
            .iter()
            .filter(|definition| definition.place != written.place && Some(&definition.place) != written.via.as_ref());
        let overrode = others.filter_map(|definition| {
            let text = evaluated.sources.get(definition.place.source)?.text.get(definition.place.range.clone())?;
            let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_TEXT).collect();
            Some(Overridden { line: line(&definition.place)?, text, priority: definition.priority.clone() })
        });
        let origin = Origin { line: at, via: written.via.as_ref().and_then(line), overrode: overrode.collect() };
        fields.insert(field(path), origin);
    });
    Provenance { files: evaluated.sources.iter().map(|source| source.name.clone()).collect(), fields }
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
