//! Tar archives, one member after the other. `tar-core` parses (pax records by their length, so a
//! value may hold any byte; GNU long names; every format of sparse files); this hands it bytes and
//! holds the bounds: no more of a member than [`MAX_HEAD`] is ever in memory, content goes through
//! in pieces, and every read is one of the reader that is below.

use rustix::fs::Timespec;
use std::io::{self, Read};
use tar_core::{
    EntryType, PaxExtensions,
    parse::{Limits, ParseEvent, ParsedEntry, Parser},
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
    pub kind: EntryType,
    pub path: Vec<u8>,
    pub link: Option<Vec<u8>>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub time: Timespec,
    /// Extended attributes, with their whole names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The bytes of the file, holes counted in.
    pub size: u64,
    /// Where the pieces of a sparse file belong: offset and length, ascending. The content is the
    /// pieces.
    pub pieces: Option<Vec<(u64, u64)>>,
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

pub struct Archive<R> {
    reader: R,
    parser: Parser,
    /// Bytes that were read and not consumed, from `begin` on.
    buffer: Vec<u8>,
    begin: usize,
    /// Bytes of the present member's content, and of the padding behind it, that were not read.
    content: u64,
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub fn new(reader: R) -> Self {
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
            parser,
            buffer: Vec::new(),
            begin: 0,
            content: 0,
            padding: 0,
        }
    }

    /// The next member; what was not read of the one before is passed over.
    pub fn next(&mut self) -> io::Result<Option<Member>> {
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
                        Err(cut())
                    };
                }
                Parsed::End => return Ok(None),
                Parsed::Nothing { head } => self.consume(head),
                Parsed::Member {
                    head,
                    member,
                    stored,
                } => {
                    self.consume(head);
                    self.content = stored;
                    self.padding = stored.wrapping_neg() % BLOCK as u64;
                    return Ok(Some(*member));
                }
            }
        }
    }

    fn parse(&mut self) -> io::Result<Parsed> {
        Ok(
            match self.parser.parse(&self.buffer[self.begin..]).map_err(bad)? {
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
                    let pieces: Vec<(u64, u64)> = sparse_map
                        .iter()
                        .map(|piece| (piece.offset, piece.length))
                        .collect();
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
            },
        )
    }

    /// Reads on until there are `wanted` bytes; false at the end of the archive.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        self.buffer.drain(..self.begin);
        self.begin = 0;
        let had = self.buffer.len();
        if wanted > MAX_HEAD || wanted <= had {
            return Err(bad("what comes before a member's content is too long"));
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
        self.consume(usize::try_from(buffered).unwrap_or(usize::MAX));
        let left = std::mem::take(&mut self.content) - buffered;
        let skipped = io::copy(&mut (&mut self.reader).take(left), &mut io::sink())?;
        if skipped < left { Err(cut()) } else { Ok(()) }
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
            return Err(cut());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn cut() -> io::Error {
    bad("it ends too early")
}

fn member(entry: &ParsedEntry<'_>) -> io::Result<Member> {
    let header = Timespec {
        tv_sec: i64::try_from(entry.mtime).unwrap_or(0),
        tv_nsec: 0,
    };
    // The last one means "leave it as it is" to chown(2).
    let id = |id: u64| match u32::try_from(id) {
        Ok(valid) if valid != u32::MAX => Ok(valid),
        _ => Err(bad(format!("{id} is no id of a user or group"))),
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
fn records(pax: &[u8]) -> io::Result<Option<Timespec>> {
    let mut time = None;
    for record in PaxExtensions::new(pax) {
        let record = record.map_err(bad)?;
        let value = record.value_bytes();
        match record.key_bytes() {
            key @ (b"size" | b"uid" | b"gid") => {
                let number = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok());
                number.ok_or_else(|| {
                    bad(format!(
                        "its `{}` is no number",
                        String::from_utf8_lossy(key)
                    ))
                })?;
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
fn check_pieces(pieces: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0, 0u64);
    for (offset, length) in pieces {
        let after = offset
            .checked_add(*length)
            .filter(|after| *offset >= end && *after <= size);
        end =
            after.ok_or_else(|| bad("the pieces of a sparse file overlap or lie outside of it"))?;
        // Within `end`, which does not overflow.
        sum += length;
    }
    if sum == stored {
        Ok(())
    } else {
        Err(bad(
            "the pieces of a sparse file are not what is stored of it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of the old format with a right checksum.
    fn header(kind: u8, name: &[u8], size: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length = (1..=7)
            .map(|digits| rest + digits)
            .find(|n| n.to_string().len() + rest == *n)
            .expect("a length");
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn with_pax(records: &[u8], name: &[u8], content: &[u8]) -> Vec<u8> {
        let pax = [
            header(b'x', b"pax", records.len() as u64),
            padded(records.to_vec()),
        ]
        .concat();
        [
            pax,
            header(b'0', name, content.len() as u64),
            padded(content.to_vec()),
            vec![0; 2 * BLOCK],
        ]
        .concat()
    }

    /// Reads all of an archive and gives the most that was held in memory.
    fn read_all(bytes: &[u8]) -> (io::Result<u64>, usize) {
        let mut archive = Archive::new(bytes);
        let mut most = 0;
        let mut members = 0;
        loop {
            let next = archive.next();
            most = most.max(archive.buffer.capacity());
            match next {
                Ok(Some(_)) => members += 1,
                Ok(None) => return (Ok(members), most),
                Err(error) => return (Err(error), most),
            }
            if members % 2 == 0
                && let Err(error) = io::copy(&mut archive, &mut io::sink())
            {
                return (Err(error), most);
            }
        }
    }

    #[test]
    fn a_pax_value_may_hold_any_byte() {
        let value: Vec<u8> = (0..=255).chain(*b"\n12 path=/etc/passwd\n").collect();
        let bytes = with_pax(&record("SCHILY.xattr.user.x", &value), b"file", b"content");
        let mut archive = Archive::new(bytes.as_slice());
        let member = archive.next().expect("reads").expect("a member");
        assert_eq!((member.path.as_slice(), member.size), (&b"file"[..], 7));
        assert_eq!(member.xattrs, [(b"user.x".to_vec(), value)]);
        let mut content = String::new();
        archive.read_to_string(&mut content).expect("reads");
        assert_eq!(content, "content");
        assert!(archive.next().expect("ends").is_none());
    }

    #[test]
    fn a_time_has_a_fraction_and_may_lie_before_1970() {
        let time = |text| parse_time(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        assert_eq!(time("12.x"), None);
        assert_eq!(time(""), None);
    }

    #[test]
    fn a_size_that_is_no_number_is_refused() {
        let bytes = with_pax(&record("size", b"lots"), b"file", b"content");
        let error = Archive::new(bytes.as_slice()).next().expect_err("refused");
        assert_eq!(error.to_string(), "its `size` is no number");
    }

    #[test]
    fn names_and_records_are_refused_before_they_are_read() {
        for kind in [b'L', b'K', b'x', b'g'] {
            let head = header(kind, b"x", u64::from(MAX_METADATA) + 1);
            let mut archive = Archive::new(head.chain(io::repeat(b'a')));
            archive.next().expect_err("refused");
            assert!(
                archive.buffer.capacity() < 4 * BLOCK,
                "{}",
                archive.buffer.capacity()
            );
        }
    }

    #[test]
    fn a_map_without_an_end_is_refused() {
        let pax = [
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            record("GNU.sparse.realsize", b"10"),
        ]
        .concat();
        let start = [
            header(b'x', b"pax", pax.len() as u64),
            padded(pax),
            header(b'0', b"f", 1 << 30),
        ]
        .concat();
        let mut archive = Archive::new(start.chain(io::repeat(b'1')));
        archive.next().expect_err("refused");
        let mut archive = Archive::new(
            start
                .chain(io::Cursor::new(b"32768\n"))
                .chain(io::repeat(b'\n')),
        );
        archive.next().expect_err("refused");
        let many = header(b'S', b"f", 1 << 30);
        Archive::new(many.chain(io::repeat(b'1')))
            .next()
            .expect_err("refused");
    }

    #[test]
    fn pieces_lie_in_order_within_the_file() {
        check_pieces(&[(0, 5), (10, 5), (20, 0)], 20, 10).expect("a sparse file");
        for (pieces, size, stored) in [
            (vec![(10, 5), (0, 5)], 20, 10),
            (vec![(0, 5), (4, 5)], 20, 10),
            (vec![(0, 21)], 20, 21),
            (vec![(u64::MAX, 2)], u64::MAX, 2),
            (vec![(0, 5)], 20, 6),
        ] {
            check_pieces(&pieces, size, stored).expect_err("refused");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_within_the_bound(bytes in proptest::collection::vec(any::<u8>(), 0..8_192)) {
            let (_, most) = read_all(&bytes);
            prop_assert!(most <= 2 * MAX_HEAD);
        }

        #[test]
        fn arbitrary_members_end_within_the_bound(
            members in proptest::collection::vec(
                (any::<u8>(), 0..100_000u64, proptest::collection::vec(any::<u8>(), 0..2_000)), 0..8),
        ) {
            let mut bytes = Vec::new();
            for (kind, size, content) in members {
                let kind = *b"0123457xgLKS"
                    .get(usize::from(kind) % 16).unwrap_or(&kind);
                let size = if size % 3 == 0 { content.len() as u64 } else { size };
                bytes.extend(header(kind, b"name", size));
                bytes.extend(padded(content));
            }
            let (_, most) = read_all(&bytes);
            prop_assert!(most <= 2 * MAX_HEAD);
        }

        #[test]
        fn what_was_written_is_read(key in "[a-z.]{1,20}", value in proptest::collection::vec(any::<u8>(), 0..300),
            content in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let bytes = with_pax(&record(&format!("SCHILY.xattr.user.{key}"), &value), b"file", &content);
            let mut archive = Archive::new(bytes.as_slice());
            let member = archive.next().expect("reads").expect("a member");
            prop_assert_eq!(&member.xattrs[0].1, &value);
            let mut found = Vec::new();
            archive.read_to_end(&mut found).expect("reads");
            prop_assert_eq!(found, content);
        }
    }
}
