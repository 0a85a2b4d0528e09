//! The rules of policies, which look pods up in the sets of `policy`.

use super::{
    Action, Family, Match, Rule, Selector, TableFamily,
    bridged::{ICMPV6, IPV4, IPV6, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, UDP, of_port},
    policy::{
        ADMITTED, ALLOWED, BETWEEN, BOUND, CLOSED, INNER, INTERNET, INWARD, POLICED, POLICED_MACS,
        POLICY, STEERING, of_family,
    },
    routed::{ESTABLISHED, RELATED, TCP},
};
use ipnet::{IpNet, Ipv6Net};
use std::{collections::BTreeSet, net::Ipv6Addr};

const DNS: u16 = 53;

/// `PACKET_OTHERHOST`: what is for one hardware address that is not the port's own.
const OTHER_HOST: u8 = 3;

/// The rules by which a connection is judged when it is opened.
pub(super) fn judging(bridge: &str, networks: &[IpNet]) -> Vec<Rule> {
    let rule = |comment: &str, matches: Vec<Match>, action| {
        super::rule((TableFamily::Inet, POLICY), comment, matches, action)
    };
    let mut rules = vec![rule(
        "what belongs to a connection",
        vec![known_connection()],
        Action::Accept,
    )];
    rules.extend(bridged_discovery(bridge));
    for network in networks {
        let family = Family::from(network.addr());
        let of = |matches: &[Match]| [&[Match::Family(family)], matches].concat();
        let elsewhere = [
            Match::InInterface {
                name: bridge.to_owned(),
                is: false,
            },
            Match::Source {
                net: *network,
                is: true,
            },
        ];
        rules.push(rule(
            "nobody else comes from the pods' networks",
            of(&elsewhere),
            Action::Drop,
        ));
        let pair = |set: &str, is| pair(family, set, is);
        let unlisted = [
            source(family, BOUND, true),
            source(family, INTERNET, false),
            pair(ALLOWED, false),
        ];
        rules.push(rule(
            "a pod reaches whom it may",
            of(&unlisted),
            Action::Drop,
        ));
        let outside = no_internet(family);
        for other in outside {
            let inner = [
                &[source(family, INTERNET, true), pair(ALLOWED, false)],
                &other[..],
            ]
            .concat();
            rules.push(rule("what is not the internet", of(&inner), Action::Drop));
        }
        let refused = [destination(family, CLOSED), pair(ADMITTED, false)];
        rules.push(rule(
            "a pod is reached by whom it admits",
            of(&refused),
            Action::Drop,
        ));
    }
    rules
}

/// What a destination of a family has that is not on the internet: one of these.
fn no_internet(family: Family) -> Vec<Vec<Match>> {
    let mut all = vec![vec![pair(family, INNER, true)]];
    if family == Family::V6 {
        all.push(vec![Match::Destination {
            net: global(),
            is: false,
        }]);
    }
    all
}

/// Where the host looks at bridged packets as at routed ones (`net.bridge.bridge-nf-call-*`), neighbour
/// discovery passes here, too.
fn bridged_discovery(bridge: &str) -> [Rule; 2] {
    let bridge = bridge.to_owned();
    [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT].map(|kind| {
        let matches = vec![
            Match::InInterface {
                name: bridge.clone(),
                is: true,
            },
            Match::OutInterface {
                name: bridge.clone(),
                is: true,
            },
            Match::Family(Family::V6),
            Match::Protocol(ICMPV6),
            Match::Icmpv6Type(kind),
        ];
        let at = (TableFamily::Inet, POLICY);
        super::rule(at, "where pods are", matches, Action::Accept)
    })
}

fn known_connection() -> Match {
    Match::ConnState {
        any_of: ESTABLISHED | RELATED,
    }
}

fn in_set(set: &str, family: Family, of: Vec<Selector>, is: bool) -> Match {
    Match::InSet {
        set: of_family(set, family),
        of,
        is,
    }
}

fn source(family: Family, set: &str, is: bool) -> Match {
    let of = match family {
        Family::V4 => Selector::Source4,
        Family::V6 => Selector::Source6,
    };
    in_set(set, family, vec![of], is)
}

fn destination(family: Family, set: &str) -> Match {
    let of = match family {
        Family::V4 => Selector::Destination4,
        Family::V6 => Selector::Destination6,
    };
    in_set(set, family, vec![of], true)
}

/// Who it is from and whom it is for, together.
fn pair(family: Family, set: &str, is: bool) -> Match {
    let of = match family {
        Family::V4 => vec![Selector::Source4, Selector::Destination4],
        Family::V6 => vec![Selector::Source6, Selector::Destination6],
    };
    in_set(set, family, of, is)
}

/// Of these is what has a place on the internet (RFC 4291, section 2.4).
fn global() -> IpNet {
    IpNet::from(Ipv6Net::new_assert(
        Ipv6Addr::from([0x2000, 0, 0, 0, 0, 0, 0, 0]),
        3,
    ))
}

/// What a pod with a policy may have of the host itself: its name server, and neighbour discovery.
pub(super) fn inward(bridge: &str, networks: &[IpNet], servers: &BTreeSet<IpNet>) -> Vec<Rule> {
    let from_pods = Match::InInterface {
        name: bridge.to_owned(),
        is: true,
    };
    let rule = |comment: &str, matches: &[Match], action| {
        let matches = [std::slice::from_ref(&from_pods), matches].concat();
        super::rule((TableFamily::Inet, INWARD), comment, matches, action)
    };
    let mut rules = vec![rule(
        "what belongs to a connection",
        &[known_connection()],
        Action::Accept,
    )];
    for kind in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        let matches = [
            Match::Family(Family::V6),
            Match::Protocol(ICMPV6),
            Match::Icmpv6Type(kind),
        ];
        rules.push(rule("where the host is", &matches, Action::Accept));
    }
    for server in servers {
        let family = Family::from(server.addr());
        for protocol in [UDP, TCP] {
            let matches = [
                Match::Family(family),
                Match::Destination {
                    net: server.addr().into(),
                    is: true,
                },
                Match::Protocol(protocol),
                Match::DestinationPort(DNS),
            ];
            rules.push(rule("the name server", &matches, Action::Accept));
        }
    }
    for network in networks {
        let family = Family::from(network.addr());
        let matches = [
            Match::Family(family),
            source(family, BOUND, true),
            pair(family, ALLOWED, false),
        ];
        rules.push(rule("a pod reaches whom it may", &matches, Action::Drop));
    }
    rules
}

fn bridge_rule(chain: &str, comment: &str, matches: &[Match], action: Action) -> Rule {
    super::rule(
        (TableFamily::Bridge, chain),
        comment,
        matches.to_vec(),
        action,
    )
}

/// Neighbour discovery stays between pods, as ARP does: its senders are looked at already.
fn discovery(chain: &str) -> [Rule; 2] {
    [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT].map(|kind| {
        let matches = [
            Match::EtherType(IPV6),
            Match::Protocol(ICMPV6),
            Match::Icmpv6Type(kind),
        ];
        bridge_rule(chain, "where pods are", &matches, Action::Accept)
    })
}

/// What is from or for a pod with a policy goes to the host, which routes it.
pub(super) fn steering() -> Vec<Rule> {
    let from = Match::InSet {
        set: POLICED.to_owned(),
        of: vec![Selector::InGroup],
        is: true,
    };
    let to = Match::InSet {
        set: POLICED_MACS.to_owned(),
        of: vec![Selector::DestinationMac],
        is: true,
    };
    let mut rules = vec![bridge_rule(
        STEERING,
        "ports that are no pod's",
        &[of_port(false)],
        Action::Accept,
    )];
    rules.extend(discovery(STEERING));
    for kind in [IPV4, IPV6] {
        for (comment, whose) in [
            ("from a pod with a policy", &from),
            ("to a pod with a policy", &to),
        ] {
            let matches = [
                Match::EtherType(kind),
                Match::PacketType(OTHER_HOST),
                whose.clone(),
            ];
            rules.push(bridge_rule(
                STEERING,
                comment,
                &matches,
                Action::ToHost(super::BRIDGE_MAC),
            ));
        }
    }
    rules
}

/// What is for many at once, and whatever else was not handed to the host.
pub(super) fn between() -> Vec<Rule> {
    let mut rules = discovery(BETWEEN).to_vec();
    for kind in [IPV4, IPV6] {
        for of in [Selector::InGroup, Selector::OutGroup] {
            let matches = [
                Match::EtherType(kind),
                Match::InSet {
                    set: POLICED.to_owned(),
                    of: vec![of],
                    is: true,
                },
            ];
            rules.push(bridge_rule(
                BETWEEN,
                "past the host",
                &matches,
                Action::Drop,
            ));
        }
    }
    rules
}
