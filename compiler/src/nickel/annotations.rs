//! `name: value`, as JSON and YAML have it. In Nickel that is a type, or a contract's, and no value.

use crate::diagnostics::{Problem, SourceText};
use std::ops::Range;

/// What to write in the place of `name: …`.
pub(super) fn help(name: &str) -> String {
    format!("write `{name} = …`: a field's value comes after `=`, and not `:`")
}

/// The first field of a stretch of text that has a type and no value, its name and where that is.
pub(super) fn annotated(text: &str, within: Range<usize>) -> Option<(String, Range<usize>)> {
    let part = text.get(within.clone())?;
    let mut quoted = false;
    let mut comment = false;
    for (at, c) in part.char_indices() {
        match c {
            '\n' => comment = false,
            _ if comment => {}
            '"' => quoted = !quoted,
            '#' if !quoted => comment = true,
            ':' if !quoted => {
                let start = within.start;
                if let Some((name, range)) = name_before(text, start + at)
                    && range.start >= start
                {
                    return Some((name, range));
                }
            }
            _ => {}
        }
    }
    None
}

/// The name of a field that ends before a `:`.
fn name_before(text: &str, colon: usize) -> Option<(String, Range<usize>)> {
    let before = text.get(..colon)?.trim_end();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '\'' | '.' | '"');
    let name = before.rsplit(|c: char| !is_name(c)).next()?;
    let begins = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '"');
    name.starts_with(begins)
        .then(|| (name.to_owned(), before.len() - name.len()..before.len()))
}

/// Says of mistakes in types of fields what was probably meant.
pub(super) fn explain(problem: &mut Problem, sources: &[SourceText]) {
    let name = problem.labels.iter().find_map(|label| {
        let text = &sources.get(label.place.source)?.text;
        let before = text.get(..label.place.range.start)?.trim_end();
        let before = before.strip_suffix(':')?;
        (!before.ends_with(':')).then(|| name_before(text, before.len()))?
    });
    let Some((name, _)) = name else { return };
    problem.help = Some(help(&name));
    problem.message = match problem.labels.len() {
        // The name and the type, or the type alone.
        2.. => format!("`{name}` has a type and no value"),
        _ => format!("what follows `{name}:` is a type, and this can't be one"),
    };
}

/// What to say of a Nickel file that begins as YAML does.
pub(super) fn yaml(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim_end);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let key = first
        .strip_suffix(':')
        .or_else(|| first.split_once(": ").map(|(key, _)| key));
    let is_key = |key: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(legal)
    };
    (first == "---" || key.is_some_and(is_key)).then_some(
        "is this YAML? call the file `.yaml`; a Compose file, or Kubernetes manifests, are for `tank import FILE`",
    )
}

#[cfg(test)]
mod tests {
    use super::{annotated, yaml};

    #[test]
    fn fields_with_types_and_no_values_are_found() {
        for (text, expected) in [
            ("{ pods: { web = {} } }", Some("pods")),
            ("{ # x: y\n a.b : {} }", Some("a.b")),
            ("{ image = \"a:1\" }", None),
            ("{ a = x::Y }", Some("x")),
        ] {
            let found = annotated(text, 0..text.len()).map(|(name, _)| name);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn yaml_is_told_from_nickel() {
        for text in ["pods:\n  web:\n", "# x\n---\na: b\n", "name: shop\n"] {
            assert!(yaml(text).is_some(), "{text}");
        }
        for text in [
            "{ pods: {} }",
            "let a: Number = 1 in {}",
            "{\n pods:\n}",
            "",
            "fun x => x",
        ] {
            assert!(yaml(text).is_none(), "{text}");
        }
    }
}
