//! What pods have of the host itself where they have nothing else of it: neighbour discovery, and the name
//! server at their bridge's own address.
//!
//! Whoever is bound to port 53 is not the name server for that. While there is none, what is for it would
//! reach a server of the host that is bound to all addresses, and go out by it. So a socket has to be there
//! that is transparent (`IP_TRANSPARENT`), which the name server's are and next to no other's: the host alone
//! may make one (CAP_NET_ADMIN). A mark of the socket would say more, and not of a connection on its way to
//! be established: that has no full socket yet.

use super::{
    Action, Family, Match, Rule, Selector, TableFamily,
    bridged::{ICMPV6, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, UDP},
    in_set, of_family,
    routed::{GATEWAYS, PREROUTING, TCP, both_ends},
    rule,
};
use std::collections::BTreeSet;

const DNS: u16 = 53;

/// A packet of this family is for the address that the bridge has, over which it came.
pub(super) fn for_own_bridge(family: Family) -> [Match; 2] {
    let [_, to] = both_ends(family);
    let gateways = of_family(GATEWAYS, family);
    [
        Match::Family(family),
        in_set(&gateways, &[Selector::InInterface, to], true),
    ]
}

/// What is for the name server, if there is one.
fn queries(families: &BTreeSet<Family>) -> impl Iterator<Item = Vec<Match>> {
    let all = families.iter();
    let all = all.flat_map(|family| [UDP, TCP].map(|protocol| (*family, protocol)));
    all.map(|(family, protocol)| {
        let port = [Match::Protocol(protocol), Match::DestinationPort(DNS)];
        [for_own_bridge(family), port].concat()
    })
}

/// The rules of a chain at the hook `input` that accept this of whom `from` matches.
pub(super) fn always(chain: &str, from: &Match, families: &BTreeSet<Family>) -> Vec<Rule> {
    let accept = |comment: &str, matches: &[Match]| {
        let matches = [std::slice::from_ref(from), matches].concat();
        let at = (TableFamily::Inet, chain);
        rule(at, comment, matches, Action::Accept)
    };
    let discovery = [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT].map(|kind| {
        let matches = [
            Match::Family(Family::V6),
            Match::Protocol(ICMPV6),
            Match::Icmpv6Type(kind),
        ];
        accept("where the host is", &matches)
    });
    let names = queries(families).map(|mut query| {
        query.push(Match::SocketTransparent);
        accept("the name server", &query)
    });
    discovery.into_iter().chain(names).collect()
}

/// No published port stands between pods and their name server.
pub(super) fn names_first(families: &BTreeSet<Family>) -> Vec<Rule> {
    let at = (TableFamily::Inet, PREROUTING);
    let accept = |query| rule(at, "the name server", query, Action::Accept);
    queries(families).map(accept).collect()
}
