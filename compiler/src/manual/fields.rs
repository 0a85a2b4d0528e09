//! Every field there is a page of, for whoever completes what is typed.

use super::{inner, summary};
use crate::nickel;
use tank_model::schema::Schema;

/// The longest path of [`fields`], in names.
const MAX_PATH: usize = 6;

/// The path of every field that [`field_page`](super::field_page) has a page of, without names that users choose, and its
/// doc's first sentence.
pub fn fields() -> Vec<(String, String)> {
    let mut found = Vec::new();
    fields_of(nickel::schema(), "Config", "", &mut found);
    found
}

fn fields_of(schema: &Schema, record: &str, path: &str, found: &mut Vec<(String, String)>) {
    for field in schema.record(record).unwrap_or_default() {
        let path = match path {
            "" => field.name.clone(),
            path => format!("{path}.{}", field.name),
        };
        found.push((path.clone(), summary(&field.doc)));
        if let Some(inside) = inner(&field.kind)
            && path.split('.').count() < MAX_PATH
        {
            fields_of(schema, inside, &path, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manual::field_page;

    #[test]
    fn every_field_has_its_page_and_every_record_ends() {
        let fields = fields();
        for (path, _) in &fields {
            let page = field_page(path).expect("a page");
            let name = path.rsplit('.').next().expect("a name");
            assert!(page.contains(name), "{path}: {page}");
        }
        let has = |path: &str| fields.iter().any(|(known, _)| known == path);
        assert!(has("pods.containers.limits.memory") && has("volumes.owner") && !has("web"));
        assert!(fields.len() < 1_000, "{}", fields.len());
    }
}
