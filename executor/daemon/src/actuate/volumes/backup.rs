//! Snapshots of volumes for as long as a backup of one is written: in `.backups/` beside the volumes, which only root
//! enters. What a daemon that was killed has left is removed at the start.

use super::{Places, VolumeError, Volumes, make_at, make_private, open_dir, remove};
use crate::settings::Settings;
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};
use tank_image::Budget;
use tank_model::VolumeId;

/// The folder of all of them. No pod and no volume is called so.
const FOLDER: &str = ".backups";

/// A snapshot. It is removed when this is dropped, which is blocking.
#[must_use]
pub struct Shared {
    path: PathBuf,
}

impl Shared {
    /// Its directory.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn open(&self) -> Result<OwnedFd, VolumeError> {
        Ok(open_dir(&self.path)?)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a snapshot stays until the next start");
        }
    }
}

fn folder(settings: &Settings, volume: &VolumeId) -> PathBuf {
    match volume {
        VolumeId::Own(..) => settings.volumes_dir().join(FOLDER),
        VolumeId::Shared(_) => settings.shared_volumes_dir().join(FOLDER),
    }
}

impl Volumes {
    /// A snapshot of a volume that shares the bytes of its files, called `name`. None: the file system does not share, or
    /// containers change the volume so that no copy can be made of it. Blocking.
    ///
    /// # Errors
    /// When the volume is not there, the disk has no space, or nobody waits any more.
    pub fn share(
        &self,
        volume: &VolumeId,
        name: &str,
        budget: &Budget,
    ) -> Result<Option<Shared>, VolumeError> {
        let places = self.places(volume);
        if !self.can_share() {
            return Ok(None);
        }
        let folder = folder(&self.settings, volume);
        make_private(&folder)?;
        let _turn = self.turn(&places);
        let from = self.show(&places)?;
        let shared = Shared {
            path: folder.join(name),
        };
        let into = make_at(&shared.path)?;
        let copied = tank_image::clone_tree(from.as_fd(), into.as_fd(), budget);
        budget.space().map_err(std::io::Error::from)?;
        if let Err(error) = copied {
            tracing::debug!(%volume, %error, "no snapshot could be taken for a backup");
            return Ok(None);
        }
        Ok(Some(shared))
    }

    /// Whether a volume is there. Blocking.
    pub fn is_there(&self, places: &Places) -> bool {
        open_dir(&places.volume).is_ok()
    }
}

/// Removes what a daemon before this one has left. Before anything is started.
pub(super) fn sweep(settings: &Settings) {
    for dir in [settings.volumes_dir(), settings.shared_volumes_dir()] {
        let left: &Path = &dir.join(FOLDER);
        if let Err(error) = remove(left) {
            tracing::warn!(path = %left.display(), %error, "snapshots for backups stay");
        }
    }
}
