//! Removing what containers and images made: as deep as they like.
//!
//! `std::fs::remove_dir_all` takes a stack frame and a descriptor for each level. A container that
//! makes twenty thousand levels would end its daemon by that, or keep its own remains from ever
//! being removed. Here what is deeper than a bound is moved up to the top first, so depth becomes
//! width. And a container may make a subvolume of btrfs, and have nobody write to it any more: that is
//! taken back. What somebody has mounted there is not gone into, neither inside nor at the top: it is not what was to be removed.

use crate::quota;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// The file system btrfs (BTRFS_SUPER_MAGIC, statfs(2)).
const BTRFS: i64 = 0x9123_683e;

/// How many levels are gone down before they are moved up: so many descriptors are open at once.
const LEVELS: usize = 48;

/// How a folder is called in which is what is being removed. No pod, volume or image is called so.
pub const TRASH: &str = ".trash";

/// How often another name is tried for what is put away.
const ATTEMPTS: usize = 16;

/// Removes a directory with everything in it. No link is followed.
///
/// # Errors
/// What the kernel gives; `NotFound` when there is no such directory, `CrossesDevices` when something is mounted there.
pub fn tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    let top = below(&parent, name)?;
    let counted = quota::project(top.as_fd()).ok().flatten();
    if let Some(counted) = counted.filter(|counted| counted.inherits) {
        // What counts to another project, or to none, could not be moved up.
        let alone = quota::Project {
            inherits: false,
            ..counted
        };
        let _ = quota::set_project(top.as_fd(), alone);
    }
    let mut moved = 0;
    // Each round removes what there is, or moves what was deeper.
    while empty(&top, &top, 0, &mut moved)? {}
    Ok(rustix::fs::rmdir(path)?)
}

/// Removes what is there, whatever it is. No link is followed.
///
/// # Errors
/// What the kernel gives; `NotFound` when nothing is there.
pub fn anything(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path)?.is_dir() {
        true => tree(path),
        false => std::fs::remove_file(path),
    }
}

/// Moves what is at `path` into the folder `trash`, which is root's alone and made if it is missing, under a name that nothing
/// there has: one renaming, however much it is. `path` is free then.
///
/// # Errors
/// What the kernel gives: `NotFound` when nothing is at `path`, `CrossesDevices` when the folder is on another file system.
pub fn put_away(path: &Path, trash: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(trash, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let into = entered(trash)?;
    for _ in 0..ATTEMPTS {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("{:016x}", u64::from_le_bytes(bytes));
        let keep = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, path, &into, name, keep) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EXIST.into())
}

/// What has been [put away](put_away) in the folder `trash`. Nothing, where that is not there or a link.
pub fn put_away_in(trash: &Path) -> Vec<PathBuf> {
    let dir = entered(trash).and_then(|trash| Dir::read_from(&trash));
    let names = dir.into_iter().flatten().flatten();
    let names = names.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    let names = names.filter(|name| name != "." && name != "..");
    names.map(|name| trash.join(name)).collect()
}

/// Opens a directory in another one, which nobody has mounted there.
fn below(parent: &OwnedFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

/// Opens a directory, which is no link.
fn entered(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Empties a directory. True: something was moved to the top, which has to be emptied once more.
fn empty(dir: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<bool> {
    let mut again = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let known = entry.file_type();
        if known != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // It is one after all: this file system does not say in its listing.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        if depth >= LEVELS {
            move_up(dir, name, top, moved)?;
            again = true;
            continue;
        }
        // Somebody else may be at it, too: what has gone below the top says nothing of that.
        let below = match below(dir, name) {
            Err(Errno::NOENT) => continue,
            below => below?,
        };
        make_writable(&below);
        again |= empty(&below, top, depth + 1, moved)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(again)
}

/// Lets what is in a subvolume of btrfs be removed, if the directory is the top of one that may be read only. Where it can't
/// be made so, removing says why.
fn make_writable(dir: &OwnedFd) {
    const TOP: u64 = 256; // BTRFS_FIRST_FREE_OBJECTID
    const SET_FLAGS: libc::Ioctl = 0x4008_941a; // BTRFS_IOC_SUBVOL_SETFLAGS
    let is_top = rustix::fs::fstat(dir).is_ok_and(|found| found.st_ino == TOP);
    let is_btrfs = rustix::fs::fstatfs(dir).is_ok_and(|found| found.f_type == BTRFS);
    if !is_top || !is_btrfs {
        return;
    }
    let none = 0u64;
    // SAFETY: the kernel reads eight bytes at the address, which is that of a number that lives longer.
    let _ = unsafe { libc::ioctl(dir.as_raw_fd(), SET_FLAGS, &raw const none) };
}

/// Moves a directory to the top, under a name that nothing there has.
fn move_up(dir: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match rustix::fs::renameat_with(
            dir,
            name,
            top,
            format!(".moved-{moved}"),
            RenameFlags::NOREPLACE,
        ) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tank-remove-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("made");
        dir
    }

    #[test]
    fn a_tree_is_removed_however_deep_it_is() {
        let dir = folder("deep");
        // Deeper than this process may have descriptors: each new level is put around the ones
        // there are.
        fs::create_dir(dir.join("n")).expect("made");
        fs::write(dir.join("n/file"), "x").expect("written");
        for _ in 0..3_000 {
            fs::create_dir(dir.join("m")).expect("made");
            fs::rename(dir.join("n"), dir.join("m/n")).expect("moved");
            fs::rename(dir.join("m"), dir.join("n")).expect("moved");
        }
        // A name of those that are moved up is there already.
        fs::write(dir.join(".moved-1"), "x").expect("written");
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let path = dir.clone();
        small
            .spawn(move || tree(&path))
            .expect("a thread")
            .join()
            .expect("ends")
            .expect("removes");
        assert!(!dir.exists());
        assert_eq!(
            tree(&dir).expect_err("gone").kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn what_is_put_away_is_out_of_the_way_and_nothing_is_taken_for_it() {
        let dir = folder("away");
        let (trash, outside) = (dir.join(".trash"), folder("away-outside"));
        for content in ["1", "2"] {
            fs::create_dir(dir.join("a")).expect("made");
            fs::write(dir.join("a/file"), content).expect("written");
            put_away(&dir.join("a"), &trash).expect("moves");
            assert!(!dir.join("a").exists());
        }
        // A link is moved as it is.
        std::os::unix::fs::symlink(&outside, dir.join("a")).expect("linked");
        put_away(&dir.join("a"), &trash).expect("moves");
        let entries = || fs::read_dir(&trash).expect("a folder").flatten();
        assert_eq!(entries().count(), 3);
        let gone = put_away(&dir.join("a"), &trash).expect_err("nothing there");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        for entry in entries() {
            anything(&entry.path()).expect("removes");
        }
        assert!(entries().next().is_none() && outside.exists());
        // Nothing is put where a link leads to.
        fs::remove_dir(&trash).expect("removes");
        std::os::unix::fs::symlink(&outside, &trash).expect("linked");
        fs::create_dir(dir.join("a")).expect("made");
        assert!(put_away(&dir.join("a"), &trash).is_err() && dir.join("a").exists());
        fs::remove_file(&trash).expect("removes");
        tree(&dir).expect("removes");
        fs::remove_dir(&outside).expect("removes");
    }

    #[test]
    fn what_a_link_leads_to_stays() {
        let (dir, outside) = (folder("links"), folder("outside"));
        fs::write(outside.join("file"), "x").expect("written");
        std::os::unix::fs::symlink(&outside, dir.join("link")).expect("linked");
        fs::create_dir_all(dir.join("a/b/c")).expect("made");
        tree(&dir).expect("removes");
        assert!(!dir.exists() && outside.join("file").exists());
        std::os::unix::fs::symlink(&outside, &dir).expect("linked");
        assert!(tree(&dir).is_err() && outside.join("file").exists());
        fs::remove_file(&dir).expect("removes");
        fs::remove_dir_all(&outside).expect("removes");
    }
}
