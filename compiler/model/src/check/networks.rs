//! Networks of some pods only: their subnets, and who has which address there.

use super::{Extent, Pass, Problem, across::those_there_first, did_you_mean, path};
use crate::{
    name::Name,
    spec::{
        Config, DEFAULT_NETWORK, MAX_MEMBERSHIPS, MAX_NETWORKS, Membership, NamedNetwork, Network,
        Pod,
    },
    stack::Scope,
    units::parse_network,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The most pods of one network: the kernel gives a bridge 1,023 ports.
const MAX_PODS: u128 = 1_000;

/// The longest prefixes of a subnet. Of IPv4 there are then two addresses beside the subnet's own and
/// its broadcast.
const LONGEST_V4: u8 = 30;
const LONGEST_V6: u8 = 120;

/// What means the same on every host, and leads to no pod.
const SPECIAL: [(&str, &str); 10] = [
    ("0.0.0.0/8", "for a host that has no address yet"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "for groups"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "for a host that has no address yet"),
    ("::1/128", "loopback"),
    ("::ffff:0.0.0.0/96", "for addresses of IPv4"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "for groups"),
];

impl Pass<'_> {
    /// A network by itself.
    fn named_network(&mut self, name: &Name, network: &NamedNetwork) {
        if name.local() == DEFAULT_NETWORK {
            let message = format!("`{DEFAULT_NETWORK}` is the host's default network");
            let help = "choose another name: Tank makes the default one itself, for pods without `networks`";
            self.report("tank::network::reserved", &[], message, help);
        }
        for (at, net) in network.nets().enumerate() {
            let at = ["subnets", &at.to_string()];
            if let Some((message, help)) = wrong_subnet(net) {
                self.report("tank::network::subnet", &at, message, help);
            }
        }
        if let Some((at, net)) = second_of_a_family(network.nets()) {
            let family = family(net.addr());
            let message = format!("`{}` has two subnets of {family}", name.local());
            let help = "declare a second network for it: a pod can be on both";
            let at = ["subnets", &at.to_string()];
            self.report("tank::network::two_subnets", &at, message, help);
        }
    }

    /// The networks that a pod is on.
    pub(super) fn memberships(&mut self, name: &Name, pod: &Pod, among: (&Config, Extent)) {
        if pod.networks.is_empty() {
            return;
        }
        if pod.network != Network::Bridge {
            let message = format!("pod `{name}` has `networks` and another `network` beside them");
            let help = "drop one of the two: with `networks` the pod is on their bridges";
            self.report("tank::network::not_bridge", &["networks"], message, help);
            self.relate(&["network"], "it is not on a bridge here");
        }
        if pod.networks.len() > MAX_MEMBERSHIPS {
            let many = pod.networks.len();
            let message =
                format!("the pod is on {many} networks, and {MAX_MEMBERSHIPS} are the most");
            let help = "have pods share a network";
            self.report("tank::network::many", &["networks"], message, help);
            return;
        }
        for (network, membership) in &pod.networks {
            self.membership(name, (network, membership), among);
        }
        let is_internal = |network: &Name| {
            let network = among.0.networks.get(network);
            network.is_some_and(|network| network.internal)
        };
        if !pod.publish.is_empty() && pod.networks.keys().all(is_internal) {
            let message = format!("pod `{name}` publishes ports, and is on internal networks only");
            let help = "nothing leads into an internal network: drop `publish`, or add a network that is not internal";
            self.report("tank::publish::internal", &["publish"], message, help);
            self.relate(&["networks"], "all of these are internal");
        }
        self.families_of_ports(name, pod, among.0);
    }

    /// Published ports lead to the pod's addresses on its first network that is not internal: there have to be
    /// some of a family that each is published at. What a network of another stack has is not known here.
    fn families_of_ports(&mut self, name: &Name, pod: &Pod, config: &Config) {
        let mut declared = pod.networks.keys().map(|on| (on, config.networks.get(on)));
        let outer = declared.find(|(_, network)| network.is_none_or(|network| !network.internal));
        let Some((on, Some(network))) = outer else {
            return;
        };
        let families: BTreeSet<&str> = network
            .subnets
            .iter()
            .map(|net| family(net.0.addr()))
            .collect();
        let Some(own) = families.first().filter(|_| families.len() == 1) else {
            return;
        };
        for (port, publish) in &pod.publish {
            if publish.address.iter().any(|at| family(at) == *own) {
                continue;
            }
            let message = format!(
                "nothing leads to port `{port}` of pod `{name}`: its network `{on}` has {own} only"
            );
            let help = format!(
                "publish it at an address of {own}, or give the network a subnet of the other family, too"
            );
            self.report(
                "tank::publish::family",
                &["publish", port.as_str()],
                message,
                help,
            );
            self.relate(&["networks", on.as_str()], "this network");
        }
    }

    /// A name that is another pod's on a network of both: who asks there for that one would find this one.
    /// Where it is the pod's everywhere, that is said once.
    pub(super) fn aliases_of_pods(&mut self, name: &Name, pod: &Pod, config: &Config) {
        let alone = Name::new(DEFAULT_NETWORK).ok();
        let alone = alone.as_ref().filter(|_| pod.networks.is_empty());
        let on: Vec<&Name> = pod.networks.keys().chain(alone).collect();
        if pod.network != Network::Bridge {
            return;
        }
        let everywhere = pod
            .aliases
            .keys()
            .map(|alias| (vec!["aliases", alias], alias));
        let hostname = pod.hostname.iter().map(|own| (vec!["hostname"], own));
        for (field, alias) in everywhere.chain(hostname) {
            let mut there = on.iter().filter_map(|on| {
                let other = named(alias, (name, on), config)?;
                Some((*on, other))
            });
            if let Some((on, other)) = there.next() {
                self.alias_of((name, alias), (on, other), &field);
            }
        }
        for (on, membership) in &pod.networks {
            for alias in membership.aliases.keys() {
                if let Some(other) = named(alias, (name, on), config) {
                    let field = ["networks", on.as_str(), "aliases", alias];
                    self.alias_of((name, alias), (on, other), &field);
                }
            }
        }
    }

    fn alias_of(
        &mut self,
        (pod, alias): (&Name, &str),
        (on, other): (&Name, &Name),
        field: &[&str],
    ) {
        let network = on.network_as_seen_from(pod.stack());
        let message = format!("`{alias}` is the name of another pod on the network `{network}`");
        let help = "choose another name: who asks for that pod would find this one";
        self.report("tank::alias::pod_name", field, message, help);
        if let Some(last) = self.problems.last_mut() {
            let related = path(["pods", other.as_str()]);
            last.related = Some((related, "this pod is called so"));
        }
    }

    fn membership(
        &mut self,
        pod: &Name,
        (name, membership): (&Name, &Membership),
        (config, extent): (&Config, Extent),
    ) {
        let own = pod.stack();
        let declared = config.networks.get(name);
        // A source knows the networks of its own stack only.
        let is_known = extent == Extent::Host || name.stack() == own;
        if declared.is_none() && !name.is_default_network() && is_known {
            let message = match name.stack() {
                Some(stack) if own != Some(stack) => format!(
                    "pod `{pod}` is on the network `{}` of the stack `{stack}`, which is not declared",
                    name.local()
                ),
                _ => format!(
                    "pod `{pod}` is on the network `{}`, which is not declared",
                    name.network_as_seen_from(own)
                ),
            };
            let help = unknown_network(pod, name, config);
            let field = ["networks", name.as_str()];
            self.report("tank::network::unknown", &field, message, help);
        }
        let field = |at: usize| {
            ["networks", name.as_str(), "addresses", &at.to_string()].map(str::to_owned)
        };
        let report = |pass: &mut Self, at: usize, message: String, help: String, related| {
            let field = field(at);
            let field: Vec<&str> = field.iter().map(String::as_str).collect();
            pass.report("tank::network::address", &field, message, help);
            if let (Some(last), Some(related)) = (pass.problems.last_mut(), related) {
                last.related = Some(related);
            }
        };
        for (at, address) in membership.addresses.iter().enumerate() {
            if name.is_default_network() {
                let message = format!("{address} can't be chosen on the default network");
                let help = "declare a network with `subnets` that it is in".to_owned();
                report(self, at, message, help, None);
            } else if let Some(network) = declared
                && let Some((message, help)) = wrong_address(*address, (name, network))
            {
                let related = (
                    path(["networks", name.as_str()]),
                    "the network is declared here",
                );
                report(self, at, message, help, Some(related));
            }
        }
        let addresses = membership.addresses.iter().map(|own| IpNet::from(*own));
        if let Some((at, second)) = second_of_a_family(addresses) {
            let family = family(second.addr());
            let message = format!("the pod has two addresses of {family} on one network");
            let help = "keep one of them".to_owned();
            report(self, at, message, help, None);
        }
    }
}

/// The other pod of the same stack on a network that is called like an alias.
fn named<'a>(alias: &str, (pod, on): (&Name, &Name), config: &'a Config) -> Option<&'a Name> {
    let alias = alias.to_ascii_lowercase();
    let stack = pod.stack().and_then(|stack| Name::new(stack).ok());
    let called = Name::new(alias).ok()?.in_stack(stack.as_ref()).ok()?;
    let (other, spec) = config.pods.get_key_value(&called)?;
    (other != pod && is_on(spec, on)).then_some(other)
}

/// Whether a pod is on a network.
fn is_on(pod: &Pod, network: &Name) -> bool {
    let alone = pod.networks.is_empty() && network.is_default_network();
    pod.network == Network::Bridge && (alone || pod.networks.contains_key(network))
}

/// What to do about a network that is not there.
fn unknown_network(pod: &Name, name: &Name, config: &Config) -> String {
    let said = name.network_as_seen_from(pod.stack());
    let others = config.networks.keys();
    let others = others.map(|other| other.network_as_seen_from(pod.stack()));
    let others: Vec<String> = others.chain([DEFAULT_NETWORK.to_owned()]).collect();
    let otherwise = match name.stack() == pod.stack() {
        true => format!("declare it: `networks.{} = {{}}`", name.local()),
        false => "its stack has to declare it".to_owned(),
    };
    did_you_mean(&said, others.iter().map(String::as_str), &otherwise)
}

fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The first one of a family that another one was of already, and its index.
fn second_of_a_family(nets: impl Iterator<Item = IpNet>) -> Option<(usize, IpNet)> {
    let mut seen = BTreeSet::new();
    let mut nets = nets.enumerate();
    nets.find(|(_, net)| !seen.insert(net.addr().is_ipv4()))
}

/// Why a subnet can't be a network's, and what to do.
pub fn wrong_subnet(net: IpNet) -> Option<(String, String)> {
    let longest = match net {
        IpNet::V4(_) => LONGEST_V4,
        IpNet::V6(_) => LONGEST_V6,
    };
    if net != net.trunc() {
        let message = format!("{net} is an address in a network, not a network");
        return Some((message, format!("write \"{}\"", net.trunc())));
    }
    if net.prefix_len() > longest {
        let message = format!("{net} has no room for a bridge and pods");
        let help = format!("a subnet of {} is /{longest} or larger", family(net.addr()));
        return Some((message, help));
    }
    SPECIAL.iter().find_map(|(special, why)| {
        let special = parse_network(special).ok()?;
        let message = if special.contains(&net) {
            format!("{net} can't be a network of pods: it is {why}")
        } else if net.contains(&special) {
            format!("{net} can't be a network of pods: {special} in it is {why}")
        } else {
            return None;
        };
        let help = "use a private one, such as \"10.91.7.0/24\" or \"fd00:7::/64\"";
        Some((message, help.to_owned()))
    })
}

/// The subnets of a network that has any, and none that is reported.
fn sound(network: &NamedNetwork) -> Option<Vec<IpNet>> {
    let is_wrong = network.nets().any(|net| wrong_subnet(net).is_some());
    let twice = second_of_a_family(network.nets()).is_some();
    (!is_wrong && !twice).then(|| network.nets().collect())
}

/// Why a pod can't have an address on a network, and what to do. Of a network whose subnets are
/// wrong that is not asked.
pub fn wrong_address(
    address: IpAddr,
    (name, network): (&Name, &NamedNetwork),
) -> Option<(String, String)> {
    let subnets = sound(network)?;
    let name = name.local();
    if subnets.is_empty() {
        let message = format!("`{name}` declares no `subnets` that {address} could be in");
        let help = "give the network a subnet, or the pod no address: it is leased one then";
        return Some((message, help.to_owned()));
    }
    let Some(net) = subnets.iter().find(|net| net.contains(&address)) else {
        let subnets: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
        let message = format!("{address} is in no subnet of `{name}`");
        return Some((message, format!("choose one of {}", subnets.join(" or "))));
    };
    let why = if address == net.network() {
        "it is the network's own"
    } else if bridge_of(*net) == Some(address) {
        "it is the bridge's"
    } else if address.is_ipv4() && address == net.broadcast() {
        "it is the network's broadcast"
    } else {
        return None;
    };
    let help = format!("choose another one of {net}");
    Some((format!("{address} can't be a pod's address: {why}"), help))
}

/// The first address of a subnet, which its bridge has.
fn bridge_of(net: IpNet) -> Option<IpAddr> {
    crate::units::nth_address(net, 1).map(|first| first.addr())
}

/// How many pods a subnet has addresses for.
fn room(net: IpNet) -> u128 {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    // Its own, the bridge's, and of IPv4 its broadcast.
    all.saturating_sub(if net.addr().is_ipv4() { 3 } else { 2 })
}

/// The networks, those that `scope` means last.
fn in_order<'a>(config: &'a Config, scope: &Scope) -> Vec<(&'a Name, &'a NamedNetwork)> {
    let networks = config.networks.iter();
    let (meant, there): (Vec<_>, Vec<_>) = networks.partition(|(name, _)| scope.has_network(name));
    there.into_iter().chain(meant).collect()
}

/// What is wrong with networks, each by itself and among each other.
pub(super) fn networks(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    for (name, network) in &config.networks {
        let at = path(["networks", name.as_str()]);
        Pass { problems, at }.named_network(name, network);
    }
    let networks = in_order(config, scope);
    if let Some((name, _)) = networks.get(MAX_NETWORKS) {
        let many = networks.len();
        problems.push(Problem {
            code: "tank::network::many",
            path: path(["networks", name.as_str()]),
            message: format!(
                "there are {many} networks, and {MAX_NETWORKS} are the most of a host"
            ),
            help: "have pods share a network".to_owned(),
            related: None,
        });
        return;
    }
    overlaps(&networks, problems);
    addresses_twice(config, scope, problems);
    full(config, scope, problems);
}

/// Two networks can't have one address. There are few of them here, and of each two subnets.
fn overlaps(networks: &[(&Name, &NamedNetwork)], problems: &mut Vec<Problem>) {
    let mut taken: Vec<(IpNet, &Name, String)> = Vec::new();
    for (name, network) in networks {
        for (at, net) in sound(network).into_iter().flatten().enumerate() {
            let meets = |other: &IpNet| other.contains(&net) || net.contains(other);
            let other = taken
                .iter()
                .find(|(other, whose, _)| whose != name && meets(other));
            let at = at.to_string();
            if let Some((other, whose, index)) = other {
                problems.push(Problem {
                    code: "tank::network::overlap",
                    path: path(["networks", name.as_str(), "subnets", &at]),
                    message: format!("{net} overlaps {other} of the network `{whose}`"),
                    help: "choose another subnet, or none: the network is leased one then"
                        .to_owned(),
                    related: Some((
                        path(["networks", whose.as_str(), "subnets", index]),
                        "taken here",
                    )),
                });
            }
            taken.push((net, name, at));
        }
    }
}

/// Two pods can't have one address on one network.
fn addresses_twice(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    let mut taken: BTreeMap<(&Name, IpAddr), (&Name, Vec<String>)> = BTreeMap::new();
    for (pod, spec) in those_there_first(config, scope) {
        for (network, membership) in &spec.networks {
            for (at, address) in membership.addresses.iter().enumerate() {
                let at = [
                    "pods",
                    pod.as_str(),
                    "networks",
                    network.as_str(),
                    "addresses",
                    &at.to_string(),
                ];
                let at = path(at);
                match taken.get(&(network, *address)) {
                    Some((other, first)) if *other != pod => problems.push(Problem {
                        code: "tank::network::address_taken",
                        path: at,
                        message: format!("{address} is given to two pods"),
                        help: format!("`{other}` has it already"),
                        related: Some((first.clone(), "taken here")),
                    }),
                    Some(_) => {}
                    None => drop(taken.insert((network, *address), (pod, at))),
                }
            }
        }
    }
}

/// A network has as many pods as its subnets have addresses for, and its bridge ports.
fn full(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    let mut on: BTreeMap<&Name, u128> = BTreeMap::new();
    for (pod, spec) in those_there_first(config, scope) {
        for name in spec.networks.keys() {
            let Some(subnets) = config.networks.get(name).and_then(sound) else {
                continue;
            };
            let smallest = subnets.into_iter().min_by_key(|net| room(*net));
            let most = smallest.map_or(MAX_PODS, |net| room(net).min(MAX_PODS));
            let count = on.entry(name).or_default();
            *count += 1;
            if *count != most + 1 {
                continue;
            }
            let why = match smallest.filter(|net| room(*net) == most) {
                Some(net) if most == 1 => format!("{net} has an address for one pod"),
                Some(net) => format!("{net} has addresses for {most} pods"),
                None => format!("one bridge has room for {most} pods"),
            };
            problems.push(Problem {
                code: "tank::network::full",
                path: path(["pods", pod.as_str(), "networks", name.as_str()]),
                message: format!(
                    "there are more pods on the network `{}` than fit",
                    name.local()
                ),
                help: format!("{why}: make a second network for the others"),
                related: Some((
                    path(["networks", name.as_str()]),
                    "the network is declared here",
                )),
            });
        }
    }
}

#[cfg(test)]
mod tests;
