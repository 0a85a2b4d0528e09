//! The host's own side of the network.

use crate::{flows::Flow, ports::CutOff, target::HostLink};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What of the host's network is not Tank's, and what Tank has changed of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostNetwork {
    /// What the settings say that the bridge needs, by their paths below `/proc/sys`. Those that
    /// the kernel does not have are left out.
    pub settings: BTreeMap<String, String>,
    /// The links, without loopback and Tank's own.
    pub links: BTreeSet<String>,
    /// Those whose default route a router advertised, and which would not listen to one any more
    /// once the host forwards (`accept_ra` of the kernel's ip-sysctl page).
    pub advertised: BTreeSet<String>,
    /// What Tank has changed since the host was booted, by path.
    pub changed: BTreeMap<String, ChangedSetting>,
    /// The links that interfaces of pods may sit on, by their names. Read only where a pod has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parents: BTreeMap<String, Parent>,
    /// Its own addresses. None: nobody asks. Read only where ports are published on one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// Sockets of the host that get nothing, since their ports lead to pods.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cut_off: BTreeSet<CutOff>,
    /// The link of the default route. None: there is none, or nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Flows of UDP that go past where the rules that are there lead. Read only while nobody knows that
    /// all that were to end have ended: when the daemon has started, or a step that ends some was not
    /// carried out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub flows: BTreeSet<Flow>,
    /// The host's own links to pods, by their names. None: it is there, and not in order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_links: BTreeMap<String, Option<HostLink>>,
}

/// A link of the host that interfaces of pods may sit on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Parent {
    /// Whether it is set up.
    pub is_up: bool,
    /// The longest packet it takes.
    pub mtu: u32,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Whether it is a macvlan itself.
    pub is_macvlan: bool,
    /// Whether its frames are Ethernet's.
    pub is_ethernet: bool,
    /// The bridge, or bond, that it is a port of.
    pub port_of: Option<String>,
    /// Its addresses, without link-local ones. Read only of those that pods name or would get.
    pub addresses: BTreeSet<IpNet>,
    /// Through whom the host's routes by it lead. Read only before a change.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub next_hops: BTreeSet<IpAddr>,
}

/// A setting of the host that Tank has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangedSetting {
    /// What it said.
    pub before: String,
    /// What it was set to.
    pub set: String,
    /// Of one by which the host forwards: the links that were there, and between which nothing was
    /// forwarded.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub links: BTreeSet<String>,
    /// Settings of single links that it changed along, and that said `set` before: to be set again
    /// when this one is given back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub along: BTreeSet<String>,
}
