//! What pulls hold, so that no collection takes it from them.
//!
//! *Assumption*: a pull holds the digest of a part before it looks whether that part is here, and for as long as
//! its caller says ([`Images::holding`]): until a generation that names the image is committed, or the change has
//! ended. *Guarantee*: what is held is not removed. The question whether a part is held, and its removal, are one
//! step under one lock, so a part that was found after it was held stays.
//!
//! A collection finds out which generations there are before it removes anything. A change that commits its
//! generation after that, and lets go of what it held, would lose it: what is let go of while a collection is
//! under way counts as held until that is over.

use super::{Images, gc};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::Digest;

/// What is held, by everybody. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pins(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Documents and layers, with how many hold each.
    counts: HashMap<Digest, usize>,
    /// How many collections are under way.
    collections: usize,
    /// What was let go of since they began.
    late: HashSet<Digest>,
}

/// What one change holds.
#[derive(Debug)]
pub(super) struct Hold {
    pins: Pins,
    own: Mutex<BTreeSet<Digest>>,
}

/// A collection is under way for as long as this is there.
#[derive(Debug)]
pub(super) struct Under(Pins);

impl Pins {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that holds nothing yet.
    pub fn hold(&self) -> Hold {
        Hold {
            pins: self.clone(),
            own: Mutex::default(),
        }
    }

    /// Begins a collection.
    pub fn begin(&self) -> Under {
        self.held().collections += 1;
        Under(self.clone())
    }

    /// Does something to a part that nobody holds, and keeps everybody from holding it meanwhile. None: it is
    /// held.
    pub fn unless_held<T>(&self, digest: &Digest, act: impl FnOnce() -> T) -> Option<T> {
        let held = self.held();
        let is_held = held.counts.contains_key(digest) || held.late.contains(digest);
        (!is_held).then(act)
    }
}

impl Hold {
    /// Holds these parts, whether they are here or not.
    pub fn add(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.pins.held();
        for digest in digests {
            if own.insert(digest) {
                *held.counts.entry(digest).or_default() += 1;
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let own = self.own.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.pins.held();
        for digest in std::mem::take(own) {
            if held.collections > 0 {
                held.late.insert(digest);
            }
            if let Some(count) = held.counts.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    held.counts.remove(&digest);
                }
            }
        }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.collections -= 1;
        if held.collections == 0 {
            held.late = HashSet::new();
        }
    }
}

impl Images {
    /// The same store, which keeps what it pulls from being collected for as long as this, or a clone of it, is
    /// there.
    #[must_use]
    pub fn holding(&self) -> Self {
        Self {
            hold: Some(Arc::new(self.pins.hold())),
            ..self.clone()
        }
    }

    /// Holds parts of an image before it is looked whether they are here.
    pub(super) fn hold(&self, parts: impl IntoIterator<Item = Digest>) {
        if let Some(hold) = &self.hold {
            hold.add(parts);
        }
    }

    /// Whether an image is here as a whole; if so, all of it is held. Blocks for as long as the disk takes.
    pub fn is_held_here(&self, image: Digest) -> bool {
        self.hold([image]);
        let Ok(parts) = gc::parts(self, image) else {
            return false;
        };
        self.hold(parts);
        // What was removed before it was held is missed now.
        self.find(image).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_or_was_let_go_of_during_a_collection_is_not_removed() {
        let pins = Pins::default();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let removed = |digest| pins.unless_held(digest, || ()).is_some();
        let (hold, other) = (pins.hold(), pins.hold());
        hold.add([one, one]);
        other.add([one, two]);
        assert!(!removed(&one) && !removed(&two));
        drop(hold);
        assert!(!removed(&one), "another one holds it");
        let collection = pins.begin();
        drop(other);
        assert!(!removed(&one) && !removed(&two), "it was let go of late");
        let second = pins.begin();
        drop(collection);
        assert!(!removed(&one), "one is under way that began before");
        drop(second);
        assert!(removed(&one) && removed(&two));
        assert!(pins.held().counts.is_empty() && pins.held().late.is_empty());
    }
}
