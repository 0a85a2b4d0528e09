//! What the methods for volumes answer.

use serde::{Deserialize, Serialize};

/// A volume that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Volume {
    /// `POD/VOLUME`, or `VOLUME` of one that pods share.
    pub name: String,
    /// What it takes of the disk.
    pub bytes: u64,
    /// It is that at least: there is too much to be measured.
    pub at_least: bool,
    /// Whether the current generation declares it.
    pub declared: bool,
    /// The generations that declare it.
    pub generations: Vec<u64>,
    /// Whether a container has it mounted.
    pub mounted: bool,
    /// When a container that mounts it was started last, in milliseconds since the epoch.
    pub used: Option<u64>,
    /// The generations that a snapshot of it is kept with. Absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<u64>>,
    /// Of one that pods share: those that say so in the current generation.
    pub pods: Option<Vec<String>>,
    /// The most that it may take, as the current generation declares it. Absent: the disk is the bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// The answer to [`super::Method::Volumes`] and [`super::Method::RemoveVolumes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct VolumesReply {
    /// By name.
    pub volumes: Vec<Volume>,
}

/// The answer to [`super::Method::ExportVolume`] and [`super::Method::ImportVolume`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct TransferReply {
    /// Files, directories and links; none in the reply that comes with the pipe.
    pub entries: Option<u64>,
    /// Bytes of files, holes counted in.
    pub bytes: Option<u64>,
}
