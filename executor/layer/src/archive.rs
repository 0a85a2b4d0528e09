//! Tar archives, one member after the other. `tar-core` parses (pax records by their length, so a
//! value may hold any byte; GNU long names; every format of sparse files); this hands it bytes and
//! holds the bounds: no more of a member than `MAX_HEAD` is ever in memory, content goes through
//! in pieces, and every read is one of the reader that is below.

use crate::recipe::Recipe;
use rustix::fs::Timespec;
use std::io::{self, Read, Seek, SeekFrom};
pub use tar_core::EntryType;
use tar_core::{
    PaxError, PaxExtensions, SparseEntry,
    parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser},
};

/// The most bytes of names and pax records of one member. One attribute of a file has at most 64
/// KiB (xattr(7)).
pub const MAX_METADATA: u32 = 1 << 20;

/// The longest path (PATH_MAX, with its end).
pub const MAX_PATH: u32 = 4095;

/// The most pieces of a sparse file.
const MAX_PIECES: usize = 32_768;

/// The most bytes before a member's content: its metadata, and the map of a sparse file, whose
/// lines have at most 42 bytes.
const MAX_HEAD: usize = 4 << 20;

/// A block of the format.
const BLOCK: usize = 512;

/// What an archive says of one file.
#[derive(Debug)]
pub struct Member {
    /// What it is.
    pub kind: EntryType,
    /// Where it is, as it is written.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Option<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// When it was changed.
    pub time: Timespec,
    /// Extended attributes, with their whole names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The bytes of the file, holes counted in.
    pub size: u64,
    /// Where the pieces of a sparse file belong: offset and length, ascending. The content is the
    /// pieces.
    pub pieces: Option<Vec<(u64, u64)>>,
}

/// Why bytes are no archive.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It ends in the middle of a member.
    #[error("it ends too early")]
    Cut,
    /// More than `MAX_HEAD`.
    #[error("what comes before a member's content is too long")]
    LongHead,
    /// An owner that chown(2) does not take.
    #[error("{0} is no id of a user or group")]
    NoId(u64),
    /// A pax record on which content or owner depend.
    #[error("its `{0}` is no number")]
    NoNumber(String),
    /// The map of a sparse file is wrong.
    #[error("the pieces of a sparse file overlap or lie outside of it")]
    Overlap,
    /// The content of a sparse file is not what its map says.
    #[error("the pieces of a sparse file are not what is stored of it")]
    Pieces,
    /// A pax record has not its form (pax(1), "pax Extended Header").
    #[error("{0}")]
    Record(PaxError),
    /// What `tar-core` says. Its text has its sources already, and may quote the archive.
    #[error("{0}")]
    Parser(ParseError),
}

/// For readers, whose errors these are: the type stays inside.
impl From<FormatError> for io::Error {
    fn from(error: FormatError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl From<ParseError> for FormatError {
    fn from(error: ParseError) -> Self {
        Self::Parser(error)
    }
}

/// What the parser makes of what is in memory; `head` is how much of it that was.
enum Parsed {
    Needs(usize),
    End,
    Nothing {
        head: usize,
    },
    Member {
        head: usize,
        member: Box<Member>,
        stored: u64,
    },
}

/// An archive that is read from the front to the back.
pub struct Archive<R> {
    reader: R,
    /// Passes over so many bytes of the reader; how many there were.
    pass: fn(&mut R, u64) -> io::Result<u64>,
    parser: Parser,
    /// Bytes that were read and not consumed, from `begin` on.
    buffer: Vec<u8>,
    begin: usize,
    /// Bytes of the present member's content, and of the padding behind it, that were not read.
    content: u64,
    padding: u64,
    /// The blocks that end an archive were read.
    has_end: bool,
    /// What is written down of it.
    pub(crate) recipe: Option<Box<Recipe>>,
}

impl<R: Read> Archive<R> {
    /// Of a reader that gives one byte after the other.
    pub fn new(reader: R) -> Self {
        Self::passing(reader, |reader, count| {
            io::copy(&mut reader.take(count), &mut io::sink())
        })
    }

    fn passing(reader: R, pass: fn(&mut R, u64) -> io::Result<u64>) -> Self {
        let limits = Limits {
            max_metadata_size: MAX_METADATA,
            max_path_len: Some(MAX_PATH),
            max_pending_entries: 16,
            max_sparse_entries: MAX_PIECES,
        };
        let mut parser = Parser::new(limits);
        parser.set_allow_empty_path(true);
        // A time before 1970 is one of those; sizes and owners are looked at in `records`.
        parser.set_ignore_pax_errors(true);
        Self {
            reader,
            pass,
            parser,
            buffer: Vec::new(),
            begin: 0,
            content: 0,
            padding: 0,
            has_end: false,
            recipe: None,
        }
    }

    /// Whether the blocks that end an archive were there.
    pub fn has_end(&self) -> bool {
        self.has_end
    }

    /// The next member; what was not read of the one before is passed over.
    pub fn advance(&mut self) -> io::Result<Option<Member>> {
        self.skip()?;
        loop {
            match self.parse()? {
                Parsed::Needs(bytes) => {
                    if self.fill(bytes)? {
                        continue;
                    }
                    // Some archives end without the blocks that say so.
                    let rest = &self.buffer[self.begin..];
                    return if rest.iter().all(|byte| *byte == 0) {
                        Ok(None)
                    } else {
                        Err(FormatError::Cut.into())
                    };
                }
                Parsed::End => {
                    self.has_end = true;
                    return Ok(None);
                }
                Parsed::Nothing { head } => self.pass_over(head)?,
                Parsed::Member {
                    head,
                    member,
                    stored,
                } => {
                    self.pass_over(head)?;
                    self.content = stored;
                    self.padding = stored.wrapping_neg() % BLOCK as u64;
                    return Ok(Some(*member));
                }
            }
        }
    }

    fn parse(&mut self) -> Result<Parsed, FormatError> {
        let event = self.parser.parse(&self.buffer[self.begin..])?;
        Ok(match event {
            ParseEvent::NeedData { min_bytes } => Parsed::Needs(min_bytes),
            ParseEvent::End { .. } => Parsed::End,
            // What they say of all that follows is a comment, in the archives there are.
            ParseEvent::GlobalExtensions { consumed, .. } => Parsed::Nothing { head: consumed },
            ParseEvent::Entry { consumed, entry } => Parsed::Member {
                head: consumed,
                member: Box::new(member(&entry)?),
                stored: entry.size,
            },
            ParseEvent::SparseEntry {
                consumed,
                entry,
                sparse_map,
                real_size,
            } => {
                let piece = |piece: &SparseEntry| (piece.offset, piece.length);
                let pieces: Vec<(u64, u64)> = sparse_map.iter().map(piece).collect();
                check_pieces(&pieces, real_size, entry.size)?;
                let member = Member {
                    size: real_size,
                    pieces: Some(pieces),
                    ..member(&entry)?
                };
                Parsed::Member {
                    head: consumed,
                    member: Box::new(member),
                    stored: entry.size,
                }
            }
        })
    }

    /// Reads on until there are `wanted` bytes; false at the end of the archive.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        self.buffer.drain(..self.begin);
        self.begin = 0;
        let had = self.buffer.len();
        if wanted > MAX_HEAD || wanted <= had {
            return Err(FormatError::LongHead.into());
        }
        // Twice as much where it was not enough: the parser begins anew each time.
        let wanted = wanted.max(2 * had).min(MAX_HEAD);
        (&mut self.reader)
            .take((wanted - had) as u64)
            .read_to_end(&mut self.buffer)?;
        Ok(self.buffer.len() > had)
    }

    fn consume(&mut self, count: usize) {
        self.begin += count;
        if self.begin >= self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(BLOCK);
            self.begin = 0;
        }
    }

    fn skip(&mut self) -> io::Result<()> {
        self.content += std::mem::take(&mut self.padding);
        let buffered = self.content.min((self.buffer.len() - self.begin) as u64);
        self.pass_over(usize::try_from(buffered).unwrap_or(usize::MAX))?;
        let left = std::mem::take(&mut self.content) - buffered;
        if self.recipe.is_some() {
            return self.record_next(left);
        }
        let skipped = (self.pass)(&mut self.reader, left)?;
        if skipped < left {
            Err(FormatError::Cut.into())
        } else {
            Ok(())
        }
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Of a file, where the content of members is passed over and not read.
    pub fn of_file(reader: R) -> Self {
        Self::passing(reader, |reader, count| {
            let step = i64::try_from(count).map_err(|_| FormatError::Cut)?;
            reader.seek(SeekFrom::Current(step))?;
            Ok(count)
        })
    }

    /// Where in the file the content of the present member begins, before any of it is read, and how many
    /// bytes are stored of it. It may lie behind the file's end.
    pub fn place(&mut self) -> io::Result<(u64, u64)> {
        let buffered = (self.buffer.len() - self.begin) as u64;
        Ok((self.reader.stream_position()? - buffered, self.content))
    }
}

/// The present member's content.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(out.len());
        if most == 0 {
            return Ok(0);
        }
        let buffered = &self.buffer[self.begin..];
        let count = if buffered.is_empty() {
            self.reader.read(&mut out[..most])?
        } else {
            let count = most.min(buffered.len());
            out[..count].copy_from_slice(&buffered[..count]);
            self.consume(count);
            count
        };
        if count == 0 {
            return Err(FormatError::Cut.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

fn member(entry: &ParsedEntry<'_>) -> Result<Member, FormatError> {
    let header = Timespec {
        tv_sec: i64::try_from(entry.mtime).unwrap_or(0),
        tv_nsec: 0,
    };
    // The last one means "leave it as it is" to chown(2).
    let id = |id: u64| match u32::try_from(id) {
        Ok(valid) if valid != u32::MAX => Ok(valid),
        _ => Err(FormatError::NoId(id)),
    };
    let xattrs = entry
        .xattrs
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()));
    Ok(Member {
        kind: entry.entry_type,
        path: entry.path.to_vec(),
        link: entry.link_target.as_ref().map(|link| link.to_vec()),
        mode: entry.mode & 0o7777,
        owner: (id(entry.uid)?, id(entry.gid)?),
        time: entry
            .pax
            .map(records)
            .transpose()?
            .flatten()
            .unwrap_or(header),
        xattrs: xattrs.collect(),
        size: entry.size,
        pieces: None,
    })
}

/// Looks at the pax records on which a file's content and owner depend, and gives the time there
/// is.
fn records(pax: &[u8]) -> Result<Option<Timespec>, FormatError> {
    let mut time = None;
    for record in PaxExtensions::new(pax) {
        let record = record.map_err(FormatError::Record)?;
        let value = record.value_bytes();
        match record.key_bytes() {
            key @ (b"size" | b"uid" | b"gid") => {
                let number = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok());
                let named = || String::from_utf8_lossy(key).into_owned();
                number.ok_or_else(|| FormatError::NoNumber(named()))?;
            }
            b"mtime" => time = std::str::from_utf8(value).ok().and_then(parse_time),
            _ => {}
        }
    }
    Ok(time)
}

/// Seconds since 1970 with a fraction, as pax writes them: `-1.5` is half a second before its whole
/// part.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: i64 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timespec {
            tv_sec: seconds.checked_sub(1)?,
            tv_nsec: 1_000_000_000 - nanos,
        });
    }
    Some(Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    })
}

/// Ascending, apart, within the file, and as long as what is stored.
fn check_pieces(pieces: &[(u64, u64)], size: u64, stored: u64) -> Result<(), FormatError> {
    let (mut end, mut sum) = (0, 0u64);
    for (offset, length) in pieces {
        let after = offset
            .checked_add(*length)
            .filter(|after| *offset >= end && *after <= size);
        end = after.ok_or(FormatError::Overlap)?;
        // Within `end`, which does not overflow.
        sum += length;
    }
    if sum == stored {
        Ok(())
    } else {
        Err(FormatError::Pieces)
    }
}

mod recording;
#[cfg(test)]
mod tests;
