//! Reads who listens on the host, for [`tank_plan::ports`] to judge. It binds nothing and disturbs
//! nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};
use tank_model::spec::Protocol;
use tank_plan::ports::{Bound, Listener};
use tank_sys::{cgroup::Cgroups, sockets};

/// The most bytes of each listing that are read for each look at the host: some twenty-five thousand
/// sockets. Anybody may open more.
const MAX_LISTING: u64 = 4 << 20;

/// The port on which Tank's own name server is asked, at addresses of Tank's bridges: pods are led to
/// it before any port that is published.
const NAMES: u16 = 53;

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => sockets::TCP,
        Protocol::Udp => sockets::UDP,
    }
}

/// Who listens at one of these ports, in the network namespace of the calling thread. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn listeners(
    cgroups: &Cgroups,
    wanted: &BTreeSet<(Protocol, u16)>,
) -> tank_sys::Result<BTreeSet<Listener>> {
    let numbers = wanted
        .iter()
        .map(|(protocol, port)| (number(*protocol), *port))
        .collect();
    let found = sockets::listening(&numbers, sockets::MAX_LISTING)?;
    let mut pods: BTreeMap<i32, Option<String>> = BTreeMap::new();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let holders = sockets::holders(&found.iter().map(|socket| socket.inode).collect())?;
    let mut listener = |socket: &sockets::Listening| {
        // One that is inherited by children is held by all of them: the first is who was there
        // first.
        let holder = holders.get(&socket.inode).and_then(BTreeSet::first);
        let pod = holder.and_then(|holder| {
            let pod = pods.entry(holder.pid);
            pod.or_insert_with(|| cgroups.pod_of(holder.pid)).clone()
        });
        // Pods are led to the name server before any port that is published. No pod's name begins like
        // that.
        let is_names = holder.is_some_and(|holder| holder.pid == own)
            || pod.as_ref().is_some_and(|pod| pod.starts_with('_'));
        let listener = Listener {
            protocol: protocol(socket),
            address: socket.address,
            v6_only: socket.v6_only,
            port: socket.port,
            process: holder.map(|holder| (holder.name.clone(), holder.pid)),
            pod,
        };
        (!is_names).then_some(listener)
    };
    Ok(found.iter().filter_map(&mut listener).collect())
}

fn protocol(socket: &sockets::Listening) -> Protocol {
    if socket.protocol == sockets::UDP {
        Protocol::Udp
    } else {
        Protocol::Tcp
    }
}

/// The sockets that are bound to one of these ports. `bridges` are the
/// addresses of Tank's own, on which its name server is asked. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn bound(
    ports: &BTreeSet<(Protocol, u16)>,
    bridges: &BTreeSet<IpAddr>,
) -> tank_sys::Result<Vec<Bound>> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let ports = ports
        .iter()
        .map(|(protocol, port)| (number(*protocol), *port));
    let found = sockets::listening(&ports.collect(), MAX_LISTING)?;
    let is_names =
        |socket: &&sockets::Listening| socket.port == NAMES && bridges.contains(&socket.address);
    let others = found.iter().filter(|socket| !is_names(socket));
    let others = others.map(|socket| Bound {
        protocol: protocol(socket),
        at: SocketAddr::new(socket.address, socket.port),
        v6_only: socket.v6_only,
        user: socket.uid,
    });
    Ok(others.collect())
}
