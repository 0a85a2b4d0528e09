//! Addresses, the bridge, and the links that lead to it.

use crate::target::{Target, TargetError};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Name, spec::Network, units::nth_address};

/// The bridge and what the host needs for it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bridge {
    /// Its interface's name.
    pub name: String,
    /// Its own addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// The host's settings, by their paths below `/proc/sys`.
    pub sysctls: BTreeMap<String, String>,
}

/// A pod's link to the bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodLink {
    /// The bridge it leads to, which is made where it is not there.
    pub bridge: String,
    /// The bridge's own addresses, with the lengths of their networks' prefixes.
    pub bridge_addresses: BTreeSet<IpNet>,
    /// What the pod's hardware address is made from: a pod keeps it with its lease, and neighbours
    /// keep their entry.
    pub mac: u16,
    /// The pod's own addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// Where its default routes lead, one for each network.
    pub gateways: BTreeSet<IpAddr>,
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

    /// The bridge; [`Target::needs_bridge`] says whether there has to be one.
    pub fn bridge(&self) -> Bridge {
        let name = &self.host.bridge;
        let mut sysctls = BTreeMap::new();
        let mut set = |path: String| drop(sysctls.insert(path, "1".to_owned()));
        for network in &self.host.networks {
            match network {
                IpNet::V4(_) => {
                    set("net/ipv4/ip_forward".to_owned());
                    // Lets a port on 127.0.0.1 lead to a pod; the table's guard keeps pods from
                    // the host's loopback.
                    set(format!("net/ipv4/conf/{name}/route_localnet"));
                }
                IpNet::V6(_) => set("net/ipv6/conf/all/forwarding".to_owned()),
            }
        }
        Bridge {
            name: name.clone(),
            addresses: self.nth(1),
            sysctls,
        }
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
            // There are fewer leases than that: a pod's ids would end before.
            mac: lease as u16,
            addresses: self.nth(lease),
            gateways: bridge_addresses.iter().map(IpNet::addr).collect(),
            bridge_addresses,
        })
    }

    fn nth(&self, n: u32) -> BTreeSet<IpNet> {
        let networks = self.host.networks.iter();
        networks
            .filter_map(|network| nth_address(*network, n))
            .collect()
    }
}
