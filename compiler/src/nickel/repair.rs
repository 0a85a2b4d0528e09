//! A broken text without what is broken, so that the rest can be looked at as well.
//!
//! The parser recovers from a mistake, but what it says after its first error is often a
//! consequence. So one mistake is taken at a time: it is noted, the field or the line it is in is
//! overwritten by spaces, and the text is parsed again. Places stay as they were.

use nickel_lang_core::{
    ast::{
        Ast, AstAlloc, Node,
        record::{FieldDef, FieldPathElem},
    },
    error::{IntoDiagnostics, ParseErrors},
    files::{FileId, Files},
    parser::{ErrorTolerantParser, grammar::TermParser, lexer::Lexer},
    position::TermPos,
    traverse::{TraverseAlloc, TraverseControl},
};
use std::ops::Range;

/// How many mistakes of one text are looked for.
const MAX_MISTAKES: usize = 40;

/// A field of more lines than this is not left out as a whole.
const MAX_LINES: usize = 3;

/// What was made of a broken text.
pub struct Mended {
    /// As long as the original.
    pub text: String,
    /// Whether it parses.
    pub parses: bool,
    /// Where something was left out.
    pub holes: Vec<Range<usize>>,
    /// The first error of each pass.
    pub errors: Vec<ParseErrors>,
}

/// Leaves out one mistake after the other.
pub fn mend(text: &str, id: FileId, files: &Files) -> Mended {
    let mut mended = Mended {
        text: text.to_owned(),
        parses: false,
        holes: Vec::new(),
        errors: Vec::new(),
    };
    for _ in 0..MAX_MISTAKES {
        let alloc = AstAlloc::new();
        let (mut fields, errors) =
            match TermParser::new().parse_tolerant(&alloc, id, Lexer::new(&mended.text)) {
                Ok((_, errors)) if errors.no_errors() => {
                    mended.parses = true;
                    return mended;
                }
                Ok((ast, errors)) => {
                    let mut fields = Vec::new();
                    broken_fields(&ast, &mut fields);
                    (fields, errors)
                }
                Err(error) => (Vec::new(), error.into()),
            };
        let Some((first, range)) = first(errors, files) else {
            return mended;
        };
        // What is missing at the end can be missing anywhere: nothing more is known of this text.
        let at_end = mended.text[range.start.min(text.len())..].trim().is_empty();
        if at_end && !mended.errors.is_empty() {
            return mended;
        }
        mended.errors.push(first);
        if at_end {
            return mended;
        }
        fields.retain(|field| {
            let lines = mended
                .text
                .get(field.clone())
                .map_or(0, |text| text.matches('\n').count());
            field.start <= range.start && range.start <= field.end && lines < MAX_LINES
        });
        let hole = fields
            .into_iter()
            .min_by_key(Range::len)
            .unwrap_or_else(|| line(&mended.text, range.start));
        let hole = with_comma(&mended.text, hole);
        if !blank(&mut mended.text, &hole) {
            return mended;
        }
        mended.holes.push(hole);
    }
    mended
}

/// The text without the innermost field around a place, and where that was.
pub fn leave_out(text: &str, id: FileId, place: &Range<usize>) -> Option<(String, Range<usize>)> {
    let alloc = AstAlloc::new();
    let ast = TermParser::new()
        .parse_strict(&alloc, id, Lexer::new(text))
        .ok()?;
    let mut around = Vec::new();
    let visit = &mut |ast: &Ast<'_>, _: &()| -> TraverseControl<(), ()> {
        if let Node::Record(record) = &ast.node {
            around.extend(
                record
                    .field_defs
                    .iter()
                    .filter_map(|field| field.pos.into_opt())
                    .map(|span| span.to_range()),
            );
        }
        TraverseControl::Continue
    };
    ast.traverse_ref(visit, &());
    around.retain(|field: &Range<usize>| field.start <= place.start && place.end <= field.end);
    let hole = with_comma(text, around.into_iter().min_by_key(Range::len)?);
    let mut text = text.to_owned();
    blank(&mut text, &hole).then_some((text, hole))
}

/// The error that comes first in the text, and where it is.
fn first(errors: ParseErrors, files: &Files) -> Option<(ParseErrors, Range<usize>)> {
    let place = |error: &nickel_lang_core::error::ParseError| {
        let diagnostics = error.clone().into_diagnostics(&mut files.clone());
        diagnostics
            .first()?
            .labels
            .first()
            .map(|label| label.range.clone())
    };
    let placed = errors
        .errors
        .into_iter()
        .filter_map(|error| Some((place(&error)?, error)));
    let (range, error) = placed.min_by_key(|(range, _)| range.start)?;
    Some((error.into(), range))
}

/// The line around a byte, without its line break.
fn line(text: &str, at: usize) -> Range<usize> {
    let at = at.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    start
        ..text[at..]
            .find('\n')
            .map_or(text.len(), |length| at + length)
}

/// The comma that ends a field goes with it.
fn with_comma(text: &str, hole: Range<usize>) -> Range<usize> {
    let rest = &text[hole.end.min(text.len())..];
    let spaces = rest.len() - rest.trim_start().len();
    if rest[spaces..].starts_with(',') {
        hole.start..hole.end + spaces + 1
    } else {
        hole
    }
}

/// Overwrites a stretch by spaces; whether that changed anything.
fn blank(text: &mut String, hole: &Range<usize>) -> bool {
    let Some(old) = text.get(hole.clone()) else {
        return false;
    };
    let new: String = old
        .bytes()
        .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
        .collect();
    let changed = new != old;
    text.replace_range(hole.clone(), &new);
    changed
}

/// The innermost fields that hold an error.
fn broken_fields(ast: &Ast<'_>, found: &mut Vec<Range<usize>>) {
    let visit = &mut |ast: &Ast<'_>, _: &()| -> TraverseControl<(), ()> {
        if let Node::Record(record) = &ast.node {
            record
                .field_defs
                .iter()
                .for_each(|field| broken_field(field, found));
            return TraverseControl::SkipBranch;
        }
        TraverseControl::Continue
    };
    ast.traverse_ref(visit, &());
}

fn broken_field(field: &FieldDef<'_>, found: &mut Vec<Range<usize>>) {
    let before = found.len();
    if let Some(value) = &field.value {
        broken_fields(value, found);
    }
    if found.len() > before {
        return;
    }
    let in_value = field.value.as_ref().is_some_and(has_error);
    let in_name = field
        .path
        .iter()
        .any(|part| matches!(part, FieldPathElem::Expr(name) if has_error(name)));
    if (in_value || in_name)
        && let TermPos::Original(span) | TermPos::Inherited(span) = field.pos
    {
        found.push(span.to_range());
    }
}

fn has_error(ast: &Ast<'_>) -> bool {
    let visit = &mut |ast: &Ast<'_>, _: &()| -> TraverseControl<(), ()> {
        if matches!(ast.node, Node::ParseError(_)) {
            TraverseControl::Return(())
        } else {
            TraverseControl::Continue
        }
    };
    ast.traverse_ref(visit, &()).is_some()
}
