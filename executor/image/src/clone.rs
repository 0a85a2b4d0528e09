//! A copy of a volume's tree that shares the bytes of its files with it (reflink: `FICLONE`,
//! ioctl_ficlone(2)), for a snapshot and for bringing one back.
//!
//! As in [`crate::copy`] every name and byte is somebody else's choice, nothing is found by a path, and
//! no link is followed. Other than there all that the tree has stays: set-id bits, attributes that give
//! rights, sockets and whiteouts of an overlay. What is written lies where the tree did, beneath a
//! folder that only root enters, and is used for nothing but to be that tree again. Devices are left
//! out: no container can make one.

use crate::{
    Error,
    copy::{MAX_LINK_BYTES, NO_LINK, open_dir},
    error::Attempt,
};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, IFlags, Mode, OFlags, Stat, Timespec, Timestamps, Uid,
        XattrFlags,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};
use tank_layer::budget::Budget;

/// The deepest tree.
const MAX_LEVELS: usize = 300;

/// The entries between two looks at the disk.
const LOOK: u64 = 64;

/// The most bytes of a list of attributes' names, and of one of them (xattr(7)).
const MAX_ATTRIBUTE: usize = 64 << 10;

/// All that a container can give a file and that its owner may set (xattr(7)); `trusted.` is the host's.
const ATTRIBUTES: [&[u8]; 4] = [
    b"user.",
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
];

/// Copies what is in the directory `from` into the empty directory `into`, and gives that the owner,
/// the mode, the attributes and the times of `from`: how many entries there were. Both have to be on
/// one file system, which can share the bytes of files. Blocking.
///
/// # Errors
/// What the kernel gives, or the budget refuses. What was copied by then stays.
pub fn clone_tree(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    budget: &Budget,
) -> Result<u64, Error> {
    tree(from, into, budget).attempt(|| "share the files of a volume".to_owned())
}

/// A directory on the way down.
struct Level {
    from: OwnedFd,
    into: OwnedFd,
    entries: Dir,
    /// Of `into`, from the top.
    path: PathBuf,
    stat: Stat,
}

impl Level {
    fn new(from: OwnedFd, into: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&from)?;
        // Where files are not copied on writes (btrfs), those made here have to be the same.
        no_cow(&from, &into)?;
        let entries = Dir::read_from(&from)?;
        Ok(Self {
            from,
            into,
            entries,
            path,
            stat,
        })
    }
}

struct Clone<'b> {
    top: OwnedFd,
    budget: &'b Budget,
    /// Where the first name of each file with several is.
    links: HashMap<(u64, u64), PathBuf>,
    link_bytes: usize,
    count: u64,
    /// For lists of attributes, and for values.
    names: Vec<u8>,
    value: Vec<u8>,
}

fn tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>, budget: &Budget) -> io::Result<u64> {
    let first = Level::new(open_dir(from, c".")?, open_dir(into, c".")?, PathBuf::new())?;
    let mut clone = Clone {
        top: open_dir(into, c".")?,
        budget,
        links: HashMap::new(),
        link_bytes: 0,
        count: 0,
        names: vec![0; MAX_ATTRIBUTE],
        value: vec![0; MAX_ATTRIBUTE],
    };
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.read() else {
            clone.attributes(&level.from, &level.into, &level.stat)?;
            own(&level.into, &level.stat)?;
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        let below = clone.entry(level, name, &path);
        if let Some(below) = below.map_err(|error| named(error, &path))? {
            if levels.len() >= MAX_LEVELS {
                return Err(io::Error::other("it has more than 300 levels"));
            }
            levels.push(below);
        }
    }
    Ok(clone.count)
}

/// An error with the entry that it is about.
fn named(error: io::Error, path: &std::path::Path) -> io::Error {
    io::Error::new(error.kind(), format!("{path:?}: {error}"))
}

impl Clone<'_> {
    /// Copies one entry; a directory is what to go on with.
    fn entry(
        &mut self,
        level: &Level,
        name: &CStr,
        path: &std::path::Path,
    ) -> io::Result<Option<Level>> {
        self.budget.entry()?;
        if self.count.is_multiple_of(LOOK) {
            self.budget.space()?;
        }
        self.count += 1;
        let (from, into) = (level.from.as_fd(), level.into.as_fd());
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(into, name, Mode::RWXU)?;
                let (from, into) = (open_dir(from, name)?, open_dir(into, name)?);
                // A subvolume of btrfs has a device of its own, and shares nevertheless. Of what is mounted there is nothing
                // to be found: what is copied from is a mount by itself.
                return Ok(Some(Level::new(from, into, path.to_owned())?));
            }
            FileType::RegularFile => self.file(level, name, &stat, path)?,
            FileType::Symlink => {
                if self.link(level, name, &stat, path)? {
                    return Ok(None);
                }
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), into, name)?;
                own_at(into, name, &stat)?;
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                self.special(level, name, (kind, &stat), path)?;
            }
            // A whiteout of an overlay that is inside of the volume.
            kind @ FileType::CharacterDevice if stat.st_rdev == 0 => {
                self.special(level, name, (kind, &stat), path)?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn special(
        &mut self,
        level: &Level,
        name: &CStr,
        (kind, stat): (FileType, &Stat),
        path: &std::path::Path,
    ) -> io::Result<()> {
        if self.link(level, name, stat, path)? {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
        rustix::fs::mknodat(&level.into, name, kind, mode, 0)?;
        own_at(level.into.as_fd(), name, stat)?;
        Ok(rustix::fs::chmodat(
            &level.into,
            name,
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Gives what was copied before under another name this one. Whether it did.
    fn link(
        &mut self,
        level: &Level,
        name: &CStr,
        stat: &Stat,
        path: &std::path::Path,
    ) -> io::Result<bool> {
        if stat.st_nlink <= 1 {
            return Ok(false);
        }
        if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            let none = AtFlags::empty();
            return match rustix::fs::linkat(&self.top, first, &level.into, name, none) {
                Ok(()) => Ok(true),
                // Too long a path: a copy says the same.
                Err(Errno::MLINK | Errno::NAMETOOLONG) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let bytes = path.as_os_str().len();
        if self.link_bytes + bytes <= MAX_LINK_BYTES {
            self.link_bytes += bytes;
            self.links
                .insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        Ok(false)
    }

    fn file(
        &mut self,
        level: &Level,
        name: &CStr,
        stat: &Stat,
        path: &std::path::Path,
    ) -> io::Result<()> {
        if self.link(level, name, stat, path)? {
            return Ok(());
        }
        let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | NO_LINK;
        let from = rustix::fs::openat(&level.from, name, read, Mode::empty())?;
        let found = rustix::fs::fstat(&from)?;
        if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(io::Error::other("it was replaced meanwhile"));
        }
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | NO_LINK;
        let into = rustix::fs::openat(&level.into, name, write, Mode::RUSR | Mode::WUSR)?;
        if stat.st_size > 0 {
            no_cow(&from, &into)?;
            rustix::fs::ioctl_ficlone(&into, &from)?;
        }
        self.attributes(&from, &into, stat)?;
        own(&into, stat)
    }

    /// Gives a file the owner and the attributes of another.
    fn attributes(&mut self, from: &OwnedFd, into: &OwnedFd, stat: &Stat) -> io::Result<()> {
        // Another owner takes capabilities away: they come after it.
        let (user, group) = ids(stat);
        rustix::fs::fchown(into, user, group)?;
        let length = match rustix::fs::flistxattr(from, &mut self.names) {
            // More of them than the kernel lists at once are nobody's to read.
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::TOOBIG) => return Ok(()),
            length => length?,
        };
        let names = self.names.get(..length).unwrap_or_default();
        for name in names.split(|byte| *byte == 0) {
            if !ATTRIBUTES.iter().any(|known| name.starts_with(known)) {
                continue;
            }
            let name = CString::new(name)?;
            match rustix::fs::fgetxattr(from, &name, &mut self.value) {
                Ok(length) => {
                    let value = self.value.get(..length).unwrap_or_default();
                    rustix::fs::fsetxattr(into, &name, value, XattrFlags::empty())?;
                }
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Whether files are copied on writes has to be the same of both before they share anything.
fn no_cow(from: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
    let (Ok(from), Ok(own)) = (
        rustix::fs::ioctl_getflags(from),
        rustix::fs::ioctl_getflags(into),
    ) else {
        return Ok(());
    };
    if from.contains(IFlags::NOCOW) == own.contains(IFlags::NOCOW) {
        return Ok(());
    }
    let mut flags = own;
    flags.set(IFlags::NOCOW, from.contains(IFlags::NOCOW));
    Ok(rustix::fs::ioctl_setflags(into, flags)?)
}

fn ids(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    (Some(user), Some(group))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos| Timespec {
        tv_sec,
        tv_nsec: nanos,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

/// Gives a file or a directory its mode, which another owner would have changed, and its times.
fn own(into: &OwnedFd, stat: &Stat) -> io::Result<()> {
    rustix::fs::fchmod(into, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(rustix::fs::futimens(into, &times(stat))?)
}

/// Gives what can't be opened its owner and times.
fn own_at(parent: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (user, group) = ids(stat);
    let no_link = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, user, group, no_link)?;
    Ok(rustix::fs::utimensat(parent, name, &times(stat), no_link)?)
}

#[cfg(test)]
mod tests;
