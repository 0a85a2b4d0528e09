//! What an image is, and what it takes.

use super::{Images, gc};
use crate::{
    Error, Layer,
    document::{self, Document},
    error::Attempt,
    platform::{self, Platform},
};
use oci_spec::image::ImageConfiguration;
use std::{collections::BTreeSet, fs, path::PathBuf};
use tank_model::Digest;

/// An image, in detail.
#[derive(Clone, Debug)]
pub struct Described {
    /// Of its manifest: the image's own, unless that is an index.
    pub manifest: Digest,
    /// Of its configuration.
    pub config_digest: Digest,
    /// How it says it is run.
    pub config: ImageConfiguration,
    /// Its layers, the lowest first.
    pub layers: Vec<DescribedLayer>,
}

/// A layer of an image.
#[derive(Clone, Debug)]
pub struct DescribedLayer {
    /// Of its bytes as they came.
    pub digest: Digest,
    /// Of its uncompressed bytes.
    pub diff_id: Digest,
    /// What it is packed with.
    pub media_type: String,
    /// Its bytes as they came.
    pub size: u64,
    /// What it takes of the disk. None: it is not here.
    pub disk: Option<u64>,
}

/// What is on the disk for an image, by where it is: bytes of the disk.
pub type Taken = BTreeSet<(PathBuf, u64)>;

impl Images {
    /// An image in detail. Blocking.
    ///
    /// # Errors
    /// When a document of it is not here, or is none.
    pub fn describe(&self, image: Digest) -> Result<Described, Error> {
        let read = |digest: Digest| {
            let bytes = fs::read(self.blob_path(digest));
            bytes.attempt(|| format!("find {digest} on this host"))
        };
        let (manifest_digest, manifest) = match document::parse(&read(image)?)? {
            Document::Manifest(manifest) => (image, manifest),
            Document::Index(index) => {
                let mut picked = platform::pick(&index, &Platform::host())?.into_iter();
                let is_here = |digest: &Digest| self.blob_path(*digest).is_file();
                let picked = picked.find(is_here).ok_or(Error::NestedIndex)?;
                match document::parse(&read(picked)?)? {
                    Document::Manifest(manifest) => (picked, manifest),
                    Document::Index(_) => return Err(Error::NestedIndex),
                }
            }
        };
        let config_digest = document::digest_of(manifest.config())?;
        let config = document::parse_config(&read(config_digest)?)?;
        let ids = document::chain(&document::diff_ids(&config, &manifest)?);
        let layers = manifest.layers().iter().zip(ids).map(|(descriptor, id)| {
            let disk = self.layer(id).map(|layer| match &layer {
                Layer::Image(path) => gc::file_bytes(path).unwrap_or(0),
                Layer::Folder(path) => gc::folder_bytes(path).unwrap_or(0),
            });
            Ok::<_, Error>(DescribedLayer {
                digest: document::digest_of(descriptor)?,
                diff_id: id.diff,
                media_type: descriptor.media_type().to_string(),
                size: descriptor.size(),
                disk,
            })
        });
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Described {
            manifest: manifest_digest,
            config_digest,
            config,
            layers,
        })
    }

    /// Refuses an image whose programs this host can't run. Blocking.
    ///
    /// # Errors
    /// [`Error::Foreign`], or that it is not here.
    pub fn refuse_foreign(&self, image: Digest) -> Result<(), Error> {
        let config = self.find(image)?.config;
        let (os, arch) = (config.os().to_string(), config.architecture().to_string());
        match platform::runs(&os, &arch) {
            true => Ok(()),
            false => Err(Error::Foreign {
                platform: format!("{os}/{arch}"),
            }),
        }
    }

    /// The files that an image has on the disk, with what they take. Blocking.
    ///
    /// # Errors
    /// When a document of it is not here, or is none.
    pub fn taken(&self, image: Digest) -> Result<Taken, Error> {
        let layers = self.find(image)?.layers.into_iter();
        let layers = layers.map(|layer| match layer {
            Layer::Image(path) => (gc::file_bytes(&path).unwrap_or(0), path),
            Layer::Folder(path) => (gc::folder_bytes(&path).unwrap_or(0), path),
        });
        let parts = gc::parts(self, image)?;
        let documents = parts.into_iter().map(|digest| self.blob_path(digest));
        let documents = documents.filter_map(|path| Some((gc::file_bytes(&path)?, path)));
        let all = layers.chain(documents);
        Ok(all.map(|(bytes, path)| (path, bytes)).collect())
    }
}
