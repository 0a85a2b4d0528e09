//! Why something is done, or waits: data that becomes text where people read it.

use crate::observed::{Probed, Unresponsive};
use serde::{Deserialize, Serialize};
use std::fmt;
use tank_model::{Key, Name, diff, spec::Condition};

/// Why a step is planned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    Declared,
    /// A pod was declared before and is not there.
    PodMissing,
    /// A container was declared before and does not run.
    NotRunning,
    /// A new pod in place of one that is removed.
    Replaces,
    NoLongerDeclared,
    NeverDeclared,
    /// What the declaration changed, in the order in which it is told.
    Changed(Vec<Changed>),
    /// Something below it is another one, and no field says which.
    NeedsChanged,
    NamespacesDiffer,
    ShimGone,
    ShimTooOld,
    Unresponsive(Unresponsive),
    NeedsAddress,
    LinkDiffers,
    RulesDiffer {
        missing: usize,
        unwanted: usize,
    },
    BridgeNeeded,
    BridgeNotNeeded,
    NothingPublished,
    Halted,
    ProbeFailed(Probed),
    Ended {
        status: i32,
    },
    LimitsDiffer,
    FilesDiffer,
}

/// A node that the declaration changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changed {
    pub key: Key,
    /// Whether the node is named: it is another one than the step is about.
    pub named: bool,
    pub how: How,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Added,
    Removed,
    /// The fields that differ, by their paths within the node.
    Fields(Vec<String>),
}

impl Changed {
    pub fn of(change: &diff::NodeChange) -> Self {
        let how = match &change.what {
            diff::What::Added => How::Added,
            diff::What::Removed => How::Removed,
            diff::What::Modified { fields } => {
                How::Fields(fields.iter().map(|field| field.field.clone()).collect())
            }
        };
        Self {
            key: change.key.clone(),
            named: false,
            how,
        }
    }

    /// The same, with the name of the node.
    pub fn named(self) -> Self {
        Self {
            named: true,
            ..self
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, named, how } = self;
        if *named {
            write!(f, "{key}: ")?;
        }
        match how {
            How::Added => write!(f, "{key} is new"),
            How::Removed => write!(f, "{key} is gone"),
            How::Fields(fields) => write!(f, "{} changed", fields.join(", ")),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Declared => "it is declared",
            Self::PodMissing => "it is declared and not there",
            Self::NotRunning => "it is declared and does not run",
            Self::Replaces => "in place of the one before",
            Self::NoLongerDeclared => "it is no longer declared",
            Self::NeverDeclared => "nobody declared it",
            Self::NeedsChanged => "what it needs has changed",
            Self::NamespacesDiffer => "its namespaces are not the declared ones",
            Self::ShimGone => "its shim is gone",
            Self::ShimTooOld => "its shim is too old to write files under a container",
            Self::NeedsAddress => "it needs an address",
            Self::LinkDiffers => "its link is not as declared",
            Self::BridgeNeeded => "pods need it",
            Self::BridgeNotNeeded => "no pod needs it",
            Self::NothingPublished => "no port is published",
            Self::Halted => "somebody stopped or froze it",
            Self::ProbeFailed(probe) => probe.failure(),
            Self::LimitsDiffer => "the kernel has others",
            Self::FilesDiffer => "they do not say what they should",
            Self::Unresponsive(unresponsive) => return unresponsive.fmt(f),
            Self::RulesDiffer { missing, unwanted } => {
                return write!(
                    f,
                    "{missing} rules are missing and {unwanted} are not wanted"
                );
            }
            Self::Ended { status } => {
                return write!(f, "its main process ended with status {status}");
            }
            Self::Changed(changed) => {
                let texts: Vec<String> = changed.iter().map(ToString::to_string).collect();
                return f.write_str(&texts.join(", "));
            }
        })
    }
}

/// Why a start that is wanted has to wait.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// Another pod.
    Dependency { pod: Name, condition: Condition },
    /// What runs before the containers.
    Init { name: Name },
    /// Its pod's shim.
    Shim(Unresponsive),
    /// The end of the run before, which a probe began.
    End(Probed),
    /// Its next restart in a row.
    Restart { status: i32, attempt: u32 },
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependency { pod, condition } => {
                let what = match condition {
                    Condition::Started => "started",
                    Condition::Ready => "ready",
                    Condition::Completed => "completed",
                };
                write!(f, "waits for {pod} to be {what}")
            }
            Self::Init { name } => write!(f, "waits for {name} to end well"),
            Self::Shim(unresponsive) => unresponsive.fmt(f),
            Self::End(probe) => write!(f, "is ending: {}", probe.failure()),
            Self::Restart { status, attempt } => {
                let why = Why::Ended { status: *status };
                write!(f, "{why}; restart {attempt} in a row")
            }
        }
    }
}
