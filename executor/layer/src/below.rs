//! Hard links from one layer to a file of another below it.
//!
//! A container that links to a file of its image changes that file's count of links, so the layer
//! that is made of it has the new name as a link whose target is not among its own entries. Others
//! unpack onto a mounted overlay, where `link` copies the file up. Here a layer has an image of its
//! own, and the file is copied into that, as the kernel would show it: from the nearest layer below
//! that has it, unless a whiteout or an opaque directory hides it.

use crate::EntryError;
use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
};
use tank_erofs::{Attributes, Image, Inode, Kind};

/// The attribute of a directory that shows nothing of the layers below it, with the value `y` (the
/// kernel's overlayfs documentation).
pub const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What one layer says about a path.
#[derive(Debug)]
pub enum View<T> {
    /// It has it.
    Here(T),
    /// It hides what layers below say.
    Hidden,
    /// It says nothing.
    Absent,
}

/// The layers below one.
pub struct Below(Option<Vec<Image>>);

/// Whether a directory shows nothing of the layers below it.
pub fn is_opaque(attributes: &Attributes) -> bool {
    attributes
        .xattrs
        .get(OPAQUE)
        .is_some_and(|value| value == b"y")
}

impl Below {
    /// The layers, of which the nearest comes first; none where they are not known.
    pub fn new(layers: Option<Vec<Image>>) -> Self {
        Self(layers)
    }

    /// Finds what a link points to.
    ///
    /// # Errors
    /// When no layer has it, or one hides it; when they are not known.
    pub fn find(&self, path: &Path) -> Result<(&Image, Inode), EntryError> {
        let layers = self.0.as_ref().ok_or(EntryError::Below)?;
        for layer in layers {
            match view(layer, path)? {
                View::Here(inode) => return Ok((layer, inode)),
                View::Hidden => break,
                View::Absent => {}
            }
        }
        Err(EntryError::NoTarget(path.to_owned()))
    }
}

/// Looks a path up in one layer, component by component: a link on the way may lead anywhere in the
/// layers together, and no archiver writes one there.
fn view(image: &Image, path: &Path) -> io::Result<View<Inode>> {
    let mut at = image.inode(image.root())?;
    let mut opaque = is_opaque(&at.attributes);
    let absent = |opaque| Ok(if opaque { View::Hidden } else { View::Absent });
    let mut components = path.components().peekable();
    while let Some(Component::Normal(name)) = components.next() {
        let Some(nid) = image.find(&at, name.as_bytes())? else {
            return absent(opaque);
        };
        let found = image.inode(nid)?;
        if found.kind == Kind::CharacterDevice {
            return Ok(View::Hidden);
        }
        if components.peek().is_none() {
            return Ok(View::Here(found));
        }
        if found.kind != Kind::Directory {
            return Ok(View::Hidden);
        }
        opaque |= is_opaque(&found.attributes);
        at = found;
    }
    absent(opaque)
}
