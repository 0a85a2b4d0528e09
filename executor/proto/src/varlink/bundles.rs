//! What the methods take and answer by which generations and images leave a host and come to one.

use super::{Change, Outcome, Progress, Step};
use serde::{Deserialize, Serialize};

/// A generation with its images, as an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Bundle {
    /// The root hash of what it declares.
    pub root: String,
    /// The number of the generation where it is from.
    pub generation: u64,
    /// How many images.
    pub images: u64,
    /// How many layers.
    pub layers: u64,
    /// Bytes of the archive; none where it was read.
    pub bytes: Option<u64>,
    /// What has to be on the host that runs it, and is not in it: a sentence each.
    pub needs: Vec<String>,
}

/// One answer to [`super::Method::ExportGeneration`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ExportGenerationReply {
    /// In the last reply.
    pub bundle: Option<Bundle>,
}

/// What [`super::Method::ImportGeneration`] takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ImportGenerationCall {
    /// What it is called, for people.
    pub source: String,
    /// The root hash that it has to have.
    pub root: Option<String>,
    /// Take pods that came from another source.
    pub replace: Option<bool>,
    /// Say what would be done, and do nothing.
    pub dry_run: Option<bool>,
    /// As of [`super::SwitchCall`].
    pub wait: Option<u64>,
    /// As of [`super::SwitchCall`].
    pub rollback: Option<bool>,
}

/// One answer to [`super::Method::ImportGeneration`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ImportGenerationReply {
    /// What it is at.
    pub progress: Option<Progress>,
    /// Once all of it has come and was verified.
    pub bundle: Option<Bundle>,
    /// In the last reply, with `dry_run`: what differs.
    pub changes: Option<Vec<Change>>,
    /// Likewise: what would be done.
    pub steps: Option<Vec<Step>>,
    /// Likewise: what waits, a sentence each.
    pub waiting: Option<Vec<String>>,
    /// In the last reply, without `dry_run`.
    pub outcome: Option<Outcome>,
}
