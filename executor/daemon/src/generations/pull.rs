//! Fetching one image, and finding one that need not be fetched.

use super::{Error, Generations, Progress, ProgressSender, Stage, notify, notify_image};
use std::{path::Path, sync::Arc, time::Duration};
use tank_image::{Images, Watch};
use tank_model::{Digest, Graph, Platform, Reference, spec::Pod};
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
        platform: Option<&Platform>,
    ) -> Result<Option<Digest>, Error> {
        let chosen = |digest: Digest| match platform {
            Some(platform) => images.chosen_here(digest, &platform.clone().into()),
            None => images.is_held_here(digest).then_some(digest),
        };
        if let Some(pinned) = reference.digest() {
            return Ok(chosen(pinned));
        }
        let by_hand = images.by_hand().map_err(|source| Error::Image {
            image: reference.to_string(),
            users: Vec::new(),
            source,
        })?;
        // What is kept for no platform by name may be for this one: it was loaded, or is an index.
        let names = [platform, None].into_iter().flat_map(|platform| {
            let mut by_hand = by_hand.iter();
            by_hand.find(|kept| kept.is_found(reference, platform))
        });
        if let Some(kept) = names.into_iter().find_map(|kept| chosen(kept.digest)) {
            return Ok(Some(kept));
        }
        self.of_generations((reference, platform), |digest| images.is_held_here(*digest))
    }

    /// What the newest of the last [`LOOKED_BACK`] generations that names a reference has for it. Blocking.
    pub(super) fn of_generations(
        &self,
        wanted: (&Reference, Option<&Platform>),
        is_good: impl Fn(&Digest) -> bool,
    ) -> Result<Option<Digest>, Error> {
        let generations = self.store.generations()?;
        for generation in generations.iter().rev().take(LOOKED_BACK) {
            // Of one that can't be read nothing is known.
            let Ok(graph) = self.graphs.get(generation.root) else {
                continue;
            };
            if let Some(digest) = digest_in(&graph, wanted)
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
        notify_image(progress, reference);
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
                    Some(platform) => {
                        let platform = platform.clone().into();
                        let pull = images.pull_for(reference, &platform, base_dir, watch);
                        pull.await
                    }
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
        if !looks && reference.digest().is_none() && reference.source().path().is_none() {
            let images = images.clone();
            let (reference, platform) = (reference.clone(), platform.cloned());
            let renew = move || images.renew_by_hand((&reference, platform.as_ref()), digest);
            // Who kept it keeps what it was, at worst.
            let _ = spawn_blocking(renew).await;
        }
        Ok(digest)
    }
}

/// The image that a graph has for a reference: `app` is `docker.io/library/app:latest`. One for a platform is pinned there.
fn digest_in(
    graph: &Graph,
    (reference, platform): (&Reference, Option<&Platform>),
) -> Option<Digest> {
    if platform.is_some() {
        let config = graph.config();
        let mut all = config.pods.values().flat_map(Pod::processes);
        let found = all.find(|(_, _, container)| {
            let written = container.image.unpinned();
            container.platform.as_ref() == platform
                && written.is_some_and(|written| written.source() == reference.source())
        });
        return graph.image(&found?.2.image);
    }
    let images = graph.images();
    let same = |known: &&Reference| known.source() == reference.source();
    let known = images.get_key_value(reference);
    let known = known.or_else(|| images.iter().find(|(known, _)| same(known)));
    // With a lock the tag is written with its digest.
    let locked = || {
        let mut images = images.iter();
        images.find(|(known, _)| known.unpinned().is_some_and(|known| same(&&known)))
    };
    known.or_else(locked).map(|(_, digest)| *digest)
}
