//! Images that were pulled or loaded by hand. They are kept until somebody lets them go, whichever generations there are.
//!
//! What they are called and which digests they have is one small file, `by_hand.json`, which is replaced as a whole. One that
//! can't be read is an error, and no empty list: a collection would take all of them.

use super::{Images, sync_dir};
use crate::{Error, error::Attempt};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read, Write},
    sync::PoisonError,
};
use tank_model::{
    Digest, Platform,
    reference::{ImageSource, Reference},
};

const FILE: &str = "by_hand.json";

/// The most images that are kept by hand.
const MAX_KEPT: usize = 1_000;

/// The most bytes of the file: what so many take, twice.
const MAX_FILE: u64 = 2 << 20;

/// The one layout of the file that there is.
const VERSION: u32 = 1;

/// An image that is kept by hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ByHand {
    /// What it is called. None: it had no name where it came from.
    pub reference: Option<Reference>,
    /// What that stood for.
    pub digest: Digest,
    /// Since when, in milliseconds since the epoch.
    pub since: u64,
    /// What it was asked for; none for the host's own. By one name one is kept for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl ByHand {
    /// Whether it is called so, for whichever platform: `app` is `docker.io/library/app:latest`.
    pub fn is_called(&self, reference: &Reference) -> bool {
        let of_registry = matches!(reference.source(), ImageSource::Registry { .. });
        let own = self.reference.as_ref();
        of_registry && own.is_some_and(|own| own.source() == reference.source())
    }

    /// Whether it is found by `reference` where that is asked for a platform; none: the host's own.
    pub fn is_found(&self, reference: &Reference, platform: Option<&Platform>) -> bool {
        self.platform.as_ref() == platform && self.is_called(reference)
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    images: Vec<ByHand>,
}

impl Images {
    /// What is kept by hand, the oldest first. Blocking.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn by_hand(&self) -> Result<Vec<ByHand>, Error> {
        let path = self.dir.join(FILE);
        let what = || format!("read {}", path.display());
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.attempt(what)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).attempt(what)?;
        let file: File =
            serde_json::from_slice(&bytes).map_err(|error| Error::Document(what(), error))?;
        match file.version {
            VERSION => Ok(file.images),
            other => Err(io::Error::other(format!("its version is {other}"))).attempt(what),
        }
    }

    /// Keeps images by hand, all or none; one that was called the same is so no more: what each was. Blocking.
    ///
    /// # Errors
    /// When there are too many, or the disk refuses.
    pub fn keep_by_hand(&self, wanted: Vec<ByHand>) -> Result<Vec<Option<Digest>>, Error> {
        let _one = self.by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = self.by_hand()?;
        let mut were = Vec::new();
        for kept in wanted {
            let mut before = None;
            images.retain(|known| {
                let same = match &kept.reference {
                    Some(reference) => known.is_found(reference, kept.platform.as_ref()),
                    None => known.reference.is_none() && known.digest == kept.digest,
                };
                before = before.or(same.then_some(known.digest));
                !same
            });
            if images.len() >= MAX_KEPT {
                return Err(Error::ManyByHand(MAX_KEPT));
            }
            images.push(kept);
            were.push(before);
        }
        self.write_by_hand(images)?;
        Ok(were)
    }

    /// What a reference stands for now, where an image is kept by that name and for that platform. Blocking.
    ///
    /// # Errors
    /// As [`Images::keep_by_hand`].
    pub fn renew_by_hand(
        &self,
        (reference, platform): (&Reference, Option<&Platform>),
        digest: Digest,
    ) -> Result<(), Error> {
        let _one = self.by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = self.by_hand()?;
        let mut changed = false;
        for known in &mut images {
            if known.is_found(reference, platform) && known.digest != digest {
                known.digest = digest;
                changed = true;
            }
        }
        match changed {
            true => self.write_by_hand(images),
            false => Ok(()),
        }
    }

    /// Keeps these no longer. Blocking.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn let_go(&self, which: &[ByHand]) -> Result<(), Error> {
        let _one = self.by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = self.by_hand()?;
        images.retain(|known| !which.contains(known));
        self.write_by_hand(images)
    }

    fn write_by_hand(&self, images: Vec<ByHand>) -> Result<(), Error> {
        let path = self.dir.join(FILE);
        let temporary = super::Temporary(self.temporary(Digest::of(FILE.as_bytes())));
        let version = VERSION;
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&temporary.0)?;
            file.write_all(&serde_json::to_vec(&File { version, images })?)?;
            file.sync_all()?;
            fs::rename(&temporary.0, &path)?;
            sync_dir(&path)
        };
        write().attempt(|| format!("write {}", path.display()))
    }
}
