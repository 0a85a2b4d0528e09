//! The sockets on which names are asked: of each address one of TCP, and up to [`LANES`] of UDP.
//!
//! Datagrams wait in a socket until they are read, and one who sends faster than they are fills it:
//! so clients have lanes, by their addresses, and who floods fills the one that is its own. The more
//! addresses there are, the fewer lanes has one that comes; those that are there keep theirs.

use crate::pods::error::{Attempt, Error, Holder, Reason};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::names::LANES;
use tank_sys::sockets;

/// The port of DNS.
const PORT: u16 = 53;

/// How many sockets of UDP there are before addresses that come get fewer: those of 17 networks.
const MAX_LANES: usize = 34 * LANES;

/// What waits in a socket while nobody reads, in bytes: some thousand queries.
const BUFFER: usize = 1 << 20;

/// The most connections that wait.
const BACKLOG: i32 = 256;

/// An address, and whether the socket is one of TCP.
type Place = (IpAddr, bool);

/// Binds what is missing of the sockets at `addresses`, and gives back what is bound elsewhere.
/// Whether any of that was there.
///
/// # Errors
/// Which of them can't be had, and who has it.
pub fn all(sockets: &mut Vec<OwnedFd>, addresses: &BTreeSet<IpAddr>) -> Result<bool, Error> {
    let mut bound: BTreeMap<Place, usize> = BTreeMap::new();
    for place in sockets.iter().filter_map(place_of) {
        *bound.entry(place).or_insert(0) += 1;
    }
    let wanted: BTreeSet<Place> = addresses
        .iter()
        .flat_map(|address| [(*address, false), (*address, true)])
        .collect();
    let is_whole = |place: &Place| match bound.get(place) {
        Some(count) if place.1 => *count == 1,
        Some(count) => *count <= LANES && count.is_power_of_two(),
        None => false,
    };
    let lanes = lanes(addresses.len());
    let before = sockets.len();
    sockets
        .retain(|socket| place_of(socket).is_some_and(|at| wanted.contains(&at) && is_whole(&at)));
    let mut changed = sockets.len() != before;
    for place in wanted.iter().filter(|place| !is_whole(place)) {
        match bind_place(*place, lanes) {
            Ok(new) => {
                sockets.extend(new);
                changed = true;
            }
            // A kernel without IPv6: nobody can ask there.
            Err(Errno::AFNOSUPPORT) => {}
            Err(error) => return Err(not_bound(*place, error)),
        }
    }
    // Also those that another version bound: the rules let pods have no other server.
    for socket in sockets.iter() {
        let v6 = place_of(socket).is_some_and(|(address, _)| address.is_ipv6());
        sockets::make_transparent(socket.as_fd(), v6)?;
    }
    Ok(changed)
}

/// How many sockets of UDP an address gets, of so many.
fn lanes(addresses: usize) -> usize {
    let share = MAX_LANES.checked_div(addresses).unwrap_or(LANES);
    let share = share.clamp(1, LANES);
    1 << share.ilog2()
}

/// Where a socket is bound.
fn place_of(socket: &OwnedFd) -> Option<Place> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    let kind = sockopt::socket_type(socket).ok()?;
    Some((address.ip(), kind == SocketType::STREAM))
}

fn bind_place(place: Place, lanes: usize) -> Result<Vec<OwnedFd>, Errno> {
    let count = if place.1 { 1 } else { lanes };
    let lanes: Vec<OwnedFd> = (0..count).map(|_| bind(place)).collect::<Result<_, _>>()?;
    if let Some(first) = lanes.first().filter(|_| lanes.len() > 1) {
        // Without it they are chosen by address and port, and who has many ports fills them all.
        let spread = sockets::spread_by_source(first.as_fd(), place.0.is_ipv6(), count as u32);
        if let Err(error) = spread {
            tracing::warn!(%error, "clients of the name server share their lanes");
        }
    }
    Ok(lanes)
}

/// A socket at an address that may be still to come: the bridge is made beside this.
fn bind((address, tcp): Place) -> Result<OwnedFd, Errno> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = if tcp {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    match address {
        IpAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        IpAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    if tcp {
        // Connections of a server before may still be in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    } else {
        sockopt::set_socket_reuseport(&socket, true)?;
        sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, PORT))?;
    if tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// That a port can't be had, and who has it.
fn not_bound((address, tcp): Place, error: Errno) -> Error {
    let protocol = if tcp { sockets::TCP } else { sockets::UDP };
    let attempt = Attempt::BindNames {
        address: SocketAddr::new(address, PORT),
        tcp,
    };
    if error != Errno::ADDRINUSE {
        return attempt.failed(error);
    }
    let taken = sockets::listening(&BTreeSet::from([(protocol, PORT)]), sockets::MAX_LISTING)
        .unwrap_or_default();
    let inodes = taken
        .iter()
        .filter(|socket| socket.address == address || socket.address.is_unspecified())
        .map(|socket| socket.inode);
    let holders = sockets::holders(&inodes.collect()).unwrap_or_default();
    let holder = holders.into_values().flatten().next();
    let by = holder.map_or(Holder::Unknown, |holder| Holder::Process {
        name: holder.name,
        pid: holder.pid,
    });
    attempt.failed(Reason::Taken { by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_proto::names::MAX_SOCKETS;

    #[test]
    fn the_more_addresses_the_fewer_lanes_and_never_too_many_sockets() {
        let of = [0, 1, 2, 34, 35, 68, 69, 200, 272, 273, 514, 100_000].map(lanes);
        assert_eq!(of, [16, 16, 16, 16, 8, 8, 4, 2, 2, 1, 1, 1]);
        // Networks that come one after the other, each with two addresses.
        let all: usize = (1..=257)
            .map(|networks| 2 * (1 + lanes(2 * networks)))
            .sum();
        assert!(all <= MAX_SOCKETS, "{all}");
    }
}
