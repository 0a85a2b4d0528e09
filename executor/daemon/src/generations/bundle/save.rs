//! Images that leave this host for others to load.

use crate::{
    faults,
    generations::{Error, Generations, error::Context},
};
use std::{os::fd::OwnedFd, sync::Arc};
use tank_image::Packer;
use tank_model::{Digest, Reference};
use tokio::task::spawn_blocking;

/// Images that are being written into a pipe.
pub struct Save {
    save: tank_image::Save,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// The most images that are saved at once.
const MAX_SAVED: usize = 1_000;

impl Generations {
    /// Images that are here, by what generations call them: what is to be written into an archive.
    ///
    /// # Errors
    /// When one is no reference, or is not here; when too many archives are on their way.
    pub async fn save_images(self: &Arc<Self>, images: Vec<String>) -> Result<Save, Error> {
        let place = self.transfer()?;
        if images.is_empty() || images.len() > MAX_SAVED {
            return Err(Error::Unaskable(format!("name 1 to {MAX_SAVED} images")));
        }
        let mut wanted: Vec<(Reference, Digest)> = Vec::new();
        for image in images {
            let reference = image.parse::<Reference>();
            let reference = reference.map_err(|e| Error::Reference {
                image: image.clone(),
                why: e.to_string(),
            })?;
            let found = self.here(&self.images.holding(), &reference, None).await?;
            let digest = found.ok_or(Error::Image {
                image,
                users: Vec::new(),
                source: tank_image::Error::Unsaved,
            })?;
            if !wanted.contains(&(reference.clone(), digest)) {
                wanted.push((reference, digest));
            }
        }
        let this = Arc::clone(self);
        let save = spawn_blocking(move || this.images.save(&wanted)).await;
        let save = save.doing("save images")?;
        Ok(Save {
            save: save.map_err(|source| Error::Carry(Box::new(source)))?,
            _place: place,
        })
    }
}

impl Save {
    /// Writes all of it into a pipe: how many files there are, and how many bytes.
    ///
    /// # Errors
    /// When nobody reads on, or something of it is no longer what it was.
    pub async fn write(self, pipe: OwnedFd) -> Result<(u64, u64), Error> {
        let out = Packer::new(pipe).doing("save images")?;
        let written = self.save.write(out, faults::boundary).await;
        written.map_err(|source| Error::Carry(Box::new(source)))
    }
}
