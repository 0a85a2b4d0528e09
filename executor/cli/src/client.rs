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
            .map_err(|error| unreachable(&name, &error))?;
        let (connection, writer) =
            wire::split(stream).map_err(|error| unreachable(&name, &error))?;
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
            other => other.map_err(|error| self.lost(&zlink::Error::Io(error))),
        }
    }

    /// The next reply, and whether more come.
    pub async fn receive<R: DeserializeOwned + Debug>(
        &mut self,
    ) -> Result<(R, Vec<OwnedFd>, bool), Error> {
        let received = self.connection.receive_reply::<R, varlink::Error>().await;
        let (reply, fds) = match received {
            Ok(received) => received,
            Err(error) => return Err(self.lost(&error)),
        };
        let reply = reply.map_err(Error::from)?;
        let continues = reply.continues() == Some(true);
        let parameters = reply.into_parameters();
        let parameters = parameters.ok_or_else(|| Error::new("tankd's answer is empty"))?;
        Ok((parameters, fds, continues))
    }

    fn lost(&self, error: &zlink::Error) -> Error {
        match error {
            zlink::Error::VarlinkService(refusal) if refusal.to_string().contains("denied") => {
                not_permitted(&self.socket)
            }
            zlink::Error::UnexpectedEof => {
                let help =
                    "it may have ended or been started again; what it was told to do goes on";
                Error::new("tankd closed the connection").help(help)
            }
            other => Error::new("can't speak with tankd").cause(other.to_string()),
        }
    }
}

fn not_permitted(socket: &str) -> Error {
    Error::new(format!("not permitted to use {socket}"))
        .help("run it as root, or become a member of the group `tank` (which is as good as root on this host)")
}

fn unreachable(socket: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => not_permitted(socket),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::new(format!(
            "tankd is not running: nothing answers at {socket}"
        ))
        .help("start it with `systemctl start tankd` or, as root, `tankd`; another socket is named with --socket"),
        _ => Error::new(format!("can't connect to {socket}")).cause(error.to_string()),
    }
}
