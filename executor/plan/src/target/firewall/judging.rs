//! The rules of policies, which look pods up in the sets of `policy`.

use super::{
    Action, Family, Match, Rule, Selector, TableFamily,
    bridged::{ICMPV6, IPV4, IPV6, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, of_port},
    host_services::always,
    of_family,
    policy::{
        ADMITTED, ALLOWED, BETWEEN, BOUND, CLOSED, INNER, INTERNET, INWARD, POLICED, POLICED_MACS,
        POLICY, STEERING,
    },
    routed::{RELATED, both_ends, from_bridge, from_pods_network, on_one_bridge},
};
use ipnet::{IpNet, Ipv6Net};
use std::{collections::BTreeSet, net::Ipv6Addr};

/// `PACKET_OTHERHOST`: what is for one hardware address that is not the port's own.
const OTHER_HOST: u8 = 3;
/// `PACKET_BROADCAST` and `PACKET_MULTICAST`: what is for all, or for many.
const BROADCAST: u8 = 1;
const MULTICAST: u8 = 2;

/// The rules by which connections are judged, of all `families`; pods have addresses of those that are
/// `addressed`, and link-local ones.
pub(super) fn judging(families: &BTreeSet<Family>, addressed: &BTreeSet<Family>) -> Vec<Rule> {
    let rule = |comment: &str, matches: Vec<Match>, action| {
        super::rule((TableFamily::Inet, POLICY), comment, matches, action)
    };
    let mut rules: Vec<Rule> = answers(POLICY, &[]).into();
    rules.extend(bridged_discovery());
    for family in families.iter().copied() {
        let of = |matches: &[Match]| [&[Match::Family(family)], matches].concat();
        if addressed.contains(&family) {
            let elsewhere = [from_bridge(false), from_pods_network(family)];
            rules.push(rule(
                "nobody else comes from the pods' networks",
                of(&elsewhere),
                Action::Drop,
            ));
        }
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
fn bridged_discovery() -> [Rule; 2] {
    [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT].map(|kind| {
        let matches = vec![
            on_one_bridge(true),
            Match::Family(Family::V6),
            Match::Protocol(ICMPV6),
            Match::Icmpv6Type(kind),
        ];
        let at = (TableFamily::Inet, POLICY);
        super::rule(at, "where pods are", matches, Action::Accept)
    })
}

/// What was asked for: it goes the other way than what is judged, or says why that did not arrive.
/// Whoever says so is an end of that connection (`errors`).
fn answers(chain: &str, matches: &[Match]) -> [Rule; 2] {
    let related = Match::ConnState { any_of: RELATED };
    [
        ("answers", Match::ConnReply),
        ("what became of a packet", related),
    ]
    .map(|(comment, what)| {
        let matches = [matches, &[what]].concat();
        let at = (TableFamily::Inet, chain);
        super::rule(at, comment, matches, Action::Accept)
    })
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
    in_set(set, family, both_ends(family).to_vec(), is)
}

/// Of these is what has a place on the internet (RFC 4291, section 2.4).
fn global() -> IpNet {
    IpNet::from(Ipv6Net::new_assert(
        Ipv6Addr::from([0x2000, 0, 0, 0, 0, 0, 0, 0]),
        3,
    ))
}

/// What a pod with a policy may have of the host itself.
pub(super) fn inward(families: &BTreeSet<Family>, addressed: &BTreeSet<Family>) -> Vec<Rule> {
    let from_pods = from_bridge(true);
    let mut rules: Vec<Rule> = answers(INWARD, std::slice::from_ref(&from_pods)).into();
    rules.extend(always(INWARD, &from_pods, addressed));
    rules.extend(families.iter().map(|family| {
        let matches = vec![
            from_pods.clone(),
            Match::Family(*family),
            source(*family, BOUND, true),
            pair(*family, ALLOWED, false),
        ];
        let at = (TableFamily::Inet, INWARD);
        super::rule(at, "a pod reaches whom it may", matches, Action::Drop)
    }));
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

/// What is for many at once can't be handed to the host, and neither reaches nor leaves a pod with a
/// policy. What is for one pod was handed to it, but for this: where the host looks at bridged packets
/// as at routed ones (`net.bridge.bridge-nf-call-*`), one that it translates for a pod on the same
/// bridge, a published port's or the answer to it, stays on the bridge, and is judged at `forward`.
pub(super) fn between() -> Vec<Rule> {
    let mut rules = discovery(BETWEEN).to_vec();
    let drop = |matches: &[Match]| bridge_rule(BETWEEN, "past the host", matches, Action::Drop);
    let policed = |of| Match::InSet {
        set: POLICED.to_owned(),
        of: vec![of],
        is: true,
    };
    let to_others = Match::InSet {
        set: POLICED_MACS.to_owned(),
        of: vec![Selector::DestinationMac],
        is: false,
    };
    for kind in [IPV4, IPV6] {
        let kind = Match::EtherType(kind);
        for many in [BROADCAST, MULTICAST] {
            let from = policed(Selector::InGroup);
            rules.push(drop(&[kind.clone(), from, Match::PacketType(many)]));
        }
        let to = policed(Selector::OutGroup);
        rules.push(drop(&[kind, to, to_others.clone()]));
    }
    rules
}
