//! Hard links from one layer to a file of another below it.
//!
//! A container that links to a file of its image changes that file's count of links, so the layer
//! that is made of it has the new name as a link whose target is not among its own entries. Others
//! unpack onto a mounted overlay, where `link` copies the file up. Here a layer has a directory of
//! its own, and the file is copied into that, as the kernel would show it: from the nearest layer
//! below that has it, unless a whiteout or an opaque directory hides it.

use crate::{
    budget::Budget,
    tree::{self, EntryError},
};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// The most bytes of a list of attributes' names, and of a value (xattr(7)).
const MAX_XATTR: usize = 64 << 10;

/// The attribute of a directory that shows nothing of the layers below it, with the value `y` (the
/// kernel's overlayfs documentation).
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// What one layer says about a path.
enum View {
    /// It has it: the directory it is in, and its last component.
    Here(OwnedFd, Stat),
    /// It hides what layers below say.
    Hidden,
    /// It says nothing.
    Absent,
}

/// The file that `path` names in an image.
pub struct Lower {
    dir: OwnedFd,
    stat: Stat,
}

/// Finds what a link in the layer at `own` points to, in the layers below it, of which the nearest
/// comes first.
///
/// # Errors
/// When no layer has it, or one hides it.
pub fn find(own: BorrowedFd<'_>, below: &[PathBuf], path: &Path) -> Result<Lower, EntryError> {
    let mut view = view(own, path)?;
    for layer in below {
        match view {
            View::Absent => {}
            View::Hidden | View::Here(..) => break,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        view = self::view(rustix::fs::open(layer, flags, Mode::empty())?.as_fd(), path)?;
    }
    match view {
        View::Here(dir, stat) => Ok(Lower { dir, stat }),
        View::Hidden | View::Absent => Err(EntryError::NoTarget(path.to_owned())),
    }
}

/// Looks a path up in one layer, component by component: a link on the way may lead anywhere in the
/// layers together, and no archiver writes one there.
fn view(root: BorrowedFd<'_>, path: &Path) -> io::Result<View> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    let mut opaque = is_opaque(&dir)?;
    let absent = |opaque: bool| Ok(if opaque { View::Hidden } else { View::Absent });
    let mut components = path.components().peekable();
    while let Some(Component::Normal(name)) = components.next() {
        let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return absent(opaque),
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice {
            return Ok(View::Hidden);
        }
        if components.peek().is_none() {
            return Ok(View::Here(dir, stat));
        }
        if !kind.is_dir() {
            return Ok(View::Hidden);
        }
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
        opaque |= is_opaque(&dir)?;
    }
    absent(opaque)
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Lower {
    /// Copies it to a new name: content, owner, mode, times and the users' attributes.
    pub fn copy(
        &self,
        path: &Path,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        budget: &Budget,
    ) -> Result<(), EntryError> {
        let from = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::RegularFile => self.copy_file(from, dir, name, budget)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.dir, from, Vec::new())?;
                rustix::fs::symlinkat(&target, dir, name)?;
                self.own(dir, name)?;
            }
            FileType::Fifo => {
                rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)?;
                self.own(dir, name)?;
            }
            _ => return Err(EntryError::NotLinkable(path.to_owned())),
        }
        let time = |seconds, nanos| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanos).unwrap_or(0),
        };
        let modified = time(self.stat.st_mtime, self.stat.st_mtime_nsec);
        let times = Timestamps {
            last_access: modified,
            last_modification: modified,
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(dir, name, &times, flags)?)
    }

    fn copy_file(
        &self,
        from: &OsStr,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        budget: &Budget,
    ) -> Result<(), EntryError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(&self.dir, from, flags, Mode::empty())?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
        let (mut source, mut file) = (File::from(source), File::from(file));
        budget.bytes(u64::try_from(self.stat.st_size).unwrap_or(0))?;
        tree::copy(&mut source, &mut file, budget)?;
        let (user, group) = self.owner();
        rustix::fs::fchown(&file, user, group)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.stat.st_mode & 0o7777))?;
        Ok(copy_attributes(&source, &file)?)
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        let (user, group) = (self.stat.st_uid, self.stat.st_gid);
        (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let (user, group) = self.owner();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(dir, name, user, group, flags)?)
    }
}

fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let users = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."));
    let mut value = vec![0; MAX_XATTR];
    for name in users.map(OsStr::from_bytes) {
        let length = rustix::fs::fgetxattr(from, name, &mut value)?;
        rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}
