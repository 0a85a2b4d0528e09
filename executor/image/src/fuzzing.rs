//! What a fuzzer feeds (feature `fuzzing`, see `fuzz/`): the parsers of what a registry or a layout
//! sends, without network, disk or clock. None may panic, whatever the bytes are.

use crate::document::{self, Document};
pub use tank_layer::fuzzing::{archive, convert};

/// Reads bytes as a manifest, an index and a configuration, as those of an image.
pub fn documents(bytes: &[u8]) {
    let config = document::parse_config(bytes);
    match (document::parse(bytes), &config) {
        (Ok(Document::Index(index)), _) => {
            drop(crate::platform::pick(&index, &crate::Platform::host()))
        }
        (Ok(Document::Manifest(manifest)), Ok(config)) => {
            if let Ok(ids) = document::diff_ids(config, &manifest) {
                assert_eq!(document::chain(&ids).len(), ids.len());
            }
        }
        (Ok(Document::Manifest(manifest)), Err(_)) => {
            drop(document::digest_of(manifest.config()));
        }
        (Err(error), _) => assert!(!error.message().is_empty()),
    }
}
