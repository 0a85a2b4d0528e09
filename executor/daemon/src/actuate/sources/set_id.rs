//! Programs in a directory of the host that whoever runs them becomes somebody else by:
//! set-user-id, set-group-id, or with file capabilities.
//!
//! A container that may write such a file makes it a program of its own: a write takes the bits
//! away, but a page that is mapped and changed (`MAP_SHARED`, mmap(2)) does not, and no filter sees
//! that. So a directory that holds one is not mounted writable.

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The most entries of one directory and what is below it that are looked at. What comes behind
/// them is not known.
const MAX_ENTRIES: usize = 200_000;

/// How deep. Each level keeps a descriptor open.
const MAX_DEPTH: usize = 64;

/// Set-user-id or set-group-id, and executable by anybody (inode(7)).
const SET_ID: u32 = 0o6000;
const EXECUTABLE: u32 = 0o111;

/// The first such file below `dir`, by its path from there. Other file systems that are mounted
/// below are not part of the volume. Blocking.
pub fn find(dir: BorrowedFd<'_>) -> Result<Option<PathBuf>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    let device = rustix::fs::fstat(&root)?.st_dev;
    let mut left = MAX_ENTRIES;
    look(&root, device, Path::new(""), 0, &mut left)
}

fn look(
    dir: &OwnedFd,
    device: u64,
    path: &Path,
    depth: usize,
    left: &mut usize,
) -> Result<Option<PathBuf>, Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Some(rest) = left.checked_sub(1) else {
            return Ok(None);
        };
        *left = rest;
        if matches!(entry.file_type(), FileType::Symlink) {
            continue;
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It went meanwhile.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let here = path.join(OsStr::from_bytes(name.to_bytes()));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let executable = stat.st_mode & EXECUTABLE != 0;
                if executable
                    && (stat.st_mode & SET_ID != 0 || has_capabilities(dir, name.to_bytes()))
                {
                    return Ok(Some(here));
                }
            }
            FileType::Directory if stat.st_dev == device && depth < MAX_DEPTH => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                    Ok(below) => {
                        if let Some(found) = look(&below, device, &here, depth + 1, left)? {
                            return Ok(Some(found));
                        }
                    }
                    // It is another thing by now, or gone.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error),
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

fn has_capabilities(dir: &OwnedFd, name: &[u8]) -> bool {
    // The directory that was opened, whatever it is called now.
    let path = [
        format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(),
        name,
    ]
    .concat();
    let mut buffer = [0; 64];
    !matches!(
        rustix::fs::lgetxattr(
            OsStr::from_bytes(&path),
            "security.capability",
            &mut buffer[..]
        ),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::fd::AsFd, os::unix::fs::PermissionsExt};

    #[test]
    fn a_program_with_the_bit_is_found_and_nothing_else_is() {
        let dir = std::env::temp_dir().join(format!("tank-set-id-{}", std::process::id()));
        fs::create_dir_all(dir.join("a/b")).expect("made");
        let write = |name: &str, mode: u32| {
            fs::write(dir.join(name), "").expect("written");
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("set");
        };
        let found = || {
            let opened = fs::File::open(&dir).expect("opened");
            find(opened.as_fd()).expect("looked")
        };
        write("plain", 0o755);
        write("a/not-executable", 0o4644);
        std::os::unix::fs::symlink("/", dir.join("a/link")).expect("linked");
        fs::set_permissions(dir.join("a/b"), fs::Permissions::from_mode(0o2755)).expect("set");
        assert_eq!(found(), None);
        write("a/b/su", 0o4755);
        assert_eq!(found(), Some(PathBuf::from("a/b/su")));
        write("a/b/su", 0o2711);
        assert_eq!(found(), Some(PathBuf::from("a/b/su")));
        fs::remove_dir_all(dir).expect("removed");
    }
}
