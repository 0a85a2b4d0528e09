//! Stacks: several sources on one host, each with pods of its own.
//!
//! A *source* is what one `tank switch` takes: it belongs to a stack, or to none. The pods of the
//! stack `blog` have their stack in their names on the host ([`Name::stack`]): `blog:web`. So two
//! stacks can both have a `web`, with volumes, addresses, logs and hashes of its own, and one graph
//! holds all of them. What belongs to no stack is a set like a stack's, and its names are as they
//! were before there were stacks.
//!
//! A change means some pods of the host, its [`Scope`], and leaves all others as they are, with the
//! digests that they have: [`Config::with`] and [`settle`] are what `switch`, `apply`, `delete` and
//! the rollback of one stack have in common.

use crate::{
    canonical::CanonicalError,
    digest::Digest,
    graph::{Graph, Key},
    name::Name,
    reference::{Reference, ReferenceError},
    spec::{Config, Container},
};
use std::collections::{BTreeMap, BTreeSet};

/// What no stack is called. The pod `db` of the stack `shop` is `db.shop` for the others, whatever is
/// called so on the Internet; where everybody's names end, that is no accident anybody wants.
pub const RESERVED_STACKS: [&str; 11] = [
    "arpa",
    "com",
    "edu",
    "gov",
    "int",
    "internal",
    "local",
    "localhost",
    "mil",
    "net",
    "org",
];

/// Which pods of a host a change means. All others stay what they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every pod.
    Host,
    /// Those of a stack. None: those that belong to no stack.
    Stack(Option<Name>),
    /// These.
    Pods(BTreeSet<Name>),
}

impl Scope {
    /// Whether `pod` is meant.
    pub fn has(&self, pod: &Name) -> bool {
        match self {
            Self::Host => true,
            Self::Stack(stack) => pod.stack() == stack.as_ref().map(Name::as_str),
            Self::Pods(pods) => pods.contains(pod),
        }
    }

    /// Whether `network`, or a shared volume of that name, is meant, or may be: where the scope is some
    /// pods, each can bring those of its own stack.
    pub fn has_network(&self, network: &Name) -> bool {
        match self {
            Self::Host | Self::Stack(_) => self.has(network),
            Self::Pods(pods) => pods.iter().any(|pod| pod.stack() == network.stack()),
        }
    }
}

impl Config {
    /// This host with the pods, networks and shared volumes of `part` in place of all that `scope`
    /// means. What `part` has beyond the scope is not taken. Where the scope is some pods, networks
    /// and volumes of their names are replaced, and no other is.
    pub fn with(&self, part: &Self, scope: &Scope) -> Self {
        let stays = self.pods.iter().filter(|(pod, _)| !scope.has(pod));
        let comes = part.pods.iter().filter(|(pod, _)| scope.has(pod));
        let pods = stays.chain(comes);
        Self {
            pods: pods
                .map(|(pod, spec)| (pod.clone(), spec.clone()))
                .collect(),
            networks: replaced((&self.networks, &part.networks), scope),
            volumes: replaced((&self.volumes, &part.volumes), scope),
            stack: None,
        }
    }
}

/// What is declared beside the pods, as [`Config::with`] has it.
fn replaced<T: Clone>(
    (there, part): (&BTreeMap<Name, T>, &BTreeMap<Name, T>),
    scope: &Scope,
) -> BTreeMap<Name, T> {
    let comes = |name: &Name| match scope {
        Scope::Host | Scope::Stack(_) => scope.has(name),
        Scope::Pods(_) => part.contains_key(name),
    };
    let stays = there.iter().filter(|(name, _)| !comes(name));
    let all = stays.chain(part.iter().filter(|(name, _)| comes(name)));
    all.map(|(name, spec)| (name.clone(), spec.clone()))
        .collect()
}

/// Why a host can't be settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// A reference can't be pinned.
    #[error("can't pin an image")]
    Pin(#[from] ReferenceError),
    /// The graph can't be built.
    #[error("can't build the graph")]
    Build(#[from] CanonicalError),
}

/// The graph of a whole host, `config`, in which the pods that `scope` means run what `found` says
/// their references stand for, and all others what they run in `before`.
///
/// A reference has one digest in a graph. Where a pod in the scope has another one than a pod that
/// was there first, its reference is pinned (`nginx:1.27@sha256:…`). One that is pinned already
/// stays so while it stands for the same: its spelling alone restarts nothing. One that was chosen for a
/// platform is pinned to what was chosen: without that it is another image, for another container of this host too.
///
/// # Errors
/// When a pinned reference gets too long; or as [`Graph::build`].
pub fn settle(
    mut config: Config,
    before: &Graph,
    scope: &Scope,
    found: impl Fn(&Name, &Container) -> Option<Digest>,
) -> Result<Graph, SettleError> {
    let (mut digests, others) = kept(&config, before, scope);
    let meant = config.pods.iter_mut().filter(|(pod, _)| scope.has(pod));
    for (pod, spec) in meant {
        for (name, container) in spec.containers.iter_mut().chain(&mut spec.init) {
            let Some(digest) = found(pod, container) else {
                continue;
            };
            let reference = &container.image;
            let pinned = reference.pinned(digest)?;
            if container.platform.is_some() {
                digests.insert(pinned.clone(), digest);
                container.image = pinned;
                continue;
            }
            let is_pinned = || {
                let there = before.process(pod, name);
                reference.digest().is_none() && there.is_some_and(|(node, _)| node.image == pinned)
            };
            match digests.get(reference) {
                Some(other) if *other != digest => container.image = pinned,
                _ if others && is_pinned() => container.image = pinned,
                _ => drop(digests.insert(reference.clone(), digest)),
            }
        }
    }
    Ok(Graph::build(&config, |reference| {
        digests.get(reference).copied()
    })?)
}

/// The digests that the pods outside the scope have, and whether there are any such pods.
fn kept(config: &Config, before: &Graph, scope: &Scope) -> (BTreeMap<Reference, Digest>, bool) {
    let others: Vec<_> = config
        .pods
        .iter()
        .filter(|(pod, _)| !scope.has(pod))
        .collect();
    let containers = others.iter().flat_map(|(_, spec)| spec.processes());
    let image = |container: &Container| {
        let reference = container.image.clone();
        before.image(&reference).map(|digest| (reference, digest))
    };
    let digests = containers.filter_map(|(_, _, container)| image(container));
    (digests.collect(), !others.is_empty())
}

impl Graph {
    /// The stacks that have a pod, a network or a shared volume, by name.
    pub fn stacks(&self) -> BTreeSet<&str> {
        let networks = self.networks().map(|(network, _)| network);
        let volumes = self.shared_volumes().map(|(volume, _)| volume);
        self.pods()
            .chain(networks)
            .chain(volumes)
            .filter_map(Name::stack)
            .collect()
    }

    /// The pods, networks and shared volumes that `scope` means, each with the hash of all that is
    /// declared of it.
    pub fn part(&self, scope: &Scope) -> BTreeMap<Key, Digest> {
        let pods = self.pods().filter(|pod| scope.has(pod));
        let networks = self.networks().map(|(network, _)| network);
        let networks = networks.filter(|network| scope.has_network(network));
        let keys = pods.cloned().map(Key::Pod);
        let keys = keys.chain(networks.cloned().map(Key::Network));
        let volumes = self.shared_volumes().map(|(volume, _)| volume);
        let volumes = volumes.filter(|volume| scope.has_network(volume));
        let volumes = volumes.flat_map(|volume| {
            [
                Key::SharedVolume(volume.clone()),
                Key::SharedVolumeSize(volume.clone()),
            ]
        });
        let keys = keys.chain(volumes);
        keys.filter_map(|key| {
            let hash = self.get(&key)?.hash;
            Some((key, hash))
        })
        .collect()
    }
}
