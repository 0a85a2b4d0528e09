//! Fields by less than their whole path, wherever they are: `size` of a volume, `backup.every`.

use super::{Found, find, has, inner, page};
use std::collections::{BTreeSet, VecDeque};
use tank_model::schema::{Field, Kind, Schema};

/// The most fields of one name that are shown: more would be no answer.
const MAX_SHOWN: usize = 4;

/// Their pages. None: there is no such field, or there are too many; or what a path begins with is where it begins.
pub(super) fn pages(schema: &Schema, parts: &[&str]) -> Option<String> {
    let (first, rest) = parts.split_first()?;
    let mut tops = ["Config", "Pod", "Container"].into_iter();
    // It would be a pod's name else, and what follows a container's.
    let is_inside = !rest.is_empty() && !tops.any(|record| has(schema, record, first));
    if !is_inside && find(schema, parts).is_ok() {
        return None;
    }
    let fields = within(schema, parts);
    let pages = fields.iter().map(|(heading, field)| {
        let mut out = String::new();
        page(&mut out, schema, heading, &Found::Field(field));
        out
    });
    let pages: Vec<String> = pages.collect();
    (!pages.is_empty()).then(|| pages.join("\n"))
}

/// The fields whose paths, without names that users choose, end in these names: each with its heading. Of a record that is in
/// several places the first counts.
fn within<'s>(schema: &'s Schema, parts: &[&str]) -> Vec<(String, &'s Field)> {
    let mut found = Vec::new();
    let mut known = BTreeSet::from(["Config"]);
    let mut left = VecDeque::from([("Config", Vec::new(), String::new())]);
    while let Some((record, path, heading)) = left.pop_front() {
        for field in schema.record(record).unwrap_or_default() {
            let mut own = path.clone();
            own.push(field.name.as_str());
            let at = match heading.as_str() {
                "" => field.name.clone(),
                heading => format!("{heading}.{}", field.name),
            };
            if own.ends_with(parts) {
                found.push((at.clone(), field));
            }
            let inside = match inner(&field.kind) {
                Some("Network") => "Nics",
                Some(inside) => inside,
                None => continue,
            };
            if known.insert(inside) {
                let below = match field.kind {
                    Kind::Dict(_) => format!("{at}.NAME"),
                    _ => at,
                };
                left.push_back((inside, own, below));
            }
        }
    }
    match found.len() {
        ..=MAX_SHOWN => found,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::manual::field_page;

    #[test]
    fn a_field_is_found_without_its_place() {
        for (path, heads) in [
            (
                "size",
                &["pods.NAME.volumes.NAME.size  ", "volumes.NAME.size  "][..],
            ),
            ("backup", &["pods.NAME.volumes.NAME.backup  "]),
            ("backup.every", &["pods.NAME.volumes.NAME.backup.every  "]),
            ("snapshots", &["pods.NAME.volumes.NAME.snapshots  "]),
            (
                "timeout",
                &[
                    "pods.NAME.containers.NAME.stop.timeout  ",
                    "pods.NAME.volumes.NAME.backup.before.timeout  ",
                ],
            ),
        ] {
            let page = field_page(path).expect(path);
            for head in heads {
                let has = page.lines().any(|line| line.starts_with(head));
                assert!(has, "{path}: {page}");
            }
        }
    }
}
