//! The mistakes a walk finds in the shape of a configuration, and what they say.

use super::{Walk, elsewhere};
use crate::{
    nickel::{Written, shown_path},
    schema,
};
use nickel_lang_core::{eval::value::NickelValue, identifier::LocIdent};
use std::collections::BTreeSet;
use tank_model::{
    Name,
    name::nearest,
    schema::{Field, Kind},
};

impl Walk<'_> {
    /// A field that is declared and has no value.
    pub(super) fn undefined(&mut self, name: LocIdent, path: &[String]) {
        self.note_name(name, path);
        let message = format!("`{}` is declared and has no value", name.label());
        self.report(
            "tank::field::missing",
            path,
            message,
            "give it one in this file or in one merged with it",
        );
    }

    pub(super) fn unknown(
        &mut self,
        name: LocIdent,
        contract: &str,
        known: &[Field],
        path: &[String],
    ) {
        self.note_name(name, path);
        let what = schema::noun(contract);
        let message = format!("{what} has no field `{}`", name.label());
        let near = nearest(name.label(), known.iter().map(|field| field.name.as_str()));
        let help = match (elsewhere::here(contract, name.label()), near) {
            (Some(help), _) => help.to_owned(),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) if known.is_empty() => "it has no fields: write `{}`".to_owned(),
            (None, None) => {
                let names: Vec<&str> = known.iter().map(|field| field.name.as_str()).collect();
                format!("its fields are {}", names.join(", "))
            }
        };
        self.report("tank::field::unknown", path, message, help);
    }

    /// Whether a field of this record did not parse and was left out: then it is not missing.
    fn was_left_out(&mut self, record: &NickelValue, path: &[String]) -> bool {
        let place = self.session.context.pos_table.get(record.pos_idx());
        let place = self.session.place(place);
        let near = place
            .clone()
            .or_else(|| self.out.written(path).map(|written| written.place.clone()));
        near.is_some_and(|place| {
            let name = self
                .session
                .sources
                .list
                .get(place.source)
                .map(|source| source.name.clone());
            self.session.repaired.holes.iter().any(|(file, hole)| {
                name.as_deref() == Some(shown_path(file).as_str())
                    && place.range.start <= hole.start
                    && hole.end <= place.range.end
            })
        })
    }

    /// Reports the required fields of a record that are not given. A misspelt name is one mistake,
    /// not two: the field it is nearest to is not missing.
    pub(super) fn missing_fields(
        &mut self,
        value: &NickelValue,
        (contract, contract_fields): (&str, &[Field]),
        (given, unknown): (&BTreeSet<String>, &[String]),
        path: &mut Vec<String>,
    ) {
        for missing in contract_fields
            .iter()
            .filter(|field| field.required() && !given.contains(&field.name))
        {
            let misspelt = |given: &String| {
                nearest(given, contract_fields.iter().map(|f| f.name.as_str()))
                    == Some(&missing.name)
            };
            if unknown.iter().any(misspelt) {
                path.push(missing.name.clone());
                self.out.poisoned.insert(path.clone());
                path.pop();
            } else {
                self.missing(missing, contract, value, path);
            }
        }
    }

    fn missing(
        &mut self,
        field: &Field,
        contract: &str,
        record: &NickelValue,
        path: &mut Vec<String>,
    ) {
        let in_hole = self.was_left_out(record, path);
        let owner = path
            .last()
            .cloned()
            .unwrap_or_else(|| "the configuration".to_owned());
        path.push(field.name.clone());
        if in_hole {
            self.out.poisoned.insert(path.clone());
        } else {
            let message = format!("`{owner}` has no `{}`", field.name);
            let help = example(&field.doc)
                .map_or_else(String::new, |example| format!("for example `{example}`"));
            let code = match contract {
                "HttpProbe" | "TcpProbe" => "tank::probe::no_port",
                "Container" => "tank::container::no_image",
                _ => "tank::field::missing",
            };
            // The whole record would be a long snippet: its name says where.
            if let Some(name) = self.out.names.get(&path[..path.len() - 1]).cloned() {
                let via = self
                    .out
                    .written(&path[..path.len() - 1])
                    .and_then(|written| written.via.clone());
                self.out.places.insert(
                    path.clone(),
                    Written {
                        place: name,
                        via,
                        leaf: false,
                    },
                );
            }
            self.report(code, path, message, help);
            self.out.places.remove(path);
        }
        path.pop();
    }
}

/// The first line of the example in a field's doc.
fn example(doc: &str) -> Option<&str> {
    doc.split("```nickel")
        .nth(1)?
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
}

/// What to call an entry of a record of this kind instead.
pub(super) fn suggested_key(of: &Kind, text: &str) -> String {
    let group = match of {
        Kind::Named(name) if name == "Pod" => Some("pods"),
        Kind::Named(name) if name == "NamedNetwork" => Some("networks"),
        Kind::Named(name) if name == "SharedVolume" => Some("volumes"),
        _ => None,
    };
    match (group, Name::of_pod(text)) {
        (Some(group), Ok(name)) if name.stack().is_some() => format!(
            "write `stack = \"{}\"` beside `{group}`, and `{group}.{}`",
            name.stack().unwrap_or_default(),
            name.local()
        ),
        _ => suggested_name(text),
    }
}

/// The nearest legal name.
fn suggested_name(text: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = text.chars().map(legal).take(63).collect();
    let name = name.trim_matches('-').to_owned();
    match Name::new(&name) {
        Ok(name) => format!("for example `{name}`"),
        Err(_) => "for example `web-1`".to_owned(),
    }
}
