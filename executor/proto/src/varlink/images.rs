//! What the methods for images answer.

use super::Progress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An image of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Image {
    /// What it is called: in configurations, and by hand.
    pub references: Vec<String>,
    /// Its digest.
    pub digest: String,
    /// The bytes of the disk that would be free without it.
    pub own: u64,
    /// The bytes of the disk that other images need as well.
    pub shared: u64,
    /// The generations that need it.
    pub generations: Vec<u64>,
    /// The pods of the current generation that run it.
    pub pods: Vec<String>,
    /// It was pulled or loaded by hand, and is kept until it is removed.
    pub by_hand: bool,
    /// Why it is not whole, if it is not.
    pub missing: Option<String>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct ImageLayer {
    /// The digest of its bytes as they came.
    pub digest: String,
    /// The digest of its uncompressed bytes.
    pub diff_id: String,
    /// What it is packed with.
    pub media_type: String,
    /// Its bytes as they came.
    pub size: u64,
    /// What it takes of the disk; none where it is not here.
    pub disk: Option<u64>,
}

/// An image that is, or was, kept by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct KeptImage {
    /// What it is called. None: it has no name.
    pub image: Option<String>,
    /// Its digest.
    pub digest: String,
    /// What was called so before, if that was another one.
    pub before: Option<String>,
    /// The tag that the archive which it was loaded from has for it, where that is no name of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// The answer to [`super::Method::Images`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ImagesReply {
    /// By their references.
    pub images: Vec<Image>,
}

/// The answer to [`super::Method::InspectImage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct InspectImageReply {
    /// Who needs it, and what it takes.
    pub image: Image,
    /// The digest of its manifest: its own, unless that is an index's.
    pub manifest: String,
    /// The digest of its configuration.
    pub config: String,
    /// `OS/ARCHITECTURE`.
    pub platform: String,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments that follow.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Who runs it.
    pub user: Option<String>,
    /// Where it begins.
    pub working_dir: Option<String>,
    /// What ends it.
    pub stop_signal: Option<String>,
    /// The ports that it says it listens on.
    pub ports: Vec<String>,
    /// The paths that it says are volumes.
    pub volumes: Vec<String>,
    /// What else is said of it.
    pub labels: BTreeMap<String, String>,
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
}

/// One answer to [`super::Method::PullImage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct PullImageReply {
    /// In every reply but the last.
    pub progress: Option<Progress>,
    /// In the last reply.
    pub pulled: Option<KeptImage>,
}

/// One answer to [`super::Method::LoadImages`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct LoadImagesReply {
    /// In the last reply.
    pub loaded: Option<Vec<KeptImage>>,
}

/// The answer to [`super::Method::RemoveImages`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct RemoveImagesReply {
    /// What is kept no longer.
    pub removed: Vec<KeptImage>,
}
