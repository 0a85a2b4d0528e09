//! What the methods answer that keep a host in order: what was collected, and what is damaged.

use super::{Change, Generation, Progress, Step};
use serde::{Deserialize, Serialize};

/// A kind of thing that was collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Leftover {
    /// `nodes`, `documents`, `layers`, `logs`, `scratch` or `figures`: an open set of words.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Bytes of the disk; of nodes, those of the database's values.
    pub bytes: u64,
}

/// A snapshot of a volume that was collected, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct SweptSnapshot {
    /// The generation that it is kept with.
    pub generation: u64,
    /// `POD/VOLUME`.
    pub volume: String,
    /// What it takes, with what it shares with the volume and other snapshots. Absent: it was not measured.
    pub bytes: Option<u64>,
    /// It is that at least: there is too much to be measured.
    pub at_least: bool,
}

/// What was collected, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Collected {
    /// The numbers of the generations that were deleted.
    pub generations: Vec<u64>,
    /// What went beside them, by what it is.
    pub kinds: Vec<Leftover>,
    /// The snapshots of volumes among them, as many as a reply names. Absent: none, or an older daemon answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<SweptSnapshot>>,
    /// The names of the leases that were released.
    pub leases: Vec<String>,
    /// What stays though it may not be needed, a sentence each.
    pub left: Vec<String>,
}

/// The answer to [`super::Method::DeleteGenerations`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct DeleteGenerationsReply {
    /// What went.
    pub collected: Collected,
}

/// The answer to [`super::Method::PinGeneration`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct PinGenerationReply {
    /// As it is now.
    pub generation: Generation,
}

/// The answer to [`super::Method::Collect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct CollectReply {
    /// What went, or would go.
    pub collected: Collected,
}

/// Something that is damaged, or not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Damage {
    /// What.
    pub what: String,
    /// How it differs from what it should be.
    pub why: String,
    /// The references of the images that need it.
    pub images: Vec<String>,
    /// The newest generations that need it.
    pub generations: Vec<u64>,
    /// The pods of theirs that need it.
    pub pods: Vec<String>,
    /// It was fetched again and is good now.
    pub repaired: bool,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct StoreReport {
    /// How many generations were read.
    pub generations: u64,
    /// How many nodes of graphs.
    pub nodes: u64,
    /// How many leases.
    pub leases: u64,
    /// How many documents of images.
    pub documents: u64,
    /// How many layers.
    pub layers: u64,
    /// The bytes of both.
    pub bytes: u64,
    /// Layers of which no digest was kept, each by its name.
    pub unverified: Vec<String>,
    /// What is damaged, or was.
    pub damages: Vec<Damage>,
    /// Containers that run from a file that was replaced: `pod/container`.
    pub restart: Vec<String>,
}

/// One answer to [`super::Method::CheckStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct CheckStoreReply {
    /// In every reply but the last.
    pub progress: Option<Progress>,
    /// In the last reply.
    pub report: Option<StoreReport>,
}

/// A volume that becomes what a generation left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct BroughtBack {
    /// As `tank volume` calls it.
    pub volume: String,
    /// The generation that the snapshot is kept with.
    pub generation: u64,
    /// When the one after that was committed, in milliseconds since the epoch.
    pub time: Option<u64>,
}

/// The answer to [`super::Method::DiffRollback`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct DiffRollbackReply {
    /// The one that is gone back to.
    pub generation: u64,
    /// What the rollback would say of itself.
    pub notes: Vec<String>,
    /// The volumes that would be brought back.
    pub data: Vec<BroughtBack>,
    /// As of a diff.
    pub changes: Vec<Change>,
    /// As of a diff.
    pub steps: Vec<Step>,
    /// As of a diff.
    pub waiting: Vec<String>,
    /// As of a diff.
    pub parent: Option<u64>,
}
