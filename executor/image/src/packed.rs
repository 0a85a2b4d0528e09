//! Archives of Tank's own: tar (pax(1), "ustar Interchange Format"), in one form and no other.
//!
//! A member is a file with a plain name, of no owner and no time. The header is made of its name and its size alone:
//! whoever reads one compares all of it with what it has to be, and parses nothing but the size.

use crate::{Error, Pace, error::Attempt};
use std::{
    io,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    time::timeout,
};

/// A block of the format.
const BLOCK: usize = 512;

/// Where the size stands in a header, and how long its field is.
const SIZE: usize = 124;
const SIZE_LENGTH: usize = 12;

/// The largest size that is written in octal digits.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// How long it is waited for whoever reads or writes the other end of a pipe.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that is waited for the first bytes: somebody may type a password first.
const FIRST_BYTES: Duration = Duration::from_secs(600);

/// The bytes that are passed on at once.
pub(crate) const PIECE: usize = 64 << 10;

/// The header of a file.
fn head(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in block.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, &name.as_bytes()[..name.len().min(99)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    match size {
        0..=MAX_OCTAL => put(SIZE, format!("{size:011o}\0").as_bytes()),
        // As GNU tar and all others write it: a number of 95 bits, its first bit set.
        _ => {
            put(SIZE, &[0x80]);
            put(SIZE + SIZE_LENGTH - 8, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    for (place, byte) in block.iter_mut().skip(148).zip(sum.as_bytes()) {
        *place = *byte;
    }
    block
}

/// The size that a header says.
fn size_of(block: &[u8; BLOCK]) -> Option<u64> {
    let field = block.get(SIZE..SIZE + SIZE_LENGTH)?;
    if let [0x80, 0, 0, 0, number @ ..] = field {
        return Some(u64::from_be_bytes(number.try_into().ok()?));
    }
    let digits = std::str::from_utf8(field.strip_suffix(&[0])?).ok()?;
    u64::from_str_radix(digits, 8).ok()
}

fn padding(size: u64) -> usize {
    // Less than a block.
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// An archive that is being written into a pipe, for as long as somebody reads it.
#[derive(Debug)]
pub struct Packer {
    pipe: pipe::Sender,
    written: u64,
    pace: Pace,
}

impl Packer {
    /// # Errors
    /// What the kernel gives.
    pub fn new(pipe: std::os::fd::OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self {
            pipe: pipe::Sender::from_owned_fd(pipe)?,
            written: 0,
            pace: Pace::default(),
        })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When nobody reads on.
    pub async fn file(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let size = content.len() as u64;
        self.begin(name, size).await?;
        self.content(content).await?;
        self.pad(size).await
    }

    /// Begins a file of so many bytes, which come next.
    pub(crate) async fn begin(&mut self, name: &str, size: u64) -> Result<(), Error> {
        self.content(&head(name, size)).await
    }

    /// Writes bytes of a file.
    pub(crate) async fn content(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let begin = Instant::now();
        let written = timeout(self.pace.left(), self.pipe.write_all(bytes)).await;
        let written = written.unwrap_or_else(|_| Err(Pace::late()));
        self.pace.add(bytes.len() as u64, begin.elapsed());
        let written = written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => io::Error::new(error.kind(), "nobody reads it"),
            _ => error,
        });
        written.attempt(|| "write an archive".to_owned())?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Fills the last block of a file of so many bytes.
    pub(crate) async fn pad(&mut self, size: u64) -> Result<(), Error> {
        let zeros = [0; BLOCK];
        self.content(zeros.get(..padding(size)).unwrap_or_default())
            .await
    }

    /// Writes the end: how many bytes there are.
    ///
    /// # Errors
    /// When nobody reads on.
    pub async fn end(mut self) -> Result<u64, Error> {
        self.content(&[0; 2 * BLOCK]).await?;
        Ok(self.written)
    }
}

/// An archive that comes out of a pipe.
#[derive(Debug)]
pub struct Unpacker {
    pipe: pipe::Receiver,
    begun: bool,
}

/// What is no archive of Tank's own.
pub(crate) fn wrong(what: impl Into<String>) -> Error {
    Error::Packed(what.into())
}

impl Unpacker {
    /// # Errors
    /// What the kernel gives.
    pub fn new(pipe: std::os::fd::OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(pipe)?,
            begun: false,
        })
    }

    /// Reads at most as many bytes as there is room for; none: the end.
    async fn some(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let limit = if self.begun { PATIENCE } else { FIRST_BYTES };
        let read = timeout(limit, self.pipe.read(into)).await;
        let read = read.unwrap_or_else(|_| {
            let why = format!("nothing has come for {} s", limit.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        });
        self.begun = true;
        read.attempt(|| "read the archive".to_owned())
    }

    /// Fills all of it; how much there was.
    async fn fill(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.some(rest).await? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// Reads the header of the next file, which has to be called so and have at most so many bytes: how many.
    ///
    /// # Errors
    /// It is another one, or none.
    pub(crate) async fn begin(&mut self, name: &str, most: u64) -> Result<u64, Error> {
        let mut block = [0; BLOCK];
        let is_first = !self.begun;
        let filled = self.fill(&mut block).await?;
        if is_first {
            if let Some(with) = packed_with(&block) {
                return Err(Error::PackedWith(with));
            }
            if filled == 0 {
                return Err(wrong("nothing came"));
            }
        }
        if filled < BLOCK {
            return Err(wrong(format!("it ends where `{name}` has to stand")));
        }
        let size = size_of(&block).filter(|size| head(name, *size) == block);
        let Some(size) = size else {
            let what = match block.iter().all(|byte| *byte == 0) {
                true => "its end".to_owned(),
                false => shown(&block),
            };
            return Err(wrong(format!("where `{name}` has to stand is {what}")));
        };
        if size > most {
            let why = format!("`{name}` has {size} bytes, and {most} are the most");
            return Err(wrong(why));
        }
        Ok(size)
    }

    /// Reads the next bytes of a file of which `left` are left.
    pub(crate) async fn content(&mut self, left: u64, into: &mut [u8]) -> Result<usize, Error> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        match self.some(into.get_mut(..most).unwrap_or_default()).await? {
            0 => Err(wrong("it ends in the middle of a file")),
            read => Ok(read),
        }
    }

    /// Reads what fills the last block of a file of so many bytes.
    pub(crate) async fn pad(&mut self, size: u64) -> Result<(), Error> {
        self.zeros(padding(size)).await
    }

    async fn zeros(&mut self, count: usize) -> Result<(), Error> {
        let mut block = [0; 2 * BLOCK];
        let block = block.get_mut(..count).unwrap_or_default();
        if self.fill(block).await? < count {
            return Err(wrong("it ends too early"));
        }
        match block.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(wrong("something stands where nothing belongs")),
        }
    }

    /// Reads a file whole, which has to be called so and have at most so many bytes.
    ///
    /// # Errors
    /// It is another one, or none.
    pub async fn file(&mut self, name: &str, most: u64) -> Result<Vec<u8>, Error> {
        let size = self.begin(name, most).await?;
        let length = usize::try_from(size).map_err(|_| wrong("a file is too long"))?;
        // Memory is taken as it comes.
        let mut content = Vec::new();
        let mut piece = vec![0; PIECE];
        while content.len() < length {
            let left = (length - content.len()) as u64;
            let read = self.content(left, &mut piece).await?;
            content.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
        self.pad(size).await?;
        Ok(content)
    }

    /// Reads the end, behind which nothing may stand.
    ///
    /// # Errors
    /// It is not the end.
    pub async fn end(&mut self) -> Result<(), Error> {
        self.zeros(2 * BLOCK).await?;
        let mut byte = [0];
        match self.some(&mut byte).await? {
            0 => Ok(()),
            _ => Err(wrong("something stands behind its end")),
        }
    }
}

/// The program that unpacks what begins so.
fn packed_with(begin: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"\xfd7zX", "xz"),
        (b"BZh", "bzip2"),
    ];
    let found = known.iter().find(|(magic, _)| begin.starts_with(magic));
    found.map(|(_, program)| *program)
}

/// The name that a header says, as far as it may be shown.
fn shown(block: &[u8; BLOCK]) -> String {
    let name = block.split(|byte| *byte == 0).next().unwrap_or_default();
    let name: String = name
        .iter()
        .take(100)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect();
    format!("something else, `{name}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_others_read_and_says_its_size() {
        for size in [0, 1, MAX_OCTAL, MAX_OCTAL + 1, 1 << 40] {
            let block = head("blobs/sha256/0", size);
            assert_eq!(size_of(&block), Some(size));
            let mut parser = tank_layer::archive::Archive::new(&block[..]);
            let member = parser.advance().expect("a header").expect("a member");
            assert_eq!(
                (member.size, member.path),
                (size, b"blobs/sha256/0".to_vec())
            );
            assert_eq!((member.mode, member.owner), (0o644, (0, 0)));
        }
    }
}
