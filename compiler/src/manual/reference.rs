//! The whole manual as one page of Markdown: `docs/reference.md`.

use super::inner;
use crate::{nickel, schema::one_of};
use std::{collections::VecDeque, fmt::Write};
use tank_model::schema::{Contract, Field, Kind, Schema, Shape};

/// What stands above it. Who edits the page loses the edit: a test compares it with this.
const HEAD: &str = "# The language, field by field

All that can be declared, as the contracts of `stdlib/tank.ncl` have it; made of them, and a test compares the two. `tank doc
pods.containers.limits` prints a part of it, `tank doc --error CODE` what an error means ([all of those](../stdlib/errors.md)).
The fields of a configuration file are those of [Config](#config).
";

/// Every contract that a configuration is made of, in the order in which they are met from its top, and the helpers.
pub fn reference() -> String {
    let schema = nickel::schema();
    let mut out = HEAD.to_owned();
    let mut waiting = VecDeque::from(["Config"]);
    let mut met: Vec<&str> = Vec::new();
    while let Some(name) = waiting.pop_front() {
        let Some((name, contract)) = schema.contracts.get_key_value(name) else {
            continue;
        };
        if met.contains(&name.as_str()) {
            continue;
        }
        met.push(name);
        section(&mut out, schema, name, contract);
        if let Shape::Record(fields) = &contract.shape {
            waiting.extend(fields.iter().filter_map(|field| inner(&field.kind)));
        }
        // A pod's network has interfaces of its own, in a value that Nickel has no record for.
        if name == "Network" {
            waiting.push_back("Nics");
        }
    }
    out.push_str("\n## Helpers\n\nFunctions, each as `tank.NAME`.\n");
    for (name, contract) in &schema.contracts {
        if matches!(contract.shape, Shape::Helper) {
            let _ = write!(out, "\n### tank.{name}\n\n{}\n", contract.doc.trim());
        }
    }
    out
}

fn section(out: &mut String, schema: &Schema, name: &str, contract: &Contract) {
    let _ = write!(out, "\n## {name}\n\n{}\n", contract.doc.trim());
    match &contract.shape {
        Shape::Record(fields) => {
            for field in fields {
                field_section(out, schema, field);
            }
        }
        Shape::Enum(tags) => {
            let _ = write!(out, "\nOne of {}.\n", one_of(tags));
        }
        Shape::Value | Shape::Helper => {}
    }
}

fn field_section(out: &mut String, schema: &Schema, field: &Field) {
    let kind = match inner(&field.kind).filter(|name| schema.contracts.contains_key(*name)) {
        Some(name) => linked(&field.kind, name),
        None => format!("`{}`", field.kind.text()),
    };
    let default = match &field.default {
        Some(default) => format!(", `{default}` unless given"),
        None if field.required() => ", required".to_owned(),
        None => String::new(),
    };
    let _ = write!(
        out,
        "\n### {}\n\n{kind}{default}. {}\n",
        field.name,
        field.doc.trim()
    );
}

/// A kind with a link to the section of its contract.
fn linked(kind: &Kind, name: &str) -> String {
    let link = format!("[{name}](#{})", name.to_lowercase());
    match kind {
        Kind::Dict(_) => format!("a record of {link} by name"),
        Kind::Array(_) => format!("an array of {link}"),
        _ => link,
    }
}
