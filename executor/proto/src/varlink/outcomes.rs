//! How changes end.

use super::Progress;
use crate::timing::Span;
use serde::{Deserialize, Serialize};

/// How a switch ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Outcome {
    /// The generation that is current now.
    pub generation: u64,
    /// Its root hash.
    pub root: String,
    /// False when nothing was done.
    pub changed: bool,
    /// The generation that is current is not the one that was asked for.
    pub rolled_back: bool,
    /// Why the generation that was asked for is not reached.
    pub failure: Option<String>,
    /// The steps taken where the configuration was the current one already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<Vec<String>>,
    /// Where the time went, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Vec<Span>>,
    /// What pods need of the host's own network and is not there, a sentence each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmet: Option<Vec<String>>,
    /// What is good to know of it, a sentence each. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
}

/// A reply of a method that streams its progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct SwitchReply {
    /// In every reply but the last.
    pub progress: Option<Progress>,
    /// In the last reply.
    pub outcome: Option<Outcome>,
}
