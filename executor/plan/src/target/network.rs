//! Addresses, the bridge, and the links that lead to it.

use crate::{
    observed::HostNetwork,
    target::{
        ID_COUNT, Target, TargetError,
        firewall::{Family, hardware_address, port_group},
    },
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Name, graph::SandboxNode, spec::Network, units::nth_address};

/// The bridge and what the host needs for it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bridge {
    /// Its interface's name.
    pub name: String,
    /// Its own addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// The host's settings, in the order in which they are set.
    pub settings: Vec<Setting>,
}

/// A setting of the host that the bridge needs.
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

/// A pod's link to the bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodLink {
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
    /// Where its default routes lead, one for each network.
    pub gateways: BTreeSet<IpAddr>,
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
    /// Whether a pod has an address of its own on the bridge.
    pub fn is_bridged(&self, pod: &Name) -> bool {
        self.graph
            .sandbox(pod)
            .is_some_and(|(node, _)| node.network == Network::Bridge)
    }

    /// A pod's addresses, one of each of the host's networks; none where it is not on the bridge,
    /// or has no lease.
    pub fn addresses(&self, pod: &Name) -> BTreeSet<IpNet> {
        match self.leases.get(pod) {
            Some(lease) if self.is_bridged(pod) => self.nth(*lease),
            _ => BTreeSet::new(),
        }
    }

    /// The bridge's own addresses.
    pub(super) fn bridge_addresses(&self) -> BTreeSet<IpNet> {
        self.nth(1)
    }

    /// The bridge, on a host whose network is this; [`Target::needs_bridge`] says whether there has
    /// to be one.
    pub fn bridge(&self, host: &HostNetwork) -> Bridge {
        Bridge {
            name: self.host.bridge.clone(),
            addresses: self.nth(1),
            settings: self.settings(host),
        }
    }

    fn settings(&self, host: &HostNetwork) -> Vec<Setting> {
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
                // Lets a port on 127.0.0.1 lead to a pod; the table's guard keeps pods from the
                // host's loopback.
                let path = format!("net/ipv4/conf/{}/route_localnet", self.host.bridge);
                settings.push(setting(path, "1", BTreeSet::new()));
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

    /// Whether the pods have addresses of a family.
    pub(crate) fn has(&self, family: Family) -> bool {
        let networks = self.host.networks.iter();
        networks
            .map(|network| Family::from(network.addr()))
            .any(|own| own == family)
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

    /// Whether any pod is on the bridge.
    pub fn needs_bridge(&self) -> bool {
        self.graph.pods().any(|pod| self.is_bridged(pod))
    }

    /// A pod's link to the bridge.
    ///
    /// # Errors
    /// When the pod has no lease.
    pub fn link(&self, pod: &Name) -> Result<PodLink, TargetError> {
        let lease = self.lease(pod)?;
        let bridge_addresses = self.nth(1);
        Ok(PodLink {
            bridge: self.host.bridge.clone(),
            mac: hardware_address(lease),
            group: port_group(lease),
            mtu: self.host.mtu,
            addresses: self.nth(lease),
            gateways: bridge_addresses.iter().map(IpNet::addr).collect(),
            bridge_addresses,
        })
    }

    pub(super) fn nth(&self, n: u32) -> BTreeSet<IpNet> {
        let networks = self.host.networks.iter();
        networks
            .filter_map(|network| nth_address(*network, n))
            .collect()
    }
}
