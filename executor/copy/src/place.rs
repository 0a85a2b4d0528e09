//! Where what is copied goes.

use crate::Problem;
use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};
use tank_sys::beneath::Root;

/// Over how many links the last part of a path may lead.
const LINKS: usize = 40;

/// What is at a path, links followed.
pub enum Place {
    /// A directory.
    Directory(OwnedFd),
    /// Something else, in this directory under this name.
    Other(OwnedFd, Vec<u8>),
    /// Nothing, in this directory.
    Missing(OwnedFd, Vec<u8>),
}

/// Finds it. A link that leads nowhere is where it leads.
pub fn find(root: &Root, path: &Path) -> Result<Place, Problem> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let is_missing = match root.open(&at, OFlags::PATH) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)?;
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    return Ok(Place::Directory(found));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error.into()),
        };
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(Errno::NOENT.into());
        };
        let dir = root.directory(parent)?;
        match rustix::fs::readlinkat(&dir, name, Vec::new()) {
            Ok(link) => at = parent.join(OsStr::from_bytes(link.as_bytes())),
            Err(_) if is_missing => return Ok(Place::Missing(dir, name.as_bytes().to_vec())),
            Err(_) => return Ok(Place::Other(dir, name.as_bytes().to_vec())),
        }
    }
    Err(Errno::LOOP.into())
}
