//! The digest of each layer's file, kept beside it.
//!
//! A layer's image is made on this host, and no digest of a registry is one of its bytes. So its own is taken when
//! it is made, and written to a record (`layers/HEX.sum`) that is on the disk before the layer has its name: a line
//! of the image, and one of its [recipe](super::recipes), where there is one.
//!
//! What is digested are the file's pieces, which `tank-layer` hashes while it writes them ([`tank_layer::sums`]):
//! whoever makes the image may as well say what it is. Records of a version before this one have the SHA-256 of the
//! whole file.

use super::{Temporary, recipes, sync_dir};
use crate::{Error, error::Attempt};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
};
pub(super) use tank_layer::sums::{Form, Sum};

/// How the files of records end.
pub(super) const EXTENSION: &str = "sum";

/// How the record of pieces begins.
const PIECES: &str = "pieces ";

/// The most bytes of a record.
const MAX_RECORD: u64 = 512;

/// What a line of a record says, without its end.
fn of_line(line: &str) -> Option<Sum> {
    let (form, line) = match line.strip_prefix(PIECES) {
        Some(rest) => (Form::Pieces, rest),
        None => (Form::Whole, line),
    };
    let (digest, length) = line.split_once(' ')?;
    Some(Sum {
        form,
        digest: digest.parse().ok()?,
        length: length.parse().ok()?,
    })
}

fn line(sum: Sum) -> String {
    let Sum {
        form,
        digest,
        length,
    } = sum;
    let form = match form {
        Form::Whole => "",
        Form::Pieces => PIECES,
    };
    format!("{form}{digest} {length}\n")
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
        let mut lines = text.strip_suffix('\n')?.split('\n').map(of_line);
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
        for sum in [self.image].into_iter().chain(self.recipe) {
            file.write_all(line(sum).as_bytes())?;
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
    (output, image): (&fs::File, Option<Sum>),
    recipe: recipes::Written,
    (temporary, record): (Temporary, Temporary),
    target: &Path,
) -> Result<(), Error> {
    let length = output.metadata().map(|metadata| metadata.len()).ok();
    let Some(image) = image.filter(|sum| Some(sum.length) == length) else {
        return Err(Error::Converter);
    };
    let write = || -> io::Result<()> {
        // Both wait for the disk.
        let (synced, recipe) = thread::scope(|scope| {
            let synced = scope.spawn(|| output.sync_all());
            let recipe = recipe.name(target);
            let ended = |_| Err(io::Error::other("a thread has ended early"));
            (synced.join().unwrap_or_else(ended), recipe)
        });
        synced?;
        let sums = Record {
            image,
            recipe: Some(recipe?),
        };
        // With the name of the recipe.
        sums.write(target, &record)?;
        fs::rename(&temporary.0, target)?;
        sync_dir(target)
    };
    write().attempt(|| "write a layer to the disk".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_model::Digest;

    #[test]
    fn a_record_of_the_whole_file_is_read_as_one() {
        let folder = std::env::temp_dir().join(format!("tank-sums-{}", std::process::id()));
        fs::create_dir(&folder).expect("makes");
        let whole = Temporary(folder.clone());
        let layer = folder.join("layer.erofs");
        for form in [Form::Whole, Form::Pieces] {
            let image = Sum {
                form,
                digest: Digest::from_bytes([9; 32]),
                length: 9,
            };
            for recipe in [None, Some(image)] {
                let record = Record { image, recipe };
                let temporary = Temporary(folder.join("temporary"));
                record.write(&layer, &temporary).expect("writes");
                assert_eq!(Record::read(&layer), Some(record));
            }
        }
        let text = format!("{} 4\n", Digest::from_bytes([7; 32]));
        fs::write(layer.with_extension(EXTENSION), text).expect("writes");
        let form = Record::read(&layer).map(|record| record.image.form);
        assert_eq!(form, Some(Form::Whole), "as a version before wrote it");
        drop(whole);
    }
}
