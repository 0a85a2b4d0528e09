//! The digest of a file that this host has made, by which it is known whether it is still what it was.
//!
//! What is digested is the list of the file's pieces, each of 1 MiB: of one that has anything but zeros its
//! number and its SHA-256. So the pieces of an image are hashed on a thread of their own while the image is written
//! ([`Sums`]), and a hole costs nothing, however long it is.

use crate::LayerError;
use rustix::{fs::SeekFrom, io::Errno};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread::JoinHandle,
};
use tank_erofs::Output;
use tank_model::Digest;

/// The bytes of a piece; the last one may have fewer.
const PIECE: u64 = 1 << 20;

/// How far an image is written beyond a piece until that is hashed, in bytes: what is still patched is mostly among
/// these.
const BEHIND: u64 = 4 << 20;

/// The most writes that have happened and are not noted yet.
const WAITING: usize = 1024;

/// Of what a file's digest is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Form {
    /// All of its bytes.
    Whole,
    /// Its pieces.
    Pieces,
}

/// The digest of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sum {
    /// Of what it is taken.
    pub form: Form,
    /// The SHA-256.
    pub digest: Digest,
    /// The bytes of the file, holes counted in.
    pub length: u64,
}

/// The SHA-256 of a piece. None: it has nothing but zeros.
type Hash = Option<[u8; 32]>;

impl Sum {
    /// Reads a file to its end. `goes_on` is asked between pieces.
    ///
    /// # Errors
    /// What reading gives; [`io::ErrorKind::Interrupted`] when it does not go on.
    pub fn of(file: &File, form: Form, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Self> {
        match form {
            Form::Whole => Self::of_whole(file, goes_on),
            Form::Pieces => Self::of_every_piece(file, goes_on),
        }
    }

    fn of_whole(file: &File, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Self> {
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

    fn of_every_piece(file: &File, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut found = BTreeMap::new();
        let mut bytes = vec![0; PIECE as usize];
        let mut number = 0;
        while number < length.div_ceil(PIECE) {
            if !goes_on() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match rustix::fs::seek(file, SeekFrom::Data(number * PIECE)) {
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
            found.insert(number, hash(file, &mut bytes, number)?);
            number += 1;
        }
        Ok(Self::of_pieces(&found, length))
    }

    fn of_pieces(pieces: &BTreeMap<u64, Hash>, length: u64) -> Self {
        let mut hasher = Sha256::new();
        for (number, hash) in pieces {
            if let Some(hash) = hash {
                hasher.update(number.to_le_bytes());
                hasher.update(hash);
            }
        }
        hasher.update(length.to_le_bytes());
        Self {
            form: Form::Pieces,
            digest: Digest::from_bytes(hasher.finalize().into()),
            length,
        }
    }
}

fn hash(file: &File, bytes: &mut [u8], number: u64) -> io::Result<Hash> {
    let read = read_piece(file, bytes, number * PIECE)?;
    let piece = &bytes[..read];
    let is_zero = piece.iter().all(|byte| *byte == 0);
    Ok((!is_zero).then(|| Sha256::digest(piece).into()))
}

/// Reads until there is a whole piece, or the end of the file.
fn read_piece(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
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

/// A file that is to be written, and the thread that hashes its pieces meanwhile.
#[derive(Debug)]
pub struct Sums {
    output: Hashed,
    sum: Hashing,
}

/// The end at which a file of [`Sums`] is written.
#[derive(Debug)]
pub struct Hashed {
    file: File,
    written: Option<SyncSender<(u64, u64)>>,
}

/// The sum of a file, as soon as its other end is dropped.
#[derive(Debug)]
pub struct Hashing(Option<JoinHandle<io::Result<Sum>>>);

impl Sums {
    /// Of an empty file. Its thread waits for the first write.
    ///
    /// # Errors
    /// There is no thread to be had, or no descriptor.
    pub fn new(file: File) -> Result<Self, LayerError> {
        let failed = |error: io::Error| LayerError::Read(error.into());
        let (written, writes) = sync_channel(WAITING);
        let read = file.try_clone().map_err(failed)?;
        let hasher = std::thread::Builder::new().spawn(move || follow(&read, &writes));
        Ok(Self {
            output: Hashed {
                file,
                written: Some(written),
            },
            sum: Hashing(Some(hasher.map_err(failed)?)),
        })
    }

    /// Of a file of which no sum is asked.
    pub fn none(file: File) -> Self {
        Self {
            output: Hashed {
                file,
                written: None,
            },
            sum: Hashing(None),
        }
    }

    /// Both ends.
    pub fn begin(self) -> (Hashed, Hashing) {
        (self.output, self.sum)
    }
}

impl Hashed {
    /// Has what was written hashed, which may happen at once. A thread that has ended says why in the end.
    fn note(&self, at: u64, length: u64) {
        if let Some(written) = &self.written {
            let _ = written.send((at, length));
        }
    }
}

impl Output for Hashed {
    fn write_all_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(&self.file, bytes, at)?;
        self.note(at, bytes.len() as u64);
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.note(length, 0);
        Ok(())
    }
}

impl Hashing {
    /// Waits for the sum, if one is asked.
    ///
    /// # Errors
    /// What reading the file gave.
    pub fn finish(self) -> io::Result<Option<Sum>> {
        let ended = |_| Err(io::Error::other("a thread has ended early"));
        let joined = self.0.map(|hasher| hasher.join().unwrap_or_else(ended));
        joined.transpose()
    }
}

/// The pieces of a file that is being written.
#[derive(Default)]
struct Pieces {
    hashed: BTreeMap<u64, Hash>,
    /// Those that were written since they were hashed, or not hashed yet.
    left: BTreeSet<u64>,
    /// How long the file is, in bytes.
    end: u64,
}

impl Pieces {
    fn note(&mut self, (at, length): (u64, u64)) {
        let end = at + length;
        self.left.extend(at / PIECE..end.div_ceil(PIECE));
        self.end = self.end.max(end);
    }

    /// One that is likely to stay as it is.
    fn settled(&self) -> Option<u64> {
        let first = self.left.first().copied();
        first.filter(|number| (number + 1) * PIECE + BEHIND <= self.end)
    }
}

/// Hashes what is written until nobody writes any more, and what is left then.
fn follow(file: &File, writes: &Receiver<(u64, u64)>) -> io::Result<Sum> {
    let mut pieces = Pieces::default();
    let mut bytes = vec![0; PIECE as usize];
    loop {
        let write = match pieces.settled() {
            None => writes.recv().map_err(|_| TryRecvError::Disconnected),
            Some(_) => writes.try_recv(),
        };
        match (write, pieces.settled()) {
            (Ok(write), _) => pieces.note(write),
            (Err(TryRecvError::Empty), Some(number)) => {
                pieces.left.remove(&number);
                let hash = hash(file, &mut bytes, number)?;
                pieces.hashed.insert(number, hash);
            }
            (Err(_), _) => break,
        }
    }
    for number in pieces.left {
        let hash = hash(file, &mut bytes, number)?;
        pieces.hashed.insert(number, hash);
    }
    Ok(Sum::of_pieces(&pieces.hashed, pieces.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        rustix::fs::memfd_create("layer", flags)
            .expect("makes")
            .into()
    }

    fn file(size: u64, written: &[(u64, &[u8])]) -> File {
        let file = memory();
        file.set_len(size).expect("has the size");
        for (at, bytes) in written {
            file.write_all_at(bytes, *at).expect("writes");
        }
        file
    }

    fn sum(file: &File) -> Sum {
        Sum::of(file, Form::Pieces, &mut || true).expect("reads")
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Forwards with holes, and now and then back to what was hashed by then.
        #[test]
        fn what_is_hashed_while_it_is_written_is_what_the_file_is(
            writes in proptest::collection::vec((0u64..24 << 20, 0usize..3 << 20, 0u8..3, any::<bool>()), 0..24),
            length in 0u64..28 << 20,
        ) {
            let file = memory();
            let (mut output, hashing) = Sums::new(file.try_clone().expect("a file")).expect("a thread").begin();
            let mut end = 0;
            for (place, size, byte, goes_on) in writes {
                let at = if goes_on { end + place % (2 << 20) } else { place.min(end) };
                output.write_all_at(&vec![byte; size], at).expect("writes");
                end = end.max(at + size as u64);
            }
            output.set_len(length.max(end)).expect("has the length");
            drop(output);
            prop_assert_eq!(hashing.finish().expect("a sum"), Some(sum(&file)));
        }
    }
}
