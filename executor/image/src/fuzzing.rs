//! What a fuzzer feeds (feature `fuzzing`, see `fuzz/`): the parsers of what a registry or a layout
//! sends, without network, disk or clock. None may panic, whatever the bytes are.

use crate::{
    archive::Archive,
    document::{self, Document},
    tree,
};
use std::io::{Read, sink};

/// The most content that is read of one member: more of the same finds nothing new.
const MAX_CONTENT: u64 = 1 << 20;

/// Reads bytes as a manifest, an index and a configuration, as those of an image.
pub fn documents(bytes: &[u8]) {
    let config = document::parse_config(bytes);
    match (document::parse(bytes), &config) {
        (Ok(Document::Index(index)), _) => drop(document::pick_platform(&index)),
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

/// Reads bytes as the uncompressed archive of a layer: every member with its content, every other
/// one's passed over.
pub fn archive(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    let mut count = 0u64;
    while let Ok(Some(member)) = archive.next() {
        if let Ok(path) = tree::clean(&member.path) {
            assert!(path.is_relative());
        }
        count += 1;
        if count % 2 == 0
            && std::io::copy(&mut (&mut archive).take(MAX_CONTENT), &mut sink()).is_err()
        {
            return;
        }
    }
}
