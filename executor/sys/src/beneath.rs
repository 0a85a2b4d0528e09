//! Paths of a container, resolved beneath a descriptor of its root directory.
//!
//! A container chooses what its paths mean: any part may be a symbolic link, to anywhere. `/proc`
//! has links that lead nowhere by name but through descriptors and processes (*magic links*,
//! proc(5)), so a link to `/proc/self/fd/N` would lead through whatever a process of Tank's has
//! open (CVE-2024-21626). Here a path begins at the root that is given, never leaves it, and
//! follows no magic link (`RESOLVE_IN_ROOT`, `RESOLVE_NO_MAGICLINKS`, openat2(2)); and what is
//! missing is made in the very directory that was resolved.
//!
//! That is one of three: nothing but what is named is open then
//! ([`crate::process::close_descriptors_but`]), and a directory that was entered has a name beneath
//! the root ([`Root::enter`]).

use crate::{Context, Result};
use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// How often a path is resolved again that was changed meanwhile, and how many links its last part
/// may lead over.
const ATTEMPTS: usize = 40;

/// Who owns what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The calling process, as everywhere.
    Caller,
    /// This user and group of the host's.
    Id(u32),
}

/// A root directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// The calling process's own.
    ///
    /// # Errors
    /// What `open(2)` gives.
    pub fn current() -> Result<Self> {
        open_path(Path::new("/")).map(Self)
    }

    /// The directory, opened with `O_PATH`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens what `path` means to a process with this root: `..` does not lead above it, an
    /// absolute link begins at it.
    ///
    /// # Errors
    /// What `openat2(2)` gives: `ELOOP` for a magic link.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        open_in(self.0.as_fd(), path, flags)
    }

    /// Opens a directory, as a place.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens a directory, made with its parents where it is missing.
    ///
    /// # Errors
    /// What the kernel gives: `ENOENT` where a link leads nowhere, `ENOTDIR` where something else
    /// is in the way.
    pub fn ensure_directory(&self, path: &Path, owner: Owner) -> Result<OwnedFd> {
        let what = |at: &Path| format!("make {}", at.display());
        let mut at = PathBuf::from("/");
        let mut dir = self.directory(&at).doing(|| what(&at))?;
        for component in path.components() {
            at.push(component);
            let parent = dir;
            dir = match (self.directory(&at), component) {
                (Err(error), Component::Normal(name))
                    if error.kind() == io::ErrorKind::NotFound =>
                {
                    make_directory(parent.as_fd(), name, owner).doing(|| what(&at))?;
                    self.directory(&at)
                }
                (opened, _) => opened,
            }
            .doing(|| what(&at))?;
        }
        Ok(dir)
    }

    /// Opens a place to mount on, a directory or a file, made with its parents if it is missing.
    /// Links are the image's own affair. One that leads nowhere (many images have such an
    /// `/etc/resolv.conf`) gets what it leads to.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn ensure_place(&self, path: &Path, directory: bool, owner: Owner) -> Result<OwnedFd> {
        let what = || format!("make {}", path.display());
        let mut at = path.to_owned();
        for _ in 0..ATTEMPTS {
            match self.open(&at, OFlags::PATH) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.doing(|| format!("open {}", path.display())),
            }
            let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
                return Err(io::Error::from(Errno::NOENT)).doing(what);
            };
            let dir = self.ensure_directory(parent, owner)?;
            match rustix::fs::readlinkat(&dir, name, Vec::new()) {
                Ok(link) => at = parent.join(OsStr::from_bytes(link.as_bytes())),
                Err(_) if directory => make_directory(dir.as_fd(), name, owner).doing(what)?,
                Err(_) => make_file(dir.as_fd(), name, owner).doing(what)?,
            }
        }
        Err(io::Error::from(Errno::LOOP)).doing(what)
    }

    /// Enters a directory, which the calling process has to be allowed to. It is then one that has
    /// a name beneath the process's own root.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn enter(&self, path: &Path) -> io::Result<()> {
        rustix::process::fchdir(self.directory(path)?)?;
        // "(unreachable)/…" for what is not (getcwd(3)).
        if rustix::process::getcwd(Vec::new())?
            .as_bytes()
            .starts_with(b"/")
        {
            return Ok(());
        }
        rustix::process::chdir("/")?;
        Err(io::Error::other("it is not beneath the container's root"))
    }
}

/// [`Root::open`], from a descriptor of the root.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A directory on the way was moved or mounted on while `..` was resolved (openat2(2),
            // EAGAIN).
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Makes a directory. One that is there, or anything else, is for the caller to find.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr, owner: Owner) -> io::Result<()> {
    let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
    match as_mapped(owner, make) {
        Ok(()) => own(parent, name, owner),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr, owner: Owner) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop);
    match as_mapped(owner, make) {
        Ok(()) => own(parent, name, owner),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes something; where the caller's own id is none of the mount's (`EOVERFLOW`: it is one of a
/// volume, whose ids are the pod's), once more with that of its owner.
fn as_mapped(
    owner: Owner,
    make: impl Fn() -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    match (make(), owner) {
        (Err(Errno::OVERFLOW), Owner::Id(id)) => {
            let user = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(id));
            let group = nix::unistd::setfsgid(nix::unistd::Gid::from_raw(id));
            let made = make();
            nix::unistd::setfsgid(group);
            nix::unistd::setfsuid(user);
            made
        }
        (made, _) => made,
    }
}

/// Gives what was just made to its owner.
pub(crate) fn own(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    owner: Owner,
) -> io::Result<()> {
    let Owner::Id(id) = owner else { return Ok(()) };
    let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
    Ok(rustix::fs::chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// A directory opened to be attached on, or to look beneath.
///
/// # Errors
/// What `open(2)` gives.
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::{fd::AsRawFd, unix::fs::symlink},
    };

    /// A directory that stands for a container's root, with one beside it that does not belong to
    /// it.
    fn root(name: &str) -> (PathBuf, Root) {
        let dir = std::env::temp_dir().join(format!("tank-beneath-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("root/etc")).expect("made");
        fs::create_dir_all(dir.join("outside")).expect("made");
        let root = Root(open_path(&dir.join("root")).expect("opened"));
        (dir, root)
    }

    #[test]
    fn what_is_missing_is_made_where_links_lead_and_never_above_the_root() {
        let (dir, root) = root("made");
        symlink("/srv/../../../real", dir.join("root/link")).expect("linked");
        fs::create_dir_all(dir.join("root/srv")).expect("made");
        fs::create_dir_all(dir.join("root/real")).expect("made");
        root.ensure_directory(Path::new("/link/a/../b/../../../../../../c"), Owner::Caller)
            .expect("made");
        assert!(
            dir.join("root/real/a").is_dir()
                && dir.join("root/real/b").is_dir()
                && dir.join("root/c").is_dir()
        );

        symlink("../run/stub.conf", dir.join("root/etc/resolv.conf")).expect("linked");
        root.ensure_place(Path::new("/etc/resolv.conf"), false, Owner::Caller)
            .expect("made");
        assert!(dir.join("root/run/stub.conf").is_file());
        symlink("../../../outside/dir", dir.join("root/etc/dir")).expect("linked");
        root.ensure_place(Path::new("/etc/dir"), true, Owner::Caller)
            .expect("made");
        assert!(dir.join("root/outside/dir").is_dir() && !dir.join("outside/dir").exists());
        fs::remove_dir_all(dir).expect("removed");
    }

    /// A directory outside is entered by nobody, however its descriptor was come by: here a root is
    /// given that is above the caller's own.
    #[test]
    fn a_directory_without_a_name_beneath_the_root_is_not_entered() {
        let (dir, _) = root("unreachable");
        let outer = Root(open_path(&dir).expect("opened"));
        let inner = dir.join("root");
        let entered = std::thread::spawn(move || {
            // SAFETY: from here on this thread, and no other, has a root and working directory of
            // its own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0);
            rustix::process::chroot(&inner).expect("a new root");
            rustix::process::chdir("/").expect("entered");
            let own = outer
                .enter(Path::new("/root/etc"))
                .map_err(|e| e.to_string());
            (
                own,
                outer
                    .enter(Path::new("/outside"))
                    .map_err(|e| e.to_string()),
                std::env::current_dir().expect("a name"),
            )
        });
        let (own, outside, at) = entered.join().expect("ends");
        assert_eq!(own, Ok(()));
        assert_eq!(
            outside,
            Err("it is not beneath the container's root".to_owned())
        );
        assert_eq!(at, Path::new("/"));
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn no_magic_link_is_followed_and_no_circle() {
        let (dir, root) = root("magic");
        let outside = open_path(&dir.join("outside")).expect("opened");
        let real = Root::current().expect("opened");
        let magic = PathBuf::from(format!("/proc/self/fd/{}/made", outside.as_raw_fd()));
        let error = real
            .ensure_directory(&magic, Owner::Caller)
            .expect_err("refused");
        assert_eq!(error.errno(), Some(libc::ELOOP));
        assert!(!dir.join("outside/made").exists());
        symlink("b", dir.join("root/a")).expect("linked");
        symlink("a", dir.join("root/b")).expect("linked");
        for directory in [true, false] {
            let error = root
                .ensure_place(Path::new("/a"), directory, Owner::Caller)
                .expect_err("refused");
            assert_eq!(error.errno(), Some(libc::ELOOP));
        }
        fs::remove_dir_all(dir).expect("removed");
    }
}
