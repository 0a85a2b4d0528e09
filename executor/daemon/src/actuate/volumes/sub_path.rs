//! A directory inside of a volume. Whoever has the volume mounted may change it meanwhile: whatever
//! is opened is a directory of the volume.

use super::{SubPathError, own, set};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::os::fd::OwnedFd;
use tank_plan::target::Folder;

/// Opens the directory that a relative path of names leads to, each opened beneath the one before. A
/// missing one is made as `made` says, or is an error.
///
/// # Errors
/// What is in the way.
pub fn open(volume: OwnedFd, path: &str, made: Option<&Folder>) -> Result<OwnedFd, SubPathError> {
    let mut dir = volume;
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        let so_far = || path.get(..end).unwrap_or(path).to_owned();
        dir = match (enter(&dir, name), made) {
            (Err(Errno::NOENT), Some(folder)) => make(&dir, name, folder),
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

fn make(dir: &OwnedFd, name: &str, folder: &Folder) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        // A container that has the volume was faster.
        Err(Errno::EXIST) => return enter(dir, name),
        made => made?,
    }
    let made = enter(dir, name)?;
    let default = Mode::from_raw_mode(super::DEFAULT_MODE);
    rustix::fs::fchmod(&made, default)?;
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    own(&made, (0, 0))
        .and_then(|()| set(&made, folder))
        .map_err(failed)?;
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
