//! The image store of a host: pulling, keeping and finding images.

use crate::{
    Converter, Error, Layer, MAX_DOCUMENT, MAX_LAYER, Mounts,
    config::{Configs, ImageConfig},
    document::{self, Document, LayerId},
    error::Attempt,
    intake::{Intake, Way},
    layout::Layout,
    registry::Registry,
    turns::Turns,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tank_layer::{
    budget::Budget,
    wire::{Reply, Request},
};
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};

/// How many layers of one image are fetched at once.
const AT_ONCE: usize = 3;

/// How often the disk is looked at while layers are written.
const LOOK: Duration = Duration::from_millis(200);

/// How the files of layers end.
const EXTENSION: &str = "erofs";

#[cfg(test)]
mod tests;

/// An image that is whole on disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// How it says it is run, as it came (OCI image specification, "Image Configuration").
    pub config: ImageConfiguration,
    /// Its layers, the lowest first. Each stands there once.
    pub layers: Vec<Layer>,
}

/// Where the parts of one image come from.
pub(crate) trait Origin {
    /// The document that the reference names, with its digest.
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error>;
    /// A document by its digest, not yet verified.
    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error>;
    /// Passes on a blob of at most the descriptor's size, not yet verified.
    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error>;
}

/// The image store of a host. Clones share it.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) dir: PathBuf,
    insecure: Vec<String>,
    pub(crate) converter: Converter,
    configs: Arc<Configs>,
    mounts: Mounts,
    turns: Turns,
}

impl Images {
    /// Opens the store in the folder `dir`, made if it is missing, and sweeps what was half done.
    /// The registries `insecure` (`HOST` or `HOST:PORT`) are spoken to without TLS.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn open(dir: &Path, insecure: &[String], converter: Converter) -> std::io::Result<Self> {
        let images = Self {
            dir: dir.to_owned(),
            insecure: insecure.to_vec(),
            converter,
            configs: Arc::default(),
            mounts: Mounts::new(dir.join("mounts")),
            turns: Turns::default(),
        };
        for sub in ["blobs/sha256", "layers", "empty"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        for swept in ["tmp", "mounts"].map(|name| dir.join(name)) {
            if swept.exists() {
                tank_sys::remove::tree(&swept)?;
            }
        }
        fs::create_dir_all(dir.join("tmp"))?;
        Ok(images)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn temporary(&self, digest: Digest) -> PathBuf {
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
        let ids = document::chain(&diff_ids);
        let layers: Vec<(&Descriptor, LayerId)> = manifest.layers().iter().zip(ids).collect();
        self.fetch_layers(origin, &layers, &budget).await?;
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
        check_size(descriptor, MAX_DOCUMENT)?;
        let mut intake = Intake::new(Way::Memory(Vec::new()));
        origin.blob(descriptor, &mut intake, budget).await?;
        let (actual, bytes) = intake.finish();
        match actual == digest {
            true => Ok(bytes),
            false => Err(Error::Mismatch {
                expected: digest,
                actual,
            }),
        }
    }

    /// Where a layer is, if it is here.
    fn layer(&self, id: LayerId) -> Option<Layer> {
        let folder = self.dir.join("layers");
        let paths = [id.diff, id.chain].map(|digest| folder.join(digest.hex()));
        let mut images = paths.iter().map(|path| path.with_extension(EXTENSION));
        let image = images.find(|path| path.is_file()).map(Layer::Image);
        image.or_else(|| {
            let folder = paths.into_iter().find(|path| path.is_dir());
            folder.map(Layer::Folder)
        })
    }

    /// Fetches the layers of an image that are not here, the lowest first: several at once, and behind
    /// them those that have something of the layers below.
    async fn fetch_layers(
        &self,
        origin: &impl Origin,
        layers: &[(&Descriptor, LayerId)],
        budget: &Budget,
    ) -> Result<(), Error> {
        let mut missing = Vec::new();
        for layer in layers {
            if self.layer(layer.1).is_none() {
                missing.push(self.fetch_layer(origin, *layer, None, budget));
            }
        }
        let mut fetching = stream::iter(missing).buffer_unordered(AT_ONCE);
        while fetching.try_next().await?.is_some() {}
        let crossing = |(_, (_, id)): &(usize, &(&Descriptor, LayerId))| self.layer(*id).is_none();
        let crossing: Vec<usize> = layers
            .iter()
            .enumerate()
            .filter(crossing)
            .map(|(index, _)| index)
            .collect();
        for index in crossing {
            // What a version before this one unpacked can't be read by the process that converts.
            for below in layers.iter().take(index) {
                if !matches!(self.layer(below.1), Some(Layer::Image(_))) {
                    self.fetch_layer(origin, *below, None, budget).await?;
                }
            }
            let below = layers.iter().take(index).rev();
            let below = below.filter_map(|(_, id)| self.layer(*id)).collect();
            let Some(layer) = layers.get(index) else {
                continue;
            };
            self.fetch_layer(origin, *layer, Some(below), budget)
                .await?;
        }
        Ok(())
    }

    /// Fetches a layer that lies on those `below`, of which the nearest comes first. One that has
    /// something of them is not here afterwards if they are not known.
    async fn fetch_layer(
        &self,
        origin: &impl Origin,
        (descriptor, id): (&Descriptor, LayerId),
        below: Option<Vec<Layer>>,
        budget: &Budget,
    ) -> Result<(), Error> {
        let digest = document::digest_of(descriptor)?;
        let _turn = self.turns.take(digest).await;
        if matches!(self.layer(id), Some(Layer::Image(_))) {
            return Ok(());
        }
        match self.convert(origin, (descriptor, id), below, budget).await {
            Err(Error::Content(error)) if error.needs_below() => Ok(()),
            // What is said of a blob names it.
            Err(
                error @ (Error::Content(_) | Error::Convert(_) | Error::Converter | Error::Io(..)),
            ) => Err(Error::Layer(digest, Box::new(error))),
            other => other,
        }
    }

    /// As [`Images::fetch_layer`], of a layer that is not here.
    async fn convert(
        &self,
        origin: &impl Origin,
        (descriptor, id): (&Descriptor, LayerId),
        below: Option<Vec<Layer>>,
        budget: &Budget,
    ) -> Result<(), Error> {
        check_size(descriptor, MAX_LAYER)?;
        let temporary = Temporary(self.temporary(id.diff));
        let what = || "make the file of a layer".to_owned();
        let mut options = fs::File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let output = options.open(&temporary.0).attempt(what)?;
        let open = |below: Vec<Layer>| below.iter().map(Layer::open_file).collect();
        let below: Option<Vec<fs::File>> = below.map(open).transpose()?;
        let request = Request {
            media_type: descriptor.media_type().to_string(),
            diff_id: Some(id.diff),
            below: below.as_ref().map(Vec::len),
            share: budget.left(),
            disk: self.dir.clone(),
            id: self.converter.id,
        };
        let root = self.dir.join("empty");
        let below = below.unwrap_or_default();
        let (mut conversion, feed) = self.converter.start(&request, &root, &output, &below)?;
        let output = Arc::new(output);
        let converted = async {
            let mut intake = Intake::new(Way::Pipe(feed));
            origin.blob(descriptor, &mut intake, budget).await?;
            let expected = document::digest_of(descriptor)?;
            // With this the pipe is at its end.
            let (actual, _) = intake.finish();
            if actual != expected {
                return Err(Error::Mismatch { expected, actual });
            }
            conversion.reply().await
        };
        let reply = tokio::select! {
            reply = converted => reply?,
            refused = look_after(&output, budget) => return Err(refused),
        };
        let crosses = match reply {
            Reply::Failed(error) => return Err(error.into()),
            Reply::Done { crosses, taken } => {
                budget.take(taken)?;
                crosses
            }
        };
        let name = if crosses { id.chain } else { id.diff }.hex();
        let target = self.dir.join("layers").join(name).with_extension(EXTENSION);
        let named = move || name_layer(&output, temporary, &target);
        let named = tokio::task::spawn_blocking(named).await;
        named.attempt(|| "name a layer".to_owned())?
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
            let layer = self.layer(id).ok_or(Error::NoLayer(id.diff))?;
            // A layer may stand twice in an image; overlay refuses the same root twice, and
            // once is the same.
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        Ok(Image { config, layers })
    }

    /// The mounts of layers.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
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
        let config = Arc::new(ImageConfig::read(
            &self.mounts,
            &self.find(*digest)?,
            &scratch.0,
        )?);
        self.configs.insert(*digest, &config);
        Ok(config)
    }
}

/// A file or a directory with a temporary name: it goes with this.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What it can't remove now is swept at the next start.
        if fs::remove_file(&self.0).is_err() {
            let _ = tank_sys::remove::tree(&self.0);
        }
    }
}

/// Gives a layer its name. One that has it is whole, also after a power cut.
fn name_layer(output: &fs::File, temporary: Temporary, target: &Path) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        output.sync_all()?;
        fs::rename(&temporary.0, target)?;
        sync_dir(target)
    };
    write().attempt(|| "write a layer to the disk".to_owned())
}

/// Has what is written of a layer go to the disk while more of it comes, and ends when the disk is so
/// full that the store's reserve begins, whatever the process that converts looks at.
pub(crate) async fn look_after(output: &Arc<fs::File>, budget: &Budget) -> Error {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(refusal) = budget.space() {
            return refusal.into();
        }
        let output = Arc::clone(output);
        let written = tokio::task::spawn_blocking(move || output.sync_data()).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(error.into())) {
            return Error::Io("write a layer to the disk".to_owned(), error);
        }
    }
}

/// Refuses a blob that is said to be longer than `limit`.
fn check_size(descriptor: &Descriptor, limit: u64) -> Result<(), Error> {
    let (digest, size) = (document::digest_of(descriptor)?, descriptor.size());
    match size > limit {
        true => Err(Error::TooLarge {
            digest,
            size,
            limit,
        }),
        false => Ok(()),
    }
}

/// Writes the name of `path` to the disk: a generation that needs it may be committed next.
fn sync_dir(path: &Path) -> std::io::Result<()> {
    fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}
