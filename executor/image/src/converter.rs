//! The program that converts layers, from the side of whoever starts it: a process for each layer.
//! What it is handed and what it gives up is `tank_layer`'s to say.

use crate::{Error, error::Attempt};
use rustix::{
    fs::{Mode, OFlags},
    process::Signal,
};
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tank_layer::{
    budget::Budget,
    sums::Sum,
    wire::{BELOW_BESIDE, Order, Rebuild, Reply, Request},
};
use tank_sys::{packet, process};
use tokio::net::unix::pipe;

/// The bytes that a pipe to the program holds (pipe(7): what an unprivileged process may ask for, too).
const PIPE: usize = 1 << 20;

/// How layers are converted.
#[derive(Clone, Debug)]
pub struct Converter {
    /// The program `tank-layer`.
    pub program: PathBuf,
    /// Whom it becomes: a user and a group that nothing belongs to.
    pub id: u32,
}

/// A process that converts a layer. It ends with this.
pub struct Conversion {
    process: process::Process,
    socket: Option<OwnedFd>,
}

impl Converter {
    /// Starts a conversion into the empty file `output`: what is written to the pipe is the layer's
    /// compressed bytes, and `root` an empty directory. What else it takes to write its tar again goes into
    /// the empty file `recipe`.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn start(
        &self,
        request: &Request,
        root: &Path,
        (output, recipe): (&File, Option<&File>),
        below: &[File],
    ) -> Result<(Conversion, pipe::Sender), Error> {
        let what = || format!("convert a layer by {}", self.program.display());
        let (input, feed) = tank_sys::namespace::pipe().map_err(Error::Convert)?;
        // Fewer turns between who writes and who reads; where the kernel gives no more, it is as large as any.
        let _ = rustix::pipe::fcntl_setpipe_size(&feed, PIPE);
        let request = Request {
            recipe: recipe.is_some(),
            ..request.clone()
        };
        let mut fds = vec![input.as_fd(), output.as_fd()];
        fds.extend(recipe.map(AsFd::as_fd));
        let (conversion, socket) = self.spawn(&Order::Convert(request), root, &fds)?;
        let below: Vec<BorrowedFd<'_>> = below.iter().map(AsFd::as_fd).collect();
        for some in below.chunks(BELOW_BESIDE) {
            packet::send(socket.as_fd(), b"b", some).attempt(what)?;
        }
        rustix::io::ioctl_fionbio(&feed, true).attempt(what)?;
        Ok((conversion, pipe::Sender::from_owned_fd(feed).attempt(what)?))
    }

    /// Has the tar of a layer written again, of its recipe and its image: what comes out of the pipe.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn rebuild(
        &self,
        request: Rebuild,
        root: &Path,
        (recipe, image): (&File, &File),
    ) -> Result<(Conversion, pipe::Receiver), Error> {
        let what = || format!("write a layer's archive by {}", self.program.display());
        let (out, feed) = tank_sys::namespace::pipe().map_err(Error::Convert)?;
        let fds = [recipe.as_fd(), image.as_fd(), feed.as_fd()];
        let (conversion, _) = self.spawn(&Order::Rebuild(request), root, &fds)?;
        rustix::io::ioctl_fionbio(&out, true).attempt(what)?;
        Ok((
            conversion,
            pipe::Receiver::from_owned_fd(out).attempt(what)?,
        ))
    }

    /// Starts the program with an order and descriptors, of which the first is `root`.
    fn spawn(
        &self,
        order: &Order,
        root: &Path,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Conversion, OwnedFd), Error> {
        let what = || format!("start {}", self.program.display());
        let failed = |error: tank_sys::Error| Error::Convert(error);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).attempt(what)?;
        let (ours, theirs) = packet::pair().map_err(failed)?;
        // It ends with the thread that makes it, and that of a worker is there as long as its runtime:
        // no other thread must do this.
        let child = Command::new(&self.program)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .attempt(what)?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let conversion = Conversion {
            process: process::open(pid).map_err(failed)?,
            socket: Some(ours.try_clone().attempt(what)?),
        };
        let text = serde_json::to_vec(order)
            .map_err(io::Error::from)
            .attempt(what)?;
        let fds: Vec<BorrowedFd<'_>> = [root.as_fd()]
            .into_iter()
            .chain(fds.iter().copied())
            .collect();
        packet::send(ours.as_fd(), &text, &fds).attempt(what)?;
        Ok((conversion, ours))
    }
}

impl Conversion {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// It has ended without one.
    pub async fn reply(&mut self) -> Result<Reply, Error> {
        self.next().await
    }

    /// Waits for the next of its packets.
    ///
    /// # Errors
    /// It has ended without one.
    pub async fn next<P: DeserializeOwned>(&mut self) -> Result<P, Error> {
        let what = || "receive the outcome of a conversion".to_owned();
        let socket = self.socket.take();
        let socket = socket.ok_or(io::ErrorKind::NotConnected).attempt(what)?;
        let receive = move || (packet::receive(socket.as_fd()), socket);
        let received = tokio::task::spawn_blocking(receive).await;
        let (received, socket) = received.attempt(what)?;
        self.socket = Some(socket);
        let (bytes, _) = received.attempt(what)?.ok_or(Error::Converter)?;
        serde_json::from_slice(&bytes).map_err(|_| Error::Converter)
    }
}

/// What has become of a layer that took its share of a budget: the sum of its file, and whether it has something of
/// a layer below.
///
/// # Errors
/// Why it can't be had.
pub fn outcome(reply: Reply, budget: &Budget) -> Result<(Option<Sum>, bool), Error> {
    match reply {
        Reply::Failed(error) => Err(error.into()),
        Reply::Done {
            sum,
            crosses,
            taken,
        } => {
            budget.take(taken)?;
            Ok((sum, crosses))
        }
    }
}

impl Drop for Conversion {
    fn drop(&mut self) {
        let _ = process::signal(self.process.pidfd.as_fd(), Signal::KILL.as_raw());
        // Where every child is reaped by somebody else there is nothing to wait for.
        let _ = process::wait(&self.process);
    }
}
