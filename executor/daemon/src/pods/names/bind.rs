//! The sockets on which names are asked: of each address one of TCP, and [`LANES`] of UDP.
//!
//! Datagrams wait in a socket until they are read, and one who sends faster than they are fills it:
//! so clients have lanes, by their addresses, and who floods fills the one that is its own.

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
    let is_whole = |place: &Place| bound.get(place) == Some(&count(*place));
    let before = sockets.len();
    sockets
        .retain(|socket| place_of(socket).is_some_and(|at| wanted.contains(&at) && is_whole(&at)));
    let mut changed = sockets.len() != before;
    for place in wanted.iter().filter(|place| !is_whole(place)) {
        match bind_place(*place) {
            Ok(new) => {
                sockets.extend(new);
                changed = true;
            }
            // A kernel without IPv6: nobody can ask there.
            Err(Errno::AFNOSUPPORT) => {}
            Err(error) => return Err(not_bound(*place, error)),
        }
    }
    Ok(changed)
}

/// How many sockets a place has.
fn count((_, tcp): Place) -> usize {
    if tcp { 1 } else { LANES }
}

/// Where a socket is bound.
fn place_of(socket: &OwnedFd) -> Option<Place> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    let kind = sockopt::socket_type(socket).ok()?;
    Some((address.ip(), kind == SocketType::STREAM))
}

fn bind_place(place: Place) -> Result<Vec<OwnedFd>, Errno> {
    let lanes: Vec<OwnedFd> = (0..count(place))
        .map(|_| bind(place))
        .collect::<Result<_, _>>()?;
    if let Some(first) = lanes.first().filter(|_| lanes.len() > 1) {
        // Without it they are chosen by address and port, and who has many ports fills them all.
        let spread = sockets::spread_by_source(first.as_fd(), place.0.is_ipv6(), LANES as u32);
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
    let taken = sockets::listening(&BTreeSet::from([(protocol, PORT)])).unwrap_or_default();
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
