//! Decompressing and hashing, beside what is made of it: each on a thread of its own.

use crate::{LayerError, budget};
use sha2::{Digest as _, Sha256};
use std::{
    collections::VecDeque,
    io::{self, BufReader, Read},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};
use tank_model::Digest;

/// The bytes of one piece, and how many wait at most on each way. What inflates begins each piece with a copy of the last
/// 32 KiB: the larger the pieces, the less of that.
const PIECE: usize = 1 << 20;
const WAITING: usize = 4;

/// The compressed bytes that are read at once.
const INPUT: usize = 256 << 10;

/// A piece of the uncompressed bytes, or why there is none.
type Piece = io::Result<Arc<Vec<u8>>>;

/// The threads of one layer. They wait until somebody [begins](Pipeline::begin): what confines the
/// process confines them, too.
#[derive(Debug)]
pub struct Pipeline {
    begin: SyncSender<()>,
    pieces: Receiver<Piece>,
    decoder: JoinHandle<()>,
    hasher: JoinHandle<Digest>,
}

impl Pipeline {
    /// Makes the threads that read a layer of this media type: one that ends with `gzip`, `zstd` or
    /// `tar` (OCI image specification, "Image Layer Filesystem Changeset", and Docker's).
    ///
    /// # Errors
    /// It is another one; there is no thread to be had.
    pub fn new(input: impl Read + Send + 'static, media_type: &str) -> Result<Self, LayerError> {
        let form = Form::of(media_type)?;
        let (begin, begun) = sync_channel(1);
        let (to_reader, pieces) = sync_channel(WAITING);
        let (to_hasher, to_hash) = sync_channel::<Arc<Vec<u8>>>(WAITING);
        let hash = move || {
            let mut hasher = Sha256::new();
            while let Ok(piece) = to_hash.recv() {
                hasher.update(&*piece);
            }
            Digest::from_bytes(hasher.finalize().into())
        };
        let decode = move || {
            if begun.recv().is_ok() {
                decode(input, form, &to_reader, &to_hasher);
            }
        };
        let spawn = std::thread::Builder::new;
        Ok(Self {
            begin,
            pieces,
            hasher: spawn().spawn(hash).map_err(read)?,
            decoder: spawn().spawn(decode).map_err(read)?,
        })
    }

    /// Lets the threads begin.
    pub fn begin(self) -> Decoded {
        let _ = self.begin.send(());
        Decoded {
            pieces: self.pieces,
            piece: Arc::default(),
            at: 0,
            threads: (self.decoder, self.hasher),
        }
    }
}

/// The uncompressed bytes of a layer.
pub struct Decoded {
    pieces: Receiver<Piece>,
    piece: Arc<Vec<u8>>,
    at: usize,
    threads: (JoinHandle<()>, JoinHandle<Digest>),
}

impl Decoded {
    /// Reads what is left and gives the digest of all of it.
    ///
    /// # Errors
    /// What reading gives.
    pub fn finish(mut self) -> io::Result<Digest> {
        // What follows the archive's end is part of the digest.
        io::copy(&mut self, &mut io::sink())?;
        let (decoder, hasher) = self.threads;
        let ended = || io::Error::other("a thread has ended early");
        decoder.join().map_err(|_| ended())?;
        hasher.join().map_err(|_| ended())
    }
}

impl Read for Decoded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => {
                    self.piece = piece?;
                    self.at = 0;
                }
                Err(_) => return Ok(0),
            }
        }
        let most = into.len().min(self.piece.len() - self.at);
        into[..most].copy_from_slice(&self.piece[self.at..self.at + most]);
        self.at += most;
        Ok(most)
    }
}

fn read(error: io::Error) -> LayerError {
    LayerError::Read(error.into())
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
enum Form {
    Gzip,
    Zstd,
    Plain,
}

impl Form {
    fn of(media_type: &str) -> Result<Self, LayerError> {
        let forms = [
            ("gzip", Self::Gzip),
            ("zstd", Self::Zstd),
            ("tar", Self::Plain),
        ];
        let mut forms = forms.into_iter();
        forms
            .find(|(end, _)| media_type.ends_with(end))
            .map(|(_, form)| form)
            .ok_or_else(|| LayerError::MediaType(media_type.to_owned()))
    }
}

fn decode(
    input: impl Read,
    form: Form,
    to_reader: &SyncSender<Piece>,
    to_hasher: &SyncSender<Arc<Vec<u8>>>,
) {
    let input = BufReader::with_capacity(INPUT, input);
    let decoder: io::Result<Box<dyn Read>> = match form {
        Form::Gzip => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        Form::Zstd => zstd::stream::read::Decoder::with_buffer(input)
            .map(|decoder| Box::new(decoder) as Box<dyn Read>),
        Form::Plain => Ok(Box::new(input)),
    };
    let mut left = budget::MAX_BYTES;
    let mut used = VecDeque::new();
    let ended = decoder.and_then(|mut decoder| {
        loop {
            let mut piece = fresh(&mut used);
            let length = fill(&mut decoder, &mut piece)?;
            if length == 0 {
                return Ok(());
            }
            left = left
                .checked_sub(length as u64)
                .ok_or(budget::Refusal::Bytes)?;
            piece.truncate(length);
            let piece = Arc::new(piece);
            used.push_back(Arc::clone(&piece));
            // Whoever does not listen any more has what it needs.
            if to_hasher.send(Arc::clone(&piece)).is_err() || to_reader.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    });
    if let Err(error) = ended {
        let _ = to_reader.send(Err(error));
    }
}

/// The memory of a piece: of the oldest one, if nobody reads that any more, or else new. So no more of it is
/// zeroed than is in use at once.
fn fresh(used: &mut VecDeque<Arc<Vec<u8>>>) -> Vec<u8> {
    let mut piece = match used.pop_front().map(Arc::try_unwrap) {
        Some(Ok(piece)) => piece,
        Some(Err(read)) => {
            used.push_front(read);
            Vec::new()
        }
        None => Vec::new(),
    };
    piece.resize(PIECE, 0);
    piece
}

/// Reads until a piece is full, or to the end; how much that was.
fn fill(decoder: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match decoder.read(&mut piece[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
