//! Which line set a field, and what it overrode.

use crate::{
    diagnostics::Place,
    nickel::{Evaluated, Written},
    stack::host_path,
};
use tank_model::{
    Name,
    provenance::{Line, Origin, Overridden, Provenance, field},
};

/// The most characters that are kept of a definition's text.
const MAX_TEXT: usize = 60;

/// The origin of every value of a configuration, by the names that its pods have on a host.
pub(crate) fn of(evaluated: &Evaluated, stack: Option<&Name>) -> Provenance {
    let starts: Vec<Vec<usize>> = evaluated
        .sources
        .iter()
        .map(|source| line_starts(&source.text))
        .collect();
    let line = |place: &Place| -> Option<Line> {
        let line = starts
            .get(place.source)?
            .partition_point(|start| *start <= place.range.start);
        Some(Line {
            file: u32::try_from(place.source).ok()?,
            line: u32::try_from(line).ok()?,
        })
    };
    let origin = |(path, written): (&Vec<String>, &Written)| {
        let definitions = evaluated
            .definitions
            .get(path)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let others = definitions.iter().filter(|definition| {
            definition.place != written.place && Some(&definition.place) != written.via.as_ref()
        });
        let overrode = others.filter_map(|definition| {
            let text = text_of(evaluated, &definition.place)?;
            Some(Overridden {
                line: line(&definition.place)?,
                text,
                priority: definition.priority.clone(),
            })
        });
        let via = written.via.as_ref().and_then(line);
        Some((
            field(&host_path(path, stack)),
            Origin {
                line: line(&written.place)?,
                via,
                overrode: overrode.collect(),
            },
        ))
    };
    let fields = evaluated
        .places
        .iter()
        .filter(|(_, written)| written.leaf)
        .filter_map(origin);
    Provenance {
        files: evaluated
            .sources
            .iter()
            .map(|source| source.name.clone())
            .collect(),
        fields: fields.collect(),
        ..Provenance::default()
    }
}

/// The text of a definition on one line, shortened.
fn text_of(evaluated: &Evaluated, place: &Place) -> Option<String> {
    let source = evaluated.sources.get(place.source)?;
    let words = source.text.get(place.range.clone())?.split_whitespace();
    let text = words.collect::<Vec<_>>().join(" ");
    Some(text.chars().take(MAX_TEXT).collect())
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect()
}
