//! A layer, entry by entry, in memory but for its content. See [`crate`] for what an entry may be.
//!
//! Device nodes are left out: a container's devices are Tank's to give. Whiteouts become overlay's: a
//! character device 0:0, and `trusted.overlay.opaque` (OCI image specification, "layer", and the
//! kernel's overlayfs documentation), and hide what lies below, never what the same layer has.

use crate::{
    EntryError,
    archive::{Archive, Member},
    below::{Below, OPAQUE},
    budget::Budget,
    error::MAX_DEPTH,
    names::{refuse_unusable, unescape},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};
use tank_erofs::{
    Attributes, Content, DirId, Entry, Kind, MAX_NAME, Nid, Output, Time, Tree, Writer,
};
use tar_core::EntryType;

/// The longest path, and where a link may lead, in bytes (PATH_MAX, with its end).
const MAX_PATH: usize = 4096;

/// How many links are followed on one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The bytes that are copied between two looks at the budget.
pub(crate) const PIECE: usize = 128 << 10;

/// The entries between two looks at the disk.
const LOOK: u64 = 64;

/// A relative path without `.`, `..` and empty components.
///
/// # Errors
/// When it climbs, or is too long or too deep.
pub fn clean(bytes: &[u8]) -> Result<PathBuf, EntryError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut clean = PathBuf::new();
    let mut depth = 0;
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                if part.len() > MAX_NAME {
                    return Err(EntryError::LongName);
                }
                depth += 1;
                clean.push(part);
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(EntryError::Climbs(path.to_owned()));
            }
        }
    }
    if bytes.len() > MAX_PATH || depth > MAX_DEPTH || bytes.contains(&0) {
        return Err(EntryError::LongPath);
    }
    Ok(clean)
}

/// A layer that is being converted.
pub struct Layer<'b, O = File> {
    pub(crate) writer: Writer<O>,
    pub(crate) tree: Tree,
    /// Where symbolic links lead.
    pub(crate) links: HashMap<Nid, Box<[u8]>>,
    /// The one inode that every whiteout is a name of.
    whiteout: Option<Nid>,
    pub(crate) below: Below,
    pub(crate) budget: &'b Budget,
    entries: u64,
    /// The file of a layer below that was copied last, and its copy: many names may be links to it.
    pub(crate) copied: Option<(PathBuf, Entry)>,
    pub(crate) crosses: bool,
    /// What content is copied through.
    pub(crate) buffer: Vec<u8>,
    /// Names of whiteouts are whiteouts.
    hides: bool,
}

/// Why a path leads to no directory.
pub(crate) enum Missed {
    /// It ends before.
    NotFound,
    /// A part of it is something else.
    NotADirectory,
    /// Its links lead in a circle.
    Circle,
}

impl<'b, O: Output> Layer<'b, O> {
    /// One that is written into `output`, on top of those `below`.
    pub fn new(output: O, below: Below, budget: &'b Budget) -> Self {
        Self {
            writer: Writer::new(output),
            tree: Tree::new(Attributes {
                mode: 0o755,
                ..Attributes::default()
            }),
            links: HashMap::new(),
            whiteout: None,
            below,
            budget,
            entries: 0,
            copied: None,
            crosses: false,
            buffer: vec![0; PIECE],
            hides: true,
        }
    }

    /// Has the names of whiteouts be names like others: there are no layers below.
    pub fn hides_nothing(&mut self) {
        self.hides = false;
    }

    /// Writes what is left; whether the layer has something of those below it.
    ///
    /// # Errors
    /// What writing gives.
    pub fn finish(self) -> io::Result<bool> {
        self.writer.finish(&self.tree)?;
        Ok(self.crosses)
    }

    /// The directory that a path leads to, followed as a process with this root directory would, and
    /// those it is in, the root first.
    pub(crate) fn resolve(&self, path: &Path) -> Result<Vec<DirId>, Missed> {
        let mut way = vec![DirId::ROOT];
        let mut left: VecDeque<Vec<u8>> = parts(path.as_os_str().as_bytes()).collect();
        let mut followed = 0;
        while let Some(part) = left.pop_front() {
            let at = way.last().copied().unwrap_or(DirId::ROOT);
            if part == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            match self.tree.get(at, &part) {
                None => return Err(Missed::NotFound),
                Some(Entry::Directory(dir)) => way.push(dir),
                Some(Entry::Inode(nid, Kind::Symlink)) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Err(Missed::Circle);
                    }
                    let target = self.links.get(&nid).map_or(&[][..], |target| target);
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                }
                Some(Entry::Inode(..)) => return Err(Missed::NotADirectory),
            }
        }
        Ok(way)
    }

    /// The directory `path` is in, made with its parents if missing, and the last component.
    ///
    /// # Errors
    /// When the directory is deeper than [`MAX_DEPTH`]: links can lead a short path down far, and
    /// what is deep is slow to reach.
    fn parent<'p>(&mut self, path: &'p Path) -> Result<(DirId, &'p [u8]), EntryError> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput);
        let name = name.map_err(io::Error::from)?.as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        let way = match self.resolve(parent) {
            Ok(way) => way,
            Err(Missed::Circle) => return Err(EntryError::Circle),
            Err(missed) => {
                let (dir, missing) = self.parent(parent)?;
                // The whiteout of a directory makes way for it, here or on the way; a file does not.
                let in_the_way = match self.tree.get(dir, missing) {
                    None | Some(Entry::Inode(_, Kind::CharacterDevice)) => false,
                    Some(_) => matches!(missed, Missed::NotADirectory),
                };
                if in_the_way {
                    return Err(EntryError::NoDirectory);
                }
                self.make_dir(dir, missing);
                match self.resolve(parent) {
                    Ok(way) => way,
                    Err(_) => return Err(EntryError::NoDirectory),
                }
            }
        };
        if way.len() > MAX_DEPTH + 1 {
            return Err(EntryError::Deep);
        }
        Ok((way.last().copied().unwrap_or(DirId::ROOT), name))
    }

    /// Adds one entry.
    ///
    /// # Errors
    /// When it can't be had in this layer, or takes more than the image may.
    pub fn add<R: Read>(
        &mut self,
        path: &Path,
        member: &Member,
        content: &mut Archive<R>,
    ) -> Result<(), EntryError> {
        self.budget.entry()?;
        if self.entries.is_multiple_of(LOOK) {
            self.budget.space()?;
        }
        self.entries += 1;
        let attributes = attributes(member, self.hides)?;
        if path.as_os_str().is_empty() {
            self.set_dir(DirId::ROOT, attributes);
            return Ok(());
        }
        let (dir, name) = self.parent(path)?;
        if self.hides
            && let Some(hidden) = name.strip_prefix(b".wh.")
        {
            return self.hide(dir, hidden);
        }
        let link = || {
            let link = member.link.as_deref().unwrap_or_default();
            let is_good = !link.is_empty() && link.len() < MAX_PATH && !link.contains(&0);
            is_good.then_some(link).ok_or(EntryError::BadLink)
        };
        match member.kind {
            EntryType::Directory => {
                let made = self.make_dir(dir, name);
                self.set_dir(made, attributes);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                self.make_room(dir, name)?;
                let nid = self.file(member, &attributes, content)?;
                self.insert(dir, name, nid, Kind::File);
            }
            EntryType::Symlink => {
                let target = link()?;
                self.make_room(dir, name)?;
                self.symlink(dir, name, target, &attributes)?;
            }
            EntryType::Link => {
                let target = clean(link()?)?;
                if target != path {
                    self.link(&target, dir, name)?;
                }
            }
            EntryType::Fifo => {
                self.make_room(dir, name)?;
                let nid = self.writer.special(Kind::Fifo, &attributes)?;
                self.insert(dir, name, nid, Kind::Fifo);
            }
            // Devices are left out; of others nothing is known.
            _ => {}
        }
        Ok(())
    }

    /// Gives a directory its attributes. What it hides stays hidden.
    fn set_dir(&mut self, dir: DirId, attributes: Attributes) {
        let own = self.tree.attributes(dir);
        let opaque = own.xattrs.remove(OPAQUE);
        *own = attributes;
        own.xattrs
            .extend(opaque.map(|value| (OPAQUE.to_vec(), value)));
    }

    pub(crate) fn insert(&mut self, dir: DirId, name: &[u8], nid: Nid, kind: Kind) {
        self.tree.insert(dir, name, Entry::Inode(nid, kind));
    }

    /// Makes a directory, or takes the one there is. One that takes the place of something else, a
    /// whiteout or an earlier entry of the layer, shows nothing of the layers below: that was hidden
    /// already.
    fn make_dir(&mut self, parent: DirId, name: &[u8]) -> DirId {
        let known = self.tree.get(parent, name);
        if let Some(Entry::Directory(dir)) = known {
            return dir;
        }
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        let made = self.tree.make_dir(parent, name, attributes);
        if let Some(Entry::Inode(nid, _)) = known {
            self.writer.remove_link(nid);
            self.make_opaque(made);
        }
        made
    }

    /// Hides what the layers below have in a directory (the kernel's overlayfs documentation,
    /// "whiteouts and opaque directories").
    fn make_opaque(&mut self, dir: DirId) {
        let xattrs = &mut self.tree.attributes(dir).xattrs;
        xattrs.insert(OPAQUE.to_vec(), b"y".to_vec());
    }

    /// A later entry of the same path replaces the earlier one, unless that is a directory with
    /// something in it.
    pub(crate) fn make_room(&mut self, dir: DirId, name: &[u8]) -> Result<(), EntryError> {
        match self.tree.get(dir, name) {
            Some(Entry::Directory(there)) if !self.tree.is_empty(there) => {
                Err(EntryError::NotEmpty)
            }
            there => {
                if let Some(Entry::Inode(nid, _)) = there {
                    self.writer.remove_link(nid);
                }
                self.tree.remove(dir, name);
                Ok(())
            }
        }
    }

    /// Hides what the layers below have as `hidden`. What this layer has stays, whichever entry comes
    /// first (OCI image specification, "Whiteouts": they "MUST only apply to resources in
    /// lower/parent layers"): a directory becomes opaque, all else hides what is below by being there.
    fn hide(&mut self, dir: DirId, hidden: &[u8]) -> Result<(), EntryError> {
        // The whole name is `.wh..wh..opq`.
        if hidden == b".wh..opq" {
            self.make_opaque(dir);
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(EntryError::BadWhiteout);
        }
        match self.tree.get(dir, hidden) {
            Some(Entry::Directory(there)) => self.make_opaque(there),
            Some(_) => {}
            None => {
                let nid = match self.whiteout {
                    Some(nid) => {
                        self.writer.add_link(nid);
                        nid
                    }
                    None => {
                        let none = Attributes::default();
                        self.writer.special(Kind::CharacterDevice, &none)?
                    }
                };
                self.whiteout = Some(nid);
                self.insert(dir, hidden, nid, Kind::CharacterDevice);
            }
        }
        Ok(())
    }

    fn symlink(
        &mut self,
        dir: DirId,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
    ) -> io::Result<()> {
        let nid = self.writer.symlink(target, attributes)?;
        self.links.insert(nid, target.into());
        self.insert(dir, name, nid, Kind::Symlink);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        member: &Member,
        attributes: &Attributes,
        from: &mut Archive<R>,
    ) -> Result<Nid, EntryError> {
        self.budget.bytes(member.size)?;
        let mut content = self.writer.content(member.size, attributes)?;
        let buffer = &mut self.buffer;
        let whole = [(0, member.size)];
        let pieces = member.pieces.as_deref().unwrap_or(&whole);
        for (offset, length) in pieces {
            let position = member.size - content.left();
            content.hole(offset.saturating_sub(position))?;
            let mut left = *length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                let read = from.read(&mut buffer[..most])?;
                put(&mut content, &buffer[..read])?;
                left -= read as u64;
                if left > 0 {
                    self.budget.space()?;
                }
            }
        }
        let nid = content.finish(Kind::File, attributes)?;
        from.kept(nid, pieces)?;
        Ok(nid)
    }
}

/// Appends what was read of a content that has not ended. Zeros are a hole, or what might be one.
pub(crate) fn put<O: Output>(content: &mut Content<'_, O>, bytes: &[u8]) -> io::Result<()> {
    match bytes {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        zeros if zeros.iter().all(|byte| *byte == 0) => content.hole(zeros.len() as u64),
        bytes => content.write(bytes),
    }
}

/// The names of a path, `..` among them.
pub(crate) fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/');
    parts
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}

/// Owner, mode and time of an entry, and the attributes users may set. Those of the kernel
/// (`trusted.`, `security.`) are not an image's to choose. Names are as they stand in a layer, as Docker writes and reads them;
/// in what is none they are escaped.
fn attributes(member: &Member, is_layer: bool) -> Result<Attributes, EntryError> {
    let mut xattrs = BTreeMap::new();
    for (name, value) in &member.xattrs {
        let name = match is_layer {
            true => name.clone(),
            false => unescape(name),
        };
        if name.len() > 5 && name.starts_with(b"user.") {
            refuse_unusable(&name, value)?;
            xattrs.insert(name, value.clone());
        }
    }
    Ok(Attributes {
        // Masked where the archive is read.
        mode: (member.mode & 0o7777) as u16,
        uid: member.owner.0,
        gid: member.owner.1,
        modified: Time {
            seconds: member.time.tv_sec,
            nanoseconds: u32::try_from(member.time.tv_nsec).unwrap_or(0),
        },
        xattrs,
    })
}
