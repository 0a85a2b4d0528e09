//! What this process gives up before it reads a single byte of anybody else's: the host's files, the
//! network, every privilege, and the system calls by which any of that could be had back.

use crate::budget::MAX_BYTES;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};
use std::{io, os::fd::OwnedFd};
use tank_sys::{Context, Result, namespace, privilege, process, seccomp};

/// What it may use at most: bytes of memory (a million names), seconds of a processor, descriptors
/// (the images of the layers below), bytes of the image (all that it may have, and a part of a block for
/// each of a million files).
const LIMITS: [(&str, u64); 6] = [
    ("fsize", MAX_BYTES + (16 << 30)),
    ("data", 2 << 30),
    ("cpu", 2 * 3600),
    ("nofile", 512),
    ("core", 0),
    ("memlock", 0),
];

/// The calls by which it does its work. No file is opened, no program executed, no process made; no
/// memory becomes executable.
const CALLS: [&str; 39] = [
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "fstatfs",
    "ftruncate",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "lseek",
    "madvise",
    "membarrier",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "poll",
    "ppoll",
    "pread64",
    "pwrite64",
    "read",
    "readv",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sendmsg",
    "set_robust_list",
    "sigaltstack",
    "write",
];

/// The file system's access rights of the newest Landlock that is asked for: a kernel that has fewer
/// refuses those that it has.
const LANDLOCK: ABI = ABI::V6;

/// Makes an empty directory its root, leaves the network, and becomes a user that owns nothing. What comes next is [`Filter::install`].
///
/// # Errors
/// What the kernel gives.
pub fn confine(id: u32, root: OwnedFd) -> Result<Filter> {
    let filter = Filter(seccomp::only(&CALLS)?);
    rustix::process::setsid().doing(|| "begin a session")?;
    namespace::leave()?;
    privilege::own_nothing(id, root, &LIMITS)?;
    // A change of credentials takes it back.
    process::die_with_parent()?;
    lock_land()?;
    Ok(filter)
}

/// Refuses every access to files by their paths, and to the network. A kernel without Landlock leaves
/// that to the empty root and the filter.
fn lock_land() -> Result<()> {
    let lock = || -> std::result::Result<(), landlock::RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .restrict_self()?;
        Ok(())
    };
    lock().map_err(io::Error::other).doing(|| "lock itself in")
}

/// The filter of system calls, still to be installed: threads are made before.
#[must_use = "nothing is refused before it is installed"]
pub struct Filter(Vec<seccomp::Instruction>);

impl Filter {
    /// Refuses every other call than those by which the work is done, for good, and on every thread.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn install(self) -> Result<()> {
        seccomp::install_on_every_thread(&self.0)
    }
}
