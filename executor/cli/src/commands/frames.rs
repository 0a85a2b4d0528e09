//! What is found wrong where the whole host is known, shown at the lines of the files at hand.
//!
//! Of those the provenance knows files and lines: the texts are read again, and of a file that is not
//! there, or has no such line any more, no line is shown.

use crate::error::Error;
use std::collections::BTreeMap;
use tank_compiler::{
    CompileError, Problem, Problems,
    diagnostics::{Label, Place, SourceText},
};
use tank_model::provenance::{Line, Provenance};
use tank_proto::varlink;

/// A problem, and another field that has to do with it.
pub struct Found {
    pub problem: varlink::Problem,
    pub related: Option<(Vec<String>, &'static str)>,
}

/// The daemon's refusal of a configuration as the compiler's, where any of its problems is at a line
/// of the files that `provenance` (JSON) is of.
pub fn drawn(error: Error, provenance: &str) -> Error {
    let Error::Refused(varlink::Error::Invalid {
        details: Some(details),
        ..
    }) = &error
    else {
        return error;
    };
    let Ok(lines) = serde_json::from_str::<Provenance>(provenance) else {
        return error;
    };
    let found = details.iter().map(|problem| Found {
        problem: problem.clone(),
        related: None,
    });
    let problems = at_lines(found.collect(), &lines);
    match problems
        .list
        .iter()
        .any(|problem| !problem.labels.is_empty())
    {
        true => Error::Compile(CompileError::Problems(problems)),
        false => error,
    }
}

/// Problems with the lines of their fields.
pub fn at_lines(found: Vec<Found>, lines: &Provenance) -> Problems {
    let mut texts = Texts {
        lines,
        sources: Vec::new(),
        known: BTreeMap::new(),
    };
    let problem = |found: Found| {
        let Found { problem, related } = found;
        let varlink::Problem {
            code,
            field,
            place,
            message,
            help,
            related: elsewhere,
        } = problem;
        let first = texts.label(&field, "here");
        let related = related.and_then(|(field, role)| texts.label(&field, role));
        let message = match (&first, place) {
            (None, Some(place)) => format!("{message} (at {place})"),
            _ => message,
        };
        let help = Some(help).filter(|help| !help.is_empty());
        let help: Vec<String> = help.into_iter().chain(elsewhere).collect();
        Problem {
            code,
            path: field,
            message,
            help: Some(help.join("\n")).filter(|help| !help.is_empty()),
            labels: first.into_iter().chain(related).collect(),
        }
    };
    let list = found.into_iter().map(problem).collect();
    Problems {
        list,
        sources: texts.sources,
    }
}

/// The texts that lines are of, each read once.
struct Texts<'a> {
    lines: &'a Provenance,
    sources: Vec<SourceText>,
    /// Where the text of a file is among the sources. None: it can't be read.
    known: BTreeMap<u32, Option<usize>>,
}

impl Texts<'_> {
    fn label(&mut self, field: &[String], role: &str) -> Option<Label> {
        let Line { file, line } = self.lines.line(field)?;
        let source = self.source(file)?;
        let text = &self.sources.get(source)?.text;
        let mut lines = text.split_inclusive('\n');
        let before = (1..line).try_fold(0, |length, _| Some(length + lines.next()?.len()))?;
        let line = lines.next()?;
        let written = line.trim_start();
        let begin = before + line.len() - written.len();
        let range = begin..begin + written.trim_end().len();
        Some(Label {
            place: Place { source, range },
            text: role.to_owned(),
        })
    }

    fn source(&mut self, file: u32) -> Option<usize> {
        if let Some(known) = self.known.get(&file) {
            return *known;
        }
        let name = self.lines.files.get(file as usize);
        let read = name.and_then(|name| {
            let text = std::fs::read_to_string(name).ok()?;
            let name = name.clone();
            Some(SourceText { name, text })
        });
        let source = read.map(|read| {
            self.sources.push(read);
            self.sources.len() - 1
        });
        self.known.insert(file, source);
        source
    }
}
