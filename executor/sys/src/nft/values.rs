//! The values that sets hold, and what is taken of a packet to be looked up in them.

use super::{
    encode::{
        CT_SOURCE4, CT_SOURCE6, CT_WAY, META_IIFGROUP, META_IIFNAME, META_L4PROTO, META_OIFGROUP,
        META_OIFNAME, NETWORK, OPENER, REPLY, TRANSPORT, Written, interface_name,
    },
    expression::{of_number, text},
};
use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_core::DefaultNla;
use std::net::{Ipv4Addr, Ipv6Addr};

/// `IFNAMSIZ`.
const INTERFACE_LENGTH: u32 = 16;

/// `NFT_PAYLOAD_LL_HEADER`.
const LINK: u32 = 0;

/// A kind of value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Of an interface (`ip link set group`).
    Group,
    /// The name of an interface.
    Interface,
    /// A hardware address.
    Mac,
    /// An address of IPv4.
    V4,
    /// An address of IPv6.
    V6,
    /// What is above IP (`IPPROTO_*`).
    Protocol,
    /// A port.
    Port,
    /// A network of IPv4.
    Net4,
    /// A network of IPv6.
    Net6,
}

/// A value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Value {
    /// See [`Kind::Group`].
    Group(u32),
    /// See [`Kind::Interface`]. At most 15 bytes.
    Interface(String),
    /// See [`Kind::Mac`].
    Mac([u8; 6]),
    /// See [`Kind::V4`].
    V4(Ipv4Addr),
    /// See [`Kind::V6`].
    V6(Ipv6Addr),
    /// See [`Kind::Protocol`].
    Protocol(u8),
    /// See [`Kind::Port`].
    Port(u16),
    /// See [`Kind::Net4`]. Without host bits.
    Net4(Ipv4Net),
    /// See [`Kind::Net6`]. Without host bits.
    Net6(Ipv6Net),
}

/// What is taken of a packet to be looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selector {
    /// The group of the interface it came in by.
    InGroup,
    /// The interface it came in by.
    InInterface,
    /// The interface it leaves by.
    OutInterface,
    /// The group of the interface it leaves by.
    OutGroup,
    /// What the frame says it holds (`ETH_P_*`): of a tagged one, that it is tagged.
    FrameType,
    /// The hardware address that the frame is for.
    DestinationMac,
    /// The hardware address that the frame says it is from.
    SourceMac,
    /// The hardware address that the sender of an ARP message says it has.
    ArpSenderMac,
    /// The address that the sender of an ARP message says it has.
    ArpSender,
    /// Its source, of IPv4.
    Source4,
    /// Its destination, of IPv4.
    Destination4,
    /// Its source, of IPv6.
    Source6,
    /// Its destination, of IPv6.
    Destination6,
    /// The source of the first packet of its connection, of IPv4.
    OpenerSource4,
    /// The same, of IPv6.
    OpenerSource6,
    /// The source of the answers of its connection, of IPv4.
    AnswerSource4,
    /// The same, of IPv6.
    AnswerSource6,
    /// The address that a neighbour solicitation or advertisement is about (RFC 4861).
    NeighbourTarget,
    /// What the header of IPv6 says is next.
    NextHeader,
    /// How many bytes are behind the header of IPv6.
    PayloadLength,
    /// The type and the length of the first option of a neighbour solicitation or advertisement.
    NeighbourOption,
    /// The hardware address in it.
    NeighbourMac,
    /// The type and the length of the first option of a router solicitation.
    SolicitationOption,
    /// The hardware address in it.
    SolicitationMac,
    /// The protocol above IP.
    Protocol,
    /// The port it is for. Only after a condition, or with a [`Selector::Protocol`], that says it has
    /// ports.
    DestinationPort,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Group,
        Self::Interface,
        Self::Mac,
        Self::V4,
        Self::V6,
        Self::Protocol,
        Self::Port,
        Self::Net4,
        Self::Net6,
    ];

    /// What `nft` calls it, by the number in its `enum datatypes`, and its length in bytes.
    pub(super) fn describe(self) -> (u32, u32) {
        match self {
            Self::Group => (35, 4),
            Self::Interface => (41, INTERFACE_LENGTH),
            Self::Mac => (9, 6),
            Self::V4 | Self::Net4 => (7, 4),
            Self::V6 | Self::Net6 => (8, 16),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
        }
    }

    /// Its length in registers of 4 bytes.
    pub(super) fn registers(self) -> u32 {
        self.describe().1.div_ceil(4)
    }

    /// Whether an element of it has a first and a last address.
    pub(super) fn is_network(self) -> bool {
        matches!(self, Self::Net4 | Self::Net6)
    }

    /// The value of these bytes; of a network, they are its first address and `last` its last.
    pub(super) fn value(self, bytes: &[u8], last: &[u8]) -> Option<Value> {
        Some(match self {
            Self::Group => Value::Group(u32::from_ne_bytes(*bytes.first_chunk()?)),
            Self::Interface => Value::Interface(text(bytes)),
            Self::Mac => Value::Mac(*bytes.first_chunk()?),
            Self::V4 => Value::V4(bytes.first_chunk::<4>().copied()?.into()),
            Self::V6 => Value::V6(bytes.first_chunk::<16>().copied()?.into()),
            Self::Protocol => Value::Protocol(*bytes.first()?),
            Self::Port => Value::Port(u16::from_be_bytes(*bytes.first_chunk()?)),
            Self::Net4 => {
                let (first, last) = (*bytes.first_chunk()?, *last.first_chunk()?);
                let host = u32::from_be_bytes(first) ^ u32::from_be_bytes(last);
                let net = Ipv4Net::new(first.into(), host.leading_zeros() as u8).ok()?;
                (net.trunc() == net && net.broadcast().octets() == last)
                    .then_some(Value::Net4(net))?
            }
            Self::Net6 => {
                let (first, last) = (*bytes.first_chunk()?, *last.first_chunk()?);
                let host = u128::from_be_bytes(first) ^ u128::from_be_bytes(last);
                let net = Ipv6Net::new(first.into(), host.leading_zeros() as u8).ok()?;
                (net.trunc() == net && net.broadcast().octets() == last)
                    .then_some(Value::Net6(net))?
            }
        })
    }
}

impl Value {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Group(_) => Kind::Group,
            Self::Interface(_) => Kind::Interface,
            Self::Mac(_) => Kind::Mac,
            Self::V4(_) => Kind::V4,
            Self::V6(_) => Kind::V6,
            Self::Protocol(_) => Kind::Protocol,
            Self::Port(_) => Kind::Port,
            Self::Net4(_) => Kind::Net4,
            Self::Net6(_) => Kind::Net6,
        }
    }

    /// Padded to whole registers; of a network its first address.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Group(number) => number.to_ne_bytes().to_vec(),
            Self::Interface(name) => interface_name(name),
            Self::Mac(octets) => octets.to_vec(),
            Self::V4(address) => address.octets().to_vec(),
            Self::V6(address) => address.octets().to_vec(),
            Self::Protocol(number) => vec![*number],
            Self::Port(port) => port.to_be_bytes().to_vec(),
            Self::Net4(net) => net.network().octets().to_vec(),
            Self::Net6(net) => net.network().octets().to_vec(),
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As [`Value::bytes`], of a network's last address.
    pub(super) fn last_bytes(&self) -> Vec<u8> {
        match self {
            Self::Net4(net) => net.broadcast().octets().to_vec(),
            Self::Net6(net) => net.broadcast().octets().to_vec(),
            other => other.bytes(),
        }
    }
}

impl Selector {
    pub(super) const ALL: [Self; 26] = [
        Self::InGroup,
        Self::InInterface,
        Self::OutInterface,
        Self::OutGroup,
        Self::FrameType,
        Self::DestinationMac,
        Self::SourceMac,
        Self::ArpSenderMac,
        Self::ArpSender,
        Self::Source4,
        Self::Destination4,
        Self::Source6,
        Self::Destination6,
        Self::OpenerSource4,
        Self::OpenerSource6,
        Self::AnswerSource4,
        Self::AnswerSource6,
        Self::NeighbourTarget,
        Self::NextHeader,
        Self::PayloadLength,
        Self::NeighbourOption,
        Self::NeighbourMac,
        Self::SolicitationOption,
        Self::SolicitationMac,
        Self::Protocol,
        Self::DestinationPort,
    ];

    /// The kind of what it takes.
    pub fn kind(self) -> Kind {
        match self {
            Self::InGroup | Self::OutGroup => Kind::Group,
            Self::InInterface | Self::OutInterface => Kind::Interface,
            Self::SourceMac | Self::DestinationMac | Self::ArpSenderMac => Kind::Mac,
            Self::NeighbourMac | Self::SolicitationMac => Kind::Mac,
            Self::ArpSender | Self::Source4 | Self::Destination4 => Kind::V4,
            Self::Source6 | Self::Destination6 | Self::NeighbourTarget => Kind::V6,
            Self::OpenerSource4 | Self::AnswerSource4 => Kind::V4,
            Self::OpenerSource6 | Self::AnswerSource6 => Kind::V6,
            Self::Protocol | Self::NextHeader => Kind::Protocol,
            Self::DestinationPort | Self::PayloadLength | Self::FrameType => Kind::Port,
            // Two bytes that `nft` shows as one number.
            Self::NeighbourOption | Self::SolicitationOption => Kind::Port,
        }
    }

    /// What loads it into a register.
    pub(super) fn load(self, register: u32) -> Written {
        let meta = |key| ("meta", vec![of_number(1, register), of_number(2, key)]);
        let connection = |key, direction: u8| {
            let direction = DefaultNla::new(CT_WAY, vec![direction]);
            (
                "ct",
                vec![of_number(1, register), of_number(2, key), direction],
            )
        };
        let (base, offset) = match self {
            Self::OpenerSource4 => return connection(CT_SOURCE4, OPENER),
            Self::OpenerSource6 => return connection(CT_SOURCE6, OPENER),
            Self::AnswerSource4 => return connection(CT_SOURCE4, REPLY),
            Self::AnswerSource6 => return connection(CT_SOURCE6, REPLY),
            Self::InGroup => return meta(META_IIFGROUP),
            Self::OutGroup => return meta(META_OIFGROUP),
            Self::InInterface => return meta(META_IIFNAME),
            Self::OutInterface => return meta(META_OIFNAME),
            Self::Protocol => return meta(META_L4PROTO),
            Self::FrameType => (LINK, 12),
            Self::DestinationMac => (LINK, 0),
            Self::SourceMac => (LINK, 6),
            // RFC 826, of Ethernet and IPv4.
            Self::ArpSenderMac => (NETWORK, 8),
            Self::ArpSender => (NETWORK, 14),
            Self::Source4 => (NETWORK, 12),
            Self::Destination4 => (NETWORK, 16),
            Self::Source6 => (NETWORK, 8),
            Self::Destination6 => (NETWORK, 24),
            Self::PayloadLength => (NETWORK, 4),
            Self::NextHeader => (NETWORK, 6),
            // RFC 4861, sections 4.1, 4.3, 4.4 and 4.6.1.
            Self::NeighbourTarget => (TRANSPORT, 8),
            Self::NeighbourOption => (TRANSPORT, 24),
            Self::NeighbourMac => (TRANSPORT, 26),
            Self::SolicitationOption => (TRANSPORT, 8),
            Self::SolicitationMac => (TRANSPORT, 10),
            Self::DestinationPort => (TRANSPORT, 2),
        };
        let attributes = vec![
            of_number(1, register),
            of_number(2, base),
            of_number(3, offset),
            of_number(4, self.kind().describe().1),
        ];
        ("payload", attributes)
    }
}

/// The number of the register that begins `slot` times 4 bytes in, as the kernel lists it: one of 16
/// bytes where one begins there (`NFT_REG_1` is 1), or else one of 4 (`NFT_REG32_00` is 8).
pub(super) fn register(slot: u32) -> u32 {
    if slot.is_multiple_of(4) {
        slot / 4 + 1
    } else {
        slot + 8
    }
}
