//! Archives between files of the caller and pipes of the daemon. Nothing is ever written to a terminal.

use crate::{client::Client, error::Error};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};
use tank_proto::varlink::Method;

/// What is read: a file or, with `-` or none, standard input.
pub fn open(file: Option<&Path>) -> Result<Box<dyn Read + Send>, Error> {
    Ok(match file.filter(|file| *file != Path::new("-")) {
        Some(path) => Box::new(
            File::open(path).map_err(|e| Error::failed(format!("read {}", path.display()), e))?,
        ),
        None => Box::new(io::stdin()),
    })
}

/// Where an archive goes: a file, or none for standard output, which has to be no terminal.
pub fn target(output: Option<&Path>) -> Result<Option<Target>, Error> {
    let output = output.filter(|file| *file != Path::new("-"));
    if output.is_none() && io::IsTerminal::is_terminal(&io::stdout()) {
        let why = "say where to: `-o FILE`, or redirect it";
        return Err(Error::failed("write an archive to a terminal", why));
    }
    output.map(Target::new).transpose()
}

/// Writes what comes out of a pipe. `last` says that it was all; then the file stays.
pub async fn write<T>(
    pipe: OwnedFd,
    target: Option<Target>,
    last: impl Future<Output = Result<T, Error>>,
) -> Result<(T, Option<PathBuf>), Error> {
    let file = target.as_ref().map(|target| target.file.try_clone());
    let file = file.transpose().map_err(Error::Print)?;
    let pump = tokio::task::spawn_blocking(move || match file {
        Some(mut file) => {
            io::copy(&mut File::from(pipe), &mut file)?;
            file.sync_all()
        }
        None => {
            let mut out = io::stdout().lock();
            io::copy(&mut File::from(pipe), &mut out)?;
            out.flush()
        }
    });
    let pumped = pump.await;
    let done = last.await;
    // That nobody reads on is what happened, where the file took no more.
    let written = pumped.map_err(|e| Error::failed("write an archive", e))?;
    written.map_err(|e| Error::failed("write an archive", e))?;
    Ok((done?, target.map(Target::keep)))
}

/// Writes a source into a pipe until it ends, or `last` says how it went.
pub async fn read<T>(
    mut source: Box<dyn Read + Send>,
    pipe: OwnedFd,
    last: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut pipe = File::from(pipe);
    // A thread of its own, which nobody waits for: it may wait for standard input for ever.
    let (sender, mut pumped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let copied = io::copy(&mut source, &mut pipe);
        drop(pipe);
        let _ = sender.send(copied);
    });
    let mut last = std::pin::pin!(last);
    tokio::select! {
        biased;
        copied = &mut pumped => match copied {
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::failed("read the archive", error))
            }
            _ => last.await,
        },
        done = &mut last => done,
    }
}

/// Calls a method that takes an archive, and sends it: what is answered at the end.
pub async fn feed<R: DeserializeOwned + Debug>(
    client: &mut Client,
    method: Method,
    source: Box<dyn Read + Send>,
) -> Result<R, Error> {
    client.send(method, Vec::new(), true).await?;
    let (_, mut fds, _) = client.receive::<R>().await?;
    let pipe = fds.pop().ok_or(Error::Answer("tankd sent no pipe"))?;
    read(source, pipe, last(client)).await
}

/// The reply that ends a call.
pub async fn last<R: DeserializeOwned + Debug>(client: &mut Client) -> Result<R, Error> {
    Ok(client.receive::<R>().await?.0)
}

/// A file that goes again unless it becomes whole.
pub struct Target {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Target {
    /// One that must not exist.
    pub fn new(path: &Path) -> Result<Self, Error> {
        // A database is nobody else's to read.
        let mut options = File::options();
        let options = options.write(true).create_new(true).mode(0o600);
        let file = options.open(path);
        let failed = |e: io::Error| {
            let what = format!("make {}", path.display());
            match e.kind() {
                io::ErrorKind::AlreadyExists => {
                    let why = "it is there already: remove it, or name another file";
                    Error::failed(what, why)
                }
                _ => Error::failed(what, e),
            }
        };
        Ok(Self {
            path: path.to_owned(),
            file: file.map_err(failed)?,
            kept: false,
        })
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
