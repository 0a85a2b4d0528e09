//! Images over the socket, and a diff, which may fetch some. An archive goes through a pipe that this daemon makes: nothing
//! is ever read from a descriptor of the client's.

use super::{
    calls::diff_reply,
    client::Client,
    refusal::{Refusal, internal},
    streams::while_connected,
    views,
    volumes::{expect_more, pipe},
};
use crate::generations::{
    Generations, MAX_PROGRESS, Progress,
    images::{Kept, Listed},
};
use std::sync::Arc;
use tank_image::{Described, DescribedLayer};
use tank_model::{Digest, Reference};
use tank_proto::varlink::{
    self, DiffCall, Error, ImageLayer, ImagesReply, InspectImageReply, KeptImage, LoadImagesReply,
    PullImageReply, RemoveImagesReply, ResolveReply, Resolved,
};
use tokio::sync::mpsc;

/// The most images of one call.
const MAX_REMOVED: usize = 1_000;

impl Client {
    /// What a switch would do. Who asks for it is shown how far the layers are that are fetched for that.
    pub(super) async fn diff(
        &mut self,
        generations: &Generations,
        call: DiffCall,
        more: bool,
    ) -> Result<(), Refusal> {
        let shown = more && call.layers == Some(true);
        let uid = self.uid;
        let (sender, mut progress) = mpsc::channel(MAX_PROGRESS);
        let mut work = std::pin::pin!(diff_reply(generations, call, uid, sender));
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    Some(progress) = progress.recv() => Ok(Err(progress)),
                    done = &mut work => done.map(Ok),
                }
            };
            match while_connected(&self.stream, next).await? {
                Ok(reply) => return self.reply(&reply, false, Vec::new()).await,
                Err(progress) if shown => {
                    self.reply(&of_diff(progress), true, Vec::new()).await?;
                }
                Err(_) => {}
            }
        }
    }

    /// Every image that something needs.
    pub(super) async fn images(&mut self, generations: &Arc<Generations>) -> Result<(), Refusal> {
        let list = async { Ok(generations.list_images().await?) };
        let list = while_connected(&self.stream, list).await?;
        let images = list.into_iter().map(image).collect();
        self.reply(&ImagesReply { images }, false, Vec::new()).await
    }

    pub(super) async fn inspect_image(
        &mut self,
        generations: &Arc<Generations>,
        image: String,
    ) -> Result<(), Refusal> {
        let _place = self.long_reply().await?;
        let inspect = async { Ok(generations.inspect_image(image).await?) };
        let (listed, described) = while_connected(&self.stream, inspect).await?;
        let reply = inspected(listed, described);
        self.reply(&reply, false, Vec::new()).await
    }

    /// What tags stand for. The platform is said again: a daemon that does not know it does not say it.
    pub(super) async fn resolve(
        &mut self,
        generations: &Arc<Generations>,
        (images, platform): (Vec<String>, Option<String>),
    ) -> Result<(), Refusal> {
        let resolve = async { Ok(generations.resolve(images, platform.as_deref()).await?) };
        let resolved = while_connected(&self.stream, resolve).await?;
        let one = |(image, digest): &(Reference, Digest)| Resolved {
            image: image.to_string(),
            digest: digest.to_string(),
        };
        let images = resolved.iter().map(one).collect();
        let reply = ResolveReply { images, platform };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Fetches an image. When the client leaves, that ends.
    pub(super) async fn pull_image(
        &mut self,
        generations: Arc<Generations>,
        (image, platform): (String, Option<String>),
        more: bool,
    ) -> Result<(), Refusal> {
        let (sender, mut progress) = mpsc::channel(MAX_PROGRESS);
        let mut work = std::pin::pin!(generations.pull_by_hand(image, platform, &sender));
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    Some(progress) = progress.recv() => Ok(Err(progress)),
                    done = &mut work => Ok(Ok(done?)),
                }
            };
            let reply = match while_connected(&self.stream, next).await? {
                Ok(pulled) => {
                    let reply = PullImageReply {
                        progress: None,
                        pulled: Some(kept(pulled)),
                    };
                    return self.reply(&reply, false, Vec::new()).await;
                }
                Err(progress) => PullImageReply {
                    progress: Some(views::progress(progress)),
                    pulled: None,
                },
            };
            if more {
                self.reply(&reply, true, Vec::new()).await?;
            }
        }
    }

    /// Takes in what comes out of a pipe, whose other end the first reply comes with.
    pub(super) async fn load_images(
        &mut self,
        generations: &Arc<Generations>,
        name: Option<String>,
        more: bool,
    ) -> Result<(), Refusal> {
        expect_more(more)?;
        let (read, write) = pipe()?;
        self.reply(&LoadImagesReply::default(), true, vec![write])
            .await?;
        let work = async { Ok(generations.load_by_hand(read, name).await?) };
        let loaded = while_connected(&self.stream, work).await?;
        let loaded = Some(loaded.into_iter().map(kept).collect());
        self.reply(&LoadImagesReply { loaded }, false, Vec::new())
            .await
    }

    /// Keeps images no longer. Once begun it goes on, whether the client stays or not.
    pub(super) async fn remove_images(
        &mut self,
        generations: &Arc<Generations>,
        images: Vec<String>,
    ) -> Result<(), Refusal> {
        if images.is_empty() || images.len() > MAX_REMOVED {
            let problem = format!("name 1 to {MAX_REMOVED} images");
            return Err(Error::invalid(vec![problem]).into());
        }
        let generations = Arc::clone(generations);
        let removed = tokio::spawn(async move { generations.remove_images(images).await }).await;
        let removed = removed.map_err(|e| internal("remove images", e))??;
        let removed = removed.into_iter().map(kept).collect();
        self.reply(&RemoveImagesReply { removed }, false, Vec::new())
            .await
    }
}

fn of_diff(progress: Progress) -> varlink::DiffReply {
    varlink::DiffReply {
        changes: Vec::new(),
        steps: Vec::new(),
        waiting: Vec::new(),
        plan: String::new(),
        parent: None,
        by_hand: None,
        dump: None,
        notes: None,
        progress: Some(views::progress(progress)),
    }
}

fn image(listed: Listed) -> varlink::Image {
    varlink::Image {
        references: listed.references.into_iter().collect(),
        digest: listed
            .digest
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        own: listed.own,
        shared: listed.shared,
        generations: listed.generations.into_iter().collect(),
        pods: listed.pods.iter().map(ToString::to_string).collect(),
        by_hand: !listed.by_hand.is_empty(),
        missing: listed.missing,
    }
}

fn kept(kept: Kept) -> KeptImage {
    KeptImage {
        image: kept.image.map(|image| image.to_string()),
        digest: kept.digest.to_string(),
        before: kept.before.map(|digest| digest.to_string()),
        tag: kept.tag,
    }
}

fn inspected(listed: Listed, described: Described) -> InspectImageReply {
    let platform = (described.config.os(), described.config.architecture());
    let platform = format!("{}/{}", platform.0, platform.1);
    let config = described.config.config().clone().unwrap_or_default();
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let layer = |layer: DescribedLayer| ImageLayer {
        digest: layer.digest.to_string(),
        diff_id: layer.diff_id.to_string(),
        media_type: layer.media_type,
        size: layer.size,
        disk: layer.disk,
    };
    InspectImageReply {
        image: image(listed),
        manifest: described.manifest.to_string(),
        config: described.config_digest.to_string(),
        platform,
        entrypoint: list(config.entrypoint()),
        cmd: list(config.cmd()),
        env: list(config.env()),
        user: config.user().clone(),
        working_dir: config.working_dir().clone(),
        stop_signal: config.stop_signal().clone(),
        ports: list(config.exposed_ports()),
        volumes: list(config.volumes()),
        labels: config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        layers: described.layers.into_iter().map(layer).collect(),
    }
}
