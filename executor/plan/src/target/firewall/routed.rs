//! What is routed: the chains of the family `inet`.

use super::{
    Action, Chain, Family, Kind, Match, Rule, Scene, Selector, Set, Table, TableFamily, Value,
    apart::APART, host_services::names_first, in_set, of_family, scene::set_of_interfaces,
};
use crate::{observed::HostNetwork, target::Target};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use tank_model::{
    Name,
    spec::{Lead, Protocol},
};

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

/// The sets by which bridges and networks are known: every bridge; pairs of a bridge and itself; of each
/// family pairs of a network and everything, of a network and itself, and of a bridge and its own
/// addresses.
pub(super) const BRIDGES: &str = "bridges";
const ONE_BRIDGE: &str = "one_bridge";
const NETWORKS: &str = "networks";
const ONE_NETWORK: &str = "one_network";
pub(super) const GATEWAYS: &str = "gateways";

/// Bits of a connection's state (`NF_CT_STATE_BIT`) and of its status (`IPS_DST_NAT`).
pub(super) const INVALID: u32 = 1 << 0;
const ESTABLISHED: u32 = 1 << 1;
pub(super) const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;
const UNTRACKED: u32 = 1 << 6;
/// It belongs to a connection.
pub(super) const TRACKED: u32 = ESTABLISHED | RELATED | NEW;
const DNAT: u32 = 1 << 5;

pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;

impl Target<'_> {
    /// The chains of the family `inet`.
    pub(super) fn routed(&self, host: &HostNetwork, scene: &Scene) -> Table {
        let families = scene.families();
        let mut rules = guard();
        rules.extend(impersonating(&families));
        rules.extend(translating(&families));
        rules.extend(forwarding());
        let mut sets = self.ports(&families);
        sets.extend(sets_of_networks(scene));
        for (family, name) in [Family::V4, Family::V6].into_iter().zip(APART) {
            let links = self.apart(family, host);
            if !links.is_empty() {
                rules.push(keeping_apart(family, name));
                sets.push(set_of_interfaces(name, links.iter()));
            }
        }
        rules.extend(masquerading(&families));
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
    fn ports(&self, families: &BTreeSet<Family>) -> Vec<Set> {
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
        let mut maps: Vec<Set> = families
            .iter()
            .copied()
            .flat_map(|family| {
                MapOf::of_family(family)
                    .iter()
                    .map(move |kind| map(kind, family))
            })
            .collect();
        // Nothing leads to a pod that is stopped by hand.
        let is_stopped = |pod: &Name| self.overrides.is_stopped(self.graph, pod);
        let pods = self.graph.pods().filter(|pod| self.is_bridged(pod));
        for pod in pods.filter(|pod| !is_stopped(pod)) {
            let addresses = self.published_at(pod);
            let published = self.graph.published(pod);
            for lead in published.flat_map(|(_, publish)| publish.leads()) {
                let mut own = addresses.iter();
                let own = own.find(|own| own.is_ipv4() == lead.address.is_ipv4());
                let Some(to) = own.copied() else {
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
        of_family(name, family)
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

/// It comes over one of Tank's bridges, or does not.
pub(super) fn from_bridge(is: bool) -> Match {
    in_set(BRIDGES, &[Selector::InInterface], is)
}

/// It leaves by one of Tank's bridges, or does not.
fn to_bridge(is: bool) -> Match {
    in_set(BRIDGES, &[Selector::OutInterface], is)
}

/// It stays on one of Tank's bridges, or does not.
pub(super) fn on_one_bridge(is: bool) -> Match {
    let both = [Selector::InInterface, Selector::OutInterface];
    in_set(ONE_BRIDGE, &both, is)
}

/// Who it is from and whom it is for.
pub(super) fn both_ends(family: Family) -> [Selector; 2] {
    match family {
        Family::V4 => [Selector::Source4, Selector::Destination4],
        Family::V6 => [Selector::Source6, Selector::Destination6],
    }
}

/// Its source is on one of the pods' networks.
pub(super) fn from_pods_network(family: Family) -> Match {
    in_set(&of_family(NETWORKS, family), &both_ends(family), true)
}

/// Not both its ends are on one of the pods' networks.
fn between_networks(family: Family) -> Match {
    in_set(&of_family(ONE_NETWORK, family), &both_ends(family), false)
}

/// Everything of a family.
pub(super) fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        Family::V6 => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// The sets by which rules know Tank's bridges and the pods' networks, however many there are.
fn sets_of_networks(scene: &Scene) -> Vec<Set> {
    let set = |name: String, key: Vec<Kind>, elements| Set {
        family: TableFamily::Inet,
        name,
        key,
        data: Vec::new(),
        elements,
    };
    let twice = |bridge: &String| {
        let name = Value::Interface(bridge.clone());
        vec![name.clone(), name]
    };
    let both = vec![Kind::Interface, Kind::Interface];
    let mut sets = vec![
        set_of_interfaces(BRIDGES, scene.bridges()),
        set(
            ONE_BRIDGE.to_owned(),
            both,
            scene.bridges().map(twice).collect(),
        ),
    ];
    for family in scene.families() {
        let (one, net) = match family {
            Family::V4 => (Kind::V4, Kind::Net4),
            Family::V6 => (Kind::V6, Kind::Net6),
        };
        let to = |to: Option<IpNet>| {
            let nets = scene.subnets(family);
            let pairs = nets.map(|net| vec![net.into(), to.unwrap_or(net).into()]);
            pairs.collect::<BTreeSet<Vec<Value>>>()
        };
        let (all, same) = (to(Some(everything(family))), to(None));
        sets.push(set(of_family(NETWORKS, family), vec![net, net], all));
        sets.push(set(of_family(ONE_NETWORK, family), vec![net, net], same));
        let gateway =
            |(bridge, own): (&String, IpAddr)| vec![Value::Interface(bridge.clone()), own.into()];
        let own = scene.networks.iter().flat_map(|network| {
            let own = network.addresses().into_iter();
            own.map(move |own| (&network.bridge, own.addr()))
        });
        let own = own.filter(|(_, own)| Family::from(*own) == family);
        let key = vec![Kind::Interface, one];
        sets.push(set(
            of_family(GATEWAYS, family),
            key,
            own.map(gateway).collect(),
        ));
    }
    sets
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

/// Whoever comes over another link than a bridge is no pod, whatever address it gives.
fn impersonating(families: &BTreeSet<Family>) -> Vec<Rule> {
    let rule_of = |family: &Family| {
        let matches = vec![
            in_interface("lo", false),
            from_bridge(false),
            Match::Family(*family),
            from_pods_network(*family),
        ];
        rule(GUARD, "nobody else is a pod", matches, Action::Drop)
    };
    families.iter().map(rule_of).collect()
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
fn translating(families: &BTreeSet<Family>) -> Vec<Rule> {
    let mut rules = names_first(families);
    for chain in [PREROUTING, OUTPUT] {
        for family in families {
            let kinds = MapOf::of_family(*family).iter();
            for kind in kinds.filter(|kind| chain == OUTPUT || **kind != MapOf::Loopback) {
                let own = Match::Family(*family);
                let comment = match kind {
                    MapOf::Loopback => "ports published on loopback",
                    MapOf::Address => "ports published on an address",
                    MapOf::Any => "ports published on every address of the host",
                };
                // The family is where `nft` puts it when it loads what it listed.
                let matches = match (kind, family) {
                    (MapOf::Loopback, _) => vec![own],
                    (MapOf::Address, _) => vec![Match::DestinationLocal, own],
                    (MapOf::Any, Family::V4) => vec![own, Match::DestinationLocal],
                    // The kernel drops what a pod answers there: a connection is refused at once.
                    (MapOf::Any, Family::V6) => {
                        let net = IpAddr::from(Ipv6Addr::LOCALHOST).into();
                        let other = Match::Destination { net, is: false };
                        vec![Match::DestinationLocal, own, other]
                    }
                };
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

/// The host forwards because of the pods, and a neighbour may have a route to their networks: that
/// must not make ports reachable that nobody published, nor one network from another. What does not go
/// to a pod is none of Tank's business.
fn forwarding() -> Vec<Rule> {
    let from_elsewhere = [to_bridge(true), on_one_bridge(false)];
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
    // Only connections are translated.
    let untranslated = vec![
        Match::ConnState {
            any_of: INVALID | UNTRACKED,
        },
        from_bridge(true),
        to_bridge(false),
    ];
    vec![
        super::rule(
            (TableFamily::Inet, FORWARD),
            "nothing leaves with a pod's own address",
            untranslated,
            Action::Drop,
        ),
        rule("answers to pods", &[answers], Action::Accept),
        rule("published ports", &[translated], Action::Accept),
        rule("nothing else reaches a pod", &[], Action::Drop),
    ]
}

/// The host forwards because of the pods alone: not between the links that it had, and between which
/// it did not.
fn keeping_apart(family: Family, set: &str) -> Rule {
    let matches = vec![
        from_bridge(false),
        Match::Family(family),
        in_set(set, &[Selector::InInterface], true),
        in_set(set, &[Selector::OutInterface], true),
    ];
    rule(
        FORWARD,
        "the host's links stay apart",
        matches,
        Action::Drop,
    )
}

fn masquerading(families: &BTreeSet<Family>) -> Vec<Rule> {
    let rule = |comment: &str, matches| rule(POSTROUTING, comment, matches, Action::Masquerade);
    let mut rules = vec![rule(
        "loopback clients of published ports",
        vec![
            to_bridge(true),
            Match::Family(Family::V4),
            Match::Source {
                net: loopback(),
                is: true,
            },
        ],
    )];
    for family in families {
        let own = Match::Family(*family);
        // What leaves by a bridge and was for nobody else is passed on by it (`br_netfilter` shows that
        // here), and what the host sends to itself is on one network: their senders are who they are.
        rules.push(rule(
            "from a network to elsewhere",
            vec![
                to_bridge(false),
                own.clone(),
                from_pods_network(*family),
                between_networks(*family),
            ],
        ));
        // A pod that uses a published port, of itself or of a neighbour, would be answered past
        // the translation.
        let translated = Match::ConnStatus { any_of: DNAT };
        rules.push(rule(
            "from a network to a pod through a published port",
            vec![to_bridge(true), own, from_pods_network(*family), translated],
        ));
    }
    rules
}
