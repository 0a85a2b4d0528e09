//! Errors of ICMP that pods send. An error belongs to the connection that it names, whoever sends it, and
//! passes as that does: a pod that may send any packet (`CAP_NET_RAW`) could end, or slow, connections of
//! others with it, the host's among them.
//!
//! No pod routes anything. So an error is a pod's to send where it is an end of the connection itself: it
//! comes from whom the first packet came from, or from whom the answers come from, before and after what is
//! translated. What names no connection as the host knows it is about what somebody else sees of one, on the
//! other side of a translation.

use super::{
    Action, Chain, Family, Kind, Match, Rule, Scene, Selector, Set, Table, TableFamily, Value,
    bridged::ICMPV6,
    in_set,
    isolation::ICMP,
    of_family,
    routed::{INVALID, RELATED, from_bridge},
};
use std::collections::BTreeSet;

const ERRORS: &str = "errors";

/// The sets of pairs of a pod's address and itself.
const ENDS: &str = "ends";

/// Adds the chain, behind where connections are known and before anything is translated.
pub(super) fn add_errors(table: &mut Table, scene: &Scene) {
    table.chains.push(Chain {
        family: TableFamily::Inet,
        name: ERRORS.to_owned(),
        kind: "filter".to_owned(),
        hook: 0,
        priority: -150,
    });
    // Each pod has a link-local address of IPv6, whatever else it has.
    for family in scene.families_of_pods() {
        table.sets.push(ends(family, scene));
        table.rules.extend(rules(family));
    }
}

fn ends(family: Family, scene: &Scene) -> Set {
    let kind = match family {
        Family::V4 => Kind::V4,
        Family::V6 => Kind::V6,
    };
    let own = scene.places.iter().flat_map(|place| &place.addresses);
    let own = own.map(|own| own.addr());
    let own = own.filter(|own| Family::from(*own) == family);
    let twice = own.map(|own| vec![Value::from(own), Value::from(own)]);
    Set {
        family: TableFamily::Inet,
        name: of_family(ENDS, family),
        key: vec![kind, kind],
        data: Vec::new(),
        elements: twice.collect::<BTreeSet<_>>(),
    }
}

fn rules(family: Family) -> [Rule; 2] {
    let (icmp, [source, opener, answer]) = match family {
        Family::V4 => (
            ICMP,
            [
                Selector::Source4,
                Selector::OpenerSource4,
                Selector::AnswerSource4,
            ],
        ),
        Family::V6 => (
            ICMPV6,
            [
                Selector::Source6,
                Selector::OpenerSource6,
                Selector::AnswerSource6,
            ],
        ),
    };
    let is_none = |end| in_set(&of_family(ENDS, family), &[source, end], false);
    let of_others = vec![
        Match::ConnState { any_of: RELATED },
        from_bridge(true),
        Match::Family(family),
        is_none(opener),
        is_none(answer),
    ];
    let of_none = vec![
        Match::ConnState { any_of: INVALID },
        from_bridge(true),
        Match::Protocol(icmp),
    ];
    [
        ("an error about somebody else's connection", of_others),
        ("an error about no connection", of_none),
    ]
    .map(|(comment, matches)| {
        let at = (TableFamily::Inet, ERRORS);
        super::rule(at, comment, matches, Action::Drop)
    })
}
