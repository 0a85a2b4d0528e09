//! Sending Varlink messages: JSON, then a zero byte, with descriptors beside the first byte.
//!
//! Reading, and what a message is, are zlink's. Its writer (0.8) makes room by 256 bytes at a time and writes the message
//! from its beginning after each: a configuration of five hundred pods took 190 ms to be written like that, and takes one.

use crate::socket::Socket;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Serialize;
use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::{io::Interest, net::UnixStream};

/// Sends one message. It waits for as long as the other side does not read: the caller sets a limit.
///
/// # Errors
/// What `sendmsg(2)` gives, and `InvalidData` for what is no JSON.
pub async fn send<T: Serialize>(stream: &UnixStream, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(message).map_err(io::Error::from)?;
    bytes.push(0);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    send_bytes(stream, &bytes, &fds).await
}

pub(crate) async fn send_bytes(stream: &UnixStream, mut rest: &[u8], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    while !rest.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || write(stream.as_fd(), rest, fds)).await?;
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
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A connection whose two directions are used apart: zlink reads from the one, [`send`] writes to the other. Both have to
/// be kept: the first to be dropped shuts the connection down.
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
    struct Asked {
        method: String,
        parameters: Value,
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
        let (call, fds) = reader.receive_call::<Asked>().await.expect("received");
        sending.await.expect("ends").expect("sent");
        assert_eq!((call.method().method.as_str(), &call.method().parameters["text"]), ("a.b.C", &Value::from(text)));
        assert_eq!(fds.len(), 1);
        let flags = rustix::io::fcntl_getfd(&fds[0]).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{flags:?}");
        drop(fds);
        // It was the only writing end.
        assert_eq!(out.read(&mut [0]).expect("reads"), 0);
    }
}
