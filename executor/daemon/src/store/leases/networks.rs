//! The numbers of networks, and of pods on them ([`tank_plan::target::networks`]).
//!
//! They are leases as those of pods are, by names that no pod has: `net/NETWORK`, `net/NETWORK/POD`.

use super::Leases;
use crate::store::StoreError;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{
    Digest, Graph, Name,
    spec::{Membership, NamedNetwork},
    units::nth_address,
};
use tank_plan::target::{
    NetworkLease,
    networks::{
        FIRST_POD_NUMBER, MAX_NETWORK_NUMBER, MAX_POD_NUMBER, leased_subnets, memberships, subnets,
    },
};

/// A network of a graph, and the pods that are on it.
#[derive(Clone, Debug)]
pub struct WantedNetwork {
    pub name: Name,
    pub spec: NamedNetwork,
    pub pods: Vec<(Name, Membership)>,
}

impl WantedNetwork {
    /// Those of a graph that pods are on.
    pub fn of(graph: &Graph) -> Vec<Self> {
        let mut pods: BTreeMap<Name, Vec<(Name, Membership)>> = BTreeMap::new();
        for pod in graph.pods() {
            for (network, own) in memberships(graph, pod) {
                pods.entry(network).or_default().push((pod.clone(), own));
            }
        }
        let networks = graph.networks();
        let wanted = networks.filter_map(|(name, spec)| {
            Some(Self {
                name: name.clone(),
                spec: spec.clone(),
                pods: pods.remove(name)?,
            })
        });
        wanted.collect()
    }

    /// The names of its leases.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let pods = self.pods.iter().map(|(pod, _)| pod_key(&self.name, pod));
        [network_key(&self.name)].into_iter().chain(pods)
    }
}

/// The name of a network's lease.
fn network_key(network: &Name) -> String {
    format!("net/{network}")
}

/// The name of the lease of a pod on a network.
fn pod_key(network: &Name, pod: &Name) -> String {
    format!("net/{network}/{pod}")
}

/// Whether a lease is one of a pod, and not of a network.
pub fn is_of_pod(name: &str) -> bool {
    !name.contains('/')
}

/// What there is of `kept`, and of what is new, of a network. None: it has none.
pub fn lease_of(
    network: &WantedNetwork,
    number: impl Fn(&str) -> Option<u32>,
) -> Option<NetworkLease> {
    let pods = network.pods.iter();
    let pods = pods.filter_map(|(pod, _)| {
        let number = number(&pod_key(&network.name, pod))?;
        Some((pod.clone(), number))
    });
    Some(NetworkLease {
        number: number(&network_key(&network.name))?,
        pods: pods.collect(),
    })
}

/// New leases for those of `wanted` that have none in `kept`, or one that does not fit any more. Pure.
///
/// # Errors
/// [`StoreError::NoSubnet`] and [`StoreError::NoAddress`] when there are too few.
pub fn propose(
    kept: &Leases,
    wanted: &[WantedNetwork],
    pools: &[IpNet],
) -> Result<Leases, StoreError> {
    let mut new = Leases::new();
    if wanted.is_empty() {
        return Ok(new);
    }
    let is_network = |name: &&String| name.starts_with("net/") && name.split('/').count() == 2;
    let networks = kept.iter().filter(|(name, _)| is_network(name));
    let mut taken: BTreeSet<u32> = networks.map(|(_, number)| *number).collect();
    let declared = wanted.iter().flat_map(|network| network.spec.nets());
    let declared: Vec<IpNet> = declared.collect();
    for network in wanted {
        let key = network_key(&network.name);
        let has_own = !network.spec.subnets.is_empty();
        // Smaller pools than there were have fewer parts.
        let is_there = |number: &u32| {
            let parts = leased_subnets(pools, *number).len();
            has_own || parts > 0 && parts == pools.len()
        };
        let number = match kept.get(&key).filter(|number| is_there(number)) {
            Some(number) => *number,
            None => {
                let fits = |number: &u32| {
                    let parts = leased_subnets(pools, *number);
                    let free = |part: &IpNet| !declared.iter().any(|net| overlap(net, part));
                    has_own || is_there(number) && parts.iter().all(free)
                };
                let free = |number: &u32| !taken.contains(number) && fits(number);
                let start = hash(&key) % MAX_NETWORK_NUMBER;
                let mut all = (0..MAX_NETWORK_NUMBER).map(|i| (start + i) % MAX_NETWORK_NUMBER);
                let number = all.find(free).ok_or(StoreError::NoSubnet)?;
                taken.insert(number);
                new.insert(key, number);
                number
            }
        };
        let subnets = subnets(&network.spec, pools, number);
        new.extend(propose_pods(kept, network, &subnets)?);
    }
    Ok(new)
}

/// The same of the pods of one network.
fn propose_pods(
    kept: &Leases,
    network: &WantedNetwork,
    subnets: &[IpNet],
) -> Result<Leases, StoreError> {
    let fixed = network.pods.iter().flat_map(|(_, own)| &own.addresses);
    let fixed: BTreeSet<IpAddr> = fixed.copied().collect();
    let fits = |own: &Membership, number: u32| {
        subnets.iter().all(|subnet| {
            own.addresses.iter().any(|own| subnet.contains(own))
                || nth_address(*subnet, number).is_some_and(|own| !fixed.contains(&own.addr()))
        })
    };
    let prefix = format!("{}/", network_key(&network.name));
    let numbers = kept.range(prefix.clone()..);
    let numbers = numbers.take_while(|(name, _)| name.starts_with(&prefix));
    let mut taken: BTreeSet<u32> = numbers.map(|(_, number)| *number).collect();
    let mut new = Leases::new();
    for (pod, own) in &network.pods {
        let key = pod_key(&network.name, pod);
        if kept.get(&key).is_some_and(|number| fits(own, *number)) {
            continue;
        }
        // As small as the smallest subnet that one is leased of.
        let leased = subnets
            .iter()
            .filter(|subnet| !own.addresses.iter().any(|own| subnet.contains(own)));
        let sizes = leased.map(size);
        let last = sizes
            .chain([MAX_POD_NUMBER])
            .min()
            .unwrap_or(MAX_POD_NUMBER);
        let count = last.saturating_sub(FIRST_POD_NUMBER);
        let start = hash(&key).checked_rem(count).unwrap_or_default();
        let mut all = (0..count).map(|i| FIRST_POD_NUMBER + (start + i) % count);
        let number = all.find(|number| !taken.contains(number) && fits(own, *number));
        let number = number.ok_or_else(|| StoreError::NoAddress(network.name.to_string()))?;
        taken.insert(number);
        new.insert(key, number);
    }
    Ok(new)
}

/// How many addresses a subnet has, as far as numbers go.
fn size(subnet: &IpNet) -> u32 {
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    1u32.checked_shl(bits.into()).unwrap_or(u32::MAX)
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.trunc().addr()) || b.contains(&a.trunc().addr())
}

fn hash(key: &str) -> u32 {
    let bytes = *Digest::of(key.as_bytes()).as_bytes();
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Vec<IpNet> {
        let pools = ["10.91.0.0/16", "fd74:616e:6b01::/48"];
        pools.map(|pool| pool.parse().expect("a network")).into()
    }

    fn network(name: &str, subnets: &[&str], pods: &[(&str, &[&str])]) -> WantedNetwork {
        let spec = serde_json::json!({ "subnets": subnets });
        let own = |(pod, addresses): &(&str, &[&str])| {
            let own = serde_json::json!({ "addresses": addresses });
            let own = serde_json::from_value(own).expect("a membership");
            (Name::of_pod(*pod).expect("a name"), own)
        };
        WantedNetwork {
            name: Name::of_pod(name).expect("a name"),
            spec: serde_json::from_value(spec).expect("a network"),
            pods: pods.iter().map(own).collect(),
        }
    }

    #[test]
    fn leases_stay_and_are_nobody_elses() {
        let pods: Vec<String> = (0..200).map(|n| format!("p{n}")).collect();
        let pods: Vec<(&str, &[&str])> = pods.iter().map(|pod| (pod.as_str(), &[][..])).collect();
        let wanted = [
            network("back", &[], &pods),
            network("x:back", &[], &pods[..1]),
        ];
        let first = propose(&Leases::new(), &wanted, &pools()).expect("proposes");
        assert_eq!(first.len(), 2 + 201);
        assert_ne!(first["net/back"], first["net/x:back"]);
        let numbers = first
            .iter()
            .filter(|(name, _)| name.starts_with("net/back/"));
        let numbers: BTreeSet<u32> = numbers.map(|(_, number)| *number).collect();
        assert_eq!(numbers.len(), 200);
        assert!(numbers.first() >= Some(&2) && numbers.last() <= Some(&254));
        assert_eq!(
            propose(&first, &wanted, &pools()).expect("proposes"),
            Leases::new()
        );
        assert!(first.keys().all(|name| !is_of_pod(name)));
    }

    /// Addresses follow from leases, and people rely on them: these names get exactly these.
    #[test]
    fn names_say_their_leases() {
        let wanted = [network("back", &[], &[("db", &[]), ("web", &[])])];
        let new = propose(&Leases::new(), &wanted, &pools()).expect("proposes");
        let of = |name: &str| new[name];
        let numbers = (of("net/back"), of("net/back/db"), of("net/back/web"));
        assert_eq!(numbers, (187, 227, 189));
    }

    #[test]
    fn pools_of_another_size_move_no_network_that_is_still_in_them() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let wanted = names.map(|name| network(name, &[], &[("web", &[])]));
        let parse = |pool: &str| -> IpNet { pool.parse().expect("a network") };
        let mut leases = propose(&Leases::new(), &wanted, &pools()).expect("proposes");
        let number = |leases: &Leases, name: &str| leases[&format!("net/{name}")];
        for pool in [
            "10.91.0.0/15",
            "10.91.0.0/16",
            "10.91.0.0/17",
            "10.91.0.0/20",
        ] {
            let pools = [parse(pool), parse("fd74:616e:6b01::/48")];
            let before = leases.clone();
            leases.extend(propose(&leases, &wanted, &pools).expect("proposes"));
            for name in names {
                let (was, is) = (number(&before, name), number(&leases, name));
                let stays = leased_subnets(&pools, was).len() == 2;
                assert_eq!(was == is, stays, "{pool}: {name}");
                assert_eq!(leased_subnets(&pools, is).len(), 2, "{pool}: {name}");
            }
            let numbers: BTreeSet<u32> = names.map(|name| number(&leases, name)).into();
            assert_eq!(numbers.len(), names.len());
        }
        assert!(number(&leases, "a") < 16);
    }

    #[test]
    fn leased_addresses_avoid_static_ones() {
        let free = network("n", &["10.1.0.0/29"], &[("a", &[])]);
        let before = propose(&Leases::new(), &[free], &pools()).expect("proposes");
        let number = before["net/n/a"];
        let fixed = format!("10.1.0.{number}");
        let fixed: &[&str] = &[&fixed];
        let both = network("n", &["10.1.0.0/29"], &[("a", &[]), ("b", fixed)]);
        let after = propose(&before, &[both], &pools()).expect("proposes");
        assert_ne!(after["net/n/a"], number, "it gives way");
        let full: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
        let full: Vec<(&str, &[&str])> = full.iter().map(|pod| (pod.as_str(), &[][..])).collect();
        let full = network("n", &["10.1.0.0/29"], &full);
        let refused = propose(&Leases::new(), &[full], &pools());
        assert!(
            matches!(refused, Err(StoreError::NoAddress(_))),
            "five are free"
        );
    }

    #[test]
    fn leased_subnets_avoid_declared_ones() {
        let key = network("back", &[], &[("a", &[])]);
        let number = propose(&Leases::new(), std::slice::from_ref(&key), &pools())
            .expect("proposes")["net/back"];
        let declared = format!("10.91.{number}.128/25");
        let other = network("other", &[&declared], &[("b", &[])]);
        let new = propose(&Leases::new(), &[key, other], &pools()).expect("proposes");
        assert_eq!(new["net/back"], (number + 1) % 256);
        let all: Vec<WantedNetwork> = (0..257)
            .map(|n| network(&format!("n{n}"), &[], &[("a", &[])]))
            .collect();
        let refused = propose(&Leases::new(), &all, &pools());
        assert!(matches!(refused, Err(StoreError::NoSubnet)));
        assert_eq!(
            propose(&Leases::new(), &all[..256], &pools())
                .expect("proposes")
                .len(),
            512
        );
        let none = propose(&Leases::new(), &all[..1], &[]);
        assert!(
            matches!(none, Err(StoreError::NoSubnet)),
            "there is no pool"
        );
    }
}
