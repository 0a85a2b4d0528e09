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
use tank_model::{
    check::HOST_IMAGE,
    provenance::{Line, Provenance},
};
use tank_proto::varlink;

/// A problem, and other fields that have to do with it.
pub struct Found {
    pub problem: varlink::Problem,
    pub related: Vec<(Vec<String>, &'static str)>,
}

/// The most containers that are shown of those that use an image that can't be had.
const MAX_USERS: usize = 4;

/// The daemon's refusal of a configuration as the compiler's, where any of its problems is at a line
/// of the files that `provenance` (JSON) is of.
pub fn drawn(error: Error, provenance: &str) -> Error {
    let Error::Refused(refused) = &error else {
        return error;
    };
    let Ok(lines) = serde_json::from_str::<Provenance>(provenance) else {
        return error;
    };
    let found = match refused {
        varlink::Error::Invalid {
            details: Some(details),
            ..
        } => {
            let alone = |problem: &varlink::Problem| Found {
                problem: problem.clone(),
                related: Vec::new(),
            };
            details.iter().map(alone).collect()
        }
        varlink::Error::ImageUnavailable {
            containers: Some(users),
            help,
            ..
        } => match image_of(refused, users, help.as_deref(), &lines) {
            Some(found) => vec![found],
            None => return error,
        },
        _ => return error,
    };
    let problems = at_lines(found, &lines);
    match problems
        .list
        .iter()
        .any(|problem| !problem.labels.is_empty())
    {
        true => Error::Compile(CompileError::Problems(problems)),
        false => error,
    }
}

/// An image that can't be had, at the fields of those who use it: each a pod and a container.
fn image_of(
    refused: &varlink::Error,
    users: &[String],
    help: Option<&str>,
    lines: &Provenance,
) -> Option<Found> {
    let field = |user: &String| {
        let (pod, container) = user.split_once('/')?;
        let field = |kind: &str| {
            ["pods", pod, kind, container, "image"]
                .map(str::to_owned)
                .to_vec()
        };
        let [container, init] = ["containers", "init"].map(field);
        Some(match lines.origin(&init) {
            Some(_) => init,
            None => container,
        })
    };
    let mut fields = users.iter().filter_map(field).take(MAX_USERS);
    let problem = varlink::Problem {
        code: HOST_IMAGE.to_owned(),
        field: fields.next()?,
        place: None,
        message: refused.to_string(),
        help: help.unwrap_or_default().to_owned(),
        related: None,
    };
    let related = fields.map(|field| (field, "and here")).collect();
    Some(Found { problem, related })
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
        let related = related.iter();
        let related = related.filter_map(|(field, role)| texts.label(field, role));
        let related: Vec<Label> = related.collect();
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
