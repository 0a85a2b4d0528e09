//! Which line of the sources set each field, kept with each generation.

use super::{Error, Generations, error::Context};
use std::collections::BTreeMap;
use tank_model::{
    Digest, canonical,
    provenance::{PodSource, Provenance},
};

impl Generations {
    /// Keeps what a client says of its lines, for the generation that is about to be committed.
    /// With `merge`, beside what is known of the pods it does not name. `pods` are those it names,
    /// each with its source.
    ///
    /// # Errors
    /// When it is no provenance, or the store refuses.
    pub(super) fn keep_provenance(
        &self,
        text: Option<&str>,
        current: Option<u64>,
        merge: bool,
        pods: BTreeMap<String, PodSource>,
    ) -> Result<Option<Digest>, Error> {
        let text = text.unwrap_or(r#"{"files":[],"fields":{}}"#);
        let invalid = |why: String| Error::Invalid(vec![format!("provenance: {why}")]);
        if text.len() > canonical::MAX_BYTES {
            return Err(invalid("too many bytes".to_owned()));
        }
        let mut provenance: Provenance =
            serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
        // Where a pod came from is what this daemon saw, whatever a client says.
        provenance.pods = pods;
        if merge
            && let Some(known) = self
                .provenance_of(current)
                .and_then(|digest| self.provenance(&digest))
        {
            provenance = known.with(provenance);
        }
        let bytes = serde_json::to_vec(&provenance).doing("write the provenance")?;
        let bytes = zstd::encode_all(bytes.as_slice(), 3).doing("pack the provenance")?;
        let digest = Digest::of(&bytes);
        self.store.put_nodes(&[(digest, bytes)])?;
        Ok(Some(digest))
    }

    /// What is kept for a generation.
    pub(super) fn provenance_of(&self, number: Option<u64>) -> Option<Digest> {
        self.store.generation(number?).ok().flatten()?.provenance
    }

    /// Where each pod of a generation came from, as far as that is known.
    pub(super) fn pod_sources(&self, number: Option<u64>) -> BTreeMap<String, PodSource> {
        let known = self
            .provenance_of(number)
            .and_then(|digest| self.provenance(&digest));
        known.map(|known| known.pods).unwrap_or_default()
    }

    pub(super) fn provenance(&self, digest: &Digest) -> Option<Provenance> {
        use std::io::Read;
        let bytes = self.store.node(digest).ok().flatten()?;
        let mut text = Vec::new();
        let most = 4 * canonical::MAX_BYTES as u64;
        zstd::Decoder::new(bytes.as_slice())
            .ok()?
            .take(most)
            .read_to_end(&mut text)
            .ok()?;
        serde_json::from_slice(&text).ok()
    }
}
