//! What two pods cannot both have: a port of the host, an address, and each other as a dependency.

use super::{Problem, path, pod::unknown_pod};
use crate::{
    name::Name,
    spec::{Config, MAX_PORTS, Network, Peer, Pod, Publish},
    stack::Scope,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The pods, those that `scope` means last: what is taken twice is theirs to give up.
fn those_there_first<'a>(config: &'a Config, scope: &Scope) -> Vec<(&'a Name, &'a Pod)> {
    let (meant, there): (Vec<_>, Vec<_>) = config.pods.iter().partition(|(pod, _)| scope.has(pod));
    there.into_iter().chain(meant).collect()
}

/// Two entries can't have one port of one protocol, where an address of either covers one of the
/// other's.
pub(super) fn published_twice(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    // By their first ports: what overlaps begins at or before the other's last, and at most so many
    // before its first.
    let mut taken: BTreeMap<u16, Vec<(&Publish, Vec<String>)>> = BTreeMap::new();
    let pods = those_there_first(config, scope);
    for (pod, name, publish) in pods.into_iter().flat_map(|(pod, spec)| {
        spec.publish
            .iter()
            .map(move |(name, port)| (pod, name, port))
    }) {
        let at = path(["pods", pod.as_str(), "publish", name.as_str(), "port"]);
        let longest = u16::try_from(MAX_PORTS).unwrap_or(u16::MAX);
        let lowest = publish.port.first().saturating_sub(longest);
        let near = taken
            .range(lowest..=publish.port.last())
            .flat_map(|(_, all)| all);
        let clash = near.filter_map(|(other, first)| Some((clash(other, publish)?, first)));
        if let Some((port, first)) = clash.min() {
            problems.push(Problem {
                code: "tank::publish::port_taken",
                path: at.clone(),
                message: format!("port {port} of the host is published twice"),
                help: format!(
                    "`{}.{}` has it already; choose another port or address",
                    first[1], first[3]
                ),
                related: Some((first.clone(), "taken here")),
            });
        }
        taken
            .entry(publish.port.first())
            .or_default()
            .push((publish, at));
    }
}

/// The first port that two entries both have, for packets that could be for either.
fn clash(one: &Publish, other: &Publish) -> Option<u16> {
    let covers = |a: IpAddr, b: IpAddr| {
        a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
    };
    let protocols = other.protocol.each();
    let spoken = one
        .protocol
        .each()
        .iter()
        .any(|own| protocols.contains(own));
    let meets = |own| other.address.iter().any(|other| covers(own, other));
    (spoken && one.address.iter().any(meets)).then(|| one.port.common(other.port))?
}

/// Pods that a policy names are there, and have addresses. A source knows the pods of its own stack
/// only.
pub(super) fn unknown_peers(config: &Config, whole: bool, problems: &mut Vec<Problem>) {
    for (pod, spec) in &config.pods {
        let lists = [
            ("allow_from", spec.allow_from.peers()),
            ("egress", spec.egress.peers()),
        ];
        for (field, peers) in lists {
            let has_list = peers.is_some();
            if has_list && spec.network != Network::Bridge {
                problems.push(Problem {
                    code: "tank::policy::no_network",
                    path: path(["pods", pod.as_str(), field]),
                    message: format!(
                        "pod `{pod}` has no address of its own that a policy could be about"
                    ),
                    help: format!("use `network = 'bridge`, or drop `{field}`"),
                    related: Some((
                        path(["pods", pod.as_str(), "network"]),
                        "it is not on the bridge here",
                    )),
                });
                continue;
            }
            for (at, peer) in peers.unwrap_or_default().iter().enumerate() {
                let at = path(["pods", pod.as_str(), field, &at.to_string()]);
                problems.extend(peer_problem(config, whole, (pod, field, peer), at));
            }
        }
    }
}

fn peer_problem(
    config: &Config,
    whole: bool,
    (pod, field, peer): (&Name, &str, &Peer),
    at: Vec<String>,
) -> Option<Problem> {
    let (code, message, help) = match peer {
        Peer::Internet if field == "allow_from" => (
            "tank::policy::internet",
            "`internet` is nobody that connections come from".to_owned(),
            "name networks, or `'all`".to_owned(),
        ),
        Peer::Pod(other) => match config.pods.get(other) {
            Some(there) if there.network != Network::Bridge => (
                "tank::policy::peer_without_address",
                format!(
                    "pod `{}` has no address of its own",
                    other.as_seen_from(pod.stack())
                ),
                "it is on the host's network, or on none: name addresses".to_owned(),
            ),
            None if whole || other.stack() == pod.stack() => (
                "tank::policy::unknown_pod",
                format!(
                    "`{field}` of pod `{pod}` names `{}`, which is not declared",
                    other.as_seen_from(pod.stack())
                ),
                unknown_pod(pod, &other.as_seen_from(pod.stack()), config),
            ),
            _ => return None,
        },
        _ => return None,
    };
    Some(Problem {
        code,
        path: at,
        message,
        help,
        related: None,
    })
}

/// Two interfaces can't have one static address on one network.
pub(super) fn addresses_twice(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    let mut taken: BTreeMap<(IpAddr, &str), Vec<String>> = BTreeMap::new();
    for (pod, spec) in those_there_first(config, scope) {
        let Network::Nics(nics) = &spec.network else {
            continue;
        };
        for (name, nic) in nics {
            let of_nic = ["pods", pod.as_str(), "network", "nics", name.as_str()];
            let first = nic.address.map(|own| (own, vec!["address"]));
            let more = nic.addresses.iter();
            let more = more.map(|(name, own)| (own.0, vec!["addresses", name.as_str()]));
            for (address, field) in first.into_iter().chain(more) {
                let at = path(of_nic.into_iter().chain(field));
                let key = (address.addr(), nic.parent.as_str());
                if let Some(first) = taken.get(&key) {
                    problems.push(Problem {
                        code: "tank::nic::address_taken",
                        path: at.clone(),
                        message: format!("{} is given to two interfaces", address.addr()),
                        help: format!("`{}` has it already", first[1]),
                        related: Some((first.clone(), "taken here")),
                    });
                }
                taken.insert(key, at);
            }
        }
    }
}

/// Each cycle is reported once, at a dependency of a pod that `scope` means if it has one: the one
/// that closes it, starting from its alphabetically first pod.
pub(super) fn dependency_cycles(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    let mut reported: BTreeSet<BTreeSet<&Name>> = BTreeSet::new();
    for start in config.pods.keys() {
        let mut stack = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(trail) = stack.pop() {
            let Some(pod) = trail.last().and_then(|last| config.pods.get(*last)) else {
                continue;
            };
            for next in pod.depends_on.keys() {
                if next == start && reported.insert(trail.iter().copied().collect()) {
                    problems.push(cycle(trail.clone(), scope));
                } else if next > start && seen.insert(next) {
                    stack.push(trail.iter().copied().chain([next]).collect());
                }
            }
        }
    }
}

/// Pods of which each depends on the next one, and the last on the first.
fn cycle(mut trail: Vec<&Name>, scope: &Scope) -> Problem {
    if let Some(last) = trail.iter().rposition(|pod| scope.has(pod)) {
        trail.rotate_left(last + 1);
    }
    let first = trail.first().map_or("", |pod| pod.as_str());
    let last = trail.last().map_or("", |pod| pod.as_str());
    let names: Vec<&str> = trail
        .iter()
        .map(|pod| pod.as_str())
        .chain([first])
        .collect();
    Problem {
        code: "tank::depends_on::cycle",
        path: path(["pods", last, "depends_on", first]),
        message: format!("pods wait for each other: {}", names.join(" → ")),
        help: "remove one of these dependencies".to_owned(),
        related: None,
    }
}
