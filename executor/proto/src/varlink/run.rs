//! What [`super::Method::Run`] takes and answers.

use super::{Progress, words::PullPolicy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What [`super::Method::Run`] takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct RunCall {
    /// The pod's name.
    pub pod: String,
    /// The container whose image, environment, files and volumes it has; none if the pod has only one.
    pub container: Option<String>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What stands in the place of the image's entrypoint; empty for none.
    pub entrypoint: Option<String>,
    /// Added to the container's environment.
    pub env: BTreeMap<String, String>,
    /// An absolute working directory; none for the container's own.
    pub cwd: Option<String>,
    /// `user[:group]`, names of the image or numbers; none for the container's own.
    pub user: Option<String>,
    /// The terminal's height; none for no terminal.
    pub rows: Option<u16>,
    /// The terminal's width.
    pub columns: Option<u16>,
    /// The image that is run where no pod is called so; none for a pod alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What the path of an image is relative to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dir: Option<String>,
    /// When the image's registry is asked; none for missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullPolicy>,
}

/// One answer to [`super::Method::Run`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct RunReply {
    /// What is done for it.
    pub progress: Option<Progress>,
    /// The container that runs it, with the last answer.
    pub container: Option<String>,
}
