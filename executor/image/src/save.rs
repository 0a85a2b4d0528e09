//! Images as others load them: one archive that is an OCI image layout (OCI image specification, "image layout") and
//! has the `manifest.json` of `docker save` as well, as Docker 25 and later write it.
//!
//! Layers are plain, so each one's digest is the one that the configuration names, and the configuration is as it came:
//! what is loaded has the image's id. The manifest is made, the same of the same image each time.

use crate::{
    Carried, Contents, Error, Images, Packer, document,
    error::Attempt,
    store::{blob_name, describe},
};
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};

/// One image to be saved.
struct Saved {
    /// What it is called: of a registry's, the whole name and the tag.
    name: Option<(String, String)>,
    config: (Digest, Vec<u8>),
    layers: Vec<Carried>,
}

/// Images that are being written.
pub struct Save {
    images: Images,
    saved: Vec<Saved>,
    contents: Contents,
}

impl Images {
    /// Images that are here, by what they are called and their digests, from now on held. Blocking.
    ///
    /// # Errors
    /// When something of one is not here, or can't be carried.
    pub fn save(&self, wanted: &[(Reference, Digest)]) -> Result<Save, Error> {
        let held = self.holding();
        let digests: BTreeSet<Digest> = wanted.iter().map(|(_, digest)| *digest).collect();
        let contents = held.contents(&digests)?;
        let known: BTreeSet<Carried> = contents.layers.iter().copied().collect();
        let save = |(reference, digest): &(Reference, Digest)| {
            let mut last = None;
            let read = |digest: Digest| {
                let bytes = fs::read(held.blob_path(digest));
                let bytes = bytes.attempt(|| format!("find {digest} on this host"))?;
                document::verify(&bytes, digest)?;
                last = Some((digest, bytes.clone()));
                Ok(bytes)
            };
            // The configuration is what is read last.
            let (_, ids) = document::read_image(*digest, read)?;
            let layer = |id: document::LayerId| {
                let diff_id = id.diff;
                let forms = [None, Some(id.chain)].map(|chain_id| Carried { diff_id, chain_id });
                let found = forms.into_iter().find(|form| known.contains(form));
                found.ok_or(Error::NoLayer(diff_id))
            };
            Ok(Saved {
                name: name(reference),
                config: last.ok_or(Error::NestedIndex)?,
                layers: ids.into_iter().map(layer).collect::<Result<_, _>>()?,
            })
        };
        let saved = wanted.iter().map(save).collect::<Result<_, Error>>()?;
        Ok(Save {
            saved,
            contents,
            images: held,
        })
    }
}

/// What an image of a registry is called, and its tag.
fn name(reference: &Reference) -> Option<(String, String)> {
    let ImageSource::Registry {
        registry,
        repository,
        tag,
        ..
    } = reference.source()
    else {
        return None;
    };
    let tag = tag.as_ref()?.to_string();
    Some((format!("{registry}/{repository}:{tag}"), tag))
}

impl Save {
    /// Writes the archive: how many files it has, and how many bytes.
    ///
    /// # Errors
    /// When something of it is no longer what it was, or nobody reads on.
    pub async fn write(self, mut out: Packer, each: impl Fn(&str)) -> Result<(u64, u64), Error> {
        let mut files = 0;
        let mut layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for layer in &self.contents.layers {
            let diff_id = layer.diff_id;
            if layers.contains_key(&diff_id) {
                continue;
            }
            each("before a layer is exported");
            let tar = self.images.tar(*layer).await?;
            layers.insert(diff_id, describe(diff_id, tar.length)?);
            tar.pack(&blob_name(diff_id), &mut out).await?;
            files += 1;
        }
        let (mut manifests, mut entries) = (Vec::new(), Vec::new());
        let mut written = BTreeSet::new();
        for image in &self.saved {
            let (digest, bytes) = image.manifest(&layers)?;
            let (config, text) = &image.config;
            for (digest, bytes) in [(config, text), (&digest, &bytes)] {
                if written.insert(*digest) {
                    out.file(&blob_name(*digest), bytes).await?;
                    files += 1;
                }
            }
            manifests.push(image.listed(digest, bytes.len()));
            entries.push(image.entry());
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        let documents = [
            ("index.json", index),
            ("manifest.json", Value::Array(entries)),
            ("oci-layout", layout),
        ];
        for (name, document) in documents {
            out.file(name, document.to_string().as_bytes()).await?;
            files += 1;
        }
        Ok((files, out.end().await?))
    }
}

impl Saved {
    fn manifest(&self, layers: &BTreeMap<Digest, Descriptor>) -> Result<(Digest, Vec<u8>), Error> {
        let of = |layer: &Carried| layers.get(&layer.diff_id).cloned();
        let layers: Option<Vec<Descriptor>> = self.layers.iter().map(of).collect();
        let (config, text) = &self.config;
        let mut descriptor = describe(*config, text.len() as u64)?;
        descriptor.set_media_type(MediaType::ImageConfig);
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(descriptor)
            .layers(layers.ok_or(Error::NoLayer(*config))?)
            .build()
            .map_err(Error::Made)?;
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|error| Error::Document("write a manifest".to_owned(), error))?;
        Ok((Digest::of(&bytes), bytes))
    }

    /// What the layout's index says of it.
    fn listed(&self, digest: Digest, size: usize) -> Value {
        let mut descriptor = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest.to_string(),
            "size": size,
        });
        if let (Some((name, tag)), Some(fields)) = (&self.name, descriptor.as_object_mut()) {
            let annotations = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            });
            fields.insert("annotations".to_owned(), annotations);
        }
        descriptor
    }

    /// What `manifest.json` says of it.
    fn entry(&self) -> Value {
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| blob_name(layer.diff_id))
            .collect();
        json!({
            "Config": blob_name(self.config.0),
            "RepoTags": self.name.as_ref().map(|(name, _)| vec![name]),
            "Layers": layers,
        })
    }
}
