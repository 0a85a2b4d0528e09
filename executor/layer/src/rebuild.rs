//! A layer's tar, written again of its image and its [recipe](crate::recipe).
//!
//! Both were written by a process that read hostile bytes. Everything is bounded before it is used: the length of
//! all, of each piece, of what Zstandard takes; and content comes through [`Image`], which trusts nothing of what it
//! reads. What comes out is anything, of a known length: whoever takes it compares its digest with the layer's.

use crate::{
    budget::{Budget, MAX_BYTES},
    recipe::{MAGIC, PIECE},
};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, Write},
};
use tank_erofs::{Image, Inode, Kind, Nid};

/// The base-2 logarithm of the most memory that Zstandard takes to look back: 8 MiB, as RFC 8878 recommends.
const WINDOW: u32 = 23;

/// What comes next of an archive.
enum Step<'p> {
    Bytes(&'p [u8]),
    Content(Nid, u64, u64),
}

/// How long the archive of a recipe is. Reads all of it.
///
/// # Errors
/// It is no recipe; what reading gives.
pub fn length(recipe: &File) -> io::Result<u64> {
    walk(recipe, |_| Ok(()))
}

/// Writes the archive.
///
/// # Errors
/// It is no recipe, or not this image's; what reading and writing gives, or the budget refuses.
pub fn rebuild(
    recipe: &File,
    image: &Image,
    out: &mut impl Write,
    budget: &Budget,
) -> io::Result<()> {
    let mut known: Option<(Nid, Inode)> = None;
    let mut buffer = vec![0; 2 * PIECE];
    let each = |step: Step<'_>| {
        let (nid, mut offset, mut left) = match step {
            Step::Bytes(bytes) => return out.write_all(bytes),
            Step::Content(nid, offset, length) => (nid, offset, length),
        };
        budget.go_on()?;
        // The pieces of a file with holes come one after the other.
        let inode = match known.take() {
            Some((of, inode)) if of == nid => inode,
            _ => image.inode(nid)?,
        };
        let end = offset.checked_add(left);
        if inode.kind != Kind::File || end.is_none_or(|end| end > inode.size) {
            return Err(broken("it names what its image does not have"));
        }
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = buffer.get_mut(..most).unwrap_or_default();
            let read = image.read_at(&inode, piece, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            out.write_all(piece.get(..read).unwrap_or_default())?;
            offset += read as u64;
            left -= read as u64;
        }
        known = Some((nid, inode));
        Ok(())
    };
    walk(recipe, each)?;
    out.flush()
}

/// Reads a recipe from its begin: the length of its archive.
fn walk(mut recipe: &File, mut each: impl FnMut(Step<'_>) -> io::Result<()>) -> io::Result<u64> {
    recipe.rewind()?;
    let mut decoder = zstd::stream::read::Decoder::new(recipe)?;
    decoder.window_log_max(WINDOW)?;
    let mut decoder = BufReader::with_capacity(PIECE, decoder);
    let mut magic = [0; MAGIC.len()];
    decoder.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(broken("it has another form"));
    }
    let mut piece = vec![0; PIECE];
    let mut total = 0u64;
    loop {
        let word = number(&mut decoder)?;
        let length = word >> 1;
        total = total
            .checked_add(length)
            .filter(|total| *total <= MAX_BYTES)
            .ok_or_else(|| broken("its archive is too long"))?;
        match (word & 1, usize::try_from(length)) {
            (0, Ok(0)) => {
                let said = number(&mut decoder)?;
                return match said == total {
                    true => Ok(total),
                    false => Err(broken("its archive has another length than it says")),
                };
            }
            (0, Ok(length)) => {
                let piece = piece.get_mut(..length);
                let piece = piece.ok_or_else(|| broken("a piece of it is too long"))?;
                decoder.read_exact(piece)?;
                each(Step::Bytes(piece))?;
            }
            (_, Ok(1..)) => {
                let (nid, offset) = (number(&mut decoder)?, number(&mut decoder)?);
                each(Step::Content(Nid::of_number(nid), offset, length))?;
            }
            _ => return Err(broken("a piece of it is none")),
        }
    }
}

fn number(reader: &mut impl Read) -> io::Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        let [byte] = byte;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(broken("a number in it is too large"))
}

fn broken(what: &str) -> io::Error {
    let text = format!("no recipe of an archive: {what}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
