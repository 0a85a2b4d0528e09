//! The sizes of named volumes.

use super::{
    super::{size_of, text_of},
    Compose,
    storage::managed,
};
use serde_json::Value;

impl Compose<'_> {
    /// A named volume that Tank keeps.
    pub(super) fn kept(&self, volume: &str, no_copy: bool) -> Value {
        let mut kept = managed(no_copy);
        if let Some(size) = self.size(volume) {
            kept["size"] = size;
        }
        kept
    }

    /// The most that a named volume may take, where that is all that the local driver's options say.
    pub(super) fn size(&self, volume: &str) -> Option<Value> {
        let options = self.whole.get("volumes")?.get(volume)?.get("driver_opts")?;
        let only = options.as_object()?.len() == 1;
        let size = options.get("size").and_then(text_of).filter(|_| only)?;
        size_of(&size)
    }
}
