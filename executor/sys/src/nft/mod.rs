//! nftables tables of the families `inet` and `bridge`, written and listed over netlink.
//!
//! A [`Table`] is data in a small vocabulary: base chains, sets, and rules of [`Match`]es and an
//! [`Action`]. [`Tables`] writes those of one name in a single transaction: there is no instant
//! with half the rules, and nothing outside the tables is changed. [`list`] reads the kernel's expressions back into the same vocabulary. What the vocabulary has no word for becomes [`Match::Other`],
//! [`Action::Other`] or one of [`Table::others`]; it is never an error, and never equal to anything
//! else. Which rules there are to be is the caller's policy.
//!
//! Rules are written as `nft` writes them, so that a table that was saved and loaded with it is the
//! same. Numbers are those of `linux/netfilter/nf_tables.h`. The crates beneath type the messages;
//! expressions are written through their open variant, all of them, for one way to read them.

mod decode;
mod encode;
mod expression;
mod others;
mod parts;
mod sets;
mod tables;
mod values;

pub use sets::Set;
pub use tables::Tables;
pub use values::{Kind, Selector, Value};

use crate::{Context, Result, netlink::Socket};
use ipnet::IpNet;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::NfTablesMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::net::SocketAddr;

/// The content of a table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// The base chains. Their policy is to accept.
    pub chains: Vec<Chain>,
    /// What rules look values up in.
    pub sets: Vec<Set>,
    /// The rules, those of one chain in their order.
    pub rules: Vec<Rule>,
    /// What [`list`] found that this vocabulary has no word for, one text each: flags of the table,
    /// chains with another policy or without a hook, other sets, objects, flow tables.
    pub others: Vec<String>,
}

/// The packets that a table's chains are called for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TableFamily {
    /// IPv4 and IPv6 (`NFPROTO_INET`).
    Inet,
    /// Frames that a bridge takes (`NFPROTO_BRIDGE`), whatever they hold.
    Bridge,
}

impl TableFamily {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Inet, Self::Bridge];
}

/// A chain that the kernel calls from one of its hooks, with the policy to accept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Chain {
    /// Its name within the table.
    pub name: String,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*` or `NF_BR_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Chains of one hook are called by ascending priority.
    pub priority: i32,
}

/// A rule. Its identity is its content: see [`Table::content`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// The name of its chain.
    pub chain: String,
    /// For people. Its first 127 ASCII characters are written: `nft` loads no longer one.
    pub comment: String,
    /// What a packet has to meet, in the order it is evaluated.
    pub matches: Vec<Match>,
    /// What happens to a packet that meets all of it.
    pub action: Action,
}

/// One condition on a packet. `is: false` negates it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Match {
    /// The interface it came in by. At most 15 bytes.
    InInterface { name: String, is: bool },
    /// The interface it leaves by. At most 15 bytes.
    OutInterface { name: String, is: bool },
    /// The group (`ip link set group`) of the interface it came in by has, under the mask, this
    /// value.
    InGroup { mask: u32, value: u32, is: bool },
    /// The protocol of the frame (`ETH_P_*`).
    EtherType(u16),
    /// For whom the frame is, as the kernel has it (`PACKET_*` of packet(7)).
    PacketType(u8),
    /// It has more bytes than these: of a frame, behind its Ethernet header.
    LongerThan(u32),
    /// IPv4 or IPv6.
    Family(Family),
    /// Its source is in a network without host bits ([`IpNet::trunc`]). Only after a
    /// [`Match::Family`] of that network's.
    Source { net: IpNet, is: bool },
    /// Its destination is in a network without host bits; a single address is a `/32` or `/128`.
    /// Only after a [`Match::Family`] of that network's.
    Destination { net: IpNet, is: bool },
    /// Its destination is an address of the host.
    DestinationLocal,
    /// `IPPROTO_*`.
    Protocol(u8),
    /// The type of an ICMPv6 or ICMP message. Only after its [`Match::Protocol`].
    Icmpv6Type(u8),
    /// The port it comes from. Only after a [`Match::Protocol`] that has ports.
    SourcePort(u16),
    /// The port it is for. Only after a [`Match::Protocol`] that has ports.
    DestinationPort(u16),
    /// What is selected of it, taken together, is an element of the set of that name. Each selector
    /// only after the conditions that say the packet has such a field.
    InSet {
        set: String,
        of: Vec<Selector>,
        is: bool,
    },
    /// Its connection's state is one of these bits ([`ct_state`]).
    ConnState { any_of: u32 },
    /// Its connection has one of these status bits ([`ct_status`]).
    ConnStatus { any_of: u32 },
    /// It goes the other way than the first packet of its connection did. What is not tracked goes
    /// neither way.
    ConnReply,
    /// A socket of this network namespace is there for it that is transparent (`IP_TRANSPARENT` of ip(7)).
    SocketTransparent,
    /// An expression that this vocabulary has no word for, as ` name{kind=value …}`. It is listed,
    /// and can't be written.
    Other(String),
}

/// A packet's network protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a rule does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Action {
    /// The packet passes this chain.
    Accept,
    /// The packet is dropped.
    Drop,
    /// Its destination becomes this address and port.
    Dnat(SocketAddr),
    /// Its destination becomes the address and the port that what is selected of it, taken together,
    /// leads to in the map of that name; what leads nowhere does not meet the rule. The addresses are of
    /// this family, and packets of the other one are not changed.
    DnatMap {
        map: String,
        of: Vec<Selector>,
        family: Family,
    },
    /// Its source becomes the address of the interface it leaves by.
    Masquerade,
    /// In the first chains of a bridge: the frame is for this hardware address, one of the bridge's
    /// own, and the host takes it for a packet of its own to be routed. It passes this chain.
    ToHost([u8; 6]),
    /// The last expression, which this vocabulary has no word for; empty for a rule without any. It
    /// is listed, and can't be written.
    Other(String),
}

/// Bits of a connection's state, for [`Match::ConnState`] (`NF_CT_STATE_BIT`).
pub mod ct_state {
    /// Packets went in both directions.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// It was opened because of another connection.
    pub const RELATED: u32 = 1 << 2;
}

/// Bits of a connection's status, for [`Match::ConnStatus`] (`IPS_*` of
/// `linux/netfilter/nf_conntrack_common.h`).
pub mod ct_status {
    /// Its destination is translated.
    pub const DNAT: u32 = 1 << 5;
}

impl Table {
    /// What two tables that do the same have in common: without comments, and with chains, rules
    /// of different chains and what else there is in the order of their names. Networks lose their
    /// host bits, as they do in the kernel.
    #[must_use]
    pub fn content(mut self) -> Self {
        self.sets.sort();
        for rule in &mut self.rules {
            rule.comment.clear();
            for condition in &mut rule.matches {
                if let Match::Source { net, .. } | Match::Destination { net, .. } = condition {
                    *net = net.trunc();
                }
            }
        }
        self.chains.sort();
        self.rules.sort_by(|a, b| a.chain.cmp(&b.chain));
        self.others.sort();
        self
    }
}

/// The table called `name` of a family; none when there is no such table. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list(family: TableFamily, name: &str) -> Result<Option<Table>> {
    Socket::open(NETLINK_NETFILTER)
        .and_then(|socket| decode::list(&socket, family, name))
        .doing(|| format!("list the nftables table `{name}`"))
}

/// A chain that the kernel calls, of whosever table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BaseChain {
    /// Its table as `nft` names it: `inet filter`.
    pub table: String,
    /// Its name within the table.
    pub name: String,
    /// As [`Chain::hook`].
    pub hook: u32,
    /// Whether what none of its rules decides on is dropped: by its policy, or by a last rule that drops or rejects all that
    /// comes to it.
    pub drops: bool,
    /// Whether it has rules.
    pub has_rules: bool,
}

/// Every chain of type `filter` that the kernel calls for IPv4 or IPv6, of all tables. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn filters() -> Result<Vec<BaseChain>> {
    others::filters().doing(|| "list the nftables chains")
}

/// The kernel's modules that Tank's rules need and that are neither there nor can be loaded, each with
/// what the kernel answered. No rule is changed for it. Blocking.
///
/// # Errors
/// When whoever asks may not write rules.
pub fn missing_modules() -> Result<Vec<(&'static str, std::io::Error)>> {
    parts::missing().doing(|| "try the rules of nftables")
}

/// A message about a family's tables.
fn about(family: TableFamily, message: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Bridge => NetfilterProtoFamily::Bridge,
    };
    let header = NetfilterHeader::new(family, 0, 0);
    NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message))
}

#[cfg(test)]
mod tests;
