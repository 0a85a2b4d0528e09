//! What two pods cannot both have: a port of the host, an address, and each other as a dependency.

use super::{Problem, path};
use crate::{
    name::Name,
    spec::{Config, Network, Pod, Protocol},
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

/// Two pods can't listen on one port of one protocol, where either of the addresses covers the
/// other.
pub(super) fn published_twice(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    let mut taken: Vec<(IpAddr, u16, Protocol, Vec<String>)> = Vec::new();
    let pods = those_there_first(config, scope);
    for (pod, name, publish) in pods.into_iter().flat_map(|(pod, spec)| {
        spec.publish
            .iter()
            .map(move |(name, port)| (pod, name, port))
    }) {
        let at = path(["pods", pod.as_str(), "publish", name.as_str(), "port"]);
        let covers = |a: IpAddr, b: IpAddr| {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        };
        let clash = taken.iter().find(|(address, port, protocol, _)| {
            covers(*address, publish.address)
                && *port == publish.port
                && *protocol == publish.protocol
        });
        if let Some((_, _, _, first)) = clash {
            problems.push(Problem {
                code: "tank::publish::port_taken",
                path: at.clone(),
                message: format!("port {} of the host is published twice", publish.port),
                help: format!(
                    "`{}.{}` has it already; choose another port or address",
                    first[1], first[3]
                ),
                related: Some((first.clone(), "taken here")),
            });
        }
        taken.push((publish.address, publish.port, publish.protocol, at));
    }
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
