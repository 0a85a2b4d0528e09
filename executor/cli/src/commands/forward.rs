//! `port-forward`: listens on this machine's loopback; each connection is made by the daemon inside of the pod's
//! network, handed over, and copied here.
//!
//! *Bounds*: [`OPEN`] connections at once, of which [`CONNECTING`] wait for the daemon; more wait in the
//! kernel's queue. One that fails is closed, with a message, and the listeners stay.

use crate::{
    args::{PortForward, Ports},
    client::Client,
    error::{self, Error},
    output,
};
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tank_proto::varlink::{ForwardReply, Method};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::sleep,
};

/// The most connections at once.
const OPEN: usize = 256;

/// The most of them that are asked for at once: a user may have 64 calls in flight.
const CONNECTING: usize = 16;

/// How long after a connection that could not be accepted the next one is.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// How often a free port is looked for that is free at both loopback addresses.
const FREE_PORT_TRIES: usize = 16;

/// What the connections of one command share.
struct Forward {
    socket: PathBuf,
    pod: String,
    json: bool,
    open: Arc<Semaphore>,
    connecting: Semaphore,
}

pub async fn forward(socket: &Path, asked: PortForward, json: bool) -> Result<u8, Error> {
    let watch = |kind| signal(kind).map_err(|e| Error::failed("wait for signals", e));
    let mut interrupted = watch(SignalKind::interrupt())?;
    let mut terminated = watch(SignalKind::terminate())?;
    let forward = Arc::new(Forward {
        socket: socket.to_owned(),
        pod: asked.pod,
        json,
        open: Arc::new(Semaphore::new(OPEN)),
        connecting: Semaphore::new(CONNECTING),
    });
    // A pod that there is not, or that does not run, is said before anything listens.
    forward.call(None).await?;
    let mut all = Vec::new();
    for ports in asked.ports {
        all.push((ports, listeners(ports).await?));
    }
    for (ports, listeners) in all {
        let addresses: Vec<String> = listeners.iter().map(address_of).collect();
        match json {
            true => output::json(&json!({
                "addresses": addresses,
                "pod": forward.pod,
                "port": ports.pod,
            }))?,
            false => {
                let (here, pod) = (addresses.join(" and "), &forward.pod);
                output::line(&format!("{here} lead to port {} of {pod}", ports.pod))?;
            }
        }
        for listener in listeners {
            tokio::spawn(Arc::clone(&forward).accept(listener, ports.pod));
        }
    }
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    Ok(0)
}

fn address_of(listener: &TcpListener) -> String {
    let address = listener.local_addr();
    address.map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// Listens at both loopback addresses; at the one of IPv4 alone where there is no IPv6.
async fn listeners(ports: Ports) -> Result<Vec<TcpListener>, Error> {
    let mut tries = if ports.local.is_some() {
        1
    } else {
        FREE_PORT_TRIES
    };
    loop {
        tries -= 1;
        let port = ports.local.unwrap_or(0);
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v4 = TcpListener::bind(v4)
            .await
            .map_err(|e| cannot_listen(v4, e))?;
        let port = v4.local_addr().map_or(port, |address| address.port());
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        match TcpListener::bind(v6).await {
            Ok(v6) => return Ok(vec![v4, v6]),
            Err(error) if has_no_ipv6(&error) => return Ok(vec![v4]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(cannot_listen(v6, error)),
        }
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> Error {
    Error::failed(format!("listen at {address}"), error)
}

impl Forward {
    /// One call over a connection of its own: none waits for another one's, and a daemon that was started
    /// again is connected to again.
    async fn call(&self, port: Option<u16>) -> Result<Vec<OwnedFd>, Error> {
        let mut client = Client::connect(&self.socket).await?;
        let pod = self.pod.clone();
        let call = Method::Forward { pod, port };
        let (_, fds) = client.call_with::<ForwardReply>(call, Vec::new()).await?;
        Ok(fds)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, port: u16) {
        loop {
            let Ok(permit) = Arc::clone(&self.open).acquire_owned().await else {
                return;
            };
            let Ok((local, _)) = listener.accept().await else {
                sleep(ACCEPT_RETRY_AFTER).await;
                continue;
            };
            let forward = Arc::clone(&self);
            tokio::spawn(async move {
                let _permit = permit;
                forward.carry(local, port).await;
            });
        }
    }

    /// Carries one connection. An end of one direction is carried on and leaves the other one open.
    async fn carry(&self, mut local: TcpStream, port: u16) {
        let mut remote = match self.connect(port).await {
            Ok(remote) => remote,
            Err(error) => {
                match self.json {
                    true => error::json::print(&error.json(error.status(false))),
                    false => error.print(),
                }
                // Whoever connected learns of a failure, not of an end.
                let _ = set_socket_linger(&local, Some(Duration::ZERO));
                return;
            }
        };
        // One that either side has broken off is for that side to know.
        let _ = copy_bidirectional(&mut local, &mut remote).await;
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Error> {
        let _place = self.connecting.acquire().await;
        let socket = self.call(Some(port)).await?.into_iter().next();
        let socket = socket.ok_or(Error::Answer("tankd sent no connection"))?;
        let failed = |error| Error::failed("use a connection", error);
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true).map_err(failed)?;
        TcpStream::from_std(stream).map_err(failed)
    }
}
