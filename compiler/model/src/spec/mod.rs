//! The configuration as Rust types: what a user declares, with every default filled in. The
//! compiler makes it of evaluated Nickel, a client sends its canonical bytes, and the daemon builds
//! the graph from it.
//!
//! Field names, defaults and the OCI rules behind them are documented for users in
//! `stdlib/tank.ncl`; here are the shapes. Whatever equals its default is left out of the canonical
//! bytes, so a field added to Tank later changes no hash of a configuration that does not use it.

mod backup;
mod dns;
mod limits;
mod logs;
mod names;
mod network;
mod networks;
mod policy;
mod probe;
mod publish;
mod storage;

pub use backup::{Backup, Hook, LEAST_EVERY, MOST_EVERY, MOST_HOOK, VolumePolicy};
pub use dns::{Alias, Dns, HOST_GATEWAY, HostAddress, is_domain, is_hostname, is_reserved};
pub use limits::{Amount, Capabilities, DEFAULT_PIDS, Limits, Seccomp, SeccompProfile, Ulimit};
pub use logs::{LOG_SIZES, LogRate, Logs, MAX_LOG_FILES, MIN_LOG_RATE};
pub use names::{CAPABILITIES, SIGNALS, ULIMITS};
pub use network::{Network, Nic, NicMode, NicRoute, Pool};
pub use networks::{DEFAULT_NETWORK, MAX_MEMBERSHIPS, MAX_NETWORKS, Membership, NamedNetwork};
pub use policy::{AllowFrom, Egress, INTERNET, MAX_PEERS, Peer, PeerError};
pub use probe::{DEFAULT_STOP_TIMEOUT, HttpProbe, Probe, Stop, TcpProbe};
pub use publish::{Addresses, Lead, MAX_PORTS, Ports, PortsError, Protocol, Protocols, Publish};
pub use storage::{
    Device, File, FileOwner, FolderMode, MAX_SHARED_VOLUMES, MAX_VOLUME_SIZE, MIN_VOLUME_SIZE,
    Mode, Mount, Owner, Propagation, READS_AGAIN, Secret, SharedVolume, Snapshots, Volume,
    is_sub_path,
};

use crate::{
    name::{Name, plain_keys},
    platform::Platform,
    reference::Reference,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What should run on a host: all of it, or what one source declares. See [`crate::stack`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// By the names that they have on a host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pods: BTreeMap<Name, Pod>,
    /// Networks of some pods only, by the names that they have on a host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub networks: BTreeMap<Name, NamedNetwork>,
    /// Volumes that pods share, by the names that they have on a host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volumes: BTreeMap<Name, SharedVolume>,
    /// The stack of a source: the pods are that stack's, and all of them. It is in no hash.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_stack"
    )]
    pub stack: Option<Name>,
}

fn plain_stack<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Name>, D::Error> {
    crate::name::plain(from).map(Some)
}

/// Containers that share a network, IPC and UTS namespace, and start and stop together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// At least one, by name.
    #[serde(deserialize_with = "plain_keys")]
    pub containers: BTreeMap<Name, Container>,
    /// Run one after another in the order of their names, each to its end, before the containers
    /// start.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub init: BTreeMap<Name, Container>,
    /// How it reaches others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// The networks it is on, by the names that they have on a host. None: the default one alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub networks: BTreeMap<Name, Membership>,
    /// What its containers can mount, by name.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub volumes: BTreeMap<Name, Volume>,
    /// Ports of the host that lead to it, by name.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub publish: BTreeMap<Name, Publish>,
    /// Who may open connections to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_from: AllowFrom,
    /// To whom it may open connections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: Egress,
    /// What follows when a main process ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: Restart,
    /// Pods of the host that have to be in this condition before it starts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub depends_on: BTreeMap<Name, Condition>,
    /// How a changed pod takes its place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: Update,
    /// The pod's name within its stack unless given; at most 64 bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// Other names under which pods find it, each as it is asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aliases: BTreeMap<String, Alias>,
    /// Where it asks for names that no pod has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dns: Dns,
    /// Lines of its `/etc/hosts`, by the name that is looked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extra_hosts: BTreeMap<String, HostAddress>,
    /// Texts of the user's, by name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Kernel settings of its namespaces, by the name of sysctl(8).
    #[serde(default, skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
}

/// One main process and its file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// What its root file system and its defaults come from.
    pub image: Reference,
    /// When the registry is asked what the image's tag stands for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull: Pull,
    /// For which machines its image is; for those of this host unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub platform: Option<Platform>,
    /// Replaces the image's `Entrypoint`; the image's `Cmd` is then not used.
    #[serde(default, skip_serializing_if = "is_default")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's `Cmd`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub args: Option<Vec<String>>,
    /// On top of the image's `Env`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: BTreeMap<String, String>,
    /// Absolute; the image's `WorkingDir` unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: Option<String>,
    /// Whether its streams are a terminal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tty: bool,
    /// Volumes and where it sees them.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub mounts: BTreeMap<Name, Mount>,
    /// By absolute path inside the container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: BTreeMap<String, File>,
    /// Files of the host that are copied into its memory.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub secrets: BTreeMap<Name, Secret>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What it listens on. Where a pod declares any, `publish` and probes may lead to these only.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub ports: BTreeMap<Name, u16>,
    /// By the name `setrlimit(2)` has for it, in lower case: `nofile`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// What is kept of its output.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logs: Logs,
    /// On top of, and taken from, the default set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capabilities: Capabilities,
    /// Which system calls it may make.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seccomp: Seccomp,
    /// Devices of the host that it sees.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub devices: BTreeMap<Name, Device>,
    /// Whether its root is mounted read-only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Whether it can do its work.
    #[serde(default, skip_serializing_if = "is_default")]
    pub readiness: Option<Probe>,
    /// Whether it has to be started again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub liveness: Option<Probe>,
    /// Whether it has started; the other probes wait for this one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub startup: Option<Probe>,
    /// How its main process is asked to end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: Stop,
}

impl Pod {
    /// Its containers, and what runs before them, each with the field it stands in.
    pub fn processes(&self) -> impl Iterator<Item = (&'static str, &Name, &Container)> {
        let of = |field, (name, spec)| (field, name, spec);
        let containers = self
            .containers
            .iter()
            .map(move |entry| of("containers", entry));
        containers.chain(self.init.iter().map(move |entry| of("init", entry)))
    }
}

/// What happens when a main process ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// It is started again, ever less often.
    #[default]
    Always,
    /// Only when it ended with a status other than 0.
    OnFailure,
    /// It stays ended.
    Never,
}

/// What a dependency has to be before a pod starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Every main process runs.
    Started,
    /// Every readiness probe has succeeded as well.
    Ready,
    /// Every main process has ended with status 0.
    Completed,
}

/// When a registry is asked what a tag stands for, and its image is fetched. What is pinned by a digest, and is
/// here, is never asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// Only what is on this host is used.
    Never,
    /// When no image that a generation had by this tag is on this host.
    Missing,
    /// At every switch.
    #[default]
    Always,
}

/// How a changed pod takes the place of the one that runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// The old one ends, then the new one starts.
    #[default]
    Recreate,
    /// The new one starts beside the old and takes over when it is ready.
    StartFirst,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
