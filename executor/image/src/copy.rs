//! Copying a tree of which every byte is somebody else's choice into an empty directory of Tank's own.
//!
//! Neither side may change meanwhile: what is read is a
//! read-only mount of Tank's own, and nobody else can enter what is written. Devices and sockets are
//! left out, as are the set-user-id and set-group-id bits of files, and every attribute that is not
//! a user's (`user.`): what is written belongs to whom it did, and gives nobody anything.

use crate::{
    attributes,
    pairs::{self, Copying, Entry, Level, Links, times},
};
use rustix::fs::{FileType, Mode, SeekFrom, Stat, Timestamps};
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};
use tank_layer::budget::Budget;

/// How many ids a container has. What belongs to another one is nobody's there, and in the copy.
const IDS: u32 = 65_536;
const NOBODY: u32 = 65_534;

/// The bytes that are copied at once. As many zeros in a row are a hole.
const PIECE: usize = 128 << 10;

/// What a file system does not take of a file's attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Untaken {
    /// Is an error: all of it is wanted.
    Fails,
    /// Is left out.
    LeftOut,
}

/// Copies what is in the directory `from` into the empty directory `into`, and gives that the owner,
/// the mode and the times of `from`: how many entries there were. Blocking.
///
/// # Errors
/// What the kernel gives, or the budget refuses. What was copied by then stays.
pub(crate) fn tree(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    budget: &Budget,
    untaken: Untaken,
) -> io::Result<u64> {
    let mut copy = Copy {
        budget,
        untaken,
        links: Links::new(into)?,
        buffer: vec![0; PIECE],
        zeros: vec![0; PIECE],
    };
    pairs::walk(from, into, budget, &mut copy)
}

struct Copy<'b> {
    budget: &'b Budget,
    untaken: Untaken,
    links: Links,
    buffer: Vec<u8>,
    zeros: Vec<u8>,
}

impl Copying for Copy<'_> {
    // Overlay lists those of a directory that only one layer has.
    const HAS_WHITEOUTS: bool = true;

    fn begin(&mut self, _from: &OwnedFd, _into: &OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        match FileType::from_raw_mode(entry.stat.st_mode) {
            FileType::RegularFile => return self.file(entry),
            FileType::Symlink => entry.symlink()?,
            FileType::Fifo => entry.special(FileType::Fifo)?,
            _ => return Ok(()),
        }
        entry.own(known_ids(entry.stat), &changed(entry.stat))
    }

    fn end(&mut self, level: &Level) -> io::Result<()> {
        self.attributes(&level.from, &level.into)?;
        own(&level.into, &level.stat, 0o3777)
    }
}

impl Copy<'_> {
    fn file(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if self.links.link(entry)? {
            return Ok(());
        }
        let (from, into) = (entry.open()?, entry.create()?);
        let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
        self.budget.bytes(size)?;
        self.content(&from, &into, size)?;
        self.attributes(&from, &into)?;
        own(&into, entry.stat, 0o1777)
    }

    fn content(&mut self, from: &OwnedFd, into: &OwnedFd, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = rustix::io::read(from, &mut self.buffer[..most])?;
            let piece = &self.buffer[..read];
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.zeros.starts_with(piece) {
                rustix::fs::seek(into, SeekFrom::Current(read as i64))?;
            } else {
                write_all(into, piece)?;
            }
            left -= read as u64;
            self.budget.space()?;
        }
        Ok(rustix::fs::ftruncate(into, size)?)
    }

    /// Gives a file the attributes of another that users may set.
    fn attributes(&self, from: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
        let set = match self.untaken {
            Untaken::Fails => attributes::set,
            Untaken::LeftOut => attributes::set_if_possible,
        };
        let mut all = attributes::of_users(from)?.into_iter();
        all.try_for_each(|(name, value)| set(into, &name, &value))
    }
}

fn write_all(into: &OwnedFd, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match rustix::io::write(into, piece)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => piece = piece.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The ids of a container for what may be no id of one.
pub(crate) fn known_ids(stat: &Stat) -> (u32, u32) {
    let known = |id: u32| if id < IDS { id } else { NOBODY };
    (known(stat.st_uid), known(stat.st_gid))
}

/// When it was changed, as both of its times.
fn changed(stat: &Stat) -> Timestamps {
    let Timestamps {
        last_modification, ..
    } = times(stat);
    Timestamps {
        last_access: last_modification,
        last_modification,
    }
}

/// Gives a file or a directory its owner, those bits of its mode, and its times.
fn own(into: &OwnedFd, stat: &Stat, bits: u32) -> io::Result<()> {
    let (user, group) = pairs::ids(known_ids(stat));
    rustix::fs::fchown(into, user, group)?;
    rustix::fs::fchmod(into, Mode::from_raw_mode(stat.st_mode & bits))?;
    Ok(rustix::fs::futimens(into, &changed(stat))?)
}
