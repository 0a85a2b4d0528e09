//! Sets: what rules look values up in, at a cost that does not grow with them.
//!
//! An element is one value, or several of different kinds together (a concatenation). What is looked
//! up is loaded side by side into the registers and compared as one.

use super::{
    encode::{
        META_IIFGROUP, META_IIFNAME, META_OIFNAME, NETWORK, TRANSPORT, Written, interface_name,
    },
    expression::{Expression, attributes, number, of_data, of_nested, of_number, text},
};
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

/// `NFT_MSG_NEWSETELEM` and `NFT_MSG_GETSETELEM`.
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;

/// `NFT_MSG_NEWSET`.
const NEW_SET: u8 = 9;

/// `NFT_SET_CONCAT`.
const CONCATENATION: u32 = 0x80;

/// The most elements of one message: an attribute holds less than 64 KiB.
const MAX_ELEMENTS: usize = 500;

/// How many bits of a key's type each of its parts has, for `nft`.
const FIELD_BITS: u32 = 6;
const FIELD_MASK: u32 = (1 << FIELD_BITS) - 1;

/// `IFNAMSIZ`.
const INTERFACE_LENGTH: u32 = 16;

/// `NFT_PAYLOAD_LL_HEADER`.
const LINK: u32 = 0;

/// A set with a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Set {
    /// Its name within the table.
    pub name: String,
    /// What its elements are made of.
    pub key: Vec<Kind>,
    /// Each of one value for each of the key's kinds.
    pub elements: BTreeSet<Vec<Value>>,
}

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
    /// The address that a neighbour solicitation or advertisement is about (RFC 4861).
    NeighbourTarget,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Group, Self::Interface, Self::Mac, Self::V4, Self::V6];

    /// What `nft` calls it, by the number in its `enum datatypes`, and its length in bytes.
    fn describe(self) -> (u32, u32) {
        match self {
            Self::Group => (35, 4),
            Self::Interface => (41, INTERFACE_LENGTH),
            Self::Mac => (9, 6),
            Self::V4 => (7, 4),
            Self::V6 => (8, 16),
        }
    }

    /// Its length in registers of 4 bytes.
    fn registers(self) -> u32 {
        self.describe().1.div_ceil(4)
    }

    fn value(self, bytes: &[u8]) -> Option<Value> {
        Some(match self {
            Self::Group => Value::Group(u32::from_ne_bytes(*bytes.first_chunk()?)),
            Self::Interface => Value::Interface(text(bytes)),
            Self::Mac => Value::Mac(*bytes.first_chunk()?),
            Self::V4 => Value::V4(bytes.first_chunk::<4>().copied()?.into()),
            Self::V6 => Value::V6(bytes.first_chunk::<16>().copied()?.into()),
        })
    }
}

impl Value {
    fn kind(&self) -> Kind {
        match self {
            Self::Group(_) => Kind::Group,
            Self::Interface(_) => Kind::Interface,
            Self::Mac(_) => Kind::Mac,
            Self::V4(_) => Kind::V4,
            Self::V6(_) => Kind::V6,
        }
    }

    /// Padded to whole registers.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Group(number) => number.to_ne_bytes().to_vec(),
            Self::Interface(name) => interface_name(name),
            Self::Mac(octets) => octets.to_vec(),
            Self::V4(address) => address.octets().to_vec(),
            Self::V6(address) => address.octets().to_vec(),
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

impl Selector {
    pub(super) const ALL: [Self; 11] = [
        Self::InGroup,
        Self::InInterface,
        Self::OutInterface,
        Self::SourceMac,
        Self::ArpSenderMac,
        Self::ArpSender,
        Self::Source4,
        Self::Destination4,
        Self::Source6,
        Self::Destination6,
        Self::NeighbourTarget,
    ];

    /// The kind of what it takes.
    pub fn kind(self) -> Kind {
        match self {
            Self::InGroup => Kind::Group,
            Self::InInterface | Self::OutInterface => Kind::Interface,
            Self::SourceMac | Self::ArpSenderMac => Kind::Mac,
            Self::ArpSender | Self::Source4 | Self::Destination4 => Kind::V4,
            Self::Source6 | Self::Destination6 | Self::NeighbourTarget => Kind::V6,
        }
    }

    /// What loads it into a register.
    fn load(self, register: u32) -> Written {
        let meta = |key| ("meta", vec![of_number(1, register), of_number(2, key)]);
        let (base, offset) = match self {
            Self::InGroup => return meta(META_IIFGROUP),
            Self::InInterface => return meta(META_IIFNAME),
            Self::OutInterface => return meta(META_OIFNAME),
            Self::SourceMac => (LINK, 6),
            // RFC 826, of Ethernet and IPv4.
            Self::ArpSenderMac => (NETWORK, 8),
            Self::ArpSender => (NETWORK, 14),
            Self::Source4 => (NETWORK, 12),
            Self::Destination4 => (NETWORK, 16),
            Self::Source6 => (NETWORK, 8),
            Self::Destination6 => (NETWORK, 24),
            Self::NeighbourTarget => (TRANSPORT, 8),
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
fn register(slot: u32) -> u32 {
    if slot.is_multiple_of(4) {
        slot / 4 + 1
    } else {
        slot + 8
    }
}

/// The expressions that look something up.
pub fn lookup(set: &str, of: &[Selector], is: bool) -> Vec<Written> {
    const INVERTED: u32 = 1;
    let mut expressions = Vec::new();
    let mut slot = 0;
    for selector in of {
        expressions.push(selector.load(register(slot)));
        slot += selector.kind().registers();
    }
    let flags = if is { 0 } else { INVERTED };
    let attributes = vec![of_text(1, set), of_number(2, 1), of_number(5, flags)];
    expressions.push(("lookup", attributes));
    expressions
}

/// The set that a lookup is in, what it is of, whether it has to be there, and how many expressions
/// that is: a guess, to be proved.
pub fn read_lookup(expressions: &[Expression]) -> Option<(String, Vec<Selector>, bool, usize)> {
    let mut of = Vec::new();
    let mut slot = 0;
    for expression in expressions {
        if expression.name == "lookup" {
            let set = expression.text_of(1)?;
            return Some((set, of.clone(), expression.number(5)? == 0, of.len() + 1));
        }
        let is_load = |selector: &&Selector| {
            let (name, attributes) = selector.load(register(slot));
            Expression::of(name, &attributes).text() == expression.text()
        };
        let selector = *Selector::ALL.iter().find(is_load)?;
        of.push(selector);
        slot += selector.kind().registers();
    }
    None
}

fn of_text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

/// The messages that make a set and fill it. `id` is its own within the transaction.
///
/// # Errors
/// `EINVAL` for an element that is not of the set's key.
pub fn messages(table: &str, set: &Set, id: u32) -> io::Result<Vec<NfTablesMessage>> {
    let mut attributes = vec![of_text(1, table), of_text(2, &set.name)];
    attributes.extend(description(&set.key));
    attributes.push(of_number(10, id));
    let mut messages = vec![NfTablesMessage::Other {
        message_type: NEW_SET,
        attributes,
    }];
    let element = |values: &Vec<Value>| -> io::Result<DefaultNla> {
        if !values
            .iter()
            .map(|value| value.kind())
            .eq(set.key.iter().copied())
        {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.bytes()).collect();
        Ok(of_nested(1, &[of_data(1, &bytes)]))
    };
    let elements: Vec<DefaultNla> = set.elements.iter().map(element).collect::<Result<_, _>>()?;
    for part in elements.chunks(MAX_ELEMENTS) {
        let attributes = vec![
            of_text(1, table),
            of_text(2, &set.name),
            of_nested(3, part),
            of_number(4, id),
        ];
        messages.push(NfTablesMessage::Other {
            message_type: NEW_ELEMENTS,
            attributes,
        });
    }
    Ok(messages)
}

/// The attributes that say what a set's elements are: flags, type and length of the key, and of a
/// concatenation the lengths of its parts.
fn description(key: &[Kind]) -> Vec<DefaultNla> {
    let number = key
        .iter()
        .fold(0, |number, kind| number << FIELD_BITS | kind.describe().0);
    let length: u32 = key.iter().map(|kind| kind.registers() * 4).sum();
    let flags = if key.len() > 1 { CONCATENATION } else { 0 };
    let mut attributes = vec![
        of_number(3, flags),
        of_number(4, number),
        of_number(5, length),
    ];
    if key.len() > 1 {
        let field = |kind: &Kind| of_nested(1, &[of_number(1, kind.describe().1)]);
        let fields: Vec<DefaultNla> = key.iter().map(field).collect();
        attributes.push(of_nested(9, &[of_nested(2, &fields)]));
    }
    attributes
}

/// The message that asks for the elements of a set.
pub fn ask_for_elements(table: &str, set: &str) -> NfTablesMessage {
    NfTablesMessage::Other {
        message_type: GET_ELEMENTS,
        attributes: vec![of_text(1, table), of_text(2, set)],
    }
}

/// A set without its elements, from its attributes. None: it is of another kind than Tank's.
pub fn read(found: &BTreeMap<u16, Vec<u8>>) -> Option<Set> {
    const NAME: u16 = 2;
    const FLAGS: u16 = 3;
    const KEY_TYPE: u16 = 4;
    const KEY_LENGTH: u16 = 5;
    const DESCRIPTION: u16 = 9;
    /// Those above, and what says nothing of what the set does: table, id, user data, padding,
    /// handle, backend and count.
    const KNOWN: [u16; 12] = [
        1,
        NAME,
        FLAGS,
        KEY_TYPE,
        KEY_LENGTH,
        DESCRIPTION,
        10,
        13,
        14,
        16,
        19,
        20,
    ];
    if found.keys().any(|kind| !KNOWN.contains(kind)) {
        return None;
    }
    let number_of = |kind: u16| found.get(&kind).map_or(Some(0), |value| number(value));
    let mut rest = number_of(KEY_TYPE)?;
    let mut key = Vec::new();
    while rest > 0 {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.describe().0 == rest & FIELD_MASK)?;
        key.insert(0, kind);
        rest >>= FIELD_BITS;
    }
    let own = description(&key);
    let same = |kind: u16| {
        let written = own.iter().find(|attribute| attribute.kind() == kind);
        let written = written.map(|attribute| Expression::of("", std::slice::from_ref(attribute)));
        written.map_or(Some(0), |written| written.number(kind)) == number_of(kind)
    };
    let lengths: Vec<u32> = match key.len() {
        1 => Vec::new(),
        _ => key.iter().map(|kind| kind.describe().1).collect(),
    };
    let found_lengths = found
        .get(&DESCRIPTION)
        .map_or(Some(Vec::new()), |nested| read_lengths(nested))?;
    (same(FLAGS) && same(KEY_LENGTH) && lengths == found_lengths).then(|| Set {
        name: found.get(&NAME).map(|name| text(name)).unwrap_or_default(),
        key,
        elements: BTreeSet::new(),
    })
}

/// The lengths of a concatenation's parts (`NFTA_SET_DESC_CONCAT`); none of a single value. `None`:
/// there is something else, such as a limit of its size.
fn read_lengths(description: &[u8]) -> Option<Vec<u32>> {
    const CONCAT: u16 = 2;
    let mut lengths = Vec::new();
    for (kind, value) in attributes(description) {
        if kind != CONCAT {
            return None;
        }
        for (_, field) in attributes(&value) {
            let (_, length) = attributes(&field).next()?;
            lengths.push(number(&length)?);
        }
    }
    Some(lengths)
}

/// Adds the elements of a message to a set. False: some are not values alone.
pub fn read_elements(message: &BTreeMap<u16, Vec<u8>>, set: &mut Set) -> bool {
    const ELEMENTS: u16 = 3;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    let list = message.get(&ELEMENTS).into_iter();
    let mut plain = true;
    for (_, element) in list.flat_map(|list| attributes(list)) {
        let parts: BTreeMap<u16, Vec<u8>> = attributes(&element).collect();
        let bytes = parts
            .get(&KEY)
            .filter(|_| parts.len() == 1)
            .and_then(|key| {
                attributes(key).find_map(|(kind, value)| (kind == VALUE).then_some(value))
            });
        match bytes.and_then(|bytes| read_values(&bytes, &set.key)) {
            Some(values) => drop(set.elements.insert(values)),
            None => plain = false,
        }
    }
    plain
}

fn read_values(mut bytes: &[u8], key: &[Kind]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    for kind in key {
        let (own, rest) = bytes.split_at_checked(kind.registers() as usize * 4)?;
        values.push(kind.value(own)?);
        bytes = rest;
    }
    bytes.is_empty().then_some(values)
}
