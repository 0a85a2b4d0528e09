//! Evaluation. The only module that knows `nickel-lang-core`, whose interface moves: it is pinned exactly.
//!
//! The user's files are merged in order, overrides on top, and `tank.Config` is applied to the whole; `tank` is in
//! scope in every file. The value comes back as JSON, with the place each of its fields was written at.

use crate::{CompileError, Inputs, STDLIB};
use miette::NamedSource;
use nickel_lang_core::{
    cache::{CacheHub, ImportResolver, InputFormat, SourcePath},
    error::{Error, NullReporter, report},
    eval::{
        Closure, VirtualMachine, VmContext,
        cache::CacheImpl,
        value::{Container, NickelValue},
    },
    files::{FileId, Files},
    identifier::Ident,
    label::Label,
    position::{PosIdx, PosTable, TermPos},
    program::FieldOverride,
    term::{BinaryOp, MergePriority, RuntimeContract, Term, make as mk_term, make::builder},
    typ::{Type, TypeF},
};
use serde_json::Value;
use std::{collections::BTreeMap, ops::Range, path::Path};

/// The stack of the thread that evaluates: Nickel recurses with the depth of what it evaluates.
const STACK: usize = 256 << 20;

/// A stretch of a source, in bytes.
#[derive(Clone, Debug)]
pub struct Place {
    file: usize,
    pub range: Range<usize>,
}

impl Place {
    pub fn same_file(&self, other: &Self) -> bool {
        self.file == other.file
    }
}

/// A value and where it comes from.
pub struct Evaluated {
    pub value: Value,
    places: BTreeMap<Vec<String>, Place>,
    /// Name and text of each source that a place is in.
    sources: Vec<(String, String)>,
}

impl Evaluated {
    /// Where a field was written, or the nearest field around it that is in one of the user's files.
    pub fn place(&self, path: &[String]) -> Option<Place> {
        (0..=path.len()).rev().find_map(|length| self.places.get(&path[..length])).cloned()
    }

    pub fn source(&self, place: &Place) -> NamedSource<String> {
        let (name, text) = self.sources.get(place.file).cloned().unwrap_or_default();
        NamedSource::new(name, text)
    }

    /// The name of the file a field was written in.
    pub fn file(&self, path: &[String]) -> Option<&str> {
        let place = self.place(path)?;
        self.sources.get(place.file).map(|(name, _)| name.as_str())
    }
}

/// Evaluates on a thread with room for deep values.
pub fn evaluate(inputs: &Inputs) -> Result<Evaluated, CompileError> {
    for file in &inputs.files {
        // Nickel names a missing file by its own words only where it is imported.
        std::fs::metadata(file).map_err(|e| CompileError::Read(file.clone(), e.to_string()))?;
    }
    let inputs = inputs.clone();
    let internal = |why: &str| CompileError::Internal(why.to_owned());
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || Session::new().run(&inputs));
    thread.map_err(|e| internal(&e.to_string()))?.join().map_err(|_| internal("the evaluator ended"))?
}

/// One evaluation.
struct Session {
    context: VmContext<CacheHub, CacheImpl>,
    /// Sources that are Tank's and not the user's.
    own: Vec<FileId>,
}

impl Session {
    fn new() -> Self {
        let context = VmContext::new(CacheHub::new(), std::io::sink(), NullReporter {});
        Self { context, own: Vec::new() }
    }

    fn run(mut self, inputs: &Inputs) -> Result<Evaluated, CompileError> {
        match self.evaluate(inputs) {
            Ok(value) => self.collect(&value),
            Err(error) => Err(self.report(error)),
        }
    }

    fn files(&self) -> Files {
        self.context.import_resolver.files().clone()
    }

    /// The error as Nickel shows it: with its own snippets of the user's lines.
    fn report(&self, error: Error) -> CompileError {
        let color = report::ColorOpt::Never;
        CompileError::Nickel(report::report_as_str(&mut self.files(), error, color).trim_end().to_owned())
    }

    fn add_own(&mut self, path: SourcePath, text: &str) -> FileId {
        let id = self.context.import_resolver.sources.add_string(path, text.to_owned());
        self.own.push(id);
        id
    }

    fn evaluate(&mut self, inputs: &Inputs) -> Result<NickelValue, Error> {
        let stdlib = self.add_own(SourcePath::Path("tank.ncl".into(), InputFormat::Nickel), STDLIB);
        self.context.prepare_eval(stdlib)?;
        self.context.extend_env = vec![(Ident::from("tank"), NickelValue::from(Term::ResolvedImport(stdlib)))];

        let mut merged: Option<NickelValue> = None;
        for file in &inputs.files {
            let format = InputFormat::from_path(file).unwrap_or(InputFormat::Nickel);
            let sources = &mut self.context.import_resolver.sources;
            let id = sources.add_file(file.as_os_str(), format).map_err(|e| io_error(file, &e))?;
            self.context.prepare_eval(id)?;
            let term = NickelValue::from(Term::ResolvedImport(id));
            merged = Some(match merged {
                None => term,
                Some(before) => mk_term::op2(BinaryOp::Merge(Label::default().into()), before, term),
            });
        }
        let mut body = merged.unwrap_or_else(|| builder::Record::new().build());
        if !inputs.overrides.is_empty() {
            let overrides = self.overrides(&inputs.overrides)?;
            body = mk_term::op2(BinaryOp::Merge(Label::default().into()), body, overrides);
        }
        let contract = self.contract()?;
        let body = RuntimeContract::apply_all(body, [contract], PosIdx::NONE);
        let closure: Closure = body.into();
        Ok(VirtualMachine::new(&mut self.context).eval_full_for_export_closure(closure)?)
    }

    /// A record of every `--set`, each value a source of its own so that it captures nothing.
    fn overrides(&mut self, texts: &[String]) -> Result<NickelValue, Error> {
        let mut record = builder::Record::new();
        for text in texts {
            let parsed = FieldOverride::parse(&mut self.context.import_resolver, text.clone(), MergePriority::Top)
                .map_err(|e| Error::ParseErrors(e.into()))?;
            let path = SourcePath::Override(parsed.path.clone());
            let id = self.context.import_resolver.sources.add_string(path, parsed.value);
            self.context.prepare_eval(id)?;
            record = record.path(parsed.path.0).priority(parsed.priority).value(Term::ResolvedImport(id));
        }
        Ok(record.build())
    }

    /// `tank.Config`, blamed as what it is: the shape of a configuration.
    fn contract(&mut self) -> Result<RuntimeContract, Error> {
        let id = self.add_own(SourcePath::Generated("the shape of a configuration".into()), "tank.Config");
        let value = self.context.prepare_eval(id)?;
        let span = self.files().source_span(id);
        let typ = Type { typ: TypeF::Contract(value.clone()), pos: TermPos::Original(span) };
        let span = self.context.pos_table.push(span.into());
        Ok(RuntimeContract::new(value, Label { typ: std::rc::Rc::new(typ), span, ..Label::default() }))
    }

    fn collect(&self, value: &NickelValue) -> Result<Evaluated, CompileError> {
        let json = serde_json::to_value(value)
            .map_err(|e| CompileError::Nickel(format!("error: the configuration is not plain data: {e}")))?;
        let mut collector = Collector {
            table: &self.context.pos_table,
            own: &self.own,
            files: self.files(),
            known: BTreeMap::new(),
            places: BTreeMap::new(),
            sources: Vec::new(),
        };
        collector.walk(value, &mut Vec::new());
        Ok(Evaluated { value: json, places: collector.places, sources: collector.sources })
    }
}

fn io_error(path: &Path, error: &std::io::Error) -> Error {
    Error::IOError(nickel_lang_core::error::IOError(format!("{}: {error}", path.display())))
}

/// Gathers the places of a value's fields.
struct Collector<'a> {
    table: &'a PosTable,
    own: &'a [FileId],
    files: Files,
    known: BTreeMap<u32, usize>,
    places: BTreeMap<Vec<String>, Place>,
    sources: Vec<(String, String)>,
}

impl Collector<'_> {
    fn walk(&mut self, value: &NickelValue, path: &mut Vec<String>) {
        if let Some(Container::Alloc(record)) = value.as_record() {
            for (name, field) in &record.fields {
                path.push(name.label().to_owned());
                // The value's own place, unless only its name is in the user's file.
                let at = field.value.as_ref().and_then(|value| self.place(self.table.get(value.pos_idx())));
                if let Some(place) = at.or_else(|| self.place(name.pos)) {
                    self.places.insert(path.clone(), place);
                }
                if let Some(value) = &field.value {
                    self.walk(value, path);
                }
                path.pop();
            }
        }
    }

    fn place(&mut self, position: TermPos) -> Option<Place> {
        let span = position.into_opt()?;
        if self.own.contains(&span.src_id) || self.files.is_stdlib(span.src_id) {
            return None;
        }
        let key = format!("{:?}", span.src_id);
        let key = key.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()?;
        let file = match self.known.get(&key) {
            Some(file) => *file,
            None => {
                let name = self.files.name(span.src_id).to_string_lossy().into_owned();
                self.sources.push((name, self.files.source(span.src_id).to_owned()));
                self.known.insert(key, self.sources.len() - 1);
                self.sources.len() - 1
            }
        };
        Some(Place { file, range: span.to_range() })
    }
}
