//! Reads who listens on the host, for [`tank_plan::ports`] to judge. It binds nothing and disturbs
//! nobody.

use super::{Error, error::Context};
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{Graph, spec::Protocol};
use tank_plan::ports::{self, Listener};
use tank_sys::{cgroup::Cgroups, sockets};

/// Refuses a change that would publish a port at which a program of the host listens.
///
/// # Errors
/// [`Error::Invalid`] with each such port; what the kernel gave where it can't be looked at.
pub async fn refuse_taken(
    cgroups: &Arc<Cgroups>,
    before: &Graph,
    after: &Graph,
) -> Result<(), Error> {
    let wanted = ports::added(before, after);
    if wanted.is_empty() {
        return Ok(());
    }
    let cgroups = Arc::clone(cgroups);
    let look = move || listeners(&cgroups, &wanted);
    let found = tokio::task::spawn_blocking(look)
        .await
        .doing("look who listens")?;
    let problems = ports::taken(before, after, &found.doing("look who listens")?);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(problems))
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => sockets::TCP,
        Protocol::Udp => sockets::UDP,
    }
}

fn listeners(
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
