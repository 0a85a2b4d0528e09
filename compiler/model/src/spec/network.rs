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
    /// Addresses to take one from where none is given, or what a static one has to be within.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub pool: Option<IpNet>,
    /// The length of the prefix of the pool's network; the pool's own unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefix: Option<u32>,
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

    /// The pool that it takes an address from.
    pub fn own_pool(&self) -> Option<Pool> {
        let addresses = self.pool.filter(|_| self.address.is_none())?;
        let prefix = match self.prefix {
            Some(prefix) => u8::try_from(prefix).ok()?,
            None => addresses.prefix_len(),
        };
        let network = IpNet::new(addresses.addr(), prefix).ok()?.trunc();
        Some(Pool { addresses, network })
    }

    /// Whether an address of its own has this one in its network.
    pub fn reaches(&self, next_hop: &IpAddr) -> bool {
        let pool = self.own_pool();
        let mut own = self.static_addresses();
        own.any(|own| own.contains(next_hop))
            || pool.is_some_and(|pool| pool.network.contains(next_hop))
    }
}

/// Addresses that interfaces take one from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pool {
    /// Those that may be taken.
    pub addresses: IpNet,
    /// The network that they are in.
    pub network: IpNet,
}

impl Pool {
    /// Its `nth` address, if a host of the network can have it.
    pub fn nth(&self, nth: u32) -> Option<IpAddr> {
        let address = match self.addresses.network() {
            IpAddr::V4(first) => IpAddr::V4(u32::from(first).checked_add(nth)?.into()),
            IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(nth.into())?.into()),
        };
        let single = self.network.prefix_len() + 1 >= self.network.max_prefix_len();
        // The first one of IPv6 is every router's (RFC 4291, section 2.6.1).
        let is_first = address == self.network.network() && !single;
        let is_last = address.is_ipv4() && address == self.network.broadcast() && !single;
        (self.addresses.contains(&address) && !is_first && !is_last).then_some(address)
    }

    /// Which of its addresses this one is, as [`Pool::nth`] counts them.
    pub fn place(&self, address: IpAddr) -> Option<u32> {
        let place = match (self.addresses.network(), address) {
            (IpAddr::V4(first), IpAddr::V4(own)) => u32::from(own).checked_sub(first.into())?,
            (IpAddr::V6(first), IpAddr::V6(own)) => {
                let place = u128::from(own).checked_sub(first.into())?;
                u32::try_from(place).ok()?
            }
            _ => return None,
        };
        (self.nth(place) == Some(address)).then_some(place)
    }

    /// How many it has, those that no host can have among them; of very many the first 2³² - 1.
    pub fn len(&self) -> u32 {
        let bits = u32::from(self.addresses.max_prefix_len() - self.addresses.prefix_len());
        1u32.checked_shl(bits).unwrap_or(u32::MAX)
    }

    /// Whether no host can have any of them.
    pub fn is_empty(&self) -> bool {
        (0..self.len().min(3)).all(|nth| self.nth(nth).is_none())
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
