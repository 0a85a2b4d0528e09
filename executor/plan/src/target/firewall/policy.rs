//! Who may open connections to a pod, and to whom a pod may: `allow_from` and `egress`.
//!
//! A connection is judged where it is routed, by whom it is from and to: each packet that goes the way
//! of the first one, so that a policy holds for what was open before it; what goes the other way
//! passes. By then a published port is the pod's own, and the source is still whoever opened it. Sources can be trusted: a pod sends as itself alone
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
    Chain, Family, Going, Kind, Scene, Set, Table, TableFamily, Value,
    bridged::link_local,
    judging::{between, inward, judging, steering},
    of_family,
    routed::everything,
};
use crate::target::{Target, networks::Place};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use tank_model::spec::Peer;

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
/// What is not the internet, as pairs of everything and that.
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

/// What has no place there: what is not in 2000::/3 (RFC 4291, section 2.4).
const NOT_INTERNET6: [Ipv6Net; 3] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 3),
    Ipv6Net::new_assert(Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 0), 2),
    Ipv6Net::new_assert(Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0), 1),
];

/// A pod with a policy.
struct Policed<'a> {
    /// Where it is.
    places: Vec<Place>,
    /// Who may open connections to it. None: everybody.
    admits: Option<&'a [Peer]>,
    /// To whom it may. None: to everybody.
    reaches: Option<&'a [Peer]>,
}

impl Target<'_> {
    /// Adds what policies need. Those of pods that go hold until they are gone.
    pub(super) fn add_policies(&self, table: &mut Table, scene: &Scene, going: &Going) {
        let policed = self.policed(scene, going);
        // Of whom not even a place is known nobody knows a policy: they are reached by nobody.
        let known: BTreeSet<u32> = scene.places.iter().map(|place| place.group).collect();
        let unknown: Vec<u32> = going.ports.difference(&known).copied().collect();
        if policed.is_empty() && unknown.is_empty() {
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
        let addressed = scene.families();
        let families = scene.families_of_pods();
        table.rules.extend(judging(&families, &addressed));
        table.rules.extend(inward(&families, &addressed));
        table.rules.extend(steering());
        table.rules.extend(between());
        for family in families {
            table.sets.extend(self.policy_sets(family, scene, &policed));
        }
        let set = |name: &str, kind, elements| Set {
            family: TableFamily::Bridge,
            name: name.to_owned(),
            key: vec![kind],
            data: Vec::new(),
            elements,
        };
        let places = || policed.iter().flat_map(|pod| &pod.places);
        let groups = places().map(|place| place.group).chain(unknown);
        let groups = groups.map(|group| vec![Value::Group(group)]);
        let macs = places().map(|place| vec![Value::Mac(place.mac)]);
        table.sets.extend([
            set(POLICED, Kind::Group, groups.collect()),
            set(POLICED_MACS, Kind::Mac, macs.collect()),
        ]);
    }

    /// The pods with a policy, and what is on its way out of those that had one.
    fn policed(&self, scene: &Scene, going: &Going) -> Vec<Policed<'_>> {
        let pods = self.graph.pods();
        let mut all: Vec<Policed<'_>> = pods
            .filter_map(|pod| {
                let node = self.graph.pod(pod)?;
                Some(Policed {
                    places: self.places(pod),
                    admits: node.allow_from.peers(),
                    reaches: node.egress.peers(),
                })
            })
            .collect();
        let declared: BTreeSet<u32> = groups(&all);
        let of_going =
            |place: &Place| going.ports.contains(&place.group) && !declared.contains(&place.group);
        all.extend(self.going_pods(going).filter_map(|(graph, pod)| {
            let (before, now) = (graph.pod(pod)?, self.graph.pod(pod));
            let places = self.places_in(graph, pod).into_iter();
            Some(Policed {
                places: places.filter(of_going).collect(),
                admits: narrower(
                    before.allow_from.peers(),
                    now.and_then(|now| now.allow_from.peers()),
                ),
                reaches: narrower(
                    before.egress.peers(),
                    now.and_then(|now| now.egress.peers()),
                ),
            })
        }));
        // Nobody knows what those may that no declaration at hand has.
        let known = groups(&all);
        let rest = scene.places.iter();
        let rest = rest.filter(|place| of_going(place) && !known.contains(&place.group));
        all.extend(rest.map(|place| Policed {
            places: vec![place.clone()],
            admits: Some(&[]),
            reaches: Some(&[]),
        }));
        all.retain(|pod| !pod.places.is_empty() && (pod.admits.is_some() || pod.reaches.is_some()));
        all
    }

    /// The networks that peers have, of the family of the pod's own address, none within another. A
    /// pod is always among its own: it may use the ports that it publishes.
    fn networks_of(&self, own: IpAddr, peers: &[Peer]) -> Vec<IpNet> {
        let family = Family::from(own);
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
            .chain([own.into()])
            .filter(|net| Family::from(net.addr()) == family)
            .collect();
        IpNet::aggregate(&nets)
    }

    /// The sets of a family.
    fn policy_sets(&self, family: Family, scene: &Scene, policed: &[Policed<'_>]) -> Vec<Set> {
        let (mut closed, mut admitted) = (BTreeSet::new(), BTreeSet::new());
        let (mut bound, mut allowed) = (BTreeSet::new(), BTreeSet::new());
        let mut internet = BTreeSet::new();
        for pod in policed {
            let own = pod.places.iter().flat_map(|place| &place.addresses);
            for own in own
                .map(IpNet::addr)
                .filter(|own| Family::from(*own) == family)
            {
                if let Some(peers) = pod.admits {
                    closed.insert(vec![own.into()]);
                    let nets = self.networks_of(own, peers).into_iter();
                    admitted.extend(nets.map(|net| vec![net.into(), IpNet::from(own).into()]));
                }
                if let Some(peers) = pod.reaches {
                    bound.insert(vec![own.into()]);
                    let nets = self.networks_of(own, peers).into_iter();
                    allowed.extend(nets.map(|net| vec![IpNet::from(own).into(), net.into()]));
                    if peers.contains(&Peer::Internet) {
                        internet.insert(vec![own.into()]);
                    }
                }
            }
            // Of its link alone, on which the host is, too; and the host routes it back there. No peer is
            // known by such an address.
            if family == Family::V6 {
                let own = pod.places.iter().map(|place| link_local(place.mac));
                let own = own.map(|own| vec![Value::V6(own)]);
                closed.extend(own.clone().filter(|_| pod.admits.is_some()));
                bound.extend(own.filter(|_| pod.reaches.is_some()));
            }
        }
        let inner = inner(family, scene.subnets(family)).into_iter();
        let inner = inner.map(|net| vec![everything(family).into(), net.into()]);
        let inner = inner.collect();
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

fn groups(pods: &[Policed<'_>]) -> BTreeSet<u32> {
    let places = pods.iter().flat_map(|pod| &pod.places);
    places.map(|place| place.group).collect()
}

/// What holds for a pod that goes and comes back as another: the one list there is, or, where there are
/// two that differ, nobody.
fn narrower<'a>(before: Option<&'a [Peer]>, now: Option<&'a [Peer]>) -> Option<&'a [Peer]> {
    match (before, now) {
        (Some(before), Some(now)) if before != now => Some(&[]),
        (before, now) => before.or(now),
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

/// What is not the internet of a family: the pods' networks, and what has no place there.
fn inner(family: Family, networks: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = networks.collect();
    match family {
        Family::V4 => nets.extend(NOT_INTERNET.map(IpNet::from)),
        Family::V6 => nets.extend(NOT_INTERNET6.map(IpNet::from)),
    }
    IpNet::aggregate(&nets)
}
