//! What is taken of a packet to be looked up.

use super::Kind;
use serde::{Deserialize, Serialize};

/// What is taken of a packet to be looked up in a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// The group of the interface it came over.
    InGroup,
    /// The interface it came over.
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
    /// The address that a neighbour solicitation or advertisement is about.
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
    /// The port it is for, of a protocol that has ports.
    DestinationPort,
}

impl Selector {
    /// The kind of what it takes.
    pub(super) fn kind(self) -> Kind {
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
            Self::NeighbourOption | Self::SolicitationOption => Kind::Port,
        }
    }
}
