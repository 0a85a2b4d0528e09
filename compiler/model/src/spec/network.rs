//! The network of a pod.

use super::is_default;
use crate::{
    name::{Name, plain_keys},
    units::{Cidr, optional_network},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// How a pod reaches others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// An own address on Tank's bridge.
    #[default]
    Bridge,
    /// The host's network namespace.
    Host,
    /// Loopback only.
    None,
    /// Interfaces of one's own, by the name they have inside the pod.
    Nics(#[serde(deserialize_with = "plain_keys")] BTreeMap<Name, Nic>),
}

/// A network interface of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// How it is connected.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: NicMode,
    /// The host's interface: what a macvlan sits on, or the bridge that is joined. `auto`: the
    /// default route's, of a macvlan.
    #[serde(default = "auto_parent", skip_serializing_if = "is_auto_parent")]
    pub parent: String,
    /// A static address with the length of its network's prefix.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub address: Option<IpNet>,
    /// Further static addresses, by names of their own.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub addresses: BTreeMap<Name, Cidr>,
    /// Addresses to take one from, or what a static one has to be within.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub pool: Option<IpNet>,
    /// The next hop of the default route.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: Option<IpAddr>,
    /// Further routes, by names of their own.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub routes: BTreeMap<Name, NicRoute>,
    /// The longest packet it takes, in bytes; the parent's unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mtu: Option<u32>,
}

/// A route of a [`Nic`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicRoute {
    /// Where it leads.
    pub to: Cidr,
    /// The next hop.
    pub via: IpAddr,
}

impl Nic {
    /// All of its static addresses.
    pub fn static_addresses(&self) -> impl Iterator<Item = IpNet> {
        let more = self.addresses.values().map(|address| address.0);
        self.address.into_iter().chain(more)
    }

    /// Whether a static address has this one in its network.
    pub fn reaches(&self, next_hop: &IpAddr) -> bool {
        self.static_addresses().any(|own| own.contains(next_hop))
    }
}

/// What kind of interface a [`Nic`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicMode {
    /// One end of a pair whose other end is a port of a bridge.
    #[default]
    Bridge,
    /// An address of its own on the network of `parent`.
    Macvlan,
}

fn auto_parent() -> String {
    "auto".to_owned()
}

fn is_auto_parent(parent: &str) -> bool {
    parent == "auto"
}
