//! The socket beneath a Varlink connection.
//!
//! zlink's own (0.8) takes descriptors that come with a message without `MSG_CMSG_CLOEXEC`: a
//! program that another thread executes before they are marked inherits them. Here they are
//! close-on-exec when they are received, and their number is bounded.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};
use tokio::{
    io::Interest,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use zlink::connection::{
    PassedCredentials,
    socket::{self, ReadResult, UnixSocket},
};

/// The most descriptors of one message. A call has three at most and a reply two.
pub const MAX_FDS: usize = 8;

/// A connected Unix stream socket.
#[derive(Debug)]
pub struct Socket(UnixStream);

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl socket::Socket for Socket {
    type ReadHalf = ReadHalf;
    type WriteHalf = WriteHalf;

    const CAN_TRANSFER_FDS: bool = true;

    fn split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.0.into_split();
        (ReadHalf(read), WriteHalf(write))
    }
}

/// The half that is read from.
#[derive(Debug)]
pub struct ReadHalf(OwnedReadHalf);

impl socket::ReadHalf for ReadHalf {
    async fn read(&mut self, buffer: &mut [u8]) -> zlink::Result<ReadResult> {
        let stream: &UnixStream = self.0.as_ref();
        Ok(stream
            .async_io(Interest::READABLE, || receive(stream.as_fd(), buffer))
            .await?)
    }
}

impl AsFd for ReadHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let stream: &UnixStream = self.0.as_ref();
        stream.as_fd()
    }
}

impl UnixSocket for ReadHalf {}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<ReadResult> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(buffer)];
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
    // Those over the bound were closed by the kernel: it is not known any more which was which.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message has more than {MAX_FDS} descriptors"),
        ));
    }
    Ok(ReadResult::new(received.bytes).set_fds(fds))
}

/// Kept because who drops it shuts the connection down; messages go out by [`crate::wire::send`].
/// The half that is written to.
#[derive(Debug)]
pub struct WriteHalf(OwnedWriteHalf);

impl socket::WriteHalf for WriteHalf {
    async fn write(
        &mut self,
        bytes: &[u8],
        fds: &[impl AsFd],
        _credentials: Option<&PassedCredentials>,
    ) -> zlink::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        Ok(crate::wire::send_bytes(self.0.as_ref(), bytes, &fds).await?)
    }
}
