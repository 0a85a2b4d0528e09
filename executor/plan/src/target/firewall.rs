//! The rules of Tank's own nftables table as data, and the policy behind them.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `guard` | prerouting, raw | nothing that comes over a link is for or from the host's loopback |
//! | `prerouting`, `output` | nat | published ports lead to pods; those on loopback for programs of the host only |
//! | `forward` | filter | from elsewhere nothing reaches a pod but through a published port, and answers |
//! | `postrouting` | nat | what leaves the pods' networks has the host's address |
//!
//! A rule is what it does: comments are for people (`nft list table inet tank` shows them) and are
//! not compared.

use crate::target::Target;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tank_model::{
    Name,
    spec::{Protocol, Publish},
};

/// A table: its chains, and their rules in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// In no particular order.
    pub chains: Vec<Chain>,
    /// Those of one chain in the order in which they are evaluated.
    pub rules: Vec<Rule>,
    /// Whatever else was found in it (sets, objects, flags), one text for each. Tank makes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

/// A chain that the kernel calls. What none of its rules decides on is accepted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// Within the table.
    pub name: String,
    /// `filter` or `nat`.
    pub kind: String,
    /// `NF_INET_*` of `linux/netfilter.h`.
    pub hook: u32,
    /// Chains of one hook are called by ascending priority.
    pub priority: i32,
}

/// A rule: what it does to what matches all of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The name of its chain.
    pub chain: String,
    /// For people.
    pub comment: String,
    /// What a packet has to meet, all of it.
    pub matches: Vec<Match>,
    /// What happens to such a packet.
    pub action: Action,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.matches == other.matches && self.action == other.action
    }
}

impl Eq for Rule {}

/// One condition of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Match {
    /// The interface a packet came over is, or is not, this one.
    InInterface { name: String, is: bool },
    /// The interface a packet leaves by is, or is not, this one.
    OutInterface { name: String, is: bool },
    /// The packet is of this one; the conditions on addresses come after it.
    Family(Family),
    /// The source is, or is not, in a network.
    Source { net: IpNet, is: bool },
    /// The destination is, or is not, in a network; a single address is a network of its own.
    Destination { net: IpNet, is: bool },
    /// The destination is one of the host's own addresses.
    DestinationLocal,
    /// The protocol above IP: 6 (TCP) or 17 (UDP).
    Protocol(u8),
    /// The port it is for, in host byte order; only after a protocol that has ports.
    DestinationPort(u16),
    /// The connection's state has one of these bits (`NF_CT_STATE_BIT`).
    ConnState { any_of: u32 },
    /// The connection's status has one of these bits (`IPS_*`).
    ConnStatus { any_of: u32 },
    /// Something that Tank never writes.
    Other(String),
}

/// A packet's network protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// What happens to what a rule matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes on to the chains that follow.
    Accept,
    /// It is gone, and its sender learns nothing.
    Drop,
    /// Goes to this address and port instead.
    Dnat(SocketAddr),
    /// Gets the address of the interface it leaves by.
    Masquerade,
    /// Something that Tank never writes.
    Other(String),
}

/// How far a table is from the wanted one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Chains and rules that are wanted and not found, or found out of order.
    pub missing: usize,
    /// Chains, rules and others that are found and not wanted.
    pub unwanted: usize,
}

impl Difference {
    /// What `found` lacks of `wanted`, and has beyond it. Chains may come in any order, and so may
    /// rules of different chains; those of one chain are compared in order.
    pub fn of(wanted: &Table, found: Option<&Table>) -> Self {
        let none = Table::default();
        let found = found.unwrap_or(&none);
        let mut difference = Self::default();
        difference.add(&wanted.chains, &found.chains);
        difference.add(&wanted.others, &found.others);
        difference.add(&wanted.rules, &found.rules);
        if difference == Self::default() {
            let displaced = wanted.chains.iter().map(|chain| {
                let of_chain = |rule: &&Rule| rule.chain == chain.name;
                let pairs = wanted.rules.iter().filter(of_chain);
                let pairs = pairs.zip(found.rules.iter().filter(of_chain));
                pairs.filter(|(wanted, found)| wanted != found).count()
            });
            difference.missing = displaced.sum();
            difference.unwanted = difference.missing;
        }
        difference
    }

    /// Counts what of one list is not in the other, each as often as it is there.
    fn add<T: PartialEq>(&mut self, wanted: &[T], found: &[T]) {
        // Usually all is as it should be.
        if wanted == found {
            return;
        }
        let mut left: Vec<&T> = found.iter().collect();
        for one in wanted {
            match left.iter().position(|found| *found == one) {
                Some(place) => drop(left.remove(place)),
                None => self.missing += 1,
            }
        }
        self.unwanted += left.len();
    }

    /// Whether the tables are the same.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Chains: name, type, hook, priority.
const CHAINS: [(&str, &str, u32, i32); 5] = [
    (GUARD, "filter", 0, -300),
    (PREROUTING, "nat", 0, -100),
    (FORWARD, "filter", 2, 0),
    (OUTPUT, "nat", 3, -100),
    (POSTROUTING, "nat", 4, 100),
];

const GUARD: &str = "guard";
const PREROUTING: &str = "prerouting";
const FORWARD: &str = "forward";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";

/// Bits of a connection's state (`NF_CT_STATE_BIT`) and of its status (`IPS_DST_NAT`).
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const DNAT: u32 = 1 << 5;

const TCP: u8 = 6;
const UDP: u8 = 17;

impl Target<'_> {
    /// What Tank's table has to hold. None: no pod is on the bridge, and there is to be no table.
    pub fn firewall(&self) -> Option<Table> {
        if !self.needs_bridge() {
            return None;
        }
        let chain = |(name, kind, hook, priority): (&str, &str, u32, i32)| Chain {
            name: name.to_owned(),
            kind: kind.to_owned(),
            hook,
            priority,
        };
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
        rules.extend(masquerading(&self.host.bridge, &self.host.networks));
        Some(Table {
            chains: CHAINS.map(chain).into(),
            rules,
            others: Vec::new(),
        })
    }
}

fn rule(chain: &str, comment: impl Into<String>, matches: Vec<Match>, action: Action) -> Rule {
    Rule {
        chain: chain.to_owned(),
        comment: comment.into(),
        matches,
        action,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::inputs;

    fn table(pod: &str) -> Option<Table> {
        let config = format!(r#"{{"pods":{{"web":{pod}}}}}"#);
        inputs(&serde_json::from_str(&config).expect("a configuration"))
            .target()
            .firewall()
    }

    fn published(publish: &str) -> Table {
        let pod = format!(r#"{{"containers":{{"app":{{"image":"x"}}}},"publish":{publish}}}"#);
        table(&pod).expect("a table")
    }

    #[test]
    fn there_is_a_table_where_a_pod_is_on_the_bridge() {
        for (network, there) in [("bridge", true), ("host", false), ("none", false)] {
            let pod = format!(r#"{{"containers":{{}},"network":"{network}"}}"#);
            assert_eq!(table(&pod).is_some(), there, "{network}");
        }
    }

    #[test]
    fn a_port_on_loopback_is_for_the_host_itself() {
        let chains = |address: &str| -> Vec<(String, Match)> {
            let table = published(&format!(
                r#"{{"p":{{"port":80,"to":8080,"address":"{address}"}}}}"#
            ));
            let rules = table.rules.into_iter();
            rules
                .filter(|rule| matches!(rule.action, Action::Dnat(to) if to.port() == 8080))
                .map(|rule| (rule.chain, rule.matches[1].clone()))
                .collect()
        };
        let at = |net: &str| Match::Destination {
            net: net.parse().expect("a network"),
            is: true,
        };
        let own = |chain: &str, at: Match| (chain.to_owned(), at);
        assert_eq!(chains("127.0.0.1"), [own(OUTPUT, at("127.0.0.1/32"))]);
        assert_eq!(
            chains("0.0.0.0"),
            [PREROUTING, OUTPUT].map(|chain| own(chain, Match::DestinationLocal))
        );
        assert_eq!(
            chains("10.1.2.3"),
            [PREROUTING, OUTPUT].map(|chain| own(chain, at("10.1.2.3/32")))
        );
        assert_eq!(chains("::1"), [], "the pods have no IPv6 addresses here");
    }

    #[test]
    fn tables_are_compared_by_what_they_do() {
        let wanted = published(r#"{"p":{"port":80}}"#);
        let difference = |change: &dyn Fn(&mut Table)| {
            let mut found = wanted.clone();
            change(&mut found);
            let Difference { missing, unwanted } = Difference::of(&wanted, Some(&found));
            (missing, unwanted)
        };
        assert_eq!(difference(&|_| {}), (0, 0));
        assert_eq!(difference(&|found| found.rules[0].comment.clear()), (0, 0));
        assert_eq!(difference(&|found| found.chains.reverse()), (0, 0));
        assert_eq!(difference(&|found| found.rules.rotate_left(3)), (0, 0));
        assert_eq!(difference(&|found| found.rules.swap(0, 1)), (2, 2));
        assert_eq!(difference(&|found| drop(found.rules.pop())), (1, 0));
        let twice = |found: &mut Table| found.rules.push(found.rules[0].clone());
        assert_eq!(difference(&twice), (0, 1));
        assert_eq!(
            difference(&|found| found.rules[0].action = Action::Accept),
            (1, 1)
        );
        assert_eq!(difference(&|found| found.chains[0].priority += 1), (1, 1));
        assert_eq!(
            difference(&|found| found.others.push("set x".to_owned())),
            (0, 1)
        );
        let none = Difference::of(&wanted, None);
        assert_eq!(
            (none.missing, none.unwanted),
            (wanted.chains.len() + wanted.rules.len(), 0)
        );
    }
}
