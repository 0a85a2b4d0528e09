//! The closed set of things that can be done to a host, and a plan made of them.

use crate::{
    flows::{Flows, Port},
    observed::ChangedSetting,
    target::{
        Bridge, ContainerSpec, HostLink, PodLink, PodNic, Quota, SandboxSpec, Table, Zone,
        networks::is_bridge_name,
    },
    why::Why,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use tank_model::{
    Digest, Name, VolumeId, canonical,
    digest::Hasher,
    spec::{self, NicMode},
    units::Bytes,
};

/// One idempotent thing to do. It says everything; the actuator chooses nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Step {
    /// A bridge, its addresses, and the settings of the host that forwarding needs.
    EnsureBridge { bridge: Bridge },
    /// Removes the bridge of this name, and gives back the host's settings that still say what Tank
    /// set them to.
    RemoveBridge {
        name: String,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        restore: BTreeMap<String, ChangedSetting>,
    },
    /// A shim with the pod's namespaces. `hash` is the sandbox node's.
    StartSandbox {
        pod: Name,
        hash: Digest,
        spec: SandboxSpec,
    },
    /// Ends the shim; the namespaces, links and mounts go with it. Then its cgroups.
    StopSandbox { pod: Name },
    /// What is left of a pod whose shim is gone: processes, cgroups, folders.
    SweepPod { pod: Name },
    /// What is left of a container that its shim does not know: cgroups, folders.
    SweepContainer { pod: Name, container: Name },
    /// Lets a stopped or frozen shim run on.
    ResumeShim { pod: Name },
    /// The pod's links to the bridges of its networks, their addresses and its routes.
    EnsureNetwork { pod: Name, links: Vec<PodLink> },
    /// An interface of the pod's own, its addresses and its routes.
    EnsureNic { pod: Name, nic: PodNic },
    /// The host's own link to the pods on one parent, and its routes to them.
    EnsureHostLink { link: HostLink },
    /// Removes the host's own link of this name; its routes go with it.
    RemoveHostLink { name: String },
    /// Starts a container, or what runs before the containers. `hash` is its node's; `attempt`
    /// counts restarts in a row, 0 for the first run.
    StartContainer {
        pod: Name,
        container: Name,
        hash: Digest,
        attempt: u32,
        spec: Box<ContainerSpec>,
    },
    /// `signal` by its number, then `SIGKILL` after `timeout` milliseconds; and the shim forgets
    /// it.
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
    /// Writes the limits into the cgroup of the running container, as
    /// [`crate::target::effective_limits`] has them.
    SetLimits {
        pod: Name,
        container: Name,
        limits: spec::Limits,
    },
    /// Lets a stopped or frozen container run on.
    Resume { pod: Name, container: Name },
    /// Writes files anew under the running container; those that are reloaded are followed by their
    /// signals.
    WriteFiles {
        pod: Name,
        container: Name,
        /// By path.
        files: BTreeMap<String, FileWrite>,
    },
    /// Replaces the whole table: published ports, and what guards the host and the pods.
    EnsureFirewall { table: Table },
    /// Removes Tank's nftables table.
    RemoveFirewall,
    /// Ends flows of UDP that do not go where the published ports lead.
    EndFlows {
        /// Those whose port does not lead there any more.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        flows: BTreeSet<Flows>,
        /// The ports that lead to a pod from now on: flows to them that are not translated.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        opened: BTreeSet<Port>,
    },
    /// A name server that answers this and nothing else, in place of what was answered before. One
    /// that runs another program than the installed one is replaced, and no query is lost.
    EnsureNames { zone: Zone },
    /// Ends the name server.
    RemoveNames,
    /// A snapshot of a volume that no container writes to, kept with the generation `generation`, in
    /// which its containers were started. One that is `optional` and can't be taken keeps nothing
    /// from starting.
    SnapshotVolume {
        pod: Name,
        volume: Name,
        generation: u64,
        optional: bool,
    },
    /// Puts a copy of the snapshot that is kept with the generation `from` in the place of a volume
    /// that no container has mounted. What the volume had is kept with the generation `generation`.
    RestoreVolume {
        pod: Name,
        volume: Name,
        from: u64,
        generation: u64,
        /// The generation that left what is kept with `from`, where that is another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<u64>,
    },
    /// Holds a volume that is there to its size, or lets it have what the disk has. What is in it by then counts.
    LimitVolume { volume: VolumeId, quota: Quota },
}

/// A file that is written anew under a running container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileWrite {
    /// The whole content, in place of what is there.
    pub text: String,
    /// The number of the signal that makes the program read it again. None: it needs none.
    pub signal: Option<i32>,
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

/// A step with its reason and its place in the order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedStep {
    /// What to do.
    #[serde(flatten)]
    pub step: Step,
    /// What it costs whoever uses the pod.
    pub class: Class,
    /// For people; nothing branches on it.
    pub why: Why,
    /// Whether the host left what was already declared, rather than the declaration moving on.
    pub drift: bool,
    /// The steps that have to be done before.
    pub after: Vec<StepId>,
}

/// What to do, in an order that works.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Each after all that its [`PlannedStep::after`] names.
    pub steps: Vec<PlannedStep>,
    /// The host's directories that containers may write: nothing of the host that a step hands to a
    /// container may be found through them. Filled where a step starts a container.
    #[serde(default)]
    pub host_writable: BTreeSet<String>,
    /// The [ids](Step::id) of the starts that wait for something: what they would do is part of what
    /// the plan leads to.
    #[serde(default)]
    pub later: Vec<Digest>,
}

impl Plan {
    /// Whether there is nothing to do. What waits is in the [`crate::Report`].
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Names the plan: what is to be reached, and all that is done for it, in which order and why.
    pub fn hash(&self, root: Digest) -> Digest {
        let mut hasher = Hasher::new("tank.plan.v2")
            .field(root.as_bytes())
            .field(&bytes(&self.host_writable))
            .field(&bytes(&self.later));
        for planned in &self.steps {
            let PlannedStep {
                step,
                class,
                why,
                drift,
                after,
            } = planned;
            hasher = hasher.field(step.id().as_bytes()).field(&bytes(&(
                class,
                why.to_string(),
                drift,
                after,
            )));
        }
        hasher.finish()
    }
}

/// The canonical bytes of something of this crate, none of which holds what has none: floating-point
/// numbers, or maps whose keys are no texts.
fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    canonical::encode(value).unwrap_or_default()
}

impl Step {
    /// Names the step with all it says: another step has another one.
    pub fn id(&self) -> Digest {
        Hasher::new("tank.step.v1").field(&bytes(self)).finish()
    }

    /// Whether what is declared can't run without it. Names are not: something else may hold the port
    /// that they are asked at, and pods that ask for none run well. Nor are ends of flows.
    pub fn is_vital(&self) -> bool {
        !matches!(
            self,
            Self::EnsureNames { .. } | Self::RemoveNames | Self::EndFlows { .. }
        )
    }

    /// The pod it is about.
    pub fn pod(&self) -> Option<&Name> {
        match self {
            Self::EnsureBridge { .. }
            | Self::RemoveBridge { .. }
            | Self::EnsureFirewall { .. }
            | Self::RemoveFirewall
            | Self::EndFlows { .. }
            | Self::EnsureHostLink { .. }
            | Self::RemoveHostLink { .. }
            | Self::EnsureNames { .. }
            | Self::RemoveNames => None,
            Self::LimitVolume { volume, .. } => volume.pod(),
            Self::StartSandbox { pod, .. }
            | Self::StopSandbox { pod }
            | Self::SweepPod { pod }
            | Self::SweepContainer { pod, .. }
            | Self::ResumeShim { pod }
            | Self::EnsureNetwork { pod, .. }
            | Self::EnsureNic { pod, .. }
            | Self::StartContainer { pod, .. }
            | Self::StopContainer { pod, .. }
            | Self::EndContainer { pod, .. }
            | Self::SetLimits { pod, .. }
            | Self::Resume { pod, .. }
            | Self::WriteFiles { pod, .. }
            | Self::SnapshotVolume { pod, .. }
            | Self::RestoreVolume { pod, .. } => Some(pod),
        }
    }

    /// The container it is about, of its pod.
    pub fn container(&self) -> Option<&Name> {
        match self {
            Self::StartContainer { container, .. }
            | Self::StopContainer { container, .. }
            | Self::EndContainer { container, .. }
            | Self::SweepContainer { container, .. }
            | Self::SetLimits { container, .. }
            | Self::Resume { container, .. }
            | Self::WriteFiles { container, .. } => Some(container),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    // long: one arm a step
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureBridge { bridge } => match &bridge.network {
                None => write!(f, "set up the bridge"),
                Some(network) => write!(f, "set up the network {network}"),
            },
            Self::RemoveBridge { name, .. } => match is_bridge_name(name) {
                false => write!(f, "remove the bridge"),
                true => write!(f, "remove the bridge {name}"),
            },
            Self::StartSandbox { pod, .. } => write!(f, "create pod {pod}"),
            Self::StopSandbox { pod } => write!(f, "remove pod {pod}"),
            Self::SweepPod { pod } => write!(f, "sweep what is left of pod {pod}"),
            Self::SweepContainer { pod, container } => {
                write!(f, "sweep what is left of {pod}/{container}")
            }
            Self::ResumeShim { pod } => write!(f, "resume the shim of pod {pod}"),
            Self::EnsureNetwork { pod, .. } => write!(f, "connect pod {pod}"),
            Self::EnsureNic { pod, nic } => {
                let PodNic { name, parent, .. } = nic;
                let how = match nic.mode {
                    NicMode::Macvlan => "on",
                    NicMode::Bridge => "to the bridge",
                };
                write!(f, "connect {name} of pod {pod} {how} {parent}")?;
                let own: Vec<String> = nic.addresses.iter().map(ToString::to_string).collect();
                match own.is_empty() {
                    true => Ok(()),
                    false => write!(f, " as {}", own.join(", ")),
                }
            }
            Self::EnsureHostLink { link } => {
                write!(f, "let the host reach the pods on {}", link.parent)
            }
            Self::RemoveHostLink { name } => write!(f, "remove the host's link {name}"),
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
                files,
            } => {
                let paths: Vec<&str> = files.keys().map(String::as_str).collect();
                write!(f, "write {} of {pod}/{container}", paths.join(", "))
            }
            Self::EnsureFirewall { .. } => write!(f, "publish ports"),
            Self::RemoveFirewall => write!(f, "remove the published ports"),
            Self::EndFlows { flows, opened } => {
                let to = flows.iter().map(|flows| flows.to.to_string());
                let ports = opened.iter().map(|port| format!("port {}", port.port));
                let to: BTreeSet<String> = to.chain(ports).collect();
                let to = to.iter().map(String::as_str).collect();
                write!(f, "end flows of UDP to {}", listed(&to))
            }
            Self::EnsureNames { zone } => write!(f, "answer names: {}", listed(&zone.names())),
            Self::RemoveNames => write!(f, "answer no names any more"),
            Self::SnapshotVolume {
                pod,
                volume,
                generation,
                ..
            } => write!(
                f,
                "snapshot {pod}/{volume}, kept with generation {generation}"
            ),
            Self::RestoreVolume {
                pod,
                volume,
                from,
                generation,
                origin,
            } => write!(
                f,
                "bring {pod}/{volume} back as generation {} left it; what it has is kept with generation {generation}",
                origin.unwrap_or(*from)
            ),
            Self::LimitVolume { volume, quota } => match quota.bytes {
                0 => write!(f, "let volume {volume} have what the disk has"),
                bytes => write!(f, "limit volume {volume} to {}", Bytes(bytes)),
            },
        }
    }
}

/// The most names that a text lists.
const MAX_LISTED: usize = 8;

/// Names in a row, and how many more there are.
fn listed(names: &BTreeSet<&str>) -> String {
    let first: Vec<&str> = names.iter().copied().take(MAX_LISTED).collect();
    let text = first.join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => text,
        more => format!("{text} and {more} more"),
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
