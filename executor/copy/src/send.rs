//! A file or a folder becomes a tar stream (pax(1)).
//!
//! Whoever writes to it meanwhile can have the stream hold what never was as a whole, and nothing that he could not read. A file
//! that becomes shorter ends the stream without its end; one that becomes longer is sent as long as it was.

use crate::{Error, MAX_LEVELS, MAX_PATH, PIECE, Problem, Tally, error::At, temporary::special};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    ffi::CStr,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};
use tank_sys::beneath::Root;
use tar_core::{EntryType, builder::EntryBuilder};

const BLOCK: u64 = 512;

/// How long somebody may keep a file to himself by a lease (fcntl(2)), and how often it is tried.
const LEASE: Duration = Duration::from_secs(10);
const LEASE_POLL: Duration = Duration::from_millis(50);

/// File systems without files of their own (statfs(2)): proc, sysfs, cgroup and cgroup2, debugfs, tracefs, securityfs, bpf,
/// selinuxfs, pstore, efivarfs, mqueue, devpts.
const KERNEL: [u64; 12] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0xf97c_ff8c,
    0x6165_676c,
    0xde5e_81e4,
    0x1980_0202,
];

const NO_LINK: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// What is sent.
pub struct Source<'s> {
    /// The root directory that its path begins at.
    pub root: &'s Root,
    /// Where it is.
    pub path: &'s Path,
    /// What it is called in the stream; `.`: only what is in the folder.
    pub name: &'s [u8],
    /// A link is what it leads to. Those below it stay links.
    pub follow: bool,
}

/// Sends it, and the end of the stream. Blocking.
///
/// # Errors
/// Where something can't be read, and why; the stream has no end then.
pub fn send(source: &Source<'_>, out: &mut dyn Write) -> Result<Tally, Error> {
    let mut sender = Sender {
        source,
        out,
        tally: Tally::default(),
        buffer: vec![0; PIECE],
    };
    sender.top()?;
    let end = [0; 2 * BLOCK as usize];
    sender.out.write_all(&end).map_err(Error::Write)?;
    sender.out.flush().map_err(Error::Write)?;
    Ok(sender.tally)
}

struct Sender<'s> {
    source: &'s Source<'s>,
    out: &'s mut dyn Write,
    tally: Tally,
    buffer: Vec<u8>,
}

struct Level {
    dir: OwnedFd,
    entries: Dir,
    device: u64,
    /// From the top, with a `/` at its end unless it is the top itself.
    path: Vec<u8>,
}

impl Sender<'_> {
    fn top(&mut self) -> Result<(), Error> {
        let Source { root, path, .. } = *self.source;
        let link = match self.source.follow {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        let open = |flags| root.open(path, flags | link);
        let source = self.source;
        let here = || source.shown(b"");
        let top = open(OFlags::PATH).at(here)?;
        let stat = rustix::fs::fstat(&top).at(here)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let dir = open_dir(top.as_fd(), c".").at(here)?;
                if is_kernel(&dir).at(here)? {
                    return Err(Problem::Kernel).at(here);
                }
                self.tree(dir)
            }
            _ if self.source.name == b"." => Err(Problem::IsNoDirectory).at(here),
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = open_patiently(|| open(flags)).at(here)?;
                let stat = rustix::fs::fstat(&file).at(here)?;
                if !FileType::from_raw_mode(stat.st_mode).is_file() {
                    return Err(Problem::Replaced).at(here);
                }
                if is_kernel(&file).at(here)? {
                    return Err(Problem::Kernel).at(here);
                }
                self.file(&file, &stat, b"")
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&top, "", Vec::new()).at(here)?;
                self.symlink(target.as_bytes(), &stat, b"")
            }
            other => Err(Problem::Special(special(other))).at(here),
        }
    }

    fn tree(&mut self, top: OwnedFd) -> Result<(), Error> {
        let begin = |dir: OwnedFd, path: Vec<u8>| -> io::Result<Level> {
            Ok(Level {
                entries: Dir::read_from(&dir)?,
                device: rustix::fs::fstat(&dir)?.st_dev,
                dir,
                path,
            })
        };
        let source = self.source;
        self.directory(&top, b"")?;
        let mut levels = vec![begin(top, Vec::new()).at(|| self.source.shown(b""))?];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else {
                return Ok(());
            };
            let Some(entry) = level.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry.at(|| self.source.shown(&level.path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = [level.path.as_slice(), name.to_bytes()].concat();
            let here = || source.shown(&path);
            if path.len() + self.source.name.len() >= MAX_PATH {
                return Err(Problem::TooLong).at(here);
            }
            let Some(below) = self.entry(level, name, &path)? else {
                continue;
            };
            // The entries of the deepest one have a level more.
            if depth + 1 >= MAX_LEVELS {
                return Err(Problem::TooDeep).at(here);
            }
            let below = begin(below, [path.as_slice(), b"/"].concat());
            levels.push(below.at(|| self.source.shown(&path))?);
        }
    }

    /// Sends one entry; a directory is what to go on with.
    fn entry(&mut self, level: &Level, name: &CStr, path: &[u8]) -> Result<Option<OwnedFd>, Error> {
        let source = self.source;
        let here = || source.shown(path);
        let stat = match rustix::fs::statat(&level.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.at(here)?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = match open_dir(level.dir.as_fd(), name) {
                    Err(error) if was_replaced(&error) => return Ok(None),
                    below => below.at(here)?,
                };
                let of_kernel = stat.st_dev != level.device && is_kernel(&below).at(here)?;
                self.directory(&below, path)?;
                self.tally.left_out += u64::from(of_kernel);
                Ok((!of_kernel).then_some(below))
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | NO_LINK;
                let open = || Ok(rustix::fs::openat(&level.dir, name, flags, Mode::empty())?);
                let file = match open_patiently(open) {
                    Err(error) if was_replaced(&error) => return Ok(None),
                    file => file.at(here)?,
                };
                // It may be another one by now.
                let stat = rustix::fs::fstat(&file).at(here)?;
                match FileType::from_raw_mode(stat.st_mode).is_file() {
                    true => self.file(&file, &stat, path)?,
                    false => self.tally.left_out += 1,
                }
                Ok(None)
            }
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(&level.dir, name, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                    target => target.at(here)?,
                };
                self.symlink(target.as_bytes(), &stat, path)?;
                Ok(None)
            }
            _ => {
                self.tally.left_out += 1;
                Ok(None)
            }
        }
    }

    fn directory(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        let stat = rustix::fs::fstat(dir).at(|| self.source.shown(path))?;
        let named = [self.named(path).as_slice(), b"/"].concat();
        let head = head(EntryType::Directory, &named, &stat, 0o1777);
        self.begin(head, 0, path)
    }

    fn symlink(&mut self, target: &[u8], stat: &Stat, path: &[u8]) -> Result<(), Error> {
        let head = head(EntryType::Symlink, &self.named(path), stat, 0o777).map(|mut head| {
            head.link_name(target);
            head
        });
        self.begin(head, 0, path)
    }

    fn file(&mut self, file: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<(), Error> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let head = head(EntryType::Regular, &self.named(path), stat, 0o777);
        let head = head.and_then(|mut head| {
            head.size(size).map_err(io::Error::other)?;
            Ok(head)
        });
        self.begin(head, size, path)?;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let Some(piece) = self.buffer.get_mut(..most) else {
                return Err(Problem::Shrunk).at(|| self.source.shown(path));
            };
            let read = match rustix::io::read(file, piece) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Err(Problem::Shrunk).at(|| self.source.shown(path)),
                read => read.at(|| self.source.shown(path))?,
            };
            let piece = self.buffer.get(..read).unwrap_or_default();
            self.out.write_all(piece).map_err(Error::Write)?;
            left = left.saturating_sub(read as u64);
        }
        let padding = usize::try_from(size.wrapping_neg() % BLOCK).unwrap_or(0);
        let zeros = [0; BLOCK as usize];
        let padding = zeros.get(..padding).unwrap_or_default();
        self.out.write_all(padding).map_err(Error::Write)
    }

    /// Counts an entry, and sends what is said of it.
    fn begin(
        &mut self,
        head: io::Result<EntryBuilder>,
        bytes: u64,
        path: &[u8],
    ) -> Result<(), Error> {
        let counted = self.tally.count(bytes);
        counted.at(|| self.source.shown(path))?;
        let mut head = head.at(|| self.source.shown(path))?;
        let bytes = head.finish_bytes();
        self.out.write_all(&bytes).map_err(Error::Write)
    }

    /// What an entry is called in the stream.
    fn named(&self, path: &[u8]) -> Vec<u8> {
        match path {
            [] => self.source.name.to_vec(),
            path => [self.source.name, b"/", path].concat(),
        }
    }
}

impl Source<'_> {
    /// What an entry is called in an error.
    fn shown(&self, path: &[u8]) -> Vec<u8> {
        let mut shown = self.path.as_os_str().as_bytes().to_vec();
        if !path.is_empty() && !shown.ends_with(b"/") {
            shown.push(b'/');
        }
        shown.extend(path);
        shown
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | NO_LINK;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Opens a file. Somebody may have a lease on it, which the kernel asks him to give up.
fn open_patiently(open: impl Fn() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let begin = Instant::now();
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if begin.elapsed() >= LEASE {
                    let why = "a process has a lease on it (fcntl(2)), and does not give it up";
                    return Err(io::Error::other(why));
                }
                sleep(LEASE_POLL);
            }
            opened => return opened,
        }
    }
}

/// Whether something is of a file system of the kernel's own.
fn is_kernel(fd: &OwnedFd) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff;
    Ok(KERNEL.contains(&kind))
}

/// Whether something else has the name by now that was looked at.
fn was_replaced(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let gone = [Errno::NOENT, Errno::LOOP, Errno::NOTDIR, Errno::NXIO];
    gone.iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// What the stream says of every entry.
fn head(kind: EntryType, path: &[u8], stat: &Stat, bits: u32) -> io::Result<EntryBuilder> {
    /// What the field of the time holds.
    const MAX_TIME: i64 = 0o777_7777_7777;
    let mut entry = EntryBuilder::new_ustar();
    let (seconds, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec as i64);
    let in_field = seconds.clamp(0, MAX_TIME);
    let mut fill = || {
        entry
            .path(path)
            .entry_type(kind)
            .mode(stat.st_mode & bits)?
            .uid(stat.st_uid.into())?
            .gid(stat.st_gid.into())?
            .size(0)?
            .mtime(in_field as u64)?;
        Ok::<_, tar_core::HeaderError>(())
    };
    fill().map_err(io::Error::other)?;
    if seconds == in_field && nanoseconds != 0 {
        entry.add_pax("mtime", format!("{seconds}.{nanoseconds:09}"));
    }
    Ok(entry)
}
