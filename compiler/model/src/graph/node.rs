//! The nodes of a graph: their identity, what each says, and their hash.

use crate::{
    canonical::{self, CanonicalError},
    digest::{Digest, Hasher},
    name::Name,
    platform::Platform,
    reference::Reference,
    spec::{self, is_default},
    units::Bytes,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Separates node hashes from all others and versions their layout.
const DOMAIN: &str = "tank.node.v1";

/// Which node: the identity that stays when its content changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The whole desired state.
    Root,
    /// An image, by the reference that names it in the configuration.
    Image(Reference),
    /// A network of some pods only.
    Network(Name),
    /// A volume that pods share.
    SharedVolume(Name),
    /// A pod.
    Pod(Name),
    /// The namespaces of a pod.
    Sandbox(Name),
    /// A volume: pod, volume.
    Volume(Name, Name),
    /// A published port: pod, name of the port.
    Publish(Name, Name),
    /// Files written before a container starts: pod, container.
    Files(Name, Name),
    /// Files that a running container reads again.
    LiveFiles(Name, Name),
    /// A container: pod, container.
    Container(Name, Name),
    /// The limits of a container: pod, container.
    Limits(Name, Name),
    /// The probes and the stop of a container: pod, container.
    Lifecycle(Name, Name),
    /// An init container: pod, container.
    Init(Name, Name),
    /// The size of a pod's own volume: pod, volume.
    VolumeSize(Name, Name),
    /// The size of a volume that pods share.
    SharedVolumeSize(Name),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "root"),
            Self::Image(reference) => write!(f, "image {reference}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::SharedVolume(name) => write!(f, "volume {name}"),
            Self::Pod(pod) => write!(f, "pod {pod}"),
            Self::Sandbox(pod) => write!(f, "sandbox {pod}"),
            Self::Volume(pod, name) => write!(f, "volume {pod}/{name}"),
            Self::Publish(pod, name) => write!(f, "publish {pod}/{name}"),
            Self::Files(pod, name) => write!(f, "files {pod}/{name}"),
            Self::LiveFiles(pod, name) => write!(f, "live files {pod}/{name}"),
            Self::Container(pod, name) => write!(f, "container {pod}/{name}"),
            Self::Limits(pod, name) => write!(f, "limits {pod}/{name}"),
            Self::Lifecycle(pod, name) => write!(f, "lifecycle {pod}/{name}"),
            Self::Init(pod, name) => write!(f, "init {pod}/{name}"),
            Self::VolumeSize(pod, name) => write!(f, "size of volume {pod}/{name}"),
            Self::SharedVolumeSize(name) => write!(f, "size of volume {name}"),
        }
    }
}

impl Key {
    /// The pod a node belongs to. Images, networks, shared volumes and the root belong to none.
    pub fn pod(&self) -> Option<&Name> {
        match self {
            Self::Root
            | Self::Image(_)
            | Self::Network(_)
            | Self::SharedVolume(_)
            | Self::SharedVolumeSize(_) => None,
            Self::Pod(pod) | Self::Sandbox(pod) => Some(pod),
            Self::Volume(pod, _)
            | Self::Publish(pod, _)
            | Self::Files(pod, _)
            | Self::LiveFiles(pod, _)
            | Self::Container(pod, _)
            | Self::Limits(pod, _)
            | Self::Lifecycle(pod, _)
            | Self::Init(pod, _)
            | Self::VolumeSize(pod, _) => Some(pod),
        }
    }
}

/// What a node says, without what it needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::large_enum_variant,
    reason = "most nodes of a graph are of the larger kinds"
)]
pub enum Node {
    /// It says nothing itself: it needs every pod, every network and every shared volume.
    Root {},
    /// The digest is none only in a graph that was compiled and not yet resolved.
    Image {
        /// Of the manifest.
        digest: Option<Digest>,
    },
    /// Whether anything leads out of it, and its addresses.
    Network(spec::NamedNetwork),
    /// See [`PodNode`].
    Pod(PodNode),
    /// See [`SandboxNode`].
    Sandbox(SandboxNode),
    /// What the volume is kept in.
    Volume(spec::Volume),
    /// What its directory is, and what it begins with.
    SharedVolume(spec::SharedVolume),
    /// From which port of the host to which of the pod.
    Publish(spec::Publish),
    /// By absolute path in the container.
    Files(BTreeMap<String, spec::File>),
    /// By absolute path in the container.
    LiveFiles(BTreeMap<String, spec::File>),
    /// See [`ContainerNode`].
    Container(ContainerNode),
    /// Of memory, processes and CPU.
    Limits(spec::Limits),
    /// See [`LifecycleNode`].
    Lifecycle(LifecycleNode),
    /// The whole container: nothing of it changes in place.
    Init(spec::Container),
    /// See [`SizeNode`].
    Size(SizeNode),
}

/// The most that a volume may take of the disk. Nothing needs it but its pod, or the root: it changes
/// under running containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeNode {
    /// In bytes.
    pub size: Bytes,
}

/// What can change without a restart of any process of the pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodNode {
    /// Texts of the user's, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What follows when a main process ends.
    pub restart: spec::Restart,
    /// Pods that have to be in this condition before it starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<Name, spec::Condition>,
    /// How a changed pod takes its place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: spec::Update,
    /// Other names under which pods find it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aliases: BTreeSet<String>,
    /// Where it asks for names that no pod has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dns: spec::Dns,
    /// Lines of its `/etc/hosts`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extra_hosts: BTreeMap<String, spec::HostAddress>,
    /// Who may open connections to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_from: spec::AllowFrom,
    /// To whom it may open connections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: spec::Egress,
    /// When the registries of its containers' images are asked, where that is not always: by their
    /// fields, `containers.app`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull: BTreeMap<String, spec::Pull>,
    /// What of its volumes can change likewise, of those that have any of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volumes: BTreeMap<Name, spec::VolumePolicy>,
}

/// The namespaces a pod's containers share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxNode {
    /// The declared one, or the pod's name within its stack.
    pub hostname: String,
    /// How it reaches others.
    pub network: spec::Network,
    /// The networks it is on, and what it is there. None: the default one alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<Name, spec::Membership>,
    /// Kernel settings of its namespaces, by the name of sysctl(8).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// See [`crate::host_files`]. It is the sandbox's, so that a pod never has processes of both
    /// kinds at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writes_host: bool,
}

/// What a container's main process is made from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContainerNode {
    /// As the configuration has it.
    pub image: Reference,
    /// What the image was chosen for; none for the host's own. The image is pinned to what was chosen then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In place of the image's `Entrypoint` and `Cmd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// In place of the image's `Cmd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// On top of the image's `Env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Absolute; the image's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `user[:group]`; the image's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether its streams are a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Volumes and where it sees them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<Name, spec::Mount>,
    /// Files of the host that are copied into its memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<Name, spec::Secret>,
    /// On top of, and taken from, the default set.
    #[serde(default)]
    pub capabilities: spec::Capabilities,
    /// Whether its root is mounted read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// What is kept of its output.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logs: spec::Logs,
    /// By the resource's name in setrlimit(2), in lower case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, spec::Ulimit>,
    /// Which system calls it may make.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seccomp: spec::Seccomp,
    /// Devices of the host that it sees.
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: BTreeMap<Name, spec::Device>,
    /// Where its live files are, and their modes: their texts may change under it, their places may
    /// not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub live_files: BTreeMap<String, spec::Mode>,
}

impl PodNode {
    pub(super) fn of(pod: &spec::Pod) -> Self {
        Self {
            labels: pod.labels.clone(),
            restart: pod.restart,
            depends_on: pod.depends_on.clone(),
            update: pod.update,
            aliases: pod.aliases.keys().cloned().collect(),
            dns: pod.dns.clone(),
            extra_hosts: pod.extra_hosts.clone(),
            allow_from: pod.allow_from.clone(),
            egress: pod.egress.clone(),
            pull: pod
                .processes()
                .filter(|(.., container)| container.pull != spec::Pull::default())
                .map(|(field, name, container)| (format!("{field}.{name}"), container.pull))
                .collect(),
            volumes: pod
                .volumes
                .iter()
                .map(|(name, volume)| {
                    let backup = volume.backup.clone();
                    (name.clone(), spec::VolumePolicy { backup })
                })
                .filter(|(_, policy)| !is_default(policy))
                .collect(),
        }
    }

    /// When the registry of a container's image is asked.
    pub(super) fn pull_of(&self, field: &str, name: &Name) -> spec::Pull {
        let pull = self.pull.get(&format!("{field}.{name}"));
        pull.copied().unwrap_or_default()
    }
}

impl ContainerNode {
    pub(super) fn of(spec: &spec::Container) -> Self {
        Self {
            image: spec.image.clone(),
            platform: spec.platform.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            working_dir: spec.working_dir.clone(),
            user: spec.user.clone(),
            tty: spec.tty,
            mounts: spec.mounts.clone(),
            secrets: spec.secrets.clone(),
            capabilities: spec.capabilities.clone(),
            read_only: spec.read_only,
            logs: spec.logs,
            ulimits: spec.ulimits.clone(),
            seccomp: spec.seccomp.clone(),
            devices: spec.devices.clone(),
            live_files: live_files(spec)
                .map(|(path, file)| (path.clone(), file.mode))
                .collect(),
        }
    }
}

impl LifecycleNode {
    /// Whether a probe decides when the container is ready.
    pub fn is_probed(&self) -> bool {
        self.readiness.is_some() || self.startup.is_some()
    }

    pub(super) fn of(spec: &spec::Container) -> Self {
        Self {
            readiness: spec.readiness.clone(),
            stop: spec.stop.clone(),
            liveness: spec.liveness.clone(),
            startup: spec.startup.clone(),
            ports: spec.ports.clone(),
        }
    }
}

/// The files whose text can change under the running container.
pub(super) fn live_files(spec: &spec::Container) -> impl Iterator<Item = (&String, &spec::File)> {
    spec.files.iter().filter(|(_, file)| file.reload.is_some())
}

/// How a running container is watched and ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LifecycleNode {
    /// Whether it can do its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<spec::Probe>,
    /// How its main process is asked to end.
    #[serde(default)]
    pub stop: spec::Stop,
    /// Whether it has to be started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<spec::Probe>,
    /// Whether it has started; the other probes wait for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<spec::Probe>,
    /// What it listens on, by name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: BTreeMap<Name, u16>,
}

impl Node {
    /// Whether a node under `key` can be of this kind.
    pub(super) fn fits(&self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Self::Root {}, Key::Root)
                | (Self::Image { .. }, Key::Image(_))
                | (Self::Network(_), Key::Network(_))
                | (Self::Pod(_), Key::Pod(_))
                | (Self::Sandbox(_), Key::Sandbox(_))
                | (Self::Volume(_), Key::Volume(..))
                | (Self::SharedVolume(_), Key::SharedVolume(_))
                | (Self::Publish(_), Key::Publish(..))
                | (Self::Files(_), Key::Files(..))
                | (Self::LiveFiles(_), Key::LiveFiles(..))
                | (Self::Container(_), Key::Container(..))
                | (Self::Limits(_), Key::Limits(..))
                | (Self::Lifecycle(_), Key::Lifecycle(..))
                | (Self::Init(_), Key::Init(..))
                | (
                    Self::Size(_),
                    Key::VolumeSize(..) | Key::SharedVolumeSize(_)
                )
        )
    }
}

/// Needs are hashed in the order of their hashes, so their listing order never matters.
pub(super) fn node_hash(
    key: &Key,
    node: &Node,
    needs: &[Digest],
) -> Result<Digest, CanonicalError> {
    let mut needs = needs.to_vec();
    needs.sort_unstable();
    let hasher = Hasher::new(DOMAIN)
        .field(&canonical::encode(key)?)
        .field(&canonical::encode(node)?);
    Ok(needs
        .iter()
        .fold(hasher, |hasher, need| hasher.field(need.as_bytes()))
        .finish())
}
