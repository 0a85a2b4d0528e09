//! Whose what is: two daemons with one state folder, run folder, cgroup, network namespace or
//! socket would undo each other's work, so each of them is claimed before anything is read or
//! changed, and the second daemon is refused.
//!
//! *Locks.* Each claim is a lock of the kernel's on the thing itself and not on a file beside it
//! that somebody could remove: `flock(2)` on the folders, on the `cgroup.kill` of the group (the
//! one file there that only root may open), and an abstract socket name in the network namespace
//! (unix(7)), which holds the bridge and the nftables table. The kernel frees them when the process
//! ends, however it ends. Descriptors are close-on-exec, so neither the fork server nor a shim
//! keeps one.
//!
//! *Records.* Pods outlive their daemon, so a lock that is free does not say that what is there is
//! nobody's. The run folder (`owner`) and the cgroup (the extended attribute `trusted.tank.owner`)
//! name the state folder their pods are declared in. As long as that is another one that exists,
//! pods found there are its own and are not swept.

use rustix::{
    fs::{FlockOperation, Mode, OFlags, XattrFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fs::{self, DirBuilder},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tank_sys::{cgroup::Cgroups, sockets};

/// How long a lock is waited for: a daemon that was just killed may have a child that has not
/// executed its program yet, and with it a copy of the descriptor.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The name that is bound in the network namespace.
const NETWORK_NAME: &str = "io.tank.network";

/// The extended attribute of the cgroup.
const OWNER_ATTRIBUTE: &str = "trusted.tank.owner";

/// The longest record that is read, in bytes.
const MAX_RECORD: usize = 4096;

/// Everything that is claimed; given back when it is dropped, or with the process.
#[derive(Debug)]
#[must_use = "what it holds is free again when it is dropped"]
pub struct Ownership {
    locks: Vec<OwnedFd>,
}

/// What a record of an owner means for a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claim {
    /// It is this daemon's, nobody's, or has nothing in it.
    Free,
    /// Its pods are those of another state folder.
    Taken,
}

/// Decides on a record: `same` says whether it names this daemon's own state folder, `alive`
/// whether the one it names is still there, `pods` whether anything is left of pods.
fn decide(recorded: bool, same: bool, alive: bool, pods: bool) -> Claim {
    if recorded && !same && alive && pods {
        Claim::Taken
    } else {
        Claim::Free
    }
}

impl Ownership {
    /// Makes the two folders and claims them. Nothing in them is read before.
    ///
    /// # Errors
    /// A text that says what is taken, by whom, and what to do.
    pub fn of_folders(state: &Path, run: &Path) -> Result<Self, String> {
        make_folder(state, 0o700)?;
        make_folder(run, 0o711)?;
        let identity = |path: &Path| {
            fs::metadata(path)
                .map(|found| (found.dev(), found.ino()))
                .ok()
        };
        let mut locks = vec![lock_folder("state", state, "--state-dir")?];
        if identity(state) != identity(run) {
            locks.push(lock_folder("run", run, "--run-dir")?);
        }
        let pods = fs::read_dir(run.join("pods")).is_ok_and(|mut entries| entries.next().is_some());
        let file = run.join("owner");
        let recorded = read_record(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        refuse_taken(
            "run folder",
            run,
            recorded.as_deref(),
            state,
            pods,
            "give this one another with `--run-dir`",
        )?;
        let own = canonical(state);
        if recorded.as_deref() != Some(&own) {
            fs::write(&file, own.as_os_str().as_bytes())
                .map_err(|e| format!("{}: {e}", file.display()))?;
        }
        Ok(Self { locks })
    }

    /// Claims the cgroup for the pods of `state`.
    ///
    /// # Errors
    /// As [`Ownership::of_folders`].
    pub fn add_cgroup(&mut self, cgroups: &Cgroups, state: &Path) -> Result<(), String> {
        let (dir, token) = cgroups.claim().map_err(|e| tank_sys::with_causes(&e))?;
        let what = || format!("the cgroup {}", dir.display());
        let help = "give this one another with `cgroup` in tank.toml";
        lock(&token, &what, help)?;
        self.locks.push(token);
        let mut buffer = [0; MAX_RECORD];
        let recorded = match rustix::fs::getxattr(&dir, OWNER_ATTRIBUTE, &mut buffer[..]) {
            Ok(length) => Some(PathBuf::from(std::ffi::OsStr::from_bytes(
                &buffer[..length],
            ))),
            // A kernel whose cgroups have no attributes: the lock is all there is.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
            Err(error) => return Err(format!("read the owner of {}: {error}", what())),
        };
        refuse_taken(
            "cgroup",
            &dir,
            recorded.as_deref(),
            state,
            !cgroups.pods().is_empty(),
            help,
        )?;
        match rustix::fs::setxattr(
            &dir,
            OWNER_ATTRIBUTE,
            canonical(state).as_os_str().as_bytes(),
            XattrFlags::empty(),
        ) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(format!("record the owner of {}: {error}", what())),
        }
    }

    /// Claims the network namespace: Tank's bridge and its nftables table are one each.
    ///
    /// # Errors
    /// As [`Ownership::of_folders`].
    pub fn add_network(&mut self) -> Result<(), String> {
        let what = |e: &dyn std::fmt::Display| format!("claim the network namespace: {e}");
        let name =
            SocketAddrUnix::new_abstract_name(NETWORK_NAME.as_bytes()).map_err(|e| what(&e))?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| what(&e))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match rustix::net::bind(&socket, &name) {
                Ok(()) => {
                    self.locks.push(socket);
                    return Ok(());
                }
                #[expect(clippy::disallowed_methods, reason = "before anything is served")]
                Err(Errno::ADDRINUSE) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_RETRY)
                }
                Err(Errno::ADDRINUSE) => break,
                Err(error) => return Err(what(&error)),
            }
        }
        // Everybody may bind a name, so one that is held by somebody else than root must not keep a
        // daemon from starting.
        let holders =
            sockets::holders_of_abstract(NETWORK_NAME).map_err(|e| tank_sys::with_causes(&e))?;
        match holders.iter().find(|holder| holder.uid == 0) {
            Some(holder) => Err(format!(
                "the network namespace, with the bridge and the table `inet tank`, is used by another tankd (pid {}): \
                 stop that one, or start this one in a network namespace of its own",
                holder.pid
            )),
            None => {
                tracing::warn!(
                    ?holders,
                    "the name `@io.tank.network` is taken by somebody who is not root: ignored"
                );
                Ok(())
            }
        }
    }
}

/// Makes a folder that nobody else may read: who can open it can lock it.
fn make_folder(path: &Path, mode: u32) -> Result<(), String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| at(&e))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at(&error)),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| at(&e))
}

fn lock_folder(kind: &str, path: &Path, flag: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let what = || format!("the {kind} folder {}", path.display());
    lock(&dir, &what, &format!("give this one another with `{flag}`"))?;
    Ok(dir)
}

fn lock(fd: &OwnedFd, what: &dyn Fn() -> String, help: &str) -> Result<(), String> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            #[expect(clippy::disallowed_methods, reason = "before anything is served")]
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(Errno::WOULDBLOCK) => {
                let by = holder(fd).map_or_else(String::new, |pid| format!(" (pid {pid})"));
                return Err(format!(
                    "{} is used by another tankd{by}: stop that one, or {help}",
                    what()
                ));
            }
            Err(error) => return Err(format!("lock {}: {error}", what())),
        }
    }
}

/// Who holds the lock on an open file, where the kernel says so (proc_locks(5)).
fn holder(fd: &OwnedFd) -> Option<i32> {
    let found = rustix::fs::fstat(fd).ok()?;
    let (major, minor) = (
        rustix::fs::major(found.st_dev),
        rustix::fs::minor(found.st_dev),
    );
    holder_in(
        &fs::read_to_string("/proc/locks").ok()?,
        &format!("{major:02x}:{minor:02x}:{}", found.st_ino),
    )
}

fn holder_in(locks: &str, file: &str) -> Option<i32> {
    locks.lines().find_map(
        |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "FLOCK", _, _, pid, found, ..] if found == file => pid.parse().ok(),
            _ => None,
        },
    )
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn read_record(path: &Path) -> io::Result<Option<PathBuf>> {
    use std::io::Read;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD as u64).read_to_end(&mut bytes)?;
    Ok((!bytes.is_empty()).then(|| PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))))
}

fn refuse_taken(
    kind: &str,
    place: &Path,
    recorded: Option<&Path>,
    state: &Path,
    pods: bool,
    help: &str,
) -> Result<(), String> {
    let Some(recorded) = recorded else {
        return Ok(());
    };
    let same = canonical(recorded) == canonical(state);
    // A state folder is what has a store in it.
    let alive = recorded.join("store").is_dir();
    match decide(true, same, alive, pods) {
        Claim::Free => Ok(()),
        Claim::Taken => Err(format!(
            "the {kind} {} holds pods of the tankd with the state folder {}: end them with that one, or {help}",
            place.display(),
            recorded.display()
        )),
    }
}

/// Binds the socket to be served; `restrict` sets who may connect. One that is left by a daemon
/// that ended is replaced; one that somebody serves, and what is no socket, never is.
///
/// # Errors
/// A text that says what is in the way.
pub fn bind(
    path: &Path,
    restrict: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<tokio::net::UnixListener, String> {
    let at = |e: &dyn std::fmt::Display| format!("serve {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| at(&e))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(at(
                &"there is something else that is no socket: remove it, or name another with `--socket`",
            ));
        }
        Ok(_) => match answers(path) {
            Ok(None) => fs::remove_file(path).map_err(|e| at(&e))?,
            Ok(Some(pid)) => {
                let by = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                return Err(at(&format_args!(
                    "somebody else serves it{by}: stop that one, or name another with `--socket`"
                )));
            }
            Err(error) => return Err(at(&error)),
        },
    }
    let listener = tokio::net::UnixListener::bind(path).map_err(|e| at(&e))?;
    restrict(path).map_err(|e| at(&e))?;
    Ok(listener)
}

/// Whether somebody listens at a socket, and with which pid.
fn answers(path: &Path) -> io::Result<Option<Option<i32>>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => return Ok(Some(peer(socket.as_fd()))),
            // Its queue is full: it has one.
            Err(Errno::AGAIN) => return Ok(Some(None)),
            Err(Errno::CONNREFUSED | Errno::NOENT) => return Ok(None),
            Err(Errno::PROTOTYPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(None))
}

fn peer(socket: std::os::fd::BorrowedFd<'_>) -> Option<i32> {
    rustix::net::sockopt::socket_peercred(socket)
        .ok()
        .map(|found| found.pid.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_living_state_declared_is_taken() {
        for recorded in [false, true] {
            for same in [false, true] {
                for alive in [false, true] {
                    for pods in [false, true] {
                        let taken = recorded && !same && alive && pods;
                        let expected = if taken { Claim::Taken } else { Claim::Free };
                        assert_eq!(decide(recorded, same, alive, pods), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_file() {
        let locks = "1: FLOCK  ADVISORY  WRITE 27746 00:26:37 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 27165 fe:00:10177193 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 00:26:38 0 EOF\n";
        assert_eq!(holder_in(locks, "00:26:37"), Some(27746));
        assert_eq!(
            holder_in(locks, "fe:00:10177193"),
            None,
            "a lock of another kind"
        );
        assert_eq!(
            holder_in(locks, "00:26:38"),
            None,
            "somebody who only waits"
        );
    }
}
