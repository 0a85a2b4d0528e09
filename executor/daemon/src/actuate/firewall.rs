//! The rules of Tank's nftables table, `inet tank`: what is published, and what keeps everything
//! else from pods and from the host's loopback.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `guard` | prerouting, raw | nothing that comes over a link is for or from the host's loopback |
//! | `prerouting`, `output` | nat | published ports lead to pods; those on loopback for programs of the host only |
//! | `forward` | filter | from elsewhere nothing reaches a pod but through a published port, and answers |
//! | `postrouting` | nat | what leaves the pods' networks has the host's address |
//!
//! Comments are for people (`nft list table inet tank` shows them).

use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tank_sys::nft::{self, Action, Chain, Family, Match, Rule, Table, ct_state, ct_status};

/// The table's name.
pub const TABLE: &str = "tank";

/// Chains: name, type, hook (`NF_INET_*`), priority.
const CHAINS: [(&str, &str, u32, i32); 5] = [
    ("guard", "filter", 0, -300),
    ("prerouting", "nat", 0, -100),
    ("forward", "filter", 2, 0),
    ("output", "nat", 3, -100),
    ("postrouting", "nat", 4, 100),
];

/// What the table is to do. Pure data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruleset {
    /// The bridge pods hang on.
    pub bridge: String,
    /// The pods' networks: what leaves them for elsewhere takes the host's address.
    pub networks: Vec<IpNet>,
    /// The published ports.
    pub forwards: Vec<Forward>,
}

/// One published port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Forward {
    /// What it is for, for people: `web/http`.
    pub name: String,
    /// The host's address; unspecified: any of them.
    pub address: IpAddr,
    /// 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    pub port: u16,
    pub to: SocketAddr,
}

impl Ruleset {
    /// The table that does it.
    pub fn table(&self) -> Table {
        let mut rules = guard();
        for forward in &self.forwards {
            // Who is on the host itself passes only `output`. Nobody else may use what is published
            // on loopback (moby #45610): for that there is no rule by which a neighbour's packet
            // could be translated.
            let chains: &[&str] = if forward.address.is_loopback() {
                &["output"]
            } else {
                &["prerouting", "output"]
            };
            rules.extend(chains.iter().map(|chain| forward.rule(chain)));
        }
        rules.extend(self.forwarding());
        rules.extend(self.masquerading());
        let chains = CHAINS.map(|(name, kind, hook, priority)| Chain {
            name: name.to_owned(),
            kind: kind.to_owned(),
            hook,
            priority,
        });
        Table {
            chains: chains.into(),
            rules,
            others: Vec::new(),
        }
    }

    /// What [`list`] gives when this ruleset is in place.
    pub fn contents(&self) -> BTreeSet<String> {
        contents(self.table())
    }

    /// The host forwards because of the pods, and a neighbour may have a route to their network:
    /// that must not make ports reachable that nobody published. What does not go to a pod is none
    /// of Tank's business.
    fn forwarding(&self) -> Vec<Rule> {
        let bridge = &self.bridge;
        let from_elsewhere = [
            Match::InInterface {
                name: bridge.clone(),
                is: false,
            },
            Match::OutInterface {
                name: bridge.clone(),
                is: true,
            },
        ];
        // One after the other and not one rule that drops: what is not tracked has no status to be
        // looked at.
        let rule = |comment: &str, matches: &[Match], action: Action| {
            let matches = [&from_elsewhere, matches].concat();
            new_rule("forward", comment.to_owned(), matches, action)
        };
        let answers = Match::ConnState {
            any_of: ct_state::ESTABLISHED | ct_state::RELATED,
        };
        vec![
            rule("answers to pods", &[answers], Action::Accept),
            rule("published ports", &[translated()], Action::Accept),
            rule("nothing else reaches a pod", &[], Action::Drop),
        ]
    }

    fn masquerading(&self) -> Vec<Rule> {
        let rule = |comment: String, matches: Vec<Match>| {
            new_rule("postrouting", comment, matches, Action::Masquerade)
        };
        let to_bridge = Match::OutInterface {
            name: self.bridge.clone(),
            is: true,
        };
        let mut rules = vec![rule(
            "loopback clients of published ports".to_owned(),
            vec![
                to_bridge,
                family(loopback()),
                Match::Source {
                    net: loopback(),
                    is: true,
                },
            ],
        )];
        for network in &self.networks {
            let net = network.trunc();
            let from = [family(net), Match::Source { net, is: true }];
            let to = |is: bool| Match::Destination { net, is };
            rules.push(rule(
                format!("{network} to elsewhere"),
                [&from[..], &[to(false)]].concat(),
            ));
            // A pod that uses a published port, of itself or of a neighbour, would be answered past
            // the translation.
            rules.push(rule(
                format!("{network} to itself through a published port"),
                [&from[..], &[to(true), translated()]].concat(),
            ));
        }
        rules
    }
}

impl Forward {
    fn rule(&self, chain: &str) -> Rule {
        let to = match self.address.is_unspecified() {
            true => Match::DestinationLocal,
            false => Match::Destination {
                net: self.address.into(),
                is: true,
            },
        };
        let matches = vec![
            family(self.to.ip().into()),
            to,
            Match::Protocol(self.protocol),
            Match::DestinationPort(self.port),
        ];
        new_rule(chain, self.comment(), matches, Action::Dnat(self.to))
    }

    fn comment(&self) -> String {
        let protocol = if self.protocol == 17 { "udp" } else { "tcp" };
        format!(
            "{} {}/{protocol} to {}",
            self.name,
            SocketAddr::new(self.address, self.port),
            self.to
        )
    }
}

/// Publishing on loopback needs `route_localnet` on the bridge, which would let a pod speak to the
/// host's own loopback services (CVE-2020-8558), and translates a neighbour's packet before it is
/// looked at as a martian: nothing that comes from elsewhere than the host itself may be for its
/// loopback, or pretend to be from there.
fn guard() -> Vec<Rule> {
    let rule = |comment: &str, net: IpNet, condition: Match| {
        let elsewhere = Match::InInterface {
            name: "lo".to_owned(),
            is: false,
        };
        let matches = vec![elsewhere, family(net), condition];
        new_rule("guard", comment.to_owned(), matches, Action::Drop)
    };
    let (v4, v6) = (loopback(), IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)));
    vec![
        rule(
            "nobody else reaches the host's loopback",
            v4,
            Match::Destination { net: v4, is: true },
        ),
        rule(
            "nobody else comes from the host's loopback",
            v4,
            Match::Source { net: v4, is: true },
        ),
        rule(
            "nobody else reaches the host's loopback",
            v6,
            Match::Destination { net: v6, is: true },
        ),
    ]
}

/// 127.0.0.0/8.
fn loopback() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into()
}

fn family(network: IpNet) -> Match {
    Match::Family(match network {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    })
}

/// It came to a published port.
fn translated() -> Match {
    Match::ConnStatus {
        any_of: ct_status::DNAT,
    }
}

fn new_rule(chain: &str, comment: String, matches: Vec<Match>, action: Action) -> Rule {
    Rule {
        chain: chain.to_owned(),
        comment,
        matches,
        action,
    }
}

/// Puts a ruleset in place of whatever the table holds. Blocking.
///
/// # Errors
/// What the kernel answers; the table is then as it was.
pub fn replace(ruleset: &Ruleset) -> tank_sys::Result<()> {
    nft::replace(TABLE, &ruleset.table())
}

/// Removes the table, if it is there. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn remove() -> tank_sys::Result<()> {
    nft::remove(TABLE)
}

/// What is in the table, to be compared with [`Ruleset::contents`]; empty when there is none.
/// Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list() -> tank_sys::Result<BTreeSet<String>> {
    Ok(nft::list(TABLE)?.map(contents).unwrap_or_default())
}

/// A table as lines that are equal when the tables do the same: one for the table, one for each
/// chain, and one for each rule with its place in its chain.
fn contents(table: Table) -> BTreeSet<String> {
    let table = table.content();
    let mut lines = BTreeSet::from(["table".to_owned()]);
    lines.extend(table.chains.iter().map(|chain| format!("{chain:?}")));
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for rule in &table.rules {
        let place = places.entry(&rule.chain).or_default();
        *place += 1;
        let (matches, action) = (&rule.matches, &rule.action);
        lines.insert(format!(
            "rule {place} of {}: {matches:?} {action:?}",
            rule.chain
        ));
    }
    lines.extend(table.others);
    lines
}
