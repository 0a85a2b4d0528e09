//! Fetching one image, and finding one that need not be fetched.

use super::{Error, Generations, Progress, ProgressSender, Stage, notify};
use std::{path::Path, sync::Arc, time::Duration};
use tank_image::{Images, Platform, Watch};
use tank_model::{Digest, Graph, Reference};
use tokio::{task::spawn_blocking, time::timeout};

/// The longest time that one image may take: a registry that sends slowly ends.
const PULL_TIME: Duration = Duration::from_secs(6 * 3600);

/// How many generations are looked into for what a tag stood for.
const LOOKED_BACK: usize = 20;

impl Generations {
    /// What a reference stood for when it was asked for last, as far as that image is here: as it is kept by hand, or else in the
    /// newest of the last [`LOOKED_BACK`] generations that name it.
    pub(super) async fn here(
        &self,
        images: &Images,
        reference: &Reference,
    ) -> Result<Option<Digest>, Error> {
        if let Some(pinned) = reference.digest() {
            return Ok(images.is_held_here(pinned).then_some(pinned));
        }
        let by_hand = images.by_hand().map_err(|source| Error::Image {
            image: reference.to_string(),
            users: Vec::new(),
            source,
        })?;
        let kept = by_hand.iter().find(|kept| kept.is_called(reference));
        if let Some(kept) = kept.filter(|kept| images.is_held_here(kept.digest)) {
            return Ok(Some(kept.digest));
        }
        self.of_generations(reference, |digest| images.is_held_here(*digest))
    }

    /// What the newest of the last [`LOOKED_BACK`] generations that names a reference has for it. Blocking.
    pub(super) fn of_generations(
        &self,
        reference: &Reference,
        is_good: impl Fn(&Digest) -> bool,
    ) -> Result<Option<Digest>, Error> {
        let generations = self.store.generations()?;
        for generation in generations.iter().rev().take(LOOKED_BACK) {
            // Of one that can't be read nothing is known.
            let Ok(graph) = self.graphs.get(generation.root) else {
                continue;
            };
            if let Some(digest) = digest_in(&graph, reference)
                && is_good(&digest)
            {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// Fetches an image; once more after a collection, where the disk has no space for it. What is kept by hand under that name
    /// is what it stands for now, unless it is only looked at.
    ///
    /// # Errors
    /// Why it can't be had.
    pub(super) async fn pull_with_space(
        &self,
        (images, looks): (&Images, bool),
        (base_dir, reference, platform): (Option<&Path>, &Reference, Option<&Platform>),
        progress: &ProgressSender,
    ) -> Result<Digest, tank_image::Error> {
        notify(progress, Stage::Pull, reference);
        let (sender, image) = (progress.clone(), reference.to_string());
        let watch: Watch = Arc::new(move |layer| {
            // Who does not keep up misses one of ten in a second.
            let _ = sender.try_send(Progress {
                stage: Stage::Pull,
                message: image.clone(),
                layer: Some(layer),
            });
        });
        let pull = async || {
            let watch = Some(Watch::clone(&watch));
            let pull = async {
                match platform {
                    Some(platform) => images.pull_for(reference, platform, watch).await,
                    None => images.pull(reference, base_dir, watch).await,
                }
            };
            let late = || tank_image::Error::LatePull(PULL_TIME.as_secs() / 3600);
            timeout(PULL_TIME, pull)
                .await
                .unwrap_or_else(|_| Err(late()))
        };
        let mut pulled = pull().await;
        // Generations only where what none of them needs is not enough.
        for with_generations in [false, true] {
            let is_full = pulled.as_ref().is_err_and(tank_image::Error::is_no_space);
            if !is_full || looks && with_generations {
                break;
            }
            let note = "no space for images: collecting what is not needed";
            notify(progress, Stage::Note, note);
            if self.make_space(with_generations).await {
                pulled = pull().await;
            }
        }
        let digest = pulled?;
        if !looks
            && platform.is_none()
            && reference.digest().is_none()
            && reference.source().path().is_none()
        {
            let (images, reference) = (images.clone(), reference.clone());
            let renew = move || images.renew_by_hand(&reference, digest);
            // Who kept it keeps what it was, at worst.
            let _ = spawn_blocking(renew).await;
        }
        Ok(digest)
    }
}

/// The image that a graph has for a reference: `app` is `docker.io/library/app:latest`.
fn digest_in(graph: &Graph, reference: &Reference) -> Option<Digest> {
    let images = graph.images();
    let same = |known: &&Reference| known.source() == reference.source();
    let known = images.get_key_value(reference);
    let known = known.or_else(|| images.iter().find(|(known, _)| same(known)));
    known.map(|(_, digest)| *digest)
}
