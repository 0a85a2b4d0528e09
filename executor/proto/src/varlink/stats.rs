//! What is asked of the past, and what pods use.

use serde::{Deserialize, Serialize};

/// What [`super::Method::Events`] takes: which of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct EventsCall {
    /// Go on for as long as the caller listens.
    pub follow: Option<bool>,
    /// Those of these pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Vec<String>>,
    /// Those of the pods of this stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Those of these kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// Not before this time, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Not after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The last so many of what is there already; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
}

/// What the processes of a pod or a container use. What its kernel does not count is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Usage {
    /// Microseconds of processors, since it was made.
    pub cpu: Option<u64>,
    /// Bytes, with what was cached of files for it.
    pub memory: Option<u64>,
    /// Those of them that the kernel takes back first: cached, and not used lately.
    pub inactive: Option<u64>,
    /// The most bytes that it may have.
    pub memory_limit: Option<u64>,
    /// For how much of the last ten seconds something of it has waited for memory, in hundredths of a percent.
    pub memory_pressure: Option<u64>,
    /// How often the kernel has ended processes that were out of memory.
    pub oom_kills: Option<u64>,
    /// Bytes read from disks.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The most of them.
    pub pids_limit: Option<u64>,
}

/// Bytes that went over a pod's own links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Traffic {
    /// To the pod.
    pub received: u64,
    /// From it.
    pub sent: u64,
}

/// A container, and what it uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// What it uses.
    pub usage: Usage,
}

/// A pod, and what it uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct PodUsage {
    /// By its name on the host.
    pub pod: String,
    /// All of it, its shim's part too. Absent: it does not run.
    pub usage: Option<Usage>,
    /// Absent: it has no link of its own.
    pub traffic: Option<Traffic>,
    /// Those that run.
    pub containers: Vec<ContainerUsage>,
}

/// The answer to [`super::Method::Stats`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct StatsReply {
    /// When it was read: microseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// By name.
    pub pods: Vec<PodUsage>,
}

/// What was used in a time. What is not known of it is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct UsagePoint {
    /// Its end, in milliseconds since the epoch.
    pub time: u64,
    /// Milliseconds since the point before it. Absent: nothing was looked at before, or for long.
    pub span: Option<u64>,
    /// Microseconds of processors that were used in it.
    pub cpu: Option<u64>,
    /// The most bytes of memory, without what the kernel takes back first.
    pub memory: Option<u64>,
    /// Bytes read from disks in it.
    pub read: Option<u64>,
    /// Bytes written to disks in it.
    pub written: Option<u64>,
    /// Bytes that went to the pod in it.
    pub received: Option<u64>,
    /// Bytes that came from it.
    pub sent: Option<u64>,
    /// The most processes and threads.
    pub pids: Option<u64>,
}

/// A container, and what it has used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct ContainerHistory {
    /// Its name.
    pub name: String,
    /// Oldest first.
    pub points: Vec<UsagePoint>,
}

/// A pod, and what it has used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct PodHistory {
    /// By its name on the host.
    pub pod: String,
    /// Oldest first.
    pub points: Vec<UsagePoint>,
    /// Those of a pod that has several.
    pub containers: Vec<ContainerHistory>,
}

/// The answer to [`super::Method::UsageHistory`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct UsageHistoryReply {
    /// What it is of, in milliseconds since the epoch.
    pub since: u64,
    /// When it was read.
    pub until: u64,
    /// How far points are apart at least, in milliseconds.
    pub step: u64,
    /// By name.
    pub pods: Vec<PodHistory>,
}
