//! What a container's first process does to its mount namespace, before it gives up every
//! privilege.
//!
//! It runs as the host's root in a mount namespace that is new but still holds a copy of the host's
//! tree: it attaches the image's root, makes that `/`, drops the copy, and only then touches a path
//! of the image, [`crate::beneath`] a descriptor of that root. No symbolic link of a hostile
//! image, or of a volume that somebody else is writing to, can lead to the host: the host is not
//! mounted any more, and no directory of it is open.
//!
//! The mounts belong to the host's user namespace and not to the pod's, so a container's root can
//! neither unmount a masked path nor mount over it, whatever its capabilities.

use crate::{
    Context, Result,
    beneath::{self, Owner, Root},
    mount::{self, attr},
    trace::{Phase, Trace},
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    mount::{MountPropagationFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Everything a root file system is put together from.
pub struct Rootfs<'a> {
    /// A detached mount of the image's layers.
    pub root: BorrowedFd<'a>,
    /// An existing directory of the host. The root is attached on it, in the new namespace only,
    /// until it takes the place of the old root.
    pub attach_on: &'a Path,
    /// Detached mounts and their absolute places, parents first.
    pub mounts: &'a [(OwnedFd, String)],
    /// A detached mount that holds files, and which of them to put where.
    pub files: Option<(BorrowedFd<'a>, &'a [FileMount])>,
    /// The host id of the container's root.
    pub owner: u32,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
    /// Beside those that every container has.
    pub devices: &'a [Device],
    /// Where spans are recorded.
    pub trace: &'a Trace,
}

/// A device node of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Absolute, below `/dev`.
    pub path: String,
    /// Whether it is a block device.
    pub block: bool,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Whether it can't be written.
    pub read_only: bool,
}

/// One file of a mount of generated files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMount {
    /// Its name in the mount.
    pub name: String,
    /// Its absolute path in the container.
    pub path: String,
}

/// Device nodes of every container: name, major, minor (Linux allocated devices).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Hidden: they speak of the host, or to it (the OCI runtimes' default list).
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Read-only for the same reason.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A container's file system, entered.
#[derive(Debug)]
pub struct Entered {
    /// Its root directory.
    pub root: Root,
    /// Its `/dev/null`, for reading. By descriptor: a volume may cover `/dev`.
    pub null: OwnedFd,
}

/// Makes the calling process see the container's file system and nothing else. No descriptor of a
/// directory of the host's may be open.
///
/// # Errors
/// What the kernel gives, with the step it refused.
pub fn enter(rootfs: &Rootfs<'_>) -> Result<Entered> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).doing(|| "keep mounts in this namespace")?;
    let place = beneath::open_path(rootfs.attach_on)?;
    mount::attach(rootfs.root, place.as_fd())?;
    drop(place);
    // The old root ends up on top of the new one, is where "." is, and goes (pivot_root(2),
    // "pivot_root(".", ".")").
    rustix::process::chdir(rootfs.attach_on).doing(|| "enter the image's root")?;
    rustix::process::pivot_root(".", ".").doing(|| "change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .doing(|| "let go of the host's file systems")?;
    rustix::process::chdir("/").doing(|| "enter the new root")?;
    rootfs.trace.end(Phase::Root);

    let root = Root::current()?;
    let owner = Owner::Id(rootfs.owner);
    let null = devices(&root, rootfs.owner)?;
    for device in rootfs.devices {
        host_device(&root, device, owner)?;
    }
    rootfs.trace.end(Phase::Devices);
    for (fd, target) in rootfs.mounts {
        let place = root.ensure_place(Path::new(target), mount::is_directory(fd.as_fd()), owner)?;
        mount::attach(fd.as_fd(), place.as_fd()).doing_at(target)?;
    }
    rootfs.trace.end(Phase::Volumes);
    if let Some((fd, files)) = rootfs.files {
        attach_files(&root, fd, files, owner)?;
        rootfs.trace.end(Phase::Files);
    }
    kernel_filesystems(&root, null.as_fd(), owner)?;
    rootfs.trace.end(Phase::KernelFilesystems);
    if rootfs.read_only {
        mount::restrict(root.as_fd(), attr::RDONLY, false)?;
    }
    Ok(Entered { root, null })
}

/// Adds the container's path to an error that lacks it.
trait DoingAt<T> {
    fn doing_at(self, target: &str) -> Result<T>;
}

impl<T> DoingAt<T> for Result<T> {
    fn doing_at(self, target: &str) -> Result<T> {
        self.map_err(|e| crate::Error::new(format!("{} on {target}", e.what), e.source))
    }
}

/// Gives the container's own `/dev/null`.
fn devices(root: &Root, owner: u32) -> Result<OwnedFd> {
    let id = Owner::Id(owner);
    let tmpfs = attach_new(
        "tmpfs",
        &[("mode", "0755"), ("size", "65536k")],
        attr::NOSUID,
        root,
        "dev",
        id,
    )?;
    let dev = tmpfs.as_fd();
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let device = rustix::fs::makedev(major, minor);
        let made = rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device);
        made.doing(|| format!("make /dev/{name}"))?;
        // The mode that was given is less what the umask takes.
        rustix::fs::chmodat(dev, name, mode, AtFlags::empty())
            .doing(|| format!("open up /dev/{name}"))?;
        beneath::own(dev, name, id).doing(|| format!("own /dev/{name}"))?;
    }
    // gid 5 is `tty` on every distribution; the terminal's owner is set when it is made.
    let tty_group = (owner + 5).to_string();
    let pts = [
        ("mode", "0620"),
        ("ptmxmode", "0666"),
        ("gid", tty_group.as_str()),
        ("max", "256"),
    ];
    let shm = [("mode", "1777"), ("size", "65536k")];
    let locked_down = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let mount_on =
        |name: &str, kind: &str, options: &[(&str, &str)], attributes: u64| -> Result<()> {
            rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))
                .doing(|| format!("make /dev/{name}"))?;
            attach_at(kind, options, attributes, dev, name, id)
                .doing_at("/dev")
                .map(drop)
        };
    mount_on("pts", "devpts", &pts, attr::NOSUID | attr::NOEXEC)?;
    mount_on("shm", "tmpfs", &shm, locked_down)?;
    mount_on("mqueue", "mqueue", &[], locked_down)?;
    let links = [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ];
    for (target, link) in links {
        rustix::fs::symlinkat(target, dev, link).doing(|| format!("link /dev/{link}"))?;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dev, "null", flags, Mode::empty()).doing(|| "open /dev/null")
}

/// A device that was asked for. It belongs to the host's root, who is nobody in the container: what
/// its mode refuses is refused to the container's root as well, whatever its capabilities.
fn host_device(root: &Root, device: &Device, owner: Owner) -> Result<()> {
    let path = Path::new(&device.path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL))
            .doing(|| format!("make {}", device.path));
    };
    let dir = root.ensure_directory(parent, owner)?;
    let kind = if device.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let mode = Mode::from_raw_mode(if device.read_only { 0o444 } else { 0o666 });
    let number = rustix::fs::makedev(device.major, device.minor);
    rustix::fs::mknodat(&dir, name, kind, mode, number)
        .doing(|| format!("make {}", device.path))?;
    rustix::fs::chmodat(&dir, name, mode, AtFlags::empty())
        .doing(|| format!("open up {}", device.path))
}

/// `/proc`, `/sys` and the cgroup tree, after the volumes: none of them can then be covered by one.
fn kernel_filesystems(root: &Root, null: BorrowedFd<'_>, owner: Owner) -> Result<()> {
    let locked_down = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    attach_new("proc", &[], locked_down, root, "proc", owner)?;
    let sys = attach_new("sysfs", &[], locked_down | attr::RDONLY, root, "sys", owner)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(fs) = rustix::fs::openat(&sys, "fs", flags, Mode::empty())
        && rustix::fs::openat(&fs, "cgroup", flags, Mode::empty()).is_ok()
    {
        attach_at(
            "cgroup2",
            &[],
            locked_down | attr::RDONLY,
            fs.as_fd(),
            "cgroup",
            owner,
        )
        .doing_at("/sys/fs")?;
    }
    let place = |path: &str| {
        root.open(Path::new(path), OFlags::PATH | OFlags::NOFOLLOW)
            .ok()
    };
    for (path, place) in READ_ONLY
        .iter()
        .filter_map(|path| Some((path, place(path)?)))
    {
        let bind = mount::clone_place(place.as_fd(), true).doing_at(path)?;
        mount::restrict(bind.as_fd(), attr::RDONLY | locked_down, true)?;
        mount::attach(bind.as_fd(), place.as_fd()).doing_at(path)?;
    }
    for (path, place) in MASKED.iter().filter_map(|path| Some((path, place(path)?))) {
        let mask = if mount::is_directory(place.as_fd()) {
            mount::filesystem(
                "tmpfs",
                &[("size", "0k"), ("mode", "0555")],
                locked_down | attr::RDONLY,
            )?
        } else {
            mount::clone_place(null, false)?
        };
        mount::attach(mask.as_fd(), place.as_fd()).doing_at(path)?;
    }
    Ok(())
}

/// Mounts a new file system on a directory of the container's root, made if it is missing: gives
/// the new one's root.
fn attach_new(
    kind: &str,
    options: &[(&str, &str)],
    attributes: u64,
    root: &Root,
    name: &str,
    owner: Owner,
) -> Result<OwnedFd> {
    real_directory(root, name, owner)?;
    attach_at(kind, options, attributes, root.as_fd(), name, owner)
}

fn attach_at(
    kind: &str,
    options: &[(&str, &str)],
    attributes: u64,
    parent: BorrowedFd<'_>,
    name: &str,
    owner: Owner,
) -> Result<OwnedFd> {
    let fd = mount::filesystem(kind, options, attributes)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place =
        rustix::fs::openat(parent, name, flags, Mode::empty()).doing(|| format!("open {name}"))?;
    mount::attach(fd.as_fd(), place.as_fd()).doing_at(name)?;
    // Only a tmpfs has owners to set; the others are the kernel's.
    if kind == "tmpfs" {
        beneath::own(parent, name, owner).doing(|| format!("own {name}"))?;
    }
    Ok(fd)
}

/// Ensures `name` of the root is a directory and no link: an image must not choose where `/proc`
/// goes.
fn real_directory(root: &Root, name: &str, owner: Owner) -> Result<()> {
    match rustix::fs::statat(root.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOTDIR))
            .doing(|| format!("use /{name} of the image")),
        Err(_) => {
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(root.as_fd(), name, mode).doing(|| format!("make /{name}"))?;
            beneath::own(root.as_fd(), name, owner).doing(|| format!("own /{name}"))
        }
    }
}

/// Each file is a mount of its own, read-only, copied from the detached mount that holds them all:
/// since Linux 6.15. Older kernels copy from attached mounts only, so it is attached until the
/// copies are made.
fn attach_files(
    root: &Root,
    files: BorrowedFd<'_>,
    entries: &[FileMount],
    owner: Owner,
) -> Result<()> {
    let first = entries
        .first()
        .map(|entry| mount::clone_beneath(files, &entry.name));
    if matches!(first, None | Some(Ok(_))) {
        return attach_each(root, entries, owner, |name| {
            mount::clone_beneath(files, name)
        });
    }
    let what = || "make room for files";
    let dev = root.directory(Path::new("/dev")).doing(what)?;
    rustix::fs::mkdirat(&dev, STAGING, Mode::from_raw_mode(0o700)).doing(what)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::openat(&dev, STAGING, flags, Mode::empty()).doing(what)?;
    mount::attach(files, place.as_fd())?;
    // From here on the descriptor is of a mount in this namespace, from which copies can be made.
    attach_each(root, entries, owner, |name| {
        mount::clone_beneath(files, name)
    })?;
    let staging = Path::new("/dev").join(STAGING);
    rustix::mount::unmount(staging, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .doing(|| "let go of the files' mount")?;
    rustix::fs::unlinkat(&dev, STAGING, AtFlags::REMOVEDIR)
        .doing(|| "remove the files' mount point")
}

/// Where in `/dev` the files' mount is attached until the copies are made.
const STAGING: &str = ".files";

fn attach_each(
    root: &Root,
    entries: &[FileMount],
    owner: Owner,
    copy: impl Fn(&str) -> Result<OwnedFd>,
) -> Result<()> {
    for FileMount { name, path } in entries {
        let bind = copy(name)?;
        mount::restrict(
            bind.as_fd(),
            attr::RDONLY | attr::NOSUID | attr::NODEV,
            false,
        )?;
        let place = root.ensure_place(Path::new(path), false, owner)?;
        mount::attach(bind.as_fd(), place.as_fd()).doing_at(path)?;
    }
    Ok(())
}
