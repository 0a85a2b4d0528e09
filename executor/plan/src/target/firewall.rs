//! The rules of Tank's own nftables tables as data, and the policy behind them.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `guard` | prerouting, raw | nothing that comes over a link is for or from the host's loopback |
//! | `errors` | prerouting, mangle | a pod sends no errors about connections of others |
//! | `prerouting`, `output` | nat | published ports lead to pods, by maps; those on loopback for programs of the host only |
//! | `forward` | filter | from elsewhere, and from other networks, nothing reaches a pod but through a published port, and answers; nothing leaves an internal network |
//! | `postrouting` | nat | what leaves the pods' networks has the host's address |
//! | `isolation` | filter | what pods of internal networks have of the host; only where there are such networks |
//! | `senders`, `local` | bridge | a pod sends as itself alone |
//! | `policy`, `inward` | filter | who reaches pods with a policy, and whom they reach; only where there are such pods |
//! | `steering`, `between` | bridge | what is from or for such pods is routed, and passes those |
//!
//! * `scene`: the networks that the tables are about, and who is on them.
//! * `host_links`: what comes over the host's own links to pods with interfaces of their own.
//! * `routed`: the chains of the family `inet`; `errors`: that of what pods say of connections; `isolation`: those about internal networks; `host_services`: the host's own end.
//! * `bridged`: those of the family `bridge`. `policy`: what policies need of both, and `judging` the rules.
//!
//! A rule is what it does: comments are for people (`nft list table inet tank`) and are not compared.

mod apart;
mod bridged;
mod errors;
mod host_links;
mod host_services;
mod isolation;
mod judging;
mod moves;
mod policy;
mod routed;
mod scene;
mod selector;
#[cfg(test)]
mod tests;

pub use apart::changed_settings;
pub use bridged::{PORT_GROUP, hardware_address, is_port_group, lease_of_port};
pub use bridged::{network_mac, network_port_group, port_group};
pub use moves::HeldPorts;
pub use scene::Going;
pub use selector::Selector;

use crate::{observed::HostNetwork, target::Target};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use scene::Scene;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The hardware address that each bridge is made with: they are never on one link.
pub const BRIDGE_MAC: [u8; 6] = [0x02, 0x74, 0x6b, 0xff, 0, 1];

/// The tables, of both families, as one: their chains, sets, and rules in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// In no particular order.
    pub chains: Vec<Chain>,
    /// Those of one chain in the order in which they are evaluated.
    pub rules: Vec<Rule>,
    /// What rules look values up in, in no particular order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<Set>,
    /// Whatever else was found (objects, flags), one text for each. Tank makes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

/// Which of the two tables something is in.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum TableFamily {
    /// IPv4 and IPv6.
    #[default]
    Inet,
    /// Frames that a bridge takes.
    Bridge,
}

impl TableFamily {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Inet, Self::Bridge];
}

/// A set of values, or of several together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Set {
    /// The table it is in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: TableFamily,
    /// Within the table.
    pub name: String,
    /// What each element is made of. Networks are among other networks only, at least two of them.
    pub key: Vec<Kind>,
    /// What the elements lead to: then it is a map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<Kind>,
    /// Each of one value for each of the key's kinds, and then of the data's. No two have one key.
    pub elements: BTreeSet<Vec<Value>>,
}

/// A kind of value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The group of an interface.
    Group,
    /// The name of an interface; at most 15 bytes.
    Interface,
    /// A hardware address.
    Mac,
    /// An address of IPv4.
    V4,
    /// An address of IPv6.
    V6,
    /// A protocol above IP.
    Protocol,
    /// A port.
    Port,
    /// A network of IPv4.
    Net4,
    /// A network of IPv6.
    Net6,
}

/// A value of such a kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as the kinds")]
pub enum Value {
    Group(u32),
    Interface(String),
    Mac([u8; 6]),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Protocol(u8),
    Port(u16),
    Net4(Ipv4Net),
    Net6(Ipv6Net),
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(v6),
        }
    }
}

/// A chain that the kernel calls. What none of its rules decides on is accepted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The table it is in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: TableFamily,
    /// Within the table.
    pub name: String,
    /// `filter` or `nat`.
    pub kind: String,
    /// `NF_INET_*` of `linux/netfilter.h`, or `NF_BR_*`.
    pub hook: u32,
    /// Chains of one hook are called by ascending priority.
    pub priority: i32,
}

/// A rule: what it does to what matches all of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The table it is in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: TableFamily,
    /// The name of its chain.
    pub chain: String,
    /// For people.
    pub comment: String,
    /// What a packet has to meet, all of it.
    pub matches: Vec<Match>,
    /// What happens to such a packet.
    pub action: Action,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        (self.family, &self.chain) == (other.family, &other.chain)
            && self.matches == other.matches
            && self.action == other.action
    }
}

impl Eq for Rule {}

/// One condition of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Match {
    /// The interface a packet came over is, or is not, this one.
    InInterface { name: String, is: bool },
    /// The interface a packet leaves by is, or is not, this one.
    OutInterface { name: String, is: bool },
    /// The group of the interface a packet came over has, under the mask, this value, or has not.
    InGroup { mask: u32, value: u32, is: bool },
    /// The protocol of the frame (`ETH_P_*`).
    EtherType(u16),
    /// For whom the frame is, as the kernel has it (`PACKET_*` of packet(7)).
    PacketType(u8),
    /// It has more bytes than these: of a frame, behind its Ethernet header.
    LongerThan(u32),
    /// The packet is of this one; the conditions on addresses come after it.
    Family(Family),
    /// The source is, or is not, in a network.
    Source { net: IpNet, is: bool },
    /// The destination is, or is not, in a network; a single address is a network of its own.
    Destination { net: IpNet, is: bool },
    /// The destination is one of the host's own addresses.
    DestinationLocal,
    /// The protocol above IP: 1 (ICMP), 6 (TCP), 17 (UDP) or 58 (ICMPv6).
    Protocol(u8),
    /// The type of a message of ICMPv6, or of ICMP; only after its protocol.
    Icmpv6Type(u8),
    /// The port it is from, in host byte order; only after a protocol that has ports.
    SourcePort(u16),
    /// The port it is for, in host byte order; only after a protocol that has ports.
    DestinationPort(u16),
    /// The connection's state has one of these bits (`NF_CT_STATE_BIT`).
    ConnState { any_of: u32 },
    /// The connection's status has one of these bits (`IPS_*`).
    ConnStatus { any_of: u32 },
    /// The packet goes the other way than the first of its connection did.
    ConnReply,
    /// It is for a socket of the host that is transparent (`IP_TRANSPARENT`).
    SocketTransparent,
    /// What is selected of it is, together, an element of a set of the table, or is not.
    InSet {
        set: String,
        of: Vec<Selector>,
        is: bool,
    },
    /// Something that Tank never writes.
    Other(String),
}

/// A packet's network protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// What happens to what a rule matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Action {
    /// It goes on to the chains that follow.
    Accept,
    /// It is gone, and its sender learns nothing.
    Drop,
    /// Goes to this address and port instead. Written by older versions.
    Dnat(SocketAddr),
    /// Goes where what is selected of it leads to in a map: an address of this family, and a port. What
    /// leads nowhere goes on to the next rule.
    DnatMap {
        map: String,
        of: Vec<Selector>,
        family: Family,
    },
    /// Gets the address of the interface it leaves by.
    Masquerade,
    /// The frame is for the host, which has this hardware address on the bridge, and is routed there.
    ToHost([u8; 6]),
    /// Something that Tank never writes.
    Other(String),
}

/// How far a table is from the wanted one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Chains, rules and elements of sets that are wanted and not found, or found out of order.
    pub missing: usize,
    /// Chains, rules, elements and others that are found and not wanted.
    pub unwanted: usize,
}

impl Difference {
    /// What `found` lacks of `wanted`, and has beyond it. Chains may come in any order, and so may
    /// rules of different chains; those of one chain are compared in order.
    pub fn of(wanted: &Table, found: Option<&Table>) -> Self {
        let none = Table::default();
        let found = found.unwrap_or(&none);
        let mut difference = Self::default();
        difference.add(&wanted.chains, &found.chains);
        difference.add(&wanted.others, &found.others);
        difference.add(&wanted.rules, &found.rules);
        difference.add_sets(&wanted.sets, &found.sets);
        if difference == Self::default() {
            let displaced = wanted.chains.iter().map(|chain| {
                let of_chain =
                    |rule: &&Rule| (rule.family, &rule.chain) == (chain.family, &chain.name);
                let pairs = wanted.rules.iter().filter(of_chain);
                let pairs = pairs.zip(found.rules.iter().filter(of_chain));
                pairs.filter(|(wanted, found)| wanted != found).count()
            });
            difference.missing = displaced.sum();
            difference.unwanted = difference.missing;
        }
        difference
    }

    /// Counts what of one list is not in the other, each as often as it is there.
    fn add<T: PartialEq>(&mut self, wanted: &[T], found: &[T]) {
        // Usually all is as it should be.
        if wanted == found {
            return;
        }
        let mut left: Vec<&T> = found.iter().collect();
        for one in wanted {
            match left.iter().position(|found| *found == one) {
                Some(place) => drop(left.remove(place)),
                None => self.missing += 1,
            }
        }
        self.unwanted += left.len();
    }

    /// Sets are found by their names, and then compared by their elements.
    fn add_sets(&mut self, wanted: &[Set], found: &[Set]) {
        let frame = |set: &'_ Set| {
            (
                set.family,
                set.name.clone(),
                set.key.clone(),
                set.data.clone(),
            )
        };
        let same = |a: &Set, b: &Set| frame(a) == frame(b);
        let is_in = |set: &Set, list: &[Set]| list.iter().any(|other| same(set, other));
        for set in wanted {
            match found.iter().find(|other| same(set, other)) {
                Some(other) => {
                    self.missing += set.elements.difference(&other.elements).count();
                    self.unwanted += other.elements.difference(&set.elements).count();
                }
                None => self.missing += 1 + set.elements.len(),
            }
        }
        let unwanted = found.iter().filter(|set| !is_in(set, wanted));
        self.unwanted += unwanted.map(|set| 1 + set.elements.len()).sum::<usize>();
    }

    /// Whether the tables are the same.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Target<'_> {
    /// What Tank's tables have to hold on a host whose network is this. None: no pod is on a
    /// bridge or needs a host link, and there are to be no tables.
    pub fn firewall(&self, host: &HostNetwork) -> Option<Table> {
        self.firewall_with(host, &Going::default())
    }

    /// As [`Target::firewall`], where what is going holds as well: pods on their way out may send, and
    /// end as they are used to.
    pub fn firewall_with(&self, host: &HostNetwork, going: &Going) -> Option<Table> {
        let needs_links = self.needs_host_links();
        if !self.needs_bridge() && !needs_links {
            return None;
        }
        // Pods on their way out are on a bridge until they are gone.
        let bridged = self.needs_bridge() || !going.is_off_bridges();
        let scene = self.scene(going);
        let mut table = match bridged {
            true => self.routed(host, &scene),
            false => self.unrouted(),
        };
        self.add_host_links(&mut table, &going.senders);
        if bridged {
            errors::add_errors(&mut table, &scene);
            isolation::add_isolation(&mut table, &scene);
            bridged::add_bridged(&mut table, &scene.places);
            self.add_policies(&mut table, &scene, going);
        }
        Some(table)
    }
}

fn is_default(family: &TableFamily) -> bool {
    *family == TableFamily::default()
}

fn rule(
    (family, chain): (TableFamily, &str),
    comment: impl Into<String>,
    matches: Vec<Match>,
    action: Action,
) -> Rule {
    Rule {
        family,
        chain: chain.to_owned(),
        comment: comment.into(),
        matches,
        action,
    }
}

/// What is selected, together, is in a set, or is not.
fn in_set(set: &str, of: &[Selector], is: bool) -> Match {
    Match::InSet {
        set: set.to_owned(),
        of: of.to_vec(),
        is,
    }
}

/// A set's name, of one family.
fn of_family(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}4"),
        Family::V6 => format!("{name}6"),
    }
}
