//! One at a time, for each volume.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
};

/// Which volumes somebody is at.
#[derive(Debug, Default)]
pub struct Turns {
    taken: Mutex<BTreeSet<PathBuf>>,
    freed: Condvar,
}

/// A volume is somebody's until this is dropped.
#[must_use]
pub struct Turn<'t> {
    turns: &'t Turns,
    path: PathBuf,
}

impl Turns {
    /// Waits for the turn of the volume at `path`. Whoever has it copies at most, for which there is a
    /// limit.
    pub fn take(&self, path: &Path) -> Turn<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |taken: &mut BTreeSet<PathBuf>| taken.contains(path);
        let free = self.freed.wait_while(taken, wait);
        let mut free = free.unwrap_or_else(PoisonError::into_inner);
        free.insert(path.to_owned());
        Turn {
            turns: self,
            path: path.to_owned(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let taken = self.turns.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.path);
        self.turns.freed.notify_all();
    }
}
