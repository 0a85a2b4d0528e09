//! Layers, mounted once for all who use them: so what is read of one is in memory once.
//!
//! A mount is kept for as long as this process runs, and hangs where nobody but this process sees it. Where the kernel copies no mount that hangs nowhere
//! (before Linux 6.15) it hangs in a folder of the store, in the mount namespace of this process.

use crate::{Error, error::Attempt};
use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tank_sys::mount;

/// The most mounts that are kept; at more, all are let go of once. What uses them keeps its own.
const MAX_KEPT: usize = 2_048;

/// A layer of an image on disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layer {
    /// A file with an EROFS image.
    Image(PathBuf),
    /// A folder, as versions before this one made them.
    Folder(PathBuf),
}

impl Layer {
    /// Its file, to be read.
    ///
    /// # Errors
    /// What the kernel gives.
    pub(crate) fn open_file(&self) -> Result<fs::File, Error> {
        let (Self::Image(path) | Self::Folder(path)) = self;
        fs::File::open(path).attempt(|| format!("open {}", path.display()))
    }
}

/// Where a layer is mounted.
#[derive(Debug)]
enum Kept {
    Detached(OwnedFd),
    At(PathBuf),
}

/// The mounts of layers. Clones share them.
#[derive(Clone, Debug)]
pub struct Mounts {
    places: PathBuf,
    kept: Arc<Mutex<HashMap<PathBuf, Kept>>>,
}

impl Mounts {
    /// None yet; `places` is a folder for those that have to hang somewhere, made when there is one.
    pub fn new(places: PathBuf) -> Self {
        Self {
            places,
            kept: Arc::default(),
        }
    }

    /// A detached mount of a layer, which is the caller's.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn open(&self, layer: &Layer) -> Result<OwnedFd, Error> {
        let path = match layer {
            Layer::Folder(path) => return mount::clone_tree(path, false).map_err(Error::Mount),
            Layer::Image(path) => path,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(path) {
            return known.copy();
        }
        if kept.len() >= MAX_KEPT {
            kept.drain().for_each(|(_, known)| known.let_go());
        }
        let made = mount::erofs(path).map_err(Error::Mount)?;
        let (known, copy) = match mount::clone_place(made.as_fd(), false) {
            Ok(copy) => (Kept::Detached(made), copy),
            Err(_) => {
                let known = Kept::At(self.attach(path, &made)?);
                let copy = known.copy()?;
                (known, copy)
            }
        };
        kept.insert(path.clone(), known);
        Ok(copy)
    }

    /// Lets go of the mount of what is, or was, at `path`. What uses it keeps its own.
    pub(crate) fn forget(&self, path: &Path) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.remove(path) {
            known.let_go();
        }
    }

    fn attach(&self, path: &Path, made: &OwnedFd) -> Result<PathBuf, Error> {
        let place = self.places.join(path.file_name().unwrap_or_default());
        let what = || format!("make {}", place.display());
        fs::create_dir_all(&place).attempt(what)?;
        let at = tank_sys::beneath::open_path(&place).map_err(Error::Mount)?;
        mount::attach(made.as_fd(), at.as_fd()).map_err(Error::Mount)?;
        Ok(place)
    }
}

impl Kept {
    fn copy(&self) -> Result<OwnedFd, Error> {
        match self {
            Self::Detached(mount) => mount::clone_place(mount.as_fd(), false),
            Self::At(place) => mount::clone_tree(place, false),
        }
        .map_err(Error::Mount)
    }

    fn let_go(self) {
        if let Self::At(place) = self {
            let gone = mount::detach(&place);
            let _ = gone
                .map_err(io::Error::other)
                .and_then(|()| fs::remove_dir(&place));
        }
    }
}
