//! What the interface's methods answer.

use super::words::{ChangeKind, GenerationOutcome, Stage, State, StepClass};
use serde::{Deserialize, Serialize};

/// One step of the way of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Progress {
    /// Where the change is.
    pub stage: Stage,
    /// For people; what it holds depends on the stage.
    pub message: String,
    /// How far a layer of the image that `message` names is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
}

/// A layer that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Layer {
    /// The digest of its compressed bytes: `sha256:` and 64 digits.
    pub digest: String,
    /// How many of them have come.
    pub done: u64,
    /// How many there are.
    pub size: u64,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Generation {
    /// Counted from 1.
    pub number: u64,
    /// The hash of its whole desired state.
    pub root: String,
    /// The generation it was planned against; none for the first.
    pub parent: Option<u64>,
    /// When it was committed, in milliseconds since the epoch.
    pub time: u64,
    /// Who asked for it.
    pub uid: u32,
    /// What it was made from, for people.
    pub source: String,
    /// How the switch to it ended.
    pub outcome: GenerationOutcome,
    /// The host is held to it.
    pub current: bool,
    /// It is never deleted. Absent: it is not pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// The volumes of which a snapshot is kept with it, each `POD/VOLUME`. Absent: of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<String>>,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Step {
    /// What is done, for people.
    pub text: String,
    /// The pod it concerns; none for what is the host's.
    pub pod: Option<String>,
    /// What it costs.
    pub class: StepClass,
    /// Why it is taken, for people.
    pub why: String,
    /// It repairs the host, and no change of the configuration asks for it.
    pub drift: bool,
}

/// A field or a part of the declaration that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Change {
    /// The part.
    pub what: String,
    /// What happens to it.
    pub change: ChangeKind,
    /// The field of a part that is modified.
    pub field: Option<String>,
    /// The field's value before, a text without quotes or JSON.
    pub before: Option<String>,
    /// The field's value afterwards, a text without quotes or JSON.
    pub after: Option<String>,
}

/// The answer to [`super::Method::Diff`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct DiffReply {
    /// How the declaration differs from the current generation.
    pub changes: Vec<Change>,
    /// What a switch would do, in order.
    pub steps: Vec<Step>,
    /// What a later pass would do, and what it waits for.
    pub waiting: Vec<String>,
    /// The name of the plan, to be given to a switch.
    pub plan: String,
    /// The generation it was planned against.
    pub parent: Option<u64>,
    /// What is stopped by hand, a sentence each: it stays so until the next change of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<Vec<String>>,
    /// What the plan was made from, as JSON of `tank_plan::Dump`, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<String>,
    /// What is good to know of it, a sentence each. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
    /// In every reply but the last, of which nothing else counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// A container, desired beside observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct ContainerStatus {
    /// Its name in its pod.
    pub name: String,
    /// The reference that the configuration names; empty if none declares it.
    pub image: String,
    /// The image's digest.
    pub digest: Option<String>,
    /// What it does.
    pub state: State,
    /// The main process, by the host's count.
    pub pid: Option<i32>,
    /// The status of a main process that has ended, 128 and the signal if one ended it.
    pub status: Option<i32>,
    /// How many times in a row it was restarted.
    pub restarts: u32,
    /// When the main process was started, in milliseconds since the epoch.
    pub started: Option<u64>,
    /// It runs and its readiness probe, if it has one, succeeds.
    pub ready: bool,
    /// When it was stopped by hand, in milliseconds since the epoch. Absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<u64>,
    /// Who stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<u32>,
    /// Who runs it by hand. Absent: it is declared, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_by: Option<u32>,
}

/// A network interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct PodInterface {
    /// Its name inside.
    pub name: String,
    /// The network that it is on, with its stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Of one of the pod's own: the host's link that it sits on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Without their prefix lengths.
    pub addresses: Vec<String>,
}

/// A pod, desired beside observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// The addresses of its own network, without their prefix lengths.
    pub addresses: Vec<String>,
    /// The ports it publishes: `address:port->target`, and `/udp` behind it.
    pub published: Vec<String>,
    /// Its containers, and before them the init containers that it waits for.
    pub containers: Vec<ContainerStatus>,
    /// Why nothing more is known of a pod that is unresponsive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whom it reaches and by whom it is reached, where that is not everybody, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<String>>,
    /// On which network each of the addresses is, where that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<PodInterface>>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Event {
    /// In milliseconds since the epoch.
    pub time: u64,
    /// What kind of thing it was: a word of those that the interface names. There may be more in time.
    pub kind: String,
    /// The pod it happened to.
    pub pod: Option<String>,
    /// The container of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The generation that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The user who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// What happened, for people.
    pub message: String,
    /// How often, where it was more than once with nothing else of the pod between; `time` is that of the
    /// last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// When the first of these was, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// The answer to [`super::Method::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct StatusReply {
    /// The daemon's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// The current generation.
    pub generation: Option<u64>,
    /// Its root hash.
    pub root: Option<String>,
    /// How many pods are declared or there.
    pub pods: u64,
    /// How many of them run.
    pub running: u64,
    /// The kernel's release, as uname(2) has it.
    pub kernel: String,
    /// The volumes whose last backup failed, or of which none is begun since one hangs, `pod/volume`. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_backups: Option<Vec<String>>,
    /// The containers that are stopped by hand, `pod/container`. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Vec<String>>,
    /// Why volumes can't be held to a `size` on this host, and what to do. Absent: they can, or an older daemon answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlimited: Option<Vec<String>>,
    /// What is free of the disk with the state folder, where little is. Absent: enough is, or an older daemon answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<String>,
    /// What is to be removed and can't be, each with why. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Vec<String>>,
    /// The pods that are not as they should be: neither running nor completed, nor stopped by hand. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Vec<PodStatus>>,
}

/// A pod, and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct PodStatus {
    /// Its name.
    pub pod: String,
    /// What it does.
    pub state: State,
}

/// The answer to [`super::Method::Generations`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct GenerationsReply {
    /// The history.
    pub generations: Vec<Generation>,
}

/// The answer to [`super::Method::GetGeneration`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct GenerationReply {
    /// Its entry of the history.
    pub generation: Generation,
    /// Its whole configuration, as canonical bytes.
    pub config: String,
}

/// The answer to [`super::Method::GenerationDiff`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ChangesReply {
    /// From the one generation to the other.
    pub changes: Vec<Change>,
}

/// The answer to [`super::Method::List`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ListReply {
    /// Every pod that is declared or there, by name.
    pub pods: Vec<Pod>,
}

/// A pod on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct NetworkPod {
    /// The pod's name, with its stack.
    pub pod: String,
    /// Its addresses there.
    pub addresses: Vec<String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Network {
    /// Its name, with its stack.
    pub name: String,
    /// Its stack, if it belongs to one.
    pub stack: Option<String>,
    /// Whether nothing leads out of it or into it.
    pub internal: bool,
    /// With their prefixes.
    pub subnets: Vec<String>,
    /// The host's link for it; none where no pod is on it.
    pub bridge: Option<String>,
    /// Who is on it.
    pub pods: Vec<NetworkPod>,
}

/// The answer to [`super::Method::Networks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct NetworksReply {
    /// By name.
    pub networks: Vec<Network>,
}

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Problem {
    /// As `tank doc --error` takes it.
    pub code: String,
    /// The field's path, by the names of the host.
    pub field: Vec<String>,
    /// Where it is written, if that is known: `file:line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
    /// Another field that has to do with it, its role and its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related: Option<String>,
}

/// The answer to [`super::Method::Get`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct GetReply {
    /// The pod.
    pub pod: Pod,
    /// Its configuration, as canonical bytes.
    pub config: String,
}

/// The answer to [`super::Method::Exec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ExecReply {
    /// The command's process, by the host's count.
    pub pid: i32,
}

/// The answer to [`super::Method::Attach`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct AttachReply {
    /// The container whose terminal it is.
    pub container: String,
}

/// One answer to [`super::Method::Events`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct EventsReply {
    /// What happened; of the kind `end` in the last answer.
    pub event: Event,
}

/// A definition that another one won over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Overridden {
    /// `file:line`.
    pub place: String,
    /// The definition as it is written.
    pub text: String,
    /// `default`, `force`, or `priority` and a number; none for a plain definition.
    pub priority: Option<String>,
}

/// The answer to [`super::Method::Why`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct WhyReply {
    /// The field's whole path.
    pub field: String,
    /// Its value as JSON; none where nothing is declared.
    pub value: Option<String>,
    /// The line that set it: `file:line`.
    pub place: Option<String>,
    /// What stands between that line and the field: a function, a default.
    pub via: Option<String>,
    /// The definitions that lost.
    pub overrode: Vec<Overridden>,
    /// The generation that the value came with.
    pub since: Option<Generation>,
    /// The other lines that a record was written on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Vec<String>>,
}

/// The digest that a tag stands for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Resolved {
    /// The reference that was asked for.
    pub image: String,
    /// `sha256:` and 64 digits.
    pub digest: String,
}

/// The answer to [`super::Method::Login`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct LoginReply {
    /// The registry's name, as images have it.
    pub registry: String,
    /// It has asked for the password, and taken it.
    pub tried: bool,
}

/// The answer to [`super::Method::Logout`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct LogoutReply {
    /// The registry's name, as images have it.
    pub registry: String,
    /// Something was kept for it.
    pub known: bool,
    /// The file of another tool that still has something for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
}

/// The answer to [`super::Method::Resolve`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ResolveReply {
    /// In the order they were asked for.
    pub images: Vec<Resolved>,
    /// The one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}
