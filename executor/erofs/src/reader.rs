//! Reading an image without mounting it. Whatever the file has, an answer is an error or of bounded
//! size, and comes in bounded time.

use crate::{
    format::{
        BLOCK, BLOCK_BITS, DIRENT, EXTENDED, FLAT_INLINE, FLAT_PLAIN, INODE_LENGTH, Kind,
        LAYOUT_SHIFT, MAGIC, SLOT, SUPERBLOCK, SUPERBLOCK_LENGTH, Time, XATTR_ENTRY, XATTR_HEADER,
        XATTR_PREFIXES,
    },
    writer::{Attributes, Nid},
};
use std::{fs::File, io, os::unix::fs::FileExt};

/// The most bytes of the attributes of an inode.
const MAX_XATTRS: usize = XATTR_HEADER + XATTR_ENTRY * u16::MAX as usize;

/// The longest target of a symbolic link.
const MAX_TARGET: u64 = 4096;

/// An image, by its file.
#[derive(Debug)]
pub struct Image {
    file: File,
    root: Nid,
}

/// An inode of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// The length of its content, in bytes.
    pub size: u64,
    /// How many names it has.
    pub links: u32,
    /// The number of a device, as the kernel keeps it.
    pub device: u32,
    /// Whose it is, and what may be done with it.
    pub attributes: Attributes,
    first: u64,
    /// Where what stands beside the inode begins, and how many bytes of the content stand in blocks.
    tail: Option<(u64, u64)>,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no EROFS image: {what}"),
    )
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        out.copy_from_slice(found);
    }
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

impl Image {
    /// Takes a file for an image.
    ///
    /// # Errors
    /// It is none, or none of this form; what reading gives.
    pub fn open(file: File) -> io::Result<Self> {
        let mut bytes = [0; SUPERBLOCK_LENGTH];
        file.read_exact_at(&mut bytes, SUPERBLOCK)?;
        if u32_at(&bytes, 0) != MAGIC {
            return Err(broken("the magic number is another one"));
        }
        if bytes[12] != BLOCK_BITS || u32_at(&bytes, 40) != 0 || u32_at(&bytes, 80) != 0 {
            return Err(broken("its form is not the one that is read here"));
        }
        let root = Nid(u64::from(u16_at(&bytes, 14)));
        Ok(Self { file, root })
    }

    /// The root's number.
    pub fn root(&self) -> Nid {
        self.root
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// There is none, or none of this form; what reading gives.
    pub fn inode(&self, nid: Nid) -> io::Result<Inode> {
        let at = nid.0.checked_mul(SLOT);
        let at = at.ok_or_else(|| broken("an inode is nowhere"))?;
        let mut bytes = [0; INODE_LENGTH];
        self.file.read_exact_at(&mut bytes, at)?;
        let (format, mode) = (u16_at(&bytes, 0), u16_at(&bytes, 4));
        let layout = format >> LAYOUT_SHIFT;
        if format & EXTENDED == 0 || ![FLAT_PLAIN, FLAT_INLINE].contains(&layout) {
            return Err(broken("an inode has another form"));
        }
        let kind =
            Kind::of_mode(mode).ok_or_else(|| broken("an inode is nothing that is known"))?;
        let (size, value) = (u64_at(&bytes, 8), u32_at(&bytes, 16));
        let behind = at + INODE_LENGTH as u64;
        let (xattrs, length) = self.xattrs(behind, u16_at(&bytes, 2))?;
        let is_inline = layout == FLAT_INLINE;
        let in_blocks = size.saturating_sub(1) / BLOCK * BLOCK;
        Ok(Inode {
            kind,
            size,
            links: u32_at(&bytes, 44),
            device: match kind {
                Kind::CharacterDevice | Kind::BlockDevice => value,
                _ => 0,
            },
            attributes: Attributes {
                mode: mode & 0o7777,
                uid: u32_at(&bytes, 24),
                gid: u32_at(&bytes, 28),
                modified: Time {
                    seconds: i64::from_le_bytes(number(&bytes, 32)),
                    nanoseconds: u32_at(&bytes, 40),
                },
                xattrs,
            },
            first: u64::from(value) * BLOCK,
            tail: is_inline.then_some((behind + length, in_blocks)),
        })
    }

    /// The attributes behind an inode, and the bytes they take.
    fn xattrs(&self, at: u64, count: u16) -> io::Result<(Xattrs, u64)> {
        let mut found = Xattrs::new();
        if count == 0 {
            return Ok((found, 0));
        }
        let length = XATTR_HEADER + XATTR_ENTRY * (usize::from(count) - 1);
        let mut bytes = vec![0; length.min(MAX_XATTRS)];
        self.file.read_exact_at(&mut bytes, at)?;
        if bytes[4] != 0 {
            return Err(broken("attributes are shared"));
        }
        let mut rest = &bytes[XATTR_HEADER..];
        while rest.len() >= XATTR_ENTRY {
            let (name, prefix) = (usize::from(rest[0]), rest[1]);
            let value = usize::from(u16_at(rest, 2));
            let end = XATTR_ENTRY + name + value;
            let (Some(name), Some(value)) = (
                rest.get(XATTR_ENTRY..XATTR_ENTRY + name),
                rest.get(XATTR_ENTRY + name..end),
            ) else {
                return Err(broken("an attribute is longer than all of them"));
            };
            let mut prefixes = XATTR_PREFIXES.iter();
            if let Some((_, prefix)) = prefixes.find(|(number, _)| *number == prefix) {
                found.insert([prefix, name].concat(), value.to_vec());
            }
            rest = rest.get(end.next_multiple_of(XATTR_ENTRY)..).unwrap_or(&[]);
        }
        Ok((found, length as u64))
    }

    /// Reads the content of an inode from an offset on, as much as there is and fits.
    ///
    /// # Errors
    /// What reading gives.
    pub fn read_at(&self, inode: &Inode, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = inode.size.saturating_sub(offset);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let into = &mut into[..most];
        if into.is_empty() {
            return Ok(0);
        }
        match inode.tail {
            Some((at, from)) if offset >= from => {
                self.file
                    .read_exact_at(into, at.saturating_add(offset - from))?;
                Ok(into.len())
            }
            tail => {
                let whole = tail.map_or(inode.size, |(_, from)| from) - offset;
                let most = usize::try_from(whole).unwrap_or(usize::MAX).min(into.len());
                let at = inode.first.saturating_add(offset);
                self.file.read_exact_at(&mut into[..most], at)?;
                Ok(most)
            }
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// What reading gives; it is longer than a path may be.
    pub fn target(&self, inode: &Inode) -> io::Result<Vec<u8>> {
        if inode.size > MAX_TARGET {
            return Err(broken("a link is longer than a path may be"));
        }
        let mut bytes = vec![0; inode.size as usize];
        let mut read = 0;
        while read < bytes.len() {
            read += self.read_at(inode, &mut bytes[read..], read as u64)?;
        }
        Ok(bytes)
    }

    /// What a directory has, in the order of the names, without itself and its parent.
    ///
    /// # Errors
    /// What reading gives; it is no directory.
    pub fn entries(&self, dir: &Inode) -> io::Result<Vec<(Vec<u8>, Nid, Kind)>> {
        let mut found = Vec::new();
        self.each_entry(dir, |name, nid, kind| {
            if name != b"." && name != b".." {
                found.push((name.to_vec(), nid, kind));
            }
            true
        })?;
        Ok(found)
    }

    /// What a directory has under a name.
    ///
    /// # Errors
    /// As [`Image::entries`].
    pub fn find(&self, dir: &Inode, wanted: &[u8]) -> io::Result<Option<Nid>> {
        let mut found = None;
        self.each_entry(dir, |name, nid, _| {
            if name == wanted {
                found = Some(nid);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// Gives each entry of a directory for as long as it is asked for the next.
    fn each_entry(
        &self,
        dir: &Inode,
        mut each: impl FnMut(&[u8], Nid, Kind) -> bool,
    ) -> io::Result<()> {
        if dir.kind != Kind::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut block = [0; BLOCK as usize];
        let mut offset = 0;
        while offset < dir.size {
            let most = (dir.size - offset).min(BLOCK) as usize;
            let mut read = 0;
            while read < most {
                read += self.read_at(dir, &mut block[read..most], offset + read as u64)?;
            }
            let block = &block[..most];
            let names = usize::from(u16_at(block, 8));
            if names < DIRENT || names > most || !names.is_multiple_of(DIRENT) {
                return Err(broken("a directory's block has no entries"));
            }
            for at in (0..names).step_by(DIRENT) {
                let begin = usize::from(u16_at(block, at + 8));
                let is_last = at + DIRENT == names;
                let end = if is_last {
                    most
                } else {
                    usize::from(u16_at(block, at + DIRENT + 8))
                };
                let name = block.get(begin..end);
                let name = name.ok_or_else(|| broken("a name is outside its block"))?;
                // Behind the last one are zeros.
                let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
                let kind = Kind::of_number(block[at + 10]);
                let kind = kind.ok_or_else(|| broken("an entry is nothing that is known"))?;
                if !each(name, Nid(u64_at(block, at)), kind) {
                    return Ok(());
                }
            }
            offset += BLOCK;
        }
        Ok(())
    }
}

type Xattrs = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;
