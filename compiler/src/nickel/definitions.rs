//! Every place that defines a field, read from the syntax: merging keeps one value and drops the
//! others, and `tank why` shows them all.
//!
//! Records, merges, lets, imports and names are followed; what a function computes is one
//! definition, its call.

use super::Session;
use crate::diagnostics::Place;
use nickel_lang_core::{
    ast::{Ast, Import, MergePriority, Node, primop::PrimOp, record::FieldMetadata},
    cache::{CacheHub, SourcePath, normalize_path},
    files::FileId,
    identifier::LocIdent,
    position::{RawSpan, TermPos},
};
use std::{collections::BTreeMap, path::Path};

/// How deep names and imports are followed.
const MAX_DEPTH: usize = 64;

/// How many definitions are collected.
const MAX_DEFINITIONS: usize = 1_000_000;

/// One place that gives a field a value.
#[derive(Debug, Clone)]
pub struct Definition {
    pub place: Place,
    /// `default`, `force` or `priority N`; empty for the usual.
    pub priority: String,
}

/// The places that name and define the fields of a configuration, by the field.
#[derive(Default)]
pub struct Definitions {
    /// Where values are given.
    pub values: BTreeMap<Vec<String>, Vec<Definition>>,
    /// Where fields are named that have others below them, or a value that is no literal.
    pub names: BTreeMap<Vec<String>, Vec<Place>>,
}

#[derive(Default)]
struct Found {
    values: BTreeMap<Vec<String>, Vec<(RawSpan, String)>>,
    names: BTreeMap<Vec<String>, Vec<RawSpan>>,
}

impl Session {
    /// The definitions of every field of the inputs.
    pub(super) fn definitions(&mut self) -> Definitions {
        let mut found = Found::default();
        {
            let hub = &self.context.import_resolver;
            let imported: std::collections::HashSet<FileId> = hub
                .sources
                .file_paths
                .keys()
                .flat_map(|id| hub.import_data.imports(*id))
                .collect();
            let roots = hub.sources.file_paths.iter().filter(|(id, path)| {
                matches!(path, SourcePath::Path(..))
                    && !self.own.contains(id)
                    && !imported.contains(id)
            });
            let mut roots: Vec<FileId> = roots.map(|(id, _)| *id).collect();
            roots.sort_by_key(|id| format!("{id:?}").len());
            for id in roots {
                if let Some(ast) = hub.asts.get(id) {
                    let mut follow = Follow {
                        hub,
                        found: &mut found,
                        count: 0,
                    };
                    follow.value(ast, id, &mut Vec::new(), "", &Scope::Top, 0);
                }
            }
        }
        let mut place = |span: &RawSpan| self.place_of(span);
        let mut names: BTreeMap<Vec<String>, Vec<Place>> = BTreeMap::new();
        for (path, spans) in found.names {
            names.insert(path, spans.iter().filter_map(&mut place).collect());
        }
        let mut definition = |(span, priority): (RawSpan, String)| {
            let place = place(&span)?;
            Some(Definition { place, priority })
        };
        let values = found.values.into_iter();
        let values = values
            .map(|(path, list)| (path, list.into_iter().filter_map(&mut definition).collect()));
        Definitions {
            values: values.collect(),
            names,
        }
    }
}

/// The names that are bound around an expression.
enum Scope<'s, 'ast> {
    Top,
    Bound {
        name: String,
        value: &'s Ast<'ast>,
        outer: &'s Scope<'s, 'ast>,
    },
}

struct Follow<'a> {
    hub: &'a CacheHub,
    found: &'a mut Found,
    count: usize,
}

impl Follow<'_> {
    fn value<'ast>(
        &mut self,
        ast: &Ast<'ast>,
        file: FileId,
        path: &mut Vec<String>,
        priority: &str,
        scope: &Scope<'_, 'ast>,
        depth: usize,
    ) {
        if depth > MAX_DEPTH || self.count > MAX_DEFINITIONS {
            return;
        }
        match &ast.node {
            Node::Record(record) => {
                for definition in record.field_defs {
                    let names: Option<Vec<LocIdent>> = definition
                        .path
                        .iter()
                        .map(|part| part.try_as_ident())
                        .collect();
                    if let (Some(names), Some(value)) = (names, &definition.value) {
                        let before = path.len();
                        self.names(&names, value, path);
                        let own = written_priority(&definition.metadata);
                        let priority = if own.is_empty() { priority } else { &own };
                        self.value(value, file, path, priority, scope, depth + 1);
                        path.truncate(before);
                    }
                }
            }
            Node::Let { bindings, body, .. } => {
                self.bound(bindings, body, file, path, priority, scope, depth)
            }
            Node::Annotated { inner, .. } => {
                self.value(inner, file, path, priority, scope, depth + 1)
            }
            Node::PrimOpApp {
                op: PrimOp::Merge(_),
                args,
            } => {
                for part in *args {
                    self.value(part, file, path, priority, scope, depth + 1);
                }
            }
            Node::Var(name) if self.variable(name.label(), file, path, priority, scope, depth) => {}
            Node::Import(import) if self.import(import, file, path, priority, depth) => {}
            _ => {
                if let TermPos::Original(span) | TermPos::Inherited(span) = ast.pos {
                    self.count += 1;
                    self.found
                        .values
                        .entry(path.clone())
                        .or_default()
                        .push((span, priority.to_owned()));
                }
            }
        }
    }

    /// Adds names to a path, and takes down where those stand that lead to more than a literal.
    fn names(&mut self, names: &[LocIdent], value: &Ast<'_>, path: &mut Vec<String>) {
        for (at, name) in names.iter().enumerate() {
            path.push(name.label().to_owned());
            let leads_on = at + 1 < names.len() || !is_literal(value);
            if let TermPos::Original(span) | TermPos::Inherited(span) = name.pos
                && leads_on
                && self.count < MAX_DEFINITIONS
            {
                self.count += 1;
                self.found.names.entry(path.clone()).or_default().push(span);
            }
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one step of a recursion that carries them all"
    )]
    fn bound<'ast>(
        &mut self,
        bindings: &[nickel_lang_core::ast::LetBinding<'ast>],
        body: &Ast<'ast>,
        file: FileId,
        path: &mut Vec<String>,
        priority: &str,
        scope: &Scope<'_, 'ast>,
        depth: usize,
    ) {
        match bindings {
            [] => self.value(body, file, path, priority, scope, depth + 1),
            [first, rest @ ..] => match first.pattern.data {
                nickel_lang_core::ast::pattern::PatternData::Any(name) => {
                    let scope = Scope::Bound {
                        name: name.label().to_owned(),
                        value: &first.value,
                        outer: scope,
                    };
                    self.bound(rest, body, file, path, priority, &scope, depth);
                }
                _ => self.bound(rest, body, file, path, priority, scope, depth),
            },
        }
    }

    /// Follows a name to what it is bound to; whether it is known.
    fn variable<'ast>(
        &mut self,
        name: &str,
        file: FileId,
        path: &mut Vec<String>,
        priority: &str,
        scope: &Scope<'_, 'ast>,
        depth: usize,
    ) -> bool {
        let mut scope = scope;
        while let Scope::Bound {
            name: bound,
            value,
            outer,
        } = scope
        {
            if bound == name {
                // A plain value's place is where its name is used: that is the line to change.
                if !matches!(
                    value.node,
                    Node::Record(_) | Node::PrimOpApp { .. } | Node::Import(_) | Node::Let { .. }
                ) {
                    return false;
                }
                self.value(value, file, path, priority, outer, depth + 1);
                return true;
            }
            scope = outer;
        }
        false
    }

    /// Follows an import; whether it is one of a Nickel file that was read.
    fn import(
        &mut self,
        import: &Import<'_>,
        file: FileId,
        path: &mut Vec<String>,
        priority: &str,
        depth: usize,
    ) -> bool {
        let Import::Path { path: wanted, .. } = import else {
            return false;
        };
        let Some(SourcePath::Path(parent, _)) = self.hub.sources.file_paths.get(&file) else {
            return false;
        };
        let Some(dir) = parent.parent() else {
            return false;
        };
        let Ok(wanted) = normalize_path(dir.join(Path::new(wanted))) else {
            return false;
        };
        let found = self.hub.import_data.imports(file).find(
            |id| matches!(self.hub.sources.file_paths.get(id), Some(SourcePath::Path(path, _)) if *path == wanted),
        );
        let Some((id, ast)) = found.and_then(|id| Some((id, self.hub.asts.get(id)?))) else {
            return false;
        };
        self.value(ast, id, path, priority, &Scope::Top, depth + 1);
        true
    }
}

/// Whether an expression is a value as it stands, and no record.
fn is_literal(ast: &Ast<'_>) -> bool {
    matches!(
        ast.node,
        Node::Null
            | Node::Bool(_)
            | Node::Number(_)
            | Node::String(_)
            | Node::StringChunks(_)
            | Node::EnumVariant { .. }
            | Node::Array(_)
    )
}

fn written_priority(metadata: &FieldMetadata<'_>) -> String {
    match &metadata.priority {
        MergePriority::Bottom => "default".to_owned(),
        MergePriority::Neutral => String::new(),
        MergePriority::Numeral(number) => format!("priority {number}"),
        MergePriority::Top => "force".to_owned(),
    }
}
