//! Sending Varlink messages: JSON, then a zero byte, with descriptors beside the first byte. And
//! receiving calls, with limits that hold before anything is parsed.
//!
//! What a message is, and reading replies, are zlink's. Its writer (0.8) makes room by 256 bytes at
//! a time and writes the message from its beginning after each: a configuration of five hundred
//! pods took 190 ms to be written like that, and takes one. Its reader takes 100 MiB and 253
//! descriptors from whoever sends them, which suits a client that trusts its daemon; a daemon
//! receives with [`Calls`].

use crate::socket::Socket;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::{io::Interest, net::UnixStream};

/// The most bytes of one call: 32 MiB. The largest is a switch, whose canonical configuration has
/// at most 16 MiB; written as a string of JSON it grows, and its provenance comes on top.
pub const MAX_CALL: usize = 32 << 20;

/// The most descriptors that come with one call: the streams of `Exec`.
pub const MAX_DESCRIPTORS: usize = 3;

/// The most bytes received at once.
const CHUNK: usize = 32 << 10;

/// Sends one message. It waits for as long as the other side does not read: the caller sets a
/// limit.
///
/// # Errors
/// What `sendmsg(2)` gives, and `InvalidData` for what is no JSON.
pub async fn send<T: Serialize>(
    stream: &UnixStream,
    message: &T,
    fds: Vec<OwnedFd>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes)?;
    send_encoded(stream, &bytes, fds).await
}

/// Appends one message as it is sent.
///
/// # Errors
/// `InvalidData` for what is no JSON.
pub fn encode<T: Serialize>(message: &T, bytes: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *bytes, message).map_err(io::Error::from)?;
    bytes.push(0);
    Ok(())
}

/// Sends messages that are [encoded](encode), with descriptors for the first of them.
///
/// # Errors
/// What `sendmsg(2)` gives.
pub async fn send_encoded(stream: &UnixStream, bytes: &[u8], fds: Vec<OwnedFd>) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    send_bytes(stream, bytes, &fds).await
}

pub(crate) async fn send_bytes(
    stream: &UnixStream,
    mut rest: &[u8],
    mut fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    while !rest.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || write(stream.as_fd(), rest, fds))
            .await?;
        rest = &rest[sent..];
        fds = &[];
    }
    Ok(())
}

fn write(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
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
            other => return Ok(other?),
        }
    }
}

/// One call as it came.
#[derive(Debug)]
pub struct Frame {
    /// Without the zero byte.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Why a call can't be received.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It has more bytes than there may be; the limit.
    #[error("a call may have {0} bytes at most")]
    TooLong(usize),
    /// It has more descriptors than there may be.
    #[error("a call may come with {MAX_DESCRIPTORS} descriptors at most")]
    TooManyDescriptors,
    /// The socket fails.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Receives the calls of one client. Descriptors are close-on-exec from the start; those that
/// nobody takes are closed with their [`Frame`].
#[derive(Debug, Default)]
pub struct Calls {
    bytes: Vec<u8>,
    /// Up to here there is no zero byte.
    scanned: usize,
    fds: Vec<OwnedFd>,
    /// Where the bytes end that the descriptors came with: `recvmsg(2)` stops after those, so they
    /// belong to the call that this byte is of.
    fds_end: usize,
}

impl Calls {
    /// The next call; none when the client has closed its side. Cancel safe: what was received is
    /// kept. After [`Unread::TooLong`] it may be called again with a higher
    /// limit.
    ///
    /// # Errors
    /// When there are more than `max_bytes` bytes without an end, or too many descriptors, or what
    /// `recvmsg(2)` gives.
    pub async fn next(
        &mut self,
        stream: &UnixStream,
        max_bytes: usize,
    ) -> Result<Option<Frame>, Unread> {
        loop {
            if let Some(at) = self.bytes[self.scanned..]
                .iter()
                .position(|byte| *byte == 0)
            {
                return Ok(Some(self.take(self.scanned + at)));
            }
            self.scanned = self.bytes.len();
            if self.bytes.len() > max_bytes {
                return Err(Unread::TooLong(max_bytes));
            }
            let received = stream
                .async_io(Interest::READABLE, || receive(stream.as_fd(), self))
                .await?;
            if self.fds.len() > MAX_DESCRIPTORS || received.truncated {
                self.fds.clear();
                return Err(Unread::TooManyDescriptors);
            }
            match received.length {
                0 if self.bytes.is_empty() => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => {}
            }
        }
    }

    /// Takes the call that ends before `end`.
    fn take(&mut self, end: usize) -> Frame {
        let fds = if self.fds_end <= end + 1 {
            std::mem::take(&mut self.fds)
        } else {
            Vec::new()
        };
        self.fds_end = self.fds_end.saturating_sub(end + 1);
        self.scanned = 0;
        // A connection that waits for its next call keeps no memory.
        let rest = self.bytes.split_off(end + 1);
        let mut bytes = std::mem::replace(&mut self.bytes, rest);
        bytes.truncate(end);
        Frame { bytes, fds }
    }
}

struct Received {
    length: usize,
    /// More descriptors came than there was room for. The kernel has closed those.
    truncated: bool,
}

fn receive(socket: BorrowedFd<'_>, calls: &mut Calls) -> io::Result<Received> {
    let mut chunk = [0; CHUNK];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    calls.bytes.extend_from_slice(&chunk[..received.bytes]);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            calls.fds.extend(rights);
            calls.fds_end = calls.bytes.len();
        }
    }
    Ok(Received {
        length: received.bytes,
        truncated: received.flags.contains(ReturnFlags::CTRUNC),
    })
}

/// A connection whose two directions are used apart: zlink reads from the one, [`send`] writes to
/// the other. Both have to be kept: the first to be dropped shuts the connection down.
///
/// # Errors
/// What `dup(2)` and `epoll_ctl(2)` give.
pub fn split(stream: UnixStream) -> io::Result<(zlink::Connection<Socket>, UnixStream)> {
    let stream = stream.into_std()?;
    let writer = UnixStream::from_std(stream.try_clone()?)?;
    let reader = UnixStream::from_std(stream)?;
    Ok((zlink::Connection::new(Socket::from(reader)), writer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::io::Read;

    #[derive(Debug, serde::Deserialize)]
    struct Received {
        method: String,
        parameters: Value,
    }

    fn pair() -> (std::os::unix::net::UnixStream, UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("nonblocking");
        (ours, UnixStream::from_std(theirs).expect("a stream"))
    }

    fn with_fds(socket: &std::os::unix::net::UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        assert_eq!(
            write(socket.as_fd(), bytes, fds).expect("sends"),
            bytes.len()
        );
    }

    #[tokio::test]
    async fn calls_that_come_together_are_taken_apart() {
        let (ours, theirs) = pair();
        let mut calls = Calls::default();
        with_fds(&ours, b"one\0two\0thr", &[]);
        let mut next = async || {
            calls
                .next(&theirs, 10)
                .await
                .expect("a call")
                .expect("open")
                .bytes
        };
        assert_eq!(next().await, b"one");
        assert_eq!(next().await, b"two");
        with_fds(&ours, b"ee\0", &[]);
        assert_eq!(next().await, b"three");
        drop(ours);
        assert!(calls.next(&theirs, 10).await.expect("the end").is_none());
    }

    #[tokio::test]
    async fn a_call_without_an_end_is_refused_at_its_limit() {
        let (ours, theirs) = pair();
        let mut calls = Calls::default();
        with_fds(&ours, &[b'x'; 11], &[]);
        assert!(matches!(
            calls.next(&theirs, 10).await,
            Err(Unread::TooLong(10))
        ));
        // Called again, it goes on where it was.
        with_fds(&ours, b"yz\0", &[]);
        assert_eq!(
            calls
                .next(&theirs, 20)
                .await
                .expect("a call")
                .expect("open")
                .bytes,
            b"xxxxxxxxxxxyz"
        );
    }

    #[tokio::test]
    async fn descriptors_stay_with_their_call_are_few_and_close_on_exec() {
        let (ours, theirs) = pair();
        let mut calls = Calls::default();
        let (mut out, end) = std::io::pipe().expect("a pipe");
        with_fds(&ours, b"before\0", &[]);
        with_fds(&ours, b"with\0", &[end.as_fd(); 3]);
        let before = calls
            .next(&theirs, 100)
            .await
            .expect("a call")
            .expect("open");
        assert_eq!(
            (before.bytes.as_slice(), before.fds.len()),
            (&b"before"[..], 0)
        );
        let with = calls
            .next(&theirs, 100)
            .await
            .expect("a call")
            .expect("open");
        assert_eq!((with.bytes.as_slice(), with.fds.len()), (&b"with"[..], 3));
        assert!(
            with.fds
                .iter()
                .all(|fd| rustix::io::fcntl_getfd(fd).expect("flags")
                    == rustix::io::FdFlags::CLOEXEC)
        );
        // One more than there may be, or many more: refused, and none is kept.
        for count in [4, 200] {
            let (ours, theirs) = pair();
            let mut calls = Calls::default();
            with_fds(&ours, b"many\0", &vec![end.as_fd(); count]);
            assert!(
                matches!(
                    calls.next(&theirs, 100).await,
                    Err(Unread::TooManyDescriptors)
                ),
                "{count}"
            );
            assert!(calls.fds.is_empty());
        }
        drop((with, end));
        assert_eq!(
            out.read(&mut [0]).expect("reads"),
            0,
            "a descriptor was kept"
        );
    }

    #[tokio::test]
    async fn a_large_message_arrives_whole_and_with_its_descriptors() {
        let (one, two) = UnixStream::pair().expect("a pair");
        // Either end of one that is dropped ends the whole.
        let (_reader, writer) = split(one).expect("split");
        let (mut reader, _writer) = split(two).expect("split");
        let text = "\"quoted\"".repeat(100_000);
        let (mut out, end) = std::io::pipe().expect("a pipe");
        let call = json!({ "method": "a.b.C", "parameters": { "text": text } });
        let sending = tokio::spawn(async move { send(&writer, &call, vec![end.into()]).await });
        let (call, fds) = reader.receive_call::<Received>().await.expect("received");
        sending.await.expect("ends").expect("sent");
        assert_eq!(
            (
                call.method().method.as_str(),
                &call.method().parameters["text"]
            ),
            ("a.b.C", &Value::from(text))
        );
        assert_eq!(fds.len(), 1);
        let flags = rustix::io::fcntl_getfd(&fds[0]).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{flags:?}");
        drop(fds);
        // It was the only writing end.
        assert_eq!(out.read(&mut [0]).expect("reads"), 0);
    }
}
