//! The networks that the tables are about, who is on them, and who is on the way out.

use super::{Family, Kind, Set, TableFamily, Value};
use crate::target::{
    Target,
    networks::{Place, UsedNetwork},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use tank_model::{Graph, Name};

/// What is on its way out, and holds until it is gone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Going {
    /// Pods, by the groups of the ports that they have.
    pub ports: BTreeSet<u32>,
    /// Bridges that no declared pod needs: nothing enters or leaves them.
    pub bridges: BTreeSet<String>,
    /// As whom pods may still send over host links: hardware addresses with addresses.
    pub senders: BTreeSet<([u8; 6], IpAddr)>,
}

impl Going {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.is_off_bridges() && self.senders.is_empty()
    }

    /// Whether nothing of it is on a bridge.
    pub(super) fn is_off_bridges(&self) -> bool {
        self.ports.is_empty() && self.bridges.is_empty()
    }
}

/// What the tables are about.
pub struct Scene {
    /// The bridges of networks that pods are on.
    pub networks: Vec<UsedNetwork>,
    /// Further bridges.
    pub others: BTreeSet<String>,
    /// As whom pods may send, and where.
    pub places: Vec<Place>,
}

impl Scene {
    /// The families of the networks.
    pub fn families(&self) -> BTreeSet<Family> {
        let nets = self.networks.iter().flat_map(|network| &network.subnets);
        nets.map(|net| Family::from(net.addr())).collect()
    }

    /// The subnets of a family.
    pub fn subnets(&self, family: Family) -> impl Iterator<Item = IpNet> {
        let nets = self.networks.iter().flat_map(|network| &network.subnets);
        nets.copied()
            .filter(move |net| Family::from(net.addr()) == family)
    }

    /// The names of all bridges.
    pub fn bridges(&self) -> impl Iterator<Item = &String> {
        let used = self.networks.iter().map(|network| &network.bridge);
        used.chain(&self.others)
    }

    /// The families of the addresses that pods have at all: each has a link-local one of IPv6.
    pub fn families_of_pods(&self) -> BTreeSet<Family> {
        let mut families = self.families();
        families.insert(Family::V6);
        families
    }

    /// Those that nothing enters or leaves.
    pub fn internal(&self) -> impl Iterator<Item = &String> {
        let internal = self.networks.iter().filter(|network| network.internal);
        internal.map(|network| &network.bridge).chain(&self.others)
    }
}

impl Target<'_> {
    pub(super) fn scene(&self, going: &Going) -> Scene {
        let mut networks = self.networks();
        let pods = self.graph.pods();
        let mut places: Vec<Place> = pods.flat_map(|pod| self.places(pod)).collect();
        let known: BTreeSet<u32> = places.iter().map(|place| place.group).collect();
        let taken = places.iter().flat_map(|place| &place.addresses);
        let taken: BTreeSet<IpAddr> = taken.map(IpNet::addr).collect();
        for (graph, pod) in self.going_pods(going) {
            let left = self.places_in(graph, pod).into_iter();
            let left = left.filter(|place| {
                going.ports.contains(&place.group) && !known.contains(&place.group)
            });
            // What it had and another has now is the other's.
            places.extend(left.map(|mut place| {
                place.addresses.retain(|own| !taken.contains(&own.addr()));
                place
            }));
            for network in self.networks_of_pods(graph, [pod].into_iter()) {
                match networks
                    .iter_mut()
                    .find(|used| used.bridge == network.bridge)
                {
                    // It opens when those are gone that it was closed for.
                    Some(used) => used.internal |= network.internal,
                    None => networks.push(network),
                }
            }
        }
        // Of a pod that nothing says anything of, its place on the default network follows from its port.
        let known: BTreeSet<u32> = places.iter().map(|place| place.group).collect();
        let unknown = going.ports.iter().filter(|port| !known.contains(port));
        let left: Vec<Place> = unknown
            .filter_map(|port| self.default_place(*port))
            .collect();
        let default = left.first().and_then(|place| self.network(&place.network));
        let default = default.filter(|own| !networks.iter().any(|used| used.bridge == own.bridge));
        networks.extend(default);
        places.extend(left);
        let used: BTreeSet<&String> = networks.iter().map(|network| &network.bridge).collect();
        let others = going.bridges.iter().filter(|name| !used.contains(name));
        Scene {
            others: others.cloned().collect(),
            networks,
            places,
        }
    }

    /// The pods that had a port that goes, as they were declared.
    pub(super) fn going_pods<'a>(
        &'a self,
        going: &Going,
    ) -> impl Iterator<Item = (&'a Graph, &'a Name)> {
        let previous = self.previous.filter(|_| !going.ports.is_empty());
        let pods = previous
            .into_iter()
            .flat_map(|graph| graph.pods().map(move |pod| (graph, pod)));
        pods.filter(|(graph, pod)| {
            let places = self.places_in(graph, pod);
            places
                .iter()
                .any(|place| going.ports.contains(&place.group))
        })
    }
}

/// A set of names of interfaces.
pub(super) fn set_of_interfaces<'a>(name: &str, links: impl Iterator<Item = &'a String>) -> Set {
    let element = |link: &String| vec![Value::Interface(link.clone())];
    Set {
        family: TableFamily::Inet,
        name: name.to_owned(),
        key: vec![Kind::Interface],
        data: Vec::new(),
        elements: links.map(element).collect(),
    }
}
