//! Checking what is kept: documents by their digests, layers by the digests of their files; and fetching again
//! what is damaged.
//!
//! What is read is read once, a piece at a time, and nobody waits for it. A layer is replaced by renaming the new
//! file over it: who is mounted from the old one keeps that, and whoever is mounted next gets the new one.

use super::{
    EXTENSION, Images, Origin, Temporary,
    gc::{self, Kind},
    recipes,
    sums::{Form, NO_FOLLOW, Record, Sum},
};
use crate::{
    Error, Layer, document,
    document::{Document, LayerId},
    error::Attempt,
    registry::Registry,
};
use oci_spec::image::Descriptor;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tank_layer::budget::Budget;
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};

/// Something that is kept for images.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// A manifest, an index or a configuration.
    Document(Digest),
    /// A layer's file, by the digest it is called by: that of its uncompressed bytes, or of those and all below.
    Layer(Digest),
    /// A layer that is a folder, as versions before this one made them.
    Folder(Digest),
}

impl Part {
    /// What it is called by.
    pub fn digest(&self) -> &Digest {
        let (Self::Document(digest) | Self::Layer(digest) | Self::Folder(digest)) = self;
        digest
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Document(_) => "document",
            Self::Layer(_) | Self::Folder(_) => "layer",
        };
        write!(f, "{kind} {}", self.digest())
    }
}

/// What a part is found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// What its digest says.
    Good,
    /// No digest of it was kept. Of a file there is one from now on.
    Unverified,
    /// What its digest says; but a version before this one made it, and its archive can't be written again.
    NoRecipe,
    /// Something else than its digest says; how, in words.
    Damaged(String),
    /// It was removed meanwhile.
    Gone,
}

impl Images {
    /// Everything that is kept, documents first. What Tank does not call so is not among it. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn kept(&self) -> Result<Vec<Part>, Error> {
        let list = |folder: &str| {
            let names = gc::names(&self.dir.join(folder));
            names.attempt(|| format!("list {folder}"))
        };
        let documents = list("blobs/sha256")?;
        let documents = documents.iter().filter_map(|name| gc::of_hex(name));
        let layers = list("layers")?;
        let layers = layers.iter().filter_map(|name| match gc::layer_of(name)? {
            (Kind::Image, digest) => Some(Part::Layer(digest)),
            (Kind::Folder, digest) => Some(Part::Folder(digest)),
            (Kind::Recipe | Kind::Sum, _) => None,
        });
        Ok(documents.map(Part::Document).chain(layers).collect())
    }

    /// The bytes that a check reads of a part.
    pub fn length(&self, part: &Part) -> u64 {
        let path = self.path_of(part);
        let recipe =
            matches!(part, Part::Layer(_)).then(|| path.with_extension(recipes::EXTENSION));
        let files = [Some(path), recipe].into_iter().flatten();
        let length = |path: PathBuf| fs::symlink_metadata(path).map_or(0, |found| found.len());
        files.map(length).sum()
    }

    fn path_of(&self, part: &Part) -> PathBuf {
        match part {
            Part::Document(digest) => self.blob_path(*digest),
            Part::Layer(digest) => self.layer_path(*digest),
            Part::Folder(digest) => self.dir.join("layers").join(digest.hex()),
        }
    }

    fn layer_path(&self, digest: Digest) -> PathBuf {
        let folder = self.dir.join("layers");
        folder.join(digest.hex()).with_extension(EXTENSION)
    }

    /// Reads a part and compares it with its digest. `goes_on` is asked now and then. Blocking, for as long as the
    /// disk takes for all of its bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] when it does not go on.
    pub fn check(&self, part: &Part, goes_on: &mut dyn FnMut() -> bool) -> io::Result<Verdict> {
        let path = self.path_of(part);
        let verdict = match part {
            Part::Folder(_) => Ok(Verdict::Unverified),
            Part::Document(digest) => open(&path)
                .and_then(|file| Sum::of(&file, Form::Whole, goes_on))
                .map(|sum| match sum.digest == *digest {
                    true => Verdict::Good,
                    false => Verdict::Damaged(format!("it has the digest {}", sum.digest)),
                }),
            Part::Layer(_) => check_layer(self, &path, goes_on),
        };
        match verdict {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Verdict::Gone),
            // What can't be read is no better than what is something else.
            Err(error) => Ok(Verdict::Damaged(format!("it can't be read: {error}"))),
            Ok(verdict) => Ok(verdict),
        }
    }

    /// The digests of all documents and layers of an image that is here. Blocking.
    ///
    /// # Errors
    /// When a document of it is not here, or damaged.
    pub fn parts(&self, image: Digest) -> Result<BTreeSet<Digest>, Error> {
        gc::parts(self, image)
    }

    /// Whether an image is here as a whole: every document, and a file of every layer. Blocking.
    ///
    /// # Errors
    /// What of it is not here.
    pub fn is_here(&self, image: Digest) -> Result<(), Error> {
        self.find(image).map(drop)
    }

    /// Fetches what of an image is missing or `damaged` from where `reference` says, and puts it in the place of
    /// what is there. Only what the image's digest names is taken. A layout's relative folder is one of
    /// `base_dir`.
    ///
    /// # Errors
    /// What went wrong. What was replaced by then stays so.
    pub async fn repair(
        &self,
        (reference, image): (&Reference, Digest),
        base_dir: Option<&Path>,
        damaged: &BTreeSet<Part>,
    ) -> Result<(), Error> {
        let images = self.holding();
        match reference.source() {
            ImageSource::Registry { .. } => {
                let registry = Registry::new(reference, &self.registries)?;
                images.repair_from(&registry, image, damaged).await
            }
            source => {
                let local = self.local(source, base_dir).await?;
                images.repair_from(&local, image, damaged).await
            }
        }
    }

    async fn repair_from(
        &self,
        origin: &impl Origin,
        image: Digest,
        damaged: &BTreeSet<Part>,
    ) -> Result<(), Error> {
        let budget = Budget::new(&self.dir);
        let _cancel = budget.cancel_on_drop();
        self.hold([image]);
        let fetch = async |digest: Digest| {
            let bytes = origin.document(digest).await?;
            document::verify(&bytes, digest)?;
            Ok::<_, Error>(bytes)
        };
        let bytes = fetch(image).await?;
        let manifest_digest = match document::parse(&bytes)? {
            Document::Manifest(_) => image,
            Document::Index(index) => crate::platform::best(&index, &crate::Platform::host())?,
        };
        let manifest_bytes = match manifest_digest == image {
            true => bytes.clone(),
            false => fetch(manifest_digest).await?,
        };
        let Document::Manifest(manifest) = document::parse(&manifest_bytes)? else {
            return Err(Error::NestedIndex);
        };
        let config_digest = document::digest_of(manifest.config())?;
        self.hold([manifest_digest, config_digest]);
        if damaged.contains(&Part::Document(config_digest)) {
            // What is read from the store would be the damaged one.
            let trash = Temporary(self.temporary(config_digest));
            let moved = fs::rename(self.blob_path(config_digest), &trash.0);
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io(format!("set {config_digest} aside"), error));
                }
                _ => {}
            }
        }
        let config_bytes = self.config_bytes(origin, &manifest, &budget).await?;
        let config = document::parse_config(&config_bytes)?;
        let ids = document::chain(&document::diff_ids(&config, &manifest)?);
        self.hold(ids.iter().flat_map(|id| [id.diff, id.chain]));
        let layers: Vec<(&Descriptor, LayerId)> = manifest.layers().iter().zip(ids).collect();
        for index in 0..layers.len() {
            self.repair_layer(origin, (&layers, index), damaged, &budget)
                .await?;
        }
        self.fetch_layers(origin, &layers, &budget).await?;
        self.keep(config_digest, &config_bytes)?;
        self.keep(manifest_digest, &manifest_bytes)?;
        self.keep(image, &bytes)
    }

    /// Makes a damaged layer anew, in the place of the one that is there.
    async fn repair_layer(
        &self,
        origin: &impl Origin,
        (layers, index): (&[(&Descriptor, LayerId)], usize),
        damaged: &BTreeSet<Part>,
        budget: &Budget,
    ) -> Result<(), Error> {
        let Some(layer) = layers.get(index) else {
            return Ok(());
        };
        let (descriptor, id) = *layer;
        let of_name = |name: Digest| damaged.contains(&Part::Layer(name));
        if !of_name(id.diff) && !of_name(id.chain) {
            return Ok(());
        }
        let digest = document::digest_of(descriptor)?;
        let _turn = self.turns.take((digest, origin.name())).await;
        // Another image that has it may have had it made anew.
        let names = [id.diff, id.chain]
            .into_iter()
            .filter(|name| of_name(*name));
        let mut still = false;
        for name in names {
            let (images, part) = (self.clone(), Part::Layer(name));
            let check = tokio::task::spawn_blocking(move || images.check(&part, &mut || true));
            let verdict = check.await.attempt(|| "check a layer".to_owned())?;
            still |= !matches!(verdict, Ok(Verdict::Good | Verdict::Gone));
        }
        if !still {
            return Ok(());
        }
        let made = self.convert(origin, *layer, None, budget).await;
        let made = match made {
            Err(Error::Content(error)) if error.needs_below() => {
                let below = layers.iter().take(index).rev();
                let below: Vec<Layer> = below.filter_map(|(_, id)| self.layer(*id)).collect();
                self.convert(origin, *layer, Some(below), budget).await
            }
            other => other,
        };
        for name in [id.diff, id.chain] {
            self.mounts.forget(&self.layer_path(name));
        }
        made
    }
}

fn check_layer(
    images: &Images,
    path: &Path,
    goes_on: &mut dyn FnMut() -> bool,
) -> io::Result<Verdict> {
    let file = open(path)?;
    let known = Record::read(path);
    let form = known.map_or(Form::Pieces, |known| known.image.form);
    let found = Sum::of(&file, form, goes_on)?;
    let Some(known) = known else {
        // As an older version made it. From now on it is known what it was today.
        let digest = gc::layer_of(&path.file_name().unwrap_or_default().to_string_lossy());
        if let Some((_, digest)) = digest {
            let record = Temporary(images.temporary(digest));
            let recipe = recipes::open(path)?;
            let recipe = recipe
                .map(|file| Sum::of(&file, Form::Pieces, goes_on))
                .transpose()?;
            let image = found;
            Record { image, recipe }.write(path, &record)?;
        }
        return Ok(Verdict::Unverified);
    };
    let Record { image, recipe } = known;
    if image.length != found.length {
        return Ok(Verdict::Damaged(format!(
            "it has {} bytes, and had {} when it was made",
            found.length, image.length
        )));
    }
    if image != found {
        return Ok(Verdict::Damaged(format!(
            "its file has the digest {}, and had {} when it was made",
            found.digest, image.digest
        )));
    }
    Ok(match recipe {
        None => Verdict::NoRecipe,
        Some(recipe) => {
            recipes::check(path, recipe, goes_on)?.map_or(Verdict::Good, Verdict::Damaged)
        }
    })
}

/// Opens a file, and only a file: no link is followed.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    let file = options.read(true).custom_flags(NO_FOLLOW).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}
