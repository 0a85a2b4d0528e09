//! Netlink, spoken as it is: a request is carried out within the `sendmsg(2)` that brings it, and
//! its answer is there when that returns. So many requests go in one packet, and nobody waits but
//! for the kernel's own locks.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{
    cell::Cell,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// What one packet of a listing can have at most (`netlink_dump` makes no larger one).
const PACKET: usize = 64 << 10;

/// The longest that an answer is waited for: it is there at once, or something is wrong.
const LIMIT: Duration = Duration::from_secs(20);

/// `NLMSG_ERROR` and `NLMSG_DONE` of netlink(7).
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Where the payload of a message begins.
const HEADER: usize = 16;

/// A socket and what it is in the middle of.
#[derive(Debug)]
pub struct Conversation(Mutex<Inner>);

struct Inner {
    socket: Socket,
    sequence: u32,
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("socket", &self.socket.as_raw_fd())
            .finish()
    }
}

/// A request that was refused: which of those that were sent together, and the errno.
pub struct Refused {
    pub index: usize,
    pub error: io::Error,
}

impl Conversation {
    /// # Errors
    /// What `socket(2)` and `bind(2)` give.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let inner = Inner {
            socket,
            sequence: 0,
        };
        set_socket_timeout(inner.fd(), Timeout::Recv, Some(LIMIT))?;
        Ok(Self(Mutex::new(inner)))
    }

    /// Takes over a socket that was opened by another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned, and given away here: the socket is its only owner.
        let socket = unsafe { Socket::from_raw_fd(fd.into_raw_fd()) };
        Self(Mutex::new(Inner {
            socket,
            sequence: 0,
        }))
    }

    /// Gives the socket away.
    pub fn into_fd(self) -> OwnedFd {
        let inner = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the socket gives its descriptor away here and is not used again, so this is the
        // only owner.
        unsafe { OwnedFd::from_raw_fd(inner.socket.into_raw_fd()) }
    }

    /// Has the kernel look only at what a listing asks for, and refuse what it does not understand.
    pub fn strict(self) -> Self {
        // Before Linux 4.20 it looks at more, which is dropped here.
        let _ = self.inner().socket.set_netlink_get_strict_chk(true);
        self
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends requests (with their flags, beside those of every request) together. All of them are
    /// carried out, in their order, also those behind one that is refused; the first refusal is
    /// returned.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn request<T: NetlinkSerializable>(&self, requests: Vec<(T, u16)>) -> Result<(), Refused> {
        if requests.is_empty() {
            return Ok(());
        }
        let at = |index: usize| move |error: io::Error| Refused { index, error };
        let mut inner = self.inner();
        let count = requests.len();
        let first = inner.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (payload, flags) in requests {
            let number = inner.next();
            serialize(
                payload,
                flags | NLM_F_REQUEST | NLM_F_ACK,
                number,
                &mut bytes,
            );
        }
        inner.send(&bytes).map_err(at(0))?;
        let mut answered = 0;
        let mut refused: Option<Refused> = None;
        while answered < count {
            inner
                .receive(|sequence, kind, payload| {
                    let index = sequence.wrapping_sub(first) as usize;
                    if kind == ERROR && index < count {
                        answered += 1;
                        if let Err(error) = status(payload)
                            && refused.is_none()
                        {
                            refused = Some(Refused { index, error });
                        }
                    }
                })
                .map_err(at(answered))?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Lists: the type and payload of each message of the answer.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn list<T: NetlinkSerializable>(
        &self,
        request: T,
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.ask(request, NLM_F_DUMP, each)
    }

    /// Asks for one thing: the type and payload of the answer.
    ///
    /// # Errors
    /// What the kernel answers: `ENODEV` or `ENOENT` where there is no such thing.
    pub fn get<T: NetlinkSerializable>(
        &self,
        request: T,
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        // The acknowledgement is the end of it.
        self.ask(request, NLM_F_ACK, each)
    }

    fn ask<T: NetlinkSerializable>(
        &self,
        request: T,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let mut inner = self.inner();
        let number = inner.next();
        let mut bytes = Vec::new();
        serialize(request, flags | NLM_F_REQUEST, number, &mut bytes);
        inner.send(&bytes)?;
        let mut ended = None;
        while ended.is_none() {
            inner.receive(|sequence, kind, payload| {
                // What an earlier question that was given up left is passed over.
                if sequence == number {
                    match kind {
                        ERROR => ended = Some(status(payload)),
                        // A listing that fails half-way says so in its end.
                        DONE => ended = Some(status(payload)),
                        kind => each(kind, payload),
                    }
                }
            })?;
        }
        ended.unwrap_or(Ok(()))
    }
}

impl Inner {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's own, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Reads one packet and gives sequence number, type and payload of each message in it.
    fn receive(&self, mut each: impl FnMut(u32, u16, &[u8])) -> io::Result<()> {
        // One for each thread that asks, and not for each of the sockets, of which there is one a
        // pod.
        let mut buffer = BUFFER.take();
        buffer.resize(PACKET, 0);
        let read = loop {
            match rustix::io::read(self.fd(), &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let mut rest = &buffer[..read?];
        while rest.len() >= HEADER {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let length = message.length() as usize;
            each(
                message.sequence_number(),
                message.message_type(),
                &rest[HEADER..length.max(HEADER)],
            );
            rest = rest
                .get(length.next_multiple_of(4).max(HEADER)..)
                .unwrap_or_default();
        }
        BUFFER.set(buffer);
        Ok(())
    }
}

/// The status that an `NLMSG_ERROR` or `NLMSG_DONE` begins with: zero, or a negative errno.
fn status(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code < 0 {
        Err(io::Error::from_raw_os_error(-code))
    } else {
        Ok(())
    }
}

/// Appends a message to a packet.
fn serialize<T: NetlinkSerializable>(payload: T, flags: u16, sequence: u32, packet: &mut Vec<u8>) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let (start, length) = (packet.len(), message.buffer_len());
    packet.resize(start + length.next_multiple_of(4), 0);
    message.serialize(&mut packet[start..start + length]);
}
