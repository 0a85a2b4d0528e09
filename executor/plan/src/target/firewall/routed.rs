//! What is routed: the chains of the family `inet`.

use super::{
    Action, Chain, Family, Kind, Match, Rule, Selector, Set, Table, TableFamily, Value,
    bridged::port_group,
};
use crate::{observed::HostNetwork, target::Target};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use tank_model::spec::{Lead, Protocol};

/// Chains: name, type, hook, priority.
const CHAINS: [(&str, &str, u32, i32); 5] = [
    (GUARD, "filter", 0, -300),
    (PREROUTING, "nat", 0, -100),
    (FORWARD, "filter", 2, 0),
    (OUTPUT, "nat", 3, -100),
    (POSTROUTING, "nat", 4, 100),
];

pub(super) const GUARD: &str = "guard";
pub(super) const PREROUTING: &str = "prerouting";
pub(super) const FORWARD: &str = "forward";
pub(super) const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";

/// Bits of a connection's state (`NF_CT_STATE_BIT`) and of its status (`IPS_DST_NAT`).
pub(super) const ESTABLISHED: u32 = 1 << 1;
pub(super) const RELATED: u32 = 1 << 2;
const DNAT: u32 = 1 << 5;

pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;

impl Target<'_> {
    /// The chains of the family `inet`.
    pub(super) fn routed(&self, host: &HostNetwork) -> Table {
        let mut rules = guard();
        rules.extend(impersonating(&self.host.bridge, &self.host.networks));
        rules.extend(translating(&self.host.networks));
        rules.extend(forwarding(&self.host.bridge));
        let mut sets = self.ports();
        for (family, name) in [(Family::V4, "apart4"), (Family::V6, "apart6")] {
            let links = self.apart(family, host);
            if !links.is_empty() {
                rules.push(keeping_apart(&self.host.bridge, family, name));
                sets.push(Set {
                    family: TableFamily::Inet,
                    name: name.to_owned(),
                    key: vec![Kind::Interface],
                    data: Vec::new(),
                    elements: links
                        .into_iter()
                        .map(|link| vec![Value::Interface(link)])
                        .collect(),
                });
            }
        }
        rules.extend(masquerading(&self.host.bridge, &self.host.networks));
        Table {
            chains: CHAINS.map(chain).into(),
            rules,
            sets,
            ..Table::default()
        }
    }

    /// Those that host links need, where no pod is on the bridge; the guard is that of a bridge that
    /// is still there.
    pub(super) fn unrouted(&self) -> Table {
        let needed = CHAINS.into_iter();
        let needed = needed.filter(|(name, ..)| [GUARD, FORWARD].contains(name));
        Table {
            chains: needed.map(chain).collect(),
            rules: guard(),
            ..Table::default()
        }
    }

    /// What the published ports lead to: the maps of each family that the pods have.
    fn ports(&self) -> Vec<Set> {
        let map = |kind: &MapOf, family| Set {
            family: TableFamily::Inet,
            name: kind.name(family),
            key: kind.of(family).into_iter().map(Selector::kind).collect(),
            data: match family {
                Family::V4 => vec![Kind::V4, Kind::Port],
                Family::V6 => vec![Kind::V6, Kind::Port],
            },
            elements: BTreeSet::new(),
        };
        let families = [Family::V4, Family::V6].into_iter();
        let families = families.filter(|family| self.has(*family));
        let mut maps: Vec<Set> = families
            .flat_map(|family| {
                MapOf::of_family(family)
                    .iter()
                    .map(move |kind| map(kind, family))
            })
            .collect();
        for pod in self.graph.pods().filter(|pod| self.is_bridged(pod)) {
            let addresses = self.addresses(pod);
            let published = self.graph.published(pod);
            for lead in published.flat_map(|(_, publish)| publish.leads()) {
                let mut own = addresses.iter().map(IpNet::addr);
                let Some(to) = own.find(|own| own.is_ipv4() == lead.address.is_ipv4()) else {
                    continue;
                };
                let kind = MapOf::address(lead.address);
                let name = kind.name(lead.address.into());
                if let Some(map) = maps.iter_mut().find(|map| map.name == name) {
                    map.elements.insert(element(kind, &lead, to));
                }
            }
        }
        maps
    }
}

fn chain((name, kind, hook, priority): (&str, &str, u32, i32)) -> Chain {
    Chain {
        family: TableFamily::Inet,
        name: name.to_owned(),
        kind: kind.to_owned(),
        hook,
        priority,
    }
}

/// The maps of published ports: what comes to an element's address, protocol and port leads to a
/// pod's. A port that moves from one pod to another is one element, and what a packet passes does not
/// grow with the number of ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MapOf {
    /// Addresses of 127.0.0.0/8. Nobody but the host itself may use what is published on loopback (moby
    /// #45610): no rule that a neighbour's packet meets looks here.
    Loopback,
    /// Particular addresses.
    Address,
    /// Every address of the host.
    Any,
}

impl MapOf {
    /// Those of a family, in the order in which they are looked at. Nothing is published on `::1`.
    fn of_family(family: Family) -> &'static [Self] {
        match family {
            Family::V4 => &[Self::Loopback, Self::Address, Self::Any],
            Family::V6 => &[Self::Address, Self::Any],
        }
    }

    /// Where a port of this address is.
    fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) if v4.is_loopback() => Self::Loopback,
            other if other.is_unspecified() => Self::Any,
            _ => Self::Address,
        }
    }

    fn name(self, family: Family) -> String {
        let name = match self {
            Self::Loopback => "loopback",
            Self::Address => "ports",
            Self::Any => "any",
        };
        match family {
            Family::V4 => format!("{name}4"),
            Family::V6 => format!("{name}6"),
        }
    }

    /// What is looked up.
    fn of(self, family: Family) -> Vec<Selector> {
        let destination = match (self, family) {
            (Self::Any, _) => None,
            (_, Family::V4) => Some(Selector::Destination4),
            (_, Family::V6) => Some(Selector::Destination6),
        };
        let port = [Selector::Protocol, Selector::DestinationPort];
        destination.into_iter().chain(port).collect()
    }
}

fn rule(chain: &str, comment: impl Into<String>, matches: Vec<Match>, action: Action) -> Rule {
    super::rule((TableFamily::Inet, chain), comment, matches, action)
}

fn in_interface(name: &str, is: bool) -> Match {
    Match::InInterface {
        name: name.to_owned(),
        is,
    }
}

fn out_interface(name: &str) -> Match {
    Match::OutInterface {
        name: name.to_owned(),
        is: true,
    }
}

/// 127.0.0.0/8.
fn loopback() -> IpNet {
    IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8).trunc()
}

/// Publishing on loopback needs `route_localnet` on the bridge, which would let a pod speak to the
/// host's own loopback services (CVE-2020-8558), and translates a neighbour's packet before it is
/// looked at as a martian: nothing that comes from elsewhere than the host itself may be for its
/// loopback, or pretend to be from there.
fn guard() -> Vec<Rule> {
    let drop = |comment: &str, matches: [Match; 2]| {
        let matches = [vec![in_interface("lo", false)], matches.into()].concat();
        rule(GUARD, comment, matches, Action::Drop)
    };
    let (v4, v6) = (loopback(), IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)));
    let (source, destination) = (
        |net| Match::Source { net, is: true },
        |net| Match::Destination { net, is: true },
    );
    vec![
        drop(
            "nobody else reaches the host's loopback",
            [Match::Family(Family::V4), destination(v4)],
        ),
        drop(
            "nobody else comes from the host's loopback",
            [Match::Family(Family::V4), source(v4)],
        ),
        drop(
            "nobody else reaches the host's loopback",
            [Match::Family(Family::V6), destination(v6)],
        ),
    ]
}

/// Whoever comes over another link than the bridge is no pod, whatever address it gives.
fn impersonating(bridge: &str, networks: &[IpNet]) -> Vec<Rule> {
    let rule_of = |network: &IpNet| {
        let net = network.trunc();
        let matches = vec![
            in_interface("lo", false),
            in_interface(bridge, false),
            Match::Family(net.addr().into()),
            Match::Source { net, is: true },
        ];
        rule(GUARD, "nobody else is a pod", matches, Action::Drop)
    };
    networks.iter().map(rule_of).collect()
}

/// What a bridge does not forward (01:80:c2:00:00:0x) comes over the pod's port itself, past the rules
/// of the bridge: there is nothing for the host in it.
pub(super) fn past_the_bridge(table: &mut Table, leases: &BTreeSet<u32>) {
    const PODS: &str = "pods";
    let group = |lease: &u32| vec![Value::Group(port_group(*lease))];
    table.sets.push(Set {
        family: TableFamily::Inet,
        name: PODS.to_owned(),
        key: vec![Kind::Group],
        data: Vec::new(),
        elements: leases.iter().map(group).collect(),
    });
    let of_a_pod = Match::InSet {
        set: PODS.to_owned(),
        of: vec![Selector::InGroup],
        is: true,
    };
    table.rules.push(rule(
        GUARD,
        "a pod speaks to the bridge, and not past it",
        vec![of_a_pod],
        Action::Drop,
    ));
}

/// The element by which a port leads to this address of its pod.
fn element(kind: MapOf, lead: &Lead, to: IpAddr) -> Vec<Value> {
    let protocol = match lead.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let at = (kind != MapOf::Any).then(|| Value::from(lead.address));
    let rest = [
        Value::Protocol(protocol),
        Value::Port(lead.port),
        Value::from(to),
        Value::Port(lead.to),
    ];
    at.into_iter().chain(rest).collect()
}

/// Published ports lead to pods: whoever is on the host itself passes only `output`, and whoever is not
/// only `prerouting`.
fn translating(networks: &[IpNet]) -> Vec<Rule> {
    let families = networks.iter().map(|network| Family::from(network.addr()));
    let families: BTreeSet<Family> = families.collect();
    let mut rules = Vec::new();
    for chain in [PREROUTING, OUTPUT] {
        for family in &families {
            let kinds = MapOf::of_family(*family).iter();
            for kind in kinds.filter(|kind| chain == OUTPUT || **kind != MapOf::Loopback) {
                let mut matches = vec![Match::Family(*family)];
                let comment = match kind {
                    MapOf::Loopback => "ports published on loopback",
                    MapOf::Address => "ports published on an address",
                    MapOf::Any => "ports published on every address of the host",
                };
                if *kind == MapOf::Any {
                    matches.push(Match::DestinationLocal);
                }
                let action = Action::DnatMap {
                    map: kind.name(*family),
                    of: kind.of(*family),
                    family: *family,
                };
                rules.push(rule(chain, comment, matches, action));
            }
        }
    }
    rules
}

/// The host forwards because of the pods, and a neighbour may have a route to their network: that
/// must not make ports reachable that nobody published. What does not go to a pod is none of Tank's
/// business.
fn forwarding(bridge: &str) -> Vec<Rule> {
    let from_elsewhere = [in_interface(bridge, false), out_interface(bridge)];
    // One after the other and not one rule that drops: what is not tracked has no status to be
    // looked at.
    let rule = |comment: &str, matches: &[Match], action| {
        let matches = [&from_elsewhere, matches].concat();
        rule(FORWARD, comment, matches, action)
    };
    let answers = Match::ConnState {
        any_of: ESTABLISHED | RELATED,
    };
    let translated = Match::ConnStatus { any_of: DNAT };
    vec![
        rule("answers to pods", &[answers], Action::Accept),
        rule("published ports", &[translated], Action::Accept),
        rule("nothing else reaches a pod", &[], Action::Drop),
    ]
}

/// The host forwards because of the pods alone: not between the links that it had, and between which
/// it did not.
fn keeping_apart(bridge: &str, family: Family, set: &str) -> Rule {
    let in_set = |selector| Match::InSet {
        set: set.to_owned(),
        of: vec![selector],
        is: true,
    };
    let matches = vec![
        in_interface(bridge, false),
        Match::Family(family),
        in_set(Selector::InInterface),
        in_set(Selector::OutInterface),
    ];
    rule(
        FORWARD,
        "the host's links stay apart",
        matches,
        Action::Drop,
    )
}

fn masquerading(bridge: &str, networks: &[IpNet]) -> Vec<Rule> {
    let rule = |comment: String, matches| rule(POSTROUTING, comment, matches, Action::Masquerade);
    let mut rules = vec![rule(
        "loopback clients of published ports".to_owned(),
        vec![
            out_interface(bridge),
            Match::Family(Family::V4),
            Match::Source {
                net: loopback(),
                is: true,
            },
        ],
    )];
    for network in networks {
        let net = network.trunc();
        let from = [
            Match::Family(net.addr().into()),
            Match::Source { net, is: true },
        ];
        let elsewhere = Match::Destination { net, is: false };
        rules.push(rule(
            format!("{network} to elsewhere"),
            [&from[..], &[elsewhere]].concat(),
        ));
        // A pod that uses a published port, of itself or of a neighbour, would be answered past
        // the translation.
        let itself = Match::Destination { net, is: true };
        let translated = Match::ConnStatus { any_of: DNAT };
        rules.push(rule(
            format!("{network} to itself through a published port"),
            [&from[..], &[itself, translated]].concat(),
        ));
    }
    rules
}
