//! The names of an image, while it is written.

use crate::{format::Kind, writer::Attributes, writer::Nid};
use std::collections::BTreeMap;

/// A directory of a [`Tree`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DirId(u32);

impl DirId {
    /// The root.
    pub const ROOT: Self = Self(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A directory.
    Directory(DirId),
    /// Something else, that is written already.
    Inode(Nid, Kind),
}

/// A directory while its image is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    pub attributes: Attributes,
    pub entries: BTreeMap<Box<[u8]>, Entry>,
}

/// The names of an image: directories, and what is in them.
#[derive(Clone, Debug)]
pub struct Tree {
    directories: Vec<Directory>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(Attributes::default())
    }
}

impl Tree {
    /// One whose root has these attributes, and nothing in it.
    pub fn new(root: Attributes) -> Self {
        Self {
            directories: vec![Directory {
                attributes: root,
                entries: BTreeMap::new(),
            }],
        }
    }

    /// What a directory has under a name.
    pub fn get(&self, dir: DirId, name: &[u8]) -> Option<Entry> {
        self.directories[dir.index()].entries.get(name).copied()
    }

    /// Whether a directory has nothing in it.
    pub fn is_empty(&self, dir: DirId) -> bool {
        self.directories[dir.index()].entries.is_empty()
    }

    /// Gives what is written a name, and returns what had it. A name is neither `.` nor `..`, not
    /// empty, without a slash, and no longer than [`MAX_NAME`](crate::MAX_NAME).
    pub fn insert(&mut self, dir: DirId, name: &[u8], entry: Entry) -> Option<Entry> {
        self.directories[dir.index()]
            .entries
            .insert(name.into(), entry)
    }

    /// Takes a name away.
    pub fn remove(&mut self, dir: DirId, name: &[u8]) -> Option<Entry> {
        self.directories[dir.index()].entries.remove(name)
    }

    /// A new directory, in place of what had its name.
    pub fn make_dir(&mut self, parent: DirId, name: &[u8], attributes: Attributes) -> DirId {
        // A name takes more bytes than this has numbers for, long before it has none.
        let id = DirId(u32::try_from(self.directories.len()).unwrap_or(u32::MAX));
        self.directories.push(Directory {
            attributes,
            entries: BTreeMap::new(),
        });
        self.insert(parent, name, Entry::Directory(id));
        id
    }

    /// The attributes of a directory.
    pub fn attributes(&mut self, dir: DirId) -> &mut Attributes {
        &mut self.directories[dir.index()].attributes
    }

    pub(crate) fn directory(&self, dir: DirId) -> &Directory {
        &self.directories[dir.index()]
    }

    /// The directories that the root leads to, each behind its parent, which is given with it.
    pub(crate) fn walk(&self) -> Vec<(DirId, DirId)> {
        let mut found = vec![(DirId::ROOT, DirId::ROOT)];
        let mut next = 0;
        while let Some((dir, _)) = found.get(next).copied() {
            next += 1;
            let entries = self.directory(dir).entries.values();
            let below = entries.filter_map(|entry| match entry {
                Entry::Directory(child) => Some((*child, dir)),
                Entry::Inode(..) => None,
            });
            found.extend(below);
        }
        found
    }
}
