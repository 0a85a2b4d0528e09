//! What is written beside its place: it goes again unless it is moved there.

use crate::Problem;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How often another name is tried.
const ATTEMPTS: usize = 16;

/// A file or a link without its name.
pub struct Temporary {
    dir: OwnedFd,
    name: String,
    moved: bool,
}

impl Temporary {
    /// Makes one in `dir` by what makes it under a name.
    fn new<T>(
        dir: BorrowedFd<'_>,
        make: impl Fn(&str) -> Result<T, Errno>,
    ) -> Result<(Self, T), Problem> {
        let dir = dir.try_clone_to_owned()?;
        for _ in 0..ATTEMPTS {
            let name = name()?;
            match make(&name) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
                Ok(made) => {
                    let moved = false;
                    return Ok((Self { dir, name, moved }, made));
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// A file that its owner alone can read.
    pub fn file(dir: BorrowedFd<'_>) -> Result<(Self, OwnedFd), Problem> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        Self::new(dir, |name| rustix::fs::openat(dir, name, flags, mode))
    }

    /// A symbolic link.
    pub fn symlink(dir: BorrowedFd<'_>, target: &[u8]) -> Result<Self, Problem> {
        let make = |name: &str| rustix::fs::symlinkat(target, dir, name);
        Ok(Self::new(dir, make)?.0)
    }

    /// One more name of a file.
    pub fn link(
        dir: BorrowedFd<'_>,
        (of_dir, of): (BorrowedFd<'_>, &[u8]),
    ) -> Result<Self, Problem> {
        let make = |name: &str| rustix::fs::linkat(of_dir, of, dir, name, AtFlags::empty());
        Ok(Self::new(dir, make)?.0)
    }

    /// Gives a link to somebody.
    pub fn own(&self, (user, group): (u32, u32)) -> Result<(), Problem> {
        let ids = (
            rustix::fs::Uid::from_raw(user),
            rustix::fs::Gid::from_raw(group),
        );
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let name = self.name.as_str();
        rustix::fs::chownat(&self.dir, name, Some(ids.0), Some(ids.1), flags)?;
        Ok(())
    }

    /// Moves it to its name, in the place of a file or a link and of nothing else.
    pub fn place(mut self, name: &[u8]) -> Result<(), Problem> {
        replaceable(self.dir.as_fd(), name)?;
        rustix::fs::renameat(&self.dir, self.name.as_str(), &self.dir, name)?;
        // Two names of one file stay two (rename(2)): then this one goes by itself.
        let left = rustix::fs::statat(&self.dir, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        self.moved = left.is_err();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved {
            let _ = rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Refuses to put a file in the place of what is none.
pub fn replaceable(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Problem> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Symlink => Ok(()),
        FileType::Directory => Err(Problem::IsDirectory),
        other => Err(Problem::Special(special(other))),
    }
}

/// What it is called that is no file, folder or link.
pub fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "nothing that is known",
    }
}

fn name() -> Result<String, Problem> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".tank-cp-{:016x}", u64::from_le_bytes(bytes)))
}
