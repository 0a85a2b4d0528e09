//! What the kernel lists for the whole host, read again only when the kernel has notified of a
//! change.

use crate::cache::{Cached, Version};
use std::sync::Arc;
use tank_sys::watch::Changes;

/// A list of the kernel's and what notifies of its changes.
pub struct Listing<T> {
    changes: Changes,
    version: Version,
    cached: Cached<T>,
}

impl<T> Listing<T> {
    pub fn new(changes: Changes) -> Self {
        Self {
            changes,
            version: Version::default(),
            cached: Cached::default(),
        }
    }

    /// The list as it was read last, or as `list` reads it.
    ///
    /// # Errors
    /// Those of `list`.
    pub fn get(&self, list: impl FnOnce() -> tank_sys::Result<T>) -> tank_sys::Result<Arc<T>> {
        self.cached.get_or_read(self.version.get(), list)
    }

    /// Drains the kernel's notifications. Whether there were any.
    pub fn drain(&self) -> bool {
        // A socket that fails notifies of nothing: then nothing is known to be as it was.
        let changed = self.changes.drain().unwrap_or(true);
        if changed {
            self.version.invalidate();
        }
        changed
    }

    /// Returns when the kernel has notified of a change and that was [drained](Self::drain).
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn changed(&self) -> tank_sys::Result<()> {
        loop {
            self.changes.ready().await?;
            if self.drain() {
                return Ok(());
            }
        }
    }

    pub fn invalidate(&self) {
        self.version.invalidate();
    }
}
