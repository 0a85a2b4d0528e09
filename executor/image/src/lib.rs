//! Images: from a reference to layers on disk.
//!
//! Under `STATE/images`: `blobs/sha256/HEX` holds manifests, indexes and configurations as they
//! came, `layers/HEX` each unpacked layer under the digest of its uncompressed bytes, or, where it
//! has something of the layers below it, under the digest of them all (its chain id: OCI image
//! specification, "layer ChainID"). Everything is verified before it is named: a blob against its
//! digest before a byte of it is parsed, a layer against the image configuration while it is
//! unpacked. What is half done has a temporary name, and goes when it fails, when whoever asked for
//! it has left, or at the start.
//!
//! An image is hostile, from the first byte of an answer to the last entry of a layer: everything
//! is counted while it is read.
//!
//! * [`registry`]: the distribution protocol, over [`http`].
//! * [`layout`]: OCI image layouts on disk.
//! * [`unpack`]: layers, by [`archive`] and [`links`].
//! * [`budget`]: what one image may take of this host.

mod archive;
mod budget;
mod http;
mod layout;
mod links;
mod registry;
#[cfg(test)]
mod tests;
mod unpack;

use budget::Budget;

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};
use tank_model::{
    Digest,
    reference::{Reference, Source},
};

/// The most bytes of a manifest, an index or a configuration.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most bytes of a compressed layer: 16 GiB.
pub const MAX_LAYER: u64 = 16 << 30;

/// The most layers of an image (overlay's own limit is 500).
const MAX_LAYERS: usize = 256;

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct ImageError {
    pub why: String,
    pub help: Option<String>,
}

impl ImageError {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            help: None,
        }
    }

    pub fn helped(why: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            help: Some(help.into()),
        }
    }
}

/// Says what was attempted.
pub trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, ImageError>;
}

impl<T, E: std::fmt::Display> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, ImageError> {
        self.map_err(|error| ImageError::new(format!("can't {}: {error}", what())))
    }
}

/// An image that is whole on disk.
#[derive(Clone, Debug)]
pub struct Image {
    pub config: ImageConfiguration,
    /// Unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// Where the parts of one image come from.
#[allow(
    async_fn_in_trait,
    reason = "used by this crate only, never as an object"
)]
pub trait Origin {
    /// The document that the reference names, with its digest.
    async fn root(&self) -> Result<(Vec<u8>, Digest), ImageError>;
    /// A document by its digest, not yet verified.
    async fn document(&self, digest: Digest) -> Result<Vec<u8>, ImageError>;
    /// Writes a blob of at most `size` bytes to `out`, not yet verified.
    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut tokio::fs::File,
        budget: &Budget,
    ) -> Result<(), ImageError>;
}

/// The image store of a host.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
    insecure: Vec<String>,
}

impl Images {
    /// Opens the store, made if it is missing, and sweeps what was half done.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn open(dir: &Path, insecure: &[String]) -> std::io::Result<Self> {
        let images = Self {
            dir: dir.to_owned(),
            insecure: insecure.to_vec(),
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
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.dir.join("tmp").join(format!(
            "{}-{}",
            digest.hex(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// Resolves a reference to the digest of what it names now, and fetches all of it. What is here
    /// is not fetched again. The future may be dropped at any time: what it does ends, and what is
    /// half done goes.
    ///
    /// # Errors
    /// What went wrong and what to do about it; nothing half done is ever seen by [`Images::find`].
    pub async fn pull(
        &self,
        reference: &Reference,
        base_dir: Option<&Path>,
    ) -> Result<Digest, ImageError> {
        if let Some(digest) = reference.digest()
            && self.find(digest).is_ok()
        {
            return Ok(digest);
        }
        match reference.source() {
            Source::Registry { .. } => {
                self.fetch(&registry::Registry::new(reference, &self.insecure)?)
                    .await
            }
            Source::Layout { path, tag } => {
                let path = base_dir.map_or_else(|| PathBuf::from(path), |base| base.join(path));
                if !path.is_absolute() {
                    let help = "use an absolute path, or switch from a file";
                    return Err(ImageError::helped(
                        format!("`{}` is relative to nothing", path.display()),
                        help,
                    ));
                }
                let digest = self.fetch(&layout::Layout::new(path, tag)).await?;
                match reference.digest().filter(|pinned| *pinned != digest) {
                    Some(pinned) => Err(ImageError::new(format!(
                        "it is {digest} by now and not {pinned}"
                    ))),
                    None => Ok(digest),
                }
            }
        }
    }

    /// The digest of what a reference to a registry names now.
    ///
    /// # Errors
    /// What went wrong and what to do about it.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest, ImageError> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        if !matches!(reference.source(), Source::Registry { .. }) {
            return Err(ImageError::new(
                "only images of a registry have a tag to resolve",
            ));
        }
        let (bytes, digest) = registry::Registry::new(reference, &self.insecure)?
            .root()
            .await?;
        verify(&bytes, digest)?;
        parse_document(&bytes)?;
        Ok(digest)
    }

    async fn fetch(&self, origin: &impl Origin) -> Result<Digest, ImageError> {
        let budget = Budget::new(&self.dir);
        let _asked = budget.cancel_on_drop();
        let (bytes, digest) = origin.root().await?;
        verify(&bytes, digest)?;
        let manifest_digest = match parse_document(&bytes)? {
            Document::Manifest(_) => digest,
            Document::Index(index) => pick_platform(&index)?,
        };
        let manifest_bytes = if manifest_digest == digest {
            bytes.clone()
        } else {
            let found = origin.document(manifest_digest).await?;
            verify(&found, manifest_digest)?;
            found
        };
        let Document::Manifest(manifest) = parse_document(&manifest_bytes)? else {
            return Err(ImageError::new("the index names another index"));
        };
        let config_digest = digest_of(manifest.config())?;
        let config_bytes = match fs::read(self.blob_path(config_digest)) {
            Ok(bytes) => bytes,
            Err(_) => {
                let temporary = Temporary(self.temporary(config_digest));
                let limit = MAX_DOCUMENT;
                self.download(
                    origin,
                    manifest.config(),
                    config_digest,
                    &temporary.0,
                    limit,
                    &budget,
                )
                .await?;
                fs::read(&temporary.0).attempt(|| "read the image's configuration".to_owned())?
            }
        };
        let config = parse_config(&config_bytes)?;
        let diff_ids = diff_ids(&config, &manifest)?;
        let mut below = Vec::new();
        for (descriptor, id) in manifest.layers().iter().zip(chain(&diff_ids)) {
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
    ) -> Result<PathBuf, ImageError> {
        let digest = digest_of(descriptor)?;
        let blob = Temporary(self.temporary(digest));
        self.download(origin, descriptor, digest, &blob.0, MAX_LAYER, budget)
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
        let unpacked: Result<PathBuf, ImageError> =
            unpacked.await.attempt(|| "unpack a layer".to_owned())?;
        unpacked.map_err(|error| ImageError::new(format!("layer {digest}: {}", error.why)))
    }

    /// Fetches a blob into a file and verifies it.
    async fn download(
        &self,
        origin: &impl Origin,
        descriptor: &Descriptor,
        digest: Digest,
        path: &Path,
        limit: u64,
        budget: &Budget,
    ) -> Result<(), ImageError> {
        if descriptor.size() > limit {
            return Err(ImageError::new(format!(
                "blob {digest} has {} bytes, the limit is {limit}",
                descriptor.size()
            )));
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
            Err(mismatch(digest, actual))
        }
    }

    fn keep(&self, digest: Digest, bytes: &[u8]) -> Result<(), ImageError> {
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

    /// An image that was pulled before, by the digest its reference was resolved to.
    ///
    /// # Errors
    /// When it, or a part of it, is not here.
    pub fn find(&self, digest: Digest) -> Result<Image, ImageError> {
        let read = |digest: Digest| {
            fs::read(self.blob_path(digest)).attempt(|| format!("find {digest} on this host"))
        };
        let manifest = match parse_document(&read(digest)?)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => match parse_document(&read(pick_platform(&index)?)?)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(ImageError::new("the index names another index")),
            },
        };
        let config = parse_config(&read(digest_of(manifest.config())?)?)?;
        let mut layers = Vec::new();
        for id in chain(&diff_ids(&config, &manifest)?) {
            let missing = || ImageError::new(format!("layer {} is not on this host", id.diff));
            let layer = self.layer_dir(id).ok_or_else(missing)?;
            // A layer may stand twice in an image; overlay refuses the same directory twice, and
            // once is the same.
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        Ok(Image { config, layers })
    }
}

/// The names a layer may have.
#[derive(Clone, Copy, Debug)]
struct LayerId {
    /// The digest of its uncompressed bytes.
    diff: Digest,
    /// The digest of it and all below it.
    chain: Digest,
}

/// The names of an image's layers, the lowest first (OCI image specification, "layer ChainID").
fn chain(diff_ids: &[Digest]) -> Vec<LayerId> {
    let next = |below: &mut Option<Digest>, diff: &Digest| {
        let chain = below.map_or(*diff, |below| {
            Digest::of(format!("{below} {diff}").as_bytes())
        });
        *below = Some(chain);
        Some(LayerId { diff: *diff, chain })
    };
    diff_ids.iter().scan(None, next).collect()
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
fn name_layer(tree: &Path, target: &Path) -> Result<(), ImageError> {
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

#[allow(
    clippy::large_enum_variant,
    reason = "one of them at a time, for a moment"
)]
enum Document {
    Index(ImageIndex),
    Manifest(ImageManifest),
}

fn verify(bytes: &[u8], digest: Digest) -> Result<(), ImageError> {
    let actual = Digest::of(bytes);
    if actual == digest {
        Ok(())
    } else {
        Err(mismatch(digest, actual))
    }
}

fn mismatch(expected: Digest, actual: Digest) -> ImageError {
    let help = "it was changed on the way or in the registry; nothing of it was used";
    ImageError::helped(format!("blob {expected} has the digest {actual}"), help)
}

/// An index has `manifests`, a manifest has `layers`: the media type is optional in both.
fn parse_document(bytes: &[u8]) -> Result<Document, ImageError> {
    /// Only whether it is there: what a document says may take many times its bytes in memory.
    #[derive(serde::Deserialize)]
    struct Kind {
        manifests: Option<serde::de::IgnoredAny>,
    }
    let what = || "read the image's manifest".to_owned();
    let kind: Kind = serde_json::from_slice(bytes).attempt(what)?;
    if kind.manifests.is_some() {
        serde_json::from_slice(bytes)
            .map(Document::Index)
            .attempt(what)
    } else {
        serde_json::from_slice(bytes)
            .map(Document::Manifest)
            .attempt(what)
    }
}

fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, ImageError> {
    serde_json::from_slice(bytes).attempt(|| "read the image's configuration".to_owned())
}

pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    let text = descriptor.digest().to_string();
    text.parse().attempt(|| format!("use the digest {text}"))
}

fn diff_ids(
    config: &ImageConfiguration,
    manifest: &ImageManifest,
) -> Result<Vec<Digest>, ImageError> {
    let ids = config.rootfs().diff_ids();
    if ids.len() != manifest.layers().len() || ids.is_empty() || ids.len() > MAX_LAYERS {
        let (layers, ids) = (manifest.layers().len(), ids.len());
        return Err(ImageError::new(format!(
            "the manifest has {layers} layers, its configuration {ids} (1 to {MAX_LAYERS})"
        )));
    }
    ids.iter()
        .map(|id| id.parse().attempt(|| format!("use the digest {id}")))
        .collect()
}

/// The manifest for this machine.
fn pick_platform(index: &ImageIndex) -> Result<Digest, ImageError> {
    let arch = Arch::default();
    let fits = |descriptor: &&Descriptor| {
        let manifest = !matches!(descriptor.media_type(), MediaType::ImageIndex);
        let platform = descriptor.platform().as_ref();
        manifest
            && platform.is_none_or(|platform| {
                *platform.os() == Os::Linux && *platform.architecture() == arch
            })
    };
    let mut candidates: Vec<&Descriptor> = index.manifests().iter().filter(fits).collect();
    // One that says what it is for comes before one that does not.
    candidates.sort_by_key(|descriptor| descriptor.platform().is_none());
    let Some(found) = candidates.first() else {
        let known: Vec<String> = index
            .manifests()
            .iter()
            .filter_map(|descriptor| descriptor.platform().as_ref())
            .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
            .collect();
        return Err(ImageError::new(format!(
            "it has nothing for linux/{arch}, only for {}",
            known.join(", ")
        )));
    };
    digest_of(found)
}
