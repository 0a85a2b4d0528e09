//! A copy of a volume's tree that shares the bytes of its files with it (reflink: `FICLONE`,
//! ioctl_ficlone(2)), for a snapshot and for bringing one back.
//!
//! As in [`crate::copy`] every name and byte is somebody else's choice. Other than there all that the tree has stays: set-id bits,
//! attributes that give rights, sockets and whiteouts of an overlay. What is written lies where the tree did, beneath a
//! folder that only root enters, and is used for nothing but to be that tree again. Devices are left
//! out: no container can make one.

use crate::{
    Error, attributes,
    error::Attempt,
    pairs::{self, Copying, Entry, Level, Links, ids, times},
};
use rustix::fs::{FileType, IFlags, Mode, Stat};
use std::{
    ffi::CString,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};
use tank_layer::budget::Budget;

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

fn tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>, budget: &Budget) -> io::Result<u64> {
    let mut clone = Clone {
        links: Links::new(into)?,
        names: Vec::new(),
        value: Vec::new(),
    };
    pairs::walk(from, into, budget, &mut clone)
}

struct Clone {
    links: Links,
    /// For lists of attributes, and for values.
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Copying for Clone {
    const HAS_WHITEOUTS: bool = false;

    fn begin(&mut self, from: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
        // Where files are not copied on writes (btrfs), those made here have to be the same.
        no_cow(from, into)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let stat = entry.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_known = match kind {
            FileType::RegularFile | FileType::Symlink | FileType::Fifo | FileType::Socket => true,
            // A whiteout of an overlay that is inside of the volume.
            FileType::CharacterDevice => stat.st_rdev == 0,
            _ => false,
        };
        if !is_known || self.links.link(entry)? {
            return Ok(());
        }
        match kind {
            FileType::RegularFile => return self.file(entry),
            FileType::Symlink => entry.symlink()?,
            kind => entry.special(kind)?,
        }
        entry.own((stat.st_uid, stat.st_gid), &times(stat))
    }

    fn end(&mut self, level: &Level) -> io::Result<()> {
        self.attributes(&level.from, &level.into, &level.stat)?;
        own(&level.into, &level.stat)
    }
}

impl Clone {
    fn file(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let (from, into) = (entry.open()?, entry.create()?);
        if entry.stat.st_size > 0 {
            no_cow(&from, &into)?;
            rustix::fs::ioctl_ficlone(&into, &from)?;
        }
        self.attributes(&from, &into, entry.stat)?;
        own(&into, entry.stat)
    }

    /// Gives a file the owner and the attributes of another.
    fn attributes(&mut self, from: &OwnedFd, into: &OwnedFd, stat: &Stat) -> io::Result<()> {
        // Another owner takes capabilities away: they come after it.
        let (user, group) = ids((stat.st_uid, stat.st_gid));
        rustix::fs::fchown(into, user, group)?;
        for name in attributes::names(from, &mut self.names)?.split(|byte| *byte == 0) {
            if !ATTRIBUTES.iter().any(|known| name.starts_with(known)) {
                continue;
            }
            let name = CString::new(name)?;
            if let Some(value) = attributes::value(from, &name, &mut self.value)? {
                attributes::set(into, &name, value)?;
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

/// Gives a file or a directory its mode, which another owner would have changed, and its times.
fn own(into: &OwnedFd, stat: &Stat) -> io::Result<()> {
    rustix::fs::fchmod(into, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(rustix::fs::futimens(into, &times(stat))?)
}

#[cfg(test)]
mod tests;
