//! What the store writes beside generations and nodes: leases and overrides; and how.

use super::super::{StoreError, leases::LeaseChange};
use rocksdb::{WriteBatch, WriteOptions};
use std::path::Path;
use tank_plan::Overrides;

/// The key of what somebody has asked for by hand.
pub(super) const OVERRIDES: &[u8] = b"p/overrides";

/// The bytes that are free for this process on the file system of `path`.
pub(super) fn free_space(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

pub(super) fn encode_overrides(overrides: &Overrides) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(overrides).map_err(|e| StoreError::Io("encode overrides", e.into()))
}

pub(super) fn add_leases(batch: &mut WriteBatch, change: &LeaseChange) {
    let key = |pod: &str| [b"l/", pod.as_bytes()].concat();
    change
        .released
        .iter()
        .for_each(|pod| batch.delete(key(pod)));
    for (pod, lease) in &change.new {
        batch.put(key(pod), lease.to_be_bytes());
    }
}
