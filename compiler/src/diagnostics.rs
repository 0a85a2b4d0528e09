//! What is wrong with a configuration, and where.

use crate::nickel::{Evaluated, Place};
use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};
use std::{fmt, path::PathBuf};
use tank_model::check;

/// Why a configuration does not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("can't read {0}: {1}")]
    Read(PathBuf, String),
    /// Nickel's own report, which points at the user's line itself.
    #[error("{0}")]
    Nickel(String),
    /// Everything Tank's own checks found.
    #[error("{} in the configuration", match .0.len() { 1 => "1 problem".to_owned(), n => format!("{n} problems") })]
    Problems(Vec<Problem>),
    #[error("Tank itself failed: {0}")]
    Internal(String),
}

/// One mistake at one place.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: String,
    /// The field's path.
    pub path: Vec<String>,
    pub message: String,
    pub help: Option<String>,
    place: Option<Place>,
    related: Option<(Place, String)>,
    source: Option<NamedSource<String>>,
}

impl Problem {
    pub(crate) fn new(
        code: &str,
        path: Vec<String>,
        message: String,
        help: Option<String>,
        evaluated: &Evaluated,
    ) -> Self {
        let place = evaluated.place(&path);
        let source = place.as_ref().map(|place| evaluated.source(place));
        Self { code: code.to_owned(), path, message, help, place, related: None, source }
    }

    pub(crate) fn from_check(problem: check::Problem, evaluated: &Evaluated) -> Self {
        let help = Some(problem.help).filter(|help| !help.is_empty());
        let mut this = Self::new(problem.code, problem.path, problem.message, help, evaluated);
        // One snippet shows one file: a related place elsewhere is left to the help text.
        this.related = problem.related.and_then(|(path, role)| {
            let place = evaluated.place(&path)?;
            this.place.as_ref().is_some_and(|at| at.same_file(&place)).then(|| (place, role.to_owned()))
        });
        this
    }

    /// File, line and column (both from 1) of the place, where there is one.
    pub fn location(&self) -> Option<(String, usize, usize)> {
        let (place, source) = (self.place.as_ref()?, self.source.as_ref()?);
        let before = &source.inner()[..place.range.start.min(source.inner().len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Some((source.name().to_owned(), line, column))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.code))
    }

    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let main = LabeledSpan::new_primary_with_span(Some("here".to_owned()), place.range.clone());
        let related = self
            .related
            .iter()
            .map(|(place, role)| LabeledSpan::new_with_span(Some(role.clone()), place.range.clone()));
        Some(Box::new(std::iter::once(main).chain(related)))
    }
}
