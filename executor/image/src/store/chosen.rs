//! Images for a platform that a container, or somebody by hand, asks for: of an index the manifest for that, which is an image by
//! itself. What is kept and run is its digest, so that nothing of it is chosen again, by another host's platform.

use super::Images;
use crate::{
    Error,
    document::{self, Document},
    platform::{self, Platform},
    progress::{Watch, Watched},
    registry::Registry,
    store::Origin as _,
};
use std::{fs, path::Path};
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};

impl Images {
    /// As [`Images::pull`], for a platform, which need not be this host's: the digest of the manifest for that.
    ///
    /// # Errors
    /// As [`Images::pull`], and when there is none for it.
    pub async fn pull_for(
        &self,
        reference: &Reference,
        platform: &Platform,
        base_dir: Option<&Path>,
        watch: Option<Watch>,
    ) -> Result<Digest, Error> {
        if self.hold.is_none() {
            // For as long as it takes.
            let held = self.holding();
            return Box::pin(held.pull_for(reference, platform, base_dir, watch)).await;
        }
        if let Some(pinned) = reference.digest()
            && let Some(chosen) = self.chosen_here(pinned, platform)
        {
            return Ok(chosen);
        }
        match reference.source() {
            ImageSource::Registry { .. } => {
                let origin = Registry::new(reference, &self.registries)?;
                let origin = Watched { origin, watch };
                let fetched = Box::pin(self.fetch_for(&origin, platform)).await?;
                Ok(fetched.1)
            }
            source => {
                let origin = self.local(source, base_dir).await?;
                let origin = Watched { origin, watch };
                let fetched = Box::pin(self.fetch_for(&origin, platform)).await;
                let (root, found) = fetched.map_err(|error| origin.origin.explain(error))?;
                let pinned = reference.digest();
                match pinned.filter(|pinned| ![root, found].contains(pinned)) {
                    Some(pinned) => Err(Error::Repinned { pinned, found }),
                    None => Ok(found),
                }
            }
        }
    }

    /// What of an image fits a platform, where all of that is here; it is held. Blocking.
    pub fn chosen_here(&self, image: Digest, platform: &Platform) -> Option<Digest> {
        self.hold([image]);
        let bytes = fs::read(self.blob_path(image)).ok()?;
        let chosen = match document::parse(&bytes).ok()? {
            Document::Manifest(_) => image,
            Document::Index(index) => platform::best(&index, platform).ok()?,
        };
        let found = self.is_held_here(chosen).then(|| self.find(chosen));
        let config = found?.ok()?.config;
        platform.refuse_other(&config).ok().map(|()| chosen)
    }

    /// As [`Images::resolve`], for a platform: the digest of the manifest for that.
    ///
    /// # Errors
    /// What went wrong, and when there is none for it.
    pub async fn resolve_for(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Digest, Error> {
        let origin = Registry::new(reference, &self.registries)?;
        let (bytes, digest) = origin.root().await?;
        document::verify(&bytes, digest)?;
        let manifest = match document::parse(&bytes)? {
            Document::Index(index) => return platform::best(&index, platform),
            Document::Manifest(manifest) => manifest,
        };
        // What is for one platform only says which in its configuration.
        let budget = self.budget();
        let config = self.config_bytes(&origin, &manifest, &budget).await?;
        platform.refuse_other(&document::parse_config(&config)?)?;
        Ok(digest)
    }
}
