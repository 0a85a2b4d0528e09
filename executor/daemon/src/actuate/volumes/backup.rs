//! Snapshots of volumes for as long as a backup of one is written: in `.backups/` beside the volumes, which only root
//! enters. What a daemon that was killed has left is removed at the start.

use super::{Places, VolumeError, Volumes, make_at, make_private, open_dir, remove, remove_now};
use crate::settings::Settings;
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};
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
        if let Err(error) = remove_now(&self.path) {
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

/// A snapshot that is about to be taken. It may take long, so nobody who starts on the volume, or replaces it, waits
/// for it.
pub struct Sharing {
    /// The volume.
    pub from: OwnedFd,
    /// The snapshot, which is empty.
    pub into: OwnedFd,
    shared: Shared,
    places: Places,
}

impl Sharing {
    /// It is taken. None: the volume was removed or replaced meanwhile. Blocking.
    pub fn done(self, volumes: &Volumes) -> Option<Shared> {
        let is_it = volumes.is_shown(&self.places, &self.from);
        is_it.then_some(self.shared)
    }
}

impl Volumes {
    /// Makes a place for a snapshot of a volume that shares the bytes of its files; its name begins with `name`. None: the file
    /// system does not share. Blocking.
    ///
    /// # Errors
    /// When the volume is not there, or the disk has no space.
    pub fn begin_share(
        &self,
        volume: &VolumeId,
        name: &str,
    ) -> Result<Option<Sharing>, VolumeError> {
        let places = self.places(volume);
        if !self.can_share() {
            return Ok(None);
        }
        let folder = folder(&self.settings, volume);
        make_private(&folder)?;
        let turn = self.turn(&places);
        let from = self.show(&places)?;
        drop(turn);
        // The one before may be on its way out.
        let number = self.shares_taken.fetch_add(1, Ordering::Relaxed);
        let shared = Shared {
            path: folder.join(format!("{name}.{number}")),
        };
        let into = make_at(&shared.path)?;
        Ok(Some(Sharing {
            from,
            into,
            shared,
            places,
        }))
    }

    /// Whether a volume is there. Blocking.
    pub fn is_there(&self, places: &Places) -> bool {
        open_dir(&places.volume).is_ok()
    }
}

/// Has what a daemon before this one has left be out of the way. Before anything is started.
pub(super) fn sweep(settings: &Settings) {
    for dir in [settings.volumes_dir(), settings.shared_volumes_dir()] {
        let left: &Path = &dir.join(FOLDER);
        if let Err(error) = remove(left) {
            tracing::warn!(path = %left.display(), %error, "snapshots for backups stay");
        }
    }
}
