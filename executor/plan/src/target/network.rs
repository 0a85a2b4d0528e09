//! Addresses, the bridges, and the links that lead to them.

use crate::{
    observed::{self, FoundLink, HostNetwork},
    target::{
        ID_COUNT, Target, TargetError,
        firewall::Family,
        networks::{Place, UsedNetwork, memberships},
    },
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Name, graph::SandboxNode, spec::Network};

/// A network's bridge and what the host needs for it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bridge {
    /// Its interface's name.
    pub name: String,
    /// The network's name, for people: of any but the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// Its own addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// The host's settings, in the order in which they are set.
    pub settings: Vec<Setting>,
}

/// A setting of the host that a bridge needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// Below `/proc/sys`.
    pub path: String,
    /// What it has to say.
    pub value: String,
    /// See [`crate::observed::ChangedSetting::links`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub links: BTreeSet<String>,
}

/// By which the host forwards packets of a family.
pub(super) const FORWARDS: [(Family, &str); 2] = [
    (Family::V4, "net/ipv4/ip_forward"),
    (Family::V6, "net/ipv6/conf/all/forwarding"),
];

/// A pod's link to a bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodLink {
    /// Its name inside.
    #[serde(default = "first_link", skip_serializing_if = "is_first_link")]
    pub name: String,
    /// The bridge it leads to, which is made where it is not there.
    pub bridge: String,
    /// The bridge's own addresses, with the lengths of their networks' prefixes.
    pub bridge_addresses: BTreeSet<IpNet>,
    /// The pod's hardware address: it keeps it with its lease, and neighbours keep their entry.
    pub mac: [u8; 6],
    /// The group of the bridge's port, by which rules know the pod.
    pub group: u32,
    /// The longest packet it takes, in bytes.
    #[serde(default = "default_mtu", skip_serializing_if = "is_default_mtu")]
    pub mtu: u32,
    /// The pod's own addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// Whether the addresses are announced: neighbours may know one by another hardware address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub announced: bool,
    /// Where its default routes lead, one of each family at most; none where another link has it.
    pub gateways: BTreeSet<IpAddr>,
}

/// The name inside of a pod's link, by its place among the networks of the pod.
pub fn link_name(place: usize) -> String {
    format!("eth{place}")
}

fn first_link() -> String {
    link_name(0)
}

fn is_first_link(name: &str) -> bool {
    name == first_link()
}

/// Ethernet's (RFC 894).
pub const DEFAULT_MTU: u32 = 1500;

pub(super) fn default_mtu() -> u32 {
    DEFAULT_MTU
}

pub(super) fn is_default_mtu(mtu: &u32) -> bool {
    *mtu == DEFAULT_MTU
}

/// Refuses settings of a pod's network where that is the host's.
pub(super) fn refuse_host_sysctls(node: &SandboxNode) -> Result<(), TargetError> {
    let of_host = |key: &&String| node.network == Network::Host && key.starts_with("net.");
    match node.sysctls.keys().find(of_host) {
        Some(key) => Err(TargetError::HostSysctl { key: key.clone() }),
        None => Ok(()),
    }
}

impl Target<'_> {
    /// Whether a pod has an address of its own on a bridge of Tank's.
    pub fn is_bridged(&self, pod: &Name) -> bool {
        self.graph
            .sandbox(pod)
            .is_some_and(|(node, _)| node.network == Network::Bridge)
    }

    /// A pod's addresses, those of its first network first; none where it is on no bridge, or has no
    /// lease.
    pub fn addresses(&self, pod: &Name) -> Vec<IpNet> {
        let places = self.places(pod).into_iter();
        places.flat_map(|place| place.addresses).collect()
    }

    /// The bridges that there have to be, on a host whose network is this.
    pub fn bridges(&self, host: &HostNetwork) -> Vec<Bridge> {
        let networks = self.networks().into_iter();
        let bridge = |network: UsedNetwork| Bridge {
            addresses: network.addresses(),
            settings: self.settings(&network, host),
            network: (!network.name.is_default_network()).then_some(network.name),
            name: network.bridge,
        };
        networks.map(bridge).collect()
    }

    fn settings(&self, network: &UsedNetwork, host: &HostNetwork) -> Vec<Setting> {
        let setting = |path: String, value: &str, links| Setting {
            path,
            value: value.to_owned(),
            links,
        };
        let mut settings = Vec::new();
        for (family, path) in FORWARDS {
            if !self.has(family) {
                continue;
            }
            if family == Family::V4 {
                // A pod is not told where the host's other addresses are: it has the bridge's own.
                let path = format!("net/ipv4/conf/{}/arp_ignore", network.bridge);
                settings.push(setting(path, "1", BTreeSet::new()));
                // Lets a port on 127.0.0.1 lead to a pod; the table's guard keeps pods from the
                // host's loopback. No port leads into an internal network.
                if !network.internal {
                    let path = format!("net/ipv4/conf/{}/route_localnet", network.bridge);
                    settings.push(setting(path, "1", BTreeSet::new()));
                }
            } else {
                // A host that forwards takes itself for a router, and forgets the routes that
                // others advertise: first it is set to go on listening.
                let links = host.advertised.iter();
                let path = |link| format!("net/ipv6/conf/{link}/accept_ra");
                settings.extend(links.map(|link| setting(path(link), "2", BTreeSet::new())));
            }
            settings.push(setting(path.to_owned(), "1", self.apart(family, host)));
        }
        settings
    }

    /// Whether pods have addresses of a family, or would have on the default network.
    pub(crate) fn has(&self, family: Family) -> bool {
        let is_of = |net: &IpNet| Family::from(net.addr()) == family;
        let mut networks = self.host.networks.iter();
        let declared = || {
            self.graph
                .networks()
                .filter_map(|(name, _)| self.network(name))
        };
        networks.any(is_of) || declared().any(|network| network.subnets.iter().any(is_of))
    }

    /// The host's links between which nothing is forwarded although the host forwards, because it
    /// does so for Tank alone. None where it forwarded before: that is somebody else's business.
    pub(super) fn apart(&self, family: Family, host: &HostNetwork) -> BTreeSet<String> {
        let path = FORWARDS
            .iter()
            .find(|(own, _)| *own == family)
            .map(|(_, path)| *path);
        let Some(path) = path.filter(|_| self.has(family)) else {
            return BTreeSet::new();
        };
        match (
            host.settings.get(path).map(String::as_str),
            host.changed.get(path),
        ) {
            (Some("0"), _) => host.links.clone(),
            (Some(_), Some(changed)) => changed.links.clone(),
            _ => BTreeSet::new(),
        }
    }

    /// The settings that a pod's own network gets beside those that are declared, by their dotted
    /// names: it is what the host makes it, whatever a neighbour advertises, and every group of the
    /// pod may send echo requests, for which a process needs no capability then (icmp(7)).
    ///
    /// # Errors
    /// When the pod has no ids.
    pub(super) fn default_sysctls(
        &self,
        pod: &Name,
    ) -> Result<BTreeMap<String, String>, TargetError> {
        let node = self.graph.sandbox(pod).map(|(node, _)| node);
        let Some(node) = node.filter(|node| node.network != Network::Host) else {
            return Ok(BTreeMap::new());
        };
        let first = self.id_base(pod)?;
        let groups = format!("{first} {}", first.saturating_add(ID_COUNT - 1));
        let all = [
            ("net.ipv4.ping_group_range", groups.as_str()),
            ("net.ipv6.conf.all.accept_ra", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
        ];
        let others = all
            .iter()
            .filter(|(key, _)| !node.sysctls.contains_key(*key));
        let owned = others.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Ok(owned.collect())
    }

    /// Whether any pod is on a bridge.
    pub fn needs_bridge(&self) -> bool {
        self.graph.pods().any(|pod| self.is_bridged(pod))
    }

    /// A pod's links to the bridges of its networks. Those of IPv4 and of IPv6 that lead further are
    /// the first that are not internal.
    ///
    /// # Errors
    /// When the pod has no lease, or no address on a network.
    pub fn links(&self, pod: &Name) -> Result<Vec<PodLink>, TargetError> {
        self.lease(pod)?;
        let places = self.places(pod);
        for (network, _) in memberships(self.graph, pod) {
            if !places.iter().any(|place| place.network == network) {
                let pod = pod.clone();
                return Err(TargetError::NoAddress { pod, network });
            }
        }
        let mut routed = BTreeSet::new();
        let link = |(index, place): (usize, Place)| {
            let network = self.network(&place.network);
            let network = network.ok_or_else(|| TargetError::NoAddress {
                pod: pod.clone(),
                network: place.network.clone(),
            })?;
            let bridge_addresses = network.addresses();
            let gateways = bridge_addresses.iter().map(IpNet::addr);
            let gateways = gateways
                .filter(|gateway| !network.internal && routed.insert(Family::from(*gateway)));
            Ok(PodLink {
                name: link_name(index),
                bridge: network.bridge.clone(),
                mac: place.mac,
                group: place.group,
                mtu: self.host.mtu,
                addresses: place.addresses,
                announced: place.is_static,
                gateways: gateways.collect(),
                bridge_addresses,
            })
        };
        places.into_iter().enumerate().map(link).collect()
    }
    /// Whether a pod's links are as they should be.
    pub(crate) fn is_connected(&self, pod: &Name, sandbox: &observed::Sandbox) -> bool {
        let Ok(links) = self.links(pod) else {
            return false;
        };
        let gateways: BTreeSet<IpAddr> = links
            .iter()
            .flat_map(|link| link.gateways.iter().copied())
            .collect();
        let is_there = |link: &PodLink| {
            let found = sandbox.links.get(&link.name);
            found == Some(&FoundLink::of(link))
        };
        sandbox.gateways == gateways && links.iter().all(is_there)
    }
}
