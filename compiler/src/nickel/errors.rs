//! Nickel's errors as problems: its words and its places, Tank's codes.

use super::Session;
use crate::diagnostics::{Label, Place, Problem};
use nickel_lang_core::{
    error::{
        Diagnostic, Error, EvalErrorData, EvalErrorKind, ImportErrorKind, IntoDiagnostics,
        LabelStyle, TypecheckErrorKind,
    },
    files::{FileId, Files},
};

impl Session {
    /// An error, which is about the field at `path`, as one problem or, if the parser found
    /// several, as several.
    pub(super) fn problems_of(&mut self, error: Error, path: &[String]) -> Vec<Problem> {
        let code = code(&error);
        let calls = match &error {
            Error::EvalError(error) => self.calls(error),
            _ => Vec::new(),
        };
        let several = matches!(error, Error::ParseErrors(_))
            || matches!(&error, Error::ImportError(e) if matches!(e.as_ref(), ImportErrorKind::ParseErrors(..)));
        // Nickel adds the snippets it makes up to a copy of its files: ours do not know them and
        // show no label there.
        let mut files: Files = self.files();
        let diagnostics = error.into_diagnostics(&mut files);
        let mut problems: Vec<Problem> = Vec::new();
        for diagnostic in diagnostics {
            let labels = self.labels_of(&diagnostic).into_iter();
            match problems.last_mut() {
                // What follows the first diagnostic of an error are its notes: a function's call, a
                // contract's source.
                Some(problem) if !several => {
                    let message = diagnostic.message;
                    let unlabelled = |label: &mut Label| {
                        if label.text.is_empty() {
                            label.text.clone_from(&message);
                        }
                    };
                    let mut labels: Vec<Label> = labels.collect();
                    labels.iter_mut().for_each(unlabelled);
                    problem.labels.extend(labels);
                }
                _ => {
                    let notes = diagnostic.notes.join("\n");
                    let help = Some(notes).filter(|notes| !notes.is_empty());
                    let (code, path) = (code.to_owned(), path.to_vec());
                    let (message, labels) = (diagnostic.message, labels.collect());
                    problems.push(Problem {
                        code,
                        path,
                        message,
                        help,
                        labels,
                    });
                }
            }
        }
        problems
            .iter_mut()
            .for_each(|problem| complete(problem, code, &calls));
        if code == "tank::nickel::recursion" {
            problems
                .iter_mut()
                .for_each(|problem| self.help_recursion(problem));
        }
        problems
    }

    /// What is written where a field's value is only its own name: it was to be one from outside.
    fn help_recursion(&self, problem: &mut Problem) {
        let itself = |label: &Label| {
            let text = &self.sources.list.get(label.place.source)?.text;
            let name = text.get(label.place.range.clone())?;
            let before = text.get(..label.place.range.start)?.trim_end();
            let field = before.strip_suffix('=')?.trim_end().strip_suffix(name)?;
            let is_whole = !field.ends_with(|c: char| c.is_alphanumeric() || "_-'".contains(c));
            (is_whole && !name.is_empty()).then(|| name.to_owned())
        };
        let name = problem.labels.iter().find_map(itself);
        let written = match name {
            Some(name) => format!(
                "this `{name}` is the field itself: fields of a record see each other. Give what is outside another \
                 name, `let the_{name} = … in`, and write that"
            ),
            None => "a field's value needs itself: fields of a record see each other".to_owned(),
        };
        problem.help.get_or_insert(written);
    }

    /// What a diagnostic points at in the user's files, the primary label first.
    fn labels_of(&mut self, diagnostic: &Diagnostic<FileId>) -> Vec<Label> {
        let label = |label: &nickel_lang_core::error::Label<FileId>| {
            let place = self.place_in(label.file_id, label.range.clone())?;
            let text = label.message.clone();
            Some((label.style == LabelStyle::Primary, Label { place, text }))
        };
        let labels: Vec<(bool, Label)> = diagnostic.labels.iter().filter_map(label).collect();
        let (first, rest): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(primary, _)| *primary);
        first
            .into_iter()
            .chain(rest)
            .map(|(_, label)| label)
            .collect()
    }

    /// The calls an error happened in, the innermost first; those of the user's only.
    fn calls(&mut self, error: &EvalErrorData) -> Vec<Place> {
        let files = self.files();
        let (entered, pending) = error
            .ctxt
            .call_stack
            .group_by_calls(&error.ctxt.pos_table, &files);
        let spans = pending.into_iter().chain(entered).map(|call| call.span);
        spans
            .filter_map(|span| self.place_of(&span))
            .take(3)
            .collect()
    }
}

/// Whether `inner` is within `outer`.
pub(super) fn covers(outer: &Place, inner: &Place) -> bool {
    outer.source == inner.source
        && outer.range.start <= inner.range.start
        && inner.range.end <= outer.range.end
}

fn code(error: &Error) -> &'static str {
    match error {
        Error::ParseErrors(_) => "tank::syntax",
        // The typechecker and the evaluator find the same mistakes: one code for each.
        Error::TypecheckError(error) => match error.borrow_error() {
            TypecheckErrorKind::UnboundIdentifier(_) => "tank::nickel::unbound",
            TypecheckErrorKind::ImportError(error) => import_code(error),
            _ => "tank::nickel::type",
        },
        Error::ImportError(error) => import_code(error),
        Error::EvalError(error) => match &error.error {
            EvalErrorKind::BlameError { .. } => "tank::nickel::contract",
            EvalErrorKind::MissingFieldDef { .. } => "tank::field::missing",
            EvalErrorKind::ParseError(_) => "tank::syntax",
            EvalErrorKind::TypeError { .. }
            | EvalErrorKind::UnaryPrimopTypeError { .. }
            | EvalErrorKind::NAryPrimopTypeError { .. } => "tank::nickel::type",
            EvalErrorKind::NotAFunc(..) | EvalErrorKind::NotEnoughArgs(..) => "tank::nickel::call",
            EvalErrorKind::FieldMissing { .. } => "tank::nickel::no_such_field",
            EvalErrorKind::MergeIncompatibleArgs { .. } => "tank::nickel::merge",
            EvalErrorKind::UnboundIdentifier(..) => "tank::nickel::unbound",
            EvalErrorKind::InfiniteRecursion(..) => "tank::nickel::recursion",
            _ => "tank::nickel::failed",
        },
        _ => "tank::nickel::failed",
    }
}

fn import_code(error: &ImportErrorKind) -> &'static str {
    match error {
        ImportErrorKind::ParseErrors(..) => "tank::syntax",
        _ => "tank::import",
    }
}

/// The message of an import that found no file, without the folders that were looked in; none for
/// other messages.
///
/// nickel-lang-core 0.19.0 has one kind for every failed import (`ImportErrorKind::IOError`), and
/// says in its text alone that the file was not found. The snapshot of `tank::import` in
/// `compiler/tests/manual.rs` fails when that text changes.
fn no_such_file(message: &str) -> Option<String> {
    let (message, _) = message.split_once(" (looked in [")?;
    let import = message.strip_suffix("could not find import")?;
    Some(format!("{import}there is no such file"))
}

/// Adds the calls that led to a problem, and what an error of an import really is.
fn complete(problem: &mut Problem, code: &str, calls: &[Place]) {
    if code == "tank::import"
        && let Some(message) = no_such_file(&problem.message)
    {
        problem.message = message;
    }
    for call in calls {
        let shown = |label: &Label| covers(call, &label.place);
        if !problem.labels.first().is_some_and(shown)
            && !problem.labels.iter().any(|label| label.place == *call)
        {
            let text = "in this call".to_owned();
            problem.labels.push(Label {
                place: call.clone(),
                text,
            });
        }
    }
    problem.labels.dedup();
}
