//! A directory inside of a volume. Whoever has the volume mounted may change it meanwhile: whatever
//! is opened is a directory of the volume.

use super::{SubPathError, is_empty, limits, make_at, own, remove, set};
use rustix::{
    fs::{FileType, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};
use std::{os::fd::OwnedFd, path::Path};
use tank_plan::target::Folder;

/// How a missing directory is made: beside the volume, where nobody else is, and put in its place whole.
/// One that was made in the volume could be another by the time that its owner and mode are set.
pub struct New<'a> {
    /// What it is.
    pub folder: &'a Folder,
    /// Where it is made, which is the caller's for as long as this is.
    pub beside: &'a Path,
}

/// Opens the directory that a relative path of names leads to, each opened beneath the one before. A
/// missing one is made as `made` says, or is an error.
///
/// # Errors
/// What is in the way.
pub fn open(volume: OwnedFd, path: &str, made: Option<&New<'_>>) -> Result<OwnedFd, SubPathError> {
    let mut dir = volume;
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        let so_far = || path.get(..end).unwrap_or(path).to_owned();
        dir = match (enter(&dir, name), made) {
            (Err(Errno::NOENT), Some(new)) => make(&dir, name, new),
            (entered, _) => entered,
        }
        .map_err(|error| why(error, &dir, name, so_far()))?;
        end += 1;
    }
    Ok(dir)
}

fn enter(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    // One name without `..`: nothing that is renamed meanwhile can make the kernel ask again.
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
}

fn make(dir: &OwnedFd, name: &str, new: &New<'_>) -> Result<OwnedFd, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let made = make_at(new.beside).map_err(failed)?;
    own(&made, (0, 0))
        .and_then(|()| set(&made, new.folder))
        .and_then(|()| limits::same(&made, dir))
        .map_err(failed)?;
    let keep = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(rustix::fs::CWD, new.beside, dir, name, keep) {
        Ok(()) => Ok(made),
        // A container that has the volume was faster.
        Err(Errno::EXIST) => {
            remove(new.beside).map_err(failed)?;
            enter(dir, name)
        }
        Err(error) => {
            remove(new.beside).map_err(failed)?;
            match error {
                // Somebody has mounted a disk of theirs in the volume's place.
                Errno::XDEV => make_within(dir, name, new.folder),
                error => Err(error),
            }
        }
    }
}

/// As [`make`], in the volume itself: what is there then is changed only while it is as new.
fn make_within(dir: &OwnedFd, name: &str, folder: &Folder) -> Result<OwnedFd, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Err(Errno::EXIST) => return enter(dir, name),
        made => made?,
    }
    let made = enter(dir, name)?;
    let stat = rustix::fs::fstat(&made)?;
    let is_new = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (0, 0, 0o700);
    if is_new && is_empty(&made).map_err(failed)? {
        rustix::fs::fchmod(&made, Mode::from_raw_mode(super::DEFAULT_MODE))?;
        set(&made, folder).map_err(failed)?;
    }
    Ok(made)
}

fn why(error: Errno, dir: &OwnedFd, name: &str, path: String) -> SubPathError {
    let is_link = || {
        let found = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink())
    };
    match error {
        Errno::LOOP => SubPathError::Link(path),
        Errno::NOTDIR if is_link() => SubPathError::Link(path),
        Errno::NOTDIR => SubPathError::NoDirectory(path),
        Errno::NOENT => SubPathError::Missing(path),
        Errno::XDEV => SubPathError::Elsewhere(path),
        error => SubPathError::Open {
            path,
            source: error.into(),
        },
    }
}
