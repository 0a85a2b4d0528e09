//! Nodes, generations and pointers.
//!
//! [`Store`] is the seam: [`rocks::RocksStore`] is the one on disk, `memory::MemoryStore` its
//! twin for tests, and one conformance suite runs over both. Nodes are immutable and named by their
//! hash; a generation and the pointer to it move in one synced batch, so after a power cut there is
//! the old one or the new one. Which one was committed last is known a second time ([`newest`]), so
//! a store that has lost it is refused ([`recover`]) and never taken for an older one.
//!
//! # Key layout (format 1)
//!
//! | key | value |
//! |---|---|
//! | `m/format` | the number of this layout, as text |
//! | `n/` and 32 bytes of hash | a node: canonical JSON, see [`tank_model::Graph::stored`] |
//! | `g/` and the number, 8 bytes big-endian | a [`Generation`]: canonical JSON |
//! | `o/` and the number, 8 bytes big-endian | its [`Outcome`], as a JSON text |
//! | `t/` and the number, 8 bytes big-endian | how it is judged, where it is: a [`Gate`], as JSON |
//! | `p/current` | the number of the current generation, 8 bytes big-endian |
//! | `p/overrides` | what somebody has asked for by hand: [`Overrides`], as JSON |
//! | `k/` and the number, 8 bytes big-endian | nothing: that generation is pinned |
//! | `l/` and a pod's name | the number of its lease (addresses, ids), 4 bytes big-endian |
//! | `l/net/` and a network's name | its number (its subnets), in the same way |
//! | `l/net/`, a network's name, `/` and a pod's | the pod's number on it (its addresses there), in the same way |

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod damage;
pub mod graphs;
pub mod leases;
#[cfg(test)]
pub mod memory;
mod newest;
pub mod off_worker;
pub mod pools;
pub mod recover;
pub mod rocks;

use leases::{LeaseChange, Leases};
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{Digest, Gate, Generation, Outcome};
use tank_plan::Overrides;

pub use crate::settings::{FIRST_LEASE, LEASES};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("can't {0} in the store")]
    Io(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
    #[error("the store holds `{0}`, which can't be read")]
    Corrupt(String),
    #[error(
        "another tankd has the database of the store open, {dir}: one that is being ended waits for a disk that does not answer, or \
         still runs elsewhere. Nothing is damaged; it can be started once that has ended"
    )]
    Open { dir: String },
    #[error(
        "the store has format {found}, this tankd reads format {known}: another version of Tank wrote it, and it is left as it is; install that again"
    )]
    Format { found: String, known: u32 },
    #[error("generation {expected:?} was the current one and now {actual:?} is")]
    StaleParent {
        expected: Option<u64>,
        actual: Option<u64>,
    },
    #[error("generation {0} is not there any more")]
    Gone(u64),
    #[error("all {LEASES} leases are taken")]
    NoLease,
    #[error(
        "{} volumes have a size already, which are the most of a host",
        leases::projects::VOLUMES
    )]
    NoProject,
    #[error("no subnet is left for another network: `network_pools` in tank.toml has no more")]
    NoSubnet,
    #[error(
        "the network `{0}` has no address left for another pod (pods that go keep theirs until the change is through): take some away first, or give it a larger subnet in `subnets`"
    )]
    NoAddress(String),
    /// What is wrong with it, and what to do.
    #[error("{0}")]
    Damaged(String),
    #[error("pod `{0}` has no lease: no generation names it")]
    Unleased(String),
    #[error("a stored graph can't be read")]
    Load(#[source] Box<tank_model::graph::LoadError>),
}

impl From<tank_model::graph::LoadError> for StoreError {
    fn from(error: tank_model::graph::LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

/// What is taken out of a store at once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removal {
    /// With their outcomes, gates and pins.
    pub generations: BTreeSet<u64>,
    pub nodes: BTreeSet<Digest>,
    /// The names of leases.
    pub leases: BTreeSet<String>,
}

impl Removal {
    pub fn is_empty(&self) -> bool {
        self.generations.is_empty() && self.nodes.is_empty() && self.leases.is_empty()
    }
}

/// Where desired states are kept. Every method is one atomic read or write, and may wait for the
/// disk; on a runtime it is used through [`off_worker::OffWorker`].
pub trait Store: Send + Sync {
    /// Adds nodes that are not there. They are not synced: [`Store::commit_with`] is, after them.
    fn put_nodes(&self, nodes: &[(Digest, Vec<u8>)]) -> Result<(), StoreError>;

    fn node(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError>;

    /// Makes `generation` the current one, and it alone, if its parent is the current one now.
    #[cfg(test)]
    fn commit(&self, generation: &Generation) -> Result<(), StoreError> {
        self.commit_with(generation, None, &LeaseChange::default(), None)
    }

    /// Makes `generation` the current one, and it alone, if its parent is the current one now. How it
    /// is judged, the leases of its pods, and where these change the overrides that it begins with, are
    /// written in the same batch.
    fn commit_with(
        &self,
        generation: &Generation,
        gate: Option<&Gate>,
        leases: &LeaseChange,
        overrides: Option<&Overrides>,
    ) -> Result<(), StoreError>;

    /// How a generation is judged. None: it only has to be reached, or an older tankd committed it.
    fn gate(&self, number: u64) -> Result<Option<Gate>, StoreError>;

    fn current(&self) -> Result<Option<u64>, StoreError>;

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError>;

    /// All generations, oldest first.
    fn generations(&self) -> Result<Vec<Generation>, StoreError>;

    fn set_outcome(&self, number: u64, outcome: Outcome) -> Result<(), StoreError>;

    fn outcome(&self, number: u64) -> Result<Outcome, StoreError>;

    /// What somebody has asked for by hand.
    fn overrides(&self) -> Result<Overrides, StoreError>;

    /// Puts others in their place, synced.
    fn set_overrides(&self, overrides: &Overrides) -> Result<(), StoreError>;

    /// The leases that were taken.
    fn leases(&self) -> Arc<Leases>;

    /// Makes a change to the leases by itself: those of a generation that an older Tank committed. It
    /// is not synced.
    fn take_leases(&self, change: &LeaseChange) -> Result<(), StoreError>;

    /// The generations that are pinned.
    fn pins(&self) -> Result<BTreeSet<u64>, StoreError>;

    /// Pins a generation that is there, or takes that back.
    fn set_pin(&self, number: u64, pinned: bool) -> Result<(), StoreError>;

    /// The hashes of nodes that are kept, with how many bytes each has: those above `after`, in order, `most`
    /// at most.
    fn node_hashes(
        &self,
        after: Option<&Digest>,
        most: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError>;

    /// Reads everything there is, with the checksums that the database keeps. Keys and values go to nobody.
    fn verify(&self) -> Result<(), StoreError>;

    /// Takes all of it out in one synced write, if `current` is the current generation still and none of
    /// those that go.
    fn remove(&self, removal: &Removal, current: Option<u64>) -> Result<(), StoreError>;
}

/// Whether a removal may be made that was decided on when `expected` was the current generation.
fn check_removal(
    removal: &Removal,
    expected: Option<u64>,
    actual: Option<u64>,
) -> Result<(), StoreError> {
    let own = actual.filter(|actual| removal.generations.contains(actual));
    match own {
        Some(own) => Err(StoreError::Io(
            "remove a generation",
            format!("{own} is the current one").into(),
        )),
        None if expected != actual => Err(StoreError::StaleParent { expected, actual }),
        None => Ok(()),
    }
}

/// The number the next generation gets.
pub fn next_number(store: &dyn Store) -> Result<u64, StoreError> {
    // Every commit makes the newest one the current one.
    Ok(store.current()?.map_or(1, |current| current + 1))
}
