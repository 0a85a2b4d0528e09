//! Networks: which there are, who is on them, and what follows from their leases.
//!
//! A network is a bridge of its own. That of the default one has the name and the addresses that the
//! operator settled, and a pod's place on it follows from the pod's lease. Any other is a
//! [`NetworkLease`]: its number says which part of each pool its subnet is, where it declares none, and
//! each of its pods has a number on it, from which the pod's address there follows (where it is not
//! static), its hardware address and the group of its port. Both numbers are in the group and in the
//! hardware address: a pod is another one on each of its networks, for all that rules know of it.

mod refusals;

pub use refusals::{HostNets, Taken, evicting, is_new_default, unusable};

use crate::target::{
    Target,
    firewall::{hardware_address, lease_of_port, network_mac, network_port_group, port_group},
    nics::is_hash_of_network,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use tank_model::{
    Digest, Graph, Name,
    spec::{DEFAULT_NETWORK, Membership, NamedNetwork, Network},
    units::nth_address,
};

/// The numbers of networks are below this.
pub const MAX_NETWORK_NUMBER: u32 = 256;

/// The numbers of a network's pods are below this, and from [`FIRST_POD_NUMBER`] on: a bridge has 1,023
/// ports.
pub const MAX_POD_NUMBER: u32 = 1 << POD_NUMBER_BITS;
pub(super) const POD_NUMBER_BITS: u32 = 10;

/// A network's first address is the bridge's own.
pub const FIRST_POD_NUMBER: u32 = 2;

/// The most pods of a network.
pub const MAX_PODS: usize = 1_000;

/// The lengths of the prefixes of subnets that are leased.
const SUBNET_LENGTHS: (u8, u8) = (24, 64);

/// How the names of bridges of networks begin, and how many digits follow: with a host link of the
/// same beginning there are more, or others ([`crate::target::nics::host_link_name`]).
pub const BRIDGE_PREFIX: &str = "tank-";
pub(super) const BRIDGE_DIGITS: usize = 9;

/// What was leased to a network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NetworkLease {
    /// Its number.
    pub number: u32,
    /// The numbers of its pods.
    pub pods: BTreeMap<Name, u32>,
}

/// A network that pods are on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsedNetwork {
    /// Its name on the host.
    pub name: Name,
    /// The name of its bridge.
    pub bridge: String,
    /// Whether nothing leads out of it or into it.
    pub internal: bool,
    /// Without host bits, at most one of each family.
    pub subnets: Vec<IpNet>,
}

impl UsedNetwork {
    /// The bridge's own addresses.
    pub fn addresses(&self) -> BTreeSet<IpNet> {
        nth(&self.subnets, 1)
    }
}

/// A pod on a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The network's name.
    pub network: Name,
    /// Whether nothing leads out of the network or into it.
    pub internal: bool,
    /// The group of the bridge's port.
    pub group: u32,
    /// The pod's hardware address.
    pub mac: [u8; 6],
    /// The pod's addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// Whether one of them is static, and so may have been another pod's, with a hardware address of
    /// its own: one that is leased goes with the hardware address of the same number.
    pub is_static: bool,
}

/// The bridge of a network other than the default one, by the network's name on the host.
pub fn bridge_name(network: &Name) -> String {
    let hash = Digest::of(network.as_str().as_bytes()).to_string();
    let hash = hash.rsplit(':').next().unwrap_or_default();
    let digits = hash.get(..BRIDGE_DIGITS).unwrap_or_default();
    format!("{BRIDGE_PREFIX}{digits}")
}

/// What the link of the default network's bridge says that it is (`ip link set alias`): its name is the
/// settings' to choose.
pub const DEFAULT_ALIAS: &str = "Tank's default network";

/// Whether a link's name is one that [`bridge_name`] gives.
pub fn is_bridge_name(name: &str) -> bool {
    let digits = name.strip_prefix(BRIDGE_PREFIX);
    digits.is_some_and(is_hash_of_network)
}

/// The subnets that a network of this number has where it declares none: of each pool a part. None of a
/// pool that has fewer parts.
pub fn leased_subnets(pools: &[IpNet], number: u32) -> Vec<IpNet> {
    let part = |pool: &IpNet| -> Option<IpNet> {
        Some(match pool {
            IpNet::V4(pool) => {
                let length = SUBNET_LENGTHS.0;
                let base = u32::from(pool.network()).checked_add(number << (32 - length))?;
                let net = Ipv4Net::new(Ipv4Addr::from(base), length).ok()?;
                (pool.prefix_len() <= length && pool.contains(&net)).then_some(net.into())?
            }
            IpNet::V6(pool) => {
                let length = SUBNET_LENGTHS.1;
                let more = u128::from(number) << (128 - length);
                let base = u128::from(pool.network()).checked_add(more)?;
                let net = Ipv6Net::new(Ipv6Addr::from(base), length).ok()?;
                (pool.prefix_len() <= length && pool.contains(&net)).then_some(net.into())?
            }
        })
    };
    pools.iter().filter_map(part).collect()
}

/// The subnets of a network with this number.
pub fn subnets(network: &NamedNetwork, pools: &[IpNet], number: u32) -> Vec<IpNet> {
    match network.subnets.is_empty() {
        true => leased_subnets(pools, number),
        false => network.nets().map(|net| net.trunc()).collect(),
    }
}

/// The addresses of a pod with this number in some subnets: the static ones, and where there is none the
/// one that the number says.
pub fn pod_addresses(subnets: &[IpNet], own: &Membership, number: u32) -> BTreeSet<IpNet> {
    let address = |subnet: &IpNet| {
        let mut fixed = own.addresses.iter();
        match fixed.find(|fixed| subnet.contains(*fixed)) {
            Some(fixed) => IpNet::new(*fixed, subnet.prefix_len()).ok(),
            None => nth_address(*subnet, number),
        }
    };
    subnets.iter().filter_map(address).collect()
}

pub(super) fn nth(subnets: &[IpNet], n: u32) -> BTreeSet<IpNet> {
    let nth = subnets.iter().filter_map(|subnet| nth_address(*subnet, n));
    nth.collect()
}

fn default_network() -> Option<Name> {
    Name::new(DEFAULT_NETWORK).ok()
}

/// The networks that a pod of a graph is on, in the order of their names, and what it is there.
pub fn memberships(graph: &Graph, pod: &Name) -> Vec<(Name, Membership)> {
    let Some((node, _)) = graph.sandbox(pod) else {
        return Vec::new();
    };
    if node.network != Network::Bridge {
        return Vec::new();
    }
    if node.networks.is_empty() {
        let alone = default_network().map(|network| (network, Membership::default()));
        return alone.into_iter().collect();
    }
    let own = node.networks.iter();
    own.map(|(network, own)| (network.clone(), own.clone()))
        .collect()
}

/// The declaration of a network.
pub fn declared<'a>(graph: &'a Graph, network: &Name) -> Option<&'a NamedNetwork> {
    let entry = graph.get(&tank_model::Key::Network(network.clone()))?;
    match &entry.node {
        tank_model::graph::Node::Network(network) => Some(network),
        _ => None,
    }
}

impl Target<'_> {
    /// A network of a graph; none where it is not declared, or has no lease.
    fn network_of(&self, graph: &Graph, network: &Name) -> Option<UsedNetwork> {
        if network.is_default_network() {
            return Some(UsedNetwork {
                name: network.clone(),
                bridge: self.host.bridge.clone(),
                internal: false,
                subnets: self.host.networks.iter().map(IpNet::trunc).collect(),
            });
        }
        let spec = declared(graph, network)?;
        let lease = self.networks.get(network)?;
        Some(UsedNetwork {
            name: network.clone(),
            bridge: bridge_name(network),
            internal: spec.internal,
            subnets: subnets(spec, &self.host.pools, lease.number),
        })
    }

    /// The network of this name.
    pub fn network(&self, network: &Name) -> Option<UsedNetwork> {
        self.network_of(self.graph, network)
    }

    /// The networks that pods are on, in the order of their names.
    pub fn networks(&self) -> Vec<UsedNetwork> {
        self.networks_of_pods(self.graph, self.graph.pods())
    }

    pub(super) fn networks_of_pods<'a>(
        &self,
        graph: &Graph,
        pods: impl Iterator<Item = &'a Name>,
    ) -> Vec<UsedNetwork> {
        let names = pods.flat_map(|pod| memberships(graph, pod));
        let names: BTreeSet<Name> = names.map(|(network, _)| network).collect();
        let networks = names.iter();
        networks
            .filter_map(|network| self.network_of(graph, network))
            .collect()
    }

    /// A pod's places on its networks, in the order of these' names; without those that it has no
    /// lease for.
    pub fn places(&self, pod: &Name) -> Vec<Place> {
        self.places_in(self.graph, pod)
    }

    /// As [`Target::places`], as a graph has it.
    pub(super) fn places_in(&self, graph: &Graph, pod: &Name) -> Vec<Place> {
        let memberships = memberships(graph, pod).into_iter();
        memberships
            .filter_map(|(network, own)| self.place(graph, pod, &network, &own))
            .collect()
    }

    fn place(&self, graph: &Graph, pod: &Name, network: &Name, own: &Membership) -> Option<Place> {
        if network.is_default_network() {
            let lease = self.leases.get(pod).copied()?;
            return self.default_place(port_group(lease));
        }
        let used = self.network_of(graph, network)?;
        let lease = self.networks.get(network)?;
        let number = lease.pods.get(pod).copied()?;
        Some(Place {
            network: used.name,
            internal: used.internal,
            group: network_port_group(lease.number, number),
            mac: network_mac(lease.number, number),
            addresses: pod_addresses(&used.subnets, own, number),
            is_static: !own.addresses.is_empty(),
        })
    }

    /// The place on the default network of whoever has a port there. None: it is on another one.
    pub(super) fn default_place(&self, port: u32) -> Option<Place> {
        let lease = lease_of_port(port)?;
        Some(Place {
            network: default_network()?,
            internal: false,
            group: port,
            mac: hardware_address(lease),
            addresses: nth(&self.host.networks, lease),
            is_static: false,
        })
    }

    /// Where a pod's published ports lead: its addresses on the first of its networks that is not
    /// internal.
    pub(super) fn published_at(&self, pod: &Name) -> BTreeSet<IpAddr> {
        self.published_in(self.graph, pod)
    }

    /// As [`Target::published_at`], as a graph has it.
    pub(crate) fn published_in(&self, graph: &Graph, pod: &Name) -> BTreeSet<IpAddr> {
        let mut places = self.places_in(graph, pod).into_iter();
        let place = places.find(|place| !place.internal);
        let addresses = place.into_iter().flat_map(|place| place.addresses);
        addresses.map(|own| own.addr()).collect()
    }

    /// The addresses of the bridge of a pod's first network.
    pub(super) fn servers(&self, pod: &Name) -> BTreeSet<IpAddr> {
        let first = memberships(self.graph, pod).into_iter().next();
        let network = first.and_then(|(network, _)| self.network(&network));
        let addresses = network.into_iter().flat_map(|network| network.addresses());
        addresses.map(|own| own.addr()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        let net = |text: &&str| text.parse().expect("a network");
        texts.iter().map(net).collect()
    }

    #[test]
    fn a_number_says_the_subnets() {
        let pools = nets(&["10.91.0.0/16", "fd74:616e:6b01::/48"]);
        let of = |number| -> Vec<String> {
            let subnets = leased_subnets(&pools, number);
            subnets.iter().map(IpNet::to_string).collect()
        };
        assert_eq!(of(0), ["10.91.0.0/24", "fd74:616e:6b01::/64"]);
        assert_eq!(of(255), ["10.91.255.0/24", "fd74:616e:6b01:ff::/64"]);
        assert_eq!(of(256), ["fd74:616e:6b01:100::/64"], "the other has 256");
        assert_eq!(leased_subnets(&nets(&["10.91.0.0/24"]), 0).len(), 1);
        assert_eq!(leased_subnets(&nets(&["10.91.0.0/25"]), 0).len(), 0);
        assert_eq!(leased_subnets(&nets(&["255.255.0.0/16"]), 256).len(), 0);
    }

    #[test]
    fn a_pod_has_its_static_addresses_and_those_of_its_number() {
        let subnets = nets(&["10.91.7.0/24", "fd00:7::/64"]);
        let of = |fixed: &[&str], number| -> Vec<String> {
            let own = Membership {
                addresses: fixed.iter().map(|one| one.parse().expect("one")).collect(),
                ..Membership::default()
            };
            let addresses = pod_addresses(&subnets, &own, number);
            addresses.iter().map(IpNet::to_string).collect()
        };
        assert_eq!(of(&[], 9), ["10.91.7.9/24", "fd00:7::9/64"]);
        assert_eq!(of(&["10.91.7.77"], 9), ["10.91.7.77/24", "fd00:7::9/64"]);
        let both = ["fd00:7::77", "10.91.7.77"];
        assert_eq!(of(&both, 9), ["10.91.7.77/24", "fd00:7::77/64"]);
        assert_eq!(of(&[], 300), ["fd00:7::12c/64"], "there is none of IPv4");
    }

    /// No bridge of a network has the name of a host link, whatever the parents of these are called.
    #[test]
    fn the_name_of_a_bridge_is_nobody_elses() {
        let name = bridge_name(&Name::of_pod("blog:back").expect("a name"));
        assert_eq!(name.len(), 14);
        assert!(is_bridge_name(&name), "{name}");
        let digits = name.strip_prefix(BRIDGE_PREFIX).expect("the beginning");
        let link = crate::target::nics::host_link_name(digits);
        assert!(!is_bridge_name(&link) && link != name, "{link}");
        for other in ["tank0", "tank-eth0", "tank-enp0s31f6", "tank-0123456789"] {
            assert!(!is_bridge_name(other), "{other}");
        }
    }
}
