//! What a plan leaves undone, and why.

use crate::{
    overrides::Stopped,
    step::Step,
    target::{TargetError, firewall::HeldPorts},
    unmet::Unmet,
    why::WaitsFor,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use tank_model::Name;

/// What is not done although it is declared.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Starts that are not due yet, or wait for something else to come about.
    pub waiting: Vec<Waiting>,
    /// What depends on these is not planned either.
    pub held: Vec<Held>,
    /// What can't be done before something else is declared, or is on the host.
    pub blocked: Vec<Blocked>,
    /// Published ports that lead to another pod than declared until that one is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<HeldPorts>,
    /// What is declared and stopped by hand: it is not missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<Stopped>,
    /// What pods need of the host, and nothing waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<Unmet>,
}

/// A start that is wanted and can't be yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// The pod of the container.
    pub pod: Name,
    /// The container that would be started, or what runs before the containers.
    pub container: Name,
    /// What it waits for.
    pub why: WaitsFor,
    /// When to look again, by the clock of [`crate::Observed::now`]. None: an event will tell.
    pub until: Option<u64>,
}

/// A step that failed and is not tried again yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The pod the step is about. None: it is about the host's bridge or rules.
    pub pod: Option<Name>,
    /// The step, for people.
    pub step: String,
    /// How often it failed in a row.
    pub count: u32,
    /// How it failed the last time, for people.
    pub why: String,
    /// When it is tried again, by the clock of [`crate::Observed::now`].
    pub until: u64,
}

/// A pod or a container that can't be started from what is declared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blocked {
    /// A pod of the graph.
    pub pod: Name,
    /// None: it is the pod's sandbox or its link, and with that all of its containers.
    pub container: Option<Name>,
    /// What the declaration, the image or the lease lacks.
    pub why: TargetError,
}

impl Report {
    /// Whether nothing that is declared is left undone.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
            && self.held.is_empty()
            && self.blocked.is_empty()
            && self.ports.is_empty()
    }

    /// Whether a container is stopped by hand.
    pub fn is_stopped(&self, pod: &Name, container: &Name) -> bool {
        let mut stopped = self.stopped.iter();
        stopped.any(|one| one.pod == *pod && one.container == *container)
    }

    /// When to look again though nothing happened.
    pub fn wake_at(&self) -> Option<u64> {
        let waiting = self.waiting.iter().filter_map(|waiting| waiting.until);
        waiting.chain(self.held.iter().map(|held| held.until)).min()
    }

    /// Why a container, or its whole pod, can't be started.
    pub fn blocked(&self, pod: &Name, container: &Name) -> Option<&Blocked> {
        self.blocked.iter().find(|blocked| {
            let own = blocked.container.as_ref();
            blocked.pod == *pod && own.is_none_or(|own| own == container)
        })
    }
}

impl Held {
    pub(crate) fn new(step: &Step, count: u32, why: &str, until: u64) -> Self {
        Self {
            pod: step.pod().cloned(),
            step: step.to_string(),
            count,
            why: why.to_owned(),
            until,
        }
    }

    /// Why it is not tried, for people.
    pub fn reason(&self) -> String {
        format!("it failed {} times in a row: {}", self.count, self.why)
    }
}

/// As the message of a step that failed.
impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pod,
            container,
            why,
        } = self;
        match container {
            Some(container) => write!(f, "can't start {pod}/{container}: {why}"),
            None if matches!(why, TargetError::Nic { .. }) => write!(f, "pod {pod}: can't {why}"),
            None => write!(f, "can't create pod {pod}: {why}"),
        }
    }
}
