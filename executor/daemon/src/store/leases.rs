//! Which pod has which lease: the number its addresses and its host ids are made from.
//!
//! A lease is proposed while planning, which writes nothing, and taken with the commit of a generation that names its pod; the
//! same store proposes the same leases until one is taken. A lease belongs to a name for as long as a kept generation has a pod
//! of that name. Those of other names (a commit that failed, a plan of an older Tank) are released when there are no others
//! left. So it is with networks, and with pods on them ([`networks`]).

pub mod networks;
pub mod projects;

use super::{FIRST_LEASE, LEASES, Store, StoreError, pools};
use ipnet::IpNet;
use networks::WantedNetwork;
use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};
use tank_model::{Digest, Graph, Name, VolumeId};
use tank_plan::target::{
    NetworkLease,
    pools::{Demand, Pooled},
};

/// Leases by the names of their pods, and of what else has one.
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
        let of_pods = || {
            let is_of_pod = |name: &str| networks::is_of_pod(name) && !pools::is_pooled(name);
            let pods = kept.iter().filter(|(name, _)| is_of_pod(name));
            pods.map(|(_, lease)| *lease).collect()
        };
        let taken = taken.get_or_insert_with(of_pods);
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

/// What needs leases of a graph.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub pods: Vec<Name>,
    /// Those that pods are on.
    pub networks: Vec<WantedNetwork>,
    /// Those that have a size.
    pub volumes: Vec<VolumeId>,
}

impl Wanted {
    /// Of a graph.
    pub fn of(graph: &Graph) -> Self {
        Self {
            pods: graph.pods().cloned().collect(),
            networks: WantedNetwork::of(graph),
            volumes: graph.sizes().map(|(volume, _)| volume).collect(),
        }
    }
}

/// What pods and networks get: the leases that are kept, and the new ones. Writes nothing.
#[derive(Clone, Debug)]
pub struct Proposal {
    kept: Arc<Leases>,
    change: LeaseChange,
    pooled: Pooled,
}

impl Proposal {
    /// Of networks whose subnets are taken of `pools`, where others have the leases `beside` that no store keeps.
    ///
    /// # Errors
    /// When the store can't be read, or has no lease left.
    pub fn of(
        store: &dyn Store,
        wanted: &Wanted,
        (pools, beside): (&[IpNet], &Leases),
    ) -> Result<Self, StoreError> {
        let mut kept = store.leases();
        if !beside.is_empty() {
            Arc::make_mut(&mut kept).extend(beside.clone());
        }
        let propose = |kept: &Leases| {
            let mut new = propose(kept, &wanted.pods)?;
            new.extend(networks::propose(kept, &wanted.networks, pools)?);
            Ok(new)
        };
        let proposal = |kept: Arc<Leases>, change| Self {
            kept,
            change,
            pooled: Pooled::new(),
        };
        let none_left = match propose(&kept) {
            Ok(new) => {
                let released = BTreeSet::new();
                return Ok(proposal(kept, LeaseChange { new, released }));
            }
            Err(
                error @ (StoreError::NoLease | StoreError::NoSubnet | StoreError::NoAddress(_)),
            ) => error,
            Err(other) => return Err(other),
        };
        // First what no generation names is released, then what only old ones do: who goes back to one
        // of those gets what there is then.
        let mut roots: Vec<(u64, Digest)> = store
            .generations()?
            .iter()
            .map(|generation| (generation.number, generation.root))
            .collect();
        roots.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        let mut count = roots.len();
        loop {
            let newest = roots.iter().take(count).map(|(_, root)| *root);
            let named = named(store, newest.collect())?;
            let (named, others): (Leases, Leases) = kept
                .iter()
                .map(|(name, lease)| (name.clone(), *lease))
                .partition(|(name, _)| {
                    let stays = pools::is_pooled(name) || projects::volume_of(name).is_some();
                    stays || named.contains(name) || beside.contains_key(name)
                });
            if let Ok(new) = propose(&named) {
                let others = others.into_keys();
                let released = others.filter(|name| !new.contains_key(name)).collect();
                return Ok(proposal(Arc::new(named), LeaseChange { new, released }));
            }
            // What runs now is gone back to if the change does not become healthy.
            if count <= 1 {
                return Err(none_left);
            }
            count /= 2;
        }
    }

    /// What a network has, and its pods on it. None: nothing is leased to it, or would be.
    pub fn network(&self, network: &WantedNetwork) -> Option<NetworkLease> {
        networks::lease_of(network, |name| self.find(name))
    }

    /// What is leased under a name. One that is new takes the place of one that was kept.
    fn find(&self, name: &str) -> Option<u32> {
        let found = self.change.new.get(name).or_else(|| self.kept.get(name));
        found.copied()
    }

    /// The lease of one of the pods.
    ///
    /// # Errors
    /// [`StoreError::Unleased`] for any other.
    pub fn get(&self, pod: &Name) -> Result<u32, StoreError> {
        let lease = self.find(pod.as_str());
        lease.ok_or_else(|| StoreError::Unleased(pod.to_string()))
    }

    /// The same, with the addresses of pools that `demand` gets.
    #[must_use]
    pub fn with_pools(mut self, demand: &Demand) -> Self {
        let (pooled, change) = pools::propose(&self.kept, demand);
        self.change.new.extend(change.new);
        self.change.released.extend(change.released);
        self.pooled = pooled;
        self
    }

    /// The addresses of pools, by pod and interface. Of a pool that has none left there is none.
    pub fn pooled(&self) -> &Pooled {
        &self.pooled
    }

    /// What a store has to keep for that.
    pub fn change(&self) -> &LeaseChange {
        &self.change
    }
}

/// What is wrong with leases, a sentence each: two pods with the same number, one that there is not, and a pod of
/// these without one. Pure.
pub fn problems(leases: &Leases, declared: &BTreeSet<Name>, most: u32) -> Vec<String> {
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    let is_of_pod = |name: &str| networks::is_of_pod(name) && !pools::is_pooled(name);
    for (name, number) in leases.iter().filter(|(name, _)| is_of_pod(name)) {
        if !(FIRST_LEASE..FIRST_LEASE + most).contains(number) {
            problems.push(format!(
                "pod `{name}` has the lease {number}, which is none"
            ));
        }
        if let Some(other) = owners.insert(*number, name) {
            problems.push(format!(
                "pods `{other}` and `{name}` both have the lease {number}"
            ));
        }
    }
    let without = declared
        .iter()
        .filter(|pod| !leases.contains_key(pod.as_str()));
    problems.extend(without.map(|pod| format!("pod `{pod}` has none")));
    problems
}

/// The names of the leases of all pods and networks of some generations.
fn named(store: &dyn Store, roots: BTreeSet<Digest>) -> Result<BTreeSet<String>, StoreError> {
    let (mut pods, mut of_networks) = (BTreeMap::new(), BTreeSet::new());
    for root in roots {
        Graph::load_pods(root, &mut pods, |hash| store.node(hash))?;
        // A host without networks reads no whole graphs for this.
        if store.leases().keys().any(|name| !networks::is_of_pod(name)) {
            let graph = Graph::load(root, |hash| store.node(hash))?;
            let wanted = WantedNetwork::of(&graph);
            of_networks.extend(wanted.iter().flat_map(WantedNetwork::keys));
        }
    }
    let pods = pods.values().map(ToString::to_string);
    Ok(pods.chain(of_networks).collect())
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

    fn of(store: &MemoryStore, pods: &[Name]) -> Result<Proposal, StoreError> {
        let wanted = Wanted {
            pods: pods.to_vec(),
            ..Wanted::default()
        };
        Proposal::of(store, &wanted, (&[], &Leases::new()))
    }

    fn take(store: &MemoryStore, pods: &[Name]) {
        let proposal = of(store, pods).expect("proposes");
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
            data: BTreeMap::new(),
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
        let proposed = of(&store, &pods).expect("proposes");
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
        let again = of(&store, &more).expect("proposes");
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
    fn what_is_wrong_with_leases_is_said() {
        let leases = |all: &[(&str, u32)]| -> Leases {
            all.iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect()
        };
        let declared: BTreeSet<Name> = names(0..2).into_iter().collect();
        let good = leases(&[
            ("pod-0", 2),
            ("pod-1", 3),
            ("net/a", 2),
            ("pod-0/eth0@10.0.0.0/24/24", 2),
        ]);
        assert_eq!(problems(&good, &declared, LEASES), [] as [String; 0]);
        let bad = leases(&[("pod-0", 2), ("old", 2), ("far", 90_000)]);
        assert_eq!(
            problems(&bad, &declared, LEASES),
            [
                "pod `far` has the lease 90000, which is none",
                "pods `old` and `pod-0` both have the lease 2",
                "pod `pod-1` has none"
            ]
        );
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
        let proposal = of(&store, &new).expect("proposes");
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
        // Old generations give way, and what runs does not.
        let more = names(10_000..10_000 + LEASES - 100);
        let proposal = of(&store, &more).expect("proposes");
        let released = &proposal.change().released;
        assert!(kept.keys().all(|pod| released.contains(pod)));
        assert!(new.iter().all(|pod| !released.contains(pod.as_str())));
        let more = names(10_000..10_000 + LEASES - 99);
        assert!(matches!(of(&store, &more), Err(StoreError::NoLease)));
    }

    /// A graph of pods that are each on a network of their own.
    fn networked(range: std::ops::Range<u32>) -> Graph {
        let networks = range
            .clone()
            .map(|n| (format!("n{n}"), serde_json::json!({})));
        let pods = range.map(|n| {
            let on = serde_json::json!({ format!("n{n}"): {} });
            let containers = serde_json::json!({ "app": { "image": "x" } });
            let pod = serde_json::json!({ "containers": containers, "networks": on });
            (format!("p{n}"), pod)
        });
        let config = serde_json::json!({
            "networks": networks.collect::<serde_json::Map<_, _>>(),
            "pods": pods.collect::<serde_json::Map<_, _>>(),
        });
        let config: Config = serde_json::from_value(config).expect("a configuration");
        Graph::build(&config, |_| None).expect("a graph")
    }

    #[test]
    fn networks_have_leases_beside_those_of_pods_and_for_as_long() {
        let store = MemoryStore::default();
        let pools = ["10.91.0.0/16".parse().expect("a network")];
        let of = |graph: &Graph| Proposal::of(&store, &Wanted::of(graph), (&pools, &Leases::new()));
        let graph = networked(0..20);
        store
            .put_nodes(&graph.stored().expect("encodes"))
            .expect("writes");
        let generation = Generation {
            rollback: None,
            data: BTreeMap::new(),
            number: 1,
            root: graph.root(),
            parent: None,
            time: 7,
            uid: 0,
            source: "t".into(),
            provenance: None,
        };
        let proposal = of(&graph).expect("proposes");
        assert_eq!(*store.leases(), Leases::new(), "it takes nothing");
        store
            .commit_with(&generation, None, proposal.change(), None)
            .expect("commits");
        let kept = store.leases();
        assert_eq!(kept.len(), 60, "a pod, a network and a pod on it each");
        for wanted in &Wanted::of(&graph).networks {
            let lease = proposal.network(wanted).expect("it is leased");
            assert_eq!(kept[&format!("net/{}", wanted.name)], lease.number);
            assert_eq!(lease.pods.len(), 1);
        }
        // What no generation names gives way when there are no others, and nothing else does.
        take_networks(&store, &networked(1_000..1_236), &pools);
        assert_eq!(store.leases().len(), 60 + 3 * 236);
        let more = networked(5_000..5_100);
        take_networks(&store, &more, &pools);
        let left = store.leases();
        assert!(
            kept.iter()
                .all(|(name, lease)| left.get(name) == Some(lease))
        );
        assert_eq!(left.len(), 60 + 300);
        let full = networked(9_000..9_237);
        assert!(matches!(of(&full), Err(StoreError::NoSubnet)));
        // Pods get the leases that they would without.
        let pods: Vec<Name> = graph.pods().cloned().collect();
        let alone = propose(&Leases::new(), &pods).expect("proposes");
        assert!(alone.iter().all(|(pod, lease)| kept[pod] == *lease));
    }

    fn take_networks(store: &MemoryStore, graph: &Graph, pools: &[IpNet]) {
        let proposal = Proposal::of(store, &Wanted::of(graph), (pools, &Leases::new()));
        let proposal = proposal.expect("proposes");
        store.take_leases(proposal.change()).expect("takes");
    }
}
