//! One at a time, for each volume.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Which volumes somebody is at. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    taken: Mutex<BTreeSet<PathBuf>>,
    freed: Condvar,
}

/// A volume is somebody's until this is dropped.
#[must_use]
pub struct Turn {
    turns: Turns,
    path: PathBuf,
}

impl Turns {
    /// Waits for the turn of the volume at `path`. Whoever has it copies at most, for which there is a
    /// limit.
    pub fn take(&self, path: &Path) -> Turn {
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |taken: &mut BTreeSet<PathBuf>| taken.contains(path);
        let free = self.0.freed.wait_while(taken, wait);
        free.unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_owned());
        self.turn(path)
    }

    /// As [`Turns::take`], of a volume that nobody is at now.
    pub fn try_take(&self, path: &Path) -> Option<Turn> {
        let taken = self.0.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.insert(path.to_owned()).then(|| self.turn(path))
    }

    /// As [`Turns::take`], waiting no longer than `limit`.
    pub fn take_within(&self, path: &Path, limit: Duration) -> Option<Turn> {
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |taken: &mut BTreeSet<PathBuf>| taken.contains(path);
        let free = self.0.freed.wait_timeout_while(taken, limit, wait);
        let (mut taken, _) = free.unwrap_or_else(PoisonError::into_inner);
        taken.insert(path.to_owned()).then(|| self.turn(path))
    }

    fn turn(&self, path: &Path) -> Turn {
        Turn {
            turns: self.clone(),
            path: path.to_owned(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let taken = self.turns.0.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.path);
        self.turns.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_one_s_at_a_time_and_others_are_not_held_up() {
        let turns = Turns::default();
        let first = turns.take(Path::new("a"));
        assert!(turns.try_take(Path::new("a")).is_none());
        let other = turns.take(Path::new("b"));
        let waits = turns.clone();
        let waiting = std::thread::spawn(move || drop(waits.take(Path::new("a"))));
        assert!(
            turns
                .take_within(Path::new("a"), Duration::from_millis(1))
                .is_none()
        );
        drop(first);
        waiting.join().expect("its turn comes");
        drop(other);
        assert!(turns.try_take(Path::new("b")).is_some());
        assert!(turns.take_within(Path::new("a"), Duration::ZERO).is_some());
    }
}
