//! Netlink (netlink(7)): one typed socket for rtnetlink and nfnetlink.
//!
//! A request is carried out within the `sendmsg(2)` that brings it, and its answer is there when
//! that returns. So many requests go in one packet, and a caller waits only for the kernel's own
//! locks.
//!
//! Every message has a sequence number, and answers with another one, left by a request whose
//! caller gave up, are passed over. Errors are the kernel's `errno`. What is read is limited: a
//! packet to [`MAX_PACKET`], a dump to [`MAX_DUMP`], a wait to [`ANSWER_WAIT`].

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::SocketAddr;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use std::{
    cell::Cell,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The most bytes of one packet of an answer (`netlink_dump` of the kernel makes no larger one).
const MAX_PACKET: usize = 64 << 10;

/// The most bytes of one dump: some hundred thousand links or rules.
const MAX_DUMP: usize = 512 << 20;

/// How often a dump is begun anew because something changed meanwhile.
const DUMP_TRIES: u32 = 4;

/// The longest wait for an answer: it is there at once, or something is wrong.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// The smallest send buffer of a batch, in bytes.
const MIN_SEND_BUFFER: usize = 64 << 10;

/// `NLMSG_ERROR`, which is an acknowledgement as well, and `NLMSG_DONE` of netlink(7).
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `NLM_F_DUMP_INTR` of `linux/netlink.h`: the dump shows no single state.
const DUMP_INTERRUPTED: u16 = 0x10;

/// The length of a `struct nlmsghdr`, behind which the payload begins.
const HEADER: usize = 16;

/// A socket, used by one request at a time.
#[derive(Debug)]
pub struct Socket(Mutex<Inner>);

struct Inner {
    socket: netlink_sys::Socket,
    sequence: u32,
}

/// A message of an answer.
struct Answer<'a> {
    sequence: u32,
    kind: u16,
    flags: u16,
    payload: &'a [u8],
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

/// A request that was refused.
#[derive(Debug)]
pub struct Refused {
    /// Which of those that were sent together.
    pub index: usize,
    /// Why.
    pub error: io::Error,
}

impl Socket {
    /// Opens a socket of a protocol (`NETLINK_*`) in the caller's network namespace.
    ///
    /// # Errors
    /// What `socket(2)` and `bind(2)` give.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let inner = Inner {
            socket,
            sequence: 0,
        };
        set_socket_timeout(inner.fd(), Timeout::Recv, Some(ANSWER_WAIT))?;
        Ok(Self(Mutex::new(inner)))
    }

    /// Takes over a socket that was opened by another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned, and given away here: the socket is its only owner.
        let socket = unsafe { netlink_sys::Socket::from_raw_fd(fd.into_raw_fd()) };
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

    /// Has the kernel dump only what a request asks for, and refuse what it does not understand
    /// (`NETLINK_GET_STRICT_CHK`).
    pub fn strict(self) -> Self {
        // Before Linux 4.20 it dumps more, which the callers drop.
        let _ = self.inner().socket.set_netlink_get_strict_chk(true);
        self
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends requests (with their flags, beside those of every request) in one packet. All of them
    /// are carried out, in their order, also those behind one that is refused; the first refusal is
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
        let mut packet = Vec::new();
        for (payload, flags) in requests {
            let number = inner.next();
            serialize(payload, flags | NLM_F_ACK, number, &mut packet);
        }
        inner.send(&packet).map_err(at(0))?;
        let mut answered = 0;
        let mut refused: Option<Refused> = None;
        while answered < count {
            inner
                .receive(|answer| {
                    let index = answer.sequence.wrapping_sub(first) as usize;
                    if answer.kind == ERROR && index < count {
                        answered += 1;
                        if let Err(error) = status(answer.payload)
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

    /// Sends a batch of nfnetlink: `messages` (with their flags) between `begin` and `end`, carried
    /// out together or not at all. Without an end the kernel says whether it would, and does nothing.
    ///
    /// # Errors
    /// What the kernel answers: nothing has changed then.
    pub fn batch<T: NetlinkSerializable>(
        &self,
        begin: T,
        messages: Vec<(T, u16)>,
        end: Option<T>,
    ) -> Result<(), Refused> {
        let at = |index: usize| move |error: io::Error| Refused { index, error };
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let mut inner = self.inner();
        let mut packet = Vec::new();
        let number = inner.next();
        serialize(begin, 0, number, &mut packet);
        let first = number.wrapping_add(1);
        for (index, (payload, flags)) in messages.into_iter().enumerate() {
            // One acknowledgement for all: they are given in order, after the commit.
            let acknowledge = if index == last { NLM_F_ACK } else { 0 };
            let number = inner.next();
            serialize(payload, flags | acknowledge, number, &mut packet);
        }
        if let Some(end) = end {
            let number = inner.next();
            serialize(end, 0, number, &mut packet);
        }
        // A batch is one packet, whatever its length.
        let buffer = packet.len().max(MIN_SEND_BUFFER) * 2;
        set_socket_send_buffer_size_force(inner.fd(), buffer)
            .map_err(|error| at(0)(error.into()))?;
        inner.send(&packet).map_err(at(0))?;
        let mut outcome: Option<Result<(), Refused>> = None;
        while outcome.is_none() {
            inner
                .receive(|answer| {
                    // The first answer counts: an error for any message, that of the commit being
                    // for the beginning, comes before the acknowledgement.
                    let index = answer.sequence.wrapping_sub(first);
                    let of_this = index == u32::MAX || index as usize <= last + 1;
                    if answer.kind != ERROR || !of_this || outcome.is_some() {
                        return;
                    }
                    match status(answer.payload) {
                        Err(error) => outcome = Some(Err(at(index as usize)(error))),
                        Ok(()) if index as usize == last => outcome = Some(Ok(())),
                        Ok(()) => {}
                    }
                })
                .map_err(at(last))?;
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Dumps a table: `each` adds the type and payload of each message to what is returned. A dump
    /// that something changed meanwhile is begun anew with an empty `R`, and after [`DUMP_TRIES`] is
    /// returned as it is: what changed causes a notification, and its reader dumps again.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn dump<T: NetlinkSerializable + Clone, R: Default>(
        &self,
        request: T,
        mut each: impl FnMut(&mut R, u16, &[u8]),
    ) -> io::Result<R> {
        let mut tries = 0;
        loop {
            let mut found = R::default();
            let interrupted = self.ask(request.clone(), NLM_F_DUMP, |kind, payload| {
                each(&mut found, kind, payload)
            })?;
            tries += 1;
            if !interrupted || tries >= DUMP_TRIES {
                return Ok(found);
            }
        }
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
        self.ask(request, NLM_F_ACK, each).map(drop)
    }

    /// Whether the answer was interrupted by a change.
    fn ask<T: NetlinkSerializable>(
        &self,
        request: T,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        let mut inner = self.inner();
        let number = inner.next();
        let mut packet = Vec::new();
        serialize(request, flags, number, &mut packet);
        inner.send(&packet)?;
        let mut ended = None;
        let mut interrupted = false;
        let mut total = 0;
        while ended.is_none() {
            total += inner.receive(|answer| {
                if answer.sequence == number {
                    interrupted |= answer.flags & DUMP_INTERRUPTED != 0;
                    match answer.kind {
                        ERROR => ended = Some(status(answer.payload)),
                        // A dump that fails half-way says so in its end.
                        DONE => ended = Some(status(answer.payload)),
                        kind => each(kind, answer.payload),
                    }
                }
            })?;
            if total > MAX_DUMP {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        ended.unwrap_or(Ok(())).map(|()| interrupted)
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

    /// Reads one packet and gives each message in it. Returns its length.
    fn receive(&self, mut each: impl FnMut(Answer<'_>)) -> io::Result<usize> {
        // One for each thread that asks, and not for each of the sockets, of which there is one a
        // pod.
        let mut buffer = BUFFER.take();
        buffer.resize(MAX_PACKET, 0);
        let read = loop {
            match rustix::io::read(self.fd(), &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let read = read?;
        let mut rest = &buffer[..read];
        while rest.len() >= HEADER {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let length = message.length() as usize;
            each(Answer {
                sequence: message.sequence_number(),
                kind: message.message_type(),
                flags: message.flags(),
                payload: &rest[HEADER..length.max(HEADER)],
            });
            rest = rest
                .get(length.next_multiple_of(4).max(HEADER)..)
                .unwrap_or_default();
        }
        BUFFER.set(buffer);
        Ok(read)
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

/// Appends a request to a packet.
fn serialize<T: NetlinkSerializable>(payload: T, flags: u16, sequence: u32, packet: &mut Vec<u8>) {
    let mut header = NetlinkHeader::default();
    header.flags = flags | NLM_F_REQUEST;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let (start, length) = (packet.len(), message.buffer_len());
    packet.resize(start + length.next_multiple_of(4), 0);
    message.serialize(&mut packet[start..start + length]);
}
