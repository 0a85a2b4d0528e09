//! What a layer's tar had beside the content of files, so that it can be written again, byte for byte: an archive
//! of the image has to have the digests that the image's configuration names.
//!
//! A *recipe* is written while the layer is converted. It is compressed with Zstandard, and in it stand, behind
//! [`MAGIC`], the archive's bytes in order:
//!
//! | number | what follows | what comes of it |
//! |---|---|---|
//! | `2n`, n > 0 | n bytes, at most [`PIECE`] | these: headers, records, padding, what is behind the archive's end, and the content of members of which no file was made |
//! | `2n+1`, n > 0 | two numbers: an inode of the layer's image, and an offset | n bytes of its content from there |
//! | `0` | a number | the end; it is the sum of all n |
//!
//! A number is written as LEB128. An inode stays where it is when another takes its name, so content is never
//! written twice. `tar-split`, which Docker and Podman use, keeps the same, with paths in place of inodes.
//!
//! Whoever writes a recipe reads hostile bytes, and may be in their hands: whoever reads one takes it for hostile
//! as well ([`crate::rebuild`]).

use crate::budget::Budget;
use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
};
use tank_erofs::Nid;

/// How a recipe begins. The last byte is the version of its form.
pub const MAGIC: &[u8; 8] = b"TANKTAR\x01";

/// The most bytes of one piece of what is kept as it was.
pub const PIECE: usize = 64 << 10;

/// Zstandard's fastest: nearly all that it gets is alike.
const LEVEL: i32 = 1;

/// A recipe that is being written.
pub struct Recipe {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    /// What is kept as it was, and not written yet.
    piece: Vec<u8>,
    total: u64,
    budget: Budget,
}

impl Recipe {
    /// Begins one in an empty file.
    ///
    /// # Errors
    /// What writing gives.
    pub fn new(file: File, budget: &Budget) -> io::Result<Self> {
        let mut out = zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL)?;
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            piece: Vec::with_capacity(PIECE),
            total: 0,
            budget: budget.clone(),
        })
    }

    /// These are the archive's next bytes.
    ///
    /// # Errors
    /// What writing gives, or the budget refuses.
    pub fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The archive's next bytes are these of the content of an inode.
    ///
    /// # Errors
    /// What writing gives, or the budget refuses.
    pub fn content(&mut self, of: Nid, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.flush()?;
        self.number(length << 1 | 1)?;
        self.number(of.number())?;
        self.number(offset)?;
        self.total += length;
        Ok(())
    }

    /// All that is left of a reader are the archive's next bytes.
    ///
    /// # Errors
    /// What reading or writing gives, or the budget refuses.
    pub fn rest(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(()),
                read => self.bytes(piece.get(..read).unwrap_or_default())?,
            }
        }
    }

    /// Writes the end. The file is not synced.
    ///
    /// # Errors
    /// What writing gives, or the budget refuses.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.number(0)?;
        self.number(self.total)?;
        self.out.finish()?.into_inner().map_err(io::Error::from)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = self.piece.len() as u64;
        if length == 0 {
            return Ok(());
        }
        self.budget.bytes(length)?;
        self.budget.space()?;
        self.number(length << 1)?;
        self.out.write_all(&self.piece)?;
        self.total += length;
        self.piece.clear();
        Ok(())
    }

    fn number(&mut self, mut number: u64) -> io::Result<()> {
        let mut bytes = [0; 10];
        let mut length = 0;
        for byte in &mut bytes {
            length += 1;
            // The lowest seven bits.
            *byte = (number & 0x7f) as u8;
            number >>= 7;
            if number == 0 {
                break;
            }
            *byte |= 0x80;
        }
        self.out.write_all(bytes.get(..length).unwrap_or_default())
    }
}
