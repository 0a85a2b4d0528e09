//! Archives that go to the daemon: through a pipe of its own, which it answers with first.

use crate::{client::Client, error::Error};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    fs::File,
    io::{self, Read},
    path::Path,
};
use tank_proto::varlink::Method;

/// A file, or standard input where none is given or it is `-`.
///
/// # Errors
/// When it can't be opened.
pub fn source(file: Option<&Path>) -> Result<Box<dyn Read + Send>, Error> {
    let file = file.filter(|file| *file != Path::new("-"));
    Ok(match file {
        Some(path) => Box::new(
            File::open(path).map_err(|e| Error::failed(format!("read {}", path.display()), e))?,
        ),
        None => Box::new(io::stdin()),
    })
}

/// Calls a method that takes an archive, and sends it: what is answered at the end.
///
/// # Errors
/// When it can't be read, or the daemon refuses it.
pub async fn feed<R: DeserializeOwned + Debug>(
    client: &mut Client,
    method: Method,
    mut source: Box<dyn Read + Send>,
) -> Result<R, Error> {
    client.send(method, Vec::new(), true).await?;
    let (_, mut fds, _) = client.receive::<R>().await?;
    let pipe = fds.pop().ok_or(Error::Answer("tankd sent no pipe"))?;
    let mut pipe = File::from(pipe);
    // A thread of its own, which nobody waits for: it may wait for standard input for ever.
    let (sender, mut pumped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let copied = io::copy(&mut source, &mut pipe);
        drop(pipe);
        let _ = sender.send(copied);
    });
    tokio::select! {
        biased;
        copied = &mut pumped => match copied {
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::failed("read the archive", error))
            }
            _ => last(client).await,
        },
        done = last(client) => done,
    }
}

/// The reply that ends a call.
///
/// # Errors
/// When there is another answer.
pub async fn last<R: DeserializeOwned + Debug>(client: &mut Client) -> Result<R, Error> {
    Ok(client.receive::<R>().await?.0)
}
