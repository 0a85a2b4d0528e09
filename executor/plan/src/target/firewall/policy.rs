//! Who may open connections to a pod, and to whom a pod may: `allow_from` and `egress`.
//!
//! A connection is judged where it is routed, by whom it is from and to, when its first packet comes;
//! what belongs to one that was let through passes, both ways. By then a published port is the pod's
//! own, and the source is still whoever opened it. Sources can be trusted: a pod sends as itself alone
//! (`bridged`), and nobody else may come with a pod's address.
//!
//! Pods on one bridge speak without being routed. So what comes from a pod with a policy, or is for
//! one, is handed to the host on its way into the bridge (`steering`), which routes it back: without
//! that there are no connections to be judged by, since a kernel need not have connection tracking
//! for bridges (`CONFIG_NF_CONNTRACK_BRIDGE`). What is for many at once can't be routed back, and
//! stays away from such pods, but for neighbour discovery (`between`).
//!
//! Where no pod has a policy there is none of all this.

use super::{
    Chain, Family, Kind, Set, Table, TableFamily, Value,
    bridged::{hardware_address, link_local, port_group},
    judging::{between, inward, judging, steering},
};
use crate::target::Target;
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};
use tank_model::{Graph, Name, spec::Peer};

pub(super) const POLICY: &str = "policy";
pub(super) const INWARD: &str = "inward";
pub(super) const STEERING: &str = "steering";
pub(super) const BETWEEN: &str = "between";

/// The sets of a family, without its number: pods that not everybody reaches, and who does reach them;
/// pods that do not reach everybody, whom they do reach, and which of them reach the internet.
pub(super) const CLOSED: &str = "closed";
pub(super) const ADMITTED: &str = "admitted";
pub(super) const BOUND: &str = "bound";
pub(super) const ALLOWED: &str = "allowed";
pub(super) const INTERNET: &str = "internet";
/// What is not the internet, as pairs of a pods' network and that.
pub(super) const INNER: &str = "inner";

/// The sets of ports and of hardware addresses of pods with a policy.
pub(super) const POLICED: &str = "policed";
pub(super) const POLICED_MACS: &str = "policed_macs";

/// What no packet on the internet is for: private, shared, of a link, of a host, of many, and what is
/// reserved (RFC 6890).
const NOT_INTERNET: [Ipv4Net; 11] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// A pod with a policy.
struct Policed<'a> {
    lease: u32,
    /// Who may open connections to it. None: everybody.
    admits: Option<&'a [Peer]>,
    /// To whom it may. None: to everybody.
    reaches: Option<&'a [Peer]>,
}

impl Target<'_> {
    /// Adds what policies need. Those of the leases `going` hold until they are gone.
    pub(super) fn add_policies(&self, table: &mut Table, going: &BTreeSet<u32>) {
        let policed = self.policed(going);
        if policed.is_empty() {
            return;
        }
        let chain = |family, name: &str, hook, priority| Chain {
            family,
            name: name.to_owned(),
            kind: "filter".to_owned(),
            hook,
            priority,
        };
        table.chains.extend([
            chain(TableFamily::Inet, POLICY, 2, -5),
            chain(TableFamily::Inet, INWARD, 1, -5),
            chain(TableFamily::Bridge, STEERING, 0, -305),
            chain(TableFamily::Bridge, BETWEEN, 2, -200),
        ]);
        let networks = self.host.networks.iter().map(IpNet::trunc);
        let networks: Vec<IpNet> = networks.collect();
        table.rules.extend(judging(&self.host.bridge, &networks));
        table
            .rules
            .extend(inward(&self.host.bridge, &networks, &self.nth(1)));
        table.rules.extend(steering());
        table.rules.extend(between());
        for network in &networks {
            table.sets.extend(self.policy_sets(*network, &policed));
        }
        let set = |name: &str, kind, elements| Set {
            family: TableFamily::Bridge,
            name: name.to_owned(),
            key: vec![kind],
            data: Vec::new(),
            elements,
        };
        let leases = || policed.iter().map(|pod| pod.lease);
        let groups = leases().map(|lease| vec![Value::Group(port_group(lease))]);
        let macs = leases().map(|lease| vec![Value::Mac(hardware_address(lease))]);
        table.sets.extend([
            set(POLICED, Kind::Group, groups.collect()),
            set(POLICED_MACS, Kind::Mac, macs.collect()),
        ]);
    }

    /// The pods with a policy, and those on their way out that had one.
    fn policed(&self, going: &BTreeSet<u32>) -> Vec<Policed<'_>> {
        let of = |graph: &'_ Graph, pod: &Name| -> Option<(u32, bool)> {
            let node = graph.pod(pod)?;
            let lease = self.leases.get(pod).copied()?;
            let has_any = node.allow_from.peers().is_some() || node.egress.peers().is_some();
            Some((lease, has_any))
        };
        let mut found = Vec::new();
        let pods = self.graph.pods().filter(|pod| self.is_bridged(pod));
        let mut all: Vec<(&Graph, &Name)> = pods.map(|pod| (self.graph, pod)).collect();
        let previous = self.previous.into_iter();
        all.extend(previous.flat_map(|graph| {
            let gone = graph.pods().filter(|pod| !self.is_bridged(pod));
            gone.filter(|pod| {
                self.leases
                    .get(*pod)
                    .is_some_and(|lease| going.contains(lease))
            })
            .map(move |pod| (graph, pod))
        }));
        for (graph, pod) in all {
            if let (Some((lease, true)), Some(node)) = (of(graph, pod), graph.pod(pod)) {
                found.push(Policed {
                    lease,
                    admits: node.allow_from.peers(),
                    reaches: node.egress.peers(),
                });
            }
        }
        found
    }

    /// The networks of a family that peers have, none within another.
    fn networks_of(&self, family: Family, peers: &[Peer]) -> Vec<IpNet> {
        let of = |peer: &Peer| -> Vec<IpNet> {
            match peer {
                Peer::Pod(pod) => {
                    let own = self.addresses(pod).into_iter();
                    own.map(|own| IpNet::from(own.addr())).collect()
                }
                Peer::Net(net) => vec![net.trunc()],
                Peer::Internet => Vec::new(),
            }
        };
        let nets = peers.iter().flat_map(of);
        let nets: Vec<IpNet> = nets
            .filter(|net| Family::from(net.addr()) == family)
            .collect();
        IpNet::aggregate(&nets)
    }

    /// The sets of the family of one of the pods' networks.
    fn policy_sets(&self, network: IpNet, policed: &[Policed<'_>]) -> Vec<Set> {
        let family = Family::from(network.addr());
        let (mut closed, mut admitted) = (BTreeSet::new(), BTreeSet::new());
        let (mut bound, mut allowed) = (BTreeSet::new(), BTreeSet::new());
        let mut internet = BTreeSet::new();
        for pod in policed {
            let own = self.nth(pod.lease).into_iter().map(|own| own.addr());
            for own in own.filter(|own| Family::from(*own) == family) {
                if let Some(peers) = pod.admits {
                    closed.insert(vec![own.into()]);
                    let nets = self.networks_of(family, peers).into_iter();
                    admitted.extend(nets.map(|net| vec![net.into(), IpNet::from(own).into()]));
                }
                if let Some(peers) = pod.reaches {
                    bound.insert(vec![own.into()]);
                    let nets = self.networks_of(family, peers).into_iter();
                    allowed.extend(nets.map(|net| vec![IpNet::from(own).into(), net.into()]));
                    if peers.contains(&Peer::Internet) {
                        internet.insert(vec![own.into()]);
                    }
                }
            }
            // What it sends from there reaches its own link alone, on which the host is.
            if family == Family::V6 && pod.reaches.is_some() {
                let own = IpAddr::V6(link_local(hardware_address(pod.lease)));
                bound.insert(vec![own.into()]);
            }
        }
        let inner = inner(network).into_iter();
        let inner = inner.map(|net| vec![network.into(), net.into()]).collect();
        let (one, net) = match family {
            Family::V4 => (Kind::V4, Kind::Net4),
            Family::V6 => (Kind::V6, Kind::Net6),
        };
        let set = |name: &str, key: &[Kind], elements| Set {
            family: TableFamily::Inet,
            name: of_family(name, family),
            key: key.to_vec(),
            data: Vec::new(),
            elements,
        };
        vec![
            set(CLOSED, &[one], closed),
            set(ADMITTED, &[net, net], admitted),
            set(BOUND, &[one], bound),
            set(ALLOWED, &[net, net], allowed),
            set(INTERNET, &[one], internet),
            set(INNER, &[net, net], inner),
        ]
    }
}

impl From<IpNet> for Value {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self::Net4(v4),
            IpNet::V6(v6) => Self::Net6(v6),
        }
    }
}

pub(super) fn of_family(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}4"),
        Family::V6 => format!("{name}6"),
    }
}

/// What is not the internet of a pods' network's family: that network, and what has no place there.
fn inner(network: IpNet) -> Vec<IpNet> {
    let mut nets = vec![network];
    if network.addr().is_ipv4() {
        nets.extend(NOT_INTERNET.map(IpNet::from));
    }
    IpNet::aggregate(&nets)
}
