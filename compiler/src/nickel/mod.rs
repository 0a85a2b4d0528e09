//! Evaluation. The only module that knows `nickel-lang-core`, whose interface moves: it is pinned
//! exactly.
//!
//! The user's files are merged in order, overrides on top; `tank` is in scope in every file. Nickel
//! stops at its first error, a person wants all of them: so the merged value is evaluated field by
//! field along the contracts ([`walk`]), each field failing for itself, and a file that does not
//! parse is repaired by leaving its broken fields out ([`repair`]). What comes back is what could
//! be evaluated, where each of its fields was written, and the problems.
//!
//! * [`annotations`]: types where values were meant.
//! * [`contracts`]: the schema, read from the stdlib's syntax.
//! * [`data`]: JSON, YAML and TOML files as values that merge.
//! * [`definitions`]: every place that defines a field, for `tank why`.
//! * [`errors`]: Nickel's errors as problems.

mod annotations;
mod contracts;
mod data;
mod definitions;
mod errors;
mod evaluated;
mod repair;
mod walk;

pub use contracts::schema;
pub use evaluated::{Evaluated, Written};

use crate::{
    CompileError, Inputs, STDLIB,
    diagnostics::{Place, Problem, SourceText},
};
use nickel_lang_core::{
    cache::{CacheHub, ImportResolver, InputFormat, SourcePath, normalize_path},
    error::{Error, ImportErrorKind, NullReporter, TypecheckErrorKind},
    eval::{VmContext, cache::CacheImpl, value::NickelValue},
    files::{FileId, Files},
    identifier::Ident,
    label::Label,
    position::{RawSpan, TermPos},
    program::FieldOverride,
    term::{BinaryOp, MergePriority, Term, make as mk_term, make::builder},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};
use tank_model::schema::Shape;

/// How often broken texts are repaired before that is given up.
const MAX_REPAIRS: usize = 20;

/// The most bytes of one source.
const MAX_SOURCE: u64 = 64 << 20;

/// Evaluates, collecting everything that is wrong. `leak` leaves the evaluator's memory to the end
/// of the process.
///
/// # Errors
/// When a file can't be read at all.
pub fn evaluate(
    inputs: &Inputs,
    stdlib_dir: Option<&Path>,
    leak: bool,
) -> Result<Evaluated, CompileError> {
    for file in &inputs.files {
        let read =
            std::fs::metadata(file).map_err(|e| CompileError::Read(file.clone(), e.to_string()))?;
        if !read.is_file() {
            return Err(CompileError::Read(
                file.clone(),
                "it is no regular file".to_owned(),
            ));
        }
        if read.len() > MAX_SOURCE {
            return Err(CompileError::Read(
                file.clone(),
                format!("it has more than {MAX_SOURCE} bytes"),
            ));
        }
    }
    let mut repaired = Repaired::default();
    let mut problems = Vec::new();
    for _ in 0..MAX_REPAIRS {
        let mut session = Session::new(stdlib_dir, std::mem::take(&mut repaired), leak);
        match session.prepare(inputs) {
            Ok(body) => return Ok(session.walk(body, problems)),
            Err(failure) => {
                let again = session.note(failure, &mut problems);
                if !again {
                    return Ok(session.give_up(problems));
                }
                repaired = session.repaired;
                // Places are of this session's sources, and so are the next one's: it adds them in
                // the same order.
                repaired.sources = session.sources.list;
            }
        }
    }
    Err(CompileError::Internal(
        "a file could not be repaired enough to look at the rest of it".to_owned(),
    ))
}

/// What was changed in texts to get past their mistakes.
#[derive(Default)]
struct Repaired {
    /// The changed text and its original, by path. As long as each other, so places are the same in
    /// both.
    texts: BTreeMap<PathBuf, (String, String)>,
    /// Where something was left out: the file and its stretch.
    holes: Vec<(PathBuf, std::ops::Range<usize>)>,
    /// Files that do not typecheck and are evaluated all the same.
    untyped: bool,
    sources: Vec<SourceText>,
}

/// Why preparing failed, and in which file if that is known.
enum Failure {
    Nickel(Box<Error>),
    /// A `--set`.
    Override {
        text: String,
        error: Box<Error>,
    },
}

/// The sources that places are in, in the order they were first seen.
#[derive(Default)]
struct Sources {
    list: Vec<SourceText>,
    known: HashMap<FileId, usize>,
}

/// One evaluation.
struct Session {
    context: VmContext<CacheHub, CacheImpl>,
    /// Sources that are Tank's and not the user's.
    own: Vec<FileId>,
    repaired: Repaired,
    sources: Sources,
    /// Where `import "tank.ncl"` finds the stdlib.
    stdlib: Option<PathBuf>,
    /// Taking a large evaluation apart costs a tenth of making it, and a child process ends anyway.
    leak: bool,
}

impl Session {
    fn new(stdlib_dir: Option<&Path>, mut repaired: Repaired, leak: bool) -> Self {
        let mut hub = CacheHub::new();
        hub.sources.add_import_paths(stdlib_dir.into_iter());
        for (path, (text, _)) in &repaired.texts {
            let format = InputFormat::from_path(path).unwrap_or(InputFormat::Nickel);
            hub.sources
                .add_string(SourcePath::Path(path.clone(), format), text.clone());
        }
        let sources = Sources {
            list: std::mem::take(&mut repaired.sources),
            known: HashMap::new(),
        };
        let context = VmContext::new(hub, std::io::sink(), NullReporter {});
        let stdlib = stdlib_dir.and_then(|dir| normalize_path(dir.join("tank.ncl")).ok());
        Self {
            context,
            own: Vec::new(),
            repaired,
            sources,
            stdlib,
            leak,
        }
    }

    fn files(&self) -> Files {
        self.context.import_resolver.files().clone()
    }

    /// The merged inputs, parsed and ready to be evaluated.
    fn prepare(&mut self, inputs: &Inputs) -> Result<NickelValue, Failure> {
        let nickel = |error: Error| Failure::Nickel(Box::new(error));
        let path = self
            .stdlib
            .clone()
            .unwrap_or_else(|| PathBuf::from("tank.ncl"));
        let path = SourcePath::Path(path, InputFormat::Nickel);
        let stdlib = self
            .context
            .import_resolver
            .sources
            .add_string(path, lenient_stdlib());
        self.own.push(stdlib);
        self.context.prepare_eval_only(stdlib).map_err(nickel)?;
        self.context.extend_env = vec![(
            Ident::from("tank"),
            NickelValue::from(Term::ResolvedImport(stdlib)),
        )];

        let mut merged: Option<NickelValue> = None;
        for file in &inputs.files {
            let format = InputFormat::from_path(file).unwrap_or(InputFormat::Nickel);
            let added = self
                .context
                .import_resolver
                .sources
                .get_or_add_file(file.as_os_str(), format);
            let id = added.map_err(|e| nickel(io_error(file, &e)))?.inner();
            self.prepare_file(id).map_err(nickel)?;
            let term = NickelValue::from(Term::ResolvedImport(id));
            merged = Some(match merged {
                None => term,
                Some(before) => {
                    mk_term::op2(BinaryOp::Merge(Label::default().into()), before, term)
                }
            });
        }
        let mut body = merged.unwrap_or_else(|| builder::Record::new().build());
        if !inputs.overrides.is_empty() {
            let overrides = self.overrides(&inputs.overrides)?;
            body = mk_term::op2(BinaryOp::Merge(Label::default().into()), body, overrides);
        }
        data::make_mergeable(&mut self.context);
        Ok(body)
    }

    fn prepare_file(&mut self, id: FileId) -> Result<(), Error> {
        let prepared = if self.repaired.untyped {
            self.context.prepare_eval_only(id)
        } else {
            self.context.prepare_eval(id)
        };
        prepared.map(drop)
    }

    /// A record of every `--set`, each value a source of its own so that it captures nothing.
    fn overrides(&mut self, texts: &[String]) -> Result<NickelValue, Failure> {
        let mut record = builder::Record::new();
        for text in texts {
            let failed = |error: Error| Failure::Override {
                text: text.clone(),
                error: Box::new(error),
            };
            let parsed = FieldOverride::parse(
                &mut self.context.import_resolver,
                text.clone(),
                MergePriority::Top,
            )
            .map_err(|e| failed(Error::ParseErrors(e.into())))?;
            let path = SourcePath::Override(parsed.path.clone());
            let id = self
                .context
                .import_resolver
                .sources
                .add_string(path, parsed.value);
            self.prepare_file(id).map_err(failed)?;
            record = record
                .path(parsed.path.0)
                .priority(parsed.priority)
                .value(Term::ResolvedImport(id));
        }
        Ok(record.build())
    }

    /// Takes a failure down; whether what is left is worth another try.
    fn note(&mut self, failure: Failure, problems: &mut Vec<Problem>) -> bool {
        let error = match failure {
            Failure::Nickel(error) => *error,
            Failure::Override { text, error } => {
                let mut noted = self.problems_of(*error, &[]);
                noted.iter_mut().for_each(|problem| {
                    problem.message = format!("--set `{text}`: {}", problem.message)
                });
                problems.extend(noted);
                return false;
            }
        };
        // The typechecker follows imports first, and wraps what it finds there.
        let error = match error {
            Error::TypecheckError(data) => match data.borrow_error() {
                TypecheckErrorKind::ImportError(import) => {
                    Error::ImportError(Box::new(import.clone()))
                }
                _ => Error::TypecheckError(data),
            },
            other => other,
        };
        let typed = matches!(error, Error::TypecheckError(_));
        match self.broken_file(&error) {
            Some(path) => self.mend(&path, error, problems),
            None => {
                let noted = self.problems_of(error, &[]);
                let import = noted.iter().find(|problem| problem.code == "tank::import");
                let place = import
                    .and_then(|problem| problem.labels.first())
                    .map(|label| label.place.clone());
                problems.extend(noted);
                match place {
                    Some(place) => self.leave_out(&place),
                    None => typed && !std::mem::replace(&mut self.repaired.untyped, true),
                }
            }
        }
    }

    /// The Nickel file that does not parse.
    fn broken_file(&self, error: &Error) -> Option<PathBuf> {
        let errors = match error {
            Error::ParseErrors(errors) => errors,
            Error::ImportError(import) => match import.as_ref() {
                ImportErrorKind::ParseErrors(errors, _) => errors,
                _ => return None,
            },
            _ => return None,
        };
        let mut files = self.files();
        let diagnostics =
            nickel_lang_core::error::IntoDiagnostics::into_diagnostics(errors.clone(), &mut files);
        let id = diagnostics.first()?.labels.first()?.file_id;
        match self.context.import_resolver.sources.file_paths.get(&id)? {
            SourcePath::Path(path, InputFormat::Nickel) => Some(path.clone()),
            _ => None,
        }
    }

    /// Notes every mistake of a text and leaves it out; whether the rest can be looked at.
    fn mend(&mut self, path: &Path, error: Error, problems: &mut Vec<Problem>) -> bool {
        let sources = &self.context.import_resolver.sources;
        let key = SourcePath::Path(path.to_owned(), InputFormat::Nickel);
        let id = sources
            .id_of(&key)
            .filter(|_| !self.repaired.texts.contains_key(path));
        let Some(id) = id else {
            problems.extend(self.problems_of(error, &[]));
            return false;
        };
        let text = sources.source(id).to_owned();
        let mended = repair::mend(&text, id, &self.files());
        let known = problems.len();
        for error in mended.errors {
            problems.extend(self.problems_of(Error::ParseErrors(error), &[]));
        }
        match (annotations::yaml(&text), problems.get_mut(known)) {
            (Some(help), Some(first)) => first.help = Some(help.to_owned()),
            _ => problems[known..]
                .iter_mut()
                .for_each(|problem| annotations::explain(problem, &self.sources.list)),
        }
        self.repaired
            .holes
            .extend(mended.holes.into_iter().map(|hole| (path.to_owned(), hole)));
        self.repaired
            .texts
            .insert(path.to_owned(), (mended.text, text));
        mended.parses
    }

    /// Leaves the field around a place out of its text; whether there is one.
    fn leave_out(&mut self, place: &Place) -> bool {
        let id = self
            .sources
            .known
            .iter()
            .find(|(_, source)| **source == place.source)
            .map(|(id, _)| *id);
        let sources = &self.context.import_resolver.sources;
        let Some((id, SourcePath::Path(path, InputFormat::Nickel))) =
            id.and_then(|id| Some((id, sources.file_paths.get(&id)?)))
        else {
            return false;
        };
        let (path, text) = (path.clone(), sources.source(id).to_owned());
        let Some((mended, hole)) = repair::leave_out(&text, id, &place.range) else {
            return false;
        };
        let original = self
            .repaired
            .texts
            .get(&path)
            .map_or(text, |(_, original)| original.clone());
        self.repaired.holes.push((path.clone(), hole));
        self.repaired.texts.insert(path, (mended, original));
        true
    }

    /// A place in one of the user's sources.
    fn place(&mut self, position: TermPos) -> Option<Place> {
        let span = position.into_opt()?;
        self.place_of(&span)
    }

    fn place_of(&mut self, span: &RawSpan) -> Option<Place> {
        self.place_in(span.src_id, span.to_range())
    }

    fn place_in(&mut self, id: FileId, range: std::ops::Range<usize>) -> Option<Place> {
        let hub = &self.context.import_resolver;
        if self.own.contains(&id) || hub.files().is_stdlib(id) {
            return None;
        }
        if let Some(source) = self.sources.known.get(&id) {
            return Some(Place {
                source: *source,
                range,
            });
        }
        let name = match hub.sources.file_paths.get(&id) {
            Some(SourcePath::Path(path, _)) => shown_path(path),
            Some(SourcePath::Override(path)) => format!("--set {path}"),
            // A snippet that Nickel generated for its own errors.
            _ => return None,
        };
        let path = PathBuf::from(hub.files().name(id));
        let text = match self.repaired.texts.get(&path) {
            Some((_, original)) => original.clone(),
            None => hub.files().source(id).to_owned(),
        };
        let source = SourceText { name, text };
        let index = self
            .sources
            .list
            .iter()
            .position(|known| *known == source)
            .unwrap_or_else(|| {
                self.sources.list.push(source);
                self.sources.list.len() - 1
            });
        self.sources.known.insert(id, index);
        Some(Place {
            source: index,
            range,
        })
    }

    /// Every file that was read from the disk, with what it held.
    fn reads(&self) -> Vec<(PathBuf, String)> {
        let sources = &self.context.import_resolver.sources;
        let read = sources
            .file_paths
            .iter()
            .filter_map(|(id, path)| match path {
                SourcePath::Path(path, _)
                    if !self.own.contains(id) && !self.repaired.texts.contains_key(path) =>
                {
                    Some((path.clone(), sources.files.source(*id).to_owned()))
                }
                _ => None,
            });
        let repaired = self
            .repaired
            .texts
            .iter()
            .map(|(path, (_, original))| (path.clone(), original.clone()));
        let mut reads: Vec<_> = read
            .chain(repaired)
            .filter(|(path, _)| path.is_absolute())
            .collect();
        reads.sort();
        reads
    }
}

/// The stdlib as an evaluation sees it: its record contracts take anything. Who writes
/// `| tank.Config` for the sake of an editor is checked by the walk, like everyone, and not first
/// by Nickel, which would stop at the first mistake.
fn lenient_stdlib() -> String {
    let records = schema()
        .contracts
        .iter()
        .filter(|(_, contract)| matches!(contract.shape, Shape::Record(_)));
    let lenient: String = records
        .map(|(name, _)| format!("{name} | force = Dyn, "))
        .collect();
    format!("({STDLIB}) & {{ {lenient} }}")
}

/// Relative to where the command runs, when that is shorter.
fn shown_path(path: &Path) -> String {
    let relative = normalize_path(".")
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    relative
        .unwrap_or_else(|| path.to_owned())
        .display()
        .to_string()
}

fn io_error(path: &Path, error: &std::io::Error) -> Error {
    Error::IOError(nickel_lang_core::error::IOError(format!(
        "{}: {error}",
        path.display()
    )))
}
