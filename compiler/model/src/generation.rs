//! The record of a generation: what a host was told to be, when, by whom and from what.

use crate::digest::Digest;
use serde::{Deserialize, Serialize};

/// One entry of a host's history. Immutable once committed; how it went is kept beside it as an [`Outcome`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Counts from 1, without gaps.
    pub number: u64,
    /// The hash of the graph's root: equal roots are equal desired states.
    pub root: Digest,
    /// The generation this one was planned against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    /// The user id of the process that asked.
    pub uid: u32,
    /// What it asked for, in words: `switch /srv/pods.ncl`, `rollback to 3`, `delete web`.
    pub source: String,
    /// The digest of the [`Provenance`](crate::provenance::Provenance) of its values, kept beside its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Digest>,
}

/// How a generation went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Committed; the host is not there yet, or the daemon ended on the way.
    Pending,
    /// Every changed pod was ready.
    Good,
    /// The host did not get there, and nothing was put back.
    Failed,
    /// The host did not get there, and its parent was put back as a new generation.
    RolledBack,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Good => "good",
            Self::Failed => "failed",
            Self::RolledBack => "rolled back",
        })
    }
}
