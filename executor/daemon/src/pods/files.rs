//! The memory file system of a run's generated files, as its shim shows it: each file is named by
//! the digest of the path at which the container has it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};
use tank_model::Digest;
use tank_sys::mount;

/// The most bytes that are read of a file to see whether it says what it should: 4 MiB.
const MAX_FILE: u64 = 4 << 20;

/// The name of the file for `path`.
pub fn name_of(path: &str) -> String {
    Digest::of(path.as_bytes()).hex()
}

/// What the files of one run of a container say now, by their paths. Blocking.
///
/// # Errors
/// When a file can't be read.
pub fn read(dir: &OwnedFd, paths: &[String]) -> Result<BTreeMap<String, Digest>, tank_sys::Error> {
    let mut found = BTreeMap::new();
    for path in paths {
        let content = mount::read_file(dir.as_fd(), &name_of(path), MAX_FILE);
        if let Some(content) = content? {
            found.insert(path.clone(), Digest::of(&content));
        }
    }
    Ok(found)
}
