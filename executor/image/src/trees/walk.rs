//! A tree as a tar archive that depends on nothing but what is in it: names in order, numeric owners, whole seconds, no word
//! of where it is, how it is stored, or when it was read.
//!
//! Everything is opened beneath the directory that it is in, by its name: no link is followed, nothing that is mounted in
//! the tree is entered, and only what is a file or a directory is opened at all. Devices and sockets are left out, as a
//! layer's are, and attributes other than a user's (`user.`). What changes while it is read is an error.

use super::place;
use crate::{
    attributes,
    export::head,
    pairs::{MAX_LINK_BYTES, open_dir},
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};
use tank_layer::budget::Budget;
use tar_core::{EntryType, builder::EntryBuilder};

/// The deepest tree and the longest path: those of a layer.
const MAX_LEVELS: usize = 256;
const MAX_PATH: usize = 4_000;

/// The most bytes of names that are in memory: of the directories on the way to where the walk is.
const MAX_NAMES: usize = 64 << 20;

const BLOCK: u64 = 512;
const PIECE: usize = 128 << 10;

/// The directories that a container needs and a closure has not, with their modes; what is in the store comes in between.
const BEFORE: [(&str, u32); 4] = [
    ("", 0o755),
    ("dev/", 0o755),
    ("etc/", 0o755),
    ("nix/", 0o755),
];
const STORE: (&str, u32) = ("nix/store/", 0o755);
const BEHIND: [(&str, u32); 7] = [
    ("proc/", 0o755),
    ("root/", 0o700),
    ("run/", 0o755),
    ("sys/", 0o755),
    ("tmp/", 0o1777),
    ("var/", 0o755),
    ("var/tmp/", 0o1777),
];

/// What the time of everything in Nix's store is.
const STORE_TIME: i64 = 1;

/// Why a tree is no image.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It is something else.
    #[error("it is no folder")]
    NoFolder,
    /// A link on the way to it may be somebody else's than root's.
    #[error("`{}` is a link that somebody else than root can have placed", .0.display())]
    OthersLink(PathBuf),
    /// It is an OCI image layout.
    #[error("it is an OCI image layout, and no root directory")]
    Layout,
    /// It is what skopeo calls `dir:`.
    #[error("it is what skopeo writes to `dir:`, and no root directory")]
    Skopeo,
    /// Something is mounted in it.
    #[error("something is mounted at `{}` in it", shown(.0))]
    Mount(Vec<u8>),
    /// A name would be a whiteout.
    #[error("`{}` is called as what a layer hides of those below", shown(.0))]
    Whiteout(Vec<u8>),
    /// It is not what it was when it was looked at first.
    #[error("{}changed while it was read", if .0.is_empty() { "it ".to_owned() } else { format!("`{}` in it ", shown(.0)) })]
    Changed(Vec<u8>),
    /// It is more than a layer may be.
    #[error(
        "its files have more than {} bytes, holes counted in",
        crate::MAX_LAYER
    )]
    Large,
    /// It is deeper than a layer may be.
    #[error("`{}` in it is deeper than 256 levels, or has a path of more than 4000 bytes", shown(.0))]
    Deep(Vec<u8>),
    /// Its directories have more names than are held in memory.
    #[error("the names in it take more than 64 MiB")]
    Names,
    /// Its file system gives nothing.
    #[error("its file system does not answer")]
    Silent,
    /// Other trees are read, and don't end.
    #[error("too many others are read that do not end")]
    Busy,
    /// Something of it can't be read.
    #[error("can't read `{}` in it", shown(.0))]
    Entry(Vec<u8>, #[source] io::Error),
    /// What the kernel gives, or the budget refuses.
    #[error("can't read it")]
    Io(#[from] io::Error),
}

impl From<Errno> for TreeError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

fn shown(path: &[u8]) -> String {
    crate::http::shown(&String::from_utf8_lossy(path))
}

impl TreeError {
    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::OthersLink(_) => Some("write the path that it leads to: `readlink -f` says it"),
            Self::Layout => Some("an OCI image layout is `oci:PATH`"),
            Self::Skopeo => Some("`skopeo copy dir:… oci:PATH:TAG` makes what `oci:PATH:TAG` is"),
            Self::Mount(_) => Some(
                "unmount it: `/proc`, `/sys` and `/dev` are made for each container, and a volume is mounted there by the configuration",
            ),
            Self::Whiteout(_) => Some(
                "rename it, or remove it: it is what is left of a layer that was unpacked without the ones below",
            ),
            Self::Changed(_) => Some("let whoever writes there end, and switch again"),
            _ => None,
        }
    }
}

/// Writes the archive of a folder. Blocking.
///
/// # Errors
/// Why it is none.
pub fn folder(path: &Path, out: &mut dyn Write, budget: &Budget) -> Result<(), TreeError> {
    let top = place::open(path)?;
    let is_there = |name: &CStr| rustix::fs::statat(&top, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if is_there(c"oci-layout") && is_there(c"index.json") {
        return Err(TreeError::Layout);
    }
    if is_there(c"manifest.json") && is_there(c"version") && !is_there(c"bin") {
        return Err(TreeError::Skopeo);
    }
    let mut walk = Walk::new(out, budget, false);
    let level = walk.directory(top, b"./".to_vec())?;
    walk.below(Level {
        path: Vec::new(),
        ..level
    })?;
    walk.end()
}

/// Writes the archive of store paths of Nix, by their names in order. Blocking.
///
/// # Errors
/// Why it is none.
pub fn closure(names: &[String], out: &mut dyn Write, budget: &Budget) -> Result<(), TreeError> {
    let store = place::open(Path::new("/nix/store"))?;
    let mut walk = Walk::new(out, budget, true);
    for (path, mode) in BEFORE.into_iter().chain([STORE]) {
        walk.empty(path, mode)?;
    }
    for name in names {
        let path = [STORE.0.as_bytes(), name.as_bytes()].concat();
        let name = CString::new(name.as_bytes()).map_err(io::Error::from)?;
        if let Some(level) = walk.entry(store.as_fd(), &name, path)? {
            walk.below(level)?;
        }
    }
    for (path, mode) in BEHIND {
        walk.empty(path, mode)?;
    }
    walk.end()
}

struct Walk<'w> {
    out: &'w mut dyn Write,
    budget: &'w Budget,
    /// It is Nix's: owners and times are the store's, and how many names a file has is the machine's.
    is_store: bool,
    links: HashMap<(u64, u64), Vec<u8>>,
    link_bytes: usize,
    names: usize,
    buffer: Vec<u8>,
}

/// A directory on the way down.
struct Level {
    dir: OwnedFd,
    stat: Stat,
    /// The names in it that are left, the first at the end.
    names: Vec<CString>,
    bytes: usize,
    path: Vec<u8>,
}

impl<'w> Walk<'w> {
    fn new(out: &'w mut dyn Write, budget: &'w Budget, is_store: bool) -> Self {
        Self {
            out,
            budget,
            is_store,
            links: HashMap::new(),
            link_bytes: 0,
            names: 0,
            buffer: vec![0; PIECE],
        }
    }

    /// Writes all that is in a directory, whose own entry was written.
    fn below(&mut self, first: Level) -> Result<(), TreeError> {
        let mut levels = vec![first];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                if changed(&level.stat, &rustix::fs::fstat(&level.dir)?) {
                    return Err(TreeError::Changed(level.path.clone()));
                }
                self.names -= level.bytes;
                levels.pop();
                continue;
            };
            let path = [level.path.as_slice(), name.to_bytes()].concat();
            if path.len() > MAX_PATH {
                return Err(TreeError::Deep(path));
            }
            let below = self.entry(level.dir.as_fd(), &name, path)?;
            if let Some(below) = below {
                if levels.len() >= MAX_LEVELS {
                    return Err(TreeError::Deep(below.path));
                }
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Writes one entry; a directory is what to go on with.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        mut path: Vec<u8>,
    ) -> Result<Option<Level>, TreeError> {
        self.budget.entry().map_err(io::Error::from)?;
        if name.to_bytes().starts_with(b".wh.") {
            return Err(TreeError::Whiteout(path));
        }
        // Nothing is opened before it is known what it is.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath =
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let found = match rustix::fs::openat2(dir, name, flags, Mode::empty(), beneath) {
            Err(Errno::XDEV) => return Err(TreeError::Mount(path)),
            Err(Errno::NOENT | Errno::LOOP) => return Err(TreeError::Changed(path)),
            Err(error) => return Err(TreeError::Entry(path, error.into())),
            Ok(found) => found,
        };
        let stat = rustix::fs::fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                path.push(b'/');
                let opened = open_dir(found.as_fd(), c".");
                let opened = opened.map_err(|error| TreeError::Entry(path.clone(), error))?;
                return self.directory(opened, path).map(Some);
            }
            FileType::RegularFile => self.file(&found, path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&found, "", Vec::new());
                let target =
                    target.map_err(|error| TreeError::Entry(path.clone(), error.into()))?;
                let mut entry = self.head(EntryType::Symlink, &path, &stat)?;
                entry.link_name(target.as_bytes());
                self.write(&mut entry)?;
            }
            FileType::Fifo => {
                let mut entry = self.head(EntryType::Fifo, &path, &stat)?;
                self.write(&mut entry)?;
            }
            _ => {}
        }
        Ok(None)
    }

    /// Writes the entry of a directory, and reads its names.
    fn directory(&mut self, dir: OwnedFd, path: Vec<u8>) -> Result<Level, TreeError> {
        let stat = rustix::fs::fstat(&dir)?;
        let mut entry = self.head(EntryType::Directory, &path, &stat)?;
        self.attributes(&dir, &path, &mut entry)?;
        self.write(&mut entry)?;
        let (mut names, mut bytes) = (Vec::new(), 0);
        let failed = |error: Errno| TreeError::Entry(path.clone(), error.into());
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // What the allocation takes beside the name.
            bytes += name.to_bytes().len() + 32;
            if self.names + bytes > MAX_NAMES {
                return Err(TreeError::Names);
            }
            names.push(name);
        }
        self.names += bytes;
        names.sort_by(|one, other| other.cmp(one));
        Ok(Level {
            dir,
            stat,
            names,
            bytes,
            path,
        })
    }

    fn file(&mut self, found: &OwnedFd, path: Vec<u8>) -> Result<(), TreeError> {
        let failed = |error: io::Error| TreeError::Entry(path.clone(), error);
        let file = reopen(found).map_err(failed)?;
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_nlink > 1 && !self.is_store {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id).cloned() {
                let mut entry = self.head(EntryType::Link, &path, &stat)?;
                entry.link_name(&first);
                return self.write(&mut entry);
            }
            if self.link_bytes + path.len() <= MAX_LINK_BYTES {
                self.link_bytes += path.len();
                self.links.insert(id, path.clone());
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.budget.bytes(size).map_err(io::Error::from)?;
        let mut entry = self.head(EntryType::Regular, &path, &stat)?;
        entry.size(size).map_err(io::Error::other)?;
        self.attributes(&file, &path, &mut entry)?;
        self.write(&mut entry)?;
        let mut left = size;
        while left > 0 {
            self.budget.go_on().map_err(io::Error::from)?;
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = rustix::io::read(&file, &mut self.buffer[..most]);
            let read = read.map_err(|error| TreeError::Entry(path.clone(), error.into()))?;
            if read == 0 {
                return Err(TreeError::Changed(path));
            }
            self.out
                .write_all(self.buffer.get(..read).unwrap_or_default())?;
            left -= read as u64;
        }
        let padding = usize::try_from(size.wrapping_neg() % BLOCK).unwrap_or(0);
        self.out.write_all(&[0; BLOCK as usize][..padding])?;
        match changed(&stat, &rustix::fs::fstat(&file)?) {
            true => Err(TreeError::Changed(path)),
            false => Ok(()),
        }
    }

    /// An empty directory of root's.
    fn empty(&mut self, path: &str, mode: u32) -> Result<(), TreeError> {
        let mut entry = EntryBuilder::new_ustar();
        let path = if path.is_empty() { "./" } else { path };
        let mut fill = || {
            let entry = entry.path(path).entry_type(EntryType::Directory);
            entry
                .mode(mode)?
                .uid(0)?
                .gid(0)?
                .size(0)?
                .mtime(STORE_TIME as u64)?;
            Ok::<_, tar_core::HeaderError>(())
        };
        fill().map_err(io::Error::other)?;
        self.write(&mut entry)
    }

    fn head(&self, kind: EntryType, path: &[u8], stat: &Stat) -> Result<EntryBuilder, TreeError> {
        let mut stat = *stat;
        // What most archives and many file systems keep of a time: a copy is the same.
        stat.st_mtime_nsec = 0;
        if self.is_store {
            (stat.st_uid, stat.st_gid, stat.st_mtime) = (0, 0, STORE_TIME);
        }
        let bits = if kind == EntryType::Symlink {
            0o777
        } else {
            0o7777
        };
        Ok(head(kind, path, &stat, bits, (stat.st_uid, stat.st_gid))?)
    }

    /// The attributes that users may set, in order.
    fn attributes(
        &self,
        file: &OwnedFd,
        path: &[u8],
        entry: &mut EntryBuilder,
    ) -> Result<(), TreeError> {
        if self.is_store {
            return Ok(());
        }
        let described = attributes::describe_in_layer(file, entry);
        described.map_err(|error| TreeError::Entry(path.to_owned(), error))
    }

    fn write(&mut self, entry: &mut EntryBuilder) -> Result<(), TreeError> {
        Ok(self.out.write_all(&entry.finish_bytes())?)
    }

    /// The end of an archive is two blocks of zeros.
    fn end(&mut self) -> Result<(), TreeError> {
        Ok(self.out.write_all(&[0; 2 * BLOCK as usize])?)
    }
}

/// Opens for reading what is known to be a file.
fn reopen(found: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Whether something was written, or its name, owner, mode or attributes changed, between two looks.
fn changed(before: &Stat, after: &Stat) -> bool {
    let of = |stat: &Stat| {
        (
            (stat.st_size, stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        )
    };
    of(before) != of(after)
}
