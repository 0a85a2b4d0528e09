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
pub(super) fn those_there_first<'a>(config: &'a Config, scope: &Scope) -> Vec<(&'a Name, &'a Pod)> {
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

/// What to do about the host as a peer: it needs no entry,
pub const HOST_MAY: &str = "the host itself always may: leave it out";

/// or one of its addresses.
pub const HOST_BY_ADDRESS: &str = "this host is meant by its address: put that into the list, for example `egress = [\"10.0.0.5\"]`";

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
                    message: match spec.network {
                        Network::Nics(_) => format!(
                            "pod `{pod}` is on the host's own network, where no policy of Tank's holds"
                        ),
                        _ => format!(
                            "pod `{pod}` has no address of its own that a policy could be about"
                        ),
                    },
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

/// Whether `db:5432` is meant as a pod's port, and not as the pod 5432 of the stack `db`.
fn names_a_port(pod: &Name, other: &Name, config: &Config) -> bool {
    let written = other.stack().map(|stack| Name::reference(stack, None));
    let Some(Ok(written)) = written else {
        return false;
    };
    let own = match pod.stack() {
        Some(stack) => Name::new(stack).and_then(|stack| written.in_stack(Some(&stack))),
        None => Ok(written),
    };
    other.local().parse::<u16>().is_ok() && own.is_ok_and(|own| config.pods.contains_key(&own))
}

/// What to write in the place of a pod that is not declared.
fn no_peer(config: &Config, pod: &Name, field: &str, other: &Name) -> String {
    match other.local() {
        word @ ("all" | "none") => {
            format!("write it without the list: `{field} = '{word}`")
        }
        "host" if field == "allow_from" => HOST_MAY.to_owned(),
        "host" => HOST_BY_ADDRESS.to_owned(),
        port if names_a_port(pod, other, config) => format!(
            "a policy is about pods, whatever the port: write \"{}\" in place of \"{0}:{port}\"",
            other.stack().unwrap_or_default()
        ),
        _ => unknown_pod(pod, &other.as_seen_from(pod.stack()), config),
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
            "name subnets, or `'all`".to_owned(),
        ),
        Peer::Internet if config.pods.get(pod).is_some_and(|own| is_inner(own, config)) => (
            "tank::policy::internal",
            format!(
                "`{field}` of pod `{pod}` names the internet, and the pod is on internal networks only"
            ),
            "nothing leads out of an internal network: add one that is not internal, or leave `internet` out"
                .to_owned(),
        ),
        Peer::Pod(other) => match config.pods.get(other) {
            Some(there) if matches!(there.network, Network::Nics(_)) => (
                "tank::policy::peer_without_address",
                format!(
                    "pod `{}` is on the host's own network, and its addresses are not Tank's to follow",
                    other.as_seen_from(pod.stack())
                ),
                "name its addresses: they are those of its `network.nics`".to_owned(),
            ),
            Some(there) if there.network != Network::Bridge => (
                "tank::policy::peer_without_address",
                format!(
                    "pod `{}` has no address of its own",
                    other.as_seen_from(pod.stack())
                ),
                "it is on the host's network, or on none: name addresses".to_owned(),
            ),
            None if whole
                || other.stack() == pod.stack()
                || names_a_port(pod, other, config) =>
            (
                "tank::policy::unknown_pod",
                format!(
                    "`{field}` of pod `{pod}` names `{}`, which is not declared",
                    other.as_seen_from(pod.stack())
                ),
                no_peer(config, pod, field, other),
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

/// Pods that a policy names are there to be met: on a network that both are on, or by a port that is
/// published to others than the host. What nobody declares here, or another stack does, is not known.
pub(super) fn peers_apart(config: &Config, whole: bool, problems: &mut Vec<Problem>) {
    for (pod, spec) in &config.pods {
        let lists = [
            ("allow_from", spec.allow_from.peers()),
            ("egress", spec.egress.peers()),
        ];
        for (field, peers) in lists {
            for (at, peer) in peers.unwrap_or_default().iter().enumerate() {
                let Peer::Pod(other) = peer else { continue };
                let Some(there) = config.pods.get(other) else {
                    continue;
                };
                let is_known = |(name, pod): (&Name, &Pod)| {
                    let mut on = pod.networks.keys();
                    on.all(|on| {
                        let may_be_elsewhere = !whole && on.stack() != name.stack();
                        on.is_default_network()
                            || may_be_elsewhere
                            || config.networks.contains_key(on)
                    })
                };
                let bridged = [spec, there].iter().all(|of| of.network == Network::Bridge);
                if !bridged || !is_known((pod, spec)) || !is_known((other, there)) {
                    continue;
                }
                let (asker, asked) = match field {
                    "allow_from" => (there, spec),
                    _ => (spec, there),
                };
                if share_a_network(spec, there) || reaches_ports(asker, asked, config) {
                    continue;
                }
                problems.push(apart(config, (pod, field, at), other));
            }
        }
    }
}

fn apart(config: &Config, (pod, field, at): (&Name, &str, usize), other: &Name) -> Problem {
    let said = other.as_seen_from(pod.stack());
    let asked = match field {
        "allow_from" => pod.local(),
        _ => &said,
    };
    let has_own = |name: &&&Name| {
        let spec = config.pods.get(**name);
        spec.is_some_and(|spec| !spec.networks.is_empty())
    };
    let on = [other, pod];
    let on = on.iter().find(has_own);
    let specs = [pod, other].map(|name| config.pods.get(name));
    let has_way_out = |spec: &Option<&Pod>| spec.is_some_and(|spec| !is_inner(spec, config));
    let publish = match specs.iter().all(has_way_out) {
        true => format!(", or publish a port of `{asked}` at an address that others reach"),
        false => String::new(),
    };
    Problem {
        code: "tank::policy::no_common_network",
        path: path(["pods", pod.as_str(), field, &at.to_string()]),
        message: format!("`{field}` of pod `{pod}` names `{said}`, and the two share no network"),
        help: format!("put both on one of the `networks`{publish}, or leave `{said}` out"),
        related: on.map(|name| {
            let networks = path(["pods", name.as_str(), "networks"]);
            (networks, "it is on these networks only")
        }),
    }
}

fn share_a_network(one: &Pod, other: &Pod) -> bool {
    let has_default =
        |pod: &Pod| pod.networks.is_empty() || pod.networks.keys().any(Name::is_default_network);
    let both = one
        .networks
        .keys()
        .any(|on| other.networks.contains_key(on));
    both || has_default(one) && has_default(other)
}

/// Whether a pod is on internal networks only, as far as they are known.
fn is_inner(pod: &Pod, config: &Config) -> bool {
    let is_internal = |on: &Name| config.networks.get(on).is_some_and(|on| on.internal);
    !pod.networks.is_empty() && pod.networks.keys().all(is_internal)
}

/// Whether one pod may reach what another one publishes: that is at an address of the host that others
/// reach, and the way there leads out of a network that is not internal.
fn reaches_ports(asker: &Pod, asked: &Pod, config: &Config) -> bool {
    let mut ports = asked.publish.values();
    !is_inner(asker, config) && ports.any(|port| port.address.iter().any(|at| !at.is_loopback()))
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
