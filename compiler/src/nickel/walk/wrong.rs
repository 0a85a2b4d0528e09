//! Values of another type than the contract's, and what to write in their place.

use super::{Walk, elsewhere};
use crate::{
    nickel::{Written, annotations::annotated},
    schema,
};
use nickel_lang_core::eval::value::NickelValue;
use tank_model::schema::Kind;

impl Walk<'_> {
    pub(super) fn wrong(&mut self, value: &NickelValue, kind: &Kind, path: &[String]) {
        if value.type_of() == Some("Type") && self.annotation(kind, path) {
            return;
        }
        let found = match value.type_of() {
            _ if value.is_null() => "null".to_owned(),
            Some("Number") => "a number".to_owned(),
            Some("String") => "a text".to_owned(),
            Some("Bool") => "a boolean".to_owned(),
            Some("Record") => "a record".to_owned(),
            Some("Array") => "an array".to_owned(),
            Some("EnumTag") => "a tag".to_owned(),
            Some("Function" | "MatchExpression" | "CustomContract") => "a function".to_owned(),
            Some("Type") => "a type".to_owned(),
            other => other.unwrap_or("something else").to_lowercase(),
        };
        let help = match (value.is_null(), kind) {
            (true, _) => self.in_place_of_null(kind, path),
            (false, Kind::Dict(_)) => self.names_of(value, path).unwrap_or_default(),
            _ => String::new(),
        };
        let help = match help.is_empty() {
            true => help_for(value, kind, path),
            false => help,
        };
        let wanted = schema::words(kind, self.schema);
        let field = subject(path);
        let message = format!("{field} is {found}, not {wanted}");
        self.report("tank::value::type", path, message, help);
    }

    /// What to write in the place of names in a list, or of one that is a text, where each is a field.
    fn names_of(&mut self, value: &NickelValue, path: &[String]) -> Option<String> {
        let field = path.last()?;
        let written = match value.as_array() {
            None => vec![value.clone()],
            Some(array) => {
                let elements = array.iter_with_pending_contracts(value.pos_idx()).take(2);
                let elements: Vec<NickelValue> = elements.collect();
                let forced = elements.into_iter();
                forced
                    .filter_map(|element| self.force(element, path))
                    .collect()
            }
        };
        let text = |one: &NickelValue| {
            let json = serde_json::to_value(one).ok()?;
            json.as_str().map(str::to_owned)
        };
        let names: Vec<String> = written.iter().filter_map(text).collect();
        elsewhere::field_for_each(field, &names)
    }

    /// What an empty one is called in the file that has none.
    fn in_place_of_null(&self, kind: &Kind, path: &[String]) -> String {
        let empty = match kind {
            Kind::Dict(_) => "{}",
            Kind::Named(of) if self.schema.record(of).is_some() => "{}",
            Kind::Array(_) => "[]",
            _ => return "give it a value, or leave the field out".to_owned(),
        };
        let (Some(field), None) = (
            path.last(),
            path.last().and_then(|f| f.parse::<usize>().ok()),
        ) else {
            return format!("write `{empty}`");
        };
        let written = self.out.written(path);
        let source = written.and_then(|at| self.session.sources.list.get(at.place.source));
        match source.and_then(|source| source.name.rsplit('.').next()) {
            Some("yaml" | "yml") => format!("write `{field}: {empty}`"),
            Some("json") => format!("write `\"{field}\": {empty}`"),
            _ => format!("write `{field} = {empty}`"),
        }
    }

    /// A record whose fields have types and no values is a type by itself: whether one was found, and
    /// reported at the field that it begins with.
    fn annotation(&mut self, kind: &Kind, path: &[String]) -> bool {
        let Some(written) = self.out.places.get(path).cloned() else {
            return false;
        };
        let Some(source) = self.session.sources.list.get(written.place.source) else {
            return false;
        };
        // What was left out of the text has its own problem.
        let repaired = self.session.repaired.texts.iter();
        let mut repaired =
            repaired.filter(|(file, _)| crate::nickel::shown_path(file) == source.name);
        let text = match repaired.next() {
            Some((_, (text, _))) => text.clone(),
            None => source.text.clone(),
        };
        let Some((name, range)) = annotated(&text, written.place.range.clone()) else {
            return false;
        };
        let mut place = written.place.clone();
        place.range = range;
        let at = Written {
            place,
            via: None,
            leaf: true,
        };
        let before = self.out.places.insert(path.to_vec(), at);
        let wanted = schema::words(kind, self.schema);
        let message = format!(
            "{} is a type, not {wanted}: `{name}` has a type and no value",
            subject(path)
        );
        let help = crate::nickel::annotations::help(&name);
        self.report("tank::value::type", path, message, help);
        self.out
            .places
            .extend(before.map(|before| (path.to_vec(), before)));
        true
    }
}

/// What a value is called: its field, or that it is an entry of one.
fn subject(path: &[String]) -> String {
    let named = path
        .iter()
        .rev()
        .find(|part| part.parse::<usize>().is_err());
    match (named, path.last()) {
        (Some(field), Some(last)) if field == last => format!("`{field}`"),
        (Some(field), _) => format!("an entry of `{field}`"),
        (None, _) => "`the configuration`".to_owned(),
    }
}

fn help_for(value: &NickelValue, kind: &Kind, path: &[String]) -> String {
    let field = path.last().map_or("the configuration", String::as_str);
    match (kind, value.type_of()) {
        (Kind::Named(of), Some("String" | "Number")) if of == "Publish" => {
            let written = serde_json::to_value(value).unwrap_or_default();
            elsewhere::published(field, &written)
        }
        (Kind::Named(of), Some("String"))
            if matches!(of.as_str(), "Dns" | "Volume" | "SharedVolume" | "File") =>
        {
            let written = serde_json::to_value(value).unwrap_or_default();
            elsewhere::record(of, field, written.as_str().unwrap_or_default()).unwrap_or_default()
        }
        (Kind::Named(of), Some("EnumTag")) if of == "Peer" => {
            let tag = value.as_enum_tag();
            let tag = tag.map(|tag| tag.label().to_owned()).unwrap_or_default();
            let list = path.iter().rev().nth(1).map_or("egress", String::as_str);
            match tag.as_str() {
                "all" | "none" => format!("write it without the list: `{list} = '{tag}`"),
                _ => format!("write `\"{tag}\"`: what is in the list is a text"),
            }
        }
        (Kind::Named(of), Some("Array" | "String")) if of == "Hook" => {
            format!("write `{field}.exec = [\"PROGRAM\", \"ARGUMENT\"]`")
        }
        (Kind::Named(of), Some("String")) if of == "Backup" => {
            format!("write `{field} = {{ to = \"/srv/backups\", every = \"1d\" }}`")
        }
        (Kind::Named(of), Some("Array")) if of == "Dns" => {
            elsewhere::record(of, field, "").unwrap_or_default()
        }
        (Kind::Array(_), Some("String")) => "put it into brackets: `[\"…\"]`".to_owned(),
        (Kind::String, Some("Number" | "Bool")) => "put it into quotes".to_owned(),
        (Kind::Bool, Some("String")) => {
            let written = serde_json::to_value(value).unwrap_or_default();
            let meant = written.as_str().and_then(elsewhere::boolean);
            let meant = meant.map(|meant| format!("write `{field} = {meant}`"));
            meant.unwrap_or_else(|| "write `true` or `false`".to_owned())
        }
        (Kind::Dict(of), Some("Array" | "String")) => match of.as_ref() {
            Kind::Named(of) if of == "Publish" => elsewhere::PUBLISH_HERE.to_owned(),
            _ => "a record keyed by name merges across files: `{ name = … }`".to_owned(),
        },
        (_, Some("Function" | "MatchExpression")) => {
            "apply the function to its arguments".to_owned()
        }
        (_, Some("Type")) => "a value comes after `=`, and a type after `:`".to_owned(),
        _ => String::new(),
    }
}
