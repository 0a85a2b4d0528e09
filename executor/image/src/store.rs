//! The image store of a host: pulling, keeping and finding images.

use crate::{
    Converter, Error, Layer, MAX_DOCUMENT, Mounts,
    config::{Configs, ImageConfig},
    converter,
    document::{self, Document, LayerId},
    error::Attempt,
    intake::{Intake, Way},
    platform::{self, Platform},
    progress::{Watch, Watched},
    registries::Registries,
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
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tank_layer::{budget::Budget, wire::Request};
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};
use tank_sys::remove;

/// How many layers of one image are fetched at once.
const AT_ONCE: usize = 3;

/// How the files of layers end.
const EXTENSION: &str = "erofs";

mod by_hand;
mod carry;
mod chosen;
mod describe;
mod fsck;
mod gc;
mod pins;
mod recipes;
mod sums;
#[cfg(test)]
mod tests;
mod writing;

pub(crate) use writing::{Temporary, look_after};

use writing::sync_dir;

pub use by_hand::ByHand;
pub use carry::{Carried, Contents};
pub(crate) use carry::{blob_name, describe};
pub use describe::{Described, DescribedLayer, Taken};
pub use fsck::{Part, Verdict};
pub use gc::{Collection, Sweep, Swept, Tally, folder_bytes};

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
    /// Whose it is: what several want of the same is fetched once.
    fn name(&self) -> String;
    /// How many of those who have it were found to lie.
    fn distrusted(&self) -> usize {
        0
    }
    /// What was given is not what its digest says; when it was asked for, `before` were found to lie. True:
    /// somebody else is asked from now on.
    fn distrust(&self, _before: usize) -> bool {
        false
    }
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
    registries: Registries,
    pub(crate) converter: Converter,
    configs: Arc<Configs>,
    mounts: Mounts,
    turns: Turns,
    pins: pins::Pins,
    /// Held by whoever changes what is kept by hand.
    by_hand: Arc<Mutex<()>>,
    /// What it pulls is held by it: see [`Images::holding`].
    hold: Option<Arc<pins::Hold>>,
}

impl Images {
    /// Opens the store in the folder `dir`, made if it is missing, and sweeps what was half done.
    /// Registries are asked as `registries` says.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn open(dir: &Path, registries: Registries, converter: Converter) -> std::io::Result<Self> {
        let images = Self {
            dir: dir.to_owned(),
            registries,
            converter,
            configs: Arc::default(),
            mounts: Mounts::new(dir.join("mounts")),
            turns: Turns::default(),
            pins: pins::Pins::default(),
            by_hand: Arc::default(),
            hold: None,
        };
        for sub in ["blobs/sha256", "layers", "empty"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let mounts = dir.join("mounts");
        if mounts.exists() {
            remove::tree(&mounts)?;
        }
        let half_done = dir.join("tmp");
        // A layer that an older version has unpacked is many files: they are removed in the background.
        if half_done.exists() && fs::remove_dir(&half_done).is_err() {
            let trash = dir.join(remove::TRASH);
            remove::put_away(&half_done, &trash).or_else(|_| remove::tree(&half_done))?;
        }
        fs::create_dir_all(dir.join("tmp"))?;
        Ok(images)
    }

    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
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
        watch: Option<Watch>,
    ) -> Result<Digest, Error> {
        if self.hold.is_none() {
            // For as long as it takes.
            return Box::pin(self.holding().pull(reference, base_dir, watch)).await;
        }
        if let Some(digest) = reference.digest()
            && self.is_held_here(digest)
        {
            return Ok(digest);
        }
        match reference.source() {
            ImageSource::Registry { .. } => {
                let origin = Registry::new(reference, &self.registries)?;
                self.fetch(&Watched { origin, watch }).await
            }
            source => {
                let origin = self.local(source, base_dir).await?;
                let origin = Watched { origin, watch };
                let found = self.fetch(&origin).await;
                let found = found.map_err(|error| origin.origin.explain(error))?;
                match reference.digest().filter(|pinned| *pinned != found) {
                    Some(pinned) => Err(Error::Repinned { pinned, found }),
                    None => Ok(found),
                }
            }
        }
    }

    /// What one pull may take.
    pub(crate) fn budget(&self) -> Budget {
        Budget::new(&self.dir)
    }

    /// Fetches what is not here of an image.
    pub(crate) async fn fetch(&self, origin: &impl Origin) -> Result<Digest, Error> {
        let fetched = self.fetch_for(origin, &Platform::host()).await?;
        Ok(fetched.0)
    }

    /// The same for a platform: the image, and its manifest for that.
    async fn fetch_for(
        &self,
        origin: &impl Origin,
        platform: &Platform,
    ) -> Result<(Digest, Digest), Error> {
        let budget = self.budget();
        let _cancel = budget.cancel_on_drop();
        let (bytes, digest) = origin.root().await?;
        document::verify(&bytes, digest)?;
        let manifest_digest = match document::parse(&bytes)? {
            Document::Manifest(_) => digest,
            Document::Index(index) => platform::best(&index, platform)?,
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
        self.hold([digest, manifest_digest, config_digest]);
        let config_bytes = self.config_bytes(origin, &manifest, &budget).await?;
        let config = document::parse_config(&config_bytes)?;
        platform.refuse_other(&config)?;
        let diff_ids = document::diff_ids(&config, &manifest)?;
        let ids = document::chain(&diff_ids);
        self.hold(ids.iter().flat_map(|id| [id.diff, id.chain]));
        let layers: Vec<(&Descriptor, LayerId)> = manifest.layers().iter().zip(ids).collect();
        self.fetch_layers(origin, &layers, &budget).await?;
        // The documents last: an image is here when its root is, and not before.
        self.keep(config_digest, &config_bytes)?;
        self.keep(manifest_digest, &manifest_bytes)?;
        self.keep(digest, &bytes)?;
        Ok((digest, manifest_digest))
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
        document::check_size(descriptor, MAX_DOCUMENT)?;
        loop {
            let before = origin.distrusted();
            let mut intake = Intake::new(Way::Memory(Vec::new()));
            origin.blob(descriptor, &mut intake, budget).await?;
            let (actual, bytes) = intake.finish();
            if actual == digest {
                return Ok(bytes);
            }
            if !origin.distrust(before) {
                let expected = digest;
                return Err(Error::Mismatch { expected, actual });
            }
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
        // Who sends slowly keeps nobody from having it elsewhere.
        let _turn = self.turns.take((digest, origin.name())).await;
        if matches!(self.layer(id), Some(Layer::Image(_))) {
            return Ok(());
        }
        let converted = loop {
            let before = origin.distrusted();
            let below = below.clone();
            match self.convert(origin, (descriptor, id), below, budget).await {
                Err(Error::Mismatch { .. }) if origin.distrust(before) => {}
                other => break other,
            }
        };
        match converted {
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
        document::check_layer(descriptor, id.diff)?;
        let temporary = Temporary(self.temporary(id.diff));
        let what = || "make the file of a layer".to_owned();
        let mut options = fs::File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let output = options.open(&temporary.0).attempt(what)?;
        let recipe = recipes::Written::new(self.temporary(id.diff))?;
        let open = |below: Vec<Layer>| below.iter().map(Layer::open_file).collect();
        let below: Option<Vec<fs::File>> = below.map(open).transpose()?;
        let request = Request {
            media_type: descriptor.media_type().to_string(),
            diff_id: Some(id.diff),
            below: below.as_ref().map(Vec::len),
            recipe: true,
            share: budget.left(),
            disk: self.dir.clone(),
            id: self.converter.id,
        };
        let root = self.dir.join("empty");
        let below = below.unwrap_or_default();
        let files = (&output, Some(&recipe.file));
        let (mut conversion, feed) = self.converter.start(&request, &root, files, &below)?;
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
        let (sum, crosses) = converter::outcome(reply, budget)?;
        let name = if crosses { id.chain } else { id.diff }.hex();
        let target = self.dir.join("layers").join(name).with_extension(EXTENSION);
        let record = Temporary(self.temporary(id.diff));
        let named = move || sums::name_layer((&output, sum), recipe, (temporary, record), &target);
        let named = tokio::task::spawn_blocking(named).await;
        named.attempt(|| "name a layer".to_owned())?
    }

    fn keep(&self, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        let (path, temporary) = (self.blob_path(digest), Temporary(self.temporary(digest)));
        // What has its name was synced before it got it.
        if fs::read(&path).is_ok_and(|known| known == bytes) {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary.0)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary.0, &path)?;
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
        let (config, ids) = document::read_image(digest, read)?;
        let mut layers = Vec::new();
        for id in ids {
            let layer = self.layer(id).ok_or(Error::NoLayer(id.diff))?;
            // A layer may stand twice in an image; overlay refuses the same root twice, and
            // once is the same.
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        Ok(Image { config, layers })
    }

    /// How registries are asked, and as whom.
    pub fn registries(&self) -> &Registries {
        &self.registries
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
