//! How far the layers of a pull are.

use crate::{Error, intake::Intake, store::Origin};
use oci_spec::image::Descriptor;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tank_layer::budget::Budget;
use tank_model::Digest;

/// The time between two notifications of one layer.
const PERIOD: Duration = Duration::from_millis(100);

/// How far a layer is that is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// The digest of its compressed bytes.
    pub digest: Digest,
    /// How many of them have come.
    pub done: u64,
    /// How many there are.
    pub size: u64,
}

/// Who is notified: when a layer begins, ten times a second while it comes, and when it is here. It
/// must not block.
pub type Watch = Arc<dyn Fn(LayerProgress) + Send + Sync>;

/// An origin whose layers are watched.
pub(crate) struct Watched<O> {
    pub origin: O,
    pub watch: Option<Watch>,
}

impl<O: Origin> Origin for Watched<O> {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        self.origin.root().await
    }

    fn name(&self) -> String {
        self.origin.name()
    }

    fn distrusted(&self) -> usize {
        self.origin.distrusted()
    }

    fn distrust(&self, before: usize) -> bool {
        self.origin.distrust(before)
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        self.origin.document(digest).await
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        if let Some(watch) = self.watch.as_ref().filter(|_| out.is_layer()) {
            let begun = LayerProgress {
                digest: crate::document::digest_of(descriptor)?,
                done: 0,
                size: descriptor.size(),
            };
            out.watch(Meter::new(begun, Arc::clone(watch), Instant::now()));
        }
        self.origin.blob(descriptor, out, budget).await
    }
}

/// Counts a layer that comes.
pub(crate) struct Meter {
    progress: LayerProgress,
    watch: Watch,
    notified: Instant,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meter({:?})", self.progress)
    }
}

impl Meter {
    fn new(begun: LayerProgress, watch: Watch, now: Instant) -> Self {
        watch(begun);
        Self {
            progress: begun,
            watch,
            notified: now,
        }
    }

    /// So many bytes have come. The last of them are always notified of.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.progress.done += bytes;
        let whole = self.progress.done >= self.progress.size;
        if whole || now.duration_since(self.notified) >= PERIOD {
            self.notified = now;
            (self.watch)(self.progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    #[test]
    fn a_layer_is_notified_of_at_its_begin_its_end_and_ten_times_a_second() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let watch: Watch = Arc::new({
            let kept = Arc::clone(&kept);
            move |progress| {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(progress.done);
            }
        });
        let begun = LayerProgress {
            digest: Digest::of(b"layer"),
            done: 0,
            size: 1_000,
        };
        let start = Instant::now();
        let mut meter = Meter::new(begun, watch, start);
        for millis in (0..500).step_by(10) {
            meter.add(10, start + Duration::from_millis(millis));
        }
        meter.add(500, start + Duration::from_millis(501));
        let kept = kept.lock().expect("no panic").clone();
        assert_eq!(kept, [0, 110, 210, 310, 410, 1_000]);
    }
}
