//! What is wrong with a configuration, and where.

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range, path::PathBuf};

/// Why a configuration does not compile.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
pub enum CompileError {
    /// A file can't be read; the text says why.
    #[error("can't read {0}: {1}")]
    Read(PathBuf, String),
    /// Everything that was found, at once.
    #[error("{}", count(.0.list.len()))]
    Problems(Problems),
    /// Evaluation used more time or memory than it may.
    #[error("{what}")]
    Limit {
        /// Stable, as [`Problem::code`].
        code: String,
        /// Which limit, in words.
        what: String,
        /// What to do.
        help: String,
    },
    /// A defect of Tank: no configuration should lead here.
    #[error("Tank itself failed: {0}")]
    Internal(String),
}

fn count(problems: usize) -> String {
    match problems {
        1 => "1 problem in the configuration".to_owned(),
        n => format!("{n} problems in the configuration"),
    }
}

/// Mistakes and the texts they point into.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Problems {
    /// In the order of the text.
    pub list: Vec<Problem>,
    /// What the places of the problems point into.
    pub sources: Vec<SourceText>,
}

/// A text with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceText {
    /// A path, or the `--set` it came from.
    pub name: String,
    /// Its content when it was evaluated.
    pub text: String,
}

/// A stretch of a source, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which of the sources.
    pub source: usize,
    /// From the first byte to the one after the last.
    pub range: Range<usize>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, with a page of its own: `tank doc --error CODE`.
    pub code: String,
    /// The field's path; empty where no field is at fault.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The first is where the mistake is, the others are what it has to do with.
    pub labels: Vec<Label>,
}

/// A place with what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Where it points.
    pub place: Place,
    /// What is there; may be empty.
    pub text: String,
}

impl Problems {
    /// File, line and column (both from 1) of a place.
    pub fn location(&self, place: &Place) -> Option<(&str, usize, usize)> {
        let source = self.sources.get(place.source)?;
        let (line, column) = source.line_column(place.range.start);
        Some((&source.name, line, column))
    }

    /// Every problem with its snippets, for miette to draw.
    pub fn diagnostics(&self) -> Vec<Drawn> {
        self.list
            .iter()
            .map(|problem| Drawn::new(problem, &self.sources))
            .collect()
    }
}

impl SourceText {
    /// Line and column of a byte, both from 1.
    pub fn line_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        (before.matches('\n').count() + 1, column)
    }
}

impl SourceText {
    /// The length of the line around a byte.
    fn line_around(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        let before = self.text.get(..at).map_or(0, |text| {
            text.len() - text.rfind('\n').map_or(0, |end| end + 1)
        });
        before
            + self
                .text
                .get(at..)
                .map_or(0, |text| text.find('\n').unwrap_or(text.len()))
    }
}

/// A problem as miette draws it: one snippet a file, that of the mistake first.
#[derive(Debug)]
pub struct Drawn {
    problem: Problem,
    source: Option<NamedSource<String>>,
    labels: Vec<LabeledSpan>,
    /// What is in other files.
    elsewhere: Vec<Drawn>,
}

/// A line longer than this is named and not drawn: a configuration can be JSON on one line.
const MAX_LINE: usize = 1_000;

impl Drawn {
    fn new(problem: &Problem, sources: &[SourceText]) -> Self {
        let mut problem = problem.clone();
        let long = |label: &Label| {
            let source = sources.get(label.place.source)?;
            let line = source.line_around(label.place.range.start);
            let (row, column) = source.line_column(label.place.range.start);
            (line > MAX_LINE).then(|| format!("at {}:{row}:{column}", source.name))
        };
        let places: Vec<String> = problem.labels.iter().filter_map(long).collect();
        if !places.is_empty() {
            problem.labels.retain(|label| long(label).is_none());
            problem.message = format!("{} ({})", problem.message, places.join(", "));
        }
        let problem = &problem;
        let first = problem.labels.first().map(|label| label.place.source);
        let (here, there): (Vec<&Label>, Vec<&Label>) = problem
            .labels
            .iter()
            .partition(|label| Some(label.place.source) == first);
        let span = |(index, label): (usize, &&Label)| {
            let text = Some(label.text.clone()).filter(|text| !text.is_empty());
            match index {
                0 => LabeledSpan::new_primary_with_span(text, label.place.range.clone()),
                _ => LabeledSpan::new_with_span(text, label.place.range.clone()),
            }
        };
        let elsewhere = there.into_iter().map(|label| {
            let message = label.text.clone();
            let label = Label {
                text: String::new(),
                ..label.clone()
            };
            let problem = Problem {
                code: String::new(),
                path: Vec::new(),
                message,
                help: None,
                labels: vec![label],
            };
            Self::new(&problem, sources)
        });
        Self {
            source: first
                .and_then(|first| sources.get(first))
                .map(|s| NamedSource::new(&s.name, s.text.clone())),
            labels: here.iter().enumerate().map(span).collect(),
            elsewhere: elsewhere.collect(),
            problem: problem.clone(),
        }
    }
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Drawn {}

impl Diagnostic for Drawn {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(&self.problem.code)
            .filter(|code| !code.is_empty())
            .map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<Severity> {
        Some(if self.problem.code.is_empty() {
            Severity::Advice
        } else {
            Severity::Error
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.elsewhere.is_empty() {
            return None;
        }
        Some(Box::new(
            self.elsewhere.iter().map(|drawn| drawn as &dyn Diagnostic),
        ))
    }
}
