//! Which pod has which lease: the number its addresses and its host ids are made from.
//!
//! A lease is proposed while planning, which writes nothing, and taken with the commit of a
//! generation that names its pod; the same store proposes the same leases until one is taken. A
//! lease belongs to a name for as long as a kept generation has a pod of that name. Those of other
//! names (a commit that failed, a plan of an older Tank) are released when there are no others
//! left.

use super::{FIRST_LEASE, LEASES, Store, StoreError};
use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};
use tank_model::{Digest, Graph, Name};

/// Leases by the names of their pods.
pub type Leases = BTreeMap<String, u32>;

/// New leases for those of `pods` that have none in `kept`: for each the one its name's hash says,
/// or the next free one, so that a store made anew hands the same pods the same addresses nearly
/// always. Pure.
///
/// # Errors
/// [`StoreError::NoLease`] when there are fewer free ones than new names.
pub fn propose<'a>(
    kept: &Leases,
    pods: impl IntoIterator<Item = &'a Name>,
) -> Result<Leases, StoreError> {
    let mut new = Leases::new();
    let mut taken: Option<BTreeSet<u32>> = None;
    for pod in pods {
        if kept.contains_key(pod.as_str()) || new.contains_key(pod.as_str()) {
            continue;
        }
        let taken = taken.get_or_insert_with(|| kept.values().copied().collect());
        let lease = pick(pod, taken).ok_or(StoreError::NoLease)?;
        taken.insert(lease);
        new.insert(pod.to_string(), lease);
    }
    Ok(new)
}

fn pick(pod: &Name, taken: &BTreeSet<u32>) -> Option<u32> {
    let bytes = *Digest::of(pod.as_str().as_bytes()).as_bytes();
    let start = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % LEASES;
    (0..LEASES)
        .map(|i| FIRST_LEASE + (start + i) % LEASES)
        .find(|lease| !taken.contains(lease))
}

/// Leases that are taken, and those that have to be released for that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseChange {
    pub new: Leases,
    /// The names of pods that no kept generation has.
    pub released: BTreeSet<String>,
}

impl LeaseChange {
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.released.is_empty()
    }

    /// Makes the change to leases in memory.
    pub fn apply(&self, leases: &mut Leases) {
        leases.retain(|pod, _| !self.released.contains(pod));
        leases.extend(self.new.clone());
    }
}

/// What `pods` get: the leases that are kept, and the new ones. Writes nothing.
#[derive(Clone, Debug)]
pub struct Proposal {
    kept: Arc<Leases>,
    change: LeaseChange,
}

impl Proposal {
    /// # Errors
    /// When the store can't be read, or has no lease left.
    pub fn of<'a>(
        store: &dyn Store,
        pods: impl Iterator<Item = &'a Name> + Clone,
    ) -> Result<Self, StoreError> {
        let kept = store.leases();
        match propose(&kept, pods.clone()) {
            Err(StoreError::NoLease) => {
                let named = named(store)?;
                let (named, others): (Leases, Leases) = kept
                    .iter()
                    .map(|(pod, lease)| (pod.clone(), *lease))
                    .partition(|(pod, _)| named.contains(pod));
                let new = propose(&named, pods)?;
                let released = others.into_keys().collect();
                let change = LeaseChange { new, released };
                Ok(Self {
                    kept: Arc::new(named),
                    change,
                })
            }
            new => {
                let change = LeaseChange {
                    new: new?,
                    ..LeaseChange::default()
                };
                Ok(Self { kept, change })
            }
        }
    }

    /// The lease of one of the pods.
    ///
    /// # Errors
    /// [`StoreError::Unleased`] for any other.
    pub fn get(&self, pod: &Name) -> Result<u32, StoreError> {
        let lease = self
            .kept
            .get(pod.as_str())
            .or_else(|| self.change.new.get(pod.as_str()));
        lease
            .copied()
            .ok_or_else(|| StoreError::Unleased(pod.to_string()))
    }

    /// What a store has to keep for that.
    pub fn change(&self) -> &LeaseChange {
        &self.change
    }
}

/// The names of all pods of all generations.
fn named(store: &dyn Store) -> Result<BTreeSet<String>, StoreError> {
    let mut pods = BTreeMap::new();
    let roots: BTreeSet<Digest> = store
        .generations()?
        .iter()
        .map(|generation| generation.root)
        .collect();
    for root in roots {
        Graph::load_pods(root, &mut pods, |hash| store.node(hash))?;
    }
    Ok(pods.values().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use tank_model::{Config, Generation};

    fn names(range: std::ops::Range<u32>) -> Vec<Name> {
        range
            .map(|i| Name::new(format!("pod-{i}")).expect("a name"))
            .collect()
    }

    fn take(store: &MemoryStore, pods: &[Name]) {
        let proposal = Proposal::of(store, pods.iter()).expect("proposes");
        store.take_leases(proposal.change()).expect("takes");
    }

    /// A generation of these pods; it takes their leases.
    fn commit(store: &MemoryStore, number: u64, pods: &[Name]) {
        let declared: serde_json::Map<String, serde_json::Value> = pods
            .iter()
            .map(|pod| {
                (
                    pod.to_string(),
                    serde_json::json!({ "containers": { "app": { "image": "x" } } }),
                )
            })
            .collect();
        let config: Config = serde_json::from_value(serde_json::json!({ "pods": declared }))
            .expect("a configuration");
        let graph = Graph::build(&config, |_| None).expect("a graph");
        store
            .put_nodes(&graph.stored().expect("encodes"))
            .expect("writes");
        take(store, pods);
        let parent = store.current().expect("reads");
        let generation = Generation {
            rollback: None,
            number,
            root: graph.root(),
            parent,
            time: 7,
            uid: 0,
            source: "t".into(),
            provenance: None,
        };
        store.commit(&generation).expect("commits");
    }

    #[test]
    fn what_is_proposed_is_what_is_taken_and_proposing_takes_nothing() {
        let store = MemoryStore::default();
        let pods = names(0..50);
        let proposed = Proposal::of(&store, pods.iter()).expect("proposes");
        assert_eq!(*store.leases(), Leases::new());
        take(&store, &pods);
        let distinct: BTreeSet<u32> = pods
            .iter()
            .map(|pod| proposed.get(pod).expect("a lease"))
            .collect();
        assert_eq!(distinct.len(), 50);
        for pod in &pods {
            assert_eq!(
                store.leases().get(pod.as_str()).copied(),
                proposed.get(pod).ok()
            );
        }
        // They stay with their names whatever comes beside them.
        let kept = store.leases();
        let more = names(0..100);
        let again = Proposal::of(&store, more.iter()).expect("proposes");
        for pod in &pods {
            assert_eq!(again.get(pod).ok(), kept.get(pod.as_str()).copied());
        }
    }

    /// Addresses follow from leases, and people rely on them: these names get exactly these leases.
    #[test]
    fn a_name_says_its_lease() {
        let pods = [
            Name::new("web").expect("a name"),
            Name::new("db").expect("a name"),
        ];
        let new = propose(&Leases::new(), &pods).expect("proposes");
        assert_eq!((new["web"], new["db"]), (2104, 1171));
        let taken = Leases::from([("other".to_owned(), 2104)]);
        assert_eq!(propose(&taken, &pods[..1]).expect("proposes")["web"], 2105);
    }

    #[test]
    fn leases_that_no_generation_names_are_released_when_there_are_no_others() {
        let store = MemoryStore::default();
        let (first, second) = (names(0..30), names(30..60));
        commit(&store, 1, &first);
        commit(&store, 2, &second);
        let kept = store.leases();
        // As plans of an older Tank have left them.
        take(&store, &names(1_000..1_000 + LEASES - 60));
        assert_eq!(store.leases().len(), LEASES as usize);
        let new = names(5_000..5_100);
        assert!(matches!(
            propose(&store.leases(), &new),
            Err(StoreError::NoLease)
        ));
        // A plan's proposal has the leases that a commit would take, and takes none itself.
        let proposal = Proposal::of(&store, new.iter()).expect("proposes");
        assert_eq!(store.leases().len(), LEASES as usize);
        commit(&store, 3, &new);
        assert_eq!(store.leases().len(), 160);
        for pod in &new {
            assert_eq!(
                store.leases().get(pod.as_str()).copied(),
                proposal.get(pod).ok()
            );
        }
        for (pod, lease) in kept.iter() {
            assert_eq!(
                store.leases().get(pod),
                Some(lease),
                "an older generation names {pod}"
            );
        }
        // All that are left are named: now it is true.
        let more = names(10_000..10_000 + LEASES - 159);
        assert!(matches!(
            Proposal::of(&store, more.iter()),
            Err(StoreError::NoLease)
        ));
    }
}
