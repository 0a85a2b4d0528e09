//! From a configuration to its graph, and back.

use super::{
    Entry, Graph, Key, Node,
    node::{ContainerNode, LifecycleNode, PodNode, SandboxNode, SizeNode, live_files, node_hash},
};
use crate::{
    canonical::CanonicalError,
    digest::Digest,
    name::Name,
    reference::Reference,
    spec::{self, Config},
    units::Bytes,
    volume::VolumeId,
};
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet};

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
        let mut parts = Vec::new();
        for (name, network) in &config.networks {
            let key = Key::Network(name.clone());
            parts.push(graph.add(key, Node::Network(network.clone()), &[])?);
        }
        for (name, volume) in &config.volumes {
            let key = Key::SharedVolume(name.clone());
            let node = spec::SharedVolume {
                size: None,
                ..volume.clone()
            };
            parts.push(graph.add(key, Node::SharedVolume(node), &[])?);
            let size = Key::SharedVolumeSize(name.clone());
            parts.extend(graph.add_size(size, volume.size)?);
        }
        for (name, pod) in &config.pods {
            parts.push(graph.add_pod(name, pod, &digest_of)?);
        }
        graph.add(Key::Root, Node::Root {}, &parts)?;
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
            hostname: pod
                .hostname
                .clone()
                .unwrap_or_else(|| name.local().to_owned()),
            network: pod.network.clone(),
            networks: pod.networks.clone(),
            sysctls: pod.sysctls.clone(),
            writes_host: pod.writes_host(),
        };
        // The default network has no node, and one that is not declared is the checks' to report.
        let networks = pod.networks.keys().cloned().map(Key::Network);
        let networks: Vec<Key> = networks
            .filter(|network| self.index.contains_key(network))
            .collect();
        self.add(sandbox.clone(), Node::Sandbox(node), &networks)?;
        let mut parts = vec![sandbox.clone()];
        parts.extend(self.add_volumes((name, pod), &sandbox)?);
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
                Node::Init(without_pull(spec)),
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
        self.add(Key::Pod(name.clone()), Node::Pod(PodNode::of(pod)), &parts)
    }

    /// The volumes of a pod and their sizes; returns what it needs.
    fn add_volumes(
        &mut self,
        (name, pod): (&Name, &spec::Pod),
        sandbox: &Key,
    ) -> Result<Vec<Key>, CanonicalError> {
        let mut parts = Vec::new();
        for (volume, source) in &pod.volumes {
            let key = Key::Volume(name.clone(), volume.clone());
            // One that is not declared is the checks' to report.
            let shared = source.shared_of(name).map(Key::SharedVolume);
            let shared = shared.filter(|shared| self.index.contains_key(shared));
            let needs: Vec<Key> = shared.into_iter().chain([sandbox.clone()]).collect();
            let node = spec::Volume {
                size: None,
                ..without_policy(source)
            };
            parts.push(self.add(key, Node::Volume(node), &needs)?);
            let size = Key::VolumeSize(name.clone(), volume.clone());
            parts.extend(self.add_size(size, source.size)?);
        }
        Ok(parts)
    }

    /// A size is a node of its own, and of a volume that has none there is none.
    fn add_size(&mut self, key: Key, size: Option<Bytes>) -> Result<Option<Key>, CanonicalError> {
        let node = |size| Node::Size(SizeNode { size });
        size.map(|size| self.add(key, node(size), &[])).transpose()
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
    pub(super) fn add(
        &mut self,
        key: Key,
        node: Node,
        needs: &[Key],
    ) -> Result<Key, CanonicalError> {
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

    /// The configuration this graph was built from, of a whole host: `build(config()) == self`.
    pub fn config(&self) -> Config {
        let pods = self
            .pods()
            .filter_map(|name| Some((name.clone(), self.pod_config(name)?)));
        Config {
            pods: pods.collect(),
            networks: self
                .networks()
                .map(|(name, network)| (name.clone(), network.clone()))
                .collect(),
            volumes: self
                .shared_volumes()
                .map(|(name, volume)| {
                    let size = self.size(&VolumeId::Shared(name.clone()));
                    let volume = spec::SharedVolume {
                        size,
                        ..volume.clone()
                    };
                    (name.clone(), volume)
                })
                .collect(),
            stack: None,
        }
    }

    fn pod_config(&self, pod: &Name) -> Option<spec::Pod> {
        let (node, (sandbox, _)) = (self.pod(pod)?, self.sandbox(pod)?);
        let volumes = self.volumes(pod);
        let volumes = volumes.map(|(name, volume)| {
            let policy = node.volumes.get(name).cloned().unwrap_or_default();
            let size = self.size(&VolumeId::Own(pod.clone(), name.clone()));
            let volume = spec::Volume {
                backup: policy.backup,
                size,
                ..volume.clone()
            };
            (name.clone(), volume)
        });
        let containers = self.containers(pod).map(|(name, container, _)| {
            let mut spec = self.container_config(pod, name, container);
            spec.pull = node.pull_of("containers", name);
            (name.clone(), spec)
        });
        Some(spec::Pod {
            containers: containers.collect(),
            init: self
                .init(pod)
                .map(|(name, spec, _)| {
                    let mut spec = spec.clone();
                    spec.pull = node.pull_of("init", name);
                    (name.clone(), spec)
                })
                .collect(),
            network: sandbox.network.clone(),
            networks: sandbox.networks.clone(),
            volumes: volumes.collect(),
            publish: self
                .published(pod)
                .map(|(name, publish)| (name.clone(), publish.clone()))
                .collect(),
            restart: node.restart,
            depends_on: node.depends_on.clone(),
            update: node.update,
            hostname: (sandbox.hostname != pod.local()).then(|| sandbox.hostname.clone()),
            aliases: node
                .aliases
                .iter()
                .map(|alias| (alias.clone(), spec::Alias {}))
                .collect(),
            dns: node.dns.clone(),
            extra_hosts: node.extra_hosts.clone(),
            allow_from: node.allow_from.clone(),
            egress: node.egress.clone(),
            labels: node.labels.clone(),
            sysctls: sandbox.sysctls.clone(),
        })
    }

    fn container_config(&self, pod: &Name, name: &Name, node: &ContainerNode) -> spec::Container {
        let lifecycle = self.lifecycle(pod, name);
        spec::Container {
            image: node.image.clone(),
            platform: node.platform.clone(),
            // The pod's node has it.
            pull: spec::Pull::default(),
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
            logs: node.logs,
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
}

/// When it is backed up is no part of what a volume is: its pod's node has that.
fn without_policy(spec: &spec::Volume) -> spec::Volume {
    spec::Volume {
        backup: None,
        ..spec.clone()
    }
}

/// When its image is asked for is no part of what a container is: its pod's node has that.
fn without_pull(spec: &spec::Container) -> spec::Container {
    spec::Container {
        pull: spec::Pull::default(),
        ..spec.clone()
    }
}
