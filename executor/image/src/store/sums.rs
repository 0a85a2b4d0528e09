//! The digest of each layer's file, kept beside it.
//!
//! A layer's image is made on this host, and no digest of a registry is one of its bytes. So its own is taken when
//! it is made, and written to a record (`layers/HEX.sum`) that is on the disk before the layer has its name: a line
//! of the image, and one of its [recipe](super::recipes), where there is one.
//!
//! What is digested is the list of the file's pieces, each of [`PIECE`] bytes: of one that has anything but zeros its
//! number and its SHA-256. So the pieces of a new file are hashed by several threads at once, and a hole costs
//! nothing, however long it is. Records of a version before this one have the SHA-256 of the whole file.

use super::{Temporary, recipes, sync_dir};
use crate::{Error, error::Attempt};
use rustix::{fs::SeekFrom, io::Errno};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    thread,
};
use tank_model::Digest;

/// How the files of records end.
pub(super) const EXTENSION: &str = "sum";

/// How the record of pieces begins.
const PIECES: &str = "pieces ";

/// The most bytes of a record.
const MAX_RECORD: u64 = 512;

/// The bytes of a piece; the last one may have fewer.
const PIECE: u64 = 1 << 20;

/// The most threads that hash one file.
const THREADS: u64 = 4;

/// Of what a file's digest is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// All of its bytes.
    Whole,
    /// Its pieces.
    Pieces,
}

/// What a record says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub form: Form,
    pub digest: Digest,
    pub length: u64,
}

/// A piece by its number.
type Piece = (u64, [u8; 32]);

impl Sum {
    /// Reads a file to its end. `goes_on` is asked between pieces.
    pub fn of(file: &fs::File, form: Form, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Self> {
        match form {
            Form::Whole => Self::of_whole(file, goes_on),
            Form::Pieces => {
                let length = file.metadata()?.len();
                let pieces = pieces(file, (0, length.div_ceil(PIECE)), goes_on)?;
                Ok(Self::of_pieces(&pieces, length))
            }
        }
    }

    fn of_whole(file: &fs::File, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Self> {
        let (mut hasher, mut length) = (Sha256::new(), 0u64);
        let mut bytes = vec![0; PIECE as usize];
        loop {
            if !goes_on() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let read = read_piece(file, &mut bytes, length)?;
            if read == 0 {
                break;
            }
            hasher.update(&bytes[..read]);
            length += read as u64;
        }
        let digest = Digest::from_bytes(hasher.finalize().into());
        let form = Form::Whole;
        Ok(Self {
            form,
            digest,
            length,
        })
    }

    /// As [`Form::Pieces`], of a file that nobody writes to any more, by as many threads as there are processors.
    fn of_new(file: &fs::File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let count = length.div_ceil(PIECE);
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let share = count.div_ceil(threads.min(THREADS)).max(1);
        let found = thread::scope(|scope| {
            let begins = (0..count).step_by(usize::try_from(share).unwrap_or(usize::MAX));
            let shares: Vec<_> = begins
                .map(|begin| (begin, (begin + share).min(count)))
                .map(|share| scope.spawn(move || pieces(file, share, &mut || true)))
                .collect();
            let ended = |_| io::Error::other("a thread has ended early");
            let join = |share: thread::ScopedJoinHandle<'_, _>| share.join().map_err(ended)?;
            shares.into_iter().map(join).collect::<io::Result<Vec<_>>>()
        })?;
        Ok(Self::of_pieces(&found.concat(), length))
    }

    fn of_pieces(pieces: &[Piece], length: u64) -> Self {
        let mut hasher = Sha256::new();
        for (number, digest) in pieces {
            hasher.update(number.to_le_bytes());
            hasher.update(digest);
        }
        hasher.update(length.to_le_bytes());
        Self {
            form: Form::Pieces,
            digest: Digest::from_bytes(hasher.finalize().into()),
            length,
        }
    }
}

impl Sum {
    /// What a line of a record says, without its end.
    fn of_line(line: &str) -> Option<Self> {
        let (form, line) = match line.strip_prefix(PIECES) {
            Some(rest) => (Form::Pieces, rest),
            None => (Form::Whole, line),
        };
        let (digest, length) = line.split_once(' ')?;
        Some(Self {
            form,
            digest: digest.parse().ok()?,
            length: length.parse().ok()?,
        })
    }

    fn line(self) -> String {
        let Self {
            form,
            digest,
            length,
        } = self;
        let form = match form {
            Form::Whole => "",
            Form::Pieces => PIECES,
        };
        format!("{form}{digest} {length}\n")
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
        let mut lines = text.strip_suffix('\n')?.split('\n').map(Sum::of_line);
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
            file.write_all(sum.line().as_bytes())?;
        }
        file.sync_all()?;
        fs::rename(&temporary.0, path.with_extension(EXTENSION))?;
        sync_dir(path)
    }
}

/// Those of the pieces with the numbers from `begin` to before `end` that have anything but zeros.
fn pieces(
    file: &fs::File,
    (begin, end): (u64, u64),
    goes_on: &mut dyn FnMut() -> bool,
) -> io::Result<Vec<Piece>> {
    let mut found = Vec::new();
    let mut bytes = vec![0; PIECE as usize];
    let mut number = begin;
    while number < end {
        if !goes_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let at = number * PIECE;
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            // The next data begins in a later piece.
            Ok(next) if next / PIECE > number => {
                number = next / PIECE;
                continue;
            }
            // There is nothing but a hole.
            Err(Errno::NXIO) => break,
            // What the file system does not say is read.
            Ok(_) | Err(_) => {}
        }
        let read = read_piece(file, &mut bytes, at)?;
        let piece = &bytes[..read];
        if piece.iter().any(|byte| *byte != 0) {
            found.push((number, Sha256::digest(piece).into()));
        }
        number += 1;
    }
    Ok(found)
}

/// Reads until there is a whole piece, or the end of the file.
fn read_piece(file: &fs::File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
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
        // The one waits for the disk, and the other for a processor.
        let (synced, image) = thread::scope(|scope| {
            let synced = scope.spawn(|| output.sync_all());
            let image = Sum::of_new(output);
            let ended = |_| Err(io::Error::other("a thread has ended early"));
            (synced.join().unwrap_or_else(ended), image)
        });
        synced?;
        let sums = Record {
            image: image?,
            recipe: Some(recipe.name(target)?),
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

    fn file(size: u64, written: &[(u64, &[u8])]) -> fs::File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("layer", flags).expect("makes");
        let file = fs::File::from(file);
        file.set_len(size).expect("has the size");
        for (at, bytes) in written {
            file.write_all_at(bytes, *at).expect("writes");
        }
        file
    }

    fn sum(file: &fs::File) -> Sum {
        let sum = Sum::of(file, Form::Pieces, &mut || true).expect("reads");
        assert_eq!(sum, Sum::of_new(file).expect("reads"), "by several threads");
        sum
    }

    #[test]
    fn a_hole_is_as_good_as_zeros_and_its_length_counts() {
        let zeros = vec![0; 3 << 20];
        let (hole, written) = (file(3 << 20, &[]), file(0, &[(0, &zeros)]));
        assert_eq!(sum(&hole), sum(&written));
        assert_ne!(sum(&hole), sum(&file((3 << 20) + 1, &[])));
        let there = |at| sum(&file(5 << 20, &[(at, b"here")]));
        assert_eq!(there(7), there(7));
        // In another piece, and at another place of the same.
        assert_ne!(there(7), there(7 + (1 << 20)));
        assert_ne!(there(7), there(8));
    }

    #[test]
    fn a_terabyte_of_nothing_is_passed_over() {
        let huge = file(1 << 40, &[((1 << 40) - 4, b"here")]);
        let mut asked = 0u64;
        let mut goes_on = || {
            asked += 1;
            true
        };
        Sum::of(&huge, Form::Pieces, &mut goes_on).expect("reads");
        assert_eq!(asked, 2, "the first piece, and the last");
    }

    #[test]
    fn a_record_of_the_whole_file_is_read_as_one() {
        let folder = std::env::temp_dir().join(format!("tank-sums-{}", std::process::id()));
        fs::create_dir(&folder).expect("makes");
        let whole = Temporary(folder.clone());
        let layer = folder.join("layer.erofs");
        for form in [Form::Whole, Form::Pieces] {
            let image = Sum::of(&file(9, &[(3, b"x")]), form, &mut || true).expect("reads");
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
