//! Which address of a pool an interface of a pod has.
//!
//! As leases of pods: proposed while planning, taken with the commit of a generation that declares the
//! interface, and kept for it then, over restarts and rollbacks. Where a pool has none left, those of
//! interfaces that are not declared any more are given to others. They are among the leases under the
//! interface's name and its pool, as how many places into the pool they are. Where an interface's pool
//! becomes another one, its address stays its own if it is in that one, too: the lease moves.

use super::leases::{LeaseChange, Leases};
use std::{collections::BTreeMap, net::IpAddr};
use tank_model::{Digest, spec::Pool};
use tank_plan::target::pools::{Demand, Pooled, Wanted};

/// What ends the name of an interface, and begins its pool.
const OF_POOL: char = '@';

/// Whether a lease is an address of a pool, and not a pod's.
pub fn is_pooled(name: &str) -> bool {
    name.contains(OF_POOL)
}

fn name_of(wanted: &Wanted) -> String {
    let Pool { addresses, network } = wanted.pool;
    format!(
        "{}{addresses}/{}",
        names_of_nic(wanted),
        network.prefix_len()
    )
}

/// How the names of all leases of an interface begin.
fn names_of_nic(wanted: &Wanted) -> String {
    let Wanted { pod, nic, .. } = wanted;
    format!("{pod}/{nic}{OF_POOL}")
}

/// The address of a lease.
fn address_of(name: &str, place: u32) -> Option<IpAddr> {
    let (_, pool) = name.split_once(OF_POOL)?;
    let (addresses, prefix) = pool.rsplit_once('/')?;
    let addresses: ipnet::IpNet = addresses.parse().ok()?;
    let network = ipnet::IpNet::new(addresses.addr(), prefix.parse().ok()?).ok()?;
    let network = network.trunc();
    Pool { addresses, network }.nth(place)
}

/// The addresses that all of `demand` get that can be had, and what has to be kept for that. Pure.
pub fn propose(kept: &Leases, demand: &Demand) -> (Pooled, LeaseChange) {
    let mut pooled = Pooled::new();
    let mut change = LeaseChange::default();
    if demand.wanted.is_empty() {
        return (pooled, change);
    }
    let wanted = demand.wanted.iter();
    let names: BTreeMap<String, &Wanted> = wanted.map(|wanted| (name_of(wanted), wanted)).collect();
    let pools = kept.iter().filter(|(name, _)| is_pooled(name));
    let mut taken: BTreeMap<IpAddr, &str> = BTreeMap::new();
    // Of those that are wanted each is one's alone; the others make way.
    let (own, others): (Vec<_>, Vec<_>) = pools.partition(|(name, _)| names.contains_key(*name));
    for (name, place) in own.into_iter().chain(others) {
        if let Some(address) = address_of(name, *place).filter(|own| !demand.avoid.contains(own)) {
            taken.entry(address).or_insert(name);
        }
    }
    let mut give = |wanted: &Wanted, address| {
        let of_pod = pooled.entry(wanted.pod.clone()).or_default();
        of_pod.insert(wanted.nic.clone(), address);
    };
    let mut without = Vec::new();
    for (name, &wanted) in &names {
        let found = kept.get(name).and_then(|place| address_of(name, *place));
        if let Some(address) = found.filter(|own| taken.get(own) == Some(&name.as_str())) {
            give(wanted, address);
        } else if let Some((before, place, address)) = carried(kept, wanted, demand, &taken) {
            taken.insert(address, name);
            change.released.insert(before.to_owned());
            change.new.insert(name.clone(), place);
            give(wanted, address);
        } else {
            without.push((name, wanted));
        }
    }
    for (name, wanted) in without {
        let is_free = |address: &IpAddr, taken: &BTreeMap<IpAddr, &str>| {
            !taken.contains_key(address) && !demand.avoid.contains(address)
        };
        let free = pick(name, wanted.pool, |address| is_free(address, &taken));
        let found = free.or_else(|| {
            // What belongs to nobody that is declared.
            let is_left = |address: &IpAddr| {
                let owner = taken.get(address);
                !demand.avoid.contains(address)
                    && owner.is_none_or(|owner| !names.contains_key(*owner))
            };
            pick(name, wanted.pool, is_left)
        });
        let Some((place, address)) = found else {
            continue;
        };
        if let Some(before) = taken.insert(address, name) {
            change.released.insert(before.to_owned());
        }
        change.new.insert(name.clone(), place);
        give(wanted, address);
    }
    (pooled, change)
}

/// What an interface has of another pool that lies in the one that it is to have now, and nobody else
/// has: the name of the lease, and the address with its place in the pool.
fn carried<'a>(
    kept: &'a Leases,
    wanted: &Wanted,
    demand: &Demand,
    taken: &BTreeMap<IpAddr, &str>,
) -> Option<(&'a str, u32, IpAddr)> {
    let prefix = names_of_nic(wanted);
    let own = kept.range(prefix.clone()..);
    let mut own = own.take_while(|(name, _)| name.starts_with(&prefix));
    own.find_map(|(name, place)| {
        let address = address_of(name, *place)?;
        let is_own = taken.get(&address) == Some(&name.as_str());
        let place = wanted.pool.place(address)?;
        is_own.then_some((name.as_str(), place, address))
    })
    .filter(|(_, _, address)| !demand.avoid.contains(address))
}

/// The one that a name's hash says, or the next that will do: a store that is made anew hands the same
/// interfaces the same addresses nearly always.
fn pick(name: &str, pool: Pool, will_do: impl Fn(&IpAddr) -> bool) -> Option<(u32, IpAddr)> {
    let bytes = *Digest::of(name.as_bytes()).as_bytes();
    let size = u64::from(pool.len());
    let start = u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    (0..size).find_map(|step| {
        let place = u32::try_from((start + step) % size).ok()?;
        let address = pool.nth(place).filter(&will_do)?;
        Some((place, address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tank_model::Name;

    fn pool(addresses: &str, prefix: u8) -> Pool {
        let addresses: ipnet::IpNet = addresses.parse().expect("a network");
        let network = ipnet::IpNet::new(addresses.addr(), prefix).expect("a network");
        Pool {
            addresses,
            network: network.trunc(),
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn demand(pods: &[&str], pool: Pool, avoid: &[&str]) -> Demand {
        let wanted = |pod: &&str| Wanted {
            pod: name(pod),
            nic: name("eth0"),
            pool,
        };
        let avoid = avoid.iter().map(|own| own.parse().expect("an address"));
        Demand {
            wanted: pods.iter().map(wanted).collect(),
            avoid: avoid.collect(),
        }
    }

    fn addresses(pooled: &Pooled) -> BTreeMap<String, IpAddr> {
        let nics = pooled.iter();
        nics.map(|(pod, nics)| (pod.to_string(), nics[&name("eth0")]))
            .collect()
    }

    /// What a store keeps after a commit.
    fn commit(leases: &mut Leases, demand: &Demand) -> BTreeMap<String, IpAddr> {
        let (pooled, change) = propose(leases, demand);
        change.apply(leases);
        let (again, none) = propose(leases, demand);
        assert_eq!((&again, none), (&pooled, LeaseChange::default()));
        addresses(&pooled)
    }

    #[test]
    fn each_gets_one_of_its_own_and_keeps_it() {
        let own = pool("10.0.0.128/29", 24);
        let mut leases = Leases::from([("web".to_owned(), 1)]);
        let avoid = ["10.0.0.130", "10.0.0.131"];
        let first = commit(&mut leases, &demand(&["a", "b", "c"], own, &avoid));
        let distinct: BTreeSet<&IpAddr> = first.values().collect();
        assert_eq!(distinct.len(), 3);
        for address in distinct {
            assert!(own.addresses.contains(address), "{address}");
            assert!(!avoid.contains(&address.to_string().as_str()), "{address}");
        }
        // Others come and go.
        let more = commit(
            &mut leases,
            &demand(&["a", "b", "c", "d", "e", "f"], own, &avoid),
        );
        assert!(first.iter().all(|(pod, address)| more[pod] == *address));
        // All of the pool is given: 128 and 135 are hosts of the network that it is a part of.
        assert_eq!(more.len(), 6);
        let (full, _) = propose(
            &leases,
            &demand(&["a", "b", "c", "d", "e", "f", "g"], own, &avoid),
        );
        assert!(!full.contains_key(&name("g")));
        assert_eq!(addresses(&full), more);
        // One that is not declared any more makes way, and not before it has to.
        let fewer = commit(&mut leases, &demand(&["a", "b"], own, &avoid));
        assert_eq!(leases.len(), 7);
        let again = commit(&mut leases, &demand(&["a", "b", "c"], own, &avoid));
        assert_eq!(again["c"], more["c"], "nobody needed it");
        let other = commit(&mut leases, &demand(&["a", "b", "g"], own, &avoid));
        assert!(fewer.iter().all(|(pod, address)| other[pod] == *address));
        let before: BTreeSet<IpAddr> = more.values().copied().collect();
        assert!(before.contains(&other["g"]));
        assert_eq!(leases["web"], 1, "no pod's lease is touched");
    }

    #[test]
    fn a_pool_of_another_size_moves_nobody_who_is_still_in_it() {
        let pods = ["a", "b", "c", "d"];
        let of = |addresses: &str, prefix: u8, avoid: &[&str]| {
            demand(&pods, pool(addresses, prefix), avoid)
        };
        for (first, larger, smaller) in [
            ("10.0.0.128/28", "10.0.0.128/26", "10.0.0.128/29"),
            // It begins elsewhere, so that each has another place in it.
            ("10.0.0.128/28", "10.0.0.0/24", "10.0.0.136/29"),
            ("fd00::80/124", "fd00::/120", "fd00::88/125"),
        ] {
            let prefix = if first.starts_with("fd") { 64 } else { 23 };
            let mut leases = Leases::new();
            let before = commit(&mut leases, &of(first, prefix, &[]));
            let after = commit(&mut leases, &of(larger, prefix, &[]));
            assert_eq!(after, before, "{first} to {larger}");
            // Going back is the same again, and leaves nothing behind.
            assert_eq!(commit(&mut leases, &of(first, prefix, &[])), before);
            assert_eq!(leases.len(), 4, "{leases:?}");
            // Who is outside moves, to where nobody was, and nobody else does.
            let small = pool(smaller, prefix);
            let moved = commit(&mut leases, &of(smaller, prefix, &[]));
            let distinct: BTreeSet<&IpAddr> = moved.values().collect();
            assert_eq!(distinct.len(), 4, "{moved:?}");
            for (pod, address) in &before {
                let stays = small.addresses.contains(address);
                assert_eq!(moved[pod] == *address, stays, "{pod}: {before:?} {moved:?}");
                assert!(small.addresses.contains(&moved[pod]));
            }
            // What is somebody else's by now is not kept.
            let mut leases = Leases::new();
            let before = commit(&mut leases, &of(first, prefix, &[]));
            let taken = before["a"].to_string();
            let after = commit(&mut leases, &of(larger, prefix, &[&taken]));
            assert_ne!(after["a"], before["a"]);
            assert_eq!(after["b"], before["b"]);
        }
    }

    #[test]
    fn what_is_declared_elsewhere_is_left_out_also_later() {
        let own = pool("10.0.0.0/29", 29);
        let mut leases = Leases::new();
        let all = commit(
            &mut leases,
            &demand(&["a", "b", "c", "d", "e", "f"], own, &[]),
        );
        let given: BTreeSet<String> = all.values().map(ToString::to_string).collect();
        let hosts = (1..7).map(|n| format!("10.0.0.{n}"));
        assert_eq!(
            given,
            hosts.collect(),
            "neither the network's nor the broadcast"
        );
        // Another interface has the address of one by now.
        let taken = all["a"].to_string();
        let found = commit(&mut leases, &demand(&["a", "b"], own, &[&taken]));
        assert_ne!(found["a"].to_string(), taken);
        assert_eq!(found["b"], all["b"]);
    }

    #[test]
    fn pools_that_overlap_give_an_address_once_and_large_ones_are_no_matter() {
        let (small, large) = (pool("fd00::/126", 64), pool("fd00::/64", 64));
        let mut leases = Leases::new();
        let mut both = demand(&["a", "b", "c"], small, &["fd00::1"]);
        both.wanted.extend(demand(&["d", "e"], large, &[]).wanted);
        let found = commit(&mut leases, &both);
        // fd00:: is every router's, and fd00::1 somebody's.
        assert_eq!(found.len(), 4, "{found:?}");
        let distinct: BTreeSet<&IpAddr> = found.values().collect();
        assert_eq!(distinct.len(), 4);
        let junk = Leases::from([
            ("x/y@z".to_owned(), 1),
            ("x/y@10.0.0.0/8/99".to_owned(), 1),
            ("@".to_owned(), u32::MAX),
        ]);
        assert_eq!(propose(&junk, &both).0.len(), 3 + 1);
    }
}
