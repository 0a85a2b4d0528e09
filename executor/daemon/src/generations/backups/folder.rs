//! The folder of the host that archives go into: opened so that nobody chooses what is behind its path, and nothing in it is
//! touched that is not this volume's own.
//!
//! An archive is `POD.VOLUME-20261127T153000Z.tar.zst` (`STACK.POD.VOLUME-…`): no name of a pod, a stack or a volume has a
//! dot or a capital letter, so no name is one of two volumes. While it is written it is called `.….new`, and is locked
//! (flock(2)): one that nobody has locked is what a daemon that was killed has left. Only regular files of root's with
//! exactly such a name are ever removed.

use super::names::{END, NEW, half, stamp, time_of};
use crate::{
    actuate::sources::{Kind, Sources},
    generations::{Error, error::Context},
};
use rustix::{
    fs::{Access, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_model::Name;
use tank_plan::backups::Archive;

/// The most bytes of an archive that is taken for one of nothing, and of what it begins with.
pub const MAX_EMPTY: u64 = 1 << 10;
const MAX_TOP: u64 = 1 << 20;

/// A block of an archive, and what is where in the first of an entry (pax(1), "ustar Interchange Format").
const BLOCK: usize = 512;
const SIZE: std::ops::Range<usize> = 124..136;
const KIND: usize = 156;

/// The most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// The most directories above a folder.
const MAX_ABOVE: usize = 4_096;

/// A folder, and the volume whose archives are meant.
pub struct Folder {
    dir: OwnedFd,
    pub path: PathBuf,
    prefix: String,
}

/// An archive that is being written. Without [`New::take`] it is removed.
pub struct New {
    folder: Arc<Folder>,
    pub file: File,
    name: String,
    taken: bool,
}

impl Folder {
    /// Opens the folder `to`. Blocking.
    ///
    /// # Errors
    /// When it is not there, or may not be used.
    pub fn open(
        sources: &Sources,
        (to, roots): (&str, &BTreeSet<PathBuf>),
        state_dir: &Path,
        (pod, volume): (&Name, &Name),
    ) -> Result<Self, Error> {
        let what = "use the folder of backups";
        let opened = sources.open_at(to, Kind::Directory, || roots.clone());
        let (place, path) = opened.doing(what)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&place, ".", flags, Mode::empty()).doing(what)?;
        let stat = rustix::fs::fstat(&dir).doing(what)?;
        if let Some(why) = why_not(&path, stat.st_uid, stat.st_mode) {
            return Err(why).doing(what);
        }
        refuse_inside(&dir, state_dir, roots).doing(what)?;
        Ok(Self {
            dir,
            path,
            prefix: format!("{}.{volume}-", pod.as_str().replace(':', ".")),
        })
    }

    /// Refuses a folder in which nothing can be made. Blocking.
    ///
    /// # Errors
    /// That, or what the kernel gives.
    pub fn refuse_unwritable(&self) -> Result<(), Error> {
        let what = "use the folder of backups";
        match rustix::fs::accessat(&self.dir, ".", Access::WRITE_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(()),
            Err(Errno::ROFS) => {
                let path = self.path.display();
                Err(format!("`{path}` is on a file system that is read-only")).doing(what)
            }
            Err(error) => Err(io::Error::from(error)).doing(what),
        }
    }

    /// Its whole archives, with the times that their names say, in milliseconds since the epoch.
    /// Removes what a daemon that was killed has left. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn archives(&self) -> Result<Vec<Archive>, Error> {
        let what = "read the folder of backups";
        let mut found = Vec::new();
        let entries = Dir::read_from(&self.dir).doing(what)?;
        for entry in entries.take(MAX_ENTRIES) {
            let entry = entry.doing(what)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if let Some(half) = half(name) {
                if time_of(half, &self.prefix).is_some() {
                    self.remove_half(name);
                }
                continue;
            }
            let Some(time) = time_of(name, &self.prefix) else {
                continue;
            };
            let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
            if let Some(stat) = stat.ok().filter(is_own) {
                let is_small = u64::try_from(stat.st_size).is_ok_and(|size| size <= MAX_EMPTY);
                let empty = is_small && self.is_empty(name).unwrap_or(false);
                found.push(Archive { time, empty });
            }
        }
        Ok(found)
    }

    /// Whether an archive that is small has nothing but the top.
    fn is_empty(&self, name: &str) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty())?;
        let mut begin = Vec::new();
        zstd::stream::read::Decoder::new(File::from(file).take(MAX_EMPTY))?
            .take(MAX_TOP)
            .read_to_end(&mut begin)?;
        Ok(has_no_entry(&begin))
    }

    /// Begins an archive with the time `time`, or a second later where one of that time is there. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn begin(self: &Arc<Self>, time: u64) -> Result<New, Error> {
        let what = "begin an archive";
        for second in 0..60 {
            let name = self.name(time.saturating_add(second * 1_000));
            if rustix::fs::statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = match rustix::fs::openat(&self.dir, format!(".{name}{NEW}"), flags, mode) {
                Err(Errno::EXIST) => continue,
                file => file.doing(what)?,
            };
            // Where files can't be locked, one daemon writes to the folder.
            let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            return Ok(New {
                folder: Arc::clone(self),
                file: file.into(),
                name,
                taken: false,
            });
        }
        Err("there are archives of this minute for every second").doing(what)
    }

    /// Removes the archives of these times. Those that can't be are given back, each with why. Blocking.
    pub fn remove(&self, times: &[u64]) -> Vec<String> {
        let gone = |time: &u64| {
            let name = self.name(*time);
            let removed = self.remove_own(&name);
            removed.err().map(|error| format!("{name}: {error}"))
        };
        let failed = times.iter().filter_map(gone).collect();
        let _ = rustix::fs::fsync(&self.dir);
        failed
    }

    /// How many bytes the archive of a time has. None: there is none. Blocking.
    pub fn size(&self, time: u64) -> Option<u64> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&self.dir, self.name(time), flags).ok()?;
        is_own(&stat).then(|| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Opens the archive of a time to be read. Blocking.
    ///
    /// # Errors
    /// When it is no file of root's, or what the kernel gives.
    pub fn open_archive(&self, time: u64) -> Result<File, Error> {
        let what = "open the backup";
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, self.name(time), flags, Mode::empty());
        let file = file.doing(what)?;
        match is_own(&rustix::fs::fstat(&file).doing(what)?) {
            true => Ok(file.into()),
            false => Err("it is no file of root's").doing(what),
        }
    }

    fn remove_own(&self, name: &str) -> io::Result<()> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match is_own(&stat) {
            true => Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?),
            false => Err(io::Error::other("it is no file of root's")),
        }
    }

    /// Removes half an archive that nobody writes any more.
    fn remove_half(&self, name: &str) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&self.dir, name, flags, Mode::empty()) else {
            return;
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            != Err(Errno::WOULDBLOCK)
        {
            let _ = self.remove_own(name);
        }
    }

    pub fn name(&self, time: u64) -> String {
        format!("{}{}{END}", self.prefix, stamp(time))
    }

    pub fn disk(&self) -> io::Result<OwnedFd> {
        self.dir.try_clone()
    }
}

impl New {
    /// The path that it will have.
    pub fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// The time that its name says.
    pub fn time(&self) -> Option<u64> {
        time_of(&self.name, &self.folder.prefix)
    }

    /// Has all of it be on the disk. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().doing("write the archive to the disk")
    }

    /// Gives it its name, to stay. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn take(mut self) -> Result<(), Error> {
        let what = "give the archive its name";
        let (dir, half) = (&self.folder.dir, format!(".{}{NEW}", self.name));
        let renamed =
            rustix::fs::renameat_with(dir, &half, dir, self.name.as_str(), RenameFlags::NOREPLACE);
        match renamed {
            // A network file system that does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(dir, &half, dir, self.name.as_str()).doing(what)?;
            }
            renamed => renamed.doing(what)?,
        }
        let synced = rustix::fs::fsync(dir);
        if synced.is_err() {
            // It counts as none, and would stay beside the next one.
            let _ = rustix::fs::unlinkat(dir, self.name.as_str(), AtFlags::empty());
        }
        self.taken = true;
        synced.doing(what)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.taken {
            let half = format!(".{}{NEW}", self.name);
            let _ = rustix::fs::unlinkat(&self.folder.dir, half, AtFlags::empty());
        }
    }
}

/// Why a folder is not to be used, and what to do about it.
fn why_not(path: &Path, owner: u32, mode: u32) -> Option<String> {
    let path = path.display();
    let is_open = mode & 0o022 != 0;
    // Somebody else relies on how that is: `/tmp`.
    if is_open && mode & 0o1000 != 0 {
        return Some(format!(
            "`{path}` can be written by others than root, as it is meant to be: make a folder of its own, \
             `install -d -m 0700 /srv/backups`, and name it in `to`"
        ));
    }
    let commands = match (owner, is_open) {
        (0, false) => return None,
        (0, true) => format!("`chmod go-w {path}`"),
        (_, false) => format!("`chown root {path}`"),
        (_, true) => format!("`chown root {path}` and `chmod go-w {path}`"),
    };
    Some(format!(
        "`{path}` can be written by others than root: {commands}, or name a folder of its own in `to`"
    ))
}

/// Whether an archive, as it begins once unpacked, ends behind the entry of the top.
fn has_no_entry(begin: &[u8]) -> bool {
    let mut at = 0;
    // What is said of the top beside its entry: the type, and how long it is.
    if begin.get(KIND) == Some(&b'x') {
        let size = begin
            .get(SIZE)
            .and_then(|size| std::str::from_utf8(size).ok());
        let size =
            size.and_then(|size| usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok());
        let Some(size) = size else { return false };
        at = size.next_multiple_of(BLOCK) + BLOCK;
    }
    let block = |at: usize| begin.get(at..at.checked_add(BLOCK)?);
    let is_top = block(at).is_some_and(|head| head.starts_with(b"./\0"));
    is_top && block(at + BLOCK).is_some_and(|end| end.iter().all(|byte| *byte == 0))
}

fn is_own(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_uid == 0
}

/// Refuses a directory that is, or is below, the state folder or what a container may write.
fn refuse_inside(dir: &OwnedFd, state_dir: &Path, roots: &BTreeSet<PathBuf>) -> Result<(), String> {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|at| (at.dev(), at.ino()));
    let state = (id(state_dir), "Tank's own state folder".to_owned());
    let roots = roots.iter().map(|root| {
        let what = format!("`{}`, which a container can write", root.display());
        (id(root), what)
    });
    let known: Vec<_> = std::iter::once(state).chain(roots).collect();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let step = |from: BorrowedFd<'_>, name: &str| {
        let next = rustix::fs::openat(from, name, flags, Mode::empty());
        let next = next.map_err(|error| error.to_string())?;
        let stat = rustix::fs::fstat(&next).map_err(|error| error.to_string())?;
        Ok::<_, String>((next, (stat.st_dev, stat.st_ino)))
    };
    let (mut at, mut own) = step(dir.as_fd(), ".")?;
    for _ in 0..MAX_ABOVE {
        if let Some((_, what)) = known.iter().find(|(id, _)| *id == Some(own)) {
            return Err(format!("it is inside of {what}"));
        }
        let (above, id) = step(at.as_fd(), "..")?;
        if id == own {
            return Ok(());
        }
        (at, own) = (above, id);
    }
    Err("it is too deep".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_about_a_folder_is_what_is_wrong_with_it() {
        let said = |owner, mode| why_not(Path::new("/x"), owner, mode);
        assert_eq!(said(0, 0o755), None);
        assert_eq!(said(0, 0o1755), None);
        let tmp = said(0, 0o1777).expect("refused");
        assert!(
            tmp.contains("`install -d -m 0700 /srv/backups`") && !tmp.contains("/x`,"),
            "{tmp}"
        );
        for (owner, mode, chown, chmod) in [
            (0, 0o777, false, true),
            (7, 0o755, true, false),
            (7, 0o775, true, true),
            (7, 0o1777, false, false),
        ] {
            let said = said(owner, mode).expect("refused");
            assert_eq!(
                (
                    said.contains("chown root /x"),
                    said.contains("chmod go-w /x")
                ),
                (chown, chmod),
                "{said}"
            );
        }
    }

    #[test]
    fn an_archive_of_nothing_is_known() {
        let head = |name: &str, kind: u8, size: &str| {
            let mut block = vec![0; BLOCK];
            block[..name.len()].copy_from_slice(name.as_bytes());
            block[KIND] = kind;
            block[SIZE.start..SIZE.start + size.len()].copy_from_slice(size.as_bytes());
            block
        };
        let zeros = vec![0; BLOCK];
        let (top, file) = (head("./", b'5', "0"), head("a", b'0', "0"));
        let pax = head("pax", b'x', "00000000020");
        let of = |blocks: &[&Vec<u8>]| {
            let all: Vec<u8> = blocks
                .iter()
                .flat_map(|block| block.iter().copied())
                .collect();
            has_no_entry(&all)
        };
        assert!(of(&[&top, &zeros, &zeros]));
        assert!(of(&[&pax, &file, &top, &zeros, &zeros]));
        assert!(!of(&[&top, &file, &zeros, &zeros]));
        assert!(!of(&[&pax, &file, &top, &pax, &file, &file, &zeros]));
        assert!(!of(&[&file, &zeros, &zeros]));
        assert!(!of(&[&top]));
        assert!(!of(&[]));
        let endless = head("pax", b'x', "77777777777");
        assert!(!of(&[&endless, &top, &zeros]));
        assert!(!of(&[&head("pax", b'x', "no"), &zeros, &top, &zeros]));
    }
}
