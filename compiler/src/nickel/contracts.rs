//! The schema, read from the syntax of `stdlib/tank.ncl`.

use crate::STDLIB;
use nickel_lang_core::{
    ast::{
        Annotation, Ast, AstAlloc, MergePriority, Node,
        record::{FieldDef, FieldMetadata},
        typ::{EnumRows, Type, iter::EnumRowsItem},
    },
    files::Files,
    parser::{ErrorTolerantParser, grammar::TermParser, lexer::Lexer},
    position::TermPos,
    typ::TypeF,
};
use std::sync::OnceLock;
use tank_model::schema::{Contract, Field, Kind, Schema, Shape};

/// The schema. Reads the embedded stdlib once.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| read(STDLIB).unwrap_or_default())
}

fn read(text: &str) -> Option<Schema> {
    let alloc = AstAlloc::new();
    let id = Files::empty().add("tank.ncl", text.to_owned());
    let ast = TermParser::new()
        .parse_strict(&alloc, id, Lexer::new(text))
        .ok()?;
    let mut body = &ast;
    while let Node::Let { body: inner, .. } = &body.node {
        body = inner;
    }
    let Node::Record(record) = &body.node else {
        return None;
    };
    let contracts = record.field_defs.iter().filter_map(|definition| {
        let name = definition.path_as_ident()?.label().to_owned();
        let shape = shape(definition.value.as_ref()?, text);
        Some((
            name,
            Contract {
                doc: doc(&definition.metadata),
                shape,
            },
        ))
    });
    Some(Schema {
        contracts: contracts.collect(),
    })
}

fn doc(metadata: &FieldMetadata<'_>) -> String {
    metadata.doc.unwrap_or_default().trim().to_owned()
}

fn shape(value: &Ast<'_>, text: &str) -> Shape {
    match &value.node {
        Node::Record(record) => Shape::Record(
            record
                .field_defs
                .iter()
                .filter_map(|definition| field(definition, text))
                .collect(),
        ),
        Node::Type(typ) => tags(typ).map_or(Shape::Value, Shape::Enum),
        Node::Fun { .. } => Shape::Helper,
        _ => Shape::Value,
    }
}

fn field(definition: &FieldDef<'_>, text: &str) -> Option<Field> {
    let metadata = &definition.metadata;
    let default = definition
        .value
        .as_ref()
        .filter(|_| metadata.priority == MergePriority::Bottom);
    let written = default.and_then(|value| match value.pos {
        TermPos::Original(span) | TermPos::Inherited(span) => text.get(span.to_range::<usize>()),
        TermPos::None => None,
    });
    Some(Field {
        name: definition.path_as_ident()?.label().to_owned(),
        doc: doc(metadata),
        kind: annotated(&metadata.annotation)?,
        optional: metadata.opt,
        default: written.map(str::to_owned),
    })
}

fn annotated(annotation: &Annotation<'_>) -> Option<Kind> {
    kind(
        annotation
            .typ
            .as_ref()
            .or_else(|| annotation.contracts.first())?,
    )
}

fn kind(typ: &Type<'_>) -> Option<Kind> {
    Some(match &typ.typ {
        TypeF::String => Kind::String,
        TypeF::Bool => Kind::Bool,
        TypeF::Array(of) => Kind::Array(Box::new(kind(of)?)),
        TypeF::Dict { type_fields, .. } => Kind::Dict(Box::new(kind(type_fields)?)),
        TypeF::Contract(Ast {
            node: Node::Var(name),
            ..
        }) => Kind::Named(name.label().to_owned()),
        _ => return None,
    })
}

fn tags(typ: &Type<'_>) -> Option<Vec<String>> {
    let TypeF::Enum(rows) = &typ.typ else {
        return None;
    };
    Some(names(rows))
}

fn names(rows: &EnumRows<'_>) -> Vec<String> {
    let name = |item: EnumRowsItem<'_, _>| match item {
        EnumRowsItem::Row(row) => Some(row.id.label().to_owned()),
        EnumRowsItem::TailVar(_) => None,
    };
    rows.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stdlib_parses() {
        let alloc = AstAlloc::new();
        let id = Files::empty().add("tank.ncl", STDLIB.to_owned());
        if let Err(errors) = TermParser::new().parse_strict(&alloc, id, Lexer::new(STDLIB)) {
            panic!("{errors:?}");
        }
        assert!(
            schema()
                .record("Container")
                .is_some_and(|fields| fields.len() > 20)
        );
    }
}
