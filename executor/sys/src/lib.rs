//! The Linux kernel, typed: the only crate of Tank that may hold `unsafe`.
//!
//! | module | what it gives |
//! |---|---|
//! | [`process`] | `clone3`, pidfds, exit statuses |
//! | [`namespace`] | a user namespace with its map, and the network, UTS and IPC namespaces it owns |
//! | [`mount`] | detached mounts: idmapped layers, overlay, tmpfs (`fsopen(2)`, `open_tree(2)`, `mount_setattr(2)`) |
//! | [`beneath`] | paths of a container, resolved beneath a descriptor of its root |
//! | [`rootfs`] | what a container's first process does to its own mount namespace |
//! | [`privilege`] | ids, capabilities, `no_new_privs`, [`seccomp`] |
//! | [`pty`] | terminals, made inside a container |
//! | [`quota`] | what the files of a directory may take of a file system (`quotactl_fd(2)`) |
//! | [`remove`] | removing trees of any depth |
//! | [`program`] | the caller's own program, out of reach of those it executes others for |
//! | [`cgroup`] | version 2, and version 1 beside it, behind one interface |
//! | [`route`] | links, addresses and routes (rtnetlink), in any network namespace |
//! | [`nft`] | one owned nftables table, replaced in one transaction |
//! | [`conntrack`] | flows of UDP, and their end |
//! | [`sockets`] | who listens where |
//! | [`watch`] | notifications that links, routes, rules or files changed |
//! | [`trace`] | the spans of a start |
//! | [`users`] | what users are called |
//! | [`packet`] | `SOCK_SEQPACKET` sockets that carry descriptors |
//!
//! It knows no pods: names, policies and the store are other crates' concern. Everything is
//! descriptor-typed and close-on-exec. Kernel: Linux 6.1 or later; some things are quicker on newer
//! ones.

#![warn(missing_docs)]
#![allow(
    unsafe_code,
    reason = "this crate is where Tank's unsafe code is; every block states its invariant"
)]

pub mod beneath;
pub mod cgroup;
pub mod clock;
pub mod conntrack;
pub mod mount;
pub mod namespace;
mod netlink;
pub mod nft;
pub mod packet;
pub mod privilege;
pub mod process;
pub mod program;
pub mod pty;
pub mod quota;
pub mod remove;
pub mod rootfs;
pub mod route;
pub mod seccomp;
pub mod sockets;
pub mod trace;
pub mod users;
pub mod watch;

use std::{fmt, io, path::Path};

/// What a file of the kernel's says: one read, for what is never longer than a page.
///
/// # Errors
/// What `open(2)` and `read(2)` give.
pub(crate) fn read_small(path: &Path) -> io::Result<String> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0; 4096];
    let length = loop {
        match rustix::io::read(&file, &mut buffer) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A kernel call that failed: what was attempted, on what, and the errno.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    what: String,
    #[source]
    source: io::Error,
}

/// What a kernel call gives, or an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with what was attempted, on what, and why it failed.
    pub fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }

    /// What was attempted.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The errno behind it, when the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// An error and what caused it, on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Says what was attempted, lazily, since nearly nothing fails.
pub trait Context<T> {
    /// # Errors
    /// The same, with its context.
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|source| Error::new(what(), source))
    }
}
