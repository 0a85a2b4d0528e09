//! A link, from what the kernel lists.

use super::{MARK, PORT_MARK};
use netlink_packet_core::NlasIterator;
use rtnetlink::packet_route::link::LinkFlags;

/// A link as the kernel lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number, which the kernel gives no other link of this namespace meanwhile.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, in somebody's words (`ip link set alias`).
    pub alias: Option<String>,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether it carries frames (`IFF_RUNNING`): some time after it is up, the kernel sees to that.
    pub running: bool,
    /// The bridge it belongs to.
    pub controller: Option<u32>,
    /// Whether its hardware address begins with [`MARK`], or, of what is no bridge, with [`PORT_MARK`].
    pub marked: bool,
    /// Its hardware address; zeros where it has none of six bytes.
    pub mac: [u8; 6],
    /// The longest packet it takes.
    pub mtu: u32,
    /// The link that it sits on, or its other end: by its number in that one's namespace.
    pub below: Option<u32>,
    /// What it is.
    pub kind: LinkKind,
    /// Whether its frames are Ethernet's (`ARPHRD_ETHER`).
    pub is_ethernet: bool,
    /// Its group (`ip link set group`); 0 unless somebody set one.
    pub group: u32,
    /// Whether it is a bridge's port that gives frames back to where they came from
    /// (`hairpin_mode`).
    pub hairpin: bool,
    /// Whether it takes no ARP for itself (`IFF_NOARP`).
    pub no_arp: bool,
    /// Whether it is a bridge that learns nothing from frames it keeps for itself
    /// (`no_linklocal_learn`): those pass no rules.
    pub is_guarded: bool,
}

impl Link {
    /// Whether it is as a port of Tank's own bridge is to be.
    pub fn is_pods_port(&self) -> bool {
        self.hairpin && self.no_arp
    }
}

/// What a link is, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LinkKind {
    /// Something else.
    #[default]
    Other,
    /// A bridge.
    Bridge,
    /// A macvlan.
    Macvlan,
    /// One end of a veth pair.
    Veth,
}

/// Reads a `struct ifinfomsg` and the attributes behind it: of its hundred, nine matter, and a
/// host has a link for each pod.
pub(super) fn read_link(payload: &[u8]) -> Option<Link> {
    /// `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_LINK`, `IFLA_MASTER` and `IFLA_GROUP` of
    /// rtnetlink(7), and `IFLA_IFALIAS` of `linux/if_link.h`.
    const ADDRESS: u16 = 1;
    const IFNAME: u16 = 3;
    const MTU: u16 = 4;
    const LINK: u16 = 5;
    const MASTER: u16 = 10;
    const GROUP: u16 = 27;
    const IFALIAS: u16 = 20;
    /// The `ifi_type` of Ethernet.
    const ARPHRD_ETHER: u16 = 1;
    /// `IFLA_LINKINFO`.
    const INFO: u16 = 18;
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let flags = LinkFlags::from_bits_retain(number(payload.get(8..12)?)?);
    let mut link = Link {
        index: number(payload.get(4..8)?)?,
        name: String::new(),
        alias: None,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        controller: None,
        marked: false,
        mac: [0; 6],
        mtu: 0,
        below: None,
        kind: LinkKind::Other,
        is_ethernet: payload.get(2..4) == Some(&ARPHRD_ETHER.to_ne_bytes()[..]),
        group: 0,
        hairpin: false,
        no_arp: flags.contains(LinkFlags::Noarp),
        is_guarded: false,
    };
    for attribute in NlasIterator::new(payload.get(16..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            IFNAME => link.name = text(value),
            IFALIAS => link.alias = Some(text(value)),
            ADDRESS => {
                link.marked = value.starts_with(&MARK) || value.starts_with(&PORT_MARK);
                link.mac = value.try_into().unwrap_or_default();
            }
            MTU => link.mtu = number(value).unwrap_or_default(),
            LINK => link.below = number(value),
            MASTER => link.controller = number(value),
            GROUP => link.group = number(value).unwrap_or_default(),
            INFO => {
                (link.kind, link.is_guarded) = read_info(value);
                link.hairpin = is_hairpin(value);
            }
            _ => {}
        }
    }
    // A bridge of somebody else's that has no other port took the address of one of these.
    if link.kind == LinkKind::Bridge && link.mac.starts_with(&PORT_MARK) {
        link.marked = false;
    }
    (!link.name.is_empty()).then_some(link)
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\0').to_owned()
}

/// The kind that the description of a link says, and whether it is a bridge with
/// `BR_BOOLOPT_NO_LL_LEARN`.
fn read_info(info: &[u8]) -> (LinkKind, bool) {
    /// `IFLA_INFO_KIND`, `IFLA_INFO_DATA` and `IFLA_BR_MULTI_BOOLOPT`.
    const KIND: u16 = 1;
    const DATA: u16 = 2;
    const OPTIONS: u16 = 46;
    const NO_LINK_LOCAL_LEARNING: u32 = 1;
    let (mut kind, mut guarded) = (LinkKind::Other, false);
    for attribute in NlasIterator::new(info).flatten() {
        match attribute.kind() {
            KIND => {
                kind = match attribute.value() {
                    b"bridge\0" => LinkKind::Bridge,
                    b"macvlan\0" => LinkKind::Macvlan,
                    b"veth\0" => LinkKind::Veth,
                    _ => LinkKind::Other,
                }
            }
            DATA if kind == LinkKind::Bridge => {
                let mut options = NlasIterator::new(attribute.value()).flatten();
                let found = options.find(|option| option.kind() == OPTIONS);
                let bits = found.and_then(|option| option.value().first_chunk().copied());
                guarded =
                    bits.is_some_and(|bits| u32::from_ne_bytes(bits) & NO_LINK_LOCAL_LEARNING != 0);
            }
            _ => {}
        }
    }
    (kind, guarded)
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
