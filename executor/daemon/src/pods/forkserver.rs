//! Making shims: one process of theirs is started once and asked to fork for each pod (see
//! `tank-shim`, `forkserver`).

use super::error::{Attempt, Error, Reason};
use rustix::{
    net::sockopt::{Timeout, set_socket_timeout},
    process::WaitOptions,
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tank_proto::{
    shim::{FromShim, Reply, Setup},
    timing::Span,
};
use tank_sys::packet;
use tokio::signal::unix::{SignalKind, signal};

/// The longest a shim may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Forkserver {
    program: PathBuf,
    /// Closing it ends the process.
    socket: Mutex<Option<OwnedFd>>,
}

impl Forkserver {
    pub fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            socket: Mutex::default(),
        }
    }

    /// Starts the process, if it was not started.
    ///
    /// # Errors
    /// When it can't be executed.
    pub fn start(&self) -> Result<(), Error> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_none() {
            *socket = Some(self.execute()?);
        }
        Ok(())
    }

    fn execute(&self) -> Result<OwnedFd, Error> {
        let (ours, theirs) = packet::pair()?;
        // It is reaped with the shims.
        let started = Command::new(&self.program)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn();
        started.map(|_child| ours).map_err(|source| {
            let program = self.program.clone();
            failed(Reason::Execute { program, source })
        })
    }

    /// Sends a request; once more to a new process where the one there was is gone.
    fn ask(&self, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<(), Error> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = socket.as_ref()
            && packet::send(known.as_fd(), b"fork", fds).is_ok()
        {
            return Ok(());
        }
        let new = self.execute()?;
        let sent = packet::send(new.as_fd(), b"fork", fds).map_err(failed);
        *socket = Some(new);
        sent
    }

    /// Makes a shim in the cgroup `cgroup` and waits until it is ready. It is in a session of its
    /// own and outlives this process. Blocking.
    ///
    /// # Errors
    /// The failure that the shim sent, or that it sent nothing in time.
    pub fn spawn(
        &self,
        setup: &Setup,
        stderr: &File,
        cgroup: &OwnedFd,
    ) -> Result<SpawnedShim, Error> {
        let text = serde_json::to_vec(setup).map_err(failed)?;
        let sealed = packet::sealed("setup", &text)?;
        let (ours, theirs) = packet::pair()?;
        self.ask(&[
            sealed.as_fd(),
            stderr.as_fd(),
            theirs.as_fd(),
            cgroup.as_fd(),
        ])?;
        drop(theirs);
        set_socket_timeout(&ours, Timeout::Recv, Some(READY_LIMIT)).map_err(failed)?;
        let (text, fds) = match packet::receive(ours.as_fd()) {
            Ok(Some(received)) => received,
            Ok(None) => return Err(failed(Reason::NeverReady)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(failed(Reason::NotReady));
            }
            Err(error) => return Err(failed(error)),
        };
        rustix::io::ioctl_fionbio(&ours, true).map_err(failed)?;
        match serde_json::from_slice(&text) {
            Ok(FromShim::Reply(Reply::Ready { pid, spans })) => Ok(SpawnedShim {
                socket: ours,
                pid,
                fds,
                spans,
            }),
            Ok(FromShim::Reply(Reply::Failed(failure))) => Err(failure.into()),
            Ok(other) => Err(failed(Reason::Said(Box::new(other)))),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A shim that is ready.
pub struct SpawnedShim {
    pub socket: OwnedFd,
    pub pid: i32,
    /// Those of [`Reply::Ready`].
    pub fds: Vec<OwnedFd>,
    pub spans: Vec<Span>,
}

fn failed(reason: impl Into<Reason>) -> Error {
    Attempt::StartShim.failed(reason)
}

/// Reaps this process's children, whose number nobody knows beforehand: shims, and the process that
/// forks them. Calls `stopped` with the pid of one that somebody has stopped. Call it in a runtime,
/// before there are any.
///
/// # Errors
/// When the signal can't be listened to.
pub fn reap(stopped: impl Fn(i32) + Send + 'static) -> Result<(), String> {
    let mut ended = signal(SignalKind::child()).map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
            while let Ok(Some((pid, status))) = rustix::process::wait(options) {
                if status.stopped() {
                    stopped(pid.as_raw_nonzero().get());
                }
            }
        }
    });
    Ok(())
}
