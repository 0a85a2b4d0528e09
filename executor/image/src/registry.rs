//! Registries: the OCI distribution specification's pull, over [`Http`]. Loopback registries are
//! spoken to without TLS, as everywhere; others only where `insecure_registries` says so.
//!
//! Of `oci-client` (0.18) only the vocabulary is used: its transport reads manifests, tokens and
//! errors whole before it looks at their size, and takes no other one.

use super::{
    ImageError, MAX_DOCUMENT, Origin,
    budget::Budget,
    http::{Http, HttpError, SILENCE, failed},
};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_spec::image::Descriptor;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tank_model::{
    Digest,
    reference::{Reference, Source},
};
use tokio::io::AsyncWriteExt;

/// The longest time one blob may take.
const BLOB_TIME: Duration = Duration::from_secs(3600);

/// The fewest bytes of a blob in [`SILENCE`]: a registry that sends less holds a connection and a
/// file, and no more.
const LEAST_PROGRESS: u64 = 16 << 10;

/// What a registry may send for a manifest.
const ACCEPTED: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

pub struct Registry {
    http: Http,
    registry: String,
    repository: String,
    /// The tag, or the digest, that is asked for first.
    wanted: String,
    digest: Option<Digest>,
}

impl Registry {
    pub fn new(reference: &Reference, insecure: &[String]) -> Result<Self, ImageError> {
        let Source::Registry {
            registry,
            repository,
            tag,
            digest,
        } = reference.source()
        else {
            return Err(ImageError::new("not an image of a registry"));
        };
        let host = registry
            .rsplit_once(':')
            .map_or(registry.as_str(), |(host, _)| host);
        let loopback = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        let plain = loopback || insecure.contains(registry);
        let wanted = match digest {
            Some(digest) => digest.to_string(),
            None => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        Ok(Self {
            http: Http::new(registry, repository, plain)?,
            registry: registry.clone(),
            repository: repository.clone(),
            wanted,
            digest: *digest,
        })
    }

    async fn manifest(&self, wanted: &str) -> Result<Vec<u8>, ImageError> {
        let document = self
            .http
            .document(
                &format!("manifests/{wanted}"),
                &ACCEPTED.join(", "),
                MAX_DOCUMENT,
            )
            .await;
        document.map_err(|error| self.explain(error))
    }

    fn explain(&self, error: HttpError) -> ImageError {
        let Self {
            registry,
            repository,
            ..
        } = self;
        match error {
            HttpError::Missing => {
                let kind = if self.digest.is_some() {
                    "digest"
                } else {
                    "tag"
                };
                let help =
                    "look at the name and the tag: is it spelt right, and has it been pushed?";
                ImageError::helped(
                    format!(
                        "{registry} has no {kind} `{}` of `{repository}`",
                        self.wanted
                    ),
                    help,
                )
            }
            HttpError::Denied => ImageError::new(format!(
                "{registry} does not let anonymous users pull `{repository}`"
            )),
            HttpError::Unreachable(why) => {
                let help =
                    format!("is a registry running at `{registry}`, and can this host reach it?");
                ImageError::helped(format!("can't reach {registry}: {why}"), help)
            }
            HttpError::Other(why) => ImageError::new(format!("{registry}: {why}")),
        }
    }
}

impl Origin for Registry {
    async fn root(&self) -> Result<(Vec<u8>, Digest), ImageError> {
        let bytes = self.manifest(&self.wanted).await?;
        // What was asked for by digest has to be that; the caller verifies.
        let digest = self.digest.unwrap_or_else(|| Digest::of(&bytes));
        Ok((bytes, digest))
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, ImageError> {
        self.manifest(&digest.to_string()).await
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut tokio::fs::File,
        budget: &Budget,
    ) -> Result<(), ImageError> {
        let (digest, size) = (descriptor.digest(), descriptor.size());
        let copy = async {
            let response = self.http.get(&format!("blobs/{digest}"), "*/*").await;
            let mut response = response.map_err(|error| self.explain(error))?;
            let mut left = size;
            let mut pace = Pace::new(Instant::now());
            while let Some(chunk) = response
                .chunk()
                .await
                .map_err(|error| self.explain(failed(&error)))?
            {
                left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
                    ImageError::new(format!(
                        "blob {digest} is longer than the {size} bytes its manifest says"
                    ))
                })?;
                if !pace.keeps(Instant::now(), chunk.len() as u64) {
                    let (least, seconds) = (LEAST_PROGRESS >> 10, SILENCE.as_secs());
                    let help = "try again later, or from another registry";
                    let why = format!(
                        "{} sends less than {least} KiB of blob {digest} in {seconds} s",
                        self.registry
                    );
                    return Err(ImageError::helped(why, help));
                }
                budget
                    .space()
                    .map_err(|error| ImageError::new(error.to_string()))?;
                out.write_all(&chunk)
                    .await
                    .map_err(|e| ImageError::new(format!("can't write a blob: {e}")))?;
            }
            if left > 0 {
                let got = size - left;
                return Err(ImageError::new(format!(
                    "blob {digest} ends after {got} of {size} bytes"
                )));
            }
            Ok(())
        };
        let late = || {
            let why = format!(
                "{} does not send blob {digest} within {} s",
                self.registry,
                BLOB_TIME.as_secs()
            );
            ImageError::helped(why, "try again later")
        };
        tokio::time::timeout(BLOB_TIME, copy)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

/// Whether what comes comes fast enough.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
        }
    }

    /// Counts what came; false when it was too little for too long.
    fn keeps(&mut self, now: Instant, bytes: u64) -> bool {
        self.bytes += bytes;
        if now.duration_since(self.since) < SILENCE {
            return true;
        }
        let enough = self.bytes >= LEAST_PROGRESS;
        *self = Self::new(now);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_a_second_is_no_progress_and_a_pause_is_none_to_fear() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut drip = Pace::new(start);
        assert!((1..30).all(|second| drip.keeps(after(second), 1)));
        assert!(!drip.keeps(after(30), 1));
        let mut slow = Pace::new(start);
        assert!(slow.keeps(after(1), LEAST_PROGRESS));
        assert!(slow.keeps(after(29), 1));
        assert!(
            slow.keeps(after(31), 1),
            "it had sent enough before it paused"
        );
        assert!(!slow.keeps(after(62), 1));
    }
}
