//! Reads who listens on the host, for [`tank_plan::ports`] to judge. It binds nothing and disturbs
//! nobody.

use std::collections::BTreeSet;
use tank_model::spec::Protocol;
use tank_plan::ports::Listener;
use tank_sys::{cgroup::Cgroups, sockets};

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
    let found = sockets::listening(&numbers)?;
    let holders = sockets::holders(&found.iter().map(|socket| socket.inode).collect())?;
    let listener = |socket: &sockets::Listening| {
        // One that is inherited by children is held by all of them: the first is who was there
        // first.
        let holder = holders.get(&socket.inode).and_then(BTreeSet::first);
        Listener {
            protocol: if socket.protocol == sockets::UDP {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            address: socket.address,
            port: socket.port,
            process: holder.map(|holder| (holder.name.clone(), holder.pid)),
            pod: holder.and_then(|holder| cgroups.pod_of(holder.pid)),
        }
    };
    Ok(found.iter().map(listener).collect())
}
