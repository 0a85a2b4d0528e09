//! What differs between two graphs, field by field, for people and for `--json`.
//!
//! This compares what was *declared*; the planner decides what it costs the host.

use crate::graph::{Entry, Graph, Key};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One node that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChange {
    /// Which node.
    pub key: Key,
    /// How it differs.
    #[serde(flatten)]
    pub what: What,
}

/// How a node differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum What {
    /// Only the newer graph has it.
    Added,
    /// Only the older graph has it.
    Removed,
    /// Both have it, with different content.
    Modified {
        /// The fields that differ, sorted by path.
        fields: Vec<FieldChange>,
    },
}

/// One field, by its path within the node. None: it was or is not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Parts joined by dots.
    pub field: String,
    /// The older value.
    pub before: Option<Value>,
    /// The newer value.
    pub after: Option<Value>,
}

/// What has to change to get from `before` to `after`, in the order of the keys. Nodes that differ
/// only in what they need are left out: that is listed where it happened. Equal pods are recognised
/// by their hash and not looked into.
pub fn diff(before: &Graph, after: &Graph) -> Vec<NodeChange> {
    if before.root() == after.root() {
        return Vec::new();
    }
    let untouched: BTreeSet<_> = after
        .pods()
        .filter(|pod| {
            let hash = |graph: &Graph| graph.get(&Key::Pod((*pod).clone())).map(|entry| entry.hash);
            hash(before) == hash(after)
        })
        .collect();
    let concerns = |key: &Key| key.pod().is_none_or(|pod| !untouched.contains(pod));
    let of = |graph: &'_ Graph| -> BTreeMap<Key, Entry> {
        let entries = graph.entries().filter(|entry| concerns(&entry.key));
        entries
            .map(|entry| (entry.key.clone(), entry.clone()))
            .collect()
    };
    let (old, new) = (of(before), of(after));
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter_map(|key| compare(key, old.get(key), new.get(key)))
        .collect()
}

fn compare(key: &Key, old: Option<&Entry>, new: Option<&Entry>) -> Option<NodeChange> {
    let what = match (old, new) {
        (None, Some(_)) => What::Added,
        (Some(_), None) => What::Removed,
        (Some(old), Some(new)) if old.node != new.node => What::Modified {
            fields: field_changes(&payload(old), &payload(new)),
        },
        _ => return None,
    };
    Some(NodeChange {
        key: key.clone(),
        what,
    })
}

/// The node's own fields, without the tag that says which kind it is.
fn payload(entry: &Entry) -> Value {
    match serde_json::to_value(&entry.node) {
        Ok(Value::Object(fields)) => fields
            .into_iter()
            .next()
            .map_or(Value::Null, |(_, value)| value),
        _ => Value::Null,
    }
}

/// The leaves in which two JSON values differ. Objects are descended into, arrays are compared
/// whole. An empty object is a leaf where the other value has nothing below it: `networks.back = {}`.
pub fn field_changes(before: &Value, after: &Value) -> Vec<FieldChange> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten(before, String::new(), &mut old);
    flatten(after, String::new(), &mut new);
    let fields: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let is_below = |field: &str, leaves: &BTreeMap<String, Value>| {
        let first = format!("{field}.");
        let next = leaves.range(first.clone()..).next();
        next.is_some_and(|(leaf, _)| leaf.starts_with(&first))
    };
    let is_empty = |value: Option<&Value>| {
        value.is_some_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty))
    };
    let differing = fields.into_iter().filter(|field| {
        let (before, after) = (old.get(*field), new.get(*field));
        let is_filled = (is_empty(before) && is_below(field, &new))
            || (is_empty(after) && is_below(field, &old));
        before != after && !is_filled
    });
    differing
        .map(|field| FieldChange {
            field: field.clone(),
            before: old.get(field).cloned(),
            after: new.get(field).cloned(),
        })
        .collect()
}

fn flatten(value: &Value, path: String, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() || path.is_empty() => {
            for (name, field) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(field, path, out);
            }
        }
        Value::Null => {}
        leaf => {
            out.insert(path, leaf.clone());
        }
    }
}
