//! Collecting what no generation needs: documents, and then layers, so that at no time an image is found whose
//! layers are gone.
//!
//! Whoever calls says which images are needed; what a pull holds ([`super::pins`]) stays as well. A removal is a
//! renaming into the folder that is swept at the start, and then the removal: a process that ends between leaves
//! nothing that has a name. *Never*: follows a link, or touches what is not called as Tank calls its files.

use super::{EXTENSION, Images, pins::Under, recipes, sums, sync_dir};
use crate::{Error, document, error::Attempt};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tank_model::Digest;

/// The bytes of a block as stat(2) counts them.
const BLOCK: u64 = 512;

/// How many, and what they take of the disk: blocks, and not lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes of the disk.
    pub bytes: u64,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What was collected, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Manifests, indexes and configurations.
    pub documents: Tally,
    /// Layers, with their recipes and the records of their digests.
    pub layers: Tally,
    /// What was left that may not be needed, and why: a sentence each.
    pub left: Vec<String>,
}

/// How it is collected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    /// Nothing is removed.
    pub dry: bool,
    /// Layers that are folders, as versions before this one made them, stay: a container may run in one.
    pub keep_folders: bool,
}

/// A collection. What pulls let go of while it is there is not collected by it.
#[derive(Debug)]
pub struct Collection {
    images: Images,
    _under: Under,
}

impl Images {
    /// Begins a collection. To be called *before* it is found out which images are needed.
    pub fn collection(&self) -> Collection {
        Collection {
            images: self.clone(),
            _under: self.pins.begin(),
        }
    }
}

/// The digests of all documents and layers of an image. Blocking.
///
/// # Errors
/// When a document is not here, or is not what its digest says.
pub(super) fn parts(images: &Images, image: Digest) -> Result<BTreeSet<Digest>, Error> {
    let mut parts = BTreeSet::new();
    let read = |digest: Digest| {
        parts.insert(digest);
        let bytes = fs::read(images.blob_path(digest));
        let bytes = bytes.attempt(|| format!("find {digest} on this host"))?;
        document::verify(&bytes, digest)?;
        Ok::<_, Error>(bytes)
    };
    let (_, layers) = document::read_image(image, read)?;
    parts.extend(layers.iter().flat_map(|id| [id.diff, id.chain]));
    Ok(parts)
}

/// What a file in the folder of layers is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Image,
    Folder,
    /// What else it takes to write an image's tar again.
    Recipe,
    /// The record of an image's digest.
    Sum,
}

/// Which layer a name in that folder is of. None: Tank calls no file so.
pub(super) fn layer_of(name: &str) -> Option<(Kind, Digest)> {
    let (hex, kind) = match name.split_once('.') {
        Some((hex, EXTENSION)) => (hex, Kind::Image),
        Some((hex, recipes::EXTENSION)) => (hex, Kind::Recipe),
        Some((hex, sums::EXTENSION)) => (hex, Kind::Sum),
        Some(_) => return None,
        None => (name, Kind::Folder),
    };
    Some((kind, of_hex(hex)?))
}

/// The digest that a file is called by.
pub(super) fn of_hex(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

/// The names in a folder, in order.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        // What is no UTF-8 is none of Tank's.
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

impl Collection {
    /// Removes every document and layer that none of the images `needed` has, and nobody holds. `each` is called
    /// before each removal, with what is removed. Blocking. What is removed when it fails is gone.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn sweep(
        &self,
        needed: &BTreeSet<Digest>,
        how: Sweep,
        each: &mut dyn FnMut(&str),
    ) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let mut parts = BTreeSet::new();
        for image in needed {
            match self::parts(&self.images, *image) {
                Ok(own) => parts.extend(own),
                // Which documents and layers it has is not known: any may be its own.
                Err(error) => {
                    swept.left.push(format!(
                        "documents and layers of images: {image} can't be read ({}), so what it needs is not known; \
                         `tank fsck --repair` fetches it again",
                        error.message()
                    ));
                    return Ok(swept);
                }
            }
        }
        self.sweep_documents(&parts, how, &mut swept, each)?;
        self.sweep_layers(&parts, how, &mut swept, each)?;
        Ok(swept)
    }

    fn sweep_documents(
        &self,
        parts: &BTreeSet<Digest>,
        how: Sweep,
        swept: &mut Swept,
        each: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let folder = self.images.dir.join("blobs/sha256");
        let list = || "list documents of images".to_owned();
        for name in names(&folder).attempt(list)? {
            let Some(digest) = of_hex(&name).filter(|digest| !parts.contains(digest)) else {
                continue;
            };
            let path = folder.join(&name);
            let Some(bytes) = file_bytes(&path) else {
                swept.left.push(not_ours(&path));
                continue;
            };
            if self.remove(&digest, &path, how, each)? {
                swept.documents.add(bytes);
            }
        }
        if swept.documents.count > 0 && !how.dry {
            // Before a layer goes: after a power cut, too, no document is there without its layers.
            let synced = sync_dir(&folder.join("x"));
            synced.attempt(|| "write to the disk which documents are gone".to_owned())?;
        }
        Ok(())
    }

    fn sweep_layers(
        &self,
        parts: &BTreeSet<Digest>,
        how: Sweep,
        swept: &mut Swept,
        each: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let folder = self.images.dir.join("layers");
        let names = names(&folder).attempt(|| "list layers of images".to_owned())?;
        let layers = names.iter().filter_map(|name| {
            let (kind, digest) = layer_of(name)?;
            (!parts.contains(&digest)).then(|| (kind, digest, folder.join(name)))
        });
        let mut layers: Vec<_> = layers.collect();
        // Images first: of one that stays, the recipe and the record stay.
        layers.sort();
        for (kind, digest, path) in layers {
            let bytes = match kind {
                Kind::Image | Kind::Recipe | Kind::Sum => file_bytes(&path),
                Kind::Folder => folder_bytes(&path),
            };
            let Some(bytes) = bytes else {
                swept.left.push(not_ours(&path));
                continue;
            };
            match kind {
                Kind::Folder if how.keep_folders => {
                    let path = path.display();
                    swept
                        .left
                        .push(format!("{path}: a container may run in it"));
                }
                Kind::Recipe | Kind::Sum if !how.dry && path.with_extension(EXTENSION).exists() => {
                }
                Kind::Recipe | Kind::Sum => {
                    if self.remove(&digest, &path, how, each)? {
                        swept.layers.bytes += bytes;
                    }
                }
                Kind::Image | Kind::Folder => {
                    if self.remove(&digest, &path, how, each)? {
                        swept.layers.add(bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes what nobody holds. False: somebody does.
    fn remove(
        &self,
        digest: &Digest,
        path: &Path,
        how: Sweep,
        each: &mut dyn FnMut(&str),
    ) -> Result<bool, Error> {
        let pins = &self.images.pins;
        if how.dry {
            return Ok(pins.unless_held(digest, || ()).is_some());
        }
        each(&format!("before {} is removed", path.display()));
        let trash = self.images.temporary(*digest);
        let moved = pins.unless_held(digest, || fs::rename(path, &trash));
        let Some(moved) = moved else {
            return Ok(false);
        };
        moved.attempt(|| format!("remove {}", path.display()))?;
        // Whoever runs in it keeps it until it ends; for the next one nothing is mounted any more.
        self.images.mounts.forget(path);
        each(&format!("while {} is removed", path.display()));
        remove_trash(&trash).attempt(|| format!("remove {}", path.display()))?;
        Ok(true)
    }
}

fn remove_trash(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => tank_sys::remove::tree(path),
        false => fs::remove_file(path),
    }
}

fn not_ours(path: &Path) -> String {
    format!(
        "{}: it is no file of Tank's, though it is called as one",
        path.display()
    )
}

/// What a file takes of the disk. None: it is none, but a link, a folder or a device.
pub(super) fn file_bytes(path: &Path) -> Option<u64> {
    let found = fs::symlink_metadata(path).ok()?;
    found.is_file().then(|| found.blocks() * BLOCK)
}

/// The same of a folder with everything in it; a file that has several names in it counts once. None: it is no
/// folder.
pub fn folder_bytes(path: &Path) -> Option<u64> {
    let found = fs::symlink_metadata(path).ok()?;
    if !found.is_dir() {
        return None;
    }
    let mut bytes = found.blocks() * BLOCK;
    let mut counted = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes meanwhile, or can't be read, takes nothing as far as is known.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.nlink() > 1 && !counted.insert((found.dev(), found.ino())) {
                continue;
            }
            bytes += found.blocks() * BLOCK;
        }
    }
    Some(bytes)
}
