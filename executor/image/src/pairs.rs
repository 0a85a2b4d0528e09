//! Two trees that are gone down together, one that somebody else has chosen every name and byte of, and one that is made like it.
//!
//! Nothing is found by a path: each directory is opened beneath the one it is in, by its name and never through a link, on either side.

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};
use tank_layer::budget::Budget;

/// The deepest tree: a layer has at most 256 levels.
pub(crate) const MAX_LEVELS: usize = 300;

/// The entries between two looks at the disk.
const LOOK: u64 = 64;

/// The most bytes of the names of files that have several: what is on top of that is copied for each
/// of its names.
pub(crate) const MAX_LINK_BYTES: usize = 64 << 20;

pub(crate) const NO_LINK: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// A directory on the way down.
pub(crate) struct Level {
    pub(crate) from: OwnedFd,
    pub(crate) into: OwnedFd,
    pub(crate) stat: Stat,
    entries: Dir,
    /// Of `into`, from the top.
    path: PathBuf,
}

/// An entry that is no directory.
pub(crate) struct Entry<'e> {
    pub(crate) level: &'e Level,
    pub(crate) name: &'e CStr,
    pub(crate) stat: &'e Stat,
    path: &'e Path,
}

/// What is done on the way.
pub(crate) trait Copying {
    /// Whether an entry that is listed and not there is none: a whiteout.
    const HAS_WHITEOUTS: bool;

    /// Begins a directory, of which nothing is there yet.
    fn begin(&mut self, from: &OwnedFd, into: &OwnedFd) -> io::Result<()>;

    /// Makes one like an entry.
    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()>;

    /// Ends a directory, of which all is there.
    fn end(&mut self, level: &Level) -> io::Result<()>;
}

/// Goes down `from`, with `into`, which is empty: how many entries there were. Blocking.
///
/// # Errors
/// What the kernel gives, or the budget refuses, with the entry that it is about. What was made by then stays.
pub(crate) fn walk(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    budget: &Budget,
    copying: &mut impl Copying,
) -> io::Result<u64> {
    let top = (open_dir(from, c".")?, open_dir(into, c".")?);
    let mut levels = vec![begin(top, PathBuf::new(), copying)?];
    let mut count = 0u64;
    while let Some(at) = levels.last_mut() {
        let Some(entry) = at.entries.read() else {
            copying.end(at).map_err(|error| named(error, &at.path))?;
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        budget.entry()?;
        if count.is_multiple_of(LOOK) {
            budget.space()?;
        }
        count += 1;
        let path = at.path.join(OsStr::from_bytes(name.to_bytes()));
        let below = step(at, name, &path, copying).map_err(|error| named(error, &path))?;
        if let Some(below) = below {
            if levels.len() >= MAX_LEVELS {
                return Err(io::Error::other("it has more than 300 levels"));
            }
            levels.push(below);
        }
    }
    Ok(count)
}

/// One entry; a directory is what to go on with.
fn step<C: Copying>(
    level: &Level,
    name: &CStr,
    path: &Path,
    copying: &mut C,
) -> io::Result<Option<Level>> {
    let (from, into) = (level.from.as_fd(), level.into.as_fd());
    let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) if C::HAS_WHITEOUTS => return Ok(None),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        rustix::fs::mkdirat(into, name, Mode::RWXU)?;
        // A subvolume of btrfs has a device of its own, and shares nevertheless. Of what is mounted there is nothing to be found: what
        // is copied from is a mount by itself.
        let both = (open_dir(from, name)?, open_dir(into, name)?);
        return begin(both, path.to_owned(), copying).map(Some);
    }
    copying.entry(&Entry {
        level,
        name,
        stat: &stat,
        path,
    })?;
    Ok(None)
}

fn begin(
    (from, into): (OwnedFd, OwnedFd),
    path: PathBuf,
    copying: &mut impl Copying,
) -> io::Result<Level> {
    let stat = rustix::fs::fstat(&from)?;
    copying.begin(&from, &into)?;
    let entries = Dir::read_from(&from)?;
    Ok(Level {
        from,
        into,
        stat,
        entries,
        path,
    })
}

/// Where the first name of each file with several is.
pub(crate) struct Links {
    top: OwnedFd,
    known: HashMap<(u64, u64), PathBuf>,
    bytes: usize,
}

impl Links {
    pub(crate) fn new(into: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            top: open_dir(into, c".")?,
            known: HashMap::new(),
            bytes: 0,
        })
    }

    /// Gives what was made before under another name this one as well. Whether it did.
    pub(crate) fn link(&mut self, entry: &Entry<'_>) -> io::Result<bool> {
        let Entry {
            level,
            name,
            stat,
            path,
        } = entry;
        if stat.st_nlink <= 1 {
            return Ok(false);
        }
        let id = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.known.get(&id) {
            let none = AtFlags::empty();
            return match rustix::fs::linkat(&self.top, first, &level.into, *name, none) {
                Ok(()) => Ok(true),
                // Too many names for this file system, or too long a path: a copy says the same.
                Err(Errno::MLINK | Errno::NAMETOOLONG) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let bytes = path.as_os_str().len();
        if self.bytes + bytes <= MAX_LINK_BYTES {
            self.bytes += bytes;
            self.known.insert(id, (*path).to_owned());
        }
        Ok(false)
    }
}

impl Entry<'_> {
    /// Opens a file to be read: the one that was looked at.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | NO_LINK;
        let file = rustix::fs::openat(&self.level.from, self.name, read, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        match (found.st_dev, found.st_ino) == (self.stat.st_dev, self.stat.st_ino) {
            true => Ok(file),
            false => Err(io::Error::other("it was replaced meanwhile")),
        }
    }

    /// Makes a new file, which nobody but root may open yet.
    pub(crate) fn create(&self) -> io::Result<OwnedFd> {
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | NO_LINK;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(
            &self.level.into,
            self.name,
            write,
            mode,
        )?)
    }

    /// Makes a symbolic link of another's target.
    pub(crate) fn symlink(&self) -> io::Result<()> {
        let target = rustix::fs::readlinkat(&self.level.from, self.name, Vec::new())?;
        Ok(rustix::fs::symlinkat(
            target.as_c_str(),
            &self.level.into,
            self.name,
        )?)
    }

    /// Makes what has no content, with the permissions of another.
    pub(crate) fn special(&self, kind: FileType) -> io::Result<()> {
        let (into, none) = (&self.level.into, AtFlags::empty());
        let mode = Mode::from_raw_mode(self.stat.st_mode & 0o777);
        rustix::fs::mknodat(into, self.name, kind, mode, 0)?;
        Ok(rustix::fs::chmodat(into, self.name, mode, none)?)
    }

    /// Gives what can't be opened its owner and times.
    pub(crate) fn own(&self, (user, group): (u32, u32), times: &Timestamps) -> io::Result<()> {
        let (into, no_link) = (&self.level.into, AtFlags::SYMLINK_NOFOLLOW);
        let (user, group) = ids((user, group));
        rustix::fs::chownat(into, self.name, user, group, no_link)?;
        Ok(rustix::fs::utimensat(into, self.name, times, no_link)?)
    }
}

pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | NO_LINK;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

pub(crate) fn ids((user, group): (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
}

/// When it was used, and changed.
pub(crate) fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos| Timespec {
        tv_sec,
        tv_nsec: nanos,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

/// An error with the entry that it is about.
fn named(error: io::Error, path: &Path) -> io::Error {
    // The top has no name.
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    io::Error::new(error.kind(), format!("{path:?}: {error}"))
}
