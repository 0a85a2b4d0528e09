//! `SOCK_SEQPACKET` Unix sockets whose packets carry descriptors.
//!
//! A packet arrives whole or not at all, so there is no framing to get wrong and no half-read
//! message. What has to be larger than [`MAX_PACKET`] travels in a sealed memory file.
//!
//! This is unix(7) and `memfd_create(2)`, typed; what the packets say is `tank-proto`'s. It is in
//! this crate because [`crate::namespace::create`] needs it, to be handed sockets by a process in
//! the namespaces it makes, and because watching a descriptor needs `unsafe`.

use crate::{Context, Result};
use rustix::{
    fs::{MemfdFlags, SealFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType,
    },
};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};
use tokio::io::unix::AsyncFd;

/// The most bytes of one packet: 64 KiB.
pub const MAX_PACKET: usize = 64 << 10;

/// The most descriptors of one packet (the kernel's own limit is 253, `SCM_MAX_FD`).
pub const MAX_FDS: usize = 128;

/// A connected pair.
///
/// # Errors
/// What `socketpair(2)` gives.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .doing(|| "make a socket pair")
}

/// Listens at `path`, which must not exist. Only root may connect: the folder's mode says so.
///
/// # Errors
/// What the kernel gives.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let what = || format!("listen on {}", path.display());
    let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).doing(what)?;
    let address = SocketAddrUnix::new(path).doing(what)?;
    rustix::net::bind(&socket, &address).doing(what)?;
    rustix::net::listen(&socket, 16).doing(what)?;
    Ok(socket)
}

/// Connects to `path`, without waiting for whoever listens.
///
/// # Errors
/// What the kernel gives.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let what = || format!("connect to {}", path.display());
    let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).doing(what)?;
    let address = SocketAddrUnix::new(path).doing(what)?;
    rustix::net::connect(&socket, &address).doing(what)?;
    Ok(socket)
}

fn new_socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The next waiting connection, if one waits.
///
/// # Errors
/// What `accept4(2)` gives.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => Ok(Some(socket)),
        Err(
            rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
        ) => Ok(None),
        Err(error) => Err(error).doing(|| "accept a connection"),
    }
}

/// Sends one packet. `WouldBlock` when the other side does not keep up, `BrokenPipe` when it is
/// gone.
///
/// # Errors
/// What `sendmsg(2)` gives, and `InvalidInput` for what is over a limit, which it names: nothing
/// was sent then.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let over = |count: usize, what: &str, limit: usize| {
        let why =
            format!("{count} {what} are too many for a packet, which carries {limit} at most");
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    if bytes.len() > MAX_PACKET {
        return over(bytes.len(), "bytes", MAX_PACKET);
    }
    if fds.len() > MAX_FDS {
        return over(fds.len(), "descriptors", MAX_FDS);
    }
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size().max(1)];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

/// Receives one packet. None: the other side has closed. `WouldBlock` when nothing is there.
///
/// # Errors
/// What `recvmsg(2)` gives, `EMFILE` where its descriptors are more than this process may open, and
/// `InvalidData` for a packet over the limits.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    // Asked for its length first: most are a hundredth of what they may be, and a shim should stay
    // small.
    let mut nothing = [0; 0];
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let length = loop {
        match rustix::net::recv(socket, &mut nothing, peek) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.1,
        }
    };
    let mut bytes = vec![0; length.clamp(1, MAX_PACKET)];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // The kernel gives as many as this process may still open, and says no more than that some are missing.
    if received.flags.contains(ReturnFlags::CTRUNC) && fds.len() < MAX_FDS {
        return Err(rustix::io::Errno::MFILE.into());
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if received.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fds)))
}

/// A socket in which descriptors wait that are too many for one packet. Its other end is closed: it
/// says nothing more, and whoever [takes them out](unbundle) waits for nobody.
///
/// # Errors
/// What `socketpair(2)` and `sendmsg(2)` give; `WouldBlock` when they are more than a socket holds.
pub fn bundle(fds: &[BorrowedFd<'_>]) -> Result<OwnedFd> {
    let (end, other) = pair()?;
    rustix::io::ioctl_fionbio(&other, true).doing(|| "fill a socket")?;
    for chunk in fds.chunks(MAX_FDS) {
        send(other.as_fd(), b"d", chunk).doing(|| format!("send {} descriptors", fds.len()))?;
    }
    Ok(end)
}

/// The descriptors of a [`bundle`], `most` of them at most; those after that are closed.
///
/// # Errors
/// What `recvmsg(2)` gives, and `InvalidData` for what is no bundle or holds more.
pub fn unbundle(socket: &OwnedFd, most: usize) -> io::Result<Vec<OwnedFd>> {
    // Whoever sent it may have kept the other end.
    rustix::io::ioctl_fionbio(socket, true)?;
    let mut all = Vec::new();
    while let Some((_, fds)) = receive(socket.as_fd())? {
        all.extend(fds);
        if all.len() > most {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(all)
}

/// A memory file that holds `bytes` and can't change any more.
///
/// # Errors
/// What `memfd_create(2)` gives.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 the flag is not known.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    };
    let fd = fd.doing(|| "make a memory file")?;
    let mut file = File::from(fd);
    file.write_all(bytes).doing(|| "fill a memory file")?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).doing(|| "seal a memory file")?;
    Ok(file.into())
}

/// What a memory file holds, if that is at most `limit` bytes.
///
/// # Errors
/// What reading gives, and `InvalidData` over the limit.
pub fn read_sealed(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Seek;
    let mut file = File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        Err(io::ErrorKind::InvalidData.into())
    } else {
        Ok(bytes)
    }
}

/// Watches a descriptor on the current tokio runtime.
///
/// # Errors
/// What `epoll_ctl(2)` gives.
pub fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that watches it, so it stays open and the same
    // for as long.
    unsafe { AsyncFd::register(fd) }
        .map_err(io::Error::from)
        .doing(|| "watch a descriptor")
}

/// Borrows every descriptor of a list, for [`send`].
pub fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_bytes_and_descriptors() {
        let (a, b) = pair().expect("pair");
        let file = sealed("test", b"hello").expect("sealed");
        send(a.as_fd(), b"one", &[file.as_fd()]).expect("send");
        send(a.as_fd(), b"two", &[]).expect("send");
        let (bytes, mut fds) = receive(b.as_fd()).expect("receive").expect("open");
        assert_eq!((bytes.as_slice(), fds.len()), (&b"one"[..], 1));
        assert_eq!(read_sealed(fds.remove(0), 5).expect("read"), b"hello");
        assert_eq!(
            receive(b.as_fd()).expect("receive").expect("open").0,
            b"two"
        );
        drop(a);
        assert!(receive(b.as_fd()).expect("receive").is_none());
    }

    #[test]
    fn more_descriptors_than_a_packet_carries_arrive_in_their_order() {
        let files: Vec<OwnedFd> = (0..3 * MAX_FDS)
            .map(|n| sealed("test", n.to_string().as_bytes()).expect("sealed"))
            .collect();
        let socket = bundle(&borrow(&files)).expect("bundled");
        drop(files);
        assert!(
            unbundle(
                &bundle(&[socket.as_fd(), socket.as_fd()]).expect("bundled"),
                1
            )
            .is_err()
        );
        let arrived = unbundle(&socket, 3 * MAX_FDS).expect("unbundled");
        assert_eq!(arrived.len(), 3 * MAX_FDS);
        for (n, file) in arrived.into_iter().enumerate() {
            assert_eq!(
                read_sealed(file, 8).expect("read"),
                n.to_string().as_bytes()
            );
        }
        let (end, _other) = pair().expect("pair");
        assert!(
            unbundle(&end, 1).is_err(),
            "it does not wait for who keeps the other end"
        );
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let (a, b) = pair().expect("pair");
        let error = send(a.as_fd(), &vec![0; MAX_PACKET + 1], &[])
            .expect_err("over the limit")
            .to_string();
        assert_eq!(
            error,
            "65537 bytes are too many for a packet, which carries 65536 at most"
        );
        let error = send(a.as_fd(), b"x", &vec![b.as_fd(); MAX_FDS + 1])
            .expect_err("over the limit")
            .to_string();
        assert_eq!(
            error,
            "129 descriptors are too many for a packet, which carries 128 at most"
        );
        send(a.as_fd(), &vec![0; MAX_PACKET], &[]).expect("send");
        assert_eq!(
            receive(b.as_fd()).expect("receive").expect("open").0.len(),
            MAX_PACKET
        );
        assert!(read_sealed(sealed("test", b"123456").expect("sealed"), 5).is_err());
    }
}
