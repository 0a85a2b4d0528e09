//! A pod's namespaces: a user namespace, and the network, UTS and IPC namespaces that it owns.
//!
//! They are made by a helper process that ends at once and are kept alive by descriptors, so they
//! die with the last holder: nothing is pinned in the file system.

use crate::{
    Context, Error, Result, packet,
    process::{self, Process, flags},
    route::{self, Routes},
    trace::{Phase, Trace},
    watch::Changes,
};
use rustix::thread::ThreadNameSpaceType;
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// How many ids a pod has: 0 to 65535 inside.
pub const ID_COUNT: u32 = 65_536;

/// The namespaces a pod's containers share. `net` is none where the pod uses the host's.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace that owns the others.
    pub user: OwnedFd,
    /// The host name.
    pub uts: OwnedFd,
    /// System V IPC and POSIX message queues.
    pub ipc: OwnedFd,
    /// Links, addresses, routes and sockets.
    pub net: Option<OwnedFd>,
}

/// Makes them. Ids 0 to 65535 inside are `id_base` onwards outside. The caller must be
/// single-threaded and root. Also gives, where there is a network namespace, the sockets of
/// [`route::sockets`] in it: whoever opens them later has to enter it first.
///
/// # Errors
/// What the kernel gives; nothing is left behind.
pub fn create(
    id_base: u32,
    own_network: bool,
    hostname: &str,
    trace: &Trace,
) -> Result<(Namespaces, Vec<OwnedFd>)> {
    let (ready_rx, ready_tx) = packet::pair()?;
    let network = if own_network { flags::NEWNET } else { 0 };
    let namespaces = flags::NEWUSER | flags::NEWUTS | flags::NEWIPC | network;
    let helper = process::spawn(namespaces, None, || {
        hold(own_network, hostname, ready_tx.as_fd())
    })?;
    drop(ready_tx);
    trace.end(Phase::Clone);
    let opened = open_all(
        &helper,
        ready_rx.as_fd(),
        id_base,
        own_network,
        hostname,
        trace,
    );
    process::signal(helper.pidfd.as_fd(), libc::SIGKILL)?;
    process::wait(&helper)?;
    trace.end(Phase::Namespaces);
    opened
}

/// What the helper does in the new namespaces: it names the host, sends the network's sockets, and
/// holds the namespaces until the parent has opened them and kills it, or the parent ends.
fn hold(own_network: bool, hostname: &str, ready: BorrowedFd<'_>) -> i32 {
    let named = rustix::system::sethostname(hostname.as_bytes());
    let mut sockets = Vec::new();
    if own_network {
        // Its addresses are Tank's to give: no neighbour on the bridge can advertise a route, and
        // none is asked, for a second and by a packet to everybody, whether an address made from
        // the hardware's is taken. Static ones are announced where the hardware address is set
        // (`Request::announce`). Where there is no IPv6 there is nothing to refuse.
        for (setting, value) in [
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/ndisc_notify", "1"),
            ("ipv4/conf/all/arp_notify", "1"),
        ] {
            let _ = fs::write(format!("/proc/sys/net/{setting}"), value);
        }
        sockets.extend(route::sockets().into_iter().flatten());
    }
    let _ = packet::send(ready, &[u8::from(named.is_ok())], &packet::borrow(&sockets));
    if process::die_with_parent().is_ok() {
        let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        });
    }
    0
}

/// Maps the ids of the helper's user namespace, and opens its namespaces once it is ready.
fn open_all(
    helper: &Process,
    ready: BorrowedFd<'_>,
    id_base: u32,
    own_network: bool,
    hostname: &str,
    trace: &Trace,
) -> Result<(Namespaces, Vec<OwnedFd>)> {
    // The caller may be in a pid namespace of its own, which `/proc` is not of.
    let pid = process::visible_pid(helper.pidfd.as_fd())?;
    let map = format!("0 {id_base} {ID_COUNT}");
    fs::write(format!("/proc/{pid}/uid_map"), &map).doing(|| format!("map user ids {map}"))?;
    fs::write(format!("/proc/{pid}/gid_map"), &map).doing(|| format!("map group ids {map}"))?;
    trace.end(Phase::Ids);
    let ready = packet::receive(ready).doing(|| "wait for the namespaces")?;
    let (named, sockets) = ready
        .ok_or(io::ErrorKind::UnexpectedEof)
        .doing(|| "wait for the namespaces")?;
    if named != [1] {
        return Err(Error::new(
            format!("set the host name `{hostname}`"),
            io::Error::from_raw_os_error(libc::EPERM),
        ));
    }
    let open = |kind: &str| -> Result<OwnedFd> {
        let file = File::open(format!("/proc/{pid}/ns/{kind}"))
            .doing(|| format!("open the {kind} namespace"))?;
        Ok(file.into())
    };
    let namespaces = Namespaces {
        user: open("user")?,
        uts: open("uts")?,
        ipc: open("ipc")?,
        net: if own_network {
            Some(open("net")?)
        } else {
            None
        },
    };
    Ok((namespaces, sockets))
}

/// Enters one namespace. For a user namespace the caller must be single-threaded.
///
/// # Errors
/// What `setns(2)` gives.
pub fn enter(namespace: BorrowedFd<'_>, kind: ThreadNameSpaceType) -> Result<()> {
    // SAFETY: a plain system call on a borrowed descriptor; it changes only which namespaces this
    // thread sees.
    match unsafe { libc::setns(namespace.as_raw_fd(), kind.bits() as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing(|| format!("enter a namespace ({kind:?})")),
    }
}

/// Enters the mount, pid, network, UTS, IPC and cgroup namespaces of a process at once, or none of
/// them. The pid namespace is that of processes made from then on.
///
/// # Errors
/// What `setns(2)` gives.
pub fn enter_process(pidfd: BorrowedFd<'_>) -> Result<()> {
    let all = flags::NEWNS
        | flags::NEWPID
        | flags::NEWNET
        | flags::NEWUTS
        | flags::NEWIPC
        | flags::NEWCGROUP;
    // SAFETY: a plain system call on a borrowed descriptor; it changes only which namespaces this
    // thread sees.
    match unsafe { libc::setns(pidfd.as_raw_fd(), all as libc::c_int) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing(|| "enter a container's namespaces"),
    }
}

/// Gives the calling process a cgroup namespace of its own, whose root is the groups it is in now.
///
/// # Errors
/// What `unshare(2)` gives.
pub fn own_cgroups() -> Result<()> {
    // SAFETY: a plain system call that changes only which cgroups this process, which has one
    // thread, sees.
    match unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing(|| "make a cgroup namespace"),
    }
}

/// Gives the calling process, which has one thread, mounts, a network, System V IPC and a host name of
/// its own: the network has no link but a loopback that is down.
///
/// # Errors
/// What `unshare(2)` gives.
pub fn leave() -> Result<()> {
    let all = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: a plain system call that changes only what this process, which has one thread, sees.
    match unsafe { libc::unshare(all) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing(|| "leave the host's namespaces"),
    }
}

/// A close-on-exec pipe: reading end, writing end.
///
/// # Errors
/// What `pipe2(2)` gives.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe")
}

/// Runs `body` on a thread of its own inside the network namespace `net`, so that no thread of a
/// runtime changes where it is. Sockets stay in the namespace they were made in.
///
/// # Errors
/// What `setns(2)` or `body` gives.
pub fn in_network<T: Send>(
    net: BorrowedFd<'_>,
    body: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(net, ThreadNameSpaceType::NETWORK)?;
            body()
        });
        thread.join().unwrap_or_else(|_| {
            Err(io::Error::other("the thread ended")).doing(|| "work in a network namespace")
        })
    })
}

/// Opens a socket to the routing tables of the network namespace `net`, and one that is notified of
/// changes there. Both stay in it. Needs a tokio runtime.
///
/// # Errors
/// What `setns(2)` or `socket(2)` gives.
pub fn open_routes(net: BorrowedFd<'_>) -> Result<(Routes, Changes)> {
    let runtime = tokio::runtime::Handle::current();
    in_network(net, move || {
        let _context = runtime.enter();
        Ok((Routes::here()?, Changes::of_routes()?))
    })
}
