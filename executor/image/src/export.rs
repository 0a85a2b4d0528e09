//! A tree that somebody writes to, as a tar archive (pax(1), "pax Interchange Format").
//!
//! What is read is a mount of Tank's own that shows the tree: read-only, through which no link is
//! followed and no device is opened, with nothing mounted below it. Directories are entered beneath
//! the one they are in, by their names. Whoever writes to the tree meanwhile can have the archive hold
//! what the tree never was as a whole, and nothing else; a file that gets shorter ends in zeros.
//! Devices and sockets are left out, and the set-user-id and set-group-id bits of files: the ids in it
//! are those of a container, and somebody may unpack it as the host's root.

use crate::{
    attributes,
    copy::known_ids,
    error::Attempt,
    pairs::{MAX_LINK_BYTES, NO_LINK, open_dir},
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::CStr,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread::sleep,
    time::{Duration, Instant},
};
use tank_layer::budget::{Budget, MAX_ENTRIES};
use tar_core::{EntryType, SparseEntry, builder::EntryBuilder};

/// The most names of a path, and the longest path: what an archive of may be unpacked again.
const MAX_LEVELS: usize = 256;
const MAX_PATH: usize = 4_000;

/// The most bytes of files, holes counted in, that may be unpacked again; as many entries may as an image has.
const MAX_BYTES: u64 = 1 << 60;

/// How long somebody may keep a file to himself by a lease (fcntl(2)), and how often it is tried.
const LEASE: Duration = Duration::from_secs(10);
const LEASE_LOOK: Duration = Duration::from_millis(50);

/// The most characters of a path that an error says.
const MAX_SHOWN: usize = 300;

/// The most pieces of a file with holes. One with more is written as a whole.
const MAX_PIECES: usize = 10_000;

/// The most bytes of a file with holes that are none: what the field of the size holds.
const MAX_SPARSE: u64 = 4 << 30;

/// What the directory itself is called.
const TOP: &[u8] = b"./";

const BLOCK: u64 = 512;
const PIECE: usize = 128 << 10;

/// What an archive has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Files, directories and links, the top not counted.
    pub entries: u64,
    /// Bytes of files, holes counted in.
    pub bytes: u64,
}

/// Writes what is in the directory `from`, and that itself, into `out`. Blocking.
///
/// # Errors
/// What the kernel gives, or the budget refuses, or `out`; and where it could not be unpacked again.
pub fn export(
    from: BorrowedFd<'_>,
    out: &mut dyn Write,
    budget: &Budget,
) -> Result<Exported, crate::Error> {
    // What unpacks it counts the top as well.
    up_to(from, out, budget, MAX_ENTRIES - 1)
}

fn up_to(
    from: BorrowedFd<'_>,
    out: &mut dyn Write,
    budget: &Budget,
    entries: u64,
) -> Result<Exported, crate::Error> {
    let mut export = Export {
        out,
        budget,
        entries,
        links: HashMap::new(),
        link_bytes: 0,
        exported: Exported::default(),
        buffer: vec![0; PIECE],
    };
    let what = || "write an archive".to_owned();
    export.tree(from).attempt(what)?;
    Ok(export.exported)
}

struct Export<'e> {
    out: &'e mut dyn Write,
    budget: &'e Budget,
    /// The most that there may be.
    entries: u64,
    links: HashMap<(u64, u64), Vec<u8>>,
    link_bytes: usize,
    exported: Exported,
    buffer: Vec<u8>,
}

struct Level {
    dir: OwnedFd,
    entries: Dir,
    path: Vec<u8>,
}

impl Level {
    fn new(dir: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let entries = Dir::read_from(&dir)?;
        Ok(Self { dir, entries, path })
    }
}

impl Export<'_> {
    fn tree(&mut self, from: BorrowedFd<'_>) -> io::Result<()> {
        let top = open_dir(from, c".")?;
        self.directory(&top, TOP)?;
        let mut levels = vec![Level::new(top, Vec::new())?];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else {
                break;
            };
            let Some(entry) = level.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut path = level.path.clone();
            path.extend(name.to_bytes());
            if path.len() > MAX_PATH {
                return Err(io::Error::other("a path in it has more than 4000 bytes"));
            }
            if depth > MAX_LEVELS {
                return named(&path, Err(io::Error::other("it is deeper than 256 levels")));
            }
            if let Some(below) = self.entry(&level.dir, name, path)? {
                levels.push(below);
            }
        }
        // The end of an archive is two blocks of zeros.
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()
    }

    /// Writes one entry; a directory is what to go on with.
    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        mut path: Vec<u8>,
    ) -> io::Result<Option<Level>> {
        self.budget.entry()?;
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(None),
            stat => named(&path, stat.map_err(Into::into))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = match open_dir(dir.as_fd(), name) {
                    Err(error) if was_replaced(&error) => return Ok(None),
                    below => named(&path, below)?,
                };
                path.push(b'/');
                self.directory(&below, &path)?;
                self.count()?;
                return Level::new(below, path).map(Some);
            }
            FileType::RegularFile => {
                let file = match self.open(dir, name) {
                    Err(error) if was_replaced(&error) => return Ok(None),
                    file => named(&path, file)?,
                };
                // It may be another one by now.
                let stat = rustix::fs::fstat(&file)?;
                if !FileType::from_raw_mode(stat.st_mode).is_file() {
                    return Ok(None);
                }
                self.file(&file, &stat, path)?;
            }
            FileType::Symlink => {
                let Ok(target) = rustix::fs::readlinkat(dir, name, Vec::new()) else {
                    return Ok(None);
                };
                let mut entry = head(EntryType::Symlink, &path, &stat, 0o777, known_ids(&stat))?;
                entry.link_name(target.as_bytes());
                self.write(&mut entry)?;
            }
            FileType::Fifo => self.write(&mut head(
                EntryType::Fifo,
                &path,
                &stat,
                0o1777,
                known_ids(&stat),
            )?)?,
            _ => return Ok(None),
        }
        self.count()?;
        Ok(None)
    }

    fn count(&mut self) -> io::Result<()> {
        self.exported.entries += 1;
        if self.exported.entries > self.entries {
            let why = format!("it has more than {} entries", self.entries);
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    /// Opens a file. Somebody may have a lease on it, which the kernel asks him to give up.
    fn open(&self, dir: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | NO_LINK;
        let begin = Instant::now();
        loop {
            match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Err(Errno::AGAIN) if begin.elapsed() < LEASE => {
                    self.budget.go_on()?;
                    sleep(LEASE_LOOK);
                }
                Err(Errno::AGAIN) => {
                    let why = "a process has a lease on it (fcntl(2)), and does not give it up";
                    return Err(io::Error::other(why));
                }
                file => return Ok(file?),
            }
        }
    }

    fn directory(&mut self, dir: &OwnedFd, path: &[u8]) -> io::Result<()> {
        let stat = rustix::fs::fstat(dir)?;
        let mut entry = head(EntryType::Directory, path, &stat, 0o3777, known_ids(&stat))?;
        named(path, attributes::describe(dir, path == TOP, &mut entry))?;
        self.write(&mut entry)
    }

    fn file(&mut self, file: &OwnedFd, stat: &Stat, path: Vec<u8>) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                let mut entry = head(EntryType::Link, &path, stat, 0o1777, known_ids(stat))?;
                entry.link_name(first);
                return self.write(&mut entry);
            }
            if self.link_bytes + path.len() <= MAX_LINK_BYTES {
                self.link_bytes += path.len();
                self.links.insert(id, path.clone());
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.budget.bytes(size)?;
        self.exported.bytes = self.exported.bytes.saturating_add(size);
        if self.exported.bytes > MAX_BYTES {
            let why = "with it files have more than 1 EiB, holes counted in";
            return named(&path, Err(io::Error::other(why)));
        }
        let mut entry = head(EntryType::Regular, &path, stat, 0o1777, known_ids(stat))?;
        named(&path, attributes::describe(file, false, &mut entry))?;
        let is_sparse = (stat.st_blocks as u64).saturating_mul(BLOCK) < size;
        let pieces = match is_sparse {
            true => named(&path, pieces(file, size))?,
            false => None,
        };
        let stored = match &pieces {
            Some(pieces) => pieces.iter().map(|piece| piece.length).sum(),
            None => size,
        };
        entry.size(stored).map_err(io::Error::other)?;
        if let Some(pieces) = &pieces {
            entry.sparse(pieces, size);
        }
        self.write(&mut entry)?;
        let whole = [SparseEntry {
            offset: 0,
            length: size,
        }];
        for piece in pieces.as_deref().unwrap_or(&whole) {
            self.content(file, piece)?;
        }
        let padding = usize::try_from(stored.wrapping_neg() % BLOCK).unwrap_or(0);
        self.out.write_all(&[0; BLOCK as usize][..padding])
    }

    /// Writes a piece of a file, which may be shorter by now.
    fn content(&mut self, file: &OwnedFd, piece: &SparseEntry) -> io::Result<()> {
        let (mut at, mut left) = (piece.offset, piece.length);
        while left > 0 {
            self.budget.go_on()?;
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut read = rustix::io::pread(file, &mut self.buffer[..most], at)?;
            if read == 0 {
                self.buffer[..most].fill(0);
                read = most;
            }
            self.out.write_all(&self.buffer[..read])?;
            at += read as u64;
            left -= read as u64;
        }
        Ok(())
    }

    fn write(&mut self, entry: &mut EntryBuilder) -> io::Result<()> {
        self.out.write_all(&entry.finish_bytes())
    }
}

/// Where a file is none of a hole: none if it is too much to say.
fn pieces(file: &OwnedFd, size: u64) -> io::Result<Option<Vec<SparseEntry>>> {
    let mut pieces = Vec::new();
    let (mut at, mut stored) = (0, 0);
    while at < size {
        let offset = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            offset => offset?.min(size),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(offset))?.min(size);
        if offset < at || end <= offset {
            break;
        }
        stored += end - offset;
        pieces.push(SparseEntry {
            offset,
            length: end - offset,
        });
        if pieces.len() > MAX_PIECES || stored > MAX_SPARSE {
            return Ok(None);
        }
        at = end;
    }
    if pieces
        .last()
        .is_none_or(|last| last.offset + last.length < size)
    {
        // It says where the file ends.
        pieces.push(SparseEntry {
            offset: size,
            length: 0,
        });
    }
    Ok(Some(pieces))
}

/// What an archive says of every entry.
pub(crate) fn head(
    kind: EntryType,
    path: &[u8],
    stat: &Stat,
    bits: u32,
    (user, group): (u32, u32),
) -> io::Result<EntryBuilder> {
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
            .uid(user.into())?
            .gid(group.into())?
            .size(0)?
            .mtime(in_field as u64)?;
        Ok::<_, tar_core::HeaderError>(())
    };
    fill().map_err(io::Error::other)?;
    if nanoseconds != 0 || in_field != seconds {
        // Nanoseconds count upwards, also before 1970: -0.5 s is -1 s and half a billion.
        let time = match seconds {
            0.. => format!("{seconds}.{nanoseconds:09}"),
            _ if nanoseconds == 0 => seconds.to_string(),
            _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
        };
        entry.add_pax("mtime", time);
    }
    Ok(entry)
}

/// Whether something else has the name by now that was looked at.
fn was_replaced(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let gone = [Errno::NOENT, Errno::LOOP, Errno::NOTDIR, Errno::NXIO];
    gone.iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// An error with the entry that it is about.
fn named<T>(path: &[u8], result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| {
        let path = String::from_utf8_lossy(path);
        let shown: String = path.escape_debug().take(MAX_SHOWN).collect();
        io::Error::new(error.kind(), format!("`{shown}`: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn folder(name: &str) -> PathBuf {
        let name = format!("tank-export-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        dir
    }

    fn export_of(dir: &Path, entries: u64) -> Result<u64, String> {
        let from = std::fs::File::open(dir).expect("it is there");
        let budget = Budget::new(dir);
        let exported = up_to(from.as_fd(), &mut io::sink(), &budget, entries);
        let exported = exported.map_err(|error| error.message());
        exported.map(|exported| exported.entries)
    }

    #[test]
    fn what_has_too_many_entries_is_none() {
        let dir = folder("entries");
        for name in ["a", "b", "c"] {
            std::fs::write(dir.join(name), name).expect("writes");
        }
        assert_eq!(export_of(&dir, 3), Ok(3));
        let why = export_of(&dir, 2).expect_err("refused");
        assert!(why.contains("it has more than 2 entries"), "{why}");
        std::fs::remove_dir_all(&dir).expect("goes");
    }

    #[test]
    fn what_is_too_deep_is_none() {
        let dir = folder("deep");
        let deep = dir.join("d/".repeat(MAX_LEVELS - 1));
        std::fs::create_dir_all(&deep).expect("folders");
        std::fs::write(deep.join("file"), "x").expect("writes");
        assert_eq!(export_of(&dir, 1_000), Ok(MAX_LEVELS as u64));
        std::fs::remove_file(deep.join("file")).expect("goes");
        std::fs::create_dir(deep.join("d")).expect("a folder");
        assert_eq!(export_of(&dir, 1_000), Ok(MAX_LEVELS as u64));
        std::fs::write(deep.join("d/file"), "x").expect("writes");
        let why = export_of(&dir, 1_000).expect_err("refused");
        assert!(
            why.contains("d/d/") && why.contains("it is deeper than 256 levels"),
            "{why}"
        );
        std::fs::remove_dir_all(&dir).expect("goes");
    }

    #[test]
    fn an_error_says_a_path_and_not_all_of_a_long_one() {
        let error = || Err::<(), _>(io::Error::other("no"));
        let said = |path: &[u8]| named(path, error()).expect_err("no").to_string();
        assert_eq!(said(b"a\x1b[1m"), "`a\\u{1b}[1m`: no");
        assert_eq!(said(&[b'x'; 4_000]).len(), MAX_SHOWN + 6);
    }
}
