//! Manifests, indexes and configurations: verified, then parsed (OCI image specification, "Image
//! Manifest", "Image Index", "Image Configuration").

use crate::{
    Error, MAX_LAYERS,
    platform::{self, Platform},
};
use oci_spec::image::{
    Arch, Descriptor, DescriptorBuilder, ImageConfiguration, ImageConfigurationBuilder, ImageIndex,
    ImageManifest, MediaType, Os, RootFs,
};
use std::str::FromStr;
use tank_model::Digest;

/// What a reference may name.
#[allow(
    clippy::large_enum_variant,
    reason = "one of them at a time, for a moment"
)]
pub enum Document {
    /// Manifests for several platforms.
    Index(ImageIndex),
    /// One image.
    Manifest(ImageManifest),
}

/// The names a layer may have.
#[derive(Clone, Copy, Debug)]
pub struct LayerId {
    /// The digest of its uncompressed bytes.
    pub diff: Digest,
    /// The digest of it and all below it.
    pub chain: Digest,
}

/// The names of an image's layers, the lowest first (OCI image specification, "layer ChainID").
pub fn chain(diff_ids: &[Digest]) -> Vec<LayerId> {
    let next = |below: &mut Option<Digest>, diff: &Digest| {
        let chain = below.map_or(*diff, |below| {
            Digest::of(format!("{below} {diff}").as_bytes())
        });
        *below = Some(chain);
        Some(LayerId { diff: *diff, chain })
    };
    diff_ids.iter().scan(None, next).collect()
}

/// # Errors
/// When the bytes have another digest.
pub fn verify(bytes: &[u8], expected: Digest) -> Result<(), Error> {
    let actual = Digest::of(bytes);
    if actual == expected {
        Ok(())
    } else {
        Err(Error::Mismatch { expected, actual })
    }
}

/// An index has `manifests`, a manifest has `layers`: the media type is optional in both.
///
/// # Errors
/// When it is neither.
pub fn parse(bytes: &[u8]) -> Result<Document, Error> {
    /// Only whether it is there: what a document says may take many times its bytes in memory.
    #[derive(serde::Deserialize)]
    struct Kind {
        manifests: Option<serde::de::IgnoredAny>,
    }
    let wrong = |error| Error::Document("read the image's manifest".to_owned(), error);
    let kind: Kind = serde_json::from_slice(bytes).map_err(wrong)?;
    if kind.manifests.is_some() {
        serde_json::from_slice(bytes)
            .map(Document::Index)
            .map_err(wrong)
    } else {
        serde_json::from_slice(bytes)
            .map(Document::Manifest)
            .map_err(wrong)
    }
}

/// # Errors
/// When it is no image's configuration.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, Error> {
    /// What is used of it. What else there may be takes many times its bytes in memory.
    #[derive(serde::Deserialize)]
    struct Used {
        architecture: Arch,
        os: Os,
        config: Option<oci_spec::image::Config>,
        rootfs: RootFs,
    }
    let wrong = |error| Error::Document("read the image's configuration".to_owned(), error);
    let used: Used = serde_json::from_slice(bytes).map_err(wrong)?;
    let built = ImageConfigurationBuilder::default()
        .architecture(used.architecture)
        .os(used.os)
        .config(used.config.unwrap_or_default())
        .rootfs(used.rootfs)
        .build();
    built.map_err(Error::Made)
}

/// # Errors
/// When it is of another algorithm than SHA-256.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, Error> {
    parse_digest(descriptor.digest().as_ref())
}

fn parse_digest(text: &str) -> Result<Digest, Error> {
    text.parse()
        .map_err(|error| Error::Digest(text.to_owned(), error))
}

/// Refuses a blob that is said to be longer than `limit`.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn check_size(descriptor: &Descriptor, limit: u64) -> Result<(), Error> {
    let (digest, size) = (digest_of(descriptor)?, descriptor.size());
    match size > limit {
        true => Err(Error::TooLarge {
            digest,
            size,
            limit,
        }),
        false => Ok(()),
    }
}

/// A descriptor that is made here.
///
/// # Errors
/// Nothing that is known.
pub fn describe(media_type: MediaType, digest: Digest, size: u64) -> Result<Descriptor, Error> {
    let digest = oci_spec::image::Digest::from_str(&digest.to_string());
    let built = digest.map_err(Error::Made).map(|digest| {
        DescriptorBuilder::default()
            .media_type(media_type)
            .digest(digest)
            .size(size)
            .build()
    });
    built?.map_err(Error::Made)
}

/// The digests of the layers' uncompressed bytes, the lowest first.
///
/// # Errors
/// When the two documents have not the same layers, or not 1 to [`MAX_LAYERS`].
pub fn diff_ids(
    config: &ImageConfiguration,
    manifest: &ImageManifest,
) -> Result<Vec<Digest>, Error> {
    let ids = config.rootfs().diff_ids();
    let layers = manifest.layers().len();
    if ids.len() != layers || ids.is_empty() || ids.len() > MAX_LAYERS {
        let ids = ids.len();
        return Err(Error::LayerCount { layers, ids });
    }
    ids.iter().map(|id| parse_digest(id)).collect()
}

/// Refuses a layer that is too long. What is not compressed may have as many bytes as what is made of it.
///
/// # Errors
/// That.
pub fn check_layer(descriptor: &Descriptor, diff_id: Digest) -> Result<(), Error> {
    let most = match digest_of(descriptor)? == diff_id {
        true => tank_layer::budget::MAX_BYTES,
        false => crate::MAX_LAYER,
    };
    check_size(descriptor, most)
}

/// The configuration of an image, and the names of its layers, the lowest first, by the documents that `read` gives.
///
/// # Errors
/// Those of `read`, and when a document is none.
pub fn read_image(
    image: Digest,
    mut read: impl FnMut(Digest) -> Result<Vec<u8>, Error>,
) -> Result<(ImageConfiguration, Vec<LayerId>), Error> {
    let manifest = match parse(&read(image)?)? {
        Document::Manifest(manifest) => manifest,
        // Of those that fit, that which was fetched.
        Document::Index(index) => {
            let mut last = Error::NestedIndex;
            let read = platform::pick(&index, &Platform::host())?
                .into_iter()
                .find_map(|digest| match read(digest) {
                    Ok(bytes) => Some(bytes),
                    Err(error) => {
                        last = error;
                        None
                    }
                });
            match parse(&read.ok_or(last)?)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(Error::NestedIndex),
            }
        }
    };
    let config = parse_config(&read(digest_of(manifest.config())?)?)?;
    let layers = chain(&diff_ids(&config, &manifest)?);
    Ok((config, layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_by_what_lies_below_them() {
        let ids = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let chained = chain(&ids);
        assert_eq!(chained[0].chain, ids[0]);
        let second = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
        assert_eq!(chained[1].chain, second);
        assert_eq!(
            chained[2].chain,
            Digest::of(format!("{second} {}", ids[2]).as_bytes())
        );
        assert_eq!(chained.iter().map(|id| id.diff).collect::<Vec<_>>(), ids);
    }
}
