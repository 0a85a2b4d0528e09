//! Processes: made with `clone3(2)`, known by pidfd, ended with a status.

mod signals;

pub use signals::{
    ignore_file_size_signal, reset_oom_score, reset_signals, reset_umask, signal_name,
    signal_number,
};

use crate::{Context, Result};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// Lets a stopped process go on (signal(7)).
pub const SIGCONT: i32 = libc::SIGCONT;
/// Ends a process, which can't catch it.
pub const SIGKILL: i32 = libc::SIGKILL;
/// Asks a process to end.
pub const SIGTERM: i32 = libc::SIGTERM;

/// `CLONE_*` flags of `clone3(2)`.
pub mod flags {
    /// A mount namespace.
    pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
    /// A cgroup namespace.
    pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// A namespace of the host name.
    pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
    /// An IPC namespace.
    pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
    /// A user namespace.
    pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    /// A pid namespace, whose first process it is.
    pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
    /// A network namespace.
    pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
    /// The new process is a sibling: a child of the caller's parent.
    pub const PARENT: u64 = libc::CLONE_PARENT as u64;
}

/// A process and a descriptor that keeps naming it after its pid is used again.
#[derive(Debug)]
pub struct Process {
    /// Its pid in the pid namespace of whoever made or named it.
    pub pid: i32,
    /// Its pidfd (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether its status is 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// `CLONE_INTO_CGROUP` of clone(2).
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a process that runs `body` and ends when it returns, in the cgroup (version 2) whose
/// directory is given, or else in the caller's own. Its pid is as the caller's pid namespace has
/// it. The caller must be single-threaded: `body` is ordinary Rust, which allocates, and a lock
/// held by another thread would stay held for ever.
///
/// # Errors
/// What `clone3(2)` gives, or when the caller has more than one thread.
pub fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> Result<Process> {
    assert_single_threaded()?;
    let mut pidfd: libc::c_int = -1;
    // A sibling's exit signal is that of the caller, and naming one is an error (clone(2), "The
    // clone_args").
    let exit_signal = if flags & self::flags::PARENT == 0 {
        libc::SIGCHLD as u64
    } else {
        0
    };
    let args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | if cgroup.is_some() { INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |dir| dir.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child has its own copy of
    // everything. There is one thread (checked above), so no lock is left held in the child. `args`
    // and `pidfd` outlive the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()).doing(|| "make a process"),
        0 => {
            SPAWNED.store(true, Ordering::Relaxed);
            let status =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(125);
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => {
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a descriptor that nobody
            // else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Process {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// Set in every process that [`spawn`] made: it has one thread by construction, and its `/proc` may
/// be another namespace's already.
static SPAWNED: AtomicBool = AtomicBool::new(false);

fn assert_single_threaded() -> Result<()> {
    if SPAWNED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let threads = std::fs::read_dir("/proc/self/task")
        .doing(|| "count this process's threads")?
        .count();
    if threads == 1 {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::Unsupported)).doing(|| "fork with threads")
    }
}

/// Names a process that can't have been reaped, because it is the caller's own child.
///
/// # Errors
/// What `pidfd_open(2)` gives.
pub fn open(pid: i32) -> Result<Process> {
    let raw = Pid::from_raw(pid)
        .ok_or(io::ErrorKind::InvalidInput)
        .map_err(io::Error::from);
    let raw = raw.doing(|| format!("name process {pid}"))?;
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
        .doing(|| format!("name process {pid}"))?;
    Ok(Process { pid, pidfd })
}

/// Sends a signal. A process that has ended is no error: it is where the caller wanted it.
///
/// # Errors
/// What `pidfd_send_signal(2)` gives otherwise.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a plain system call on a descriptor that is borrowed for its length; a null siginfo
    // is allowed.
    let sent = unsafe {
        let info = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    };
    match sent {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error).doing(|| format!("send {}", signal_name(signal))),
        },
    }
}

/// The status of an ended child, and reaps it. None: it still runs.
///
/// # Errors
/// What `waitid(2)` gives.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    wait_with(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Whether a process was stopped by a signal and not continued yet, as proc_pid_stat(5) has it.
pub fn is_stopped(pid: i32) -> bool {
    // The name before the state may hold anything, brackets too: the last one ends it.
    let state = |text: &str| {
        text.rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next())
    };
    crate::read_small(format!("/proc/{pid}/stat").as_ref())
        .is_ok_and(|text| state(&text) == Some('T'))
}

/// A descriptor that is readable whenever a child of this process ended, stopped or went on.
/// `SIGCHLD` is blocked from here on; a program that is started gets it back from
/// [`reset_signals`].
///
/// # Errors
/// What `signalfd(2)` gives.
pub fn watch_children() -> Result<OwnedFd> {
    use nix::sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    };
    let open = || {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
    };
    open()
        .map(OwnedFd::from)
        .map_err(io::Error::from)
        .doing(|| "watch this process's children")
}

/// Makes all threads share a few arenas of the allocator, where that is a parameter of it (glibc).
/// With an arena for each thread, each arena keeps the most memory that its thread ever needed.
pub fn share_memory_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a parameter of the allocator, under its own lock; nothing that was allocated
    // changes.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Makes the allocator return free memory to the kernel, where it has a call for that (glibc).
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: works on free memory only, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets this process have as many descriptors as it may, and returns the limits from before: soft
/// and hard.
///
/// # Errors
/// What `setrlimit(2)` gives.
pub fn raise_descriptor_limit() -> Result<(u64, u64)> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // More than this nobody may ask for, not even who has it already.
        let most = std::fs::read_to_string("/proc/sys/fs/nr_open")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let hard = most.map_or(hard, |most: u64| hard.min(most));
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft.min(hard), hard))
    };
    raise()
        .map_err(|e: nix::errno::Errno| io::Error::from(e))
        .doing(|| "raise the limit of descriptors")
}

/// Waits for a child to end. Only for children that end by themselves soon.
///
/// # Errors
/// What `waitid(2)` gives.
pub fn wait(process: &Process) -> Result<Exit> {
    Ok(wait_with(process.pidfd.as_fd(), WaitIdOptions::EXITED)?.unwrap_or(Exit::Code(125)))
}

fn wait_with(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Exit>> {
    let status = loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), options) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.doing(|| "wait for a process")?,
        }
    };
    Ok(status.map(
        |status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Code(125),
        },
    ))
}

/// Ends this process with SIGKILL when its parent ends. The kernel clears that at each change of
/// credentials (prctl(2), PR_SET_PDEATHSIG): it is for a process that makes none, never for a
/// program of an image.
///
/// # Errors
/// What `prctl(2)` gives.
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .doing(|| "tie a process to its parent")
}

/// Keeps everybody without privileges over the host from looking at this process and those it
/// forks: no tracing, no memory, and none of its magic links in `/proc` (`exe`, `fd`, `root`,
/// `cwd`). The kernel may reset it at a change of credentials (to what `fs.suid_dumpable`
/// says) and resets it when a program is executed.
///
/// # Errors
/// What `prctl(2)` gives.
pub fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .doing(|| "hide a process from tracing")
}

/// Closes every descriptor above standard error but those of `keep`. To mark them close-on-exec is
/// not enough: while `execve(2)` looks for its program they are still open, and a link to
/// `/proc/self/fd/N` leads through them.
///
/// For a process that [`spawn`] made or that has just been executed: it ends without running what
/// its parent would have, so that nobody uses what is closed here under an owner's feet.
///
/// # Errors
/// What `close_range(2)` gives.
pub fn close_descriptors_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let keep: Vec<u32> = keep
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .collect();
    for (first, last) in gaps(keep) {
        // SAFETY: a plain system call. In the processes this is for (see above) no owner of one of
        // these descriptors uses or closes it afterwards.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) } != 0 {
            return Err(io::Error::last_os_error()).doing(|| "close descriptors");
        }
    }
    Ok(())
}

/// The ranges of numbers above standard error between those that are kept: first and last of each.
fn gaps(mut keep: Vec<u32>) -> Vec<(u32, u32)> {
    keep.retain(|fd| *fd >= 3);
    keep.sort_unstable();
    keep.dedup();
    let mut gaps = Vec::new();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            gaps.push((first, fd - 1));
        }
        first = fd + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// The pid of a process as the `/proc` that is mounted has it, whatever pid namespace the caller is
/// in.
///
/// # Errors
/// What reading `/proc/self/fdinfo` gives, and `ESRCH` for a process that has been reaped or is not
/// of that namespace.
pub fn visible_pid(pidfd: BorrowedFd<'_>) -> Result<i32> {
    let what = || "find a process in /proc";
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = crate::read_small(path.as_ref()).doing(what)?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
        .doing(what)
}

/// The pid of the caller as the `/proc` that is mounted has it.
///
/// # Errors
/// What `readlink(2)` gives.
pub fn own_visible_pid() -> Result<i32> {
    let what = || "find this process in /proc";
    let link = std::fs::read_link("/proc/self").doing(what)?;
    let pid = link.to_str().and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
        .doing(what)
}

/// Replaces this process by the program `argv[0]`, looked for along `PATH` of `env` unless it holds
/// a `/`. Returns only the failure: `ENOENT`, `EACCES`, or what `execve(2)` gave.
pub fn exec(argv: &[std::ffi::CString], env: &[std::ffi::CString]) -> io::Error {
    let Some(program) = argv.first() else {
        return io::Error::from_raw_os_error(libc::ENOENT);
    };
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, vars) = (pointers(argv), pointers(env));
    let attempt = |path: &std::ffi::CStr| {
        // SAFETY: all three are NUL-terminated and outlive the call, which returns only on failure.
        unsafe { libc::execve(path.as_ptr(), args.as_ptr(), vars.as_ptr()) };
        io::Error::last_os_error()
    };
    if program.as_bytes().contains(&b'/') {
        return attempt(program);
    }
    let path = env
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/bin:/bin");
    let mut failure = io::Error::from_raw_os_error(libc::ENOENT);
    for dir in path.split(|b| *b == b':').filter(|dir| !dir.is_empty()) {
        let Ok(candidate) = std::ffi::CString::new([dir, b"/", program.as_bytes()].concat()) else {
            continue;
        };
        let error = attempt(&candidate);
        // As execvp(3): the search goes on after both, and that a program may not be run is
        // reported rather than that none was found.
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => failure = error,
            _ => return error,
        }
    }
    failure
}

/// Limits this process, and what it executes, as setrlimit(2) has it: name in lower case, soft,
/// hard; none is unlimited.
///
/// # Errors
/// When a name is unknown or the kernel refuses.
pub fn set_ulimits(limits: &[(String, Option<u64>, Option<u64>)]) -> Result<()> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    for (name, soft, hard) in limits {
        let resource = match name.as_str() {
            "core" => Resource::RLIMIT_CORE,
            "cpu" => Resource::RLIMIT_CPU,
            "data" => Resource::RLIMIT_DATA,
            "fsize" => Resource::RLIMIT_FSIZE,
            "locks" => Resource::RLIMIT_LOCKS,
            "memlock" => Resource::RLIMIT_MEMLOCK,
            "msgqueue" => Resource::RLIMIT_MSGQUEUE,
            "nice" => Resource::RLIMIT_NICE,
            "nofile" => Resource::RLIMIT_NOFILE,
            "nproc" => Resource::RLIMIT_NPROC,
            "rss" => Resource::RLIMIT_RSS,
            "rtprio" => Resource::RLIMIT_RTPRIO,
            "rttime" => Resource::RLIMIT_RTTIME,
            "sigpending" => Resource::RLIMIT_SIGPENDING,
            "stack" => Resource::RLIMIT_STACK,
            _ => {
                return Err(io::Error::from(io::ErrorKind::InvalidInput))
                    .doing(|| format!("limit `{name}`"));
            }
        };
        let amount = |limit: &Option<u64>| limit.unwrap_or(RLIM_INFINITY);
        setrlimit(resource, amount(soft), amount(hard))
            .map_err(io::Error::from)
            .doing(|| format!("limit `{name}`"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_in_no_gap() {
        assert_eq!(gaps(vec![]), [(3, u32::MAX)]);
        assert_eq!(gaps(vec![0, 1, 2, 3]), [(4, u32::MAX)]);
        assert_eq!(gaps(vec![9, 4, 5, 4]), [(3, 3), (6, 8), (10, u32::MAX)]);
    }

    #[test]
    fn a_pid_is_the_one_in_proc() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(own_visible_pid().expect("a pid"), own);
        let process = open(own).expect("opened");
        assert_eq!(visible_pid(process.pidfd.as_fd()).expect("a pid"), own);
    }
}
