//! Scalars as Compose reads them: texts with variables, and booleans.

use super::Compose;
use crate::{text_of, write::MARK};
use serde_json::Value;

impl Compose<'_> {
    /// A text with its `${VARIABLES}` marked, for the writer to interpolate.
    pub(super) fn text(&mut self, text: &str) -> String {
        self.interpolate(text, true)
    }

    /// A text with its variables replaced by the values they have here; none where one has no
    /// value.
    pub(super) fn plain(&mut self, text: &str) -> Option<String> {
        let replaced = self.interpolate(text, false);
        (!replaced.contains(MARK)).then_some(replaced)
    }

    /// Compose's `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR:?error}`, `${VAR:+other}` and `$$`.
    fn interpolate(&mut self, text: &str, keep: bool) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let (name, default, after) = if let Some(inner) = rest.strip_prefix('{') {
                let Some(end) = inner.find('}') else {
                    out.push('$');
                    continue;
                };
                let body = &inner[..end];
                let split = body.find([':', '-', '?', '+']).unwrap_or(body.len());
                let modifier = body[split..].trim_start_matches(':');
                let default = modifier.strip_prefix('-').map(str::to_owned);
                (body[..split].to_owned(), default, &inner[end + 1..])
            } else {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                (rest[..end].to_owned(), None, &rest[end..])
            };
            rest = after;
            if name.is_empty() {
                out.push('$');
                continue;
            }
            let value = self.environment.get(&name).cloned().or(default);
            match (&value, keep) {
                (Some(value), false) => out.push_str(value),
                _ => {
                    out.extend([MARK]);
                    out.push_str(&name);
                    out.extend([MARK]);
                    if keep {
                        let known = self.draft.variables.entry(name).or_insert(None);
                        *known = known.take().or(value);
                    }
                }
            }
        }
        out.push_str(rest);
        out
    }

    /// A boolean, or a text that Compose takes for one; false where there is none. What is neither is
    /// refused, as by Compose: to take it for false would open what it closes (`internal`, `read_only`).
    pub(super) fn flag(&mut self, path: &str, value: &Value) -> bool {
        let read = match value {
            Value::Null => Some(false),
            value => text_of(value)
                .and_then(|text| self.plain(&text))
                .and_then(|text| boolean(&text)),
        };
        read.unwrap_or_else(|| {
            let written = text_of(value).unwrap_or_else(|| value.to_string());
            let why = match written.contains('$') {
                true => format!("`{written}` has no value here that is `true` or `false`"),
                false => format!("`{written}` is neither `true` nor `false`"),
            };
            self.draft.refuse(path, why);
            false
        })
    }

    /// Whether a network or a volume is of another project. Files before version 3.5 have it as
    /// `external: { name: x }`.
    pub(super) fn is_external(&mut self, path: &str, value: &Value) -> bool {
        value.is_object() || self.flag(path, value)
    }

    /// A boolean of some fields, as [`Self::flag`] has it; none where it is not given.
    pub(super) fn flag_of(&mut self, path: &str, fields: &Value, key: &str) -> Option<bool> {
        let value = fields.get(key)?;
        Some(self.flag(&format!("{path}.{key}"), value))
    }
}

/// As compose-go casts a text to a boolean: YAML 1.1's words, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" => Some(true),
        "false" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}
