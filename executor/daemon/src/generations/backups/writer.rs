//! The daemon's side of the processes that read folders of backups and write archives ([`super::archiver`]): each is waited for as long as it
//! gets on, and no longer.
//!
//! One that does not is killed. Where the kernel keeps it all the same, since it waits for a disk, it *hangs*: it is kept a record of
//! until it has ended, and what would hang with it is not begun ([`tank_plan::backups::hold`]). A folder that did not answer, whose
//! process could be ended, is left alone for a while, and then tried by one at a time until it answers: so it never has all places.

use super::{
    Key,
    wire::{ARGUMENT, Next, Order, Packet},
};
use crate::generations::{Error, error::Context};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_plan::backups::Hanging;
use tank_sys::{clock::boot_millis, packet, process};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout, timeout_at},
};

/// The longest that one may neither read nor write anything.
const MAX_STILL: Duration = Duration::from_secs(600);

/// In a debug build, the same in seconds.
#[cfg(debug_assertions)]
const MAX_STILL_VAR: &str = "TANKD_BACKUP_STILL";

/// How long one that is done, and one that was killed, may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long a folder that did not answer is left alone, in milliseconds.
const LEFT_ALONE: u64 = 600_000;

/// `SIGKILL`.
const KILL: i32 = 9;

/// Whose the kernel keeps, and those that are there.
#[derive(Default)]
pub struct Writers {
    hanging: Mutex<BTreeMap<i32, Hanging<String>>>,
    /// Folders that did not answer, and until when they are left alone, by the clock since boot.
    silent: Mutex<BTreeMap<String, u64>>,
    /// Their sockets and pidfds.
    live: Mutex<BTreeMap<i32, (OwnedFd, OwnedFd)>>,
}

/// One of them.
pub struct Writer {
    writers: Arc<Writers>,
    socket: AsyncFd<OwnedFd>,
    pid: i32,
    /// Readable once it has ended.
    ended: AsyncFd<OwnedFd>,
    to: String,
    of: Key,
    count: u64,
    in_folder: bool,
    /// It did not get on.
    still: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long one may be still.
pub fn max_still() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var(MAX_STILL_VAR)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return Duration::from_secs(seconds);
    }
    MAX_STILL
}

/// As a text.
pub fn name((pod, volume): &Key) -> String {
    format!("{pod}/{volume}")
}

impl Writers {
    /// Those that hang.
    pub fn hanging(&self) -> Vec<Hanging<String>> {
        lock(&self.hanging).values().cloned().collect()
    }

    /// Until when a folder is left alone. None: it has not failed to answer.
    pub fn left_alone(&self, to: &str) -> Option<u64> {
        lock(&self.silent).get(to).copied()
    }

    /// A backup into a folder is begun: into one that did not answer before by no other meanwhile.
    pub fn tries(&self, to: &str) {
        if let Some(until) = lock(&self.silent).get_mut(to) {
            let still = u64::try_from(max_still().as_millis()).unwrap_or(LEFT_ALONE);
            *until = boot_millis()
                .saturating_add(still)
                .saturating_add(LEFT_ALONE);
        }
    }

    /// A folder has answered, or not.
    pub fn note(&self, to: &str, answered: bool) {
        let mut silent = lock(&self.silent);
        match answered {
            true => drop(silent.remove(to)),
            false => drop(silent.insert(to.to_owned(), boot_millis().saturating_add(LEFT_ALONE))),
        }
    }

    /// Has all end that are there, which take along what is half written, and waits a while for that.
    pub async fn end_all(&self) {
        let live = std::mem::take(&mut *lock(&self.live));
        for (socket, _) in live.values() {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        let hanging: Vec<i32> = lock(&self.hanging).keys().copied().collect();
        let deadline = Instant::now() + END_LIMIT;
        for (pid, (_, pidfd)) in live {
            if let Ok(ended) = packet::watch(pidfd)
                && !hanging.contains(&pid)
            {
                let _ = timeout_at(deadline, ended.readable()).await;
            }
        }
    }
}

impl Writer {
    /// Starts one, for the backup `of` or for several of which that is the first.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn start(writers: &Arc<Writers>, of: &Key, order: &Order) -> Result<Self, Error> {
        let what = "start a process for backups";
        let text = serde_json::to_vec(order).doing(what)?;
        let order_file = packet::sealed("order", &text).doing(what)?;
        let (ours, theirs) = packet::pair().doing(what)?;
        // What it is does not change with the program on the disk.
        let child = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let pid = i32::try_from(child.doing(what)?.id()).doing(what)?;
        let pidfd = process::open(pid).doing(what)?.pidfd;
        packet::send(ours.as_fd(), b"o", &[order_file.as_fd()]).doing(what)?;
        rustix::io::ioctl_fionbio(&ours, true).doing(what)?;
        let both = ours.try_clone().doing(what)?;
        let both = (both, pidfd.try_clone().doing(what)?);
        lock(&writers.live).insert(pid, both);
        Ok(Self {
            writers: Arc::clone(writers),
            socket: packet::watch(ours).doing(what)?,
            pid,
            ended: packet::watch(pidfd).doing(what)?,
            to: order.to.clone(),
            of: of.clone(),
            count: 0,
            in_folder: true,
            still: false,
        })
    }

    /// What it says next, as long as it gets on.
    ///
    /// # Errors
    /// What it says of its failure; that it has ended, or does not get on.
    pub async fn next(&mut self, limit: Duration) -> Result<Packet, Error> {
        let mut deadline = Instant::now() + limit;
        loop {
            let Ok(packet) = timeout_at(deadline, self.receive()).await else {
                self.still = true;
                let (place, verb) = match self.in_folder {
                    true => (format!("`{}`", self.to), "does not answer"),
                    false => ("the volume".to_owned(), "can't be read"),
                };
                let seconds = limit.as_secs();
                let why = format!("{place} {verb}: nothing was read or written for {seconds} s");
                return Err(why).doing("write an archive");
            };
            match packet? {
                Packet::Progress { count, in_folder } => {
                    if count != self.count {
                        deadline = Instant::now() + limit;
                    }
                    (self.count, self.in_folder) = (count, in_folder);
                }
                Packet::Failed { what, why } => {
                    let source = why.into();
                    return Err(Error::Backup { what, source });
                }
                other => return Ok(other),
            }
        }
    }

    /// It has not done in time what it was to do.
    pub fn is_still(&mut self) {
        self.still = true;
    }

    async fn receive(&self) -> Result<Packet, Error> {
        let what = "make a backup";
        loop {
            let mut guard = self.socket.readable().await.doing(what)?;
            let Ok(received) = guard.try_io(|socket| packet::receive(socket.as_fd())) else {
                continue;
            };
            let received = match received {
                // It has ended without reading all. What it has said by then comes behind that.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                received => received.doing(what)?,
            };
            let (text, _) = received.ok_or("its process has ended").doing(what)?;
            return serde_json::from_slice(&text).doing(what);
        }
    }

    /// Has it do something, and gives what it says of that.
    ///
    /// # Errors
    /// As [`Writer::next`].
    pub async fn has(&mut self, next: Next, fds: &[BorrowedFd<'_>]) -> Result<Packet, Error> {
        let what = "make a backup";
        let text = serde_json::to_vec(&next).doing(what)?;
        match packet::send(self.socket.get_ref().as_fd(), &text, fds) {
            // It has said why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.doing(what)?,
        }
        self.next(max_still()).await
    }

    /// Ends it. True: the kernel keeps it, and it is kept a record of until it has ended; then `ended` is called.
    pub async fn end(self, ended: impl FnOnce() + Send + 'static) -> bool {
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
        lock(&self.writers.live).remove(&self.pid);
        if self.still && self.in_folder {
            self.writers.note(&self.to, false);
        }
        let waited = |limit| timeout(limit, self.ended.readable());
        if !self.still && waited(END_LIMIT).await.is_ok() {
            return false;
        }
        let _ = process::signal(self.ended.get_ref().as_fd(), KILL);
        if waited(END_LIMIT).await.is_ok() {
            return false;
        }
        let hanging = Hanging {
            of: name(&self.of),
            to: self.to.clone(),
            in_folder: self.in_folder,
        };
        lock(&self.writers.hanging).insert(self.pid, hanging);
        tokio::spawn(async move {
            let _ = self.ended.readable().await;
            lock(&self.writers.hanging).remove(&self.pid);
            // What it has waited for has come.
            self.writers.note(&self.to, true);
            ended();
        });
        true
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.writers.live).remove(&self.pid);
    }
}
