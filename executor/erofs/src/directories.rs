//! The directories of an image: their inodes, and their entries.

use crate::{
    format::{BLOCK, DIRENT, INODE_LENGTH, Kind, ROOT, SLOT},
    tree::{DirId, Directory, Entry, Tree},
    writer::{Output, Writer, xattrs},
};
use std::{collections::HashMap, io};

/// Where a directory comes to lie.
pub(crate) struct Planned {
    at: u64,
    first: u64,
    size: u64,
    is_inline: bool,
}

impl<O: Output> Writer<O> {
    /// Keeps the places of a directory's inode and entries.
    pub(crate) fn plan(&mut self, dir: DirId, directory: &Directory) -> io::Result<Planned> {
        let (blocks, last) = measure(directory);
        let head = INODE_LENGTH + xattrs(&directory.attributes).len();
        let is_root = dir == DirId::ROOT;
        let is_inline = !is_root && last > 0 && head + last <= BLOCK as usize;
        let length = head + if is_inline { last } else { 0 };
        let at = if is_root {
            let at = ROOT * SLOT;
            if at + length as u64 > BLOCK {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            at
        } else {
            self.place(&vec![0; length])?
        };
        let whole = blocks + u64::from(last > 0 && !is_inline);
        let first = self.end();
        self.append_hole(whole * BLOCK)?;
        Ok(Planned {
            at,
            first: first / BLOCK,
            size: blocks * BLOCK + last as u64,
            is_inline,
        })
    }

    /// Writes a directory where its place is kept.
    pub(crate) fn directory(
        &mut self,
        tree: &Tree,
        dir: DirId,
        parent: DirId,
        plans: &HashMap<DirId, Planned>,
    ) -> io::Result<()> {
        let directory = tree.directory(dir);
        let (Some(own), Some(above)) = (plans.get(&dir), plans.get(&parent)) else {
            return Ok(());
        };
        let is_dir = |entry: &&Entry| matches!(entry, Entry::Directory(_));
        let below = directory.entries.values().filter(is_dir).count();
        let links = u32::try_from(below).unwrap_or(u32::MAX - 2) + 2;
        let place = (own.size, own.first);
        let mut head = self.head(
            Kind::Directory,
            &directory.attributes,
            place,
            (own.is_inline, links),
        )?;
        let content = entries(directory, own.at / SLOT, above.at / SLOT, plans);
        let whole = if own.is_inline {
            own.size / BLOCK * BLOCK
        } else {
            own.size
        };
        let (blocks, tail) = content.split_at(usize::try_from(whole).unwrap_or(usize::MAX));
        self.patch(own.first * BLOCK, blocks)?;
        head.extend_from_slice(tail);
        self.patch_inode(own.at, &head)
    }
}

/// The names of a directory with those that every one has, in the order in which they stand.
fn names(directory: &Directory) -> impl Iterator<Item = (&[u8], Option<Entry>)> {
    const EVERY: [&[u8]; 2] = [b".", b".."];
    let own = directory.entries.iter();
    let mut own = own.map(|(name, entry)| (&**name, Some(*entry))).peekable();
    let mut every = EVERY.into_iter().peekable();
    std::iter::from_fn(move || {
        let every_first = match (every.peek(), own.peek()) {
            (Some(every), Some((name, _))) => every < name,
            (every, _) => every.is_some(),
        };
        if every_first {
            every.next().map(|name| (name, None))
        } else {
            own.next()
        }
    })
}

/// The whole blocks that a directory's entries take, and the bytes of the last one.
fn measure(directory: &Directory) -> (u64, usize) {
    let (mut blocks, mut used) = (0, 0);
    for (name, _) in names(directory) {
        let length = DIRENT + name.len();
        if used + length > BLOCK as usize {
            blocks += 1;
            used = 0;
        }
        used += length;
    }
    if used == BLOCK as usize {
        return (blocks + 1, 0);
    }
    (blocks, used)
}

/// The entries of a directory as they stand in its blocks: in each first the entries, then their names.
fn entries(
    directory: &Directory,
    own: u64,
    parent: u64,
    plans: &HashMap<DirId, Planned>,
) -> Vec<u8> {
    let mut content = Vec::new();
    let mut block: Vec<(&[u8], u64, Kind)> = Vec::new();
    let mut used = 0;
    for (name, entry) in names(directory) {
        let (nid, kind) = match entry {
            None if name.len() == 1 => (own, Kind::Directory),
            None => (parent, Kind::Directory),
            Some(Entry::Inode(nid, kind)) => (nid.0, kind),
            Some(Entry::Directory(dir)) => {
                let at = plans.get(&dir).map_or(0, |plan| plan.at);
                (at / SLOT, Kind::Directory)
            }
        };
        let length = DIRENT + name.len();
        if used + length > BLOCK as usize {
            put_block(&mut content, &block);
            content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
            block.clear();
            used = 0;
        }
        used += length;
        block.push((name, nid, kind));
    }
    put_block(&mut content, &block);
    content
}

fn put_block(content: &mut Vec<u8>, block: &[(&[u8], u64, Kind)]) {
    let mut name_at = block.len() * DIRENT;
    for (name, nid, kind) in block {
        content.extend(nid.to_le_bytes());
        content.extend((name_at as u16).to_le_bytes());
        content.extend([kind.number(), 0]);
        name_at += name.len();
    }
    content.extend(block.iter().flat_map(|(name, ..)| *name));
}
