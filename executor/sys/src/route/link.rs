//! A link, from what the kernel lists.

use super::MARK;
use netlink_packet_core::NlasIterator;
use rtnetlink::packet_route::link::LinkFlags;

/// A link as the kernel lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number, which the kernel gives no other link of this namespace meanwhile.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// The bridge it belongs to.
    pub controller: Option<u32>,
    /// Whether its hardware address begins with [`MARK`].
    pub marked: bool,
    /// Its group (`ip link set group`); 0 unless somebody set one.
    pub group: u32,
    /// Whether it is a bridge's port that gives frames back to where they came from
    /// (`hairpin_mode`).
    pub hairpin: bool,
    /// Whether it is a bridge that learns nothing from frames it keeps for itself
    /// (`no_linklocal_learn`): those pass no rules.
    pub is_guarded: bool,
}

/// Reads a `struct ifinfomsg` and the attributes behind it: of its hundred, five matter, and a
/// host has a link for each pod.
pub(super) fn read_link(payload: &[u8]) -> Option<Link> {
    /// `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_MASTER` and `IFLA_GROUP` of
    /// rtnetlink(7).
    const ADDRESS: u16 = 1;
    const IFNAME: u16 = 3;
    const MASTER: u16 = 10;
    const GROUP: u16 = 27;
    /// `IFLA_LINKINFO`.
    const INFO: u16 = 18;
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let mut link = Link {
        index: number(payload.get(4..8)?)?,
        name: String::new(),
        up: LinkFlags::from_bits_retain(number(payload.get(8..12)?)?).contains(LinkFlags::Up),
        controller: None,
        marked: false,
        group: 0,
        hairpin: false,
        is_guarded: false,
    };
    for attribute in NlasIterator::new(payload.get(16..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            IFNAME => {
                link.name = String::from_utf8_lossy(value)
                    .trim_end_matches('\0')
                    .to_owned()
            }
            ADDRESS => link.marked = value.starts_with(&MARK),
            MASTER => link.controller = number(value),
            GROUP => link.group = number(value).unwrap_or_default(),
            INFO => {
                link.is_guarded = is_guarded(value);
                link.hairpin = is_hairpin(value);
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// Whether the description of a link is that of a bridge with `BR_BOOLOPT_NO_LL_LEARN`.
fn is_guarded(info: &[u8]) -> bool {
    /// `IFLA_INFO_KIND`, `IFLA_INFO_DATA` and `IFLA_BR_MULTI_BOOLOPT`.
    const KIND: u16 = 1;
    const DATA: u16 = 2;
    const OPTIONS: u16 = 46;
    const NO_LINK_LOCAL_LEARNING: u32 = 1;
    let mut of_bridge = false;
    for attribute in NlasIterator::new(info).flatten() {
        match attribute.kind() {
            KIND => of_bridge = attribute.value() == b"bridge\0",
            DATA if of_bridge => {
                let mut options = NlasIterator::new(attribute.value()).flatten();
                let found = options.find(|option| option.kind() == OPTIONS);
                let bits = found.and_then(|option| option.value().first_chunk().copied());
                return bits
                    .is_some_and(|bits| u32::from_ne_bytes(bits) & NO_LINK_LOCAL_LEARNING != 0);
            }
            _ => {}
        }
    }
    false
}

/// Whether the description of a link is that of a bridge's port with `BR_HAIRPIN_MODE`.
fn is_hairpin(info: &[u8]) -> bool {
    /// `IFLA_INFO_SLAVE_KIND`, `IFLA_INFO_SLAVE_DATA` and `IFLA_BRPORT_MODE`.
    const KIND: u16 = 4;
    const DATA: u16 = 5;
    const MODE: u16 = 4;
    let mut of_bridge = false;
    for attribute in NlasIterator::new(info).flatten() {
        match attribute.kind() {
            KIND => of_bridge = attribute.value() == b"bridge\0",
            DATA if of_bridge => {
                let mut options = NlasIterator::new(attribute.value()).flatten();
                let found = options.find(|option| option.kind() == MODE);
                return found.is_some_and(|option| option.value() == [1]);
            }
            _ => {}
        }
    }
    false
}
