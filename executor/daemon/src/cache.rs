//! What was read and holds until something changes it: a value, the version it was read at, and
//! whatever raises that version.
//!
//! A reader takes the version *before* it reads: what changes while it reads makes the value
//! outdated at once. Each reader compares versions of its own, so none takes a change from another.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Counts changes of what is cached.
#[derive(Debug, Default)]
pub struct Version(AtomicU64);

impl Version {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whatever was read before is outdated.
    pub fn invalidate(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A value and the version it was read at.
#[derive(Debug)]
pub struct Cached<T>(Mutex<Option<(u64, Arc<T>)>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Cached<T> {
    fn lock(&self) -> MutexGuard<'_, Option<(u64, Arc<T>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, if it was read at this version.
    pub fn get(&self, version: u64) -> Option<Arc<T>> {
        let cached = self.lock();
        let current = cached.as_ref().filter(|(at, _)| *at == version);
        current.map(|(_, value)| Arc::clone(value))
    }

    /// The value that was read last, at whatever version.
    pub fn last(&self) -> Option<Arc<T>> {
        self.lock().as_ref().map(|(_, value)| Arc::clone(value))
    }

    /// Keeps what was read at `version`.
    pub fn put(&self, version: u64, value: T) -> Arc<T> {
        let value = Arc::new(value);
        *self.lock() = Some((version, Arc::clone(&value)));
        value
    }

    /// The value at this version, which `read` gives where it is not known. One reads for all.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn get_or_read<E>(
        &self,
        version: u64,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut cached = self.lock();
        if let Some((_, value)) = cached.as_ref().filter(|(at, _)| *at == version) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(read()?);
        *cached = Some((version, Arc::clone(&value)));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_holds_until_its_version_changes() {
        let (version, cached) = (Version::default(), Cached::default());
        let read = |value: u32| cached.get_or_read(version.get(), || Ok::<_, ()>(value));
        assert_eq!(read(1).as_deref(), Ok(&1));
        assert_eq!(read(2).as_deref(), Ok(&1));
        version.invalidate();
        assert_eq!(cached.get(version.get()), None);
        assert_eq!(cached.last().as_deref(), Some(&1));
        assert_eq!(read(3).as_deref(), Ok(&3));
    }

    #[test]
    fn what_changes_while_it_is_read_is_read_again() {
        let (version, cached) = (Version::default(), Cached::default());
        let before = version.get();
        version.invalidate();
        cached.put(before, 1);
        assert_eq!(cached.get(version.get()), None);
    }

    #[test]
    fn what_can_not_be_read_leaves_nothing() {
        let cached = Cached::<u32>::default();
        assert_eq!(cached.get_or_read(0, || Err("gone")), Err("gone"));
        assert_eq!(cached.last(), None);
    }
}
