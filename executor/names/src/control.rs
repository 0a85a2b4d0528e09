//! The daemon's side: connections on which zones come and sockets go.

use crate::server::Server;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};
use tank_plan::target::Zone;
use tank_proto::names::{MAX_ZONE, Reply, Request, SOCKETS_BESIDE, Setup, State, VERSION};
use tank_sys::packet;
use tokio::{io::unix::AsyncFd, task::spawn_local};

/// Whether root is at the other end.
fn is_root(connection: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_peercred(connection).is_ok_and(|peer| peer.uid.is_root())
}

/// Answers the daemon, and whoever is the daemon after it.
pub struct Control {
    setup: Setup,
    server: Rc<Server>,
    /// Those on which the server is asked.
    sockets: Vec<OwnedFd>,
}

impl Control {
    /// Of a server that is asked on these sockets.
    pub fn new(setup: Setup, server: Rc<Server>, sockets: Vec<OwnedFd>) -> Self {
        Self {
            setup,
            server,
            sockets,
        }
    }

    /// Takes connections; returns when that fails.
    ///
    /// # Errors
    /// What the kernel gives.
    pub async fn accept(self: Rc<Self>, listener: OwnedFd) -> io::Result<()> {
        let listener = packet::watch(listener).map_err(io::Error::other)?;
        loop {
            let mut ready = listener.readable().await?;
            match packet::accept(listener.get_ref().as_fd()).map_err(io::Error::other)? {
                // Its folder keeps others out; who comes by another way is none of it.
                Some(connection) if is_root(&connection) => Rc::clone(&self).spawn(connection)?,
                Some(_) => {}
                None => ready.clear_ready(),
            }
        }
    }

    /// Answers on a connection until its end.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn spawn(self: Rc<Self>, connection: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&connection, true)?;
        let connection = packet::watch(connection).map_err(io::Error::other)?;
        spawn_local(async move {
            // It fails when the daemon is gone; the next one connects.
            let _ = self.serve(connection).await;
        });
        Ok(())
    }

    async fn serve(&self, connection: AsyncFd<OwnedFd>) -> io::Result<()> {
        loop {
            let mut ready = connection.readable().await?;
            let (bytes, fds) = match packet::receive(connection.get_ref().as_fd()) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (reply, sockets) = self.answer(&bytes, fds);
            let text = serde_json::to_vec(&reply)?;
            let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            let (beside, rest) = fds.split_at(fds.len().min(SOCKETS_BESIDE));
            // One reply is outstanding at most: it fits.
            packet::send(connection.get_ref().as_fd(), &text, beside)?;
            for further in rest.chunks(SOCKETS_BESIDE) {
                packet::send(connection.get_ref().as_fd(), b"d", further)?;
            }
        }
    }

    fn answer(&self, bytes: &[u8], fds: Vec<OwnedFd>) -> (Reply, &[OwnedFd]) {
        let failed = |why: String| (Reply::Failed { why }, &[][..]);
        match serde_json::from_slice(bytes) {
            Ok(Request::Serve) => match self.serve_zone(fds) {
                Ok(()) => (self.state(), &[]),
                Err(why) => failed(why),
            },
            Ok(Request::State) => (self.state(), &[]),
            Ok(Request::Sockets) => {
                let rest = self.sockets.len().saturating_sub(SOCKETS_BESIDE);
                let more = rest.div_ceil(SOCKETS_BESIDE);
                (Reply::Sockets { more }, &self.sockets)
            }
            Ok(Request::End) => {
                self.server.end();
                (self.state(), &[])
            }
            Err(error) => failed(error.to_string()),
        }
    }

    fn serve_zone(&self, fds: Vec<OwnedFd>) -> Result<(), String> {
        let mut fds = fds.into_iter();
        let zone = fds.next().ok_or("the zone is missing")?;
        let bytes = packet::read_sealed(zone, MAX_ZONE).map_err(|e| e.to_string())?;
        let zone: Zone = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        self.server.set_zone(zone)
    }

    fn state(&self) -> Reply {
        Reply::State(State {
            version: VERSION,
            program: self.setup.program.clone(),
            part: self.setup.part.clone(),
            zone: self.server.zone(),
            answered: self.server.answered(),
        })
    }
}
