//! Content and inodes as they come, and the directories in the end.

use crate::{
    content::Content,
    directories::Planned,
    format::{
        BLOCK, BLOCK_BITS, EXTENDED, FLAT_INLINE, FLAT_PLAIN, INODE_LENGTH, Kind, LAYOUT_SHIFT,
        MAGIC, ROOT, SLOT, SUPERBLOCK, SUPERBLOCK_LENGTH, Time, XATTR_ENTRY, XATTR_HEADER,
        XATTR_PREFIXES,
    },
    tree::{DirId, Tree},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt,
};

/// The bytes that are kept back before they are written: one call for many small files.
const BUFFER: usize = 1 << 20;

/// The shortest hole that is left as one, in bytes.
const SHORTEST_HOLE: u64 = 32 << 10;

/// The number of an inode that is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nid(pub(crate) u64);

/// What every inode has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// The permissions, with set-user-id, set-group-id and the sticky bit.
    pub mode: u16,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// When its content was changed last.
    pub modified: Time,
    /// Its extended attributes (xattr(7)), by their whole names. One of a name that does not begin as
    /// EROFS can say it (`user.`, `trusted.`, `security.`) is left out.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Where an image goes: an empty file, or who passes on what is written to one.
pub trait Output {
    /// Writes bytes at a place, which may lie behind the end.
    ///
    /// # Errors
    /// What writing gives.
    fn write_all_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Says how long the image is.
    ///
    /// # Errors
    /// What the file system gives.
    fn set_len(&mut self, length: u64) -> io::Result<()>;
}

impl Output for File {
    fn write_all_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        Self::set_len(self, length)
    }
}

/// Writes an image.
#[derive(Debug)]
pub struct Writer<O = File> {
    output: O,
    /// What is not written yet, and where it belongs. The image ends with it, always at a block's
    /// beginning.
    buffer: Vec<u8>,
    begin: u64,
    /// The block that takes inodes, and where it will be.
    open: Option<(u64, Vec<u8>)>,
    inodes: u64,
    /// How often inodes are named that are named more than once, or by now never.
    links: HashMap<Nid, u32>,
}

impl<O: Output> Writer<O> {
    /// Begins an image.
    pub fn new(output: O) -> Self {
        Self {
            output,
            // The superblock and the root, which are patched in the end.
            buffer: vec![0; BLOCK as usize],
            begin: 0,
            open: None,
            inodes: 0,
            links: HashMap::new(),
        }
    }

    /// Begins a file of `size` bytes.
    ///
    /// # Errors
    /// What writing gives.
    pub fn content(&mut self, size: u64, attributes: &Attributes) -> io::Result<Content<'_, O>> {
        let head = INODE_LENGTH as u64 + xattrs(attributes).len() as u64;
        let tail = size % BLOCK;
        let is_inline = tail > 0 && head + tail <= BLOCK;
        let whole = if is_inline { size - tail } else { size };
        // What was begun before may have been given up.
        self.align()?;
        let first = self.end() / BLOCK;
        Ok(Content::new(self, size, whole, first))
    }

    /// Writes an inode without content: a pipe, or a device of number 0:0.
    ///
    /// # Errors
    /// What writing gives.
    pub fn special(&mut self, kind: Kind, attributes: &Attributes) -> io::Result<Nid> {
        self.inode(kind, attributes, 0, 0, &[])
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// What writing gives.
    pub fn symlink(&mut self, target: &[u8], attributes: &Attributes) -> io::Result<Nid> {
        let mut content = self.content(target.len() as u64, attributes)?;
        content.write(target)?;
        content.finish(Kind::Symlink, attributes)
    }

    /// Counts a name of an inode beside its first.
    pub fn add_link(&mut self, of: Nid) {
        *self.links.entry(of).or_insert(1) += 1;
    }

    /// Counts a name less.
    pub fn remove_link(&mut self, of: Nid) {
        let count = self.links.entry(of).or_insert(1);
        *count = count.saturating_sub(1);
    }

    /// Where the next block comes to lie.
    pub(crate) fn end(&self) -> u64 {
        self.begin + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.write_all_at(&self.buffer, self.begin)?;
        self.begin = self.end();
        self.buffer.clear();
        Ok(())
    }

    /// Appends bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= BUFFER {
            self.flush()?;
            self.output.write_all_at(bytes, self.begin)?;
            self.begin += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Appends zeros: many are a hole.
    pub(crate) fn append_hole(&mut self, length: u64) -> io::Result<()> {
        if length >= SHORTEST_HOLE {
            self.flush()?;
            self.begin += length;
            return Ok(());
        }
        let end = self.buffer.len() + length as usize;
        self.buffer.resize(end, 0);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Fills the last block.
    pub(crate) fn align(&mut self) -> io::Result<()> {
        self.append_hole(self.end().next_multiple_of(BLOCK) - self.end())
    }

    /// Writes over what was appended.
    pub(crate) fn patch(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let in_buffer = at
            .checked_sub(self.begin)
            .and_then(|from| usize::try_from(from).ok())
            .and_then(|from| self.buffer.get_mut(from..from.checked_add(bytes.len())?));
        match in_buffer {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => {
                // No part of it may stand in the buffer, which would be written over it.
                if at + bytes.len() as u64 > self.begin {
                    self.flush()?;
                }
                self.output.write_all_at(bytes, at)
            }
        }
    }

    /// A place for an inode and what stands beside it, which crosses no block that it need not cross.
    pub(crate) fn place(&mut self, bytes: &[u8]) -> io::Result<u64> {
        if let Some((at, block)) = &mut self.open
            && block.len() + bytes.len() <= BLOCK as usize
        {
            let place = *at + block.len() as u64;
            block.extend_from_slice(bytes);
            block.resize(block.len().next_multiple_of(SLOT as usize), 0);
            return Ok(place);
        }
        self.close_block()?;
        self.align()?;
        let at = self.end();
        // Its place is kept: content comes to lie behind it.
        self.append_hole((bytes.len() as u64).next_multiple_of(BLOCK))?;
        if bytes.len() as u64 > BLOCK {
            self.patch(at, bytes)?;
        } else {
            let mut block = bytes.to_vec();
            block.resize(block.len().next_multiple_of(SLOT as usize), 0);
            self.open = Some((at, block));
        }
        Ok(at)
    }

    fn close_block(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((at, block)) => self.patch(at, &block),
            None => Ok(()),
        }
    }

    /// Writes an inode, whose whole blocks begin at block `first`, with the rest of its content.
    pub(crate) fn inode(
        &mut self,
        kind: Kind,
        attributes: &Attributes,
        size: u64,
        first: u64,
        tail: &[u8],
    ) -> io::Result<Nid> {
        let mut bytes = self.head(kind, attributes, (size, first), (!tail.is_empty(), 1))?;
        bytes.extend_from_slice(tail);
        Ok(Nid(self.place(&bytes)? / SLOT))
    }

    /// An inode with its attributes.
    pub(crate) fn head(
        &mut self,
        kind: Kind,
        attributes: &Attributes,
        (size, first): (u64, u64),
        (is_inline, links): (bool, u32),
    ) -> io::Result<Vec<u8>> {
        self.inodes += 1;
        let xattrs = xattrs(attributes);
        let layout = if is_inline { FLAT_INLINE } else { FLAT_PLAIN };
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let count = xattr_count(&xattrs).ok_or_else(too_large)?;
        let first = u32::try_from(first).map_err(|_| too_large())?;
        let mut bytes = Vec::with_capacity(INODE_LENGTH + xattrs.len());
        bytes.extend((EXTENDED | layout << LAYOUT_SHIFT).to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend((kind.bits() | attributes.mode & 0o7777).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(size.to_le_bytes());
        bytes.extend(first.to_le_bytes());
        bytes.extend((self.inodes as u32).to_le_bytes());
        bytes.extend(attributes.uid.to_le_bytes());
        bytes.extend(attributes.gid.to_le_bytes());
        bytes.extend(attributes.modified.seconds.to_le_bytes());
        bytes.extend(attributes.modified.nanoseconds.to_le_bytes());
        bytes.extend(links.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(xattrs);
        Ok(bytes)
    }

    /// Writes the directories, and with them the image is whole. Nothing is synced.
    ///
    /// # Errors
    /// What writing gives; the attributes of the root are more than the first block has room for.
    pub fn finish(mut self, tree: &Tree) -> io::Result<O> {
        let walk = tree.walk();
        let mut plans: HashMap<DirId, Planned> = HashMap::new();
        for (dir, _) in &walk {
            let planned = self.plan(*dir, tree.directory(*dir))?;
            plans.insert(*dir, planned);
        }
        for (dir, parent) in &walk {
            self.directory(tree, *dir, *parent, &plans)?;
        }
        self.close_block()?;
        for (nid, links) in std::mem::take(&mut self.links) {
            let at = nid.0 * SLOT + 44;
            self.patch(at, &links.max(1).to_le_bytes())?;
        }
        let superblock = self.superblock();
        self.patch(SUPERBLOCK, &superblock)?;
        self.flush()?;
        // The last may be a hole.
        self.output.set_len(self.end())?;
        Ok(self.output)
    }

    fn superblock(&self) -> [u8; SUPERBLOCK_LENGTH] {
        let mut bytes = [0; SUPERBLOCK_LENGTH];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &(ROOT as u16).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &((self.end() / BLOCK) as u32).to_le_bytes());
        bytes
    }

    /// As [`Writer::patch`], of an inode that may stand in the open block.
    pub(crate) fn patch_inode(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let in_open = self.open.as_mut().and_then(|(begin, block)| {
            let from = usize::try_from(at.checked_sub(*begin)?).ok()?;
            block.get_mut(from..from.checked_add(bytes.len())?)
        });
        match in_open {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => self.patch(at, bytes),
        }
    }
}

/// The attributes as they stand behind an inode; empty where there are none.
pub(crate) fn xattrs(attributes: &Attributes) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in &attributes.xattrs {
        let mut prefixes = XATTR_PREFIXES.iter();
        let known =
            prefixes.find_map(|(number, prefix)| Some((number, name.strip_prefix(*prefix)?)));
        let Some((number, rest)) = known else {
            continue;
        };
        let (Ok(length), Ok(size)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            continue;
        };
        if bytes.is_empty() {
            bytes.resize(XATTR_HEADER, 0);
        }
        bytes.extend([length, *number]);
        bytes.extend(size.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(XATTR_ENTRY), 0);
    }
    bytes
}

/// `i_xattr_icount`: the words behind the header, and one. None: too many.
fn xattr_count(bytes: &[u8]) -> Option<u16> {
    match bytes.len().checked_sub(XATTR_HEADER) {
        None => Some(0),
        Some(words) => u16::try_from(words / XATTR_ENTRY + 1).ok(),
    }
}
