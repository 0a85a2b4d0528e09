//! Notifications that something changed, by whomever: links, addresses and routes (rtnetlink(7)),
//! rules (the nftables group of nfnetlink), files of a directory (inotify(7)).
//!
//! A notification does not say what changed: whoever drains it reads the state again. One that was
//! lost because a queue was full counts as a change as well.

use crate::{Context, Result, packet};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use rustix::fs::inotify;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{Mutex, PoisonError},
};
use tokio::io::unix::AsyncFd;

/// Links, IPv4 and IPv6 addresses and routes (`RTMGRP_*`, rtnetlink(7)).
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// `NFNLGRP_NFTABLES` is group 7.
const RULE_GROUPS: u32 = 1 << 6;

/// A subscription to the changes of a network namespace's links or rules.
#[derive(Debug)]
pub struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Of the links, addresses and routes of the caller's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// What `socket(2)` and `bind(2)` give.
    pub fn of_routes() -> Result<Self> {
        Self::from_fd(route_socket()?)
    }

    /// Takes over a socket that another process opened. Needs a tokio runtime.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` gives.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        packet::watch(fd).map(Self)
    }

    /// Of every nftables rule of the caller's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// What `socket(2)` and `bind(2)` give.
    pub fn of_rules() -> Result<Self> {
        Self::from_fd(open(NETLINK_NETFILTER, RULE_GROUPS)?)
    }

    /// Returns when there may be something to [drain](Self::drain).
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn ready(&self) -> Result<()> {
        ready(&self.0).await.doing(|| "wait for changes")
    }

    /// Drains the notifications; whether there was one. The kernel sends one before the call that
    /// changes something returns: a change that was over before this call is not missed.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn drain(&self) -> Result<bool> {
        // The rest of a longer packet is dropped: only its kind matters.
        let mut buffer = [0; 64];
        let mut changed = false;
        loop {
            match rustix::io::read(self.0.get_ref(), &mut buffer) {
                Ok(length) => changed |= !is_of_a_port(&buffer[..length]),
                // The queue was full and notifications were dropped: something did change.
                Err(rustix::io::Errno::NOBUFS) => changed = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(changed),
                Err(error) => return Err(error).doing(|| "read changes"),
            }
        }
    }
}

/// Waits until there is something to read. Readiness is cleared here: the caller drains next.
async fn ready(fd: &AsyncFd<OwnedFd>) -> io::Result<()> {
    fd.readable().await?.clear_ready();
    Ok(())
}

/// Whether a packet is of nothing but the inner state of a bridge's port (an `RTM_NEWLINK` of
/// the family `AF_BRIDGE`), such as the timers of its multicast snooping: a link that leaves a
/// bridge causes another notification.
fn is_of_a_port(packet: &[u8]) -> bool {
    const NEWLINK: [u8; 2] = 16u16.to_ne_bytes();
    packet.get(4..6) == Some(&NEWLINK) && packet.get(16) == Some(&(libc::AF_BRIDGE as u8))
}

/// A socket that is notified of the links, addresses and routes of the caller's network namespace.
pub(crate) fn route_socket() -> Result<OwnedFd> {
    open(NETLINK_ROUTE, ROUTE_GROUPS)
}

fn open(protocol: isize, groups: u32) -> Result<OwnedFd> {
    let open = || -> io::Result<OwnedFd> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket gives its descriptor away here and is not used again, so this is the
        // only owner.
        Ok(unsafe { OwnedFd::from_raw_fd(socket.into_raw_fd()) })
    };
    open().doing(|| "watch for changes")
}

/// Files that are watched for being written, replaced or removed, whoever holds their names.
#[derive(Debug)]
pub struct Entries {
    inotify: AsyncFd<OwnedFd>,
    /// The names that matter in each watched folder; a watch that is none of these is of a file.
    names: Mutex<BTreeMap<WatchId, BTreeSet<OsString>>>,
}

impl Entries {
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// What `inotify_init1(2)` gives.
    pub fn new() -> Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).doing(|| "watch files")?;
        Ok(Self {
            inotify: packet::watch(fd)?,
            names: Mutex::default(),
        })
    }

    /// Watches a file, and its name in its folder. One that is not there is watched by its name.
    ///
    /// # Errors
    /// What `inotify_add_watch(2)` gives for the folder.
    pub fn add(&self, path: &Path) -> Result<()> {
        let written = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MODIFY;
        // Where the file is mounted by itself, its folder hears nothing of it.
        let _ = inotify::add_watch(self.inotify.as_fd(), path, written);
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let moved = inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE;
        let added = inotify::add_watch(self.inotify.as_fd(), dir, written | moved);
        let added = added.doing(|| format!("watch {}", dir.display()))?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(added).or_default().insert(name.to_owned());
        Ok(())
    }

    /// Returns when there may be something to [drain](Self::drain).
    ///
    /// # Errors
    /// When the descriptor fails.
    pub async fn ready(&self) -> Result<()> {
        ready(&self.inotify)
            .await
            .doing(|| "wait for changes of files")
    }

    /// Drains the events; whether one of the files has changed, or may have.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub fn drain(&self) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        let mut changed = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                    let named = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()));
                    changed |= match (names.get(&event.wd()), named) {
                        (Some(names), Some(name)) => names.contains(name),
                        _ => true,
                    };
                    if event.events().contains(inotify::ReadFlags::IGNORED) {
                        names.remove(&event.wd());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(changed),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).doing(|| "read changes of files"),
            }
        }
    }
}

/// Directories in which files are watched for being written.
#[derive(Debug)]
pub struct Writes(AsyncFd<OwnedFd>);

/// A watched directory, by its watch descriptor (inotify(7)): a number that is not given again.
pub type WatchId = i32;

/// What happened in the watched directories.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteEvents {
    /// Those in which a file was written.
    pub written: BTreeSet<WatchId>,
    /// Those that are no more.
    pub gone: BTreeSet<WatchId>,
    /// Whether the queue was full (`fs.inotify.max_queued_events`) and events were dropped: any
    /// directory may have been written.
    pub lost: bool,
}

impl WriteEvents {
    /// Whether a file was written, or may have been.
    pub fn of_writes(&self) -> bool {
        self.lost || !self.written.is_empty()
    }
}

impl Writes {
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// What `inotify_init1(2)` gives.
    pub fn new() -> Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).doing(|| "watch files")?;
        packet::watch(fd).map(Self)
    }

    /// Watches the files of a directory, until that is removed. Again is no harm.
    ///
    /// # Errors
    /// What `inotify_add_watch(2)` gives.
    pub fn add(&self, dir: &Path) -> Result<WatchId> {
        let added = inotify::add_watch(self.0.as_fd(), dir, inotify::WatchFlags::MODIFY);
        added.doing(|| format!("watch {}", dir.display()))
    }

    /// Ends a watch; of one that is gone nothing is done.
    pub fn remove(&self, watch: WatchId) {
        // `EINVAL` says that there is none.
        let _ = inotify::remove_watch(self.0.as_fd(), watch);
    }

    /// Returns when there may be something to [drain](Self::drain).
    ///
    /// # Errors
    /// When the descriptor fails.
    pub async fn ready(&self) -> Result<()> {
        ready(&self.0).await.doing(|| "wait for writes")
    }

    /// Drains the events since the last call.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub fn drain(&self) -> Result<WriteEvents> {
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let mut reader = inotify::Reader::new(self.0.as_fd(), &mut buffer);
        let mut drained = WriteEvents::default();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    drained.lost = true
                }
                Ok(event) if event.events().contains(inotify::ReadFlags::IGNORED) => {
                    drained.gone.insert(event.wd());
                }
                Ok(event) => {
                    drained.written.insert(event.wd());
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(drained),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).doing(|| "read writes"),
            }
        }
    }
}
