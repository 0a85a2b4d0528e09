//! What `docker save` and `podman save` write: a tar archive with `manifest.json`, which names a configuration
//! and layers by their files (Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset
//! Format"). It has no manifest as registries have them, so one is made, the same of the same image each time.

use crate::{
    Error, MAX_LAYER, MAX_LAYERS,
    document::{self, describe, digest_of},
    files::{Files, GZIP, Part, ZSTANDARD},
    intake::{Intake, Way},
    load::{Called, Which},
    store::Origin,
};
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde::Deserialize;
use std::collections::BTreeMap;
use tank_layer::budget::Budget;
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};
use tokio::sync::OnceCell;

/// The most bytes of `manifest.json`: 1 MiB. What it names takes many times its bytes in memory.
const MAX_MANIFEST: u64 = 1 << 20;

/// One image of an archive.
pub struct Saved {
    files: Files,
    /// Named by its name with its tag.
    which: Which,
    /// The names of the files of blobs, by their digests.
    blobs: OnceCell<BTreeMap<Digest, String>>,
    /// What looks at the disk while compressed layers are read for their digests.
    budget: Budget,
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    names: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

impl Saved {
    /// An image of the archive that these are the files of.
    pub fn new(files: Files, which: Which, budget: Budget) -> Self {
        Self {
            files,
            which,
            blobs: OnceCell::new(),
            budget,
        }
    }

    /// What each image of an archive is called.
    ///
    /// # Errors
    /// When it is none that `docker save` wrote.
    pub fn names(files: &Files) -> Result<Vec<Called>, Error> {
        let called = |entry: Entry| Called {
            names: entry.names.unwrap_or_default(),
            tag: None,
        };
        Ok(read_entries(files)?.into_iter().map(called).collect())
    }

    fn entry(&self) -> Result<Entry, Error> {
        let path = &self.files.path;
        let entries = read_entries(&self.files)?;
        let names = |entry: &Entry| entry.names.clone().unwrap_or_default();
        let known: Vec<String> = entries.iter().flat_map(names).collect();
        let found = match &self.which {
            Which::Named(wanted) => {
                let is = |name: &String| is_same(name, wanted);
                entries
                    .into_iter()
                    .find(|entry| names(entry).iter().any(is))
            }
            Which::At(place) => entries.into_iter().nth(*place),
            Which::Only => Some(entries)
                .filter(|entries| entries.len() == 1)
                .and_then(|entries| entries.into_iter().next()),
        };
        found.ok_or_else(|| Error::NoSuchName {
            path: path.clone(),
            name: match &self.which {
                Which::Named(name) => Some(name.clone()),
                Which::Only | Which::At(_) => None,
            },
            known,
        })
    }

    /// A layer's descriptor. Of one that is not compressed the digest is in the configuration; it is
    /// verified when the layer is used, as all are.
    async fn describe(&self, name: &str, diff_id: Digest) -> Result<Descriptor, Error> {
        let part = self.files.open(name)?;
        let begin = part.begin()?;
        let size = part.length();
        if size > MAX_LAYER {
            let (digest, limit) = (diff_id, MAX_LAYER);
            return Err(Error::TooLarge {
                digest,
                size,
                limit,
            });
        }
        let (media_type, digest) = if begin.starts_with(&GZIP) {
            (MediaType::ImageLayerGzip, self.digest_of(part).await?)
        } else if begin.starts_with(&ZSTANDARD) {
            (MediaType::ImageLayerZstd, self.digest_of(part).await?)
        } else {
            (MediaType::ImageLayer, diff_id)
        };
        describe(media_type, digest, size)
    }

    fn no_blob(&self, digest: Digest) -> Error {
        Error::NoMember {
            path: self.files.path.clone(),
            name: digest.to_string(),
        }
    }

    async fn digest_of(&self, part: Part) -> Result<Digest, Error> {
        let mut intake = Intake::new(Way::Nowhere);
        part.copy(u64::MAX, &mut intake, &self.budget).await?;
        Ok(intake.finish().0)
    }
}

fn read_entries(files: &Files) -> Result<Vec<Entry>, Error> {
    let path = &files.path;
    if !files.has("manifest.json") {
        return Err(Error::NotSaved(path.clone()));
    }
    let parsed = serde_json::from_slice(&files.read_most("manifest.json", MAX_MANIFEST)?);
    parsed.map_err(|error| Error::Document(format!("read {}/manifest.json", path.display()), error))
}

/// Whether two names of images are the same one: `app` is `docker.io/library/app:latest`.
fn is_same(one: &str, other: &str) -> bool {
    let parse = |text: &str| text.parse::<Reference>().ok();
    let (Some(one), Some(other)) = (parse(one), parse(other)) else {
        return false;
    };
    matches!(one.source(), ImageSource::Registry { .. }) && one.source() == other.source()
}

impl Origin for Saved {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        let entry = self.entry()?;
        let bytes = self.files.read(&entry.config)?;
        let config = document::parse_config(&bytes)?;
        let ids = config.rootfs().diff_ids();
        if ids.len() != entry.layers.len() || ids.len() > MAX_LAYERS {
            return Err(Error::LayerCount {
                layers: entry.layers.len(),
                ids: ids.len(),
            });
        }
        let config_digest = Digest::of(&bytes);
        let mut blobs = BTreeMap::from([(config_digest, entry.config)]);
        let mut layers = Vec::new();
        // A layer may stand twice.
        let mut known: BTreeMap<String, Descriptor> = BTreeMap::new();
        for (name, id) in entry.layers.into_iter().zip(ids) {
            let id = id.parse();
            let id = id.map_err(|error| Error::Digest(name.clone(), error))?;
            let layer = match known.get(&name) {
                Some(layer) => layer.clone(),
                None => self.describe(&name, id).await?,
            };
            known.insert(name.clone(), layer.clone());
            blobs.insert(digest_of(&layer)?, name);
            layers.push(layer);
        }
        let size = bytes.len() as u64;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(describe(MediaType::ImageConfig, config_digest, size)?)
            .layers(layers)
            .build()
            .map_err(Error::Made)?;
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|error| Error::Document("write a manifest".to_owned(), error))?;
        let _ = self.blobs.set(blobs);
        let digest = Digest::of(&manifest);
        Ok((manifest, digest))
    }

    fn name(&self) -> String {
        self.files.path.display().to_string()
    }

    /// There is one document: the root.
    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        match self.root().await? {
            (bytes, root) if root == digest => Ok(bytes),
            _ => Err(self.no_blob(digest)),
        }
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let digest = digest_of(descriptor)?;
        let name = self.blobs.get().and_then(|blobs| blobs.get(&digest));
        let part = self.files.open(name.ok_or_else(|| self.no_blob(digest))?)?;
        part.copy(descriptor.size(), out, budget).await
    }
}
