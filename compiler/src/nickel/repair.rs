//! A broken text without its broken fields, so that the rest can be looked at as well.

use nickel_lang_core::{
    ast::{
        Ast, AstAlloc, Node,
        record::{FieldDef, FieldPathElem},
    },
    files::FileId,
    parser::{ErrorTolerantParser, grammar::TermParser, lexer::Lexer},
    position::TermPos,
    traverse::{TraverseAlloc, TraverseControl},
};
use std::ops::Range;

/// The text with every field that does not parse overwritten by spaces, and where that was; it is as long as before.
/// None when what is broken is in no field, or when nothing can be made of the text at all.
pub fn without_broken_fields(text: &str, id: FileId) -> Option<(String, Vec<Range<usize>>)> {
    let alloc = AstAlloc::new();
    let (ast, errors) = TermParser::new().parse_tolerant(&alloc, id, Lexer::new(text)).ok()?;
    if errors.no_errors() {
        return None;
    }
    let mut holes = Vec::new();
    find(&ast, &mut holes);
    if holes.is_empty() {
        return None;
    }
    let mut bytes = text.as_bytes().to_vec();
    for hole in &mut holes {
        // The comma that ends the field goes with it.
        let rest = text.get(hole.end..)?;
        let blank = rest.len() - rest.trim_start().len();
        if rest[blank..].starts_with(',') {
            hole.end += blank + 1;
        }
        for byte in bytes.get_mut(hole.clone())? {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    Some((String::from_utf8(bytes).ok()?, holes))
}

/// The innermost fields that hold an error.
fn find(ast: &Ast<'_>, holes: &mut Vec<Range<usize>>) {
    let visit = &mut |ast: &Ast<'_>, _: &()| -> TraverseControl<(), ()> {
        if let Node::Record(record) = &ast.node {
            for field in record.field_defs {
                broken(field, holes);
            }
            return TraverseControl::SkipBranch;
        }
        TraverseControl::Continue
    };
    ast.traverse_ref(visit, &());
}

fn broken(field: &FieldDef<'_>, holes: &mut Vec<Range<usize>>) {
    let before = holes.len();
    if let Some(value) = &field.value {
        find(value, holes);
    }
    if holes.len() > before {
        return;
    }
    let in_value = field.value.as_ref().is_some_and(has_error);
    let in_name = field.path.iter().any(|part| matches!(part, FieldPathElem::Expr(name) if has_error(name)));
    if (in_value || in_name)
        && let TermPos::Original(span) | TermPos::Inherited(span) = field.pos
    {
        holes.push(span.to_range());
    }
}

fn has_error(ast: &Ast<'_>) -> bool {
    let visit = &mut |ast: &Ast<'_>, _: &()| -> TraverseControl<(), ()> {
        if matches!(ast.node, Node::ParseError(_)) { TraverseControl::Return(()) } else { TraverseControl::Continue }
    };
    ast.traverse_ref(visit, &()).is_some()
}
