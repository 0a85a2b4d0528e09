//! The manual: what a field is for, what a code means. Printed by `tank doc`, from the stdlib and
//! its error pages.

mod elsewhere;
mod fields;
mod reference;
mod within;

pub use fields::fields;
pub use reference::reference;

use crate::{nickel, schema::one_of};
use std::fmt::Write;
use tank_model::{
    name::nearest,
    schema::{Contract, Field, Kind, Schema, Shape},
};

/// The pages of the codes.
pub const ERRORS: &str = include_str!("../../stdlib/errors.md");

/// Nothing is known under a name; perhaps another was meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The name that was asked for.
    pub what: String,
    /// A known name that is one or two letters away.
    pub nearest: Option<String>,
}

/// The page of a code, without its heading.
///
/// # Errors
/// When there is no such code.
pub fn error_page(code: &str) -> Result<&'static str, Unknown> {
    let sections = || ERRORS.split("\n## ").skip(1);
    let found =
        sections().find_map(|section| section.split_once('\n').filter(|(title, _)| *title == code));
    let codes = sections().filter_map(|section| section.lines().next());
    let near = || nearest(code, codes).map(str::to_owned);
    found.map(|(_, page)| page.trim()).ok_or_else(|| Unknown {
        what: code.to_owned(),
        nearest: near(),
    })
}

/// Every code there is a page for.
pub fn codes() -> impl Iterator<Item = &'static str> {
    ERRORS
        .split("\n## ")
        .skip(1)
        .filter_map(|section| section.lines().next())
}

/// What a path of fields leads to.
#[derive(Debug)]
enum Found<'a> {
    Field(&'a Field),
    Contract(&'a str, &'a Contract),
}

/// What a pod has and its containers have not, asked for in a container's place.
fn of_pod<'a>(schema: &Schema, parts: &[&'a str]) -> Option<&'a str> {
    let (field, before) = parts.split_last()?;
    let group = |part: &&str| matches!(*part, "containers" | "init");
    let near = before.iter().rev().take(2).position(group)?;
    // `containers.app` is a container called `app`; a name of the user's is in between, or the word is
    // no name that a container would have.
    let is_field = has(schema, "Pod", field) && !has(schema, "Container", field);
    (near <= 1 && is_field).then_some(*field)
}

/// The page of a field (`pods.containers.limits`, with or without the names that users choose
/// between), of a contract (`Limits`) or of a helper (`replicas`); without a path, the top. What a
/// configuration and a pod both have, `networks` and `volumes`, has two: what is declared comes first. Of a code
/// (`tank::publish::range`) it is the code's page, and of a word of Compose's or Kubernetes' (`healthcheck`) what does it here.
///
/// # Errors
/// When the path leads nowhere.
pub fn field_page(path: &str) -> Result<String, Unknown> {
    elsewhere::pages(path).unwrap_or_else(|| page_of(path))
}

fn page_of(path: &str) -> Result<String, Unknown> {
    if path.contains("::") {
        return error_page(path).map(|page| format!("{path}\n\n{page}\n"));
    }
    let schema = nickel::schema();
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    let mut out = String::new();
    if let Some(field) = of_pod(schema, &parts) {
        let of_pod = ["pods", field];
        let heading = format!("pods.NAME.{field}");
        page(&mut out, schema, &heading, &find(schema, &of_pod)?);
        return Ok(out);
    }
    if let Some(pages) = within::pages(schema, &parts) {
        return Ok(pages);
    }
    let found = find(schema, &parts)?;
    let both = match (&found, parts.first()) {
        (Found::Field(field), Some(first)) if field.name == *first => BOTH.contains(first),
        _ => false,
    };
    page(&mut out, schema, path, &found);
    if let Some(first) = parts.first().filter(|_| both) {
        out.push('\n');
        let heading = format!("pods.NAME.{first}");
        page(&mut out, schema, &heading, &find(schema, &["pods", first])?);
    }
    Ok(out)
}

fn page(out: &mut String, schema: &Schema, path: &str, found: &Found<'_>) {
    match found {
        Found::Field(field) => {
            let _ = writeln!(out, "{path}  {}", field.kind.text());
            paragraphs(out, &field.doc, 2);
            facts(out, schema, field);
            if let Some(name) = inner(&field.kind) {
                contract_page(out, schema, name);
            }
        }
        Found::Contract(name, contract) => {
            let _ = writeln!(out, "{name}");
            paragraphs(out, &contract.doc, 2);
            // All there is to say of a value is said.
            if !matches!(contract.shape, Shape::Value) {
                contract_page(out, schema, name);
            }
        }
    }
}

/// The default of a field that nothing declares, as the stdlib writes it.
pub fn default_of(path: &str) -> Option<String> {
    let parts = tank_model::provenance::parse_field(path);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match find(nickel::schema(), &parts) {
        Ok(Found::Field(field)) => {
            let words = || {
                field
                    .doc
                    .split("Default: ")
                    .nth(1)?
                    .split(".\n")
                    .next()
                    .map(|text| text.trim().to_owned())
            };
            field.default.clone().or_else(words)
        }
        _ => None,
    }
}

fn find<'a>(schema: &'a Schema, parts: &'a [&'a str]) -> Result<Found<'a>, Unknown> {
    let contract = |name: &'a str| {
        schema
            .contracts
            .get(name)
            .map(|contract| Found::Contract(name, contract))
    };
    let (mut record, mut rest) = match start(schema, parts)? {
        Start::Within(record, rest) => (record, rest),
        Start::Contract(name) => return contract(name).ok_or_else(|| unknown(name, &[])),
    };
    loop {
        let [name, after @ ..] = rest else {
            return contract(record).ok_or_else(|| unknown(record, &[]));
        };
        let fields = schema.record(record).unwrap_or_default();
        let Some(field) = fields.iter().find(|field| field.name == *name) else {
            let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            let unknown = unknown(name, &names);
            // The container's name in `web.app.env`, also where what follows it is misspelt.
            let names_container = match after.first() {
                Some(next) => has(schema, "Container", next) || unknown.nearest.is_none(),
                None => unknown.nearest.is_none(),
            };
            if record == "Pod" && names_container {
                (record, rest) = ("Container", after);
                continue;
            }
            return Err(unknown);
        };
        if after.is_empty() {
            return Ok(Found::Field(field));
        }
        // `env.LOG`: the name is the user's.
        if matches!(field.kind, Kind::Dict(_)) && after.len() == 1 && inner(&field.kind).is_none() {
            return Ok(Found::Field(field));
        }
        let Some(inside) = inner(&field.kind) else {
            return Err(unknown(after[0], &[]));
        };
        record = if inside == "Network" { "Nics" } else { inside };
        // A name of the user's in between.
        let is_dict = matches!(field.kind, Kind::Dict(_));
        rest = if is_dict && !has(schema, record, after[0]) {
            &after[1..]
        } else {
            after
        };
        if rest.is_empty() {
            return Ok(Found::Field(field));
        }
    }
}

/// Where the way along a path begins.
enum Start<'a> {
    /// In a record contract, with the rest of the path.
    Within(&'a str, &'a [&'a str]),
    /// It is a contract or a helper by its own name.
    Contract(&'a str),
}

fn start<'a>(schema: &Schema, parts: &'a [&'a str]) -> Result<Start<'a>, Unknown> {
    Ok(match parts {
        [] => Start::Contract("Config"),
        // A contract, or a helper, by its own name.
        [name] if schema.contracts.contains_key(*name) && *name != "env" => Start::Contract(name),
        ["tank", name] => {
            let names: Vec<&str> = schema.contracts.keys().map(String::as_str).collect();
            if !schema.contracts.contains_key(*name) {
                return Err(unknown(name, &names));
            }
            Start::Contract(name)
        }
        [group, .., field] if BOTH.contains(group) && is_of_pod(schema, group, field) => {
            Start::Within("Pod", parts)
        }
        [first, ..] if has(schema, "Config", first) => Start::Within("Config", parts),
        // `web.app.env`: what people type; a pod's field first, then a container's.
        [first, ..] if has(schema, "Pod", first) => Start::Within("Pod", parts),
        [first, ..] if has(schema, "Container", first) => Start::Within("Container", parts),
        [word] => {
            return Err(Unknown {
                what: (*word).to_owned(),
                nearest: nearest_word(schema, word).map(str::to_owned),
            });
        }
        // A pod's name.
        [_, rest @ ..] => Start::Within("Pod", rest),
    })
}

/// What is declared beside the pods, and used in them by the same name.
const BOTH: [&str; 2] = ["networks", "volumes"];

/// Whether a word is a field of what a pod has under a name, or nearly one, and not of what is declared
/// by it beside the pods.
fn is_of_pod(schema: &Schema, group: &str, word: &str) -> bool {
    let (of_pod, declared) = match group {
        "networks" => ("Membership", "NamedNetwork"),
        _ => ("Volume", "SharedVolume"),
    };
    let near = |record: &str| {
        let fields = schema.record(record).unwrap_or_default();
        nearest(word, fields.iter().map(|field| field.name.as_str())).is_some()
    };
    near(of_pod) && !near(declared)
}

/// The name of a field of a configuration, a pod or a container, of a contract or a helper that is
/// nearest to `word`, or else one that it begins with.
fn nearest_word<'a>(schema: &'a Schema, word: &str) -> Option<&'a str> {
    let words = || {
        let records = ["Config", "Pod", "Container"].into_iter();
        let fields = records.flat_map(|record| schema.record(record).unwrap_or_default());
        let contracts = schema.contracts.keys().map(String::as_str);
        fields.map(|field| field.name.as_str()).chain(contracts)
    };
    let begins = || words().filter(|known| word.starts_with(known) || known.starts_with(word));
    nearest(word, words()).or_else(|| begins().max_by_key(|known| known.len()))
}

fn has(schema: &Schema, record: &str, field: &str) -> bool {
    schema
        .record(record)
        .is_some_and(|fields| fields.iter().any(|known| known.name == field))
}

fn unknown(what: &str, known: &[&str]) -> Unknown {
    Unknown {
        what: what.to_owned(),
        nearest: nearest(what, known.iter().copied()).map(str::to_owned),
    }
}

/// The contract that a kind is made of.
fn inner(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::Named(name) => Some(name),
        Kind::Dict(of) | Kind::Array(of) => inner(of),
        Kind::String | Kind::Bool => None,
    }
}

fn facts(out: &mut String, schema: &Schema, field: &Field) {
    match (&field.default, field.required()) {
        (Some(default), _) => {
            let _ = writeln!(out, "\n  default: {default}");
        }
        (None, true) => out.push_str("\n  required\n"),
        (None, false) => {}
    }
    if let Some(Shape::Enum(tags)) = inner(&field.kind)
        .and_then(|name| schema.contracts.get(name))
        .map(|contract| &contract.shape)
    {
        let _ = writeln!(out, "  one of: {}", one_of(tags));
    }
}

fn contract_page(out: &mut String, schema: &Schema, name: &str) {
    let Some(contract) = schema.contracts.get(name) else {
        return;
    };
    if let Shape::Record(fields) = &contract.shape {
        let width = fields
            .iter()
            .map(|field| field.name.len())
            .max()
            .unwrap_or(0);
        let kinds = fields
            .iter()
            .map(|field| field.kind.text().len())
            .max()
            .unwrap_or(0);
        out.push_str("\nfields:\n");
        for field in fields {
            let summary = summary(&field.doc);
            let _ = writeln!(
                out,
                "  {:<width$}  {:<kinds$}  {summary}",
                field.name,
                field.kind.text()
            );
        }
    } else if let Shape::Value = &contract.shape {
        match contract.doc.trim() {
            doc if doc.lines().nth(1).is_none() => {
                let _ = writeln!(out, "\n  {name}: {doc}");
            }
            doc => {
                let _ = writeln!(out, "\n  {name}:");
                paragraphs(out, doc, 4);
            }
        }
    }
    if name == "Config" {
        let helpers: Vec<&str> = schema
            .contracts
            .iter()
            .filter(|(_, contract)| matches!(contract.shape, Shape::Helper))
            .map(|(name, _)| name.as_str())
            .collect();
        let _ = writeln!(
            out,
            "\nhelpers: {} (`tank doc tank.{}`)",
            helpers.join(", "),
            helpers.first().unwrap_or(&"")
        );
    }
}

/// A doc's first sentence, on one line.
pub fn summary(doc: &str) -> String {
    let text = doc
        .split("```")
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    match text.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => text,
    }
}

/// A doc with its examples, indented.
fn paragraphs(out: &mut String, doc: &str, indent: usize) {
    for line in doc.lines() {
        match line.trim() {
            fence if fence.starts_with("```") => {}
            "" => out.push('\n'),
            _ => {
                let _ = writeln!(out, "{:indent$}{}", "", line.trim_end());
            }
        }
    }
}

/// The examples of a doc.
pub fn examples(doc: &str) -> Vec<&str> {
    doc.split("```nickel")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(str::trim)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field's page says every mode that its contract has, not the first one alone.
    #[test]
    fn a_value_is_documented_as_a_whole() {
        for path in ["network", "web.network", "Network"] {
            let page = field_page(path).expect(path);
            for mode in ["'bridge", "'host", "'none", "nics.eth0"] {
                let before = page.split(mode).count();
                assert!(before > 1, "{path} says nothing of {mode}:\n{page}");
            }
            assert_eq!(page.matches("loopback only").count(), 1, "{page}");
        }
    }

    #[test]
    fn paths_lead_to_fields() {
        for path in [
            "",
            "pods",
            "stack",
            "networks",
            "networks.back",
            "networks.internal",
            "networks.back.internal",
            "networks.back.aliases",
            "web.networks",
            "volumes",
            "volumes.uploads",
            "volumes.uploads.owner",
            "volumes.data.tmpfs",
            "web.volumes.data.shared",
            "pods.containers.limits",
            "web.app.env.LOG",
            "web.app",
            "publish",
            "Limits",
            "tank.env",
            "pods.web.containers.app.readiness.http",
            "network.nics.eth0.address",
            "limits.memory",
            "replicas",
        ] {
            assert!(field_page(path).is_ok(), "{path}");
        }
    }

    /// Under a heading there is its own page: a pod's field that is asked for in a container is the pod's.
    #[test]
    fn a_field_of_a_pod_is_shown_as_the_pods() {
        for path in [
            "containers.depends_on",
            "pods.web.containers.app.depends_on",
        ] {
            let page = field_page(path).expect(path);
            assert!(page.starts_with("pods.NAME.depends_on  "), "{page}");
        }
        for path in ["containers.app", "pods.containers", "containers.app.image"] {
            let page = field_page(path).expect(path);
            assert!(page.starts_with(path), "{page}");
        }
        let page = field_page("tank::publish::range").expect("a code");
        assert!(page.starts_with("tank::publish::range\n\n"), "{page}");
        let misspelt = ["tank", "publish", "rnge"].join("::");
        let unknown = field_page(&misspelt).expect_err("no code");
        assert_eq!(unknown.nearest.as_deref(), Some("tank::publish::range"));
    }

    #[test]
    fn a_misspelt_field_has_its_nearest_named() {
        for (path, near) in [
            ("pods.web.containers.app.limits.memroy", Some("memory")),
            ("web.app.limits.memroy", Some("memory")),
            ("web.app.imgae", Some("image")),
            ("web.app.conainers", None),
            ("web.containres.app.image", Some("containers")),
            ("web.volums", Some("volumes")),
            ("web.volums.data", Some("volumes")),
            ("limts", Some("limits")),
            ("nonsense", None),
            ("web", None),
            ("stak", Some("stack")),
            ("networking", Some("network")),
            ("env_fil", Some("env")),
            ("networks.back.internl", Some("internal")),
            ("Limts", Some("Limits")),
            ("replcas", Some("replicas")),
            ("limits.memroy", Some("memory")),
        ] {
            let unknown = field_page(path).expect_err(path);
            assert_eq!(unknown.nearest.as_deref(), near, "{path}");
        }
    }
}
