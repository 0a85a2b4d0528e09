//! What comes over the host's own links to pods with interfaces of their own.
//!
//! Such a link is on the network of its parent: whoever is there may send frames to it, past what the
//! host's own rules say of the parent. So nothing is taken from it but what is from one of these pods,
//! and for the host itself. A neighbour that pretends to be such a pod, with its hardware address and
//! its address, can't be told from it, as on any network.

use super::{
    Action, Family, Kind, Match, Selector, Set, Table, TableFamily, Value,
    bridged::link_local,
    in_set,
    routed::{BRIDGES, FORWARD, GUARD, from_bridge},
    rule,
};
use crate::target::{Target, nics::HOST_LINK_GROUP};
use std::{collections::BTreeSet, net::IpAddr};

const V4: &str = "nics4";
const V6: &str = "nics6";

/// The set of the groups of host links.
const LINKS: &str = "host_links";

impl Target<'_> {
    /// Adds the guard of host links, where there are any; `going` may send as well.
    pub(super) fn add_host_links(&self, table: &mut Table, going: &BTreeSet<([u8; 6], IpAddr)>) {
        if !self.needs_host_links() && going.is_empty() {
            return;
        }
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for (mac, address) in self.macvlan_senders().chain(going.iter().copied()) {
            // Neighbour discovery may be from there.
            for address in [address, IpAddr::V6(link_local(mac))] {
                let set = if address.is_ipv4() { &mut v4 } else { &mut v6 };
                set.insert(vec![Value::Mac(mac), Value::from(address)]);
            }
        }
        let over = Match::InGroup {
            mask: u32::MAX,
            value: HOST_LINK_GROUP,
            is: true,
        };
        for (name, kind, family, source, elements) in [
            (V4, Kind::V4, Family::V4, Selector::Source4, v4),
            (V6, Kind::V6, Family::V6, Selector::Source6, v6),
        ] {
            table.sets.push(Set {
                family: TableFamily::Inet,
                name: name.to_owned(),
                key: vec![Kind::Mac, kind],
                data: Vec::new(),
                elements,
            });
            let is_of_a_pod = Match::InSet {
                set: name.to_owned(),
                of: vec![Selector::SourceMac, source],
                is: false,
            };
            table.rules.push(rule(
                (TableFamily::Inet, GUARD),
                "nobody but pods comes over a host link",
                vec![over.clone(), Match::Family(family), is_of_a_pod],
                Action::Drop,
            ));
        }
        forwarding(table, over);
    }
}

/// The host forwards because of pods on bridges, which may reach these pods; nobody else has to.
fn forwarding(table: &mut Table, over: Match) {
    table.rules.push(rule(
        (TableFamily::Inet, FORWARD),
        "a host link leads to the host alone",
        vec![over],
        Action::Drop,
    ));
    table.sets.push(Set {
        family: TableFamily::Inet,
        name: LINKS.to_owned(),
        key: vec![Kind::Group],
        data: Vec::new(),
        elements: [vec![Value::Group(HOST_LINK_GROUP)]].into(),
    });
    let to = in_set(LINKS, &[Selector::OutGroup], true);
    let bridges = table.sets.iter().any(|set| set.name == BRIDGES);
    let elsewhere = bridges.then(|| from_bridge(false));
    table.rules.push(rule(
        (TableFamily::Inet, FORWARD),
        "the host alone, and its pods, come by a host link",
        elsewhere.into_iter().chain([to]).collect(),
        Action::Drop,
    ));
}
