//! The folder that a tree is in, opened: a link on the way is followed only where root alone can have put it there, so that
//! nobody who writes to a folder decides what is read in its place.

use super::TreeError;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

/// How many links are followed, as the kernel has it (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Opens an absolute path.
///
/// # Errors
/// When it is no directory, or a link leads there that may be somebody else's.
pub fn open(path: &Path) -> Result<OwnedFd, TreeError> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        match plain(&path) {
            Err(Errno::LOOP) => path = without_first_link(&path)?,
            Err(Errno::NOTDIR) => return Err(TreeError::NoFolder),
            opened => return Ok(opened?),
        }
    }
    Err(Errno::LOOP.into())
}

fn plain(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), no_links)
}

/// The path with its first link replaced by what that says.
fn without_first_link(path: &Path) -> Result<PathBuf, TreeError> {
    let (mut holder, mut root_only) = (PathBuf::from("/"), true);
    let mut components = path.components();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            // Left of it is no link: its parent is the path without it.
            Component::ParentDir => {
                holder.pop();
                continue;
            }
            _ => continue,
        };
        let dir = plain(&holder)?;
        root_only &= is_roots(&rustix::fs::fstat(&dir)?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&found)?;
        let here = holder.join(name);
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            holder = here;
            continue;
        }
        if !root_only || stat.st_uid != 0 {
            return Err(TreeError::OthersLink(here));
        }
        let says = rustix::fs::readlinkat(&found, "", Vec::new())?;
        let says = std::ffi::OsStr::from_bytes(says.as_bytes());
        return Ok(holder.join(says).join(components.as_path()));
    }
    // The link that was there is gone.
    Ok(path.to_owned())
}

/// Whether nobody but root can put anything into a directory, or move what root put there.
fn is_roots(dir: &Stat) -> bool {
    let others_write = dir.st_mode & 0o002 != 0 || (dir.st_mode & 0o020 != 0 && dir.st_gid != 0);
    dir.st_uid == 0 && (!others_write || dir.st_mode & 0o1000 != 0)
}
