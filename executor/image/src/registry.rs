//! Registries: the OCI distribution specification's pull, over [`Http`]. Loopback registries are
//! spoken to without TLS, as everywhere; others only where `insecure_registries` says so.
//!
//! Of `oci-client` (0.18) only the vocabulary is used: its transport reads manifests, tokens and
//! errors whole before it looks at their size, and takes no other one.

pub use crate::http::HttpError;
use crate::{
    Error, MAX_DOCUMENT, document,
    http::{Http, SILENCE, failed},
    intake::Intake,
    store::Origin,
};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_spec::image::Descriptor;
use reqwest::StatusCode;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tank_layer::budget::Budget;
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};

/// What is waited between the tries to have a blob, in milliseconds. That makes six of them, in some six
/// seconds.
const PAUSES: [u64; 5] = [200, 400, 800, 1_600, 3_200];

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

/// A registry sends a blob badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// More bytes come than its descriptor says.
    #[error("blob {digest} is longer than the {size} bytes its manifest says")]
    Long {
        /// The blob.
        digest: Digest,
        /// The bytes that its descriptor says.
        size: u64,
    },
    /// Fewer bytes come than its descriptor says.
    #[error("blob {digest} ends after {got} of {size} bytes")]
    Cut {
        /// The blob.
        digest: Digest,
        /// The bytes that came.
        got: u64,
        /// The bytes that its descriptor says.
        size: u64,
    },
    /// Less than 16 KiB come in 30 seconds: such a registry holds a connection and a file, and no
    /// more.
    #[error("{registry} sends less than {} KiB of blob {digest} in {} s", LEAST_PROGRESS >> 10, SILENCE.as_secs())]
    Slow {
        /// The registry's name, with its port.
        registry: String,
        /// The blob.
        digest: Digest,
    },
    /// It is not there after an hour.
    #[error("{registry} does not send blob {digest} within {} s", BLOB_TIME.as_secs())]
    Late {
        /// The registry's name, with its port.
        registry: String,
        /// The blob.
        digest: Digest,
    },
}

impl BlobError {
    /// What to do about it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Slow { .. } => Some("try again later, or from another registry"),
            Self::Late { .. } => Some("try again later"),
            Self::Long { .. } | Self::Cut { .. } => None,
        }
    }
}

/// One image of a registry.
pub struct Registry {
    http: Http,
    registry: String,
    repository: String,
    /// The tag, or the digest, that is asked for first.
    wanted: String,
    digest: Option<Digest>,
}

impl Registry {
    /// # Errors
    /// When the reference names no registry.
    pub fn new(reference: &Reference, insecure: &[String]) -> Result<Self, Error> {
        let ImageSource::Registry {
            registry,
            repository,
            tag,
            digest,
        } = reference.source()
        else {
            return Err(Error::NoRegistry);
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

    async fn manifest(&self, wanted: &str) -> Result<Vec<u8>, Error> {
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

    fn explain(&self, error: HttpError) -> Error {
        let registry = self.registry.clone();
        match error {
            HttpError::Missing => Error::NoManifest {
                registry,
                kind: self.digest.map_or("tag", |_| "digest"),
                wanted: self.wanted.clone(),
                repository: self.repository.clone(),
            },
            HttpError::Denied => Error::Denied {
                registry,
                repository: self.repository.clone(),
            },
            HttpError::NoAnswer(_) | HttpError::LateHead(_) | HttpError::LateDocument(_) => {
                Error::Unreachable(registry, error)
            }
            other => Error::Registry(registry, other),
        }
    }

    /// Passes a blob on. A connection that breaks, and a registry that has too much to do, are tried
    /// again, from where it was.
    async fn copy(
        &self,
        digest: Digest,
        size: u64,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let mut got = 0;
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.copy_rest((digest, size), &mut got, out, budget).await {
                Err(error) if is_passing(&error) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(Duration::from_millis(pause)).await,
                    None => return Err(error),
                },
                other => return other,
            }
        }
    }

    /// Passes on what is behind the `got` bytes of a blob that have come already.
    async fn copy_rest(
        &self,
        (digest, size): (Digest, u64),
        got: &mut u64,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let path = format!("blobs/{digest}");
        let response = self.http.get(&path, "*/*", *got).await;
        let mut response = response.map_err(|error| self.explain(error))?;
        // Who gives all of it again gives what is known first.
        let mut known = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => *got,
        };
        let mut pace = Pace::new(Instant::now());
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.explain(failed(&error)))?
        {
            if !pace.keeps(Instant::now(), chunk.len() as u64) {
                let registry = self.registry.clone();
                return Err(BlobError::Slow { registry, digest }.into());
            }
            budget.space()?;
            let skipped = known.min(chunk.len() as u64);
            known -= skipped;
            let chunk = &chunk[usize::try_from(skipped).unwrap_or(chunk.len())..];
            if *got + chunk.len() as u64 > size {
                return Err(BlobError::Long { digest, size }.into());
            }
            out.take(chunk).await.map_err(Error::Intake)?;
            *got += chunk.len() as u64;
        }
        match *got {
            got if got < size => Err(BlobError::Cut { digest, got, size }.into()),
            _ => Ok(()),
        }
    }
}

/// Whether the same may go well a little later.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Blob(BlobError::Cut { .. }) => true,
        Error::Unreachable(_, error) | Error::Registry(_, error) => match error {
            HttpError::NoAnswer(_) | HttpError::Transport(_) => true,
            HttpError::Refused(status, _) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        },
        _ => false,
    }
}

impl Origin for Registry {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        let bytes = self.manifest(&self.wanted).await?;
        // What was asked for by digest has to be that; the caller verifies.
        let digest = self.digest.unwrap_or_else(|| Digest::of(&bytes));
        Ok((bytes, digest))
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        self.manifest(&digest.to_string()).await
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let digest = document::digest_of(descriptor)?;
        let copy = self.copy(digest, descriptor.size(), out, budget);
        let late = || BlobError::Late {
            registry: self.registry.clone(),
            digest,
        };
        tokio::time::timeout(BLOB_TIME, copy)
            .await
            .unwrap_or_else(|_| Err(late().into()))
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
