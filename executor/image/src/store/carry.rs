//! Images that leave this host or come to it as a whole: their documents as they are, and each layer once, as its
//! plain tar.
//!
//! A tar is written again by the process that converts layers, of the layer's image and its recipe: this process
//! passes its bytes on, and compares their digest with what the image's configuration names. What comes is verified
//! as what a registry sends: documents from the image's digest on, layers while they are converted. Documents are
//! kept last, so an image is not here before all of it is.

use super::{EXTENSION, Images, Origin, recipes};
use crate::{
    Error, Layer, MAX_DOCUMENT,
    converter::Conversion,
    document::{self, LayerId},
    error::Attempt,
    intake::{Intake, Way},
    packed::{PIECE, Packer, Unpacker, wrong},
};
use oci_spec::image::{Descriptor, DescriptorBuilder, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};
use tank_layer::{
    budget::{Budget, MAX_BYTES},
    wire::{Rebuild, Rebuilt},
};
use tank_model::Digest;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::Mutex, time::timeout};

/// The longest that is waited for a tar to begin, which takes reading its recipe, and to go on.
const BEGINNING: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(60);

/// The most documents, and the most layers, that leave or come at once.
const MAX_CARRIED: usize = 4_000;

/// The most bytes of all documents together.
const MAX_DOCUMENTS: u64 = 256 << 20;

/// The most bytes of documents that are read for all images together: several may name the same.
const MAX_READ: u64 = 2 * MAX_DOCUMENTS;

/// A layer that leaves or comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// Where it has something of the layers below it: the digest of it and all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<Digest>,
}

/// What some images consist of, each part once, in the order in which it is carried.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// Indexes, manifests and configurations: of each image from its digest on.
    pub documents: Vec<Digest>,
    /// Of each image the lowest first.
    pub layers: Vec<Carried>,
}

/// The documents of one image, and its layers, the lowest first.
struct Parts {
    documents: Vec<Digest>,
    layers: Vec<LayerId>,
}

/// Reads what an image consists of.
fn parts(
    image: Digest,
    mut read: impl FnMut(Digest) -> Result<Vec<u8>, Error>,
) -> Result<Parts, Error> {
    let mut documents = Vec::new();
    let read = |digest: Digest| {
        documents.push(digest);
        let bytes = read(digest)?;
        document::verify(&bytes, digest)?;
        Ok(bytes)
    };
    let (_, layers) = document::read_image(image, read)?;
    Ok(Parts { documents, layers })
}

impl Contents {
    /// Adds an image; `of` says what a layer is carried as.
    fn add(
        &mut self,
        parts: Parts,
        of: impl Fn(LayerId) -> Result<Carried, Error>,
    ) -> Result<(), Error> {
        for digest in parts.documents {
            if !self.documents.contains(&digest) {
                self.documents.push(digest);
            }
        }
        for id in parts.layers {
            let layer = of(id)?;
            if !self.layers.contains(&layer) {
                self.layers.push(layer);
            }
        }
        match self.documents.len().max(self.layers.len()) {
            0..=MAX_CARRIED => Ok(()),
            _ => Err(wrong(format!(
                "more than {MAX_CARRIED} documents or layers"
            ))),
        }
    }
}

/// What a document and a layer are called in an archive.
pub(crate) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The tar of a layer, on its way.
pub(crate) struct Tar {
    pub length: u64,
    diff_id: Digest,
    pipe: pipe::Receiver,
    conversion: Conversion,
}

impl Images {
    /// What these images consist of, from now on held. Blocking.
    ///
    /// # Errors
    /// When something of one is not here, or can't be carried.
    pub fn contents(&self, images: &BTreeSet<Digest>) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        for image in images {
            if !self.is_held_here(*image) {
                // Says what is missing.
                self.parts(*image)?;
                self.is_here(*image)?;
            }
            let read = |digest: Digest| {
                let bytes = fs::read(self.blob_path(digest));
                bytes.attempt(|| format!("find {digest} on this host"))
            };
            let carried = |id: LayerId| {
                let diff_id = id.diff;
                let chain_id = match self.layer(id) {
                    Some(Layer::Image(path)) if path == self.image_path(diff_id) => None,
                    Some(Layer::Image(_)) => Some(id.chain),
                    Some(Layer::Folder(_)) => return Err(Error::NoRecipe(diff_id)),
                    None => return Err(Error::NoLayer(diff_id)),
                };
                let layer = Carried { diff_id, chain_id };
                match recipes::open(&self.path_of_carried(layer)) {
                    Ok(Some(_)) => Ok(layer),
                    _ => Err(Error::NoRecipe(diff_id)),
                }
            };
            contents.add(parts(*image, read)?, carried)?;
        }
        Ok(contents)
    }

    fn image_path(&self, digest: Digest) -> PathBuf {
        let path = self.dir.join("layers").join(digest.hex());
        path.with_extension(EXTENSION)
    }

    fn path_of_carried(&self, layer: Carried) -> PathBuf {
        self.image_path(layer.chain_id.unwrap_or(layer.diff_id))
    }

    /// Begins to write the tar of a layer again.
    pub(crate) async fn tar(&self, layer: Carried) -> Result<Tar, Error> {
        let (path, diff_id) = (self.path_of_carried(layer), layer.diff_id);
        let what = || format!("read the layer {diff_id}");
        let recipe = recipes::open(&path).attempt(what)?;
        let recipe = recipe.ok_or(Error::NoRecipe(diff_id))?;
        let image = Layer::Image(path).open_file()?;
        let request = Rebuild {
            share: self.budget().left(),
            id: self.converter.id,
        };
        let root = self.dir.join("empty");
        let files = (&recipe, &image);
        let (mut conversion, pipe) = self.converter.rebuild(request, &root, files)?;
        let begun = timeout(BEGINNING, conversion.next()).await;
        let length = match begun.map_err(|_| Error::Converter)?? {
            Rebuilt::Begun(length) if length <= MAX_BYTES => length,
            Rebuilt::Begun(size) => {
                return Err(Error::TooLarge {
                    digest: diff_id,
                    size,
                    limit: MAX_BYTES,
                });
            }
            Rebuilt::Failed(error) => return Err(damaged(diff_id, error.into())),
            Rebuilt::Done => return Err(Error::Converter),
        };
        Ok(Tar {
            length,
            diff_id,
            pipe,
            conversion,
        })
    }

    /// Adds documents and layers of images to an archive. `each` is called before each, with what it is.
    ///
    /// # Errors
    /// When something of it is no longer what it was, or nobody reads on.
    pub async fn pack(
        &self,
        contents: &Contents,
        out: &mut Packer,
        each: impl Fn(&str),
    ) -> Result<(), Error> {
        for digest in &contents.documents {
            let bytes = fs::read(self.blob_path(*digest));
            let bytes = bytes.attempt(|| format!("find {digest} on this host"))?;
            document::verify(&bytes, *digest)?;
            out.file(&blob_name(*digest), &bytes).await?;
        }
        for layer in &contents.layers {
            each("before a layer is exported");
            let tar = self.tar(*layer).await?;
            tar.pack(&blob_name(layer.diff_id), out).await?;
        }
        Ok(())
    }

    /// Takes documents and layers of images from an archive, which has to have what these images consist of and
    /// `said` names, and nothing else. What comes is held. `each` is called after each, with what it was.
    ///
    /// # Errors
    /// When it is anything else, or can't be kept. No image is here then that was not before.
    pub async fn unpack_images(
        &self,
        images: &BTreeSet<Digest>,
        said: &Contents,
        from: &Mutex<Unpacker>,
        each: impl Fn(&str),
    ) -> Result<(), Error> {
        let documents = self.unpack_documents(said, from).await?;
        let (wanted, claimed) = (images.clone(), said.clone());
        let look = move || {
            let found = expected(&wanted, &claimed, &documents);
            found.map(|(expected, chains)| (documents, expected, chains))
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let (documents, expected, chains) =
            looked.attempt(|| "look at an image's documents".to_owned())??;
        if expected != *said {
            return Err(wrong(
                "what it says that it has is not what its images need",
            ));
        }
        let whole = expected.documents.iter().copied();
        let layers = chains.iter().flatten().flat_map(|id| [id.diff, id.chain]);
        self.hold(whole.chain(layers));
        for layer in &said.layers {
            let name = blob_name(layer.diff_id);
            let taken = self.unpack_layer(*layer, &chains, from).await;
            taken.map_err(|error| match error {
                error @ (Error::Packed(_) | Error::Io(..)) => error,
                other => Error::Member(name, Box::new(other)),
            })?;
            each("after a layer is imported");
        }
        from.lock().await.end().await?;
        // The images' own digests last.
        for digest in said.documents.iter().rev() {
            if let Some(bytes) = documents.get(digest) {
                self.keep(*digest, bytes)?;
                each("after a document is imported");
            }
        }
        Ok(())
    }

    async fn unpack_documents(
        &self,
        said: &Contents,
        from: &Mutex<Unpacker>,
    ) -> Result<BTreeMap<Digest, Vec<u8>>, Error> {
        if said.documents.len().max(said.layers.len()) > MAX_CARRIED {
            return Err(wrong(format!(
                "more than {MAX_CARRIED} documents or layers"
            )));
        }
        let mut left = MAX_DOCUMENTS;
        let mut documents = BTreeMap::new();
        for digest in &said.documents {
            let name = blob_name(*digest);
            let bytes = from
                .lock()
                .await
                .file(&name, MAX_DOCUMENT.min(left))
                .await?;
            left -= bytes.len() as u64;
            document::verify(&bytes, *digest)
                .map_err(|error| Error::Member(name, Box::new(error)))?;
            documents.insert(*digest, bytes);
        }
        Ok(documents)
    }

    async fn unpack_layer(
        &self,
        layer: Carried,
        chains: &[Vec<LayerId>],
        from: &Mutex<Unpacker>,
    ) -> Result<(), Error> {
        let Carried { diff_id, chain_id } = layer;
        let size = from
            .lock()
            .await
            .begin(&blob_name(diff_id), MAX_BYTES)
            .await?;
        let is_it =
            |id: &LayerId| id.diff == diff_id && chain_id.is_none_or(|chain| chain == id.chain);
        let places = chains.iter().filter_map(|ids| {
            let at = ids.iter().position(is_it)?;
            Some((*ids.get(at)?, ids.get(..at)?))
        });
        let (id, below) = places
            .min_by_key(|(_, below)| below.len())
            .ok_or(Error::NoLayer(diff_id))?;
        let origin = Member(from);
        let descriptor = describe(diff_id, size)?;
        let budget = self.budget();
        let _cancel = budget.cancel_on_drop();
        // Under that very name: what is taken does not depend on what is here.
        if self.path_of_carried(layer).is_file() {
            // It is compared all the same: who sends something else is refused.
            let mut intake = Intake::new(Way::Nowhere);
            origin.blob(&descriptor, &mut intake, &budget).await?;
            document_is(diff_id, intake.finish().0)?;
        } else {
            let below = chain_id.map(|_| {
                let below = below.iter().rev();
                below.filter_map(|id| self.layer(*id)).collect()
            });
            self.convert(&origin, (&descriptor, id), below, &budget)
                .await?;
        }
        from.lock().await.pad(size).await
    }
}

fn document_is(expected: Digest, actual: Digest) -> Result<(), Error> {
    match actual == expected {
        true => Ok(()),
        false => Err(Error::Mismatch { expected, actual }),
    }
}

/// What these images consist of by the documents that came, and the layers of each. A layer is carried as `said`
/// has it.
fn expected(
    images: &BTreeSet<Digest>,
    said: &Contents,
    documents: &BTreeMap<Digest, Vec<u8>>,
) -> Result<(Contents, Vec<Vec<LayerId>>), Error> {
    let known: BTreeSet<Carried> = said.layers.iter().copied().collect();
    let mut left = MAX_READ;
    let (mut contents, mut chains) = (Contents::default(), Vec::new());
    for image in images {
        let read = |digest: Digest| {
            let missing = || {
                wrong(format!(
                    "it has no `{}`, which its images need",
                    blob_name(digest)
                ))
            };
            let bytes = documents.get(&digest).ok_or_else(missing)?;
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| wrong("its images name the same documents too often"))?;
            Ok(bytes.clone())
        };
        let parts = parts(*image, read)?;
        chains.push(parts.layers.clone());
        let carried = |id: LayerId| {
            let diff_id = id.diff;
            let chain_id = Some(id.chain);
            let forms = [None, chain_id].map(|chain_id| Carried { diff_id, chain_id });
            let missing = || wrong(format!("it has no layer {diff_id}, which its images need"));
            let mut forms = forms.into_iter();
            forms.find(|form| known.contains(form)).ok_or_else(missing)
        };
        contents.add(parts, carried)?;
    }
    Ok((contents, chains))
}

/// A plain tar.
pub(crate) fn describe(diff_id: Digest, size: u64) -> Result<Descriptor, Error> {
    let digest = oci_spec::image::Digest::from_str(&diff_id.to_string());
    let built = DescriptorBuilder::default()
        .media_type(MediaType::ImageLayer)
        .digest(digest.map_err(Error::Made)?)
        .size(size)
        .build();
    built.map_err(Error::Made)
}

/// What is kept of a layer gives another tar than it was made of, or none.
fn damaged(diff_id: Digest, error: Error) -> Error {
    Error::Damaged(diff_id, Box::new(error))
}

impl Tar {
    /// Passes all of it on, as a file of an archive.
    pub async fn pack(mut self, name: &str, out: &mut Packer) -> Result<(), Error> {
        out.begin(name, self.length).await?;
        let diff_id = self.diff_id;
        let mut hasher = Sha256::new();
        let mut left = self.length;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = piece.get_mut(..most).unwrap_or_default();
            let read = timeout(PATIENCE, self.pipe.read(piece)).await;
            let read = read.map_err(|_| damaged(diff_id, Error::Converter))?;
            let read = read.attempt(|| format!("read the layer {diff_id}"))?;
            let bytes = piece.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            out.content(bytes).await?;
            left -= read as u64;
        }
        // Whoever writes more than it said waits for nobody.
        drop(self.pipe);
        let ended = timeout(PATIENCE, self.conversion.next()).await;
        match ended.map_err(|_| Error::Converter)?? {
            Rebuilt::Done if left == 0 => {}
            Rebuilt::Failed(error) => return Err(damaged(diff_id, error.into())),
            _ => return Err(damaged(diff_id, Error::Converter)),
        }
        let actual = Digest::from_bytes(hasher.finalize().into());
        document_is(diff_id, actual).map_err(|error| damaged(diff_id, error))?;
        out.pad(self.length).await
    }
}

/// The file of an archive that comes next.
struct Member<'m>(&'m Mutex<Unpacker>);

impl Origin for Member<'_> {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        Err(Error::NoRegistry)
    }

    fn name(&self) -> String {
        "an archive".to_owned()
    }

    async fn document(&self, _digest: Digest) -> Result<Vec<u8>, Error> {
        Err(Error::NoRegistry)
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let mut from = self.0.lock().await;
        let mut left = descriptor.size();
        let mut piece = vec![0; PIECE];
        while left > 0 {
            budget.go_on()?;
            let read = from.content(left, &mut piece).await?;
            let bytes = piece.get(..read).unwrap_or_default();
            out.take(bytes).await.map_err(Error::Intake)?;
            left -= read as u64;
        }
        Ok(())
    }
}
