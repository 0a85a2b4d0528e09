//! The main process's terminal, and the clients that are attached to it.
//!
//! Output goes to the log and to every client; a client that does not keep up is let go, so a
//! stopped terminal somewhere never stops the container. Input comes from every client. Nobody
//! attached is a normal state.

use crate::failure::Reason;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::terminal::{FromClient, FromShim};
use tank_sys::{packet, pty};

/// The most clients of one terminal.
const MAX_CLIENTS: usize = 32;

/// The most input that waits for a terminal that does not read.
const MAX_INPUT: usize = 64 << 10;

/// The most output that is read at once.
const MAX_OUTPUT: usize = 32 << 10;

pub struct Relay {
    pub master: OwnedFd,
    pub clients: Vec<OwnedFd>,
    /// Nobody in the container has it open any more.
    pub hung_up: bool,
    input: Vec<u8>,
}

impl Relay {
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self {
            master,
            clients: Vec::new(),
            hung_up: false,
            input: Vec::new(),
        })
    }

    /// Adds a client and returns its end.
    pub fn attach(&mut self) -> Result<OwnedFd, Reason> {
        if self.clients.len() >= MAX_CLIENTS {
            return Err(Reason::TooManyClients(MAX_CLIENTS));
        }
        let (ours, theirs) = packet::pair()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.clients.push(ours);
        Ok(theirs)
    }

    /// Reads what the terminal has to say and passes it on. None: it has hung up.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        // A packet to the clients holds it.
        let most = buffer.len().min(MAX_OUTPUT);
        let buffer = buffer.get_mut(..most)?;
        let length = match rustix::io::read(&self.master, &mut *buffer) {
            Ok(0) => return None,
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Some(0),
            // EIO: every process that had the terminal has closed it.
            Err(_) => return None,
        };
        self.broadcast(&FromShim::Output(buffer[..length].to_vec()));
        Some(length)
    }

    /// Sends to every client; those that are gone or lag behind are let go.
    pub fn broadcast(&mut self, message: &FromShim) {
        let packet = message.encode();
        self.clients
            .retain(|client| packet::send(client.as_fd(), &packet, &[]).is_ok());
    }

    /// Handles what one client sent; false: it has gone.
    pub fn receive(&mut self, client: usize) -> bool {
        let Some(socket) = self.clients.get(client) else {
            return true;
        };
        match packet::receive(socket.as_fd()) {
            Ok(Some((bytes, _))) => match FromClient::decode(&bytes) {
                Some(FromClient::Input(data)) => {
                    // What does not fit is dropped, as a terminal's own line does.
                    let room = MAX_INPUT - self.input.len().min(MAX_INPUT);
                    self.input.extend(&data[..data.len().min(room)]);
                    self.flush();
                    true
                }
                Some(FromClient::Resize { rows, columns }) => {
                    pty::resize(self.master.as_fd(), rows, columns).is_ok()
                }
                // The terminal makes those.
                Some(FromClient::Signal(_)) | None => false,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Ok(None) | Err(_) => false,
        }
    }

    /// Whether input waits for the terminal to take it.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    pub fn flush(&mut self) {
        if let Ok(written) = rustix::io::write(&self.master, &self.input) {
            self.input.drain(..written);
        }
    }
}
