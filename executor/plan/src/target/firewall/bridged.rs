//! What the bridge takes from pods: the chains of the family `bridge`.
//!
//! A pod sends as itself: with its own hardware address and from its own addresses, in the frame and
//! in what says so inside of ARP and neighbour discovery. By anything else it could take the place
//! of another pod, of the host or of a router, for whoever believes it. A pod is known by the group
//! of the port it comes over, which the host sets and no pod can; the sets say what each may be.
//! What a packet passes does not grow with the number of pods.
//!
//! What is for a group goes to everybody on the bridge, so a pod has nobody to tell that it listens to
//! one: its reports would go to everybody, too, several from each pod that starts, and are dropped.
//!
//! `senders` sees every frame before the bridge learns from it or forwards it. Of those that a bridge
//! keeps for itself (01:80:c2:00:00:0x) some are seen by `local` and some by no rule: from these the
//! bridge is set to learn nothing (`no_linklocal_learn`).

use super::{
    Action, Chain, Kind, Match, Rule, Selector, Set, Table, TableFamily, Value, routed::GUARD,
};
use crate::target::networks::{MAX_NETWORK_NUMBER, MAX_POD_NUMBER, POD_NUMBER_BITS, Place};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

/// The group of the port of lease 0 on the default network; each lease's is that much higher.
pub const PORT_GROUP: u32 = 0x746b_0000;

/// What of a lease is in the group of a port, and in the hardware address.
const LEASE_MASK: u32 = 0xffff;

/// The group of the port of the first pod of the first of the other networks: the number of the network
/// and that of the pod on it are added, side by side.
const NETWORK_PORT_GROUP: u32 = 0x7464_0000;

/// What of a group says that it is a port's, and how.
const PORT_MASK: u32 = 0xfff0_0000;
const PORT_MARK: u32 = 0x7460_0000;

const SENDERS: &str = "senders";
const LOCAL: &str = "local";

/// Before whatever changes an address (`NF_BR_PRI_NAT_DST_BRIDGED`), and as any filter.
const CHAINS: [(&str, u32, i32); 2] = [(SENDERS, 0, -310), (LOCAL, 1, -200)];

/// The sets: who may send which frames, and from which addresses.
const MACS: &str = "macs";
const SENDERS4: &str = "senders4";
const SENDERS6: &str = "senders6";

/// The set of what the only option of a message of neighbour discovery may say: the hardware address of
/// whoever sends it.
const PLACES: &str = "places";

/// Options of neighbour discovery, each of 8 bytes with its type and that length (RFC 4861, section
/// 4.6.1): where the source is, and where the target.
const SOURCE_PLACE: u16 = 0x0101;
const TARGET_PLACE: u16 = 0x0201;

/// The set of what may be behind the header of IPv6 of such a message: the message itself.
const BARE: &str = "bare";

/// The set of what a frame of a pod's may hold.
const PLAIN: &str = "plain";

/// How long messages of neighbour discovery with one such option are.
const SOLICITATION_LENGTH: u16 = 8 + 8;
const NEIGHBOUR_LENGTH: u16 = 24 + 8;

/// How long a frame of ARP is behind its Ethernet header: as long as the shortest frame. And one of
/// neighbour discovery with one option. What is longer carries something else to whoever it is for.
const ARP_LENGTH: u32 = 46;
const DISCOVERY_LENGTH: u32 = 40 + NEIGHBOUR_LENGTH as u32;

/// `ETH_P_*`.
const ARP: u16 = 0x0806;
pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;

const IGMP: u8 = 2;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Messages of ICMPv6 (RFC 4861, RFC 3810).
const LISTENER_QUERY: u8 = 130;
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const LISTENER_REPORT_2: u8 = 143;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Adds what says as whom pods may send, and where.
pub(super) fn add_bridged(table: &mut Table, places: &[Place]) {
    table
        .chains
        .extend(CHAINS.map(|(name, hook, priority)| Chain {
            family: TableFamily::Bridge,
            name: name.to_owned(),
            kind: "filter".to_owned(),
            hook,
            priority,
        }));
    past_the_bridge(table, places.iter().map(|place| place.group));
    table.sets.extend(sets(places));
    table.rules.extend(rules());
}

fn sets(places: &[Place]) -> [Set; 6] {
    let set = |name: &str, key: &[Kind]| Set {
        family: TableFamily::Bridge,
        name: name.to_owned(),
        key: key.to_vec(),
        data: Vec::new(),
        elements: BTreeSet::new(),
    };
    let mut macs = set(MACS, &[Kind::Group, Kind::Mac]);
    let mut v4 = set(SENDERS4, &[Kind::Group, Kind::Mac, Kind::V4]);
    let mut v6 = set(SENDERS6, &[Kind::Group, Kind::Mac, Kind::V6]);
    let key = [
        Kind::Group,
        Kind::Protocol,
        Kind::Port,
        Kind::Port,
        Kind::Mac,
    ];
    let mut options = set(PLACES, &key);
    let mut bare = set(BARE, &[Kind::Protocol; 2]);
    bare.elements.insert(vec![Value::Protocol(ICMPV6); 2]);
    let mut plain = set(PLAIN, &[Kind::Port; 2]);
    let types = [ARP, IPV4, IPV6].map(|held| vec![Value::Port(held); 2]);
    plain.elements.extend(types);
    for place in places {
        let port = [Value::Group(place.group), Value::Mac(place.mac)];
        macs.elements.insert(port.to_vec());
        for (length, option) in [
            (SOLICITATION_LENGTH, SOURCE_PLACE),
            (NEIGHBOUR_LENGTH, SOURCE_PLACE),
            (NEIGHBOUR_LENGTH, TARGET_PLACE),
        ] {
            options.elements.insert(vec![
                Value::Group(place.group),
                Value::Protocol(ICMPV6),
                Value::Port(length),
                Value::Port(option),
                Value::Mac(place.mac),
            ]);
        }
        let addresses = place.addresses.iter().map(IpNet::addr);
        for address in addresses.chain([IpAddr::V6(link_local(place.mac))]) {
            let set = if address.is_ipv4() { &mut v4 } else { &mut v6 };
            set.elements
                .insert([&port[..], &[Value::from(address)]].concat());
        }
    }
    [macs, v4, v6, options, bare, plain]
}

/// The group of the port of a lease's pod on the default network.
pub fn port_group(lease: u32) -> u32 {
    PORT_GROUP | (lease & LEASE_MASK)
}

/// The lease of whoever has such a port. None: it is none on the default network.
pub fn lease_of_port(group: u32) -> Option<u32> {
    let lease = group & LEASE_MASK;
    (port_group(lease) == group).then_some(lease)
}

/// The group of the port of a pod on another network, by their numbers.
pub fn network_port_group(network: u32, pod: u32) -> u32 {
    NETWORK_PORT_GROUP | both(network, pod)
}

fn both(network: u32, pod: u32) -> u32 {
    ((network % MAX_NETWORK_NUMBER) << POD_NUMBER_BITS) | (pod % MAX_POD_NUMBER)
}

/// Whether a group is that of a pod's port.
pub fn is_port_group(group: u32) -> bool {
    group & PORT_MASK == PORT_MARK
}

/// The hardware address of a lease's pod on the default network: locally administered, "tk", and the
/// lease. There are fewer leases than 2¹⁶: a pod's ids would end before.
pub fn hardware_address(lease: u32) -> [u8; 6] {
    let [.., high, low] = lease.to_be_bytes();
    [0x02, 0x74, 0x6b, 0, high, low]
}

/// That of a pod on another network, by their numbers.
pub fn network_mac(network: u32, pod: u32) -> [u8; 6] {
    let [.., high, middle, low] = both(network, pod).to_be_bytes();
    [0x02, 0x74, 0x6b, 0x10 | high, middle, low]
}

/// The address that the kernel makes of a hardware address by itself (RFC 4291, appendix A).
pub(super) fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

pub(super) fn of_port(is: bool) -> Match {
    Match::InGroup {
        mask: PORT_MASK,
        value: PORT_MARK,
        is,
    }
}

/// What comes over a port, as whoever it says it is, is in a set.
fn in_set(set: &str, mac: Selector, address: Option<Selector>, is: bool) -> Match {
    let mut of = vec![Selector::InGroup, mac];
    of.extend(address);
    Match::InSet {
        set: set.to_owned(),
        of,
        is,
    }
}

/// What a pod says of where its own address is, and of where it is reached, names its own hardware
/// address. A message with such an option has it alone: what it is longer by, or what comes before it,
/// could say something else to whoever reads on. One that is shorter can hold none, and none is loaded of
/// it.
fn elsewhere(kind: u8) -> [Vec<Match>; 2] {
    let message = [
        Match::EtherType(IPV6),
        Match::Protocol(ICMPV6),
        Match::Icmpv6Type(kind),
    ];
    let (option, mac) = match kind {
        ROUTER_SOLICITATION => (Selector::SolicitationOption, Selector::SolicitationMac),
        _ => (Selector::NeighbourOption, Selector::NeighbourMac),
    };
    let is_not = |set: &str, of: &[Selector]| Match::InSet {
        set: set.to_owned(),
        of: of.to_vec(),
        is: false,
    };
    let (next, length) = (Selector::NextHeader, Selector::PayloadLength);
    let bare = is_not(BARE, &[next, Selector::Protocol]);
    let place = is_not(PLACES, &[Selector::InGroup, next, length, option, mac]);
    [bare, place].map(|last| [&message[..], &[last]].concat())
}

/// What comes over a pod's port and is none of its own is gone: neither the bridge nor anybody
/// behind it learns from it.
// long: one entry a rule
fn rules() -> Vec<Rule> {
    use Action::{Accept, Drop};
    use Selector::{ArpSender, ArpSenderMac, NeighbourTarget, Source4, Source6, SourceMac};
    let rule = |chain: &str, comment: &str, matches: &[Match], action| {
        let at = (TableFamily::Bridge, chain);
        super::rule(at, comment, matches.to_vec(), action)
    };
    let senders =
        |comment: &str, matches: &[Match], action| rule(SENDERS, comment, matches, action);
    let frame_of = |address| in_set(SENDERS4, SourceMac, Some(address), true);
    let frame_of6 = |address, is| in_set(SENDERS6, SourceMac, Some(address), is);
    // Whatever port it comes from: clients look at their own alone.
    let udp = |to| [Match::Protocol(UDP), Match::DestinationPort(to)];
    let v6 = Match::EtherType(IPV6);
    let message = |kind| [v6.clone(), Match::Protocol(ICMPV6), Match::Icmpv6Type(kind)];
    let unspecified = Match::Source {
        net: IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        is: true,
    };
    let is_other = Match::InSet {
        set: PLAIN.to_owned(),
        // Twice: `nft` before 1.0.8 lists no set of single values of less than 4 bytes.
        of: vec![Selector::FrameType; 2],
        is: false,
    };
    let mut rules = vec![
        senders("ports that are no pod's", &[of_port(false)], Accept),
        // What is behind a tag is of the type that it says it is there, for every other condition.
        senders(
            "nothing but ARP and IP, and no tag before it",
            &[is_other],
            Drop,
        ),
        senders(
            "nobody asks a pod for an address",
            &[&[Match::EtherType(IPV4)][..], &udp(68)].concat(),
            Drop,
        ),
        senders(
            "nobody asks who listens to a group",
            &[Match::EtherType(IPV4), Match::Protocol(IGMP)],
            Drop,
        ),
        senders(
            "IPv4 from its own address",
            &[Match::EtherType(IPV4), frame_of(Source4)],
            Accept,
        ),
        senders(
            "ARP and nothing behind it",
            &[Match::EtherType(ARP), Match::LongerThan(ARP_LENGTH)],
            Drop,
        ),
        senders(
            "its own address is at its own place",
            &[
                Match::EtherType(ARP),
                frame_of(ArpSender),
                in_set(SENDERS4, ArpSenderMac, Some(ArpSender), true),
            ],
            Accept,
        ),
        senders(
            "nobody asks a pod for an address",
            &[&[v6.clone()][..], &udp(546)].concat(),
            Drop,
        ),
    ];
    for (comment, kind) in [
        ("a pod is no router", ROUTER_ADVERTISEMENT),
        ("a pod is no router", REDIRECT),
        ("nobody asks who listens to a group", LISTENER_QUERY),
        ("nobody asks who listens to a group", LISTENER_REPORT),
        ("nobody asks who listens to a group", LISTENER_DONE),
        ("nobody asks who listens to a group", LISTENER_REPORT_2),
    ] {
        rules.push(senders(comment, &message(kind), Drop));
    }
    let mut about_another = message(NEIGHBOUR_ADVERTISEMENT).to_vec();
    about_another.push(frame_of6(NeighbourTarget, false));
    // Before an address is used, it is asked for from none.
    let mut asked = message(NEIGHBOUR_SOLICITATION).to_vec();
    asked.extend([unspecified, frame_of6(NeighbourTarget, true)]);
    rules.push(senders(
        "another's address is at another place",
        &about_another,
        Drop,
    ));
    for kind in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        let long = [&message(kind)[..], &[Match::LongerThan(DISCOVERY_LENGTH)]];
        rules.push(senders(
            "neighbour discovery and nothing behind it",
            &long.concat(),
            Drop,
        ));
    }
    rules.push(senders(
        "is its own address another's, too?",
        &asked,
        Accept,
    ));
    for kind in [
        ROUTER_SOLICITATION,
        NEIGHBOUR_SOLICITATION,
        NEIGHBOUR_ADVERTISEMENT,
    ] {
        for matches in elsewhere(kind) {
            rules.push(senders(
                "its own address is at its own place",
                &matches,
                Drop,
            ));
        }
    }
    rules.extend([
        senders(
            "IPv6 from its own address",
            &[v6, frame_of6(Source6, true)],
            Accept,
        ),
        senders("nothing else comes from a pod", &[], Drop),
        rule(
            LOCAL,
            "the bridge learns nothing else of a pod",
            &[of_port(true), in_set(MACS, SourceMac, None, false)],
            Drop,
        ),
    ]);
    rules
}

/// What a bridge does not forward (01:80:c2:00:00:0x) comes over the pod's port itself, past the rules
/// of the bridge: there is nothing for the host in it.
fn past_the_bridge(table: &mut Table, ports: impl Iterator<Item = u32>) {
    const PODS: &str = "pods";
    table.sets.push(Set {
        family: TableFamily::Inet,
        name: PODS.to_owned(),
        key: vec![Kind::Group],
        data: Vec::new(),
        elements: ports.map(|group| vec![Value::Group(group)]).collect(),
    });
    let of_a_pod = Match::InSet {
        set: PODS.to_owned(),
        of: vec![Selector::InGroup],
        is: true,
    };
    table.rules.push(super::rule(
        (TableFamily::Inet, GUARD),
        "a pod speaks to the bridge, and not past it",
        vec![of_a_pod],
        Action::Drop,
    ));
}
