//! One call to the daemon.

use crate::error::Error;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, io, os::fd::OwnedFd, path::Path};
use tank_proto::{
    varlink::{self, Method},
    wire,
};
use tokio::net::UnixStream;
use zlink::Call;

pub struct Client {
    connection: zlink::Connection<tank_proto::socket::Socket>,
    writer: UnixStream,
    socket: String,
}

impl Client {
    /// Connects to the daemon's socket.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let name = socket.display().to_string();
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| unreachable(&name, error))?;
        let (connection, writer) =
            wire::split(stream).map_err(|error| unreachable(&name, error))?;
        Ok(Self {
            connection,
            writer,
            socket: name,
        })
    }

    /// Calls and waits for the one reply.
    pub async fn call<R: DeserializeOwned + Debug>(&mut self, method: Method) -> Result<R, Error> {
        Ok(self.call_with(method, Vec::new()).await?.0)
    }

    /// As [`Client::call`], with descriptors going and coming.
    pub async fn call_with<R: DeserializeOwned + Debug>(
        &mut self,
        method: Method,
        fds: Vec<OwnedFd>,
    ) -> Result<(R, Vec<OwnedFd>), Error> {
        self.send(method, fds, false).await?;
        let (reply, fds, _) = self.receive().await?;
        Ok((reply, fds))
    }

    pub async fn send(
        &mut self,
        method: Method,
        fds: Vec<OwnedFd>,
        more: bool,
    ) -> Result<(), Error> {
        #[derive(Debug, Serialize)]
        #[serde(transparent)]
        struct Sent(Method);
        let call = Call::new(Sent(method)).set_more(more);
        match wire::send(&self.writer, &call, fds).await {
            // A daemon that reads no further has sent its reason, which is received next.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            other => other.map_err(|error| self.lost(zlink::Error::Io(error))),
        }
    }

    /// The next reply, and whether more come.
    pub async fn receive<R: DeserializeOwned + Debug>(
        &mut self,
    ) -> Result<(R, Vec<OwnedFd>, bool), Error> {
        let received = self.connection.receive_reply::<R, varlink::Error>().await;
        let (reply, fds) = match received {
            Ok(received) => received,
            Err(error) => return Err(self.lost(error)),
        };
        let reply = reply.map_err(Error::from)?;
        let continues = reply.continues() == Some(true);
        let parameters = reply.into_parameters();
        let parameters = parameters.ok_or(Error::Answer("tankd's answer is empty"))?;
        Ok((parameters, fds, continues))
    }

    /// What a failed call says of the daemon.
    fn lost(&self, error: zlink::Error) -> Error {
        match error {
            zlink::Error::VarlinkService(refusal)
                if *refusal.inner() == zlink::varlink_service::Error::PermissionDenied =>
            {
                Error::NotPermitted {
                    socket: self.socket.clone(),
                }
            }
            zlink::Error::UnexpectedEof => Error::Closed,
            other => Error::Connection(Box::new(other)),
        }
    }
}

fn unreachable(socket: &str, source: io::Error) -> Error {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPermitted { socket },
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NoDaemon { socket },
        _ => Error::Unreachable { socket, source },
    }
}
