//! What keeps networks from being made on a host: judged before anything changes.

use super::{MAX_PODS, UsedNetwork, declared, memberships};
use crate::{target::Target, unusable::Unusable};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Graph, Name};

/// What a host has that is not Tank's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostNets {
    /// The networks that are led to by each of its links: of its addresses, and of its routes but the
    /// default ones.
    pub by_link: BTreeMap<String, BTreeSet<IpNet>>,
    /// The networks that routes are about which no link is on.
    pub reserved: BTreeMap<IpNet, Taken>,
    /// Whether its links get addresses of IPv6.
    pub has_ipv6: bool,
}

/// What a route of the host makes of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It leads there, and is in this table, which is not the main one.
    Table(u32),
    /// It drops what is for it.
    Blackhole,
    /// It refuses what is for it.
    Unreachable,
}

impl HostNets {
    /// Whose a subnet is already, in words.
    fn taken(&self, subnet: &IpNet) -> Option<String> {
        let nets = self.by_link.iter();
        let mut nets = nets.flat_map(|(link, nets)| nets.iter().map(move |net| (net, link)));
        if let Some((net, link)) = nets.find(|(net, _)| overlap(net, subnet)) {
            let net = net.trunc();
            return Some(format!(
                "{net}, which is reached by this host's link `{link}`"
            ));
        }
        let mut reserved = self.reserved.iter();
        let (net, taken) = reserved.find(|(net, _)| overlap(net, subnet))?;
        Some(match taken {
            Taken::Table(table) => {
                format!("{net}, to which this host's routing table {table} leads")
            }
            Taken::Blackhole => format!("{net}, which this host has a `blackhole` route for"),
            Taken::Unreachable => format!("{net}, which this host has an `unreachable` route for"),
        })
    }
}

/// What is wrong with the networks that `wanted` has pods on and `previous` had not, or not so: one text
/// for each.
pub fn unusable(previous: &Graph, wanted: &Target<'_>, host: &HostNets) -> Vec<Unusable> {
    let networks = wanted.networks();
    let mut problems = Vec::new();
    for network in networks.iter().filter(|one| is_new(previous, wanted, one)) {
        // Names of bridges are short hashes.
        let twin =
            |other: &&UsedNetwork| other.bridge == network.bridge && other.name != network.name;
        if let Some(other) = networks.iter().find(twin) {
            let (name, other) = (&network.name, &other.name);
            problems.push(Unusable::new(
                ["networks", name.as_str()],
                format!(
                    "networks.{name}: its bridge would be that of the network `{other}`; call it something else"
                ),
            ));
        }
        let at = format!("networks.{}.subnets", network.name);
        let field = ["networks", network.name.as_str(), "subnets"];
        for subnet in &network.subnets {
            if !host.has_ipv6 && subnet.addr().is_ipv6() {
                let text = format!("{at}: IPv6 is off on this host, and {subnet} is one of it");
                problems.push(Unusable::new(field, text));
            }
            if let Some(taken) = taken_by(wanted, &networks, network, subnet, host) {
                let remedy = match declared(wanted.graph, &network.name) {
                    Some(spec) if spec.subnets.is_empty() => {
                        "declare another one, or set `network_pools` in tank.toml"
                    }
                    _ => "declare another one",
                };
                let text = format!("{at}: {subnet} overlaps {taken}; {remedy}");
                problems.push(Unusable::new(field, text));
            }
        }
    }
    problems.extend(default_taken(previous, wanted, host));
    problems.extend(crowded(previous, wanted.graph));
    problems
}

/// Static addresses that are new in `wanted` and leased to a pod of another stack that stays: it would get
/// another one by somebody else's change. One text for each.
pub fn evicting(before: &Target<'_>, wanted: &Graph) -> Vec<Unusable> {
    let mut problems = Vec::new();
    for pod in wanted.pods() {
        for (network, own) in memberships(wanted, pod) {
            let had = memberships(before.graph, pod).into_iter();
            let had = had.filter(|(on, _)| *on == network);
            let had: BTreeSet<_> = had.flat_map(|(_, own)| own.addresses).collect();
            for address in own.addresses.iter().filter(|own| !had.contains(own)) {
                let has = |other: &&Name| {
                    let mut places = before.places(other).into_iter();
                    let place = places.find(|place| place.network == network);
                    place
                        .is_some_and(|place| place.addresses.iter().any(|at| at.addr() == *address))
                };
                let stays = |other: &&Name| wanted.sandbox(other).is_some();
                let mut others = before
                    .graph
                    .pods()
                    .filter(|other| other.stack() != pod.stack());
                if let Some(other) = others.find(|other| stays(other) && has(other)) {
                    let text = format!(
                        "pods.{pod}.networks.{network}.addresses: {address} is leased to `{other}` of another stack; choose another one"
                    );
                    let field = [
                        "pods",
                        pod.as_str(),
                        "networks",
                        network.as_str(),
                        "addresses",
                    ];
                    problems.push(Unusable::new(field, text));
                }
            }
        }
    }
    problems
}

/// Whether pods were not on a network before, or it was declared otherwise.
fn is_new(previous: &Graph, wanted: &Target<'_>, network: &UsedNetwork) -> bool {
    let name = &network.name;
    let was_used = previous.pods().any(|pod| {
        let own = memberships(previous, pod);
        own.iter().any(|(own, _)| own == name)
    });
    let same = declared(previous, name) == declared(wanted.graph, name);
    !(name.is_default_network() || same && was_used)
}

/// Whose a subnet is already, in words.
fn taken_by(
    wanted: &Target<'_>,
    networks: &[UsedNetwork],
    own: &UsedNetwork,
    subnet: &IpNet,
    host: &HostNets,
) -> Option<String> {
    let others = networks.iter().filter(|other| other.name != own.name);
    let mut others = others.flat_map(|other| other.subnets.iter().map(move |net| (net, other)));
    if let Some((net, other)) = others.find(|(net, _)| overlap(net, subnet)) {
        return Some(format!("{net} of the network `{}`", other.name));
    }
    let mut default = wanted.host.networks.iter();
    if let Some(net) = default.find(|net| overlap(net, subnet)) {
        return Some(format!("{} of the default network", net.trunc()));
    }
    host.taken(subnet)
}

/// The subnets of the default network that the host has for something else already, where no pod was on it
/// before.
fn default_taken(previous: &Graph, wanted: &Target<'_>, host: &HostNets) -> Vec<Unusable> {
    if !is_new_default(previous, wanted.graph) {
        return Vec::new();
    }
    let subnets = wanted.host.networks.iter().map(IpNet::trunc);
    let taken = subnets.filter_map(|subnet| Some((subnet, host.taken(&subnet)?)));
    taken
        .map(|(subnet, taken)| {
            let text = format!(
                "{subnet} of the default network overlaps {taken}; set `networks` in tank.toml to others"
            );
            Unusable::new([], text)
        })
        .collect()
}

/// Whether pods come to the default network, and none was on it.
pub fn is_new_default(previous: &Graph, wanted: &Graph) -> bool {
    let is_used = |graph: &Graph| {
        let mut all = graph.pods().flat_map(|pod| memberships(graph, pod));
        all.any(|(network, _)| network.is_default_network())
    };
    is_used(wanted) && !is_used(previous)
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Networks that more pods come to than a bridge has ports for.
fn crowded(previous: &Graph, wanted: &Graph) -> Vec<Unusable> {
    let count = |graph: &Graph| {
        let mut counts: BTreeMap<Name, usize> = BTreeMap::new();
        for (network, _) in graph.pods().flat_map(|pod| memberships(graph, pod)) {
            *counts.entry(network).or_default() += 1;
        }
        counts
    };
    let before = count(previous);
    let counts = count(wanted).into_iter();
    let crowded = counts.filter(|(network, count)| {
        *count > MAX_PODS && *count > before.get(network).copied().unwrap_or_default()
    });
    let text = |(network, count): (Name, usize)| {
        let text = format!(
            "networks.{network}: {count} pods are on it, and a bridge has room for {MAX_PODS}; put some of them on \
             another network"
        );
        Unusable::new(["networks", network.as_str()], text)
    };
    crowded.map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inputs, model::inputs};

    fn of(networks: serde_json::Value) -> Inputs {
        let names = networks.as_object().into_iter().flat_map(|all| all.keys());
        let on = names.map(|name| (name.clone(), serde_json::json!({})));
        let pod = serde_json::json!({
            "containers": { "app": { "image": "x" } },
            "networks": on.collect::<serde_json::Map<_, _>>(),
        });
        let config = serde_json::json!({ "networks": networks, "pods": { "web": pod } });
        inputs(&serde_json::from_value(config).expect("a configuration"))
    }

    fn host() -> HostNets {
        let nets = ["192.0.2.0/24", "10.50.0.0/16", "2001:db8::/32"];
        let nets = nets.map(|net| net.parse().expect("a network"));
        HostNets {
            by_link: BTreeMap::from([("eth0".to_owned(), nets.into())]),
            reserved: [
                ("10.60.0.0/16", Taken::Table(7)),
                ("10.61.0.0/16", Taken::Blackhole),
                ("10.62.0.0/16", Taken::Unreachable),
            ]
            .map(|(net, taken)| (net.parse().expect("a network"), taken))
            .into(),
            has_ipv6: true,
        }
    }

    fn problems(subnets: &[&str]) -> Vec<String> {
        let inputs = of(serde_json::json!({
            "back": { "subnets": subnets }, "other": { "subnets": ["10.8.0.0/24"] },
        }));
        let nothing = of(serde_json::json!({})).graph;
        texts(unusable(&nothing, &inputs.target(), &host()))
    }

    fn texts(problems: Vec<Unusable>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.text).collect()
    }

    #[test]
    fn a_subnet_is_nobody_elses() {
        assert_eq!(
            problems(&["10.7.0.0/24", "fd00:7::/64"]),
            Vec::<String>::new()
        );
        let refused = |subnet: &str| problems(&[subnet]).concat();
        assert_eq!(
            refused("10.50.7.0/24"),
            "networks.back.subnets: 10.50.7.0/24 overlaps 10.50.0.0/16, which is reached by this host's link `eth0`; \
             declare another one"
        );
        assert_eq!(
            refused("10.90.7.0/24"),
            "networks.back.subnets: 10.90.7.0/24 overlaps 10.90.0.0/16 of the default network; declare another one"
        );
        assert!(
            refused("10.60.7.0/24")
                .contains("10.60.0.0/16, to which this host's routing table 7 leads")
        );
        assert!(
            refused("10.61.7.0/24")
                .contains("10.61.0.0/16, which this host has a `blackhole` route for")
        );
        assert!(refused("10.62.7.0/24").contains("an `unreachable` route"));
        assert!(refused("2001:db8:7::/64").contains("`eth0`"));
        assert!(refused("10.8.0.128/25").starts_with(
            "networks.back.subnets: 10.8.0.128/25 overlaps 10.8.0.0/24 of the network `other`"
        ));
        assert!(
            refused("192.0.0.0/16").contains("`eth0`"),
            "whichever is the wider"
        );
    }

    #[test]
    fn what_was_there_before_stays() {
        let inputs = of(serde_json::json!({ "back": { "subnets": ["10.50.7.0/24"] } }));
        assert_eq!(
            texts(unusable(&inputs.graph, &inputs.target(), &host())),
            Vec::<String>::new()
        );
        let mut six = of(serde_json::json!({ "back": { "subnets": ["fd00::/64"] } }));
        let mut host = host();
        host.has_ipv6 = false;
        let nothing = of(serde_json::json!({})).graph;
        assert_eq!(
            texts(unusable(&nothing, &six.target(), &host)),
            ["networks.back.subnets: IPv6 is off on this host, and fd00::/64 is one of it"]
        );
        six.host.pools.clear();
        assert_eq!(six.target().networks().len(), 1);
    }

    #[test]
    fn a_bridge_has_room_for_a_thousand() {
        let many = |count: usize, on: serde_json::Value| {
            let pod = |n: usize| {
                let pod = serde_json::json!({ "containers": { "app": { "image": "x" } }, "networks": on });
                (format!("p{n}"), pod)
            };
            let pods: serde_json::Map<_, _> = (0..count).map(pod).collect();
            let config = serde_json::json!({ "networks": { "back": {} }, "pods": pods });
            inputs(&serde_json::from_value(config).expect("a configuration"))
        };
        let back = serde_json::json!({ "back": {} });
        let (thousand, more) = (many(1_000, back.clone()), many(1_001, back));
        assert_eq!(
            texts(crowded(
                &many(0, serde_json::json!({})).graph,
                &thousand.graph
            )),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(crowded(&thousand.graph, &more.graph)),
            [
                "networks.back: 1001 pods are on it, and a bridge has room for 1000; put some of them on another network"
            ]
        );
        assert_eq!(
            texts(crowded(&more.graph, &more.graph)),
            Vec::<String>::new(),
            "it is so already"
        );
        let default = many(1_001, serde_json::json!({}));
        assert_eq!(crowded(&thousand.graph, &default.graph).len(), 1);
    }
}
