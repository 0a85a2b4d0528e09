//! Connections to ports of pods, made inside of the pod's network: for a client that has the socket
//! handed to it and copies the bytes itself.
//!
//! *Never*: holds a connection, or waits longer than [`CONNECT_LIMIT`].

use super::{Error, Shim};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};
use tank_sys::{Error as SysError, namespace::in_network, with_causes};
use tokio::{net::TcpSocket, time::timeout};

/// How long all addresses of a pod together may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The loopback of a pod.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Why there is no connection to a port of a pod.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Pod(#[from] Error),
    #[error("no answer in {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("nobody listens there{}", tried(.0))]
    Refused(Vec<(SocketAddr, io::Error)>),
}

/// What was tried, as `: 127.0.0.1:80: …; [::1]:80: …`.
fn tried(failures: &[(SocketAddr, io::Error)]) -> String {
    let all = failures.iter();
    let all: Vec<String> = all
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(": {}", all.join("; ")),
    }
}

/// Connects to a port of a pod: at its loopback or, where nobody listens there, at its `own` addresses, which
/// are asked for then. The socket blocks, as one does that a client has made itself.
///
/// # Errors
/// When nobody listens, or answers in time, or the pod's namespaces can't be had.
pub async fn connect(
    shim: &Shim,
    own: impl AsyncFnOnce() -> Vec<IpAddr>,
    port: u16,
) -> Result<(SocketAddr, OwnedFd), ConnectError> {
    let namespaces = shim.namespaces().await?;
    let net = namespaces.net.as_ref().map(AsFd::as_fd);
    let connected = async {
        let mut failures = Vec::new();
        for address in LOOPBACK {
            match connect_to(net, SocketAddr::new(address, port)).await {
                Ok(connected) => return Ok(connected),
                Err(failure) => failures.push(failure),
            }
        }
        for address in own().await {
            match connect_to(net, SocketAddr::new(address, port)).await {
                Ok(connected) => return Ok(connected),
                Err(failure) => failures.push(failure),
            }
        }
        Err(ConnectError::Refused(failures))
    };
    let connected = timeout(CONNECT_LIMIT, connected).await;
    connected.map_err(|_| ConnectError::Timeout(CONNECT_LIMIT))?
}

async fn connect_to(
    net: Option<BorrowedFd<'_>>,
    address: SocketAddr,
) -> Result<(SocketAddr, OwnedFd), (SocketAddr, io::Error)> {
    let connected = async {
        let socket = socket_in(net, address).map_err(|e| io::Error::other(with_causes(&e)))?;
        let socket = TcpSocket::from_std_stream(socket.into());
        let stream = socket.connect(address).await?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(OwnedFd::from(stream))
    };
    let connected = connected.await.map_err(|error| (address, error))?;
    Ok((address, connected))
}

/// A socket stays in the network that it was made in.
fn socket_in(net: Option<BorrowedFd<'_>>, address: SocketAddr) -> Result<OwnedFd, SysError> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = || {
        let made = socket_with(family, SocketType::STREAM, flags, None);
        made.map_err(|error| SysError::new("make a socket", error))
    };
    match net {
        Some(net) => in_network(net, make),
        None => make(),
    }
}
