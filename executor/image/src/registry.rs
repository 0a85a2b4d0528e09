//! Registries: the OCI distribution specification's pull, over [`Http`], of whoever has the repository:
//! its mirrors first, then the registry itself. Whoever has the document that a tag names is asked for
//! the rest first; what one does not give is asked of the next, from the byte where it broke off.
//!
//! Of `oci-client` (0.18) only the vocabulary is used: its transport reads manifests, tokens and
//! errors whole before it looks at their size, and takes no other one.

pub use crate::http::HttpError;
use crate::{
    Error, Images, MAX_DOCUMENT, document,
    http::{Http, SILENCE, failed},
    intake::Intake,
    registries::{Endpoint, Registries},
    store::Origin,
};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_spec::image::Descriptor;
use reqwest::StatusCode;
use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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
    /// Who has it, in the order in which they are asked. There is one at least.
    hosts: Vec<Host>,
    /// The first of `hosts` that is asked: the one that had the manifest.
    first: AtomicUsize,
    /// How many of them are asked no more, by their places: what they gave was not what its digest says.
    liars: Mutex<BTreeSet<usize>>,
    /// The tag, or the digest, that is asked for first.
    wanted: String,
    digest: Option<Digest>,
}

/// Somebody who has an image.
struct Host {
    http: Http,
    /// As users know it, with its port.
    name: String,
    repository: String,
    /// The proxy that it is asked by, without a password.
    proxy: Option<String>,
}

impl Registry {
    /// # Errors
    /// When the reference names no registry, or one that is blocked.
    pub fn new(reference: &Reference, registries: &Registries) -> Result<Self, Error> {
        let ImageSource::Registry {
            registry,
            repository,
            tag,
            digest,
        } = reference.source()
        else {
            return Err(Error::NoRegistry);
        };
        let wanted = match digest {
            Some(digest) => digest.to_string(),
            None => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        let endpoints = registries.endpoints(registry, repository)?;
        let host = |endpoint: &Endpoint| {
            Ok(Host {
                http: Http::new(endpoint, &registries.credentials)?,
                name: endpoint.host.clone(),
                repository: endpoint.repository.clone(),
                proxy: endpoint.shown_proxy(),
            })
        };
        Ok(Self {
            hosts: endpoints.iter().map(host).collect::<Result<_, Error>>()?,
            first: AtomicUsize::new(0),
            liars: Mutex::default(),
            wanted,
            digest: *digest,
        })
    }

    /// Everybody who has it and does not lie, with their places: the one that had the manifest first.
    fn in_turn(&self) -> impl Iterator<Item = (usize, &Host)> {
        let liars = self
            .liars
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let first = self.first.load(Ordering::Relaxed);
        let (before, after) = self.hosts.split_at(first.min(self.hosts.len()));
        let after = after
            .iter()
            .enumerate()
            .map(move |(at, host)| (first + at, host));
        let all = after.chain(before.iter().enumerate());
        all.filter(move |(at, _)| !liars.contains(at))
    }

    /// A manifest of the first who gives one.
    async fn manifest(&self, wanted: &str, digest: Option<Digest>) -> Result<Vec<u8>, Error> {
        let mut refused = Vec::new();
        for (at, host) in self.in_turn() {
            let path = format!("manifests/{wanted}");
            let accepted = ACCEPTED.join(", ");
            let document = host.http.document(&path, &accepted, MAX_DOCUMENT).await;
            let verified = match (document, digest) {
                (Ok(bytes), Some(digest)) => document::verify(&bytes, digest).map(|()| bytes),
                (Ok(bytes), None) => document::parse(&bytes).map(|_| bytes),
                (Err(error), _) => Err(self.explain(host, error)),
            };
            match verified {
                Ok(bytes) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(error) => refused.push(error),
            }
        }
        let last = refused.pop().ok_or(Error::NoRegistry)?;
        if refused.is_empty() {
            return Err(last);
        }
        Err(Error::Nowhere {
            registry: Box::new(last),
            mirrors: refused.iter().map(Error::message).collect(),
        })
    }

    fn explain(&self, host: &Host, error: HttpError) -> Error {
        let registry = host.name.clone();
        let repository = host.repository.clone();
        match error {
            HttpError::Missing => Error::NoManifest {
                registry,
                kind: self.digest.map_or("tag", |_| "digest"),
                wanted: self.wanted.clone(),
                repository,
            },
            HttpError::Denied(user) => Error::Denied {
                registry,
                repository,
                user,
            },
            HttpError::NoAnswer(_) | HttpError::LateHead(_) | HttpError::LateDocument(_) => {
                match &host.proxy {
                    None => Error::Unreachable(registry, error),
                    Some(proxy) => Error::NoProxy {
                        registry,
                        proxy: proxy.clone(),
                        source: error,
                    },
                }
            }
            other => Error::Registry(registry, other),
        }
    }

    /// Passes a blob on, from one host after the other until it is whole.
    async fn copy(
        &self,
        digest: Digest,
        size: u64,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let mut got = 0;
        let mut outcome = Err(Error::NoRegistry);
        for (_, host) in self.in_turn() {
            outcome = self
                .copy_of(host, (digest, size), &mut got, out, budget)
                .await;
            // What is wrong here, and not with a host, is as wrong with the next.
            if !outcome.as_ref().is_err_and(is_of_a_host) {
                break;
            }
        }
        outcome
    }

    /// Passes on what one host gives of a blob. A connection that breaks, and a host that has too much to
    /// do, are tried again, from where it was.
    async fn copy_of(
        &self,
        host: &Host,
        blob: (Digest, u64),
        got: &mut u64,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.copy_rest(host, blob, got, out, budget).await {
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
        host: &Host,
        (digest, size): (Digest, u64),
        got: &mut u64,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        if *got == size {
            return Ok(());
        }
        let path = format!("blobs/{digest}");
        let response = host.http.get(&path, "*/*", *got).await;
        let mut response = response.map_err(|error| self.explain(host, error))?;
        // Who gives all of it again gives what is known first.
        let mut known = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => *got,
        };
        let mut pace = Pace::new(Instant::now());
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                // It is whole, however it ends.
                Err(_) if *got == size => return Ok(()),
                Ok(None) => break,
                Err(error) => return Err(self.explain(host, failed(&error))),
            };
            if !pace.keeps(Instant::now(), chunk.len() as u64) {
                let registry = host.name.clone();
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
        Error::Unreachable(_, error)
        | Error::NoProxy { source: error, .. }
        | Error::Registry(_, error) => match error {
            HttpError::NoAnswer(_) | HttpError::Transport(_) => true,
            HttpError::Refused(status, _) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether another host that has the same may give it.
fn is_of_a_host(error: &Error) -> bool {
    match error {
        Error::Blob(error) => !matches!(error, BlobError::Late { .. }),
        Error::Unreachable(..)
        | Error::NoProxy { .. }
        | Error::Registry(..)
        | Error::Denied { .. }
        | Error::NoManifest { .. } => true,
        _ => false,
    }
}

impl Images {
    /// The digest of what a reference to a registry names now. Nothing is kept.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest, Error> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        let (bytes, digest) = Registry::new(reference, self.registries())?.root().await?;
        document::verify(&bytes, digest)?;
        document::parse(&bytes)?;
        Ok(digest)
    }
}

impl Origin for Registry {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        let bytes = self.manifest(&self.wanted, self.digest).await?;
        // What was asked for by digest has to be that; the caller verifies.
        let digest = self.digest.unwrap_or_else(|| Digest::of(&bytes));
        Ok((bytes, digest))
    }

    fn name(&self) -> String {
        let host = self.hosts.last();
        host.map(|host| host.name.clone()).unwrap_or_default()
    }

    fn distrusted(&self) -> usize {
        let liars = self.liars.lock();
        liars.unwrap_or_else(PoisonError::into_inner).len()
    }

    fn distrust(&self, before: usize) -> bool {
        let asked = self.in_turn().next().map(|(at, _)| at);
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        if liars.len() == before {
            liars.extend(asked);
        }
        liars.len() < self.hosts.len()
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        self.manifest(&digest.to_string(), Some(digest)).await
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
            registry: self
                .hosts
                .last()
                .map(|host| host.name.clone())
                .unwrap_or_default(),
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
