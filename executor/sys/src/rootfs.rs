//! What a container's first process does to its mount namespace, before it gives up every privilege.
//!
//! It runs as the host's root in a mount namespace that is new but still holds a copy of the host's tree: it attaches
//! the image's root, makes that `/`, drops the copy, and only then touches a path of the image. From there on no
//! symbolic link of a hostile image can lead to the host: the host is not mounted any more.
//!
//! The mounts belong to the host's user namespace and not to the pod's, so a container's root can neither unmount a
//! masked path nor mount over it, whatever its capabilities.

use crate::{
    Context, Result,
    laps::{Laps, Phase},
    mount::{self, attr},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{MountPropagationFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

/// Everything a root file system is put together from.
pub struct Rootfs<'a> {
    /// A detached mount of the image's layers.
    pub root: BorrowedFd<'a>,
    /// An existing directory of the host to attach it on for a moment, in the new namespace only.
    pub attach_on: &'a Path,
    /// Detached mounts and their absolute places, parents first.
    pub mounts: &'a [(OwnedFd, String)],
    /// A detached mount that holds files, and which of them to put where.
    pub files: Option<(BorrowedFd<'a>, &'a [FileMount])>,
    /// The host id of the container's root.
    pub owner: u32,
    pub read_only: bool,
    /// Beside those that every container has.
    pub devices: &'a [Device],
    pub laps: &'a Laps,
}

/// A device node of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Absolute, below `/dev`.
    pub path: String,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
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
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

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
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Makes the calling process see the container's file system and nothing else.
///
/// # Errors
/// What the kernel gives, with the step it refused.
pub fn enter(rootfs: &Rootfs<'_>) -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).doing(|| "keep mounts in this namespace")?;
    let place = mount::open_path(rootfs.attach_on)?;
    mount::attach(rootfs.root, place.as_fd())?;
    // The old root ends up on top of the new one, is where "." is, and goes (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::chdir(rootfs.attach_on).doing(|| "enter the image's root")?;
    rustix::process::pivot_root(".", ".").doing(|| "change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "let go of the host's file systems")?;
    rustix::process::chdir("/").doing(|| "enter the new root")?;
    rootfs.laps.note(Phase::Root);

    devices(rootfs.owner)?;
    for device in rootfs.devices {
        host_device(device, rootfs.owner)?;
    }
    rootfs.laps.note(Phase::Devices);
    for (fd, target) in rootfs.mounts {
        let place = make_place(target, mount::is_directory(fd.as_fd()), rootfs.owner)?;
        mount::attach(fd.as_fd(), place.as_fd()).doing_at(target)?;
    }
    rootfs.laps.note(Phase::Volumes);
    if let Some((fd, files)) = rootfs.files {
        attach_files(fd, files, rootfs.owner)?;
        rootfs.laps.note(Phase::Files);
    }
    kernel_filesystems(rootfs.owner)?;
    rootfs.laps.note(Phase::KernelFilesystems);
    if rootfs.read_only {
        mount::restrict(mount::open_path(Path::new("/"))?.as_fd(), attr::RDONLY, false)?;
    }
    Ok(())
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

fn devices(owner: u32) -> Result<()> {
    real_directory("/dev", owner)?;
    let options = [("mode", "0755"), ("size", "65536k")];
    attach_new("tmpfs", &options, attr::NOSUID, "/dev", owner)?;
    for (name, major, minor) in DEVICES {
        let path = format!("/dev/{name}");
        let mode = Mode::from_raw_mode(0o666);
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, path.as_str(), FileType::CharacterDevice, mode, device)
            .doing(|| format!("make {path}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).doing(|| format!("open up {path}"))?;
        chown(&path, Some(owner), Some(owner)).doing(|| format!("own {path}"))?;
    }
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir(dir).doing(|| format!("make {dir}"))?;
    }
    // gid 5 is `tty` on every distribution; the terminal's owner is set when it is made.
    let tty_group = (owner + 5).to_string();
    let options = [("mode", "0620"), ("ptmxmode", "0666"), ("gid", tty_group.as_str())];
    attach_new("devpts", &options, attr::NOSUID | attr::NOEXEC, "/dev/pts", owner)?;
    let shm = [("mode", "1777"), ("size", "65536k")];
    attach_new("tmpfs", &shm, attr::NOSUID | attr::NODEV | attr::NOEXEC, "/dev/shm", owner)?;
    attach_new("mqueue", &[], attr::NOSUID | attr::NODEV | attr::NOEXEC, "/dev/mqueue", owner)?;
    let links = [
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        symlink(target, link).doing(|| format!("link {link}"))?;
    }
    Ok(())
}

/// A device that was asked for. It belongs to the host's root, who is nobody in the container: what its mode refuses is
/// refused to the container's root as well, whatever its capabilities.
fn host_device(device: &Device, owner: u32) -> Result<()> {
    let path = Path::new(&device.path);
    if let Some(parent) = path.parent() {
        make_directories(parent, owner)?;
    }
    let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let mode = if device.read_only { 0o444 } else { 0o666 };
    let number = rustix::fs::makedev(device.major, device.minor);
    let made = rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), number);
    made.doing(|| format!("make {}", device.path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing(|| format!("open up {}", device.path))
}

/// `/proc`, `/sys` and the cgroup tree, after the volumes: none of them can then be covered by one.
fn kernel_filesystems(owner: u32) -> Result<()> {
    let locked_down = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    real_directory("/proc", owner)?;
    attach_new("proc", &[], locked_down, "/proc", owner)?;
    real_directory("/sys", owner)?;
    attach_new("sysfs", &[], locked_down | attr::RDONLY, "/sys", owner)?;
    if Path::new("/sys/fs/cgroup").is_dir() {
        attach_new("cgroup2", &[], locked_down | attr::RDONLY, "/sys/fs/cgroup", owner)?;
    }
    for path in READ_ONLY.iter().filter(|path| Path::new(path).exists()) {
        let bind = mount::clone_tree(Path::new(path), true)?;
        mount::restrict(bind.as_fd(), attr::RDONLY | locked_down, true)?;
        mount::attach(bind.as_fd(), mount::open_path(Path::new(path))?.as_fd()).doing_at(path)?;
    }
    for path in MASKED {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => {
                let empty =
                    mount::filesystem("tmpfs", &[("size", "0k"), ("mode", "0555")], locked_down | attr::RDONLY)?;
                mount::attach(empty.as_fd(), mount::open_path(Path::new(path))?.as_fd()).doing_at(path)?;
            }
            Ok(_) => {
                let null = mount::clone_tree(Path::new("/dev/null"), false)?;
                mount::attach(null.as_fd(), mount::open_path(Path::new(path))?.as_fd()).doing_at(path)?;
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn attach_new(kind: &str, options: &[(&str, &str)], attributes: u64, target: &str, owner: u32) -> Result<()> {
    let fd = mount::filesystem(kind, options, attributes)?;
    mount::attach(fd.as_fd(), mount::open_path(Path::new(target))?.as_fd()).doing_at(target)?;
    // Only a tmpfs has owners to set; the others are the kernel's.
    if kind == "tmpfs" {
        chown(target, Some(owner), Some(owner)).doing(|| format!("own {target}"))?;
    }
    Ok(())
}

/// Ensures `path` is a directory and no link: an image must not choose where `/proc` goes.
fn real_directory(path: &str, owner: u32) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOTDIR)).doing(|| format!("use {path} of the image")),
        Err(_) => {
            fs::create_dir(path).doing(|| format!("make {path}"))?;
            chown(path, Some(owner), Some(owner)).doing(|| format!("own {path}"))
        }
    }
}

/// Each file is a mount of its own, read-only, copied from the detached mount that holds them all: since Linux 6.15. Before,
/// that one has to be attached for a moment.
fn attach_files(files: BorrowedFd<'_>, entries: &[FileMount], owner: u32) -> Result<()> {
    let first = entries.first().map(|entry| mount::clone_beneath(files, &entry.name));
    if matches!(first, None | Some(Ok(_))) {
        return attach_each(entries, owner, |name| mount::clone_beneath(files, name));
    }
    let staging = Path::new("/dev/.files");
    fs::create_dir(staging).doing(|| "make room for files")?;
    mount::attach(files, mount::open_path(staging)?.as_fd())?;
    attach_each(entries, owner, |name| mount::clone_tree(&staging.join(name), false))?;
    rustix::mount::unmount(staging, UnmountFlags::DETACH).doing(|| "let go of the files' mount")?;
    fs::remove_dir(staging).doing(|| "remove the files' mount point")
}

fn attach_each(entries: &[FileMount], owner: u32, copy: impl Fn(&str) -> Result<OwnedFd>) -> Result<()> {
    for FileMount { name, path } in entries {
        let bind = copy(name)?;
        mount::restrict(bind.as_fd(), attr::RDONLY | attr::NOSUID | attr::NODEV, false)?;
        let place = make_place(path, false, owner)?;
        mount::attach(bind.as_fd(), place.as_fd()).doing_at(path)?;
    }
    Ok(())
}

/// Opens a place to mount on, made with its parents if it is missing. Links are the image's own affair: `/` is the
/// container's. One that leads nowhere (many images have such an `/etc/resolv.conf`) gets what it leads to.
fn make_place(path: &str, directory: bool, owner: u32) -> Result<OwnedFd> {
    let target = follow_links(Path::new(path));
    if directory {
        make_directories(&target, owner)?;
    } else {
        make_directories(target.parent().unwrap_or(Path::new("/")), owner)?;
        if fs::symlink_metadata(&target).is_err() {
            fs::File::create_new(&target).doing(|| format!("make {path}"))?;
            chown(&target, Some(owner), Some(owner)).doing(|| format!("own {path}"))?;
        }
    }
    rustix::fs::open(&target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open {path}"))
}

/// Where the last component of a path leads, as far as there are links: 40 of them at most, as the kernel has it.
fn follow_links(path: &Path) -> PathBuf {
    let mut at = path.to_owned();
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&at) else { break };
        let joined = at.parent().unwrap_or(Path::new("/")).join(link);
        at = joined.components().fold(PathBuf::from("/"), |mut clean, component| {
            match component {
                Component::Normal(part) => clean.push(part),
                Component::ParentDir => drop(clean.pop()),
                _ => {}
            }
            clean
        });
    }
    at
}

/// Makes every missing directory of `path`, owned by the container's root.
///
/// # Errors
/// What `mkdir(2)` gives, and `ENOTDIR` where something else is in the way.
pub fn make_directories(path: &Path, owner: u32) -> Result<()> {
    let mut at = PathBuf::from("/");
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => chown(&at, Some(owner), Some(owner)).doing(|| format!("own {}", at.display()))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).doing(|| format!("make {}", at.display())),
        }
    }
    Ok(())
}
