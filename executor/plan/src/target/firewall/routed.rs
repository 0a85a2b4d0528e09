//! What is routed: the chains of the family `inet`.

use super::{Action, Chain, Family, Kind, Match, Rule, Selector, Set, Table, TableFamily, Value};
use crate::{observed::HostNetwork, target::Target};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tank_model::{
    Name,
    spec::{Protocol, Publish},
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

/// Bits of a connection's state (`NF_CT_STATE_BIT`) and of its status (`IPS_DST_NAT`).
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const DNAT: u32 = 1 << 5;

const TCP: u8 = 6;
const UDP: u8 = 17;

impl Target<'_> {
    /// The chains of the family `inet`.
    pub(super) fn routed(&self, host: &HostNetwork) -> Table {
        let mut rules = guard();
        for pod in self.graph.pods().filter(|pod| self.is_bridged(pod)) {
            let addresses = self.addresses(pod);
            for (name, publish) in self.graph.published(pod) {
                let mut own = addresses.iter().map(IpNet::addr);
                if let Some(to) = own.find(|own| own.is_ipv4() == publish.address.is_ipv4()) {
                    rules.extend(published(pod, name, publish, to));
                }
            }
        }
        rules.extend(forwarding(&self.host.bridge));
        let mut sets = Vec::new();
        for (family, name) in [(Family::V4, "apart4"), (Family::V6, "apart6")] {
            let links = self.apart(family, host);
            if !links.is_empty() {
                rules.push(keeping_apart(&self.host.bridge, family, name));
                sets.push(Set {
                    family: TableFamily::Inet,
                    name: name.to_owned(),
                    key: vec![Kind::Interface],
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

/// A published port leads to this address of its pod.
fn published(pod: &Name, name: &Name, publish: &Publish, to: IpAddr) -> Vec<Rule> {
    // Who is on the host itself passes only `output`. Nobody else may use what is published on
    // loopback (moby #45610): for that there is no rule by which a neighbour's packet could be
    // translated.
    let chains: &[&str] = if publish.address.is_loopback() {
        &[OUTPUT]
    } else {
        &[PREROUTING, OUTPUT]
    };
    let (protocol, protocol_name) = match publish.protocol {
        Protocol::Tcp => (TCP, "tcp"),
        Protocol::Udp => (UDP, "udp"),
    };
    let to = SocketAddr::new(to, publish.target());
    let at = SocketAddr::new(publish.address, publish.port);
    let destination = match publish.address.is_unspecified() {
        true => Match::DestinationLocal,
        false => Match::Destination {
            net: publish.address.into(),
            is: true,
        },
    };
    let matches = vec![
        Match::Family(to.ip().into()),
        destination,
        Match::Protocol(protocol),
        Match::DestinationPort(publish.port),
    ];
    let comment = format!("{pod}/{name} {at}/{protocol_name} to {to}");
    let chains = chains.iter();
    chains
        .map(|chain| rule(chain, comment.clone(), matches.clone(), Action::Dnat(to)))
        .collect()
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
