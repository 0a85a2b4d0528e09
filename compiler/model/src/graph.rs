//! The desired state as a graph of content-hashed nodes.
//!
//! An edge means *needs*. A node's hash is SHA-256 over a domain, its canonical bytes and the
//! hashes of what it needs, so the root's hash names the whole desired state, equal sub-graphs are
//! equal hashes, and comparing two graphs costs what changed. The split into nodes follows what can
//! change in place: a container's limits and lifecycle need the container and not the other way
//! round, so editing them leaves the container's own hash, and the process, alone.
//!
//! ```text
//! root ─► pod ─┬─► lifecycle ─► container ─┬─► image
//!              ├─► limits ────► container  ├─► volume ─► sandbox
//!              ├─► live files ► container  │
//!              └─► publish ───► sandbox    ├─► files
//!                                          ├─► init ──► image, volume, sandbox
//!                                          └─► sandbox
//! ```

use crate::{
    canonical::{self, CanonicalError},
    digest::{Digest, Hasher},
    name::Name,
    reference::Reference,
    spec::{self, Config},
};
use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Separates node hashes from all others and versions their layout.
const DOMAIN: &str = "tank.node.v1";

/// The most nodes a stored graph may have.
const MAX_NODES: usize = 200_000;

/// Which node: the identity that stays when its content changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    Root,
    Image(Reference),
    Pod(Name),
    Sandbox(Name),
    Volume(Name, Name),
    Publish(Name, Name),
    Files(Name, Name),
    /// Files that a running container reads again.
    LiveFiles(Name, Name),
    Container(Name, Name),
    Limits(Name, Name),
    Lifecycle(Name, Name),
    Init(Name, Name),
}

/// What a node says, without what it needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::large_enum_variant,
    reason = "most nodes of a graph are of the larger kinds"
)]
pub enum Node {
    Root {},
    /// The digest is none only in a graph that was compiled and not yet resolved.
    Image {
        digest: Option<Digest>,
    },
    Pod(PodNode),
    Sandbox(SandboxNode),
    Volume(spec::Volume),
    Publish(spec::Publish),
    Files(BTreeMap<String, spec::File>),
    LiveFiles(BTreeMap<String, spec::File>),
    Container(ContainerNode),
    Limits(spec::Limits),
    Lifecycle(LifecycleNode),
    Init(spec::Container),
}

/// What can change without touching a process of the pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodNode {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub restart: spec::Restart,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<Name, spec::Condition>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: spec::Update,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The namespaces a pod's containers share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxNode {
    pub hostname: String,
    pub network: spec::Network,
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
    pub image: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<Name, spec::Mount>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<Name, spec::Secret>,
    #[serde(default)]
    pub capabilities: spec::Capabilities,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, spec::Ulimit>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub seccomp: spec::Seccomp,
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: BTreeMap<Name, spec::Device>,
    /// Where its live files are, and their modes: their texts may change under it, their places may
    /// not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub live_files: BTreeMap<String, spec::Mode>,
}

impl ContainerNode {
    fn of(spec: &spec::Container) -> Self {
        Self {
            image: spec.image.clone(),
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
    /// Whether the container says itself when it is ready.
    pub fn is_probed(&self) -> bool {
        self.readiness.is_some() || self.startup.is_some()
    }

    fn of(spec: &spec::Container) -> Self {
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
fn live_files(spec: &spec::Container) -> impl Iterator<Item = (&String, &spec::File)> {
    spec.files.iter().filter(|(_, file)| file.reload.is_some())
}

/// How a running container is watched and ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LifecycleNode {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<spec::Probe>,
    #[serde(default)]
    pub stop: spec::Stop,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<spec::Probe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<spec::Probe>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: BTreeMap<Name, u16>,
}

/// A node with its place in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub node: Node,
    pub hash: Digest,
}

/// A node as the store keeps it, under its hash.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    key: Key,
    node: Node,
    needs: Vec<Digest>,
}

/// Why stored nodes make no graph.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("node {0} is missing")]
    Missing(Digest),
    #[error("node {0} does not hash to its name")]
    Corrupt(Digest),
    #[error("node {0} can't be read")]
    Unreadable(Digest, #[source] CanonicalError),
    #[error("the graph has more than {MAX_NODES} nodes")]
    TooLarge,
    #[error(
        "the graph holds `{0}` twice, needs something missing, or holds a node of the wrong kind"
    )]
    Malformed(Key),
}

/// A whole desired state. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Graph {
    dag: DiGraph<Entry, ()>,
    index: BTreeMap<Key, NodeIndex>,
}

impl Graph {
    /// Builds the graph of `config`. `digest_of` resolves an image reference; where it says none,
    /// the reference's own pinned digest is used, or none at all.
    ///
    /// # Errors
    /// Only when a value has no canonical bytes, which no value of the model's own types causes.
    pub fn build(
        config: &Config,
        digest_of: impl Fn(&Reference) -> Option<Digest>,
    ) -> Result<Self, CanonicalError> {
        let mut graph = Self {
            dag: DiGraph::new(),
            index: BTreeMap::new(),
        };
        let mut pods = Vec::new();
        for (name, pod) in &config.pods {
            pods.push(graph.add_pod(name, pod, &digest_of)?);
        }
        graph.add(Key::Root, Node::Root {}, &pods)?;
        Ok(graph)
    }

    fn add_pod(
        &mut self,
        name: &Name,
        pod: &spec::Pod,
        digest_of: &impl Fn(&Reference) -> Option<Digest>,
    ) -> Result<Key, CanonicalError> {
        let sandbox = Key::Sandbox(name.clone());
        let node = SandboxNode {
            hostname: pod.hostname.clone().unwrap_or_else(|| name.to_string()),
            network: pod.network.clone(),
            sysctls: pod.sysctls.clone(),
            writes_host: pod.writes_host(),
        };
        self.add(sandbox.clone(), Node::Sandbox(node), &[])?;
        let mut parts = vec![sandbox.clone()];
        for (volume, source) in &pod.volumes {
            let key = Key::Volume(name.clone(), volume.clone());
            parts.push(self.add(
                key,
                Node::Volume(source.clone()),
                std::slice::from_ref(&sandbox),
            )?);
        }
        for (port, publish) in &pod.publish {
            let key = Key::Publish(name.clone(), port.clone());
            parts.push(self.add(
                key,
                Node::Publish(publish.clone()),
                std::slice::from_ref(&sandbox),
            )?);
        }
        for (init, spec) in &pod.init {
            let needs = self.container_needs(name, spec, digest_of)?;
            parts.push(self.add(
                Key::Init(name.clone(), init.clone()),
                Node::Init(spec.clone()),
                &needs,
            )?);
        }
        let inits: Vec<Key> = pod
            .init
            .keys()
            .map(|init| Key::Init(name.clone(), init.clone()))
            .collect();
        for (container, spec) in &pod.containers {
            parts.extend(self.add_container(name, container, spec, &inits, digest_of)?);
        }
        let node = PodNode {
            labels: pod.labels.clone(),
            restart: pod.restart,
            depends_on: pod.depends_on.clone(),
            update: pod.update,
        };
        self.add(Key::Pod(name.clone()), Node::Pod(node), &parts)
    }

    /// The image, the sandbox and the volumes of a container.
    fn container_needs(
        &mut self,
        pod: &Name,
        spec: &spec::Container,
        digest_of: &impl Fn(&Reference) -> Option<Digest>,
    ) -> Result<Vec<Key>, CanonicalError> {
        let image = Key::Image(spec.image.clone());
        if !self.index.contains_key(&image) {
            let digest = digest_of(&spec.image).or_else(|| spec.image.digest());
            self.add(image.clone(), Node::Image { digest }, &[])?;
        }
        let mut needs = vec![image, Key::Sandbox(pod.clone())];
        let volumes: BTreeSet<_> = spec.mounts.values().map(|mount| &mount.volume).collect();
        // A dangling mount is the checks' to report; here it simply adds no edge.
        needs.extend(
            volumes
                .into_iter()
                .map(|volume| Key::Volume(pod.clone(), volume.clone()))
                .filter(|key| self.index.contains_key(key)),
        );
        Ok(needs)
    }

    /// Adds a container and what belongs to it; returns what its pod needs. It runs after `inits`,
    /// so it needs them.
    fn add_container(
        &mut self,
        pod: &Name,
        name: &Name,
        spec: &spec::Container,
        inits: &[Key],
        digest_of: &impl Fn(&Reference) -> Option<Digest>,
    ) -> Result<Vec<Key>, CanonicalError> {
        let of = |key: fn(Name, Name) -> Key| key(pod.clone(), name.clone());
        let mut needs = self.container_needs(pod, spec, digest_of)?;
        needs.extend_from_slice(inits);
        let files: BTreeMap<String, spec::File> = spec
            .files
            .iter()
            .filter(|(_, file)| file.reload.is_none())
            .map(|(p, f)| (p.clone(), f.clone()))
            .collect();
        if !files.is_empty() {
            needs.push(self.add(of(Key::Files), Node::Files(files), &[])?);
        }
        let container = self.add(
            of(Key::Container),
            Node::Container(ContainerNode::of(spec)),
            &needs,
        )?;
        let lifecycle = Node::Lifecycle(LifecycleNode::of(spec));
        let mut parts = vec![
            self.add(
                of(Key::Limits),
                Node::Limits(spec.limits.clone()),
                std::slice::from_ref(&container),
            )?,
            self.add(
                of(Key::Lifecycle),
                lifecycle,
                std::slice::from_ref(&container),
            )?,
        ];
        let live: BTreeMap<String, spec::File> = live_files(spec)
            .map(|(p, f)| (p.clone(), f.clone()))
            .collect();
        if !live.is_empty() {
            parts.push(self.add(
                of(Key::LiveFiles),
                Node::LiveFiles(live),
                std::slice::from_ref(&container),
            )?);
        }
        parts.push(container);
        Ok(parts)
    }

    /// Adds a node whose needs are already there, and returns its key.
    fn add(&mut self, key: Key, node: Node, needs: &[Key]) -> Result<Key, CanonicalError> {
        let needs: Vec<NodeIndex> = needs.iter().map(|need| self.index[need]).collect();
        let hashes: Vec<Digest> = needs.iter().map(|need| self.dag[*need].hash).collect();
        let hash = node_hash(&key, &node, &hashes)?;
        let index = self.dag.add_node(Entry {
            key: key.clone(),
            node,
            hash,
        });
        for need in needs {
            self.dag.add_edge(index, need, ());
        }
        self.index.insert(key.clone(), index);
        Ok(key)
    }

    /// The hash that names the whole desired state.
    pub fn root(&self) -> Digest {
        self.dag[self.index[&Key::Root]].hash
    }

    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.index.get(key).map(|index| &self.dag[*index])
    }

    /// All nodes, ordered by key.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.index.values().map(|index| &self.dag[*index])
    }

    /// What `key` needs directly, ordered by key.
    pub fn needs(&self, key: &Key) -> Vec<&Entry> {
        let Some(index) = self.index.get(key) else {
            return Vec::new();
        };
        let neighbours = self.dag.neighbors_directed(*index, Direction::Outgoing);
        let mut needs: Vec<&Entry> = neighbours.map(|need| &self.dag[need]).collect();
        needs.sort_by(|a, b| a.key.cmp(&b.key));
        needs
    }

    /// The nodes from the key `first` on for which `belongs`: neighbours by the order of the keys,
    /// so that what belongs to a pod is found without looking at all others.
    fn neighbours<'a>(
        &'a self,
        first: Key,
        belongs: impl Fn(&Key) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Entry> {
        let range = self
            .index
            .range(first..)
            .take_while(move |(key, _)| belongs(key));
        range.map(|(_, index)| &self.dag[*index])
    }

    pub fn pods(&self) -> impl Iterator<Item = &Name> {
        let pods = self.neighbours(Key::Pod(Name::lowest()), |key| matches!(key, Key::Pod(_)));
        pods.filter_map(|entry| match &entry.key {
            Key::Pod(name) => Some(name),
            _ => None,
        })
    }

    /// The containers of `pod`, by name.
    pub fn containers<'a>(
        &'a self,
        pod: &'a Name,
    ) -> impl Iterator<Item = (&'a Name, &'a ContainerNode, Digest)> {
        let first = Key::Container(pod.clone(), Name::lowest());
        let own = self.neighbours(
            first,
            move |key| matches!(key, Key::Container(of, _) if of == pod),
        );
        own.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::Container(_, name), Node::Container(node)) => Some((name, node, entry.hash)),
            _ => None,
        })
    }

    pub fn pod(&self, pod: &Name) -> Option<&PodNode> {
        match &self.get(&Key::Pod(pod.clone()))?.node {
            Node::Pod(node) => Some(node),
            _ => None,
        }
    }

    /// The sandbox of `pod` and its hash.
    pub fn sandbox(&self, pod: &Name) -> Option<(&SandboxNode, Digest)> {
        let entry = self.get(&Key::Sandbox(pod.clone()))?;
        match &entry.node {
            Node::Sandbox(node) => Some((node, entry.hash)),
            _ => None,
        }
    }

    pub fn container(&self, pod: &Name, container: &Name) -> Option<(&ContainerNode, Digest)> {
        let entry = self.get(&Key::Container(pod.clone(), container.clone()))?;
        match &entry.node {
            Node::Container(node) => Some((node, entry.hash)),
            _ => None,
        }
    }

    /// What a main process is made from and its hash: of a container, or of what runs before it.
    pub fn process(&self, pod: &Name, name: &Name) -> Option<(ContainerNode, Digest)> {
        match self.container(pod, name) {
            Some((node, hash)) => Some((node.clone(), hash)),
            None => self
                .init_container(pod, name)
                .map(|(spec, hash)| (ContainerNode::of(spec), hash)),
        }
    }

    /// What runs before the containers, and its hash.
    pub fn init_container(&self, pod: &Name, name: &Name) -> Option<(&spec::Container, Digest)> {
        let entry = self.get(&Key::Init(pod.clone(), name.clone()))?;
        match &entry.node {
            Node::Init(spec) => Some((spec, entry.hash)),
            _ => None,
        }
    }

    /// Of a container, or of what runs before it.
    pub fn limits(&self, pod: &Name, container: &Name) -> spec::Limits {
        match self
            .get(&Key::Limits(pod.clone(), container.clone()))
            .map(|entry| &entry.node)
        {
            Some(Node::Limits(limits)) => limits.clone(),
            _ => self
                .init_container(pod, container)
                .map(|(spec, _)| spec.limits.clone())
                .unwrap_or_default(),
        }
    }

    /// Of a container, or of what runs before it.
    pub fn lifecycle(&self, pod: &Name, container: &Name) -> LifecycleNode {
        match self
            .get(&Key::Lifecycle(pod.clone(), container.clone()))
            .map(|entry| &entry.node)
        {
            Some(Node::Lifecycle(lifecycle)) => lifecycle.clone(),
            _ => self
                .init_container(pod, container)
                .map(|(spec, _)| LifecycleNode::of(spec))
                .unwrap_or_default(),
        }
    }

    /// Every file declared for a container, or for what runs before it.
    pub fn files(&self, pod: &Name, container: &Name) -> BTreeMap<String, spec::File> {
        if let Some((spec, _)) = self.init_container(pod, container) {
            return spec.files.clone();
        }
        let mut files = BTreeMap::new();
        for key in [
            Key::Files(pod.clone(), container.clone()),
            Key::LiveFiles(pod.clone(), container.clone()),
        ] {
            if let Some(Node::Files(found) | Node::LiveFiles(found)) =
                self.get(&key).map(|entry| &entry.node)
            {
                files.extend(
                    found
                        .iter()
                        .map(|(path, file)| (path.clone(), file.clone())),
                );
            }
        }
        files
    }

    pub fn volume(&self, pod: &Name, volume: &Name) -> Option<&spec::Volume> {
        match &self.get(&Key::Volume(pod.clone(), volume.clone()))?.node {
            Node::Volume(volume) => Some(volume),
            _ => None,
        }
    }

    pub fn published<'a>(
        &'a self,
        pod: &'a Name,
    ) -> impl Iterator<Item = (&'a Name, &'a spec::Publish)> {
        let first = Key::Publish(pod.clone(), Name::lowest());
        let own = self.neighbours(
            first,
            move |key| matches!(key, Key::Publish(of, _) if of == pod),
        );
        own.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::Publish(_, name), Node::Publish(publish)) => Some((name, publish)),
            _ => None,
        })
    }

    /// What runs before the containers of `pod`, in this order.
    pub fn init<'a>(
        &'a self,
        pod: &'a Name,
    ) -> impl Iterator<Item = (&'a Name, &'a spec::Container, Digest)> {
        let first = Key::Init(pod.clone(), Name::lowest());
        let own = self.neighbours(
            first,
            move |key| matches!(key, Key::Init(of, _) if of == pod),
        );
        own.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::Init(_, name), Node::Init(spec)) => Some((name, spec, entry.hash)),
            _ => None,
        })
    }

    /// The digest that `reference` was resolved to.
    pub fn image(&self, reference: &Reference) -> Option<Digest> {
        match &self.get(&Key::Image(reference.clone()))?.node {
            Node::Image { digest } => *digest,
            _ => None,
        }
    }

    /// Every image reference with the digest it was resolved to.
    pub fn images(&self) -> BTreeMap<Reference, Digest> {
        let images = self
            .entries()
            .filter_map(|entry| match (&entry.key, &entry.node) {
                (
                    Key::Image(reference),
                    Node::Image {
                        digest: Some(digest),
                    },
                ) => Some((reference.clone(), *digest)),
                _ => None,
            });
        images.collect()
    }

    /// The configuration this graph was built from: `build(config()) == self`.
    pub fn config(&self) -> Config {
        let pods = self
            .pods()
            .filter_map(|name| Some((name.clone(), self.pod_config(name)?)));
        Config {
            pods: pods.collect(),
        }
    }

    fn pod_config(&self, pod: &Name) -> Option<spec::Pod> {
        let (node, (sandbox, _)) = (self.pod(pod)?, self.sandbox(pod)?);
        let first = Key::Volume(pod.clone(), Name::lowest());
        let volumes = self.neighbours(first, |key| matches!(key, Key::Volume(of, _) if of == pod));
        let volumes = volumes.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::Volume(_, name), Node::Volume(volume)) => Some((name.clone(), volume.clone())),
            _ => None,
        });
        let containers = self
            .containers(pod)
            .map(|(name, node, _)| (name.clone(), self.container_config(pod, name, node)));
        Some(spec::Pod {
            containers: containers.collect(),
            init: self
                .init(pod)
                .map(|(name, spec, _)| (name.clone(), spec.clone()))
                .collect(),
            network: sandbox.network.clone(),
            volumes: volumes.collect(),
            publish: self
                .published(pod)
                .map(|(name, publish)| (name.clone(), publish.clone()))
                .collect(),
            restart: node.restart,
            depends_on: node.depends_on.clone(),
            update: node.update,
            hostname: (sandbox.hostname != pod.as_str()).then(|| sandbox.hostname.clone()),
            labels: node.labels.clone(),
            sysctls: sandbox.sysctls.clone(),
        })
    }

    fn container_config(&self, pod: &Name, name: &Name, node: &ContainerNode) -> spec::Container {
        let lifecycle = self.lifecycle(pod, name);
        spec::Container {
            image: node.image.clone(),
            command: node.command.clone(),
            args: node.args.clone(),
            env: node.env.clone(),
            working_dir: node.working_dir.clone(),
            user: node.user.clone(),
            tty: node.tty,
            mounts: node.mounts.clone(),
            files: self.files(pod, name),
            secrets: node.secrets.clone(),
            limits: self.limits(pod, name),
            capabilities: node.capabilities.clone(),
            read_only: node.read_only,
            ulimits: node.ulimits.clone(),
            seccomp: node.seccomp.clone(),
            devices: node.devices.clone(),
            readiness: lifecycle.readiness,
            liveness: lifecycle.liveness,
            startup: lifecycle.startup,
            ports: lifecycle.ports,
            stop: lifecycle.stop,
        }
    }

    /// Every node as the store keeps it: its hash, and the bytes [`Graph::load`] reads.
    ///
    /// # Errors
    /// As [`Graph::build`].
    pub fn stored(&self) -> Result<Vec<(Digest, Vec<u8>)>, CanonicalError> {
        self.entries().map(|entry| self.store(entry)).collect()
    }

    /// As [`Graph::stored`], without the nodes that `known` has too.
    ///
    /// # Errors
    /// As [`Graph::build`].
    pub fn stored_beside(&self, known: &Self) -> Result<Vec<(Digest, Vec<u8>)>, CanonicalError> {
        let is_new = |entry: &&Entry| {
            known
                .get(&entry.key)
                .is_none_or(|same| same.hash != entry.hash)
        };
        self.entries()
            .filter(is_new)
            .map(|entry| self.store(entry))
            .collect()
    }

    fn store(&self, entry: &Entry) -> Result<(Digest, Vec<u8>), CanonicalError> {
        let needs = self
            .needs(&entry.key)
            .into_iter()
            .map(|need| need.hash)
            .collect();
        let stored = Stored {
            key: entry.key.clone(),
            node: entry.node.clone(),
            needs,
        };
        Ok((entry.hash, canonical::encode(&stored)?))
    }

    /// The pods of the graph whose root is `root`, without the rest of it. What is `known` of its
    /// pods by their hashes is not read again, and grows: graphs of one host have most of them in
    /// common.
    ///
    /// # Errors
    /// [`LoadError`], or what `read` returns.
    pub fn load_pods<E: From<LoadError>>(
        root: Digest,
        known: &mut BTreeMap<Digest, Name>,
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let mut stored = |hash: Digest| -> Result<Stored, E> {
            let bytes = read(&hash)?.ok_or(LoadError::Missing(hash))?;
            Ok(canonical::decode(&bytes).map_err(|e| LoadError::Unreadable(hash, e))?)
        };
        for hash in stored(root)?.needs {
            if known.contains_key(&hash) {
                continue;
            }
            match stored(hash)?.key {
                Key::Pod(name) => drop(known.insert(hash, name)),
                other => return Err(LoadError::Malformed(other).into()),
            }
        }
        Ok(())
    }

    /// Reads the graph whose root is `root`. Every node is hashed again, so a graph that loads is
    /// the one committed.
    ///
    /// # Errors
    /// [`LoadError`], or what `read` returns.
    pub fn load<E: From<LoadError>>(
        root: Digest,
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let mut stored: BTreeMap<Digest, Stored> = BTreeMap::new();
        let mut order = Vec::new();
        let mut stack = vec![(root, false)];
        while let Some((hash, needs_are_loaded)) = stack.pop() {
            if needs_are_loaded {
                order.push(hash);
                continue;
            }
            if stored.contains_key(&hash) {
                continue;
            }
            if stored.len() >= MAX_NODES {
                return Err(LoadError::TooLarge.into());
            }
            let bytes = read(&hash)?.ok_or(LoadError::Missing(hash))?;
            let node: Stored =
                canonical::decode(&bytes).map_err(|e| LoadError::Unreadable(hash, e))?;
            let actual = node_hash(&node.key, &node.node, &node.needs)
                .map_err(|e| LoadError::Unreadable(hash, e))?;
            if actual != hash {
                return Err(LoadError::Corrupt(hash).into());
            }
            stack.push((hash, true));
            stack.extend(node.needs.iter().map(|need| (*need, false)));
            stored.insert(hash, node);
        }
        let mut graph = Self {
            dag: DiGraph::new(),
            index: BTreeMap::new(),
        };
        let mut keys: BTreeMap<Digest, Key> = BTreeMap::new();
        for hash in order {
            let Some(node) = stored.remove(&hash) else {
                continue;
            };
            let needs: Vec<Key> = node
                .needs
                .iter()
                .filter_map(|need| keys.get(need).cloned())
                .collect();
            let whole = needs.len() == node.needs.len();
            if !whole || graph.index.contains_key(&node.key) || !node.node.fits(&node.key) {
                return Err(LoadError::Malformed(node.key).into());
            }
            keys.insert(hash, node.key.clone());
            graph
                .add(node.key, node.node, &needs)
                .map_err(|e| LoadError::Unreadable(hash, e))?;
        }
        if !graph.index.contains_key(&Key::Root) || graph.root() != root {
            return Err(LoadError::Malformed(Key::Root).into());
        }
        Ok(graph)
    }
}

impl Node {
    /// Whether a node under `key` can be of this kind.
    fn fits(&self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Self::Root {}, Key::Root)
                | (Self::Image { .. }, Key::Image(_))
                | (Self::Pod(_), Key::Pod(_))
                | (Self::Sandbox(_), Key::Sandbox(_))
                | (Self::Volume(_), Key::Volume(..))
                | (Self::Publish(_), Key::Publish(..))
                | (Self::Files(_), Key::Files(..))
                | (Self::LiveFiles(_), Key::LiveFiles(..))
                | (Self::Container(_), Key::Container(..))
                | (Self::Limits(_), Key::Limits(..))
                | (Self::Lifecycle(_), Key::Lifecycle(..))
                | (Self::Init(_), Key::Init(..))
        )
    }
}

/// Needs are hashed in the order of their hashes, so their listing order never matters.
fn node_hash(key: &Key, node: &Node, needs: &[Digest]) -> Result<Digest, CanonicalError> {
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

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "root"),
            Self::Image(reference) => write!(f, "image {reference}"),
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
        }
    }
}

impl Key {
    /// The pod a node belongs to. Images and the root belong to none.
    pub fn pod(&self) -> Option<&Name> {
        match self {
            Self::Root | Self::Image(_) => None,
            Self::Pod(pod) | Self::Sandbox(pod) => Some(pod),
            Self::Volume(pod, _)
            | Self::Publish(pod, _)
            | Self::Files(pod, _)
            | Self::LiveFiles(pod, _)
            | Self::Container(pod, _)
            | Self::Limits(pod, _)
            | Self::Lifecycle(pod, _)
            | Self::Init(pod, _) => Some(pod),
        }
    }
}
