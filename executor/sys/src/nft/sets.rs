//! Sets and maps: what rules look values up in, at a cost that does not grow with them.
//!
//! An element is one value, or several of different kinds together (a concatenation). What is looked
//! up is loaded side by side into the registers and compared as one. A map's elements lead to values
//! that are put into the registers in the same way.

use super::{
    encode::Written,
    expression::{Expression, attributes, number, of_data, of_nested, of_number, text},
    values::{Kind, Selector, Value, register},
};
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::NfTablesMessage;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::LazyLock,
};

/// `NFT_MSG_*SETELEM`.
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;

/// `NFT_MSG_NEWSET`.
const NEW_SET: u8 = 9;

/// `NFT_SET_INTERVAL`, `NFT_SET_MAP` and `NFT_SET_CONCAT`.
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCATENATION: u32 = 0x80;

/// `NFTA_SET_USERDATA`, and what `nft` keeps there to print numbers and names of the machine's byte order as
/// what they are (`NFTNL_UDATA_SET_KEYBYTEORDER`, four bytes, `BYTEORDER_HOST_ENDIAN`).
const USERDATA: u16 = 13;
const HOST_ENDIAN: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// The most elements of one message: an attribute holds less than 64 KiB.
const MAX_ELEMENTS: usize = 500;

/// How many bits of a key's type each of its parts has, for `nft`.
const FIELD_BITS: u32 = 6;
const FIELD_MASK: u32 = (1 << FIELD_BITS) - 1;

/// A set with a name, or a map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Set {
    /// Its name within the table.
    pub name: String,
    /// What its elements are made of. Networks are among other networks only, at least two of them.
    pub key: Vec<Kind>,
    /// What a map's elements lead to; empty of a set.
    pub data: Vec<Kind>,
    /// Each of one value for each of the key's kinds, and then of the data's. No two have one key.
    pub elements: BTreeSet<Vec<Value>>,
}

impl Set {
    /// Whether it is of networks.
    fn is_of_networks(&self) -> bool {
        self.key.iter().any(|kind| kind.is_network())
    }
}

/// The expressions that load what is looked up.
fn loads(of: &[Selector]) -> Vec<Written> {
    let mut slot = 0;
    let load = |selector: &Selector| {
        let load = selector.load(register(slot));
        slot += selector.kind().registers();
        load
    };
    of.iter().map(load).collect()
}

/// The expressions that look something up in a set.
pub fn lookup(set: &str, of: &[Selector], is: bool) -> Vec<Written> {
    const INVERTED: u32 = 1;
    let mut expressions = loads(of);
    let flags = if is { 0 } else { INVERTED };
    let attributes = vec![of_text(1, set), of_number(2, 1), of_number(5, flags)];
    expressions.push(("lookup", attributes));
    expressions
}

/// The expressions that put what an element of a map leads to into the registers, from the first on.
pub fn fetch(map: &str, of: &[Selector]) -> Vec<Written> {
    let mut expressions = loads(of);
    let attributes = vec![of_text(1, map), of_number(2, 1), of_number(3, 1)];
    expressions.push(("lookup", attributes));
    expressions
}

/// What loads each of the selectors, by the register it is loaded into: the kernel has 16 of 4 bytes.
static LOADS: LazyLock<[Vec<(Selector, Expression)>; 16]> = LazyLock::new(|| {
    std::array::from_fn(|slot| {
        let load = |selector: &Selector| {
            let (name, attributes) = selector.load(register(slot as u32));
            (*selector, Expression::of(name, &attributes))
        };
        Selector::ALL.iter().map(load).collect()
    })
});

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
        let mut loads = LOADS.get(slot as usize)?.iter();
        let (selector, _) = loads.find(|(_, load)| load == expression)?;
        of.push(*selector);
        slot += selector.kind().registers();
    }
    None
}

/// The map that the lookup at the end is in, what it is of, and how many expressions that is: a guess,
/// to be proved.
pub fn read_fetch(expressions: &[Expression]) -> Option<(String, Vec<Selector>, usize)> {
    (0..expressions.len()).rev().find_map(|at| {
        let own = &expressions[at..];
        let (map, of, _, length) = read_lookup(own)?;
        (length == own.len() && length > 1).then_some((map, of, length))
    })
}

fn of_text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

/// The messages that make a set and fill it. `id` is its own within the transaction.
///
/// # Errors
/// `EINVAL` for an element that is not of the set's kinds.
pub fn messages(table: &str, set: &Set, id: u32) -> io::Result<Vec<NfTablesMessage>> {
    let mut attributes = vec![of_text(1, table), of_text(2, &set.name)];
    attributes.extend(description(set));
    attributes.push(of_number(10, id));
    if matches!(set.key[..], [Kind::Group | Kind::Interface]) {
        attributes.push(DefaultNla::new(USERDATA, HOST_ENDIAN.to_vec()));
    }
    let mut messages = vec![NfTablesMessage::Other {
        message_type: NEW_SET,
        attributes,
    }];
    let elements: Vec<&Vec<Value>> = set.elements.iter().collect();
    messages.extend(about_elements(table, set, &elements, NEW_ELEMENTS)?);
    Ok(messages)
}

/// The messages after which a set that holds `found` holds what `set` says.
///
/// # Errors
/// `EINVAL` for an element that is not of the set's kinds.
pub fn changes(
    table: &str,
    found: &Set,
    set: &Set,
) -> io::Result<(Vec<NfTablesMessage>, Vec<NfTablesMessage>)> {
    let (removed, added): (Vec<_>, Vec<_>) = (
        found.elements.difference(&set.elements).collect(),
        set.elements.difference(&found.elements).collect(),
    );
    Ok((
        about_elements(table, set, &removed, DELETE_ELEMENTS)?,
        about_elements(table, set, &added, NEW_ELEMENTS)?,
    ))
}

fn about_elements(
    table: &str,
    set: &Set,
    elements: &[&Vec<Value>],
    message_type: u8,
) -> io::Result<Vec<NfTablesMessage>> {
    let with_data = message_type == NEW_ELEMENTS;
    let elements: Vec<DefaultNla> = elements
        .iter()
        .map(|values| element(set, values, with_data))
        .collect::<io::Result<_>>()?;
    let message = |part: &[DefaultNla]| NfTablesMessage::Other {
        message_type,
        attributes: vec![of_text(1, table), of_text(2, &set.name), of_nested(3, part)],
    };
    Ok(elements.chunks(MAX_ELEMENTS).map(message).collect())
}

/// An element (`NFTA_SET_ELEM_*`): its key, where its networks end, and what it leads to.
fn element(set: &Set, values: &[Value], with_data: bool) -> io::Result<DefaultNla> {
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const KEY_END: u16 = 10;
    let kinds = set.key.iter().chain(&set.data).copied();
    if !values.iter().map(Value::kind).eq(kinds) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (key, data) = values.split_at(set.key.len());
    let bytes = |values: &[Value], of: &dyn Fn(&Value) -> Vec<u8>| -> Vec<u8> {
        values.iter().flat_map(of).collect()
    };
    let mut parts = vec![of_data(KEY, &bytes(key, &Value::bytes))];
    if set.is_of_networks() {
        parts.push(of_data(KEY_END, &bytes(key, &Value::last_bytes)));
    }
    if !set.data.is_empty() && with_data {
        parts.push(of_data(DATA, &bytes(data, &Value::bytes)));
    }
    Ok(of_nested(1, &parts))
}

fn length(kinds: &[Kind]) -> u32 {
    kinds.iter().map(|kind| kind.registers() * 4).sum()
}

/// The number that `nft` has for values of these kinds together.
fn type_number(kinds: &[Kind]) -> u32 {
    let number = |number, kind: &Kind| number << FIELD_BITS | kind.describe().0;
    kinds.iter().fold(0, number)
}

/// The attributes that say what a set's elements are: flags, type and length of the key and of what
/// it leads to, and of a concatenation the lengths of its parts.
fn description(set: &Set) -> Vec<DefaultNla> {
    let Set { key, data, .. } = set;
    let flag = |is: bool, flag: u32| if is { flag } else { 0 };
    let flags = flag(key.len() > 1, CONCATENATION)
        | flag(!data.is_empty(), MAP)
        | flag(set.is_of_networks(), INTERVAL);
    let mut attributes = vec![
        of_number(3, flags),
        of_number(4, type_number(key)),
        of_number(5, length(key)),
    ];
    if !data.is_empty() {
        attributes.push(of_number(6, type_number(data)));
        attributes.push(of_number(7, length(data)));
    }
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
    const DATA_TYPE: u16 = 6;
    const DATA_LENGTH: u16 = 7;
    const DESCRIPTION: u16 = 9;
    /// Those above, and what says nothing of what the set does: table, id, user data, padding,
    /// handle, backend and count.
    const KNOWN: [u16; 14] = [
        1,
        NAME,
        FLAGS,
        KEY_TYPE,
        KEY_LENGTH,
        DATA_TYPE,
        DATA_LENGTH,
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
    let flags = number_of(FLAGS)?;
    let of_networks = flags & INTERVAL != 0;
    let set = Set {
        name: found.get(&NAME).map(|name| text(name)).unwrap_or_default(),
        key: read_kinds(number_of(KEY_TYPE)?, of_networks)?,
        data: read_kinds(number_of(DATA_TYPE)?, false)?,
        elements: BTreeSet::new(),
    };
    let own = description(&set);
    // What `nft` of before 1.0.7 loads says of a concatenation without networks neither that it is one
    // nor its parts: its type does.
    let lengths = |kinds: &[Kind]| -> Vec<u32> {
        let described = kinds.len() > 1 && flags & CONCATENATION != 0;
        let parts = kinds.iter().filter(|_| described);
        parts.map(|kind| kind.describe().1).collect()
    };
    let written = Expression::of("", &own);
    let same = |kind: u16| written.number(kind) == number_of(kind);
    let found_lengths = found
        .get(&DESCRIPTION)
        .map_or(Some(Vec::new()), |nested| read_lengths(nested))?;
    let plain_flags = written.number(FLAGS)? & !CONCATENATION;
    let is_described = flags & CONCATENATION != 0 || !of_networks;
    (plain_flags == flags & !CONCATENATION
        && is_described
        && [KEY_LENGTH, DATA_LENGTH].into_iter().all(same)
        && lengths(&set.key) == found_lengths)
        .then_some(set)
}

/// The kinds that a type's number stands for.
fn read_kinds(mut rest: u32, networks: bool) -> Option<Vec<Kind>> {
    let mut kinds = Vec::new();
    while rest > 0 {
        let of_number = |kind: &Kind| kind.describe().0 == rest & FIELD_MASK;
        let mut fitting = Kind::ALL.into_iter().filter(of_number);
        kinds.insert(0, fitting.find(|kind| kind.is_network() == networks)?);
        rest >>= FIELD_BITS;
    }
    Some(kinds)
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
    let list = message.get(&ELEMENTS).into_iter();
    let mut plain = true;
    for (_, element) in list.flat_map(|list| attributes(list)) {
        match read_element(&element, set) {
            Some(values) => drop(set.elements.insert(values)),
            None => plain = false,
        }
    }
    plain
}

/// An element that is written as it was found.
fn read_element(found: &[u8], set: &Set) -> Option<Vec<Value>> {
    let parts: BTreeMap<u16, Vec<u8>> = attributes(found).collect();
    let bytes = |kind: u16| -> Vec<u8> {
        let values = parts
            .get(&kind)
            .into_iter()
            .flat_map(|part| attributes(part));
        values.flat_map(|(_, value)| value).collect()
    };
    let (key, end, data) = (bytes(1), bytes(10), bytes(2));
    let mut values = read_values(&key, &end, &set.key)?;
    values.extend(read_values(&data, &[], &set.data)?);
    let written = Expression::of("", &[element(set, &values, true).ok()?]);
    let written: BTreeMap<u16, Vec<u8>> = attributes(written.bytes(1)?).collect();
    let same = |(kind, value): (&u16, &Vec<u8>)| {
        let plain = |value: &[u8]| attributes(value).collect::<Vec<_>>();
        written
            .get(kind)
            .is_some_and(|own| plain(own) == plain(value))
    };
    (parts.len() == written.len() && parts.iter().all(same)).then_some(values)
}

fn read_values(mut bytes: &[u8], mut end: &[u8], kinds: &[Kind]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    for kind in kinds {
        let length = kind.registers() as usize * 4;
        let (own, rest) = bytes.split_at_checked(length)?;
        let last = end.get(..length).unwrap_or_default();
        values.push(kind.value(own, last)?);
        (bytes, end) = (rest, end.get(length..).unwrap_or_default());
    }
    bytes.is_empty().then_some(values)
}
