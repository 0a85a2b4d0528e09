//! The digest of each layer's file, kept beside it.
//!
//! A layer's image is made on this host, and no digest of a registry is one of its bytes. So its own is taken when
//! it is made, and written to a record (`layers/HEX.sum`) that is on the disk before the layer has its name: a line
//! of the image, and one of its [recipe](super::recipes), where there is one.

use super::{Temporary, recipes, sync_dir};
use crate::{Error, error::Attempt};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};
use tank_model::Digest;

/// How the files of records end.
pub(super) const EXTENSION: &str = "sum";

/// The most bytes of a record.
const MAX_RECORD: u64 = 512;

/// The bytes that are hashed between two looks at whether to go on.
const PIECE: usize = 1 << 20;

/// What a record says of a layer's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub digest: Digest,
    pub length: u64,
}

impl Sum {
    /// Reads a file to its end. `goes_on` is asked between pieces.
    pub fn of(file: &fs::File, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Self> {
        let (mut hasher, mut length) = (Sha256::new(), 0u64);
        let mut piece = vec![0; PIECE];
        loop {
            if !goes_on() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let read = match file.read_at(&mut piece, length) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            length += read as u64;
        }
        let digest = Digest::from_bytes(hasher.finalize().into());
        Ok(Self { digest, length })
    }
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub image: Sum,
    /// None: a version before this one made the layer.
    pub recipe: Option<Sum>,
}

impl Record {
    /// That of the layer at `path`. None: there is none, or it says nothing that can be read.
    pub fn read(path: &Path) -> Option<Self> {
        let file = fs::File::options()
            .read(true)
            .custom_flags(NO_FOLLOW)
            .open(path.with_extension(EXTENSION));
        let mut text = String::new();
        file.ok()?.take(MAX_RECORD).read_to_string(&mut text).ok()?;
        let mut lines = text.strip_suffix('\n')?.split('\n').map(|line| {
            let (digest, length) = line.split_once(' ')?;
            Some(Sum {
                digest: digest.parse().ok()?,
                length: length.parse().ok()?,
            })
        });
        Some(Self {
            image: lines.next()??,
            recipe: lines.next().map_or(Some(None), |recipe| recipe.map(Some))?,
        })
    }

    /// Writes that of the layer at `path`; it is on the disk when this returns.
    pub fn write(self, path: &Path, temporary: &Temporary) -> io::Result<()> {
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary.0)?;
        for Sum { digest, length } in [self.image].into_iter().chain(self.recipe) {
            file.write_all(format!("{digest} {length}\n").as_bytes())?;
        }
        file.sync_all()?;
        fs::rename(&temporary.0, path.with_extension(EXTENSION))?;
        sync_dir(path)
    }
}

/// No link, and no FIFO that is waited for.
#[expect(clippy::cast_possible_wrap, reason = "flags of open(2)")]
pub(super) const NO_FOLLOW: i32 =
    (rustix::fs::OFlags::NOFOLLOW.bits() | rustix::fs::OFlags::NONBLOCK.bits()) as i32;

/// Gives a layer its name. One that has it is whole, also after a power cut, and its digest is known.
pub(super) fn name_layer(
    output: &fs::File,
    recipe: recipes::Written,
    (temporary, record): (Temporary, Temporary),
    target: &Path,
) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        output.sync_all()?;
        let sums = Record {
            image: Sum::of(output, &mut || true)?,
            recipe: Some(recipe.name(target)?),
        };
        // With the name of the recipe.
        sums.write(target, &record)?;
        fs::rename(&temporary.0, target)?;
        sync_dir(target)
    };
    write().attempt(|| "write a layer to the disk".to_owned())
}
