//! That the host may not be as it was observed last: what wakes the loop.
//!
//! It is a version and no signal: whoever observes remembers the version from before, and waits
//! until it is another one. So nobody's look takes a notification from anybody else, and what
//! happens while somebody observes wakes them again.

use std::time::Duration;
use tokio::sync::watch;

/// The least time between two looks at the host because of what the kernel notifies of.
pub const DEBOUNCE: Duration = Duration::from_millis(20);

/// How often the host has changed since this process began.
#[derive(Debug)]
pub struct Dirty(watch::Sender<u64>);

impl Default for Dirty {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Dirty {
    /// Something happened: whoever observed before looks again.
    pub fn mark(&self) {
        self.0.send_modify(|version| *version += 1);
    }

    pub fn version(&self) -> u64 {
        *self.0.borrow()
    }

    /// Returns when something happened after `version`.
    pub async fn changed_since(&self, version: u64) {
        // It fails when the sender is gone, which is this.
        let _ = self.0.subscribe().wait_for(|now| *now != version).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_happened_before_the_wait_is_not_lost() {
        let dirty = Dirty::default();
        let before = dirty.version();
        dirty.mark();
        dirty.changed_since(before).await;
        let waits = tokio::time::timeout(
            Duration::from_millis(1),
            dirty.changed_since(dirty.version()),
        );
        assert!(waits.await.is_err());
    }
}
