//! Layers: from a compressed tar to a directory that overlay can use.
//!
//! A layer is hostile input. [`Archive`] only parses; every path is resolved beneath the target
//! directory by the kernel (`openat2`, `RESOLVE_IN_ROOT`), so neither `..` nor a link of the layer
//! leads out of it. Bytes, entries and time are taken from a [`Budget`], which also keeps space for
//! the store; memory is the same for a layer of any size: what has to wait for the end, the times
//! of directories, waits in a file. Holes stay holes, and count as bytes. Device nodes are left
//! out: a container's devices are Tank's to give. Whiteouts become overlay's: a character device
//! 0:0, and `trusted.overlay.opaque` (OCI image specification, "layer", and the kernel's overlayfs
//! documentation), and hide what lies below, never what the same layer has. The uncompressed bytes are hashed on the way and have to be those the image
//! configuration names.

use crate::{
    Error,
    archive::{Archive, FormatError},
    budget::{self, Budget},
    error::Attempt,
    spool::Spool,
    tree::{self, Tree},
};
use rustix::fs::{Mode, OFlags, Timestamps};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};
use tank_model::Digest;

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
    /// Ends with `gzip`, `zstd` or `tar` (OCI image specification, "Image Layer Filesystem
    /// Changeset", and Docker's).
    pub media_type: &'l str,
    /// The digest of its uncompressed bytes.
    pub diff_id: Digest,
    /// The directories of the layers below it, the nearest first.
    pub below: &'l [PathBuf],
    /// What its image may take of this host.
    pub budget: &'l Budget,
}

/// Unpacks a layer into the new directory `target`; whether it has something of a layer below, and
/// so belongs on top of these alone. Blocking.
pub fn unpack(layer: &Layer<'_>, target: &Path) -> Result<bool, Error> {
    let decoder = decoder(layer)?;
    fs::create_dir(target).attempt(|| format!("make {}", target.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty())
        .attempt(|| format!("open {}", target.display()))?;
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::fchmod(&root, mode).attempt(|| "set the mode of the layer".to_owned())?;
    let mut hashing = Hashing::new(decoder.take(budget::MAX_BYTES + 1), layer.budget);
    let spool = Spool::new(&target.with_extension("times"))
        .attempt(|| "make a file for times".to_owned())?;
    let mut tree = Tree::new(root, layer.below, layer.budget);
    entries(&mut hashing, &mut tree, spool)?;
    // What follows the archive's end is part of the digest.
    io::copy(&mut hashing, &mut io::sink()).attempt(|| "read to the end".to_owned())?;
    if hashing.length > budget::MAX_BYTES {
        return Err(Error::LongLayer);
    }
    let (actual, expected) = (hashing.finish(), layer.diff_id);
    if actual != expected {
        return Err(Error::DiffId { actual, expected });
    }
    Ok(tree.crosses())
}

/// The uncompressed bytes of a layer.
fn decoder(layer: &Layer<'_>) -> Result<Box<dyn Read>, Error> {
    let file = File::open(layer.blob).attempt(|| "open the blob".to_owned())?;
    let file = BufReader::with_capacity(1 << 18, file);
    let media_type = layer.media_type;
    if media_type.ends_with("gzip") {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file)))
    } else if media_type.ends_with("zstd") {
        let decoder = zstd::stream::read::Decoder::with_buffer(file);
        Ok(Box::new(decoder.attempt(|| "read zstd".to_owned())?))
    } else if media_type.ends_with("tar") {
        Ok(Box::new(file))
    } else {
        Err(Error::MediaType(media_type.to_owned()))
    }
}

fn entries(reader: &mut impl Read, tree: &mut Tree<'_>, mut spool: Spool) -> Result<(), Error> {
    let mut archive = Archive::new(reader);
    while let Some(member) = archive.next().map_err(unreadable)? {
        let path = tree::clean(&member.path).map_err(Error::Path)?;
        let added = tree.add(&path, &member, &mut archive);
        let kept = added.and_then(|times| match times {
            Some(times) => Ok(spool.push(&path, &times)?),
            None => Ok(()),
        });
        kept.map_err(|error| Error::Entry(path, error))?;
    }
    // Adding to a directory changes its time: theirs come last.
    let dir_times = |path: &Path, times: &Timestamps| tree.set_dir_times(path, times);
    spool
        .each(dir_times)
        .attempt(|| "set the times of directories".to_owned())
}

/// What the parser says may quote the bytes it stumbled on: those are an attacker's, and not for a
/// terminal.
fn unreadable(error: io::Error) -> Error {
    let inner = error.get_ref();
    if !inner.is_some_and(|inner| inner.is::<FormatError>()) {
        // What the budget, the disk or the decoder refuses is no matter of the archive's form.
        return Error::Read(error);
    }
    let clean = error
        .to_string()
        .chars()
        .all(|c| (c.is_ascii_graphic() && c != '[') || c == ' ');
    Error::NoTar(Some(error).filter(|_| clean))
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
