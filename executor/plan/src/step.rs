//! The closed set of things that can be done to a host, and a plan made of them.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};
use tank_model::{Digest, Name, canonical, digest::Hasher, spec};

/// One idempotent thing to do. It says everything; the actuator looks up what a hash stands for and
/// chooses nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The bridge, its addresses, forwarding.
    EnsureBridge,
    RemoveBridge,
    /// A shim with the pod's namespaces.
    StartSandbox {
        pod: Name,
        hash: Digest,
    },
    /// Ends the shim; the namespaces, links and mounts go with it. Then its cgroups.
    StopSandbox {
        pod: Name,
    },
    /// What is left of a pod whose shim is gone: processes, cgroups, folders.
    SweepPod {
        pod: Name,
    },
    /// What is left of a container that its shim does not know: cgroups, folders.
    SweepContainer {
        pod: Name,
        container: Name,
    },
    /// Lets a stopped or frozen shim run on.
    ResumeShim {
        pod: Name,
    },
    /// The pod's link, its addresses and its routes.
    EnsureNetwork {
        pod: Name,
    },
    StartContainer {
        pod: Name,
        container: Name,
        hash: Digest,
        attempt: u32,
    },
    /// The signal, then `SIGKILL` after so many milliseconds; and the shim forgets it.
    StopContainer {
        pod: Name,
        container: Name,
        signal: i32,
        timeout: u64,
    },
    /// Begins what `StopContainer` does and does not wait for the end of it; the shim keeps how it
    /// ended, and with that the pod's `restart` says what follows.
    EndContainer {
        pod: Name,
        container: Name,
        signal: i32,
        timeout: u64,
    },
    SetLimits {
        pod: Name,
        container: Name,
        limits: spec::Limits,
    },
    /// Lets a stopped or frozen container run on.
    Resume {
        pod: Name,
        container: Name,
    },
    /// Writes files anew under the running container; those that are reloaded are followed by their
    /// signals.
    WriteFiles {
        pod: Name,
        container: Name,
        paths: BTreeSet<String>,
    },
    /// Replaces the whole table: published ports, and what guards the host and the pods.
    EnsureFirewall,
    RemoveFirewall,
}

/// What a step costs whoever uses the pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Nothing ran before.
    Create,
    /// Nothing is disturbed.
    InPlace,
    /// The main process ends and starts again from the same image.
    Restart,
    /// The container, or the whole pod, is another one afterwards.
    Replace,
    /// What ran is gone afterwards.
    Delete,
    /// Data kept by Tank may be lost.
    DataRisk,
}

/// The place of a step in its plan.
pub type StepId = usize;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedStep {
    #[serde(flatten)]
    pub step: Step,
    pub class: Class,
    /// For people; no code branches on it.
    pub why: String,
    /// Whether the host left what was already declared, rather than the declaration moving on.
    pub drift: bool,
    /// The steps that have to be done before.
    pub after: Vec<StepId>,
}

/// A start that is wanted and can't be yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waiting {
    pub pod: Name,
    pub container: Name,
    pub why: String,
    /// When to look again, by the clock of [`crate::Observed::now`]. None: an event will tell.
    pub until: Option<u64>,
}

/// A step that failed and is not tried again yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    pub step: Step,
    pub why: String,
    /// When it is tried again, in milliseconds since the epoch.
    pub until: u64,
}

/// What to do, in an order that works, and what waits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<PlannedStep>,
    pub waiting: Vec<Waiting>,
    /// What depends on these is not planned either.
    #[serde(default)]
    pub held: Vec<Held>,
}

impl Plan {
    /// Nothing to do and nothing waits for anything.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_empty() && self.held.is_empty()
    }

    /// Names the plan: what is to be reached and how.
    pub fn hash(&self, root: Digest) -> Digest {
        let steps = canonical::encode(&self.steps).unwrap_or_default();
        Hasher::new("tank.plan.v1")
            .field(root.as_bytes())
            .field(&steps)
            .finish()
    }

    /// When to look again though nothing happened.
    pub fn wake_at(&self) -> Option<u64> {
        let held = self.held.iter().map(|held| held.until);
        self.waiting
            .iter()
            .filter_map(|waiting| waiting.until)
            .chain(held)
            .min()
    }
}

impl Step {
    /// The pod it is about.
    pub fn pod(&self) -> Option<&Name> {
        match self {
            Self::EnsureBridge
            | Self::RemoveBridge
            | Self::EnsureFirewall
            | Self::RemoveFirewall => None,
            Self::StartSandbox { pod, .. }
            | Self::StopSandbox { pod }
            | Self::SweepPod { pod }
            | Self::SweepContainer { pod, .. }
            | Self::ResumeShim { pod }
            | Self::EnsureNetwork { pod }
            | Self::StartContainer { pod, .. }
            | Self::StopContainer { pod, .. }
            | Self::EndContainer { pod, .. }
            | Self::SetLimits { pod, .. }
            | Self::Resume { pod, .. }
            | Self::WriteFiles { pod, .. } => Some(pod),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureBridge => write!(f, "set up the bridge"),
            Self::RemoveBridge => write!(f, "remove the bridge"),
            Self::StartSandbox { pod, .. } => write!(f, "create pod {pod}"),
            Self::StopSandbox { pod } => write!(f, "remove pod {pod}"),
            Self::SweepPod { pod } => write!(f, "sweep what is left of pod {pod}"),
            Self::SweepContainer { pod, container } => {
                write!(f, "sweep what is left of {pod}/{container}")
            }
            Self::ResumeShim { pod } => write!(f, "resume the shim of pod {pod}"),
            Self::EnsureNetwork { pod } => write!(f, "connect pod {pod}"),
            Self::StartContainer { pod, container, .. } => write!(f, "start {pod}/{container}"),
            Self::StopContainer { pod, container, .. } => write!(f, "stop {pod}/{container}"),
            Self::EndContainer { pod, container, .. } => write!(f, "end {pod}/{container}"),
            Self::SetLimits { pod, container, .. } => {
                write!(f, "set the limits of {pod}/{container}")
            }
            Self::Resume { pod, container } => write!(f, "resume {pod}/{container}"),
            Self::WriteFiles {
                pod,
                container,
                paths,
            } => {
                let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
                write!(f, "write {} of {pod}/{container}", paths.join(", "))
            }
            Self::EnsureFirewall => write!(f, "publish ports"),
            Self::RemoveFirewall => write!(f, "remove the published ports"),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "create",
            Self::InPlace => "in place",
            Self::Restart => "restart",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::DataRisk => "data risk",
        })
    }
}
