//! `.volume` files.

use super::{
    super::{Draft, size_of},
    units::Entry,
};
use serde_json::{Value, json};

/// A `.volume` file: without options it is what Tank makes anyway.
pub(super) fn volume(file: &str, entries: &[Entry], draft: &mut Draft) -> Value {
    let mut volume = json!({});
    let (mut user, mut group) = (None, None);
    for (section, key, value) in entries {
        let known = match (section.as_str(), key.as_str()) {
            ("Unit" | "Install", _) | (_, "VolumeName" | "Label") => true,
            (_, "User") => {
                user = value.parse::<u16>().ok();
                user.is_some()
            }
            (_, "Group") => {
                group = value.parse::<u16>().ok();
                group.is_some()
            }
            (_, "Options") => {
                let size = value.strip_prefix("size=").and_then(size_of);
                let is_alone = !entries
                    .iter()
                    .any(|(_, key, _)| key == "Device" || key == "Type");
                let size = size.filter(|_| is_alone);
                let known = size.is_some();
                size.into_iter().for_each(|size| volume["size"] = size);
                known
            }
            (_, "Copy") => {
                if value == "false" {
                    volume["no_copy"] = true.into();
                }
                true
            }
            _ => false,
        };
        if !known {
            draft.note(format!("{file}.{section}.{key}"), "Tank has no such key");
        }
    }
    if user.or(group).is_some() {
        let owner = format!("{}:{}", user.unwrap_or(0), group.unwrap_or(0));
        volume["owner"] = owner.into();
    }
    volume
}
