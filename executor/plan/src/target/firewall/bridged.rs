//! What the bridge takes from pods: the chains of the family `bridge`.
//!
//! A pod sends as itself: with its own hardware address and from its own addresses, in the frame and
//! in what says so inside of ARP and neighbour discovery. By anything else it could take the place
//! of another pod, of the host or of a router, for whoever believes it. A pod is known by the group
//! of the port it comes over, which the host sets and no pod can; the sets say what each may be.
//! What a packet passes does not grow with the number of pods.
//!
//! `senders` sees every frame before the bridge learns from it or forwards it. Of those that a bridge
//! keeps for itself (01:80:c2:00:00:0x) some are seen by `local` and some by no rule: from these the
//! bridge is set to learn nothing (`no_linklocal_learn`).

use super::{
    Action, Chain, Kind, Match, Rule, Selector, Set, Table, TableFamily, Value,
    routed::past_the_bridge,
};
use crate::target::Target;
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

/// The group of the port of lease 0; each lease's is that much higher.
pub const PORT_GROUP: u32 = 0x746b_0000;

/// What of a group says that it is a port's.
const PORT_MASK: u32 = 0xffff_0000;

const SENDERS: &str = "senders";
const LOCAL: &str = "local";

/// Before whatever changes an address (`NF_BR_PRI_NAT_DST_BRIDGED`), and as any filter.
const CHAINS: [(&str, u32, i32); 2] = [(SENDERS, 0, -310), (LOCAL, 1, -200)];

/// The sets: who may send which frames, and from which addresses.
const MACS: &str = "macs";
const SENDERS4: &str = "senders4";
const SENDERS6: &str = "senders6";

/// `ETH_P_*`.
const ARP: u16 = 0x0806;
pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;

pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Messages of ICMPv6 (RFC 4861, RFC 3810).
const LISTENER_QUERY: u8 = 130;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 143;

impl Target<'_> {
    /// Adds what says as whom pods may send: those declared on the bridge, and those of the leases
    /// `going`.
    pub(super) fn add_bridged(&self, table: &mut Table, going: &BTreeSet<u32>) {
        table
            .chains
            .extend(CHAINS.map(|(name, hook, priority)| Chain {
                family: TableFamily::Bridge,
                name: name.to_owned(),
                kind: "filter".to_owned(),
                hook,
                priority,
            }));
        let bridged = self.graph.pods().filter(|pod| self.is_bridged(pod));
        let mut leases: BTreeSet<u32> = bridged
            .filter_map(|pod| self.leases.get(pod).copied())
            .collect();
        leases.extend(going);
        past_the_bridge(table, &leases);
        table.sets.extend(self.sets(&leases));
        table.rules.extend(rules());
    }

    fn sets(&self, leases: &BTreeSet<u32>) -> [Set; 3] {
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
        for lease in leases {
            let own = hardware_address(*lease);
            let port = [Value::Group(port_group(*lease)), Value::Mac(own)];
            macs.elements.insert(port.to_vec());
            let addresses = self.nth(*lease);
            let addresses = addresses.iter().map(IpNet::addr);
            for address in addresses.chain([IpAddr::V6(link_local(own))]) {
                let set = if address.is_ipv4() { &mut v4 } else { &mut v6 };
                set.elements
                    .insert([&port[..], &[Value::from(address)]].concat());
            }
        }
        [macs, v4, v6]
    }
}

/// The group of the port of a lease's pod.
pub fn port_group(lease: u32) -> u32 {
    PORT_GROUP | (lease & !PORT_MASK)
}

/// The hardware address of a lease's pod: locally administered, "tk", and the lease. There are fewer
/// leases than 2¹⁶: a pod's ids would end before.
pub fn hardware_address(lease: u32) -> [u8; 6] {
    let [.., high, low] = lease.to_be_bytes();
    [0x02, 0x74, 0x6b, 0, high, low]
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
        value: PORT_GROUP,
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
    let mut rules = vec![
        senders("ports that are no pod's", &[of_port(false)], Accept),
        senders(
            "nobody asks a pod for an address",
            &[&[Match::EtherType(IPV4)][..], &udp(68)].concat(),
            Drop,
        ),
        senders(
            "IPv4 from its own address",
            &[Match::EtherType(IPV4), frame_of(Source4)],
            Accept,
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
        ("a pod asks nobody what it listens to", LISTENER_QUERY),
    ] {
        rules.push(senders(comment, &message(kind), Drop));
    }
    let mut about_another = message(NEIGHBOUR_ADVERTISEMENT).to_vec();
    about_another.push(frame_of6(NeighbourTarget, false));
    // Before an address is used, it is asked for from none.
    let from_none = |kind, own| [&message(kind)[..], &[unspecified.clone(), own]].concat();
    let asked = from_none(NEIGHBOUR_SOLICITATION, frame_of6(NeighbourTarget, true));
    let listens = from_none(LISTENER_REPORT, in_set(MACS, SourceMac, None, true));
    rules.extend([
        senders(
            "another's address is at another place",
            &about_another,
            Drop,
        ),
        senders("is its own address another's, too?", &asked, Accept),
        senders("what it listens to", &listens, Accept),
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
