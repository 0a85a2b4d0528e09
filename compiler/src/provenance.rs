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

/// The origin of every value and every record of a configuration, by the names that its pods have on
/// a host.
pub(crate) fn of(evaluated: &Evaluated, stack: Option<&Name>) -> Provenance {
    let lines = Lines::of(evaluated);
    let leaves = evaluated.places.iter().filter(|(_, written)| written.leaf);
    let values = leaves.filter_map(|(path, written)| {
        let name = field(&host_path(path, stack));
        Some((name, value(&lines, path, written)?))
    });
    let mut known = Provenance {
        files: evaluated
            .sources
            .iter()
            .map(|source| source.name.clone())
            .collect(),
        fields: values.collect(),
        ..Provenance::default()
    };
    let others = evaluated.places.iter().filter(|(_, written)| !written.leaf);
    // What is below an array is the array's; `pods` and `networks` are of every file.
    let is_leaf = |path: &[String]| evaluated.places.get(path).is_some_and(|at| at.leaf);
    let records = others.filter(|(path, _)| {
        path.len() > 1 && !(1..path.len()).any(|length| is_leaf(&path[..length]))
    });
    let mut records: Vec<(&Vec<String>, &Written)> = records.collect();
    // From below: one that is on the line of what it holds, as most are in what is written short, is
    // known from that.
    records.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    for (path, written) in records {
        let name = field(&host_path(path, stack));
        if let Some(origin) = record(&lines, path, written)
            && known.below(&name).as_ref() != Some(&origin)
        {
            known.fields.insert(name, origin);
        }
    }
    known
}

/// The lines of sources.
struct Lines<'a> {
    evaluated: &'a Evaluated,
    starts: Vec<Vec<usize>>,
}

impl<'a> Lines<'a> {
    fn of(evaluated: &'a Evaluated) -> Self {
        let starts = evaluated.sources.iter();
        let starts = starts.map(|source| line_starts(&source.text)).collect();
        Self { evaluated, starts }
    }

    fn line(&self, place: &Place) -> Option<Line> {
        let starts = self.starts.get(place.source)?;
        let line = starts.partition_point(|start| *start <= place.range.start);
        Some(Line {
            file: u32::try_from(place.source).ok()?,
            line: u32::try_from(line).ok()?,
        })
    }
}

/// Where a value comes from, and what it won over.
fn value(lines: &Lines<'_>, path: &[String], written: &Written) -> Option<Origin> {
    let definitions = lines.evaluated.definitions.values.get(path);
    let definitions = definitions.map(Vec::as_slice).unwrap_or_default();
    let others = definitions.iter().filter(|definition| {
        definition.place != written.place && Some(&definition.place) != written.via.as_ref()
    });
    let overrode = others.filter_map(|definition| {
        Some(Overridden {
            line: lines.line(&definition.place)?,
            text: text_of(lines.evaluated, &definition.place)?,
            priority: definition.priority.clone(),
        })
    });
    Some(Origin {
        line: lines.line(&written.place)?,
        via: written.via.as_ref().and_then(|via| lines.line(via)),
        overrode: overrode.collect(),
        also: Vec::new(),
    })
}

/// Where a record is written: everywhere that it is named or, where a function makes it, where that
/// is and where it is asked for.
fn record(lines: &Lines<'_>, path: &[String], written: &Written) -> Option<Origin> {
    let named = lines.evaluated.definitions.names.get(path);
    let mut named: Vec<Line> = named
        .into_iter()
        .flatten()
        .filter_map(|place| lines.line(place))
        .collect();
    // Whatever the order in which files were read.
    let file = |line: &Line| {
        lines
            .evaluated
            .sources
            .get(line.file as usize)
            .map(|file| &file.name)
    };
    named.sort_by_key(|line| (file(line), line.line));
    named.dedup();
    let by_name = lines.evaluated.names.get(path);
    let own = by_name.and_then(|place| lines.line(place));
    let made = lines.line(&written.place);
    let first = named.first().copied().or(own).or(made)?;
    let also = named.into_iter().skip(1).filter(|line| *line != first);
    let mut also: Vec<Line> = also.collect();
    also.dedup();
    let via = written.via.as_ref().and_then(|via| lines.line(via));
    Some(Origin {
        line: first,
        via: via.filter(|via| *via != first && !also.contains(via)),
        overrode: Vec::new(),
        also,
    })
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
