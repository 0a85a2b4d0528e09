//! Layers: from a compressed tar to a directory that overlay can use.
//!
//! A layer is hostile input. `tar` only parses; every path is resolved beneath the target directory by the kernel
//! (`openat2`, `RESOLVE_IN_ROOT`), so neither `..` nor a link of the layer leads out of it. Sizes, counts and lengths
//! are bounded. Device nodes are left out: a container's devices are Tank's to give. Whiteouts become overlay's: a
//! character device 0:0, and `trusted.overlay.opaque` (OCI image specification, "layer", and the kernel's overlayfs
//! documentation). The uncompressed bytes are hashed on the way and have to be those the image configuration names.

use super::{Attempt, ImageError};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufReader, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};
use tank_model::Digest;
use tar::{Archive, Entry, EntryType};

/// The most entries of a layer.
const MAX_ENTRIES: usize = 2_000_000;

/// The most bytes of a layer, uncompressed: 64 GiB.
const MAX_BYTES: u64 = 64 << 30;

/// The deepest path.
const MAX_DEPTH: usize = 256;

/// The digest of a whole file.
pub fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut reader = Hashing::new(File::open(path)?);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish())
}

/// Unpacks the layer in `blob` into the new directory `target`. Blocking.
pub fn unpack(blob: &Path, media_type: &str, target: &Path, diff_id: Digest) -> Result<(), ImageError> {
    let file = File::open(blob).attempt(|| "open the blob".to_owned())?;
    let file = BufReader::with_capacity(1 << 18, file);
    let decoder: Box<dyn Read> = if media_type.ends_with("gzip") {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if media_type.ends_with("zstd") {
        Box::new(zstd::stream::read::Decoder::with_buffer(file).attempt(|| "read zstd".to_owned())?)
    } else if media_type.ends_with("tar") {
        Box::new(file)
    } else {
        return Err(ImageError::new(format!("it has the media type `{media_type}`, which is no layer Tank reads")));
    };
    fs::create_dir(target).attempt(|| format!("make {}", target.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty()).attempt(|| format!("open {}", target.display()))?;
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::fchmod(&root, mode).attempt(|| "set the mode of the layer".to_owned())?;
    let mut hashing = Hashing::new(decoder.take(MAX_BYTES + 1));
    entries(&mut hashing, &Tree { root })?;
    // What follows the archive's end is part of the digest.
    io::copy(&mut hashing, &mut io::sink()).attempt(|| "read to the end".to_owned())?;
    if hashing.length > MAX_BYTES {
        return Err(ImageError::new(format!("it has more than {MAX_BYTES} bytes")));
    }
    let actual = hashing.finish();
    if actual != diff_id {
        return Err(ImageError::new(format!("its content has the digest {actual}, its image says {diff_id}")));
    }
    Ok(())
}

fn entries(reader: &mut impl Read, tree: &Tree) -> Result<(), ImageError> {
    let mut archive = Archive::new(reader);
    let mut directories = Vec::new();
    let what = || "read the tar".to_owned();
    for (count, entry) in archive.entries().attempt(what)?.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(ImageError::new(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry.map_err(|error| no_tar(&error))?;
        let path = clean(&entry.path_bytes())?;
        if let Some(times) = tree.add(&path, &mut entry).map_err(|error| refused(&path, &error))? {
            directories.push((path, times));
        }
    }
    // Adding to a directory changes its time: theirs come last.
    for (path, times) in directories {
        if let Ok(dir) = tree.open(&path, OFlags::RDONLY | OFlags::DIRECTORY) {
            let _ = rustix::fs::futimens(&dir, &times);
        }
    }
    Ok(())
}

/// What the parser says may quote the bytes it stumbled on: those are an attacker's, and not for a terminal.
fn no_tar(error: &io::Error) -> ImageError {
    let text = error.to_string();
    let clean = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    ImageError::new(if clean { format!("it is no tar archive: {text}") } else { "it is no tar archive".to_owned() })
}

fn refused(path: &Path, error: &io::Error) -> ImageError {
    ImageError::new(format!("can't unpack `{}`: {error}", path.display()))
}

/// A relative path without `.`, `..` and empty components. An entry that climbs is refused, not corrected.
fn clean(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ImageError::new(format!("the path `{}` climbs out of the layer", path.display())));
            }
        }
    }
    if bytes.len() > 4096 || clean.components().count() > MAX_DEPTH || bytes.contains(&0) {
        return Err(ImageError::new("a path in it is too long or too deep"));
    }
    Ok(clean)
}

/// The directory a layer is unpacked into.
struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens a path of the layer as a process with this root directory would.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename elsewhere may race with `..`; the kernel asks to try again (openat2(2), EAGAIN).
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The directory `path` is in, made with its parents if missing, and the last component.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open(parent, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (dir, name) = self.parent(parent)?;
                make_dir(dir.as_fd(), name)?;
                Ok((self.open(parent, flags)?, path.file_name().ok_or(io::ErrorKind::InvalidInput)?))
            }
            other => Ok((other?, name)),
        }
    }

    /// Adds one entry. For a directory, returns the times to give it in the end.
    fn add<R: Read>(&self, path: &Path, entry: &mut Entry<'_, R>) -> io::Result<Option<Timestamps>> {
        let header = entry.header().clone();
        let kind = header.entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(None);
        }
        let id = |id: io::Result<u64>| -> io::Result<u32> { u32::try_from(id?).map_err(io::Error::other) };
        let owner = (Uid::from_raw(id(header.uid())?), Gid::from_raw(id(header.gid())?));
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let time = Timespec { tv_sec: i64::try_from(header.mtime()?).unwrap_or(0), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        if path.as_os_str().is_empty() {
            rustix::fs::fchown(&self.root, Some(owner.0), Some(owner.1))?;
            rustix::fs::fchmod(&self.root, mode)?;
            return Ok(Some(times));
        }
        let (dir, name) = self.parent(path)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(dir.as_fd(), OsStr::from_bytes(hidden)).map(|()| None);
        }
        let dir = dir.as_fd();
        match kind {
            EntryType::Directory => {
                make_dir(dir, name)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(dir, name, flags, Mode::empty())?;
                finish(made.as_fd(), owner, mode, entry)?;
                return Ok(Some(times));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(dir, name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(entry, &mut file)?;
                finish(file.as_fd(), owner, mode, entry)?;
                rustix::fs::futimens(&file, &times)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                remove(dir, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), dir, name)?;
                rustix::fs::chownat(dir, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                let target = clean(&target).map_err(|error| io::Error::other(error.why))?;
                let (from, from_name) = self.parent(&target)?;
                if from_name != name || target != path {
                    remove(dir, name)?;
                    rustix::fs::linkat(from, from_name, dir, name, AtFlags::empty())?;
                }
            }
            EntryType::Fifo => {
                remove(dir, name)?;
                rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)?;
                rustix::fs::chownat(dir, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            // Devices are left out, see the module; of others nothing is known.
            _ => {}
        }
        Ok(None)
    }
}

fn make_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                return Ok(());
            }
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?)
        }
        Err(error) => Err(error.into()),
    }
}

/// A later entry of the same path replaces the earlier one, unless that is a directory with something in it.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

fn whiteout(dir: BorrowedFd<'_>, hidden: &OsStr) -> io::Result<()> {
    // The whole name is `.wh..wh..opq`.
    if hidden == ".wh..opq" {
        return Ok(rustix::fs::fsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::ErrorKind::InvalidData.into());
    }
    remove(dir, hidden)?;
    Ok(rustix::fs::mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Owner before mode, since changing the owner clears set-user-id; then the attributes users may set. Those of the
/// kernel (`trusted.`, `security.`) are not an image's to choose.
fn finish<R: Read>(fd: BorrowedFd<'_>, owner: (Uid, Gid), mode: Mode, entry: &mut Entry<'_, R>) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(fd, mode)?;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.")
            && name.starts_with(b"user.")
        {
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), extension.value_bytes(), XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Counts and hashes what is read.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), length: 0 }
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}
