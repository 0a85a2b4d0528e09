//! What this process gives up before it reads a single byte of anybody else's: the host's files,
//! every privilege, and the system calls by which either could be had back.

use std::os::fd::OwnedFd;
use tank_proto::names::Setup;
use tank_sys::{Context, Result, cgroup, privilege, seccomp};

/// What it may use at most: descriptors (two for each socket on which it is asked, one for each query that
/// others are asked and for each connection), bytes of a file (its standard error), processes, bytes of memory.
const LIMITS: [(&str, u64); 6] = [
    ("nofile", 8_192),
    ("fsize", 1 << 20),
    ("nproc", 0),
    ("core", 0),
    ("memlock", 0),
    ("data", 256 << 20),
];

/// The calls by which it does its work. No file is opened, no program executed, no process made; no
/// memory becomes executable; a socket is one of IP.
const CALLS: [&str; 57] = [
    "accept4",
    "bind",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "connect",
    "dup",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "getpeername",
    "getpid",
    "getrandom",
    "getsockname",
    "getsockopt",
    "gettid",
    "ioctl",
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
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "socket",
    "statx",
    "write",
    "writev",
];

/// Joins its cgroups, makes an empty directory its root, and becomes a user that owns nothing. What
/// comes next is [`Filter::install`].
///
/// # Errors
/// What the kernel gives.
pub fn confine(setup: &Setup, root: OwnedFd, cgroups: Vec<OwnedFd>) -> Result<Filter> {
    let filter = Filter(seccomp::only(&CALLS)?);
    // It outlives the daemon, and whatever terminal that has.
    rustix::process::setsid().doing(|| "begin a session")?;
    cgroup::join(&cgroups)?;
    drop(cgroups);
    privilege::own_nothing(setup.id, root, &LIMITS)?;
    Ok(filter)
}

/// The filter of system calls, still to be installed: what waits for sockets makes a pair of its own
/// that the filter would refuse.
#[must_use = "nothing is refused before it is installed"]
pub struct Filter(Vec<seccomp::Instruction>);

impl Filter {
    /// Refuses every other call than those by which the work is done, for good.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn install(self) -> Result<()> {
        seccomp::install(&self.0)
    }
}
