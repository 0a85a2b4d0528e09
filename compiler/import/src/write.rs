//! A draft as Nickel, its fields in the order of the contracts.

use super::Draft;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt::Write};
use tank_model::{
    provenance::field,
    schema::{Kind, Schema, Shape},
};

/// The longest line a record or an array is put on.
const WIDTH: usize = 100;

/// Around the name of a variable inside a text: no other text holds this.
pub const MARK: char = '\u{1}';

/// The whole file.
pub fn nickel(draft: &Draft, files: &[String], schema: &Schema) -> String {
    let mut out = format!("# Imported from {}.\n", files.join(", "));
    for remark in &draft.remarks {
        let _ = writeln!(out, "# {remark}");
    }
    if !draft.notes.is_empty() {
        out.push_str("#\n# Not mapped:\n");
        for note in &draft.notes {
            let _ = writeln!(out, "#   {}: {}", one_line(&note.key), one_line(&note.why));
        }
    }
    if !draft.variables.is_empty() {
        out.push_str("let vars = {\n");
        for (name, value) in &draft.variables {
            let name = field(std::slice::from_ref(name));
            match value {
                Some(value) => {
                    let _ = writeln!(out, "  {name} = {},", text(value));
                }
                None => {
                    let _ = writeln!(
                        out,
                        "  # It has no value here: give it one.\n  {name} | String = \"\","
                    );
                }
            }
        }
        out.push_str("}\nin\n");
    }
    let of = |all: &BTreeMap<String, Value>| {
        let all = all.iter().map(|(name, of)| (name.clone(), of.clone()));
        Value::Object(all.collect())
    };
    let mut config = Map::new();
    config.insert("pods".to_owned(), of(&draft.pods));
    if !draft.networks.is_empty() {
        config.insert("networks".to_owned(), of(&draft.networks));
    }
    if !draft.shared.declared.is_empty() {
        config.insert("volumes".to_owned(), of(&draft.shared.declared));
    }
    if let Some(stack) = &draft.stack {
        config.insert("stack".to_owned(), stack.clone().into());
    }
    let kind = Kind::Named("Config".to_owned());
    out.push_str(&Printer(schema).value(&Value::Object(config), &kind, 0));
    out.push('\n');
    out
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prints values as the contracts of a schema order and name them.
struct Printer<'a>(&'a Schema);

impl Printer<'_> {
    /// A value of a kind, indented for its place.
    fn value(&self, value: &Value, kind: &Kind, indent: usize) -> String {
        match value {
            Value::String(word) if self.is_tag(kind, word) => format!("'{word}"),
            Value::String(word) => text_at(word, indent),
            Value::Array(items) => self.array(items, indent),
            Value::Object(fields) => self.object(fields, kind, indent),
            scalar => scalar.to_string(),
        }
    }

    fn is_tag(&self, kind: &Kind, word: &str) -> bool {
        let Kind::Named(name) = kind else {
            return false;
        };
        match self.0.contracts.get(name).map(|contract| &contract.shape) {
            Some(Shape::Enum(tags)) => tags.iter().any(|tag| tag == word),
            _ => name == "Network",
        }
    }

    fn array(&self, items: &[Value], indent: usize) -> String {
        let printed: Vec<String> = items
            .iter()
            .map(|item| self.value(item, &Kind::String, indent + 1))
            .collect();
        let line = format!("[{}]", printed.join(", "));
        if line.len() + indent * 2 <= WIDTH && !line.contains('\n') {
            return line;
        }
        let pad = "  ".repeat(indent + 1);
        let lines: String = printed
            .iter()
            .map(|item| format!("{pad}{item},\n"))
            .collect();
        format!("[\n{lines}{}]", "  ".repeat(indent))
    }

    fn object(&self, fields: &Map<String, Value>, kind: &Kind, indent: usize) -> String {
        if fields.is_empty() {
            return "{}".to_owned();
        }
        let printed = self.entries(fields, kind, indent + 1);
        let line = format!("{{ {} }}", printed.join(", "));
        let simple = fields
            .values()
            .all(|value| value.as_object().is_none_or(|inner| inner.len() <= 2));
        if line.len() + indent * 2 <= WIDTH && !line.contains('\n') && simple && indent > 1 {
            return line;
        }
        let pad = "  ".repeat(indent + 1);
        let lines: String = printed
            .iter()
            .map(|entry| format!("{pad}{entry},\n"))
            .collect();
        format!("{{\n{lines}{}}}", "  ".repeat(indent))
    }

    /// Every field as `name = value`, those with a single field inside as `name.inner = value`.
    fn entries(&self, fields: &Map<String, Value>, kind: &Kind, indent: usize) -> Vec<String> {
        let known = match kind {
            Kind::Named(name) => self.0.record(if name == "Network" { "Nics" } else { name }),
            _ => None,
        };
        let order =
            |name: &str| known.and_then(|known| known.iter().position(|field| field.name == name));
        let mut names: Vec<&String> = fields.keys().collect();
        names.sort_by_key(|name| (order(name).unwrap_or(usize::MAX), (*name).clone()));
        let entry = |name: &String| {
            let mut path = vec![name.clone()];
            let mut kind = self.inner_kind(kind, name);
            let mut value = &fields[name];
            // One field inside: no braces for it. Names of the user's keep theirs, so that the next one
            // fits beside it.
            while let Value::Object(inner) = value
                && let (1, Some((name, only))) = (inner.len(), inner.iter().next())
                && !matches!(kind, Kind::Named(ref of) if of == "Pod")
                && path.len() < 3
            {
                path.push(name.clone());
                kind = self.inner_kind(&kind, name);
                value = only;
            }
            format!("{} = {}", field(&path), self.value(value, &kind, indent))
        };
        names.into_iter().map(entry).collect()
    }

    fn inner_kind(&self, kind: &Kind, name: &str) -> Kind {
        match kind {
            Kind::Dict(of) => (**of).clone(),
            Kind::Named(record) => {
                let record = if record == "Network" { "Nics" } else { record };
                let fields = self.0.record(record).unwrap_or_default();
                fields
                    .iter()
                    .find(|field| field.name == name)
                    .map_or(Kind::String, |field| field.kind.clone())
            }
            other => other.clone(),
        }
    }
}

fn text_at(word: &str, indent: usize) -> String {
    let lines = word.trim_end_matches('\n').matches('\n').count();
    if lines == 0 || word.contains(MARK) || word.contains('\r') || word.contains("\"%") {
        return text(word);
    }
    // Nickel takes the common indentation away, and the line break before the end with it.
    let pad = "  ".repeat(indent + 1);
    let first_is_indented = word
        .lines()
        .all(|line| line.is_empty() || line.starts_with([' ', '\t']));
    if first_is_indented || word.ends_with(' ') {
        return text(word);
    }
    let percent = if word.contains("%{") { "%%" } else { "%" };
    if word.contains("%%{") || word.contains("\"%%") {
        return text(word);
    }
    let body: String = word
        .split('\n')
        .map(|line| {
            if line.is_empty() {
                "\n".to_owned()
            } else {
                format!("{pad}{line}\n")
            }
        })
        .collect();
    let body = body.strip_suffix('\n').unwrap_or(&body);
    let end = format!("\n{}", "  ".repeat(indent));
    format!("m{percent}\"\n{body}{end}\"{percent}")
}

/// A text in quotes, its variables as interpolations.
fn text(word: &str) -> String {
    let mut out = String::from("\"");
    let mut parts = word.split(MARK);
    let literal = |out: &mut String, part: &str| {
        let mut chars = part.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '%' if chars.peek() == Some(&'{') => out.push_str("\\%"),
                c if c.is_control() => {
                    let _ = write!(out, "\\u{{{:x}}}", c as u32);
                }
                c => out.push(c),
            }
        }
    };
    if let Some(first) = parts.next() {
        literal(&mut out, first);
    }
    while let (Some(variable), Some(part)) = (parts.next(), parts.next()) {
        let _ = write!(out, "%{{vars.{}}}", field(&[variable.to_owned()]));
        literal(&mut out, part);
    }
    out.push('"');
    out
}
