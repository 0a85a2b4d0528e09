//! Layers: from a compressed tar to a directory that overlay can use.
//!
//! A layer is hostile input. [`Archive`] only parses; every path is resolved beneath the target
//! directory by the kernel (`openat2`, `RESOLVE_IN_ROOT`), so neither `..` nor a link of the layer
//! leads out of it. Bytes, entries and time are taken from a [`Budget`], which also keeps space for
//! the store; memory is the same for a layer of any size: what has to wait for the end, the times
//! of directories, waits in a file. Holes stay holes, and count as bytes. Device nodes are left
//! out: a container's devices are Tank's to give. Whiteouts become overlay's: a character device
//! 0:0, and `trusted.overlay.opaque` (OCI image specification, "layer", and the kernel's overlayfs
//! documentation). The uncompressed bytes are hashed on the way and have to be those the image
//! configuration names.

use super::{
    Attempt, ImageError,
    archive::{Archive, Member},
    budget::{self, Budget},
    links,
};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    },
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};
use tank_model::Digest;
use tar_core::EntryType;

/// The deepest path.
const MAX_DEPTH: usize = 256;

/// The bytes that are copied between two looks at the budget.
const PIECE: usize = 256 << 10;

/// The digest of a whole file.
pub fn hash_file(path: &Path, budget: &Budget) -> io::Result<Digest> {
    let mut reader = Hashing::new(File::open(path)?, budget);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish())
}

/// A layer that is to be unpacked.
pub struct Layer<'l> {
    /// The file with its compressed bytes.
    pub blob: &'l Path,
    pub media_type: &'l str,
    /// The digest of its uncompressed bytes.
    pub diff_id: Digest,
    /// The directories of the layers below it, the nearest first.
    pub below: &'l [PathBuf],
    pub budget: &'l Budget,
}

/// Unpacks a layer into the new directory `target`; whether it has something of a layer below, and
/// so belongs on top of these alone. Blocking.
pub fn unpack(layer: &Layer<'_>, target: &Path) -> Result<bool, ImageError> {
    let Layer {
        media_type,
        diff_id,
        budget,
        ..
    } = *layer;
    let file = File::open(layer.blob).attempt(|| "open the blob".to_owned())?;
    let file = BufReader::with_capacity(1 << 18, file);
    let decoder: Box<dyn Read> = if media_type.ends_with("gzip") {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if media_type.ends_with("zstd") {
        Box::new(zstd::stream::read::Decoder::with_buffer(file).attempt(|| "read zstd".to_owned())?)
    } else if media_type.ends_with("tar") {
        Box::new(file)
    } else {
        return Err(ImageError::new(format!(
            "it has the media type `{media_type}`, which is no layer Tank reads"
        )));
    };
    fs::create_dir(target).attempt(|| format!("make {}", target.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty())
        .attempt(|| format!("open {}", target.display()))?;
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::fchmod(&root, mode).attempt(|| "set the mode of the layer".to_owned())?;
    let mut hashing = Hashing::new(decoder.take(budget::MAX_BYTES + 1), budget);
    let spool = Spool::new(&target.with_extension("times"))
        .attempt(|| "make a file for times".to_owned())?;
    let mut tree = Tree {
        root,
        below: layer.below,
        budget,
        copied: None,
        crosses: false,
    };
    entries(&mut hashing, &mut tree, spool)?;
    // What follows the archive's end is part of the digest.
    io::copy(&mut hashing, &mut io::sink()).attempt(|| "read to the end".to_owned())?;
    if hashing.length > budget::MAX_BYTES {
        return Err(ImageError::new(format!(
            "it has more than {} bytes",
            budget::MAX_BYTES
        )));
    }
    let actual = hashing.finish();
    if actual != diff_id {
        return Err(ImageError::new(format!(
            "its content has the digest {actual}, its image says {diff_id}"
        )));
    }
    Ok(tree.crosses)
}

fn entries(
    reader: &mut impl Read,
    tree: &mut Tree<'_>,
    mut spool: Spool,
) -> Result<(), ImageError> {
    let mut archive = Archive::new(reader);
    while let Some(member) = archive.next().map_err(|error| no_tar(&error))? {
        let path = clean(&member.path)?;
        let budget = tree.budget.entry().and_then(|()| tree.budget.space());
        let added = budget.and_then(|()| tree.add(&path, &member, &mut archive));
        let kept = added.and_then(|times| times.map_or(Ok(()), |times| spool.push(&path, &times)));
        kept.map_err(|error| refused(&path, &error))?;
    }
    // Adding to a directory changes its time: theirs come last.
    let dir_times = |path: &Path, times: &Timestamps| {
        tree.budget.go_on()?;
        if let Ok(dir) = tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            let _ = rustix::fs::futimens(&dir, times);
        }
        Ok(())
    };
    spool
        .each(dir_times)
        .attempt(|| "set the times of directories".to_owned())
}

/// Times that wait in a file without a name, however many there are.
struct Spool(BufWriter<File>);

impl Spool {
    fn new(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        fs::remove_file(path)?;
        Ok(Self(BufWriter::new(file)))
    }

    fn push(&mut self, path: &Path, times: &Timestamps) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let time = &times.last_modification;
        let length = u32::try_from(path.len()).map_err(io::Error::other)?;
        self.0.write_all(&length.to_ne_bytes())?;
        self.0.write_all(path)?;
        self.0.write_all(&time.tv_sec.to_ne_bytes())?;
        self.0.write_all(&time.tv_nsec.to_ne_bytes())
    }

    fn each(self, mut of: impl FnMut(&Path, &Timestamps) -> io::Result<()>) -> io::Result<()> {
        let mut file = self.0.into_inner()?;
        file.seek(SeekFrom::Start(0))?;
        let mut file = BufReader::new(file);
        let mut path = Vec::new();
        loop {
            let (mut length, mut seconds, mut nanos) = ([0; 4], [0; 8], [0; 8]);
            match file.read_exact(&mut length) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
            path.resize(u32::from_ne_bytes(length) as usize, 0);
            file.read_exact(&mut path)?;
            file.read_exact(&mut seconds)?;
            file.read_exact(&mut nanos)?;
            let time = Timespec {
                tv_sec: i64::from_ne_bytes(seconds),
                tv_nsec: i64::from_ne_bytes(nanos),
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            of(Path::new(OsStr::from_bytes(&path)), &times)?;
        }
    }
}

/// Copies all that `from` has, as long as there is space.
pub fn copy(from: &mut impl Read, to: &mut File, budget: &Budget) -> io::Result<()> {
    loop {
        budget.space()?;
        if io::copy(&mut from.by_ref().take(PIECE as u64), to)? < PIECE as u64 {
            return Ok(());
        }
    }
}

/// What the parser says may quote the bytes it stumbled on: those are an attacker's, and not for a
/// terminal.
fn no_tar(error: &io::Error) -> ImageError {
    // What the budget, the disk or the decoder refuses is no matter of the archive's form.
    if error.kind() != io::ErrorKind::InvalidData {
        return ImageError::new(format!("can't read it: {error}"));
    }
    let text = error.to_string();
    let clean = text
        .chars()
        .all(|c| (c.is_ascii_graphic() && c != '[') || c == ' ');
    ImageError::new(if clean {
        format!("it is no tar archive: {text}")
    } else {
        "it is no tar archive".to_owned()
    })
}

fn refused(path: &Path, error: &io::Error) -> ImageError {
    ImageError::new(format!("can't unpack `{}`: {error}", path.display()))
}

/// A relative path without `.`, `..` and empty components. An entry that climbs is refused, not
/// corrected.
fn clean(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ImageError::new(format!(
                    "the path `{}` climbs out of the layer",
                    path.display()
                )));
            }
        }
    }
    if bytes.len() > 4096 || clean.components().count() > MAX_DEPTH || bytes.contains(&0) {
        return Err(ImageError::new("a path in it is too long or too deep"));
    }
    Ok(clean)
}

/// The directory a layer is unpacked into.
struct Tree<'l> {
    root: OwnedFd,
    below: &'l [PathBuf],
    budget: &'l Budget,
    /// The file of a layer below that was copied last, and its copy: many names may be links to it.
    copied: Option<(PathBuf, OwnedFd)>,
    /// Whether anything was copied from a layer below.
    crosses: bool,
}

impl Tree<'_> {
    /// Opens a path of the layer as a process with this root directory would.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // A rename elsewhere may race with `..`; the kernel asks to try again (openat2(2),
                // EAGAIN).
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The directory `path` is in, made with its parents if missing, and the last component.
    ///
    /// # Errors
    /// When the directory is deeper than [`MAX_DEPTH`]: links can lead a short path down far, and
    /// what is deep is slow to reach and to remove.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open(parent, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (dir, missing) = self.parent(parent)?;
                make_dir(dir.as_fd(), missing)?;
                Ok((self.shallow(self.open(parent, flags)?)?, name))
            }
            other => Ok((self.shallow(other?)?, name)),
        }
    }

    /// A directory of the layer that is not too deep, as the kernel names it (proc_pid_fd(5)).
    fn shallow(&self, dir: OwnedFd) -> io::Result<OwnedFd> {
        let depth = |fd: &OwnedFd| -> io::Result<usize> {
            Ok(
                std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?
                    .components()
                    .count(),
            )
        };
        // One whose name is longer than a path may be has no name there.
        match (depth(&dir), depth(&self.root)) {
            (Ok(dir_depth), Ok(root)) if dir_depth <= root + MAX_DEPTH => Ok(dir),
            _ => Err(io::Error::other(format!(
                "a directory in it is more than {MAX_DEPTH} levels deep"
            ))),
        }
    }

    /// Adds one entry. For a directory, returns the times to give it in the end.
    fn add<R: Read>(
        &mut self,
        path: &Path,
        member: &Member,
        content: &mut Archive<R>,
    ) -> io::Result<Option<Timestamps>> {
        let owner = (Uid::from_raw(member.owner.0), Gid::from_raw(member.owner.1));
        let mode = Mode::from_raw_mode(member.mode);
        let times = Timestamps {
            last_access: member.time,
            last_modification: member.time,
        };
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
        let link = || member.link.as_deref().ok_or(io::ErrorKind::InvalidData);
        match member.kind {
            EntryType::Directory => {
                make_dir(dir, name)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(dir, name, flags, Mode::empty())?;
                finish(made.as_fd(), owner, mode, member)?;
                return Ok(Some(times));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                remove(dir, name)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(
                    dir,
                    name,
                    flags,
                    Mode::from_raw_mode(0o600),
                )?);
                self.budget.bytes(member.size)?;
                write(&mut file, member, content, self.budget)?;
                finish(file.as_fd(), owner, mode, member)?;
                rustix::fs::futimens(&file, &times)?;
            }
            EntryType::Symlink => {
                remove(dir, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(link()?), dir, name)?;
                rustix::fs::chownat(
                    dir,
                    name,
                    Some(owner.0),
                    Some(owner.1),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryType::Link => {
                let target = clean(link()?).map_err(|error| io::Error::other(error.why))?;
                if target != path {
                    self.link(&target, dir, name)?;
                }
            }
            EntryType::Fifo => {
                remove(dir, name)?;
                rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)?;
                rustix::fs::chownat(
                    dir,
                    name,
                    Some(owner.0),
                    Some(owner.1),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
            }
            // Devices are left out, see the module; of others nothing is known.
            _ => {}
        }
        Ok(None)
    }

    /// Makes a hard link to what this layer has as `target`, or to a copy of what a layer below
    /// has.
    fn link(&mut self, target: &Path, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let target_name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.open(
            target.parent().unwrap_or(Path::new("")),
            OFlags::RDONLY | OFlags::DIRECTORY,
        );
        let own = match &parent {
            Ok(parent) => {
                match rustix::fs::statat(parent, target_name, AtFlags::SYMLINK_NOFOLLOW) {
                    // A whiteout is the only device a layer has: there is nothing to link to.
                    Ok(stat)
                        if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice =>
                    {
                        None
                    }
                    Ok(_) => Some(parent),
                    Err(Errno::NOENT) => None,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        if let Some(own) = own {
            let same = |own: &OwnedFd| {
                Ok::<_, io::Error>(rustix::fs::fstat(own)?.st_ino == rustix::fs::fstat(dir)?.st_ino)
            };
            if target_name == name && same(own)? {
                return Ok(());
            }
            remove(dir, name)?;
            return Ok(rustix::fs::linkat(
                own,
                target_name,
                dir,
                name,
                AtFlags::empty(),
            )?);
        }
        remove(dir, name)?;
        if let Some((known, copy)) = &self.copied
            && known == target
            && rustix::fs::linkat(copy, "", dir, name, AtFlags::EMPTY_PATH).is_ok()
        {
            return Ok(());
        }
        links::find(self.root.as_fd(), self.below, target)?.copy(target, dir, name, self.budget)?;
        self.crosses = true;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.copied = Some((
            target.to_owned(),
            rustix::fs::openat(dir, name, flags, Mode::empty())?,
        ));
        Ok(())
    }
}

/// Writes a file's content: all of it, or the pieces of one with holes.
fn write<R: Read>(
    file: &mut File,
    member: &Member,
    content: &mut Archive<R>,
    budget: &Budget,
) -> io::Result<()> {
    let Some(pieces) = &member.pieces else {
        return copy(content, file, budget);
    };
    for (offset, length) in pieces {
        file.seek(SeekFrom::Start(*offset))?;
        copy(&mut content.by_ref().take(*length), file, budget)?;
    }
    file.set_len(member.size)
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

/// A later entry of the same path replaces the earlier one, unless that is a directory with
/// something in it.
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
        return Ok(rustix::fs::fsetxattr(
            dir,
            "trusted.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        )?);
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::ErrorKind::InvalidData.into());
    }
    remove(dir, hidden)?;
    Ok(rustix::fs::mknodat(
        dir,
        hidden,
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )?)
}

/// Owner before mode, since changing the owner clears set-user-id; then the attributes users may
/// set. Those of the kernel (`trusted.`, `security.`) are not an image's to choose.
fn finish(fd: BorrowedFd<'_>, owner: (Uid, Gid), mode: Mode, member: &Member) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(fd, mode)?;
    for (name, value) in member
        .xattrs
        .iter()
        .filter(|(name, _)| name.starts_with(b"user."))
    {
        match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Counts and hashes what is read, for as long as somebody waits for it.
struct Hashing<'b, R> {
    inner: R,
    hasher: Sha256,
    length: u64,
    budget: &'b Budget,
}

impl<'b, R: Read> Hashing<'b, R> {
    fn new(inner: R, budget: &'b Budget) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            length: 0,
            budget,
        }
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.budget.go_on()?;
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}
