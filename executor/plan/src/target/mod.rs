//! What the host should be, as data: from the graph, the configurations of its images and the
//! leases of its pods to everything that a step says.
//!
//! Nothing here is worked out ahead: the planner asks for what a step needs, so that a pass over a
//! thousand unchanged pods builds no specification of theirs.
//!
//! * `process`: what a container is started with, by the rules of OCI images.
//! * `mounts`: what it sees of its pod's volumes.
//! * `quota`: what a volume may take of the disk.
//! * [`user`]: who a process is.
//! * [`files`], [`resolver`]: what is written into a container.
//! * `network`: addresses, links, the bridges. [`networks`]: which there are, and who is on them.
//! * [`nics`]: interfaces of pods' own.
//! * [`pools`]: which of them take an address from a pool.
//! * [`names`]: what pods find each other by.
//! * [`firewall`]: the rules, and the policy behind them.
//! * [`signal`]: the numbers of signals.

pub mod files;
pub mod firewall;
mod mounts;
pub mod names;
mod network;
pub mod networks;
pub mod nics;
pub mod pools;
mod process;
mod quota;
pub mod resolver;
pub mod signal;
pub mod user;

pub use firewall::Table;
pub use mounts::{Content, Folder, Mount, MountSource};
pub use names::Zone;
pub use network::{Bridge, DEFAULT_MTU, PodLink, Setting, link_name};
pub use networks::NetworkLease;
pub use nics::{HostLink, NicError, PodNic};
pub use pools::Pooled;
pub use process::{
    ContainerSpec, DEFAULT_CAPABILITIES, Device, File, Image, SandboxSpec, effective_limits,
};
pub use quota::{Projects, Quota, declares};
pub use resolver::Resolver;
pub use user::{User, UserError};

use crate::{overrides::Overrides, runs::Runs};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use tank_model::{Digest, Graph, Name, VolumeId, reference::Reference};

/// How many ids a pod's user namespace has.
pub const ID_COUNT: u32 = 65_536;

/// What a target is made from. All of it is data; whoever plans reads it from the host before.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// What is declared.
    pub graph: &'a Graph,
    /// The graph before, to say which field a step comes from and to tell drift from intent. None:
    /// the first.
    pub previous: Option<&'a Graph>,
    /// What the operator has settled.
    pub host: &'a HostConfig,
    /// The lease of every pod, those among them that new names would get.
    pub leases: &'a BTreeMap<Name, u32>,
    /// The addresses of the pools of interfaces, those among them that new ones would get.
    pub pooled: &'a Pooled,
    /// What every network has leased, and its pods on it, in the same way.
    pub networks: &'a BTreeMap<Name, NetworkLease>,
    /// The project ids of volumes that have a size, or had one.
    pub projects: &'a Projects,
    /// The images that are on this host, by the digests their references were resolved to.
    pub images: &'a BTreeMap<Digest, ImageConfig>,
    /// What the host's own resolver files say.
    pub resolver: &'a Resolver,
    /// What somebody has asked for by hand.
    pub overrides: &'a Overrides,
    /// What somebody runs by hand.
    pub runs: &'a Runs,
}

/// What the operator of the host has settled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostConfig {
    /// The name of the bridge of the default network.
    pub bridge: String,
    /// Its subnets, at most one of each family. The first address is the bridge's own.
    pub networks: Vec<IpNet>,
    /// What the subnets of other networks are taken of, at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<IpNet>,
    /// The first host id of lease 0; each lease has [`ID_COUNT`] of them.
    pub id_base: u32,
    /// The longest packet of the pods on the bridge, in bytes.
    #[serde(
        default = "network::default_mtu",
        skip_serializing_if = "network::is_default_mtu"
    )]
    pub mtu: u32,
    /// What tells this host from others, for hardware addresses that others see.
    #[serde(default)]
    pub machine: String,
}

/// What an image says of the processes that are started from it (OCI image specification,
/// "Properties").
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `Entrypoint`: the program and its first arguments; empty where it names none.
    pub entrypoint: Vec<String>,
    /// `Cmd`: the arguments that follow; empty where it names none.
    pub cmd: Vec<String>,
    /// `Env`, as `KEY=value`.
    pub env: Vec<String>,
    /// `User`, as `user[:group]`, names or numbers. None: root.
    pub user: Option<String>,
    /// `WorkingDir`. None: `/`.
    pub working_dir: Option<String>,
    /// `StopSignal`, by name or number.
    pub stop_signal: Option<String>,
    /// Its own `/etc/passwd`; empty where it has none.
    pub passwd: String,
    /// Its own `/etc/group`; empty where it has none.
    pub group: String,
}

/// Why there is no specification of something that is declared. The text is what can't be done,
/// then the reason.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum TargetError {
    /// The graph has no such pod or container.
    #[error("start a container: it is not declared")]
    NotDeclared,
    /// The pod has no lease, or one so high that its ids would not fit.
    #[error("lease ids: pod `{pod}` has no lease")]
    NoLease { pod: Name },
    /// The volume has a size, and no project id.
    #[error("limit the volume {volume}: no project id is leased to it")]
    NoProject { volume: VolumeId },
    /// The graph names the image and not what it was resolved to.
    #[error("start a container: its image has no digest")]
    NoDigest { image: Box<Reference> },
    /// No image with the resolved digest is on this host.
    #[error("use the image {image}: it is not on this host")]
    NoImage { image: Box<Reference> },
    /// The declared user, or else the image's, can't be resolved.
    #[error("find the user: {why}")]
    NoUser {
        #[source]
        why: UserError,
    },
    /// Whom a secret is declared to belong to can't be resolved.
    #[error("find the owner of the secret `{secret}`: {why}")]
    NoOwner {
        secret: Name,
        #[source]
        why: UserError,
    },
    /// Neither `command` and `args` nor `Entrypoint` and `Cmd` hold anything.
    #[error("start a container: neither it nor its image names a command")]
    NoCommand,
    /// The working directory that would be used, `dir`, is not absolute.
    #[error("use the image {image}: its working directory `{dir}` is not absolute")]
    RelativeWorkingDir { image: Box<Reference>, dir: String },
    /// A text of the image has a NUL byte, where the kernel would end it.
    #[error("use the image {image}: its {field} has a NUL byte")]
    Nul {
        image: Box<Reference>,
        field: NulField,
    },
    /// A container mounts a volume that its pod does not declare.
    #[error("mount a volume: it is not declared")]
    NoVolume { volume: Name },
    /// The pod has no number on a network that it is on, or the network has none.
    #[error("lease an address: pod `{pod}` has none on the network `{network}`")]
    NoAddress { pod: Name, network: Name },
    /// `key` is below `net.`, and the pod is on the host's network. Refused where a configuration
    /// is read; what an older version stored is refused here.
    #[error("set the pod's sysctls: `{key}` would be the host's: the pod has its network")]
    HostSysctl { key: String },
    /// An interface of the pod's own can't be connected as the host is now.
    #[error("connect the interface `{nic}`: {why}")]
    Nic {
        nic: String,
        #[source]
        why: NicError,
    },
}

/// A field of an image's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NulField {
    /// `Entrypoint` or `Cmd`.
    Command,
    /// `Env`.
    Env,
    /// `WorkingDir`.
    WorkingDir,
}

impl fmt::Display for NulField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Env => "environment",
            Self::WorkingDir => "working directory",
        })
    }
}

impl Target<'_> {
    /// The lease of a pod.
    ///
    /// # Errors
    /// When it has none.
    pub fn lease(&self, pod: &Name) -> Result<u32, TargetError> {
        let lease = self.leases.get(pod).copied();
        lease.ok_or_else(|| TargetError::NoLease { pod: pod.clone() })
    }

    /// The first host id of a pod's own.
    ///
    /// # Errors
    /// When the pod has no lease, or one so high that its ids would not fit.
    pub fn id_base(&self, pod: &Name) -> Result<u32, TargetError> {
        let lease = self.lease(pod)?;
        lease
            .checked_mul(ID_COUNT)
            .and_then(|offset| offset.checked_add(self.host.id_base))
            .ok_or_else(|| TargetError::NoLease { pod: pod.clone() })
    }

    /// The host's directories that containers of the graph may write: nothing of the host that is
    /// handed to a container may be found through them.
    pub fn host_writable(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        for pod in self.graph.pods() {
            let containers = self.graph.containers(pod);
            let containers = containers.flat_map(|(_, node, _)| node.mounts.values());
            let inits = self.graph.init(pod);
            let inits = inits.flat_map(|(_, spec, _)| spec.mounts.values());
            let writable = containers.chain(inits).filter(|mount| !mount.read_only);
            let volumes = writable.filter_map(|mount| self.graph.volume(pod, &mount.volume));
            paths.extend(volumes.filter_map(|volume| volume.host.clone()));
        }
        paths
    }
}
