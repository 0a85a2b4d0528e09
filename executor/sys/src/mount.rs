//! Detached mounts: file systems that hang in no mount table until a container attaches them.
//!
//! Made with `fsopen(2)`, `open_tree(2)` and `mount_setattr(2)`. A detached mount is a descriptor:
//! when the last one closes the kernel unmounts it, so a crash anywhere on the way leaves nothing
//! behind.
//!
//! Overlay takes detached mounts as layers since Linux 6.15. On older kernels the daemon
//! attaches the layers while it makes the overlay ([`Way`]), in a mount namespace of its own
//! ([`own_namespace`]) that ends with it.

mod erofs;
mod overlay;

pub use erofs::erofs;
pub use overlay::{Way, overlay, overlay_by};

use crate::{Context, Result, beneath};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags,
    },
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Attributes of a mount, as `mount_setattr(2)` has them.
pub mod attr {
    /// Nothing can be written.
    pub const RDONLY: u64 = 0x1;
    /// Set-id bits and file capabilities count for nothing.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes can't be opened.
    pub const NODEV: u64 = 0x4;
    /// No program can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// No symbolic link is followed (Linux 5.14).
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
    pub(super) const IDMAP: u64 = 0x0010_0000;
}

/// A detached copy of the mount at `path`, optionally with everything mounted below it.
///
/// # Errors
/// What `open_tree(2)` gives.
pub fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
        .doing(|| format!("copy the mount at {}", path.display()))
}

/// A detached copy of the mount that holds `name` of the mount `from`, with that as its root.
///
/// # Errors
/// What `open_tree(2)` gives: `EINVAL` for a detached `from` before Linux 6.15.
pub fn clone_beneath(from: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(from, name, flags).doing(|| format!("copy the mount of {name}"))
}

/// A detached copy of the mount that `place` is in (it may be opened with `O_PATH`), with that as
/// its root, optionally with everything mounted below it: nothing is resolved again. What is mounted
/// later does not appear in it: a plain copy would be a slave of the host's, as this process's is.
///
/// # Errors
/// What `open_tree(2)` and `mount_setattr(2)` give.
pub fn clone_place(place: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mount = copy_place(place, recursive)?;
    propagate(mount.as_fd(), libc::MS_PRIVATE)?;
    Ok(mount)
}

/// As [`clone_place`] with everything mounted below it; what is mounted there later appears in it, and
/// nothing that is mounted in it appears there.
///
/// # Errors
/// What `open_tree(2)` and `mount_setattr(2)` give.
pub fn clone_followed(place: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mount = copy_place(place, true)?;
    propagate(mount.as_fd(), libc::MS_SLAVE)?;
    Ok(mount)
}

fn copy_place(place: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(place, "", flags).doing(|| "copy a mount")
}

fn propagate(mount: BorrowedFd<'_>, propagation: u64) -> Result<()> {
    let attr = MountAttr {
        propagation,
        ..MountAttr::default()
    };
    set_attributes(mount, &attr, true).doing(|| "set where mounts appear")
}

/// Sets attributes on `mount` and everything below it.
///
/// # Errors
/// What `mount_setattr(2)` gives.
pub fn restrict(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<()> {
    let attr = MountAttr {
        attr_set: attributes,
        ..MountAttr::default()
    };
    set_attributes(mount, &attr, recursive).doing(|| "restrict a mount")
}

/// Makes ids on the file system of the detached `mount` appear through the map of the user
/// namespace `user`: what is owned by 0 on disk belongs to the pod's own root.
///
/// # Errors
/// `EINVAL` when the file system can't do that; what else `mount_setattr(2)` gives.
pub fn idmap(mount: BorrowedFd<'_>, user: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr {
        attr_set: attr::IDMAP,
        userns_fd: user.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    set_attributes(mount, &attr, false)
        .doing(|| "map the ids of a mount (does its file system support it?)")
}

/// Whether the mount that `place` is in hands on what is mounted below it: it is `shared`, or a slave of
/// one that is (mount_namespaces(7)).
///
/// # Errors
/// What `statx(2)` gives, or reading the mounts of this process does.
pub fn is_followed(place: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let id = stat.stx_mnt_id.to_string();
    let mounts = io::BufReader::new(std::fs::File::open("/proc/self/mountinfo")?);
    for line in io::BufRead::lines(io::Read::take(mounts, MAX_MOUNTINFO)) {
        let line = line?;
        let mut fields = line.split(' ');
        if fields.next() == Some(id.as_str()) {
            let mut tags = fields.skip(5).take_while(|tag| *tag != "-");
            return Ok(tags.any(|tag| tag.starts_with("shared:") || tag.starts_with("master:")));
        }
    }
    Ok(false)
}

/// The most of the table of mounts that is read.
const MAX_MOUNTINFO: u64 = 256 << 20;

fn set_attributes(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is the structure the call expects, of the size given, and outlives it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A detached file system of its own: `kind` with `options`.
///
/// # Errors
/// What the kernel gives, with the last line of its own explanation where there is one.
pub fn filesystem(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .doing(|| format!("open a {kind}"))?;
    for (key, value) in options {
        configure(&context, kind, key, value)?;
    }
    create(&context, kind, attributes)
}

/// Whether the kernel has a file system, or a module that has it. It takes CAP_SYS_ADMIN.
pub fn knows(kind: &str) -> bool {
    rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

fn configure(context: &OwnedFd, kind: &str, key: &str, value: &str) -> Result<()> {
    rustix::mount::fsconfig_set_string(context, key, value)
        .map_err(|e| explain(context, e))
        .doing(|| format!("set {key}={value} on a {kind}"))
}

fn create(context: &OwnedFd, kind: &str, attributes: u64) -> Result<OwnedFd> {
    rustix::mount::fsconfig_create(context)
        .map_err(|e| explain(context, e))
        .doing(|| format!("make a {kind}"))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .doing(|| format!("mount a {kind}"))
}

/// The kernel logs why it refused into the context itself (fsopen(2), "Message retrieval
/// interface").
fn explain(context: &OwnedFd, error: rustix::io::Errno) -> io::Error {
    let mut buffer = [0u8; 512];
    match rustix::io::read(context, &mut buffer) {
        Ok(length) if length > 0 => {
            let line = String::from_utf8_lossy(&buffer[..length]);
            io::Error::other(format!(
                "{} ({})",
                line.trim().trim_start_matches("e "),
                io::Error::from(error)
            ))
        }
        _ => error.into(),
    }
}

/// Gives the calling process a mount namespace of its own: it sees what the host mounts, the host
/// sees nothing of what it mounts. Call it before there is a second thread.
///
/// # Errors
/// What `unshare(2)` gives.
pub fn own_namespace() -> Result<()> {
    // SAFETY: changes only which mounts this process, which has one thread, sees.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error()).doing(|| "make a mount namespace");
    }
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream).doing(|| "keep mounts in this namespace")
}

/// Attaches a detached mount on the place `target` names.
///
/// # Errors
/// What `move_mount(2)` gives.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags).doing(|| "attach a mount")
}

/// Takes the topmost mount at a place away; what uses it keeps it.
///
/// # Errors
/// What `umount2(2)` gives.
pub fn detach(place: &Path) -> Result<()> {
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH)
        .doing(|| format!("let go of {}", place.display()))
}

/// Opens `path` beneath `root`, following links as a process with that root directory would.
///
/// # Errors
/// What `openat2(2)` gives.
pub fn open_in_root(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    beneath::open_in(root, Path::new(path), flags)
}

/// Writes a new file into a directory (of a mount of Tank's own, so nothing can be in the way), which belongs to a user and
/// a group by the host's ids.
///
/// # Errors
/// What the kernel gives.
pub fn write_file(
    dir: BorrowedFd<'_>,
    name: &str,
    content: &[u8],
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<()> {
    use std::io::Write;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
        .doing(|| format!("create {name}"))?;
    let mut file = std::fs::File::from(file);
    file.write_all(content).doing(|| format!("write {name}"))?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(gid),
    );
    rustix::fs::fchown(&file, Some(uid), Some(gid)).doing(|| format!("own {name}"))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).doing(|| format!("set the mode of {name}"))
}

/// Reads a file of a directory (of a mount of Tank's own): none where there is no such file, or a
/// larger one.
///
/// # Errors
/// What the kernel gives otherwise.
pub fn read_file(dir: BorrowedFd<'_>, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other.doing(|| format!("open {name}"))?,
    };
    let mut content = Vec::new();
    let read = std::fs::File::from(file)
        .take(most + 1)
        .read_to_end(&mut content);
    read.doing(|| format!("read {name}"))?;
    Ok(Some(content).filter(|content| content.len() as u64 <= most))
}

/// Writes an existing file of a directory anew, in place: whoever has it mounted sees the new
/// content. Not atomic: who reads meanwhile may get some of both. The rest of a longer one is cut
/// off after the new content is there.
///
/// # Errors
/// What the kernel gives.
pub fn rewrite_file(dir: BorrowedFd<'_>, name: &str, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(dir, name, flags, Mode::empty()).doing(|| format!("open {name}"))?;
    let file = std::fs::File::from(file);
    let write = || {
        file.write_all_at(content, 0)?;
        file.set_len(content.len() as u64)
    };
    write().doing(|| format!("write {name}"))
}

/// Whether `fd` is a directory.
pub fn is_directory(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// The mount's root, readable: from a detached mount's own descriptor (opened with `O_PATH`
/// semantics).
///
/// # Errors
/// What `openat(2)` gives.
pub fn open_root(mount: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(mount.as_fd(), ".", flags, Mode::empty())
        .doing(|| "open the root of a mount")
}
