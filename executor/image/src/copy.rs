//! Copying a tree of which every byte is somebody else's choice into an empty directory of Tank's own.
//!
//! Nothing is found by a path: each directory is opened beneath the one it is in, by its name and
//! never through a link, on either side. Neither side may change meanwhile: what is read is a
//! read-only mount of Tank's own, and nobody else can enter what is written. Devices and sockets are
//! left out, as are the set-user-id and set-group-id bits of files, and every attribute that is not
//! a user's (`user.`): what is written belongs to whom it did, and gives nobody anything.

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
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

/// The deepest tree: a layer has at most 256 levels.
const MAX_LEVELS: usize = 300;

/// How many ids a container has. What belongs to another one is nobody's there, and in the copy.
const IDS: u32 = 65_536;
const NOBODY: u32 = 65_534;

/// The entries between two looks at the disk.
const LOOK: u64 = 64;

/// The bytes that are copied at once. As many zeros in a row are a hole.
const PIECE: usize = 128 << 10;

/// The most bytes of the names of files that have several: what is on top of that is copied for each
/// of its names.
pub(crate) const MAX_LINK_BYTES: usize = 64 << 20;

/// The most bytes of a list of attributes' names, and of one of them (xattr(7)).
const MAX_ATTRIBUTE: usize = 64 << 10;

/// The most bytes of one file's attributes, names and values, and what each takes beside those. EROFS has no more of a file
/// (`i_xattr_icount`), and an archive is unpacked by way of one; what an archive may say of a file is more than that.
const MAX_ATTRIBUTES: usize = 256 << 10;
const PER_ATTRIBUTE: usize = 32;

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

/// Copies what is in the directory `from` into the empty directory `into`, and gives that the owner,
/// the mode and the times of `from`: how many entries there were. Blocking.
///
/// # Errors
/// What the kernel gives, or the budget refuses. What was copied by then stays.
pub(crate) fn tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>, budget: &Budget) -> io::Result<u64> {
    let top = open_dir(into, c".")?;
    let first = Level::new(open_dir(from, c".")?, open_dir(into, c".")?, PathBuf::new())?;
    let mut copy = Copy {
        top,
        budget,
        links: HashMap::new(),
        link_bytes: 0,
        count: 0,
        buffer: vec![0; PIECE],
        zeros: vec![0; PIECE],
    };
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.read() else {
            attributes(&level.from, &level.into)?;
            own(&level.into, &level.stat, 0o3777)?;
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if let Some(below) = copy.entry(level, name)? {
            if levels.len() >= MAX_LEVELS {
                return Err(io::Error::other("it has more than 300 levels"));
            }
            levels.push(below);
        }
    }
    Ok(copy.count)
}

struct Copy<'b> {
    top: OwnedFd,
    budget: &'b Budget,
    /// Where the first name of each file with several is.
    links: HashMap<(u64, u64), PathBuf>,
    link_bytes: usize,
    count: u64,
    buffer: Vec<u8>,
    zeros: Vec<u8>,
}

impl Copy<'_> {
    /// Copies one entry; a directory is what to go on with.
    fn entry(&mut self, level: &Level, name: &CStr) -> io::Result<Option<Level>> {
        self.budget.entry()?;
        if self.count.is_multiple_of(LOOK) {
            self.budget.space()?;
        }
        self.count += 1;
        let (from, into) = (level.from.as_fd(), level.into.as_fd());
        let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            // A whiteout: overlay lists those of a directory that only one layer has.
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(into, name, Mode::RWXU)?;
                let (from, into) = (open_dir(from, name)?, open_dir(into, name)?);
                return Level::new(from, into, path).map(Some);
            }
            FileType::RegularFile => self.file(level, name, &stat, path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), into, name)?;
                own_at(into, name, &stat)?;
            }
            FileType::Fifo => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
                rustix::fs::mknodat(into, name, FileType::Fifo, mode, 0)?;
                rustix::fs::chmodat(into, name, mode, AtFlags::empty())?;
                own_at(into, name, &stat)?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn file(&mut self, level: &Level, name: &CStr, stat: &Stat, path: PathBuf) -> io::Result<()> {
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&id) {
                let none = AtFlags::empty();
                match rustix::fs::linkat(&self.top, first, &level.into, name, none) {
                    // Too many names for this file system, or too long a path: a copy says the same.
                    Err(Errno::MLINK | Errno::NAMETOOLONG) => {}
                    other => return Ok(other?),
                }
            } else if self.link_bytes + path.as_os_str().len() <= MAX_LINK_BYTES {
                self.link_bytes += path.as_os_str().len();
                self.links.insert(id, path);
            }
        }
        let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | NO_LINK;
        let from = rustix::fs::openat(&level.from, name, read, Mode::empty())?;
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | NO_LINK;
        let into = rustix::fs::openat(&level.into, name, write, Mode::RUSR | Mode::WUSR)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.budget.bytes(size)?;
        self.content(&from, &into, size)?;
        attributes(&from, &into)?;
        own(&into, stat, 0o1777)
    }

    fn content(&mut self, from: &OwnedFd, into: &OwnedFd, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = rustix::io::read(from, &mut self.buffer[..most])?;
            let piece = &self.buffer[..read];
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.zeros.starts_with(piece) {
                rustix::fs::seek(into, SeekFrom::Current(read as i64))?;
            } else {
                write_all(into, piece)?;
            }
            left -= read as u64;
            self.budget.space()?;
        }
        Ok(rustix::fs::ftruncate(into, size)?)
    }
}

pub(crate) const NO_LINK: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | NO_LINK;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn write_all(into: &OwnedFd, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match rustix::io::write(into, piece)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => piece = piece.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Gives a file the attributes of another. A file system that has none is no reason to fail.
fn attributes(from: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
    for (name, value) in attributes_of(from)? {
        match rustix::fs::fsetxattr(into, &name, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The attributes of a file that users may set.
///
/// # Errors
/// What the kernel gives; and where they are more than an archive of the file could have.
pub(crate) fn attributes_of(file: &OwnedFd) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let too_many = || io::Error::other("its attributes (`user.*`) have more than 256 KiB");
    let mut found = Vec::new();
    let mut names = vec![0; MAX_ATTRIBUTE];
    let length = match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(found),
        Err(Errno::TOOBIG | Errno::RANGE) => return Err(too_many()),
        Err(error) => return Err(error.into()),
    };
    let mut left = MAX_ATTRIBUTES;
    let names = names.get(..length).unwrap_or_default();
    let mut value = vec![0; if length > 0 { MAX_ATTRIBUTE } else { 0 }];
    for name in names.split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = CString::new(name)?;
        match rustix::fs::fgetxattr(file, &name, &mut value) {
            Ok(length) => {
                let bytes = name.as_bytes().len() + length + PER_ATTRIBUTE;
                left = left.checked_sub(bytes).ok_or_else(too_many)?;
                found.push((name, value.get(..length).unwrap_or_default().to_vec()));
            }
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// The ids of a container for what may be no id of one.
pub(crate) fn known_ids(stat: &Stat) -> (u32, u32) {
    let known = |id: u32| if id < IDS { id } else { NOBODY };
    (known(stat.st_uid), known(stat.st_gid))
}

fn ids(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    let (user, group) = known_ids(stat);
    (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

/// Gives a file or a directory its owner, those bits of its mode, and its times.
fn own(into: &OwnedFd, stat: &Stat, bits: u32) -> io::Result<()> {
    let (user, group) = ids(stat);
    rustix::fs::fchown(into, user, group)?;
    rustix::fs::fchmod(into, Mode::from_raw_mode(stat.st_mode & bits))?;
    Ok(rustix::fs::futimens(into, &times(stat))?)
}

/// Gives what can't be opened its owner and times.
fn own_at(parent: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (user, group) = ids(stat);
    let no_link = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, user, group, no_link)?;
    Ok(rustix::fs::utimensat(parent, name, &times(stat), no_link)?)
}
