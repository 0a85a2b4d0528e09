//! Interfaces of pods that take their address from a pool.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{
    Graph, Name,
    spec::{Network, Nic, Pool},
};

/// The addresses that interfaces have of their pools: by pod, and by interface.
pub type Pooled = BTreeMap<Name, BTreeMap<Name, IpAddr>>;

/// An interface that takes an address from a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its pod.
    pub pod: Name,
    /// Its own name.
    pub nic: Name,
    /// Where the address is taken from.
    pub pool: Pool,
}

/// Whatever takes an address from a pool, and the addresses that are nobody's to take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// In the order of their names.
    pub wanted: Vec<Wanted>,
    /// What other interfaces have as their addresses, or as next hops.
    pub avoid: BTreeSet<IpAddr>,
}

impl Demand {
    /// That of all that a graph declares.
    pub fn of(graph: &Graph) -> Self {
        let mut demand = Self::default();
        for (pod, name, nic) in nics(graph) {
            let statics = nic.static_addresses().map(|own| own.addr());
            let hops = nic.routes.values().map(|route| route.via);
            demand.avoid.extend(statics.chain(nic.gateway).chain(hops));
            demand.wanted.extend(nic.own_pool().map(|pool| Wanted {
                pod: pod.clone(),
                nic: name.clone(),
                pool,
            }));
        }
        demand
    }
}

fn nics(graph: &Graph) -> impl Iterator<Item = (&Name, &Name, &Nic)> {
    graph.pods().flat_map(move |pod| {
        let network = graph.sandbox(pod).map(|(node, _)| &node.network);
        let nics = match network {
            Some(Network::Nics(nics)) => Some(nics),
            _ => None,
        };
        let nics = nics.into_iter().flatten();
        nics.map(move |(name, nic)| (pod, name, nic))
    })
}
