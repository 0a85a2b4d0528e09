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
    routed::{RELATED, TRACKED, both_ends, from_bridge, from_pods_network, on_one_bridge},
};
use std::collections::BTreeSet;

/// `PACKET_OTHERHOST`: what is for one hardware address that is not the port's own.
const OTHER_HOST: u8 = 3;
/// `PACKET_BROADCAST` and `PACKET_MULTICAST`: what is for all, or for many.
const BROADCAST: u8 = 1;
const MULTICAST: u8 = 2;

/// Whose addresses are judged.
#[derive(Clone, Copy)]
enum Ends {
    /// Those of the connection that a packet belongs to, whichever way it goes: whoever opened it, and whom
    /// the answers come from. So a change of a policy holds for what is open, too.
    Connection,
    /// Those of the packet itself.
    Packet,
}

impl Ends {
    /// The selectors of both, the opener's first.
    fn of(self, family: Family) -> [Selector; 2] {
        match (self, family) {
            (Self::Connection, Family::V4) => [Selector::OpenerSource4, Selector::AnswerSource4],
            (Self::Connection, Family::V6) => [Selector::OpenerSource6, Selector::AnswerSource6],
            (Self::Packet, _) => both_ends(family),
        }
    }

    /// The opener is in a set, or is not.
    fn opener(self, family: Family, set: &str, is: bool) -> Match {
        let [opener, _] = self.of(family);
        in_set(set, family, vec![opener], is)
    }

    /// Whom it is for is in a set.
    fn target(self, family: Family, set: &str) -> Match {
        let [_, target] = self.of(family);
        in_set(set, family, vec![target], true)
    }

    /// Both, together, are in a set, or are not.
    fn pair(self, family: Family, set: &str, is: bool) -> Match {
        in_set(set, family, self.of(family).to_vec(), is)
    }
}

/// The rules by which connections are judged, of all `families`; pods have addresses of those that are
/// `addressed`, and link-local ones.
pub(super) fn judging(families: &BTreeSet<Family>, addressed: &BTreeSet<Family>) -> Vec<Rule> {
    let rule = |comment: &str, matches: Vec<Match>, action| {
        super::rule((TableFamily::Inet, POLICY), comment, matches, action)
    };
    let mut rules: Vec<Rule> = bridged_discovery().into();
    for family in addressed.iter().copied() {
        let own = Match::Family(family);
        rules.push(rule(
            "nobody else comes from the pods' networks",
            vec![from_bridge(false), own, from_pods_network(family)],
            Action::Drop,
        ));
    }
    let judged = |ends| {
        let each = families.iter().map(move |family| judged_by(ends, *family));
        each.flatten()
    };
    rules.extend(judged(Ends::Connection));
    // What became of a packet (an error of ICMP) belongs to its connection; whoever says so is an end of
    // that (`errors`).
    rules.push(rule(
        "connections that were judged",
        vec![Match::ConnState { any_of: TRACKED }],
        Action::Accept,
    ));
    rules.extend(judged(Ends::Packet));
    rules
}

/// The rules of one family.
fn judged_by(ends: Ends, family: Family) -> [Rule; 3] {
    let drop = |comment: &str, matches: &[Match]| {
        let matches = [&[Match::Family(family)], matches].concat();
        super::rule((TableFamily::Inet, POLICY), comment, matches, Action::Drop)
    };
    let unlisted = || ends.pair(family, ALLOWED, false);
    [
        drop(
            "a pod reaches whom it may",
            &[
                ends.opener(family, BOUND, true),
                ends.opener(family, INTERNET, false),
                unlisted(),
            ],
        ),
        drop(
            "what is not the internet",
            &[
                ends.opener(family, INTERNET, true),
                unlisted(),
                ends.pair(family, INNER, true),
            ],
        ),
        drop(
            "a pod is reached by whom it admits",
            &[
                ends.target(family, CLOSED),
                ends.pair(family, ADMITTED, false),
            ],
        ),
    ]
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

/// What the host asked a pod for: it goes the other way than what is judged, or says why that did not
/// arrive. Whoever says so is an end of that connection (`errors`).
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

/// What a pod with a policy may have of the host itself.
pub(super) fn inward(families: &BTreeSet<Family>, addressed: &BTreeSet<Family>) -> Vec<Rule> {
    let from_pods = from_bridge(true);
    let mut rules: Vec<Rule> = answers(INWARD, std::slice::from_ref(&from_pods)).into();
    rules.extend(always(INWARD, &from_pods, addressed));
    rules.extend(families.iter().map(|family| {
        let matches = vec![
            from_pods.clone(),
            Match::Family(*family),
            Ends::Packet.opener(*family, BOUND, true),
            Ends::Packet.pair(*family, ALLOWED, false),
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
