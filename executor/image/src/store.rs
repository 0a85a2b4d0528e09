//! The image store of a host: pulling, keeping and finding images.

use crate::{
    Error, MAX_DOCUMENT, MAX_LAYER,
    budget::Budget,
    config::{Configs, ImageConfig},
    document::{self, Document, LayerId},
    error::Attempt,
    layout::Layout,
    registry::Registry,
    unpack,
};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};

#[cfg(test)]
mod tests;

/// An image that is whole on disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// How it says it is run, as it came (OCI image specification, "Image Configuration").
    pub config: ImageConfiguration,
    /// Unpacked layers, the lowest first. Each stands there once.
    pub layers: Vec<PathBuf>,
}

/// Where the parts of one image come from.
pub(crate) trait Origin {
    /// The document that the reference names, with its digest.
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error>;
    /// A document by its digest, not yet verified.
    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error>;
    /// Writes a blob of at most `size` bytes to `out`, not yet verified.
    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut tokio::fs::File,
        budget: &Budget,
    ) -> Result<(), Error>;
}

/// The image store of a host. Clones share it.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
    insecure: Vec<String>,
    configs: Arc<Configs>,
}

impl Images {
    /// Opens the store in the folder `dir`, made if it is missing, and sweeps what was half done.
    /// The registries `insecure` (`HOST` or `HOST:PORT`) are spoken to without TLS.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn open(dir: &Path, insecure: &[String]) -> std::io::Result<Self> {
        let images = Self {
            dir: dir.to_owned(),
            insecure: insecure.to_vec(),
            configs: Arc::default(),
        };
        for sub in ["blobs/sha256", "layers"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let temporary = dir.join("tmp");
        if temporary.exists() {
            tank_sys::remove::tree(&temporary)?;
        }
        fs::create_dir_all(&temporary)?;
        Ok(images)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn temporary(&self, digest: Digest) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.dir.join("tmp").join(format!(
            "{}-{}",
            digest.hex(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// Resolves a reference to the digest of what it names now, and fetches all of it. A layout's
    /// relative folder is one of `base_dir`. What is here is not fetched again, and what is pinned
    /// to a digest and here is not asked for. The future may be dropped at any time: what it does
    /// ends, and what is half done goes.
    ///
    /// # Errors
    /// What went wrong; [`Images::find`] finds no image that is not complete.
    pub async fn pull(
        &self,
        reference: &Reference,
        base_dir: Option<&Path>,
    ) -> Result<Digest, Error> {
        if let Some(digest) = reference.digest()
            && self.find(digest).is_ok()
        {
            return Ok(digest);
        }
        match reference.source() {
            ImageSource::Registry { .. } => {
                self.fetch(&Registry::new(reference, &self.insecure)?).await
            }
            ImageSource::Layout { path, tag } => {
                let path = base_dir.map_or_else(|| PathBuf::from(path), |base| base.join(path));
                if !path.is_absolute() {
                    return Err(Error::Relative(path));
                }
                let found = self.fetch(&Layout::new(path, tag)).await?;
                match reference.digest().filter(|pinned| *pinned != found) {
                    Some(pinned) => Err(Error::Repinned { pinned, found }),
                    None => Ok(found),
                }
            }
        }
    }

    /// The digest of what a reference to a registry names now. Nothing is kept.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest, Error> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        let (bytes, digest) = Registry::new(reference, &self.insecure)?.root().await?;
        document::verify(&bytes, digest)?;
        document::parse(&bytes)?;
        Ok(digest)
    }

    async fn fetch(&self, origin: &impl Origin) -> Result<Digest, Error> {
        let budget = Budget::new(&self.dir);
        let _cancel = budget.cancel_on_drop();
        let (bytes, digest) = origin.root().await?;
        document::verify(&bytes, digest)?;
        let manifest_digest = match document::parse(&bytes)? {
            Document::Manifest(_) => digest,
            Document::Index(index) => document::pick_platform(&index)?,
        };
        let manifest_bytes = if manifest_digest == digest {
            bytes.clone()
        } else {
            let found = origin.document(manifest_digest).await?;
            document::verify(&found, manifest_digest)?;
            found
        };
        let Document::Manifest(manifest) = document::parse(&manifest_bytes)? else {
            return Err(Error::NestedIndex);
        };
        let config_digest = document::digest_of(manifest.config())?;
        let config_bytes = self.config_bytes(origin, &manifest, &budget).await?;
        let config = document::parse_config(&config_bytes)?;
        let diff_ids = document::diff_ids(&config, &manifest)?;
        let mut below = Vec::new();
        for (descriptor, id) in manifest.layers().iter().zip(document::chain(&diff_ids)) {
            let dir = match self.layer_dir(id) {
                Some(dir) => dir,
                None => {
                    self.fetch_layer(origin, descriptor, id, below.clone(), &budget)
                        .await?
                }
            };
            below.insert(0, dir);
        }
        // The documents last: an image is here when its root is, and not before.
        self.keep(config_digest, &config_bytes)?;
        self.keep(manifest_digest, &manifest_bytes)?;
        self.keep(digest, &bytes)?;
        Ok(digest)
    }

    /// The verified configuration of an image, from the store where it is there.
    async fn config_bytes(
        &self,
        origin: &impl Origin,
        manifest: &ImageManifest,
        budget: &Budget,
    ) -> Result<Vec<u8>, Error> {
        let descriptor = manifest.config();
        let digest = document::digest_of(descriptor)?;
        if let Ok(bytes) = fs::read(self.blob_path(digest)) {
            return Ok(bytes);
        }
        let temporary = Temporary(self.temporary(digest));
        self.download(origin, descriptor, &temporary.0, MAX_DOCUMENT, budget)
            .await?;
        fs::read(&temporary.0).attempt(|| "read the image's configuration".to_owned())
    }

    /// Where a layer is, if it is here.
    fn layer_dir(&self, id: LayerId) -> Option<PathBuf> {
        let dirs = [id.diff, id.chain].map(|digest| self.dir.join("layers").join(digest.hex()));
        dirs.into_iter().find(|dir| dir.is_dir())
    }

    /// Fetches a layer that lies on those in the directories `below`, of which the nearest comes
    /// first; returns its own.
    async fn fetch_layer(
        &self,
        origin: &impl Origin,
        descriptor: &Descriptor,
        id: LayerId,
        below: Vec<PathBuf>,
        budget: &Budget,
    ) -> Result<PathBuf, Error> {
        let digest = document::digest_of(descriptor)?;
        let blob = Temporary(self.temporary(digest));
        self.download(origin, descriptor, &blob.0, MAX_LAYER, budget)
            .await?;
        let tree = Temporary(self.temporary(id.diff));
        let media_type = descriptor.media_type().to_string();
        let (layers, budget) = (self.dir.join("layers"), budget.clone());
        // What is half done is removed there too: that of a large layer takes its time.
        let unpacked = tokio::task::spawn_blocking(move || {
            let layer = unpack::Layer {
                blob: &blob.0,
                media_type: &media_type,
                diff_id: id.diff,
                below: &below,
                budget: &budget,
            };
            let crosses = unpack::unpack(&layer, &tree.0)?;
            let target = layers.join(if crosses { id.chain } else { id.diff }.hex());
            name_layer(&tree.0, &target)?;
            drop((blob, tree));
            Ok(target)
        });
        let unpacked: Result<PathBuf, Error> =
            unpacked.await.attempt(|| "unpack a layer".to_owned())?;
        unpacked.map_err(|error| Error::Layer(digest, Box::new(error)))
    }

    /// Fetches a blob of at most `limit` bytes into a file and verifies it.
    async fn download(
        &self,
        origin: &impl Origin,
        descriptor: &Descriptor,
        path: &Path,
        limit: u64,
        budget: &Budget,
    ) -> Result<(), Error> {
        let (digest, size) = (document::digest_of(descriptor)?, descriptor.size());
        if size > limit {
            return Err(Error::TooLarge {
                digest,
                size,
                limit,
            });
        }
        let what = || format!("keep blob {digest}");
        let mut file = tokio::fs::File::create(path).await.attempt(what)?;
        origin.blob(descriptor, &mut file, budget).await?;
        tokio::io::AsyncWriteExt::flush(&mut file)
            .await
            .attempt(what)?;
        drop(file);
        let (path, budget) = (path.to_owned(), budget.clone());
        let hashed = tokio::task::spawn_blocking(move || unpack::hash_file(&path, &budget))
            .await
            .attempt(what)?;
        let actual = hashed.attempt(what)?;
        if actual == digest {
            Ok(())
        } else {
            let expected = digest;
            Err(Error::Mismatch { expected, actual })
        }
    }

    fn keep(&self, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        let (path, temporary) = (self.blob_path(digest), self.temporary(digest));
        // What has its name was synced before it got it.
        if fs::read(&path).is_ok_and(|known| known == bytes) {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_dir(&path)
        };
        write().attempt(|| format!("keep {digest}"))
    }

    /// An image that was pulled before, by the digest its reference was resolved to. Reads its
    /// documents, which blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When it, or a part of it, is not here.
    pub fn find(&self, digest: Digest) -> Result<Image, Error> {
        let read = |digest: Digest| {
            fs::read(self.blob_path(digest)).attempt(|| format!("find {digest} on this host"))
        };
        let manifest = match document::parse(&read(digest)?)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                match document::parse(&read(document::pick_platform(&index)?)?)? {
                    Document::Manifest(manifest) => manifest,
                    Document::Index(_) => return Err(Error::NestedIndex),
                }
            }
        };
        let config = document::parse_config(&read(document::digest_of(manifest.config())?)?)?;
        let mut layers = Vec::new();
        for id in document::chain(&document::diff_ids(&config, &manifest)?) {
            let layer = self.layer_dir(id).ok_or(Error::NoLayer(id.diff))?;
            // A layer may stand twice in an image; overlay refuses the same directory twice, and
            // once is the same.
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        Ok(Image { config, layers })
    }

    /// How the image with this digest says it is run, with its own `/etc/passwd` and `/etc/group`,
    /// from a bounded cache of its own: an image never changes, so nothing invalidates an entry.
    ///
    /// What is not in the cache is read from the disk, and from a mount of the image's layers that
    /// no mount table ever has: that blocks (a millisecond, and as long as the disk takes) and needs
    /// `CAP_SYS_ADMIN` in the initial user namespace.
    ///
    /// # Errors
    /// When the image, or a part of it, is not here, or its layers can't be mounted. An image
    /// without those files is no error.
    pub fn config(&self, digest: &Digest) -> Result<Arc<ImageConfig>, Error> {
        if let Some(known) = self.configs.get(digest) {
            return Ok(known);
        }
        let scratch = Temporary(self.temporary(*digest));
        let config = Arc::new(ImageConfig::read(&self.find(*digest)?, &scratch.0)?);
        self.configs.insert(*digest, &config);
        Ok(config)
    }
}

/// A file or a directory with a temporary name: it goes with this.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What it can't remove now is swept at the next start.
        if fs::remove_file(&self.0).is_err() {
            let _ = tank_sys::remove::tree(&self.0);
        }
    }
}

/// Gives an unpacked layer its name.
fn name_layer(tree: &Path, target: &Path) -> Result<(), Error> {
    // A layer that has its name is whole, also after a power cut: many small files are synced best
    // all at once.
    let sync = || rustix::fs::syncfs(fs::File::open(tree)?).map_err(std::io::Error::from);
    sync().attempt(|| "write a layer to the disk".to_owned())?;
    match fs::rename(tree, target) {
        // Another pull was faster with the same layer: its bytes are the same.
        Err(_) if target.is_dir() => Ok(()),
        other => other
            .and_then(|()| sync_dir(target))
            .attempt(|| "name a layer".to_owned()),
    }
}

/// Writes the name of `path` to the disk: a generation that needs it may be committed next.
fn sync_dir(path: &Path) -> std::io::Result<()> {
    fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}
