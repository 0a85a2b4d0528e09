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
//! | `k/` and the number, 8 bytes big-endian | nothing: that generation is pinned |
//! | `l/` and a pod's name | the number of its lease (addresses, ids), 4 bytes big-endian |
//! | `l/net/` and a network's name | its number (its subnets), in the same way |
//! | `l/net/`, a network's name, `/` and a pod's | the pod's number on it (its addresses there), in the same way |

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
    #[error("the store has format {found}, this tankd reads format {known}")]
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
        self.commit_with(generation, None, &LeaseChange::default())
    }

    /// Makes `generation` the current one, and it alone, if its parent is the current one now. How it
    /// is judged, and the leases of its pods, are written in the same batch.
    fn commit_with(
        &self,
        generation: &Generation,
        gate: Option<&Gate>,
        leases: &LeaseChange,
    ) -> Result<(), StoreError>;

    /// How a generation is judged. None: it only has to be reached, or an older tankd committed it.
    fn gate(&self, number: u64) -> Result<Option<Gate>, StoreError>;

    fn current(&self) -> Result<Option<u64>, StoreError>;

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError>;

    /// All generations, oldest first.
    fn generations(&self) -> Result<Vec<Generation>, StoreError>;

    fn set_outcome(&self, number: u64, outcome: Outcome) -> Result<(), StoreError>;

    fn outcome(&self, number: u64) -> Result<Outcome, StoreError>;

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

#[cfg(test)]
mod conformance {
    use super::{recover::Recovery, *};

    fn generation(number: u64, parent: Option<u64>) -> Generation {
        let root = Digest::of(&number.to_be_bytes());
        Generation {
            rollback: None,
            number,
            root,
            parent,
            time: 7,
            uid: 0,
            source: "test".to_owned(),
            provenance: None,
        }
    }

    fn change(new: &[(&str, u32)], released: &[&str]) -> LeaseChange {
        let new = new.iter().map(|(pod, lease)| ((*pod).to_owned(), *lease));
        let released = released.iter().map(|pod| (*pod).to_owned());
        LeaseChange {
            new: new.collect(),
            released: released.collect(),
        }
    }

    fn open(dir: &std::path::Path) -> rocks::RocksStore {
        let (store, notes) = rocks::RocksStore::open(dir, Recovery::default()).expect("opens");
        assert_eq!(notes, Vec::<String>::new());
        store
    }

    /// A folder that is not there, nor what lies beside it.
    fn fresh(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("tank-store-{name}-{}", std::process::id()));
        remove(&dir);
        dir
    }

    fn remove(dir: &std::path::Path) {
        for path in [dir.to_owned(), dir.with_extension("damaged")] {
            let _ = std::fs::remove_dir_all(path);
        }
        let _ = std::fs::remove_file(newest::path_of(dir));
    }

    fn both(test: impl Fn(&dyn Store)) {
        test(&memory::MemoryStore::default());
        let dir = fresh(&format!("{:p}", &test));
        {
            let store = open(&dir);
            test(&store);
        }
        remove(&dir);
    }

    #[test]
    fn a_fresh_store_is_empty() {
        both(|store| {
            assert_eq!(store.current().expect("reads"), None);
            assert_eq!(store.generations().expect("reads"), []);
            assert_eq!(store.node(&Digest::of(b"x")).expect("reads"), None);
            assert_eq!(next_number(store).expect("reads"), 1);
        });
    }

    #[test]
    fn nodes_are_found_by_their_hash() {
        both(|store| {
            let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
            store
                .put_nodes(&[(one, b"1".to_vec()), (two, b"2".to_vec())])
                .expect("writes");
            store
                .put_nodes(&[(one, b"1".to_vec())])
                .expect("writes again");
            assert_eq!(store.node(&two).expect("reads"), Some(b"2".to_vec()));
        });
    }

    #[test]
    fn a_commit_moves_generation_and_pointer_together() {
        both(|store| {
            store.commit(&generation(1, None)).expect("commits");
            store.commit(&generation(2, Some(1))).expect("commits");
            assert_eq!(store.current().expect("reads"), Some(2));
            assert_eq!(
                store.generation(1).expect("reads"),
                Some(generation(1, None))
            );
            let numbers: Vec<u64> = store
                .generations()
                .expect("reads")
                .iter()
                .map(|g| g.number)
                .collect();
            assert_eq!(numbers, [1, 2]);
        });
    }

    #[test]
    fn a_gate_comes_with_its_generation() {
        both(|store| {
            let gate = Gate {
                rollback: true,
                wait: 60_000,
            };
            store
                .commit_with(&generation(1, None), Some(&gate), &LeaseChange::default())
                .expect("commits");
            store.commit(&generation(2, Some(1))).expect("commits");
            assert!(
                store
                    .commit_with(
                        &generation(3, Some(1)),
                        Some(&gate),
                        &LeaseChange::default()
                    )
                    .is_err()
            );
            let gates: Vec<_> = (1..=3)
                .map(|number| store.gate(number).expect("reads"))
                .collect();
            assert_eq!(gates, [Some(gate), None, None]);
        });
    }

    #[test]
    fn a_stale_parent_is_refused_and_changes_nothing() {
        both(|store| {
            store.commit(&generation(1, None)).expect("commits");
            for stale in [None, Some(7)] {
                let refused = store.commit(&generation(2, stale));
                assert!(matches!(
                    refused,
                    Err(StoreError::StaleParent {
                        actual: Some(1),
                        ..
                    })
                ));
            }
            assert_eq!(store.current().expect("reads"), Some(1));
            assert_eq!(store.generation(2).expect("reads"), None);
        });
    }

    #[test]
    fn outcomes_begin_pending() {
        both(|store| {
            store.commit(&generation(1, None)).expect("commits");
            assert_eq!(store.outcome(1).expect("reads"), Outcome::Pending);
            store.set_outcome(1, Outcome::Good).expect("writes");
            assert_eq!(store.outcome(1).expect("reads"), Outcome::Good);
        });
    }

    #[test]
    fn leases_are_taken_and_released_together() {
        both(|store| {
            let all = |leases: &[(&str, u32)]| {
                leases
                    .iter()
                    .map(|(pod, n)| ((*pod).to_owned(), *n))
                    .collect::<Leases>()
            };
            assert_eq!(*store.leases(), Leases::new());
            store
                .take_leases(&change(&[("web", 7), ("db", 9)], &[]))
                .expect("takes");
            let before = store.leases();
            store
                .commit_with(&generation(1, None), None, &change(&[("new", 9)], &["db"]))
                .expect("takes");
            assert_eq!(
                *before,
                all(&[("web", 7), ("db", 9)]),
                "what was read stays what it was"
            );
            assert_eq!(*store.leases(), all(&[("web", 7), ("new", 9)]));
        });
    }

    #[test]
    fn what_is_removed_goes_as_a_whole_and_its_numbers_are_not_used_again() {
        both(|store| {
            let hashes: Vec<Digest> = (0..5_u8).map(|i| Digest::of(&[i])).collect();
            let nodes: Vec<_> = hashes.iter().map(|hash| (*hash, vec![1; 10])).collect();
            store.put_nodes(&nodes).expect("writes");
            for number in 1..=3 {
                let parent = (number > 1).then(|| number - 1);
                let gate = Gate {
                    rollback: true,
                    wait: 1,
                };
                store
                    .commit_with(
                        &generation(number, parent),
                        Some(&gate),
                        &LeaseChange::default(),
                    )
                    .expect("commits");
                store.set_outcome(number, Outcome::Good).expect("writes");
            }
            store
                .take_leases(&change(&[("web", 7), ("db", 8)], &[]))
                .expect("takes");
            store.set_pin(1, true).expect("pins");
            assert!(matches!(store.set_pin(9, true), Err(StoreError::Gone(9))));
            assert_eq!(store.pins().expect("reads"), BTreeSet::from([1]));
            let removal = Removal {
                generations: BTreeSet::from([1, 2]),
                nodes: BTreeSet::from([hashes[1], hashes[3]]),
                leases: BTreeSet::from(["db".to_owned()]),
            };
            // It was decided on when another one was current.
            assert!(matches!(
                store.remove(&removal, Some(2)),
                Err(StoreError::StaleParent { .. })
            ));
            let own = Removal {
                generations: BTreeSet::from([3]),
                ..Removal::default()
            };
            assert!(store.remove(&own, Some(3)).is_err());
            assert_eq!(store.generations().expect("reads").len(), 3);
            store.remove(&removal, Some(3)).expect("removes");
            for number in [1, 2] {
                assert_eq!(store.generation(number).expect("reads"), None);
                assert_eq!(store.outcome(number).expect("reads"), Outcome::Pending);
                assert_eq!(store.gate(number).expect("reads"), None);
            }
            assert_eq!(store.pins().expect("reads"), BTreeSet::new());
            assert_eq!(*store.leases(), Leases::from([("web".to_owned(), 7)]));
            let kept: BTreeSet<Digest> = [0, 2, 4].into_iter().map(|i| hashes[i]).collect();
            let mut listed = Vec::new();
            loop {
                let last = listed.last().map(|(hash, _)| *hash);
                let next = store.node_hashes(last.as_ref(), 2).expect("lists");
                if next.is_empty() {
                    break;
                }
                listed.extend(next);
            }
            assert!(listed.iter().all(|(_, bytes)| *bytes == 10));
            assert!(listed.is_sorted());
            let listed: BTreeSet<Digest> = listed.into_iter().map(|(hash, _)| hash).collect();
            assert_eq!(listed, kept);
            assert_eq!(next_number(store).expect("reads"), 4);
        });
    }

    #[test]
    fn a_store_of_another_format_is_refused_and_stays_what_it_is() {
        let dir = fresh("format");
        {
            let store = open(&dir);
            store.commit(&generation(1, None)).expect("commits");
            store.pretend_format("99").expect("writes");
        }
        for _ in 0..2 {
            let refused = rocks::RocksStore::open(&dir, Recovery::default())
                .err()
                .expect("refused");
            assert_eq!(
                refused.to_string(),
                "the store has format 99, this tankd reads format 1"
            );
        }
        remove(&dir);
    }

    #[test]
    fn rocks_keeps_everything_when_it_is_opened_again() {
        let dir = fresh("again");
        let leases = {
            let store = open(&dir);
            store
                .put_nodes(&[(Digest::of(b"1"), b"1".to_vec())])
                .expect("writes");
            store.commit(&generation(1, None)).expect("commits");
            let all = Leases::from([
                ("web".to_owned(), 7),
                ("db".to_owned(), 8),
                ("gone".to_owned(), 9),
            ]);
            let taken = LeaseChange {
                new: all,
                ..LeaseChange::default()
            };
            store.take_leases(&taken).expect("takes");
            store
                .take_leases(&change(&[], &["gone"]))
                .expect("releases");
            store.leases()
        };
        let store = open(&dir);
        assert_eq!(store.current().expect("reads"), Some(1));
        assert_eq!(
            store.node(&Digest::of(b"1")).expect("reads"),
            Some(b"1".to_vec())
        );
        assert_eq!(store.leases(), leases);
        drop(store);
        remove(&dir);
    }
}
