//! The walk: evaluates a configuration field by field along the contracts, and checks each where it
//! stands.
//!
//! A field that fails is left out and remembered as *poisoned*, so that nothing is said of it
//! twice. The walk descends only where the contracts do, so its depth is theirs and not the user's.

mod elsewhere;
mod mistakes;
mod wrong;

use super::{Evaluated, Session, Written, errors::covers};
use crate::{
    diagnostics::{Label, Problem},
    schema::{self, Refusal, check_value},
};
use mistakes::suggested_key;
use nickel_lang_core::{
    error::Error,
    eval::{
        Environment, VirtualMachine,
        cache::Cache,
        value::{Container, NickelValue},
    },
    identifier::LocIdent,
    position::PosIdx,
    term::BindingType,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use tank_model::{
    Name, NameError,
    name::nearest,
    schema::{Kind, Schema, Shape},
};

impl Session {
    /// Walks a configuration; `problems` were found before.
    pub(super) fn walk(mut self, body: NickelValue, problems: Vec<Problem>) -> Evaluated {
        let schema = super::schema();
        let globals = self.globals();
        let mut walk = Walk {
            session: &mut self,
            globals,
            schema,
            out: Evaluated {
                problems,
                ..Evaluated::default()
            },
        };
        let mut value = Value::Null;
        let asked = body.pos_idx();
        if let Some(config) = walk.force(body, &[]) {
            if config.as_record().is_none() {
                walk.note(&[], asked, &config, true);
            }
            value = walk
                .record(&config, "Config", &mut Vec::new())
                .unwrap_or_default();
        }
        let mut out = walk.out;
        out.value = if value.is_object() {
            value
        } else {
            Value::Object(Map::new())
        };
        self.finish(out)
    }

    /// As `VirtualMachine::new` makes it for itself.
    fn globals(&mut self) -> Environment {
        let context = &mut self.context;
        let mut globals = context.import_resolver.mk_eval_env(&mut context.cache);
        for (name, value) in &context.extend_env {
            globals.insert(
                *name,
                context.cache.add(value.clone().into(), BindingType::Normal),
            );
        }
        globals
    }

    /// Nothing could be evaluated.
    pub(super) fn give_up(self, problems: Vec<Problem>) -> Evaluated {
        let value = Value::Object(Map::new());
        let poisoned = [Vec::new()].into();
        self.finish(Evaluated {
            value,
            problems,
            poisoned,
            ..Evaluated::default()
        })
    }

    fn finish(mut self, mut out: Evaluated) -> Evaluated {
        // The typechecker and the evaluation both report what is unbound.
        let mut seen = BTreeSet::new();
        out.problems.retain(|problem| {
            let at = problem
                .labels
                .first()
                .map(|label| (label.place.source, label.place.range.start));
            seen.insert((
                problem.message.clone(),
                at,
                problem.labels.is_empty().then(|| problem.path.clone()),
            ))
        });
        out.definitions = self.definitions();
        out.reads = self.reads();
        out.sources = std::mem::take(&mut self.sources.list);
        if self.leak {
            std::mem::forget(self);
        }
        out
    }
}

struct Walk<'a> {
    session: &'a mut Session,
    /// What every expression can name: Nickel's standard library, and `tank`. Made once: that costs
    /// as much as a pod.
    globals: Environment,
    schema: &'static Schema,
    out: Evaluated,
}

impl Walk<'_> {
    /// Evaluates as far as a value's outermost shape.
    fn force(&mut self, value: NickelValue, path: &[String]) -> Option<NickelValue> {
        let vm = VirtualMachine::new_empty_env(&mut self.session.context);
        let mut vm = vm.with_initial_env(self.globals.clone());
        match vm.eval(value) {
            Ok(value) => Some(value),
            Err(error) => {
                drop(vm);
                let mut problems = self.session.problems_of(Error::EvalError(error), path);
                for problem in &mut problems {
                    if problem.labels.is_empty()
                        && let Some(written) = self.out.written(path)
                    {
                        problem.labels.push(Label {
                            place: written.place.clone(),
                            text: "here".to_owned(),
                        });
                    }
                }
                self.out.problems.extend(problems);
                self.out.poisoned.insert(path.to_vec());
                None
            }
        }
    }

    fn report(&mut self, code: &str, path: &[String], message: String, help: impl Into<String>) {
        let help = Some(help.into()).filter(|help| !help.is_empty());
        let problem = self.out.problem(code, path, message, help);
        self.out.problems.push(problem);
        self.out.poisoned.insert(path.to_vec());
    }

    fn note(&mut self, path: &[String], asked: PosIdx, made: &NickelValue, leaf: bool) {
        let table = &self.session.context.pos_table;
        let (asked, made) = (table.get(asked), table.get(made.pos_idx()));
        let (asked, made) = (self.session.place(asked), self.session.place(made));
        let via = asked
            .clone()
            .filter(|asked| made.as_ref().is_some_and(|made| !covers(asked, made)));
        if let Some(place) = made.or(asked) {
            self.out
                .places
                .insert(path.to_vec(), Written { place, via, leaf });
        }
    }

    fn note_name(&mut self, name: LocIdent, path: &[String]) {
        if let Some(place) = self.session.place(name.pos) {
            self.out.names.insert(path.to_vec(), place.clone());
            self.out.places.insert(
                path.to_vec(),
                Written {
                    place,
                    via: None,
                    leaf: false,
                },
            );
        }
    }

    /// A field's value, evaluated, its place taken down.
    fn field(
        &mut self,
        field: &nickel_lang_core::term::record::Field,
        name: LocIdent,
        path: &[String],
    ) -> Option<NickelValue> {
        let asked = field.value.as_ref()?.pos_idx();
        // Until it is evaluated, its name is where it is.
        self.note_name(name, path);
        let value = self.force(field.value_with_pending_contracts()?, path)?;
        self.note(path, asked, &value, value.as_record().is_none());
        Some(value)
    }

    /// A value of a kind as JSON; none when it has a problem.
    fn value(&mut self, value: &NickelValue, kind: &Kind, path: &mut Vec<String>) -> Option<Value> {
        match kind {
            Kind::Named(name) => {
                let contract = self.schema.contracts.get(name)?;
                match &contract.shape {
                    Shape::Record(_) => self.record(value, name, path),
                    Shape::Enum(tags) => self.tag(value, tags, path),
                    _ if name == "Network" && value.as_record().is_some() => {
                        self.record(value, "Nics", path)
                    }
                    _ => match (value.as_array(), element_of(name)) {
                        (Some(_), Some(of)) => self.array(value, &of, path),
                        _ => self.leaf(value, name, path),
                    },
                }
            }
            Kind::Dict(_) if value.as_record().is_none() => {
                self.wrong(value, kind, path);
                None
            }
            Kind::Dict(of) => Some(self.dict(value, of, path)),
            Kind::Array(of) => self.array(value, of, path),
            Kind::String => self.plain(value, kind, path).filter(Value::is_string),
            Kind::Bool => self.plain(value, kind, path).filter(Value::is_boolean),
        }
    }

    /// A scalar of a plain type.
    fn plain(&mut self, value: &NickelValue, kind: &Kind, path: &[String]) -> Option<Value> {
        let fits = match kind {
            Kind::String => value.as_string().is_some(),
            _ => value.as_bool().is_some(),
        };
        if !fits {
            self.wrong(value, kind, path);
            return None;
        }
        serde_json::to_value(value).ok()
    }

    /// A value that [`check_value`] knows. An enum tag counts as its text.
    fn leaf(&mut self, value: &NickelValue, contract: &str, path: &[String]) -> Option<Value> {
        let scalar =
            value.as_string().is_some() || value.as_number().is_some() || value.as_bool().is_some();
        let tags: &[&str] = match contract {
            "Network" => &["bridge", "host", "none"],
            "AllowFrom" => &["all", "none"],
            "Egress" => &["all", "none", "internet"],
            _ => &[],
        };
        if !tags.is_empty() {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            return self.tag(value, &tags, path);
        }
        if !scalar {
            self.wrong(value, &Kind::Named(contract.to_owned()), path);
            return None;
        }
        let json = serde_json::to_value(value).ok()?;
        match check_value(contract, &json) {
            Ok(()) => Some(json),
            Err(Refusal {
                code,
                message,
                help,
            }) => {
                let field = path
                    .iter()
                    .rev()
                    .find(|part| part.parse::<usize>().is_err());
                let message = match code {
                    "tank::value::type" => {
                        format!(
                            "`{}`: {message}",
                            field.map_or("the configuration", String::as_str)
                        )
                    }
                    _ => message,
                };
                let elsewhere =
                    field.and_then(|field| elsewhere::value(contract, field, json.as_str()?));
                self.report(code, path, message, elsewhere.unwrap_or(help));
                None
            }
        }
    }

    /// An enum tag; YAML, JSON and TOML write it as a text.
    fn tag(&mut self, value: &NickelValue, tags: &[String], path: &[String]) -> Option<Value> {
        let text = match (value.as_enum_tag(), value.as_string()) {
            (Some(tag), _) => tag.label().to_owned(),
            (None, Some(_)) => serde_json::to_value(value).ok()?.as_str()?.to_owned(),
            (None, None) => {
                let field = path.last().map_or("the value", String::as_str);
                let message = format!("`{field}` is one of {}", schema::one_of(tags));
                let names: Vec<String> = match value.as_record() {
                    Some(Container::Alloc(record)) => {
                        let names = record.fields.keys().take(2);
                        names.map(|name| name.label().to_owned()).collect()
                    }
                    _ => Vec::new(),
                };
                let help = elsewhere::listed(field, &names);
                self.report("tank::value::enum", path, message, help.unwrap_or_default());
                return None;
            }
        };
        if tags.contains(&text) {
            return Some(Value::String(text));
        }
        let field = path.last().map_or("the value", String::as_str);
        let is_policy = matches!(field, "allow_from" | "egress");
        let near = nearest(&text, tags.iter().map(String::as_str));
        let help = match (elsewhere::tag(field, &text, path), near) {
            (Some(help), _) => help,
            (None, Some(near)) => format!("did you mean `'{near}`?"),
            (None, None) if is_policy && text.parse::<tank_model::Name>().is_err() => {
                format!("alone it is one of {}", schema::one_of(tags))
            }
            (None, None) if is_policy => format!(
                "a pod's name, or an address, goes into a list: `[\"{text}\"]`; alone it is one of {}",
                schema::one_of(tags)
            ),
            (None, None) => format!("it is one of {}", schema::one_of(tags)),
        };
        let message = match value.as_string() {
            Some(_) if is_policy => format!("`{field}` can't be `\"{text}\"`"),
            _ => format!("`{field}` can't be `'{text}`"),
        };
        self.report("tank::value::enum", path, message, help);
        None
    }

    fn array(&mut self, value: &NickelValue, of: &Kind, path: &mut Vec<String>) -> Option<Value> {
        let Some(array) = value.as_array() else {
            self.wrong(value, &Kind::Array(Box::new(of.clone())), path);
            return None;
        };
        let elements: Vec<NickelValue> =
            array.iter_with_pending_contracts(value.pos_idx()).collect();
        let mut items = Vec::new();
        let mut complete = true;
        for (index, element) in elements.into_iter().enumerate() {
            path.push(index.to_string());
            let asked = element.pos_idx();
            let item = self.force(element, path).and_then(|element| {
                self.note(path, asked, &element, false);
                self.value(&element, of, path)
            });
            path.pop();
            match item {
                Some(item) => items.push(item),
                None => complete = false,
            }
        }
        complete.then_some(Value::Array(items))
    }

    /// The fields of a record keyed by names of the user's.
    fn dict(&mut self, value: &NickelValue, of: &Kind, path: &mut Vec<String>) -> Value {
        let mut out = Map::new();
        let Some(Container::Alloc(record)) = value.as_record() else {
            return Value::Object(out);
        };
        let fields: Vec<_> = record
            .fields
            .iter()
            .map(|(name, field)| (*name, field.clone()))
            .collect();
        for (name, field) in fields {
            if field.metadata.not_exported() || field.is_empty_optional() {
                continue;
            }
            path.push(name.label().to_owned());
            if let Err(error) = check_key(of, name.label()) {
                self.note_name(name, path);
                let help = suggested_key(of, name.label());
                self.report("tank::name::invalid", path, error.to_string(), help);
            } else if field.value.is_none() {
                self.undefined(name, path);
            } else {
                let value = self
                    .field(&field, name, path)
                    .and_then(|value| self.value(&value, of, path));
                if let Some(json) = value.or_else(|| placeholder(of)) {
                    out.insert(name.label().to_owned(), json);
                }
            }
            path.pop();
        }
        Value::Object(out)
    }

    /// The fields of a record contract; none when it lacks one that it needs, unless something can
    /// stand in for that.
    fn record(
        &mut self,
        value: &NickelValue,
        contract: &str,
        path: &mut Vec<String>,
    ) -> Option<Value> {
        let contract_fields = self.schema.record(contract)?;
        if value.as_record().is_none() {
            self.wrong(value, &Kind::Named(contract.to_owned()), path);
            return None;
        }
        let mut out = Map::new();
        let fields: Vec<_> = match value.as_record() {
            Some(Container::Alloc(record)) => record
                .fields
                .iter()
                .map(|(name, field)| (*name, field.clone()))
                .collect(),
            _ => Vec::new(),
        };
        let mut given = BTreeSet::new();
        let mut unknown: Vec<String> = Vec::new();
        for (name, field) in fields {
            if field.metadata.not_exported() || field.is_empty_optional() {
                continue;
            }
            given.insert(name.label().to_owned());
            path.push(name.label().to_owned());
            match contract_fields
                .iter()
                .find(|known| known.name == name.label())
            {
                None => {
                    self.unknown(name, contract, contract_fields, path);
                    unknown.push(name.label().to_owned());
                }
                Some(known) if field.value.is_none() && known.required() => {
                    self.undefined(name, path)
                }
                Some(_) if field.value.is_none() => {}
                Some(known) => {
                    if let Some(value) = self.field(&field, name, path)
                        && let Some(json) = self.value(&value, &known.kind, path)
                    {
                        out.insert(known.name.clone(), json);
                    }
                }
            }
            path.pop();
        }
        self.missing_fields(value, (contract, contract_fields), (&given, &unknown), path);
        let complete = contract_fields
            .iter()
            .all(|field| !field.required() || out.contains_key(&field.name));
        (complete || matches!(contract, "Pod" | "Container")).then_some(Value::Object(out))
    }
}

/// What an array holds where a contract takes an array or something else.
fn element_of(contract: &str) -> Option<Kind> {
    let of = match contract {
        "Addresses" => "Address",
        "AllowFrom" | "Egress" => "Peer",
        _ => return None,
    };
    Some(Kind::Named(of.to_owned()))
}

/// Whether a key of a record of this kind is what it has to be. A pod that another one depends on, and
/// a network that one is on, may be said with its stack.
fn check_key(of: &Kind, key: &str) -> Result<(), NameError> {
    match of {
        Kind::Named(name) if matches!(name.as_str(), "Condition" | "Membership") => {
            Name::reference(key, None).map(drop)
        }
        of if of.keys_are_names() => Name::new(key).map(drop),
        _ => Ok(()),
    }
}

/// What stands in for an entry that is wrong, so that others can still name it.
fn placeholder(kind: &Kind) -> Option<Value> {
    const NAMED: [&str; 5] = [
        "Membership",
        "NamedNetwork",
        "Pod",
        "SharedVolume",
        "Volume",
    ];
    matches!(kind, Kind::Named(name) if NAMED.contains(&name.as_str()))
        .then(|| Value::Object(Map::new()))
}
