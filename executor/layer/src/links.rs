//! Hard links of a layer: to what it has, or to a copy of what a layer below has ([`crate::below`]).

use crate::{
    EntryError,
    below::{Below, View, is_opaque},
    layer::{Layer, Missed, parts, put},
};
use std::{os::unix::ffi::OsStrExt, path::Path};
use tank_erofs::{Attributes, DirId, Entry, Image, Inode, Kind, Nid, Output};

impl<O: Output> Layer<'_, O> {
    /// Makes a hard link to what this layer has as `target`, or to a copy of what a layer below
    /// has.
    pub(crate) fn link(
        &mut self,
        target: &Path,
        dir: DirId,
        name: &[u8],
    ) -> Result<(), EntryError> {
        let target_name = target.file_name().ok_or(EntryError::BadLink)?.as_bytes();
        let parent = self.resolve(target.parent().unwrap_or(Path::new("")));
        let parent = match parent {
            Ok(way) => way.last().copied(),
            Err(Missed::NotFound) => None,
            Err(Missed::NotADirectory) => return Err(EntryError::NoDirectory),
            Err(Missed::Circle) => return Err(EntryError::Circle),
        };
        let own = parent.and_then(|parent| Some((parent, self.tree.get(parent, target_name)?)));
        match own {
            Some((parent, _)) if (parent, target_name) == (dir, name) => return Ok(()),
            Some((_, Entry::Directory(_))) => {
                return Err(EntryError::NotLinkable(target.to_owned()));
            }
            // A whiteout is the only device a layer has: there is nothing to link to.
            Some((_, Entry::Inode(_, Kind::CharacterDevice))) | None => {}
            Some((_, Entry::Inode(nid, kind))) => {
                self.make_room(dir, name)?;
                self.writer.add_link(nid);
                self.insert(dir, name, nid, kind);
                return Ok(());
            }
        }
        self.make_room(dir, name)?;
        if let Some((known, Entry::Inode(nid, kind))) = &self.copied
            && known == target
        {
            let (nid, kind) = (*nid, *kind);
            self.writer.add_link(nid);
            self.insert(dir, name, nid, kind);
            return Ok(());
        }
        self.link_below(target, dir, name)
    }

    fn link_below(&mut self, target: &Path, dir: DirId, name: &[u8]) -> Result<(), EntryError> {
        if matches!(self.view(target), View::Hidden) {
            return Err(EntryError::NoTarget(target.to_owned()));
        }
        let below = std::mem::replace(&mut self.below, Below::new(None));
        let copied = below
            .find(target)
            .and_then(|(image, inode)| self.copy(image, &inode, target));
        self.below = below;
        let (nid, kind) = copied?;
        self.insert(dir, name, nid, kind);
        self.crosses = true;
        self.copied = Some((target.to_owned(), Entry::Inode(nid, kind)));
        Ok(())
    }

    /// What this layer says about a path that it does not have.
    fn view(&mut self, path: &Path) -> View<()> {
        let mut at = DirId::ROOT;
        let mut opaque = is_opaque(self.tree.attributes(at));
        for part in parts(path.as_os_str().as_bytes()) {
            match self.tree.get(at, &part) {
                Some(Entry::Directory(dir)) => at = dir,
                Some(Entry::Inode(..)) => return View::Hidden,
                None => break,
            }
            opaque |= is_opaque(self.tree.attributes(at));
        }
        if opaque { View::Hidden } else { View::Absent }
    }

    /// Copies a file of a layer below: content, owner, mode, times and the users' attributes.
    fn copy(
        &mut self,
        image: &Image,
        inode: &Inode,
        path: &Path,
    ) -> Result<(Nid, Kind), EntryError> {
        let mut attributes = inode.attributes.clone();
        attributes
            .xattrs
            .retain(|name, _| name.starts_with(b"user."));
        let nid = match inode.kind {
            Kind::File => self.copy_file(image, inode, &attributes)?,
            Kind::Symlink => {
                let target = image.target(inode)?;
                let nid = self.writer.symlink(&target, &attributes)?;
                self.links.insert(nid, target.into());
                nid
            }
            Kind::Fifo => self.writer.special(Kind::Fifo, &attributes)?,
            _ => return Err(EntryError::NotLinkable(path.to_owned())),
        };
        Ok((nid, inode.kind))
    }

    fn copy_file(
        &mut self,
        image: &Image,
        inode: &Inode,
        attributes: &Attributes,
    ) -> Result<Nid, EntryError> {
        self.budget.bytes(inode.size)?;
        let mut content = self.writer.content(inode.size, attributes)?;
        let buffer = &mut self.buffer;
        while content.left() > 0 {
            self.budget.space()?;
            let position = inode.size - content.left();
            let read = image.read_at(inode, buffer, position)?;
            put(&mut content, &buffer[..read])?;
        }
        Ok(content.finish(Kind::File, attributes)?)
    }
}
