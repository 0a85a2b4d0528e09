//! The directory that a layer is unpacked into, entry by entry: every path is resolved beneath it by
//! the kernel. See [`crate::unpack`] for what an entry may be.

use crate::{
    archive::{Archive, Member},
    budget::{Budget, Refusal},
    links,
};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};
use tar_core::EntryType;

/// The deepest path.
const MAX_DEPTH: usize = 256;

/// The longest path, in bytes.
const MAX_PATH: usize = 4096;

/// The bytes that are copied between two looks at the budget.
const PIECE: usize = 256 << 10;

/// Why an entry of a layer can't be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Its path has a `..`: such an entry is refused, not corrected.
    #[error("the path `{}` climbs out of the layer", .0.display())]
    Climbs(PathBuf),
    /// Its path has more than 4096 bytes or 256 components, or a NUL.
    #[error("a path in it is too long or too deep")]
    LongPath,
    /// A link leads it into a directory below more than 256 others.
    #[error("a directory in it is more than {MAX_DEPTH} levels deep")]
    Deep,
    /// It is a hard link to what neither its layer nor those below show.
    #[error("its image has no `{}` to link to", .0.display())]
    NoTarget(PathBuf),
    /// It is a hard link to a directory or a socket.
    #[error("`{}` is nothing to link to", .0.display())]
    NotLinkable(PathBuf),
    /// What the image may take of this host is taken.
    #[error(transparent)]
    Budget(#[from] Refusal),
    /// The kernel refuses it, or its content can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::ErrorKind> for EntryError {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Io(kind.into())
    }
}

/// A relative path without `.`, `..` and empty components.
///
/// # Errors
/// When it climbs, or is too long or too deep.
pub fn clean(bytes: &[u8]) -> Result<PathBuf, EntryError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(EntryError::Climbs(path.to_owned()));
            }
        }
    }
    if bytes.len() > MAX_PATH || clean.components().count() > MAX_DEPTH || bytes.contains(&0) {
        return Err(EntryError::LongPath);
    }
    Ok(clean)
}

/// Copies all that `from` has, as long as there is space.
pub fn copy(from: &mut impl Read, to: &mut File, budget: &Budget) -> io::Result<()> {
    loop {
        budget.space()?;
        if io::copy(&mut from.by_ref().take(PIECE as u64), to)? < PIECE as u64 {
            return Ok(());
        }
    }
}

/// The directory a layer is unpacked into.
pub struct Tree<'l> {
    root: OwnedFd,
    below: &'l [PathBuf],
    budget: &'l Budget,
    /// The file of a layer below that was copied last, and its copy: many names may be links to it.
    copied: Option<(PathBuf, OwnedFd)>,
    /// Whether anything was copied from a layer below.
    crosses: bool,
}

impl<'l> Tree<'l> {
    /// A layer that is unpacked into the empty directory `root`, on top of those at `below`, of
    /// which the nearest comes first.
    pub fn new(root: OwnedFd, below: &'l [PathBuf], budget: &'l Budget) -> Self {
        Self {
            root,
            below,
            budget,
            copied: None,
            crosses: false,
        }
    }

    /// Whether the layer has something of those below it.
    pub fn crosses(&self) -> bool {
        self.crosses
    }

    /// Sets the times of a directory, where it is one still.
    ///
    /// # Errors
    /// When the budget refuses.
    pub fn set_dir_times(&self, path: &Path, times: &Timestamps) -> io::Result<()> {
        self.budget.go_on()?;
        if let Ok(dir) = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            let _ = rustix::fs::futimens(&dir, times);
        }
        Ok(())
    }

    /// Opens a path of the layer as a process with this root directory would.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // A rename elsewhere may race with `..`; the kernel asks to try again (openat2(2),
                // EAGAIN).
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The directory `path` is in, made with its parents if missing, and the last component.
    ///
    /// # Errors
    /// When the directory is deeper than [`MAX_DEPTH`]: links can lead a short path down far, and
    /// what is deep is slow to reach and to remove.
    fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), EntryError> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open(parent, flags) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                let (dir, missing) = self.parent(parent)?;
                // The whiteout of a directory makes way for it, here or on the way; a file does not.
                let in_the_way = match file_type(dir.as_fd(), missing)? {
                    None | Some(FileType::CharacterDevice) => false,
                    Some(_) => error.kind() == io::ErrorKind::NotADirectory,
                };
                if in_the_way {
                    return Err(error.into());
                }
                make_dir(dir.as_fd(), missing)?;
                Ok((self.shallow(self.open(parent, flags)?)?, name))
            }
            other => Ok((self.shallow(other?)?, name)),
        }
    }

    /// A directory of the layer that is not too deep, as the kernel names it (proc_pid_fd(5)).
    fn shallow(&self, dir: OwnedFd) -> Result<OwnedFd, EntryError> {
        let depth = |fd: &OwnedFd| -> io::Result<usize> {
            let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
            Ok(name.components().count())
        };
        // One whose name is longer than a path may be has no name there.
        match (depth(&dir), depth(&self.root)) {
            (Ok(dir_depth), Ok(root)) if dir_depth <= root + MAX_DEPTH => Ok(dir),
            _ => Err(EntryError::Deep),
        }
    }

    /// Adds one entry. For a directory, returns the times to give it in the end.
    ///
    /// # Errors
    /// When it can't be had in this directory, or takes more than the image may.
    pub fn add<R: Read>(
        &mut self,
        path: &Path,
        member: &Member,
        content: &mut Archive<R>,
    ) -> Result<Option<Timestamps>, EntryError> {
        self.budget.entry()?;
        self.budget.space()?;
        let times = Timestamps {
            last_access: member.time,
            last_modification: member.time,
        };
        if path.as_os_str().is_empty() {
            let (owner, mode) = attributes(member);
            rustix::fs::fchown(&self.root, Some(owner.0), Some(owner.1))?;
            rustix::fs::fchmod(&self.root, mode)?;
            return Ok(Some(times));
        }
        let (dir, name) = self.parent(path)?;
        let dir = dir.as_fd();
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            whiteout(dir, OsStr::from_bytes(hidden))?;
            return Ok(None);
        }
        let link = || member.link.as_deref().ok_or(io::ErrorKind::InvalidData);
        match member.kind {
            EntryType::Directory => {
                make_dir(dir, name)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(dir, name, flags, Mode::empty())?;
                finish(made.as_fd(), member)?;
                return Ok(Some(times));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                let file = self.file(dir, name, member, content)?;
                rustix::fs::futimens(&file, &times)?;
            }
            EntryType::Symlink => {
                remove(dir, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(link()?), dir, name)?;
                own(dir, name, member)?;
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryType::Link => {
                let target = clean(link()?)?;
                if target != path {
                    self.link(&target, dir, name)?;
                }
            }
            EntryType::Fifo => {
                remove(dir, name)?;
                rustix::fs::mknodat(dir, name, FileType::Fifo, attributes(member).1, 0)?;
                own(dir, name, member)?;
            }
            // Devices are left out, see `unpack`; of others nothing is known.
            _ => {}
        }
        Ok(None)
    }

    fn file<R: Read>(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        member: &Member,
        content: &mut Archive<R>,
    ) -> Result<File, EntryError> {
        remove(dir, name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::from_raw_mode(0o600);
        let mut file = File::from(rustix::fs::openat(dir, name, flags, private)?);
        self.budget.bytes(member.size)?;
        write(&mut file, member, content, self.budget)?;
        finish(file.as_fd(), member)?;
        Ok(file)
    }

    /// Makes a hard link to what this layer has as `target`, or to a copy of what a layer below
    /// has.
    fn link(&mut self, target: &Path, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), EntryError> {
        let target_name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(own) = self.own_target(target, target_name)? {
            let same = || -> io::Result<bool> {
                Ok(rustix::fs::fstat(&own)?.st_ino == rustix::fs::fstat(dir)?.st_ino)
            };
            if target_name == name && same()? {
                return Ok(());
            }
            remove(dir, name)?;
            let none = AtFlags::empty();
            return Ok(rustix::fs::linkat(&own, target_name, dir, name, none)?);
        }
        remove(dir, name)?;
        if let Some((known, copy)) = &self.copied
            && known == target
            && rustix::fs::linkat(copy, "", dir, name, AtFlags::EMPTY_PATH).is_ok()
        {
            return Ok(());
        }
        links::find(self.root.as_fd(), self.below, target)?.copy(target, dir, name, self.budget)?;
        self.crosses = true;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        self.copied = Some((target.to_owned(), copy));
        Ok(())
    }

    /// The directory of this layer that `target` is in, if the layer has it.
    fn own_target(&self, target: &Path, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = match self.open(target.parent().unwrap_or(Path::new("")), flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            // A whiteout is the only device a layer has: there is nothing to link to.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice => {
                Ok(None)
            }
            Ok(_) => Ok(Some(parent)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes a file's content: all of it, or the pieces of one with holes.
fn write<R: Read>(
    file: &mut File,
    member: &Member,
    content: &mut Archive<R>,
    budget: &Budget,
) -> io::Result<()> {
    let Some(pieces) = &member.pieces else {
        return copy(content, file, budget);
    };
    for (offset, length) in pieces {
        file.seek(SeekFrom::Start(*offset))?;
        copy(&mut content.by_ref().take(*length), file, budget)?;
    }
    file.set_len(member.size)
}

/// Makes a directory, or takes the one there is. One that takes the place of something else, a
/// whiteout or an earlier entry of the layer, shows nothing of the layers below: that was hidden
/// already.
fn make_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(dir, name, mode) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            if file_type(dir, name)?.is_some_and(|kind| kind.is_dir()) {
                return Ok(());
            }
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            rustix::fs::mkdirat(dir, name, mode)?;
            make_opaque(dir, name)
        }
        Err(error) => Err(error.into()),
    }
}

/// What a name of a directory stands for, a link for itself; none where there is no such name.
fn file_type(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Hides what the layers below have in a directory (the kernel's overlayfs documentation, "whiteouts
/// and opaque directories").
fn make_opaque(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opaque = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let none = XattrFlags::empty();
    Ok(rustix::fs::fsetxattr(opaque, links::OPAQUE, b"y", none)?)
}

/// A later entry of the same path replaces the earlier one, unless that is a directory with
/// something in it.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

/// Hides what the layers below have as `hidden`. What this layer has stays, whichever entry comes
/// first (OCI image specification, "Whiteouts": they "MUST only apply to resources in lower/parent
/// layers"): a directory becomes opaque, all else hides what is below by being there.
fn whiteout(dir: BorrowedFd<'_>, hidden: &OsStr) -> io::Result<()> {
    // The whole name is `.wh..wh..opq`.
    if hidden == ".wh..opq" {
        return make_opaque(dir, OsStr::new("."));
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match file_type(dir, hidden)? {
        Some(FileType::Directory) => make_opaque(dir, hidden),
        Some(_) => Ok(()),
        None => {
            let mode = Mode::empty();
            Ok(rustix::fs::mknodat(
                dir,
                hidden,
                FileType::CharacterDevice,
                mode,
                0,
            )?)
        }
    }
}

/// The owner and the mode of an entry.
fn attributes(member: &Member) -> ((Uid, Gid), Mode) {
    let owner = (Uid::from_raw(member.owner.0), Gid::from_raw(member.owner.1));
    (owner, Mode::from_raw_mode(member.mode))
}

/// Owns what can't be opened: a link, a FIFO.
fn own(dir: BorrowedFd<'_>, name: &OsStr, member: &Member) -> io::Result<()> {
    let (owner, flags) = (attributes(member).0, AtFlags::SYMLINK_NOFOLLOW);
    Ok(rustix::fs::chownat(
        dir,
        name,
        Some(owner.0),
        Some(owner.1),
        flags,
    )?)
}

/// Owner before mode, since changing the owner clears set-user-id; then the attributes users may
/// set. Those of the kernel (`trusted.`, `security.`) are not an image's to choose.
fn finish(fd: BorrowedFd<'_>, member: &Member) -> io::Result<()> {
    let (owner, mode) = attributes(member);
    rustix::fs::fchown(fd, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(fd, mode)?;
    for (name, value) in member
        .xattrs
        .iter()
        .filter(|(name, _)| name.starts_with(b"user."))
    {
        match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
