//! What a start waits for.

use super::{Owned, Why};
use crate::observed::{Probed, Unresponsive};
use serde::{Deserialize, Serialize};
use std::fmt;
use tank_model::{Name, spec::Condition};

/// Why a start that is wanted has to wait.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum WaitsFor {
    /// Another pod, to be in this condition.
    Dependency { pod: Name, condition: Condition },
    /// Another pod, which is stopped by hand.
    Stopped { pod: Name },
    /// The good end of what runs before the containers, by name.
    Init { name: Name },
    /// Its pod's shim.
    Shim(Unresponsive),
    /// An address of its pod's, which another pod has, or may have.
    Address(Owned),
    /// The end of the run before, which a probe began.
    End(Probed),
    /// Its next restart: the `attempt`th in a row, after a run that ended with `status`.
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
            Self::Stopped { pod } => write!(
                f,
                "waits for {pod}, which is stopped by hand (`tank start {pod}`)"
            ),
            Self::Init { name } => write!(f, "waits for {name} to end well"),
            Self::Shim(unresponsive) => unresponsive.fmt(f),
            Self::Address(owned) => write!(f, "waits for its address: {owned}"),
            Self::End(probe) => write!(f, "is ending: {}", probe.failure()),
            Self::Restart { status, attempt } => {
                let why = Why::Ended { status: *status };
                write!(f, "{why}; restart {attempt} in a row")
            }
        }
    }
}
