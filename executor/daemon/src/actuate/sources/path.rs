//! Paths of the host: opened without following a link, or by following those that only root can have
//! put there.

use super::{Error, Kind};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
};

/// The most links that are followed for one path, as the kernel has it (`MAXSYMLINKS`).
pub const MAX_LINKS: usize = 40;

/// Opens a path that has no link in it. `O_DIRECTORY` has an automounter mount what it should.
pub fn open_plain(path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    let directory = if kind == Kind::Directory {
        OFlags::DIRECTORY
    } else {
        OFlags::empty()
    };
    rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        PLACE.union(directory),
        Mode::empty(),
        NO_LINKS,
    )
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// Follows the links of `path` that may be, and opens what they lead to.
pub fn follow(
    path: PathBuf,
    kind: Kind,
    roots: &BTreeSet<PathBuf>,
) -> Result<(OwnedFd, PathBuf), Error> {
    // A root that is not there is nothing anybody is inside of.
    let ids: BTreeSet<(u64, u64)> = roots
        .iter()
        .filter_map(|root| fs::metadata(root).ok())
        .map(|root| (root.dev(), root.ino()))
        .collect();
    let mut path = path;
    for _ in 0..=MAX_LINKS {
        match open_plain(&path, kind) {
            Ok(fd) => return Ok((fd, without_parents(&path))),
            Err(Errno::LOOP) => path = without_first_link(&path, roots, &ids)?,
            Err(error) => return Err(Error::open(&path, kind, error)),
        }
    }
    Err(Error::TooManyLinks(path))
}

/// The path with its first link replaced by what that says.
// long: one walk, of which every step decides whether the next may be
fn without_first_link(
    path: &Path,
    roots: &BTreeSet<PathBuf>,
    ids: &BTreeSet<(u64, u64)>,
) -> Result<PathBuf, Error> {
    let mut holder = PathBuf::from("/");
    let mut components = path.components();
    // Whether only root can have put anything where the walk is, and a directory there that others
    // can rename in.
    let (mut root_only, mut inside) = (true, None);
    while let Some(component) = components.next() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir => {
                // Left of it is a directory and no link: its parent is the path without it.
                holder.pop();
                continue;
            }
            Component::Normal(name) => name,
            Component::Prefix(_) => return Err(Error::Foreign(path.to_owned())),
        };
        let at = |e: Errno| Error::look(&holder, e);
        let dir = open_plain(&holder, Kind::Directory).map_err(at)?;
        let dir_stat = rustix::fs::fstat(&dir).map_err(at)?;
        if roots.iter().any(|root| holder.starts_with(root))
            || ids.contains(&(dir_stat.st_dev, dir_stat.st_ino))
        {
            inside = Some(holder.clone());
        }
        let here = holder.join(name);
        let flags = PLACE.union(OFlags::NOFOLLOW);
        let found = rustix::fs::openat2(dir.as_fd(), name, flags, Mode::empty(), NO_LINKS);
        let found = found.map_err(|e| Error::look(&here, e))?;
        let stat = rustix::fs::fstat(&found).map_err(at)?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            root_only &= is_roots(&dir_stat, true);
            holder = here;
            continue;
        }
        if let Some(inside) = inside {
            return Err(Error::WritableLink { link: here, inside });
        }
        if !(root_only && is_roots(&dir_stat, false) && stat.st_uid == 0) {
            return Err(Error::OthersLink(here));
        }
        let says = rustix::fs::readlinkat(&found, "", Vec::new()).map_err(at)?;
        let says = String::from_utf8(says.into_bytes());
        let says = says.map_err(|_| Error::LinkNotText(here))?;
        let (next, rest) = (holder.join(says), components.as_path());
        // Joining nothing would leave a slash at the end, which asks for a directory.
        return Ok(if rest.as_os_str().is_empty() {
            next
        } else {
            next.join(rest)
        });
    }
    // The link that was there is gone.
    Ok(path.to_owned())
}

/// A path that has no link in it, without `..`.
fn without_parents(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

/// Whether nobody but root can put anything into a directory; with `sticky`, move what root put
/// there.
fn is_roots(dir: &rustix::fs::Stat, sticky: bool) -> bool {
    let others_write = dir.st_mode & 0o002 != 0 || (dir.st_mode & 0o020 != 0 && dir.st_gid != 0);
    dir.st_uid == 0 && (!others_write || (sticky && dir.st_mode & 0o1000 != 0))
}

pub fn check_kind(path: &Path, fd: &OwnedFd, kind: Kind) -> Result<(), Error> {
    let look = |e: Errno| Error::look(path, e);
    let found = FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(look)?.st_mode);
    match (kind, found) {
        (Kind::Directory, FileType::Directory) => Ok(()),
        (Kind::File, FileType::RegularFile) => {
            let system = rustix::fs::fstatfs(fd).map_err(look)?.f_type;
            if KERNEL_INTERFACES
                .iter()
                .any(|magic| i128::from(*magic) == i128::from(system))
            {
                return Err(Error::KernelInterface(path.to_owned()));
            }
            Ok(())
        }
        (Kind::Directory, _) => Err(Error::Missing {
            kind,
            path: path.to_owned(),
        }),
        (Kind::File, _) => Err(Error::NotRegular {
            path: path.to_owned(),
            found,
        }),
    }
}

/// The magic numbers of statfs(2): proc, sysfs, debugfs, tracefs, securityfs, cgroups, bpf, EFI
/// variables, pstore, selinux.
const KERNEL_INTERFACES: [u32; 11] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x0027_e0eb,
    0x6367_7270,
    0xcafe_4a11,
    0xde5e_81e4,
    0x6165_676c,
    0xf97c_ff8c,
];
