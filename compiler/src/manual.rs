//! The manual: what a field is for, what a code means. Printed by `tank doc`, from the stdlib and
//! its error pages.

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

/// The page of a field (`pods.containers.limits`, with or without the names that users choose
/// between), of a contract (`Limits`) or of a helper (`replicas`); without a path, the top.
///
/// # Errors
/// When the path leads nowhere.
pub fn field_page(path: &str) -> Result<String, Unknown> {
    let schema = nickel::schema();
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    let mut out = String::new();
    match find(schema, &parts)? {
        Found::Field(field) => {
            let _ = writeln!(out, "{path}  {}", field.kind.text());
            paragraphs(&mut out, &field.doc, 2);
            facts(&mut out, schema, field);
            if let Some(name) = inner(&field.kind) {
                contract_page(&mut out, schema, name);
            }
        }
        Found::Contract(name, contract) => {
            let _ = writeln!(out, "{name}");
            paragraphs(&mut out, &contract.doc, 2);
            contract_page(&mut out, schema, name);
        }
    }
    Ok(out)
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
        ["pods", ..] => Start::Within("Config", parts),
        // `web.app.env`: what people type; a pod's field first, then a container's.
        [first, ..] if has(schema, "Pod", first) => Start::Within("Pod", parts),
        [first, ..] if has(schema, "Container", first) => Start::Within("Container", parts),
        // A pod's name, unless it is all there is and nearly a word of Tank's.
        [word] if nearest_word(schema, word).is_some() => {
            return Err(Unknown {
                what: (*word).to_owned(),
                nearest: nearest_word(schema, word).map(str::to_owned),
            });
        }
        [_, rest @ ..] => Start::Within("Pod", rest),
    })
}

/// The name of a field of a pod or a container, a contract or a helper that is nearest to `word`.
fn nearest_word<'a>(schema: &'a Schema, word: &str) -> Option<&'a str> {
    let fields = ["Pod", "Container"]
        .into_iter()
        .flat_map(|record| schema.record(record).unwrap_or_default())
        .map(|field| field.name.as_str());
    let contracts = schema.contracts.keys().map(String::as_str);
    nearest(word, fields.chain(contracts).chain(["pods"]))
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
        let _ = writeln!(out, "\n  {name}: {}", summary(&contract.doc));
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

    #[test]
    fn paths_lead_to_fields() {
        for path in [
            "",
            "pods",
            "web",
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
            ("Limts", Some("Limits")),
            ("replcas", Some("replicas")),
            ("limits.memroy", Some("memory")),
            ("tank.replcas", Some("replicas")),
        ] {
            let unknown = field_page(path).expect_err(path);
            assert_eq!(unknown.nearest.as_deref(), near, "{path}");
        }
    }
}
