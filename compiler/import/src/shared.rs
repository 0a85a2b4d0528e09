//! Volumes that several pods have: what is the same in every dialect.

use super::{Draft, fresh, name_of};
use serde_json::{Map, Value, json};

/// Volumes of a source that several of its pods have, and what they are called here.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What is at `volumes`, in the shape of the contracts.
    pub declared: std::collections::BTreeMap<String, Value>,
    /// By their names in the source.
    names: std::collections::BTreeMap<String, String>,
}

impl Draft {
    /// A pod's volume which is the source's `wanted`, declared beside the pods where that was not done
    /// yet: `of` are the fields it has there. What a second use says otherwise is noted.
    pub(crate) fn shared(&mut self, key: &str, wanted: &str, of: Value) -> Value {
        if let Some(name) = self.shared.names.get(wanted) {
            let name = name.clone();
            if self.shared.declared.get(&name) != Some(&of) {
                let why = "several use this volume, and not all of them with `nocopy`: it begins with what the image has";
                self.note(key, why);
                // Which of them starts first is not said here; what is lost would be content.
                let mut both = json!({});
                if let Some(size) = of.get("size") {
                    both["size"] = size.clone();
                }
                self.shared.declared.insert(name.clone(), both);
            }
            return json!({ "shared": name });
        }
        let taken = self.shared.declared.keys();
        let taken: Map<String, Value> = taken.map(|name| (name.clone(), Value::Null)).collect();
        let name = fresh(&taken, &name_of(wanted));
        if name != wanted {
            let remark = format!("The volume `{wanted}` is called `{name}`.");
            self.remarks.push(remark);
        }
        self.shared.declared.insert(name.clone(), of);
        self.shared.names.insert(wanted.to_owned(), name.clone());
        json!({ "shared": name })
    }
}
