//! A tar stream becomes files.

use crate::{
    Error, PIECE, Problem, Tally,
    error::{At, shown},
    names::parts,
    place::{self, Place},
    temporary::{Temporary, replaceable},
};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};
use tank_layer::archive::{Archive, EntryType, FormatError, Member};
use tank_sys::beneath::Root;

/// Where a stream goes.
pub struct Target<'t> {
    /// The root directory that its path begins at.
    pub root: &'t Root,
    /// Where to.
    pub path: &'t Path,
    /// What is expected to come.
    pub layout: Layout<'t>,
    /// Files belong to whom the stream says, and not to the caller.
    pub ids: bool,
}

/// What is expected to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout<'t> {
    /// One file or folder of this name (none: of any), which goes into a folder, or becomes what is missing: what [`crate::send`]
    /// sends. The name `.` is what is in a folder.
    One(Option<&'t [u8]>),
    /// An archive of anybody's, into a folder that is there.
    Archive,
}

/// Makes files of a stream, until its end. Blocking.
///
/// # Errors
/// Where something can't be written, and why; what came before it stays in a folder, and nothing of a single file.
pub fn receive(target: &Target<'_>, input: impl Read) -> Result<Tally, Error> {
    let mut archive = Archive::new(input);
    let mut receiver = Receiver {
        target,
        tally: Tally::default(),
        buffer: vec![0; PIECE],
    };
    match target.layout {
        Layout::Archive => receiver.archive(&mut archive)?,
        Layout::One(expected) => receiver.one(&mut archive, expected)?,
    }
    match archive.has_end() {
        true => Ok(receiver.tally),
        false => Err(Error::Cut),
    }
}

struct Receiver<'r> {
    target: &'r Target<'r>,
    tally: Tally,
    buffer: Vec<u8>,
}

/// What a folder gets when all that is in it is there.
type Finish = Option<(Mode, Timespec)>;

/// A folder that is written to.
struct Level {
    name: Vec<u8>,
    dir: OwnedFd,
    finish: Finish,
}

/// The folders from the top down to the one that is written to.
struct Tree {
    top: OwnedFd,
    finish: Finish,
    levels: Vec<Level>,
}

/// What reading an archive gives: its end in the middle is whoever sends it's, who may say why.
fn not_read(error: io::Error) -> Error {
    let format = error.get_ref().and_then(|inner| inner.downcast_ref());
    match format {
        Some(FormatError::Cut) => Error::Cut,
        _ => Error::Read(error),
    }
}

fn next<R: Read>(archive: &mut Archive<R>) -> Result<Option<Member>, Error> {
    archive.advance().map_err(not_read)
}

impl Receiver<'_> {
    fn archive<R: Read>(&mut self, archive: &mut Archive<R>) -> Result<(), Error> {
        let target = self.target;
        let here = || target.path.as_os_str().as_bytes().to_vec();
        let top = match place::find(target.root, target.path).at(here)? {
            Place::Directory(top) => top,
            Place::Other(..) => return Err(Problem::IsNoDirectory).at(here),
            Place::Missing(..) => return Err(Problem::NoDirectory).at(here),
        };
        let mut tree = Tree::new(top, None);
        while let Some(member) = next(archive)? {
            let path = member.path.clone();
            let parts = parts(&path).at(|| path.clone())?;
            self.member(archive, &mut tree, &member, &parts)?;
        }
        tree.end()
    }

    fn one<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        expected: Option<&[u8]>,
    ) -> Result<(), Error> {
        let Some(first) = next(archive)? else {
            return Err(match archive.has_end() {
                true => Error::Nothing,
                false => Error::Cut,
            });
        };
        let names = parts(&first.path).at(|| first.path.clone())?;
        let name: &[u8] = match names.as_slice() {
            [] => b".",
            [name] => name,
            _ => return Err(Error::Unexpected(shown(&first.path))),
        };
        if expected.is_some_and(|expected| expected != name) {
            return Err(Error::Unexpected(shown(&first.path)));
        }
        match (first.kind, name) {
            (EntryType::Directory, _) => {
                let mut tree = self.folder(&first, name)?;
                self.count(&first)?;
                while let Some(member) = next(archive)? {
                    let path = member.path.clone();
                    let mut parts = parts(&path).at(|| path.clone())?;
                    if name != b"." {
                        if parts.first().is_none_or(|first| *first != name) {
                            return Err(Error::Unexpected(shown(&path)));
                        }
                        parts.remove(0);
                    }
                    self.member(archive, &mut tree, &member, &parts)?;
                }
                tree.end()
            }
            (_, b".") => Err(Error::Unexpected(shown(&first.path))),
            _ => self.single(archive, &first, name),
        }
    }

    /// Finds or makes the folder that what comes goes into.
    fn folder(&self, first: &Member, name: &[u8]) -> Result<Tree, Error> {
        let target = self.target;
        let here = || target.path.as_os_str().as_bytes().to_vec();
        let found = place::find(target.root, target.path).at(here)?;
        let (parent, name) = match found {
            Place::Directory(dir) if name == b"." => return Ok(Tree::new(dir, None)),
            Place::Directory(dir) => (dir, name.to_vec()),
            Place::Missing(dir, name) => (dir, name),
            Place::Other(..) => return Err(Problem::IsNoDirectory).at(here),
        };
        let (top, finish) = self.ensure(parent.as_fd(), &name, Some(first)).at(here)?;
        Ok(Tree::new(top, finish))
    }

    /// A single file or link: all of the stream is read before it gets its name.
    fn single<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        first: &Member,
        name: &[u8],
    ) -> Result<(), Error> {
        let target = self.target;
        let given = target.path.as_os_str().as_bytes();
        let here = || given.to_vec();
        let (dir, name) = match place::find(target.root, target.path).at(here)? {
            Place::Directory(dir) => (dir, name.to_vec()),
            Place::Missing(..) if given.ends_with(b"/") => {
                return Err(Problem::NoDirectory).at(here);
            }
            Place::Other(..) if given.ends_with(b"/") => {
                return Err(Problem::IsNoDirectory).at(here);
            }
            Place::Missing(dir, name) | Place::Other(dir, name) => (dir, name),
        };
        // Before all of it is sent in vain.
        replaceable(dir.as_fd(), &name).at(here)?;
        self.count(first)?;
        let made = match first.kind {
            EntryType::Symlink => self.symlink(dir.as_fd(), first).at(here)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                self.file(archive, dir.as_fd(), first, here)?
            }
            _ => return Err(Error::Unexpected(shown(&first.path))),
        };
        if let Some(more) = next(archive)? {
            return Err(Error::Unexpected(shown(&more.path)));
        }
        if !archive.has_end() {
            return Err(Error::Cut);
        }
        made.place(&name).at(here)
    }

    /// Makes one entry of a folder.
    fn member<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        tree: &mut Tree,
        member: &Member,
        parts: &[&[u8]],
    ) -> Result<(), Error> {
        let here = || member.path.clone();
        self.count(member)?;
        let Some((name, above)) = parts.split_last() else {
            // The folder itself, which is there.
            return match member.kind {
                EntryType::Directory => Ok(()),
                _ => Err(Problem::NoName).at(here),
            };
        };
        match member.kind {
            EntryType::Directory => {
                tree.enter(self, parts, Some(member)).at(here)?;
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                let dir = tree.enter(self, above, None).at(here)?;
                replaceable(dir, name).at(here)?;
                self.file(archive, dir, member, here)?.place(name).at(here)
            }
            EntryType::Symlink => {
                let dir = tree.enter(self, above, None).at(here)?;
                self.symlink(dir, member)
                    .and_then(|made| made.place(name))
                    .at(here)
            }
            EntryType::Link if self.target.layout == Layout::Archive => {
                let made = self.link(tree, member, above);
                made.and_then(|made| made.place(name)).at(here)
            }
            EntryType::Link => Err(Problem::HardLink).at(here),
            _ => {
                self.tally.entries = self.tally.entries.saturating_sub(1);
                self.tally.left_out += 1;
                Ok(())
            }
        }
    }

    fn count(&mut self, member: &Member) -> Result<(), Error> {
        let bytes = match member.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => member.size,
            _ => 0,
        };
        self.tally.count(bytes).at(|| member.path.clone())
    }

    fn file<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        dir: BorrowedFd<'_>,
        member: &Member,
        here: impl Fn() -> Vec<u8>,
    ) -> Result<Temporary, Error> {
        let (made, file) = Temporary::file(dir).at(&here)?;
        let whole = [(0, member.size)];
        for (offset, length) in member.pieces.as_deref().unwrap_or(&whole) {
            self.content(archive, &file, (*offset, *length), &here)?;
        }
        let finish = || -> Result<(), Problem> {
            // Holes at the end as well.
            rustix::fs::ftruncate(&file, member.size)?;
            if self.target.ids {
                let (user, group) = member.owner;
                rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(member.mode & 0o777))?;
            rustix::fs::futimens(&file, &times(member.time))?;
            Ok(())
        };
        finish().at(&here)?;
        Ok(made)
    }

    /// Writes a piece of a file. Zeros become a hole: a file that is nothing else takes no place on the disk.
    fn content<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        file: &OwnedFd,
        (mut at, length): (u64, u64),
        here: &impl Fn() -> Vec<u8>,
    ) -> Result<(), Error> {
        let end = at.saturating_add(length);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let piece = self.buffer.get_mut(..most).unwrap_or_default();
            let read = archive.read(piece).map_err(not_read)?;
            let mut piece = self.buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                return Err(Error::Cut);
            }
            let next = at.saturating_add(read as u64);
            if piece.iter().any(|byte| *byte != 0) {
                while !piece.is_empty() {
                    let written = match rustix::io::pwrite(file, piece, at) {
                        Err(Errno::INTR) => 0,
                        written => written.at(here)?,
                    };
                    at = at.saturating_add(written as u64);
                    piece = piece.get(written..).unwrap_or_default();
                }
            }
            at = next;
        }
        Ok(())
    }

    fn symlink(&self, dir: BorrowedFd<'_>, member: &Member) -> Result<Temporary, Problem> {
        let target = member.link.as_deref().unwrap_or_default();
        if target.is_empty() || target.contains(&0) {
            return Err(Problem::NoName);
        }
        let made = Temporary::symlink(dir, target)?;
        if self.target.ids {
            made.own(member.owner)?;
        }
        Ok(made)
    }

    /// One more name of a file that the archive has named before.
    fn link(
        &self,
        tree: &mut Tree,
        member: &Member,
        above: &[&[u8]],
    ) -> Result<Temporary, Problem> {
        let names = parts(member.link.as_deref().unwrap_or_default())?;
        let Some((of, of_above)) = names.split_last() else {
            return Err(Problem::NoName);
        };
        let of_dir = tree.enter(self, of_above, None)?.try_clone_to_owned()?;
        let stat = rustix::fs::statat(&of_dir, *of, AtFlags::SYMLINK_NOFOLLOW)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Problem::HardLink);
        }
        let dir = tree.enter(self, above, None)?;
        Temporary::link(dir, (of_dir.as_fd(), of))
    }

    /// Opens a folder in another one, and makes it if it is missing. What is there stays as it is, and is never a link.
    fn ensure(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        member: Option<&Member>,
    ) -> Result<(OwnedFd, Finish), Problem> {
        let open = |flags: OFlags| {
            let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::empty())
        };
        // For as long as it is written to it is its owner's alone.
        let mode = match member {
            Some(_) => 0o700,
            None => 0o755,
        };
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return match open(OFlags::PATH) {
                    Ok(dir) => Ok((dir, None)),
                    Err(Errno::NOTDIR | Errno::LOOP) => Err(Problem::IsNoDirectory),
                    Err(error) => Err(error.into()),
                };
            }
            Err(error) => return Err(error.into()),
        }
        let dir = open(OFlags::RDONLY)?;
        if let Some(member) = member
            && self.target.ids
        {
            let (user, group) = member.owner;
            rustix::fs::fchown(&dir, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        let finish = member.map(|member| (Mode::from_raw_mode(member.mode & 0o1777), member.time));
        Ok((dir, finish))
    }
}

impl Tree {
    fn new(top: OwnedFd, finish: Finish) -> Self {
        Self {
            top,
            finish,
            levels: Vec::new(),
        }
    }

    /// Goes to a folder below the top, by its names; what is missing on the way is made, the last one as `member` says.
    fn enter(
        &mut self,
        receiver: &Receiver<'_>,
        names: &[&[u8]],
        member: Option<&Member>,
    ) -> Result<BorrowedFd<'_>, Problem> {
        let same = self.levels.iter().zip(names);
        let same = same
            .take_while(|(level, name)| level.name.as_slice() == **name)
            .count();
        while self.levels.len() > same {
            if let Some(level) = self.levels.pop() {
                finish(&level.dir, level.finish)?;
            }
        }
        for (depth, name) in names.iter().enumerate().skip(same) {
            let is_last = depth + 1 == names.len();
            let here = self.here();
            let (dir, finish) = receiver.ensure(here, name, member.filter(|_| is_last))?;
            self.levels.push(Level {
                name: name.to_vec(),
                dir,
                finish,
            });
        }
        Ok(self.here())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.levels
            .last()
            .map_or(self.top.as_fd(), |level| level.dir.as_fd())
    }

    /// Finishes all folders that are open still.
    fn end(mut self) -> Result<(), Error> {
        while let Some(level) = self.levels.pop() {
            finish(&level.dir, level.finish).at(|| level.name)?;
        }
        finish(&self.top, self.finish).at(|| b".".to_vec())
    }
}

/// Gives a folder that was made its mode and its time.
fn finish(dir: &OwnedFd, finish: Finish) -> Result<(), Problem> {
    if let Some((mode, time)) = finish {
        rustix::fs::fchmod(dir, mode)?;
        rustix::fs::futimens(dir, &times(time))?;
    }
    Ok(())
}

fn times(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
