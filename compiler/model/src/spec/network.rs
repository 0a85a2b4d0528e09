//! The network of a pod.

use super::is_default;
use crate::{
    name::{Name, plain_keys},
    units::optional_network,
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
    /// default route's, or Tank's bridge.
    #[serde(default = "auto_parent", skip_serializing_if = "is_auto_parent")]
    pub parent: String,
    /// A static address with the length of its network's prefix.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub address: Option<IpNet>,
    /// Addresses to take one from, or what a static one has to be within.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub pool: Option<IpNet>,
    /// The next hop of the default route.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: Option<IpAddr>,
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
