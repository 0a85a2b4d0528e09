//! Which line of the sources set each field, kept with each generation.

use super::{Error, Generations, error::Context};
use crate::store::Store;
use std::collections::BTreeMap;
use tank_model::{
    Digest, Scope, canonical,
    provenance::{PodSource, Provenance},
};

/// Which line set each field, for a generation that is about to be committed.
pub(super) struct Lines {
    pub digest: Digest,
    /// None: a generation that there is has the same.
    pub bytes: Option<Vec<u8>>,
}

impl Lines {
    /// What a generation that there is has.
    pub fn of(known: Option<Digest>) -> Option<Self> {
        known.map(|digest| Self {
            digest,
            bytes: None,
        })
    }

    /// Packed, to be kept with the commit.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn new(provenance: &Provenance) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(provenance).doing("write the provenance")?;
        let bytes = zstd::encode_all(bytes.as_slice(), 3).doing("pack the provenance")?;
        Ok(Self {
            digest: Digest::of(&bytes),
            bytes: Some(bytes),
        })
    }
}

impl Generations {
    /// Reads what a client says of its lines.
    ///
    /// # Errors
    /// When it is no provenance.
    pub(super) fn read_provenance(text: Option<&str>) -> Result<Provenance, Error> {
        let Some(text) = text else {
            return Ok(Provenance::default());
        };
        let invalid = |why: String| Error::Invalid(vec![format!("provenance: {why}")]);
        if text.len() > canonical::MAX_BYTES {
            return Err(invalid("too many bytes".to_owned()));
        }
        serde_json::from_str(text).map_err(|e| invalid(e.to_string()))
    }

    /// What is known of the lines of the current generation, with `newer` in place of what is known
    /// of the pods that `scope` means.
    pub(super) fn provenance_with(
        &self,
        current: Option<u64>,
        newer: Provenance,
        scope: &Scope,
    ) -> Provenance {
        let known = match scope {
            Scope::Host => None,
            _ => self.known_provenance(current),
        };
        known.unwrap_or_default().with(newer, scope)
    }

    /// What is known of the lines of a generation.
    pub(super) fn known_provenance(&self, number: Option<u64>) -> Option<Provenance> {
        self.provenance(&self.provenance_of(number)?)
    }

    /// What is kept for a generation.
    pub(super) fn provenance_of(&self, number: Option<u64>) -> Option<Digest> {
        self.store.generation(number?).ok().flatten()?.provenance
    }

    /// Where each pod of a generation came from, as far as that is known.
    pub(super) fn pod_sources(&self, number: Option<u64>) -> BTreeMap<String, PodSource> {
        let known = self.known_provenance(number);
        known.map(|known| known.pods).unwrap_or_default()
    }

    pub(super) fn provenance(&self, digest: &Digest) -> Option<Provenance> {
        unpack(self.store.as_ref(), digest)
    }
}

/// What is known of the lines of a generation of a store.
pub(super) fn read(store: &dyn Store, number: u64) -> Option<Provenance> {
    let digest = store.generation(number).ok().flatten()?.provenance?;
    unpack(store, &digest)
}

fn unpack(store: &dyn Store, digest: &Digest) -> Option<Provenance> {
    use std::io::Read;
    let bytes = store.node(digest).ok().flatten()?;
    let mut text = Vec::new();
    let most = 4 * canonical::MAX_BYTES as u64;
    zstd::Decoder::new(bytes.as_slice())
        .ok()?
        .take(most)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}
