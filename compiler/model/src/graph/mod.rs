//! The desired state as a graph of content-hashed nodes.
//!
//! An edge means *needs*. A node's hash is SHA-256 over a domain, its canonical bytes and the
//! hashes of what it needs, so the root's hash names the whole desired state, equal sub-graphs are
//! equal hashes, and comparing two graphs costs what changed. The split into nodes follows what can
//! change in place: a container's limits and lifecycle need the container and not the other way
//! round, so editing them leaves the container's own hash, and the process, alone.
//!
//! ```text
//! root ─► network, shared volume, its size
//! root ─► pod ─┬─► size of a volume
//!              ├─► lifecycle ─► container ─┬─► image
//!              ├─► limits ────► container  ├─► volume ─► sandbox
//!              ├─► live files ► container  │   volume ─► shared volume
//!              └─► publish ───► sandbox    ├─► files     sandbox ─► network
//!                                          ├─► init ──► image, volume, sandbox
//!                                          └─► sandbox
//! ```
//!
//! * `node`: keys, nodes and their hashes. `build`: from a configuration, and back.
//! * `load`: to the store, and back. `survey`: what many stored graphs need, together.

mod build;
mod load;
mod node;
mod survey;

pub use load::LoadError;
pub use node::{ContainerNode, Key, LifecycleNode, Node, PodNode, SandboxNode, SizeNode};
pub use survey::{Named, Survey};

use crate::{
    digest::Digest, name::Name, reference::Reference, spec, units::Bytes, volume::VolumeId,
};
use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};
use std::collections::{BTreeMap, BTreeSet};

/// A node with its place in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which node it is.
    pub key: Key,
    /// What it says.
    pub node: Node,
    /// The hash of its key, its content and the hashes of what it needs.
    pub hash: Digest,
}

/// A whole desired state. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Graph {
    dag: DiGraph<Entry, ()>,
    index: BTreeMap<Key, NodeIndex>,
}

impl Graph {
    /// The hash that names the whole desired state.
    pub fn root(&self) -> Digest {
        self.dag[self.index[&Key::Root]].hash
    }

    /// The node under `key`.
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

    /// The names of the pods, sorted.
    pub fn pods(&self) -> impl Iterator<Item = &Name> {
        let pods = self.neighbours(Key::Pod(Name::lowest()), |key| matches!(key, Key::Pod(_)));
        pods.filter_map(|entry| match &entry.key {
            Key::Pod(name) => Some(name),
            _ => None,
        })
    }

    /// The networks that are declared, by name.
    pub fn networks(&self) -> impl Iterator<Item = (&Name, &spec::NamedNetwork)> {
        let first = Key::Network(Name::lowest());
        let networks = self.neighbours(first, |key| matches!(key, Key::Network(_)));
        networks.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::Network(name), Node::Network(network)) => Some((name, network)),
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

    /// What can change of `pod` without a restart of its processes.
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

    /// What the main process of a container is made from, and its hash.
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

    /// The images of a pod's processes that may write to a volume of it.
    pub fn writers(&self, pod: &Name, volume: &Name) -> BTreeSet<Digest> {
        let inits = self.init(pod);
        let inits = inits.map(|(_, spec, _)| (&spec.image, &spec.mounts));
        let containers = self.containers(pod);
        let containers = containers.map(|(_, node, _)| (&node.image, &node.mounts));
        let writing = inits.chain(containers).filter(|(_, mounts)| {
            let mut mounts = mounts.values();
            mounts.any(|mount| mount.volume == *volume && !mount.read_only)
        });
        writing.filter_map(|(image, _)| self.image(image)).collect()
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

    /// The volume `volume` of `pod`.
    pub fn volume(&self, pod: &Name, volume: &Name) -> Option<&spec::Volume> {
        match &self.get(&Key::Volume(pod.clone(), volume.clone()))?.node {
            Node::Volume(volume) => Some(volume),
            _ => None,
        }
    }

    /// The volumes that pods share, by name.
    pub fn shared_volumes(&self) -> impl Iterator<Item = (&Name, &spec::SharedVolume)> {
        let first = Key::SharedVolume(Name::lowest());
        let volumes = self.neighbours(first, |key| matches!(key, Key::SharedVolume(_)));
        volumes.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::SharedVolume(name), Node::SharedVolume(volume)) => Some((name, volume)),
            _ => None,
        })
    }

    /// The shared volume of this name.
    pub fn shared_volume(&self, name: &Name) -> Option<&spec::SharedVolume> {
        match &self.get(&Key::SharedVolume(name.clone()))?.node {
            Node::SharedVolume(volume) => Some(volume),
            _ => None,
        }
    }

    /// The volumes of `pod`, by name.
    pub fn volumes<'a>(
        &'a self,
        pod: &'a Name,
    ) -> impl Iterator<Item = (&'a Name, &'a spec::Volume)> {
        let first = Key::Volume(pod.clone(), Name::lowest());
        let own = self.neighbours(
            first,
            move |key| matches!(key, Key::Volume(of, _) if of == pod),
        );
        own.filter_map(|entry| match (&entry.key, &entry.node) {
            (Key::Volume(_, name), Node::Volume(volume)) => Some((name, volume)),
            _ => None,
        })
    }

    /// What Tank keeps of the volume `volume` of `pod`: the pod's own, or one that it shares. None: it
    /// is of the host, in memory, or not declared.
    pub fn kept_volume(&self, pod: &Name, volume: &Name) -> Option<VolumeId> {
        let declared = self.volume(pod, volume)?;
        match declared.shared_of(pod) {
            Some(shared) => Some(VolumeId::Shared(shared)),
            None if declared.is_managed() => Some(VolumeId::Own(pod.clone(), volume.clone())),
            None => None,
        }
    }

    /// The backups that are declared: pod, volume of it, and when.
    pub fn backups(&self) -> impl Iterator<Item = (&Name, &Name, &spec::Backup)> {
        let pods = self.pods().filter_map(|name| Some((name, self.pod(name)?)));
        pods.flat_map(|(pod, node)| {
            let own = node.volumes.iter();
            own.filter_map(move |(volume, policy)| Some((pod, volume, policy.backup.as_ref()?)))
        })
    }

    /// The containers of `pod` that mount its volume `volume`, by name.
    pub fn mounting<'a>(
        &'a self,
        pod: &'a Name,
        volume: &'a Name,
    ) -> impl Iterator<Item = &'a Name> {
        let mounts =
            |node: &ContainerNode| node.mounts.values().any(|mount| mount.volume == *volume);
        let containers = self
            .containers(pod)
            .filter(move |(_, node, _)| mounts(node));
        containers.map(|(name, ..)| name)
    }

    /// The most that a volume which Tank keeps may take of the disk.
    pub fn size(&self, volume: &VolumeId) -> Option<Bytes> {
        let key = match volume {
            VolumeId::Own(pod, name) => Key::VolumeSize(pod.clone(), name.clone()),
            VolumeId::Shared(name) => Key::SharedVolumeSize(name.clone()),
        };
        match &self.get(&key)?.node {
            Node::Size(SizeNode { size }) => Some(*size),
            _ => None,
        }
    }

    /// The volumes that have a size, and theirs.
    pub fn sizes(&self) -> impl Iterator<Item = (VolumeId, Bytes)> {
        let sized = self.entries().filter_map(|entry| match &entry.key {
            Key::VolumeSize(pod, name) => Some(VolumeId::Own(pod.clone(), name.clone())),
            Key::SharedVolumeSize(name) => Some(VolumeId::Shared(name.clone())),
            _ => None,
        });
        sized.filter_map(|id| {
            let size = self.size(&id)?;
            Some((id, size))
        })
    }

    /// The ports that `pod` publishes, by name.
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
}
