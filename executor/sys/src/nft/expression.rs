//! An expression as it is in a message: a name and attributes (`NFTA_EXPR_NAME`,
//! `NFTA_EXPR_DATA`).
//!
//! The kernel lists attributes in an order of its own, with those that were left to their default: an
//! [`Expression`] has them by their numbers, without numbers that are zero, so that those that do the
//! same are equal, and have one [text](Expression::text).

use netlink_packet_core::{DefaultNla, Emitable, Nla, NlasIterator};
use std::{collections::BTreeMap, fmt::Write};

/// Without the flags of an attribute's kind (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const KIND: u16 = 0x3fff;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `NFTA_DATA_VALUE` and `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

/// An expression with its attributes by their kinds, without those that are zero as by default.
#[derive(Clone, Debug, Default)]
pub struct Expression {
    pub name: String,
    attributes: BTreeMap<u16, Vec<u8>>,
}

/// Whether they do the same. A rule set is read by many of these comparisons, so nothing is parsed where the bytes
/// themselves are equal, or other attributes differ.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.attributes.iter().zip(&other.attributes);
        self.name == other.name
            && self.attributes.len() == other.attributes.len()
            && pairs.all(|((kind, own), (others, other))| {
                kind == others
                    && (own == other || holds_data(&self.name, *kind) && data(own) == data(other))
            })
    }
}

impl Expression {
    /// Reads the attributes of a list's element.
    pub fn read(element: &[u8]) -> Self {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let found: BTreeMap<u16, Vec<u8>> = attributes(element).collect();
        let name = found.get(&NAME).map(|name| text(name)).unwrap_or_default();
        let data = found.get(&DATA).into_iter();
        Self::with(name, data.flat_map(|data| attributes(data)))
    }

    /// As it is read back after it was written.
    pub fn of(name: &str, written: &[DefaultNla]) -> Self {
        let value = |attribute: &DefaultNla| {
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            (attribute.kind() & KIND, value)
        };
        Self::with(name.to_owned(), written.iter().map(value))
    }

    fn with(name: String, attributes: impl Iterator<Item = (u16, Vec<u8>)>) -> Self {
        let is_set = |(kind, value): &(u16, Vec<u8>)| holds_data(&name, *kind) || *value != [0; 4];
        let attributes = attributes.filter(is_set).collect();
        Self { name, attributes }
    }

    /// A number; zero where it was left to its default. None: it is no number of 32 bits.
    pub fn number(&self, kind: u16) -> Option<u32> {
        match self.attributes.get(&kind) {
            Some(value) => number(value),
            None => Some(0),
        }
    }

    /// An attribute as it is.
    pub fn bytes(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.get(&kind).map(Vec::as_slice)
    }

    /// A text.
    pub fn text_of(&self, kind: u16) -> Option<String> {
        self.attributes.get(&kind).map(|value| text(value))
    }

    /// The bytes of an attribute that holds data.
    pub fn data(&self, kind: u16) -> Option<Vec<u8>> {
        self.nested(kind, VALUE)
    }

    /// The code of an attribute that holds a verdict (`NF_DROP`, `NF_ACCEPT`).
    pub fn verdict(&self, kind: u16) -> Option<u32> {
        const CODE: u16 = 1;
        let verdict = self.nested(kind, VERDICT)?;
        attributes(&verdict).find_map(|(kind, value)| (kind == CODE).then(|| number(&value))?)
    }

    fn nested(&self, kind: u16, inner: u16) -> Option<Vec<u8>> {
        attributes(self.attributes.get(&kind)?).find_map(|(k, value)| (k == inner).then_some(value))
    }

    /// `name{ kind=value …}`.
    pub fn text(&self) -> String {
        let mut text = format!("{}{{", self.name);
        for (kind, value) in &self.attributes {
            if holds_data(&self.name, *kind) {
                write_data(&mut text, *kind, value);
            } else {
                write_bytes(&mut text, *kind, value);
            }
        }
        text.push('}');
        text
    }
}

/// Which attributes are a `NFTA_DATA_*` again: what is compared with, masks, and what is loaded.
fn holds_data(name: &str, kind: u16) -> bool {
    matches!(
        (name, kind),
        ("cmp", 3) | ("bitwise", 4 | 5) | ("immediate", 2)
    )
}

/// The attributes of a `NFTA_DATA_*`, and those within a verdict, by their kinds in this order.
fn data(value: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let of_data: BTreeMap<_, _> = attributes(value).collect();
    let flat = |(kind, value): (u16, Vec<u8>)| match kind {
        VERDICT => Vec::from_iter(attributes(&value).collect::<BTreeMap<_, _>>()),
        _ => vec![(kind, value)],
    };
    of_data.into_iter().flat_map(flat).collect()
}

fn write_data(text: &mut String, kind: u16, value: &[u8]) {
    let _ = write!(text, " {kind}=(");
    for (kind, value) in data(value) {
        write_bytes(text, kind, &value);
    }
    text.push_str(" )");
}

fn write_bytes(text: &mut String, kind: u16, value: &[u8]) {
    let _ = write!(text, " {kind}=");
    for byte in value {
        let _ = write!(text, "{byte:02x}");
    }
}

/// The attributes of a message or of an attribute that nests some: kind and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(bytes)
        .flatten()
        .map(|attribute| (attribute.kind() & KIND, attribute.value().to_vec()))
}

/// A text that ends with a NUL.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .to_owned()
}

/// A number of 32 bits in network byte order.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// An attribute that holds a number, to be written.
pub fn of_number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// An attribute that nests others, to be written.
pub fn of_nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// An attribute that holds data, to be written.
pub fn of_data(kind: u16, value: &[u8]) -> DefaultNla {
    of_nested(kind, &[DefaultNla::new(VALUE, value.to_vec())])
}

/// An attribute that holds a verdict, to be written.
pub fn of_verdict(kind: u16, code: u32) -> DefaultNla {
    of_nested(kind, &[of_nested(VERDICT, &[of_number(1, code)])])
}

/// The comment among libnftnl's user data: type, length and value of each.
pub fn read_comment(mut data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    loop {
        let [kind, length, rest @ ..] = data else {
            return None;
        };
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        data = &rest[value.len()..];
    }
}
